package functions

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestRepair(t *testing.T) {
	t.Parallel()
	f := newFakes()
	s := f.service()
	for _, name := range []string{"current", "missing", "older", "reused"} {
		fn := hello()
		fn.Name = name
		_, err := s.Create(t.Context(), "acme", fn)
		require.NoError(t, err)
	}
	delete(f.registered, "acme/missing")
	d := f.defs["acme/older"]
	d.Revision = 4
	f.defs["acme/older"] = d
	f.ids["acme/reused"] = "that of one that was removed"
	f.done = nil

	require.NoError(t, s.Repair(t.Context()))
	require.Equal(t, map[string]uint64{"acme/current": 1, "acme/missing": 1, "acme/older": 4, "acme/reused": 1}, f.registered)
	require.Equal(t, f.defs["acme/reused"].ID, f.ids["acme/reused"])
	count := func(operation string) (n int) {
		for _, done := range f.done {
			if done == operation {
				n++
			}
		}
		return n
	}
	require.Equal(t, 3, count("Cluster.Register"), "what is current is left alone")
	require.Equal(t, 1, count("Cluster.Drifted"))

	require.NoError(t, s.Repair(t.Context()))
	require.Equal(t, 3, count("Cluster.Register"))
	require.Equal(t, 4, count("Cluster.Drifted"), "each job is looked at after each of its changes")
	f.done = nil
	require.NoError(t, s.Repair(t.Context()))
	require.Equal(t, []string{"Cluster.FunctionJobs"}, f.done)
}

func TestRepairOfAJobThatWasChanged(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(f *fakes){
		"by hand":          func(f *fakes) { f.drifted["acme/hello"] = true },
		"by being stopped": func(f *fakes) { f.stopped["acme/hello"] = true },
		"by being purged":  func(f *fakes) { delete(f.registered, "acme/hello") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, s, _ := created(t)
			require.NoError(t, s.Repair(t.Context()))
			f.done = nil
			change(f)
			f.indexes["acme/hello"]++
			require.NoError(t, s.Repair(t.Context()))
			require.Contains(t, f.done, "Cluster.Register")
			f.done = nil
			require.NoError(t, s.Repair(t.Context()))
			require.NotContains(t, f.done, "Cluster.Register")
			require.Equal(t, map[string]uint64{"acme/hello": 1}, f.registered)
			require.Empty(t, f.stopped)
			require.Empty(t, f.drifted)
		})
	}
}

func TestRepairThatCannotCompare(t *testing.T) {
	t.Parallel()
	f, s, _ := created(t)
	f.fail["Cluster.Drifted"] = errAway
	requireCode(t, api.Unavailable, s.Repair(t.Context()))
	require.NotContains(t, f.done, "Cluster.Register")
	f.fail["Cluster.Drifted"] = api.Errorf(api.Invalid, "no such size")
	require.NoError(t, s.Repair(t.Context()))
	require.Contains(t, f.done, "Cluster.Register", "which says what is wrong")
}

func TestRepairLeavesConcurrentChangesAlone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(f *fakes)
		want   map[string]uint64
	}{
		"removed": {func(f *fakes) { clear(f.defs) }, map[string]uint64{}},
		"updated": {func(f *fakes) {
			d := f.defs["acme/hello"]
			d.Revision = 2
			f.defs["acme/hello"] = d
		}, map[string]uint64{"acme/hello": 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, s, _ := created(t)
			clear(f.registered)
			f.before = func(operation string) {
				if operation == "Store.Get" { // All has been read
					f.before = nil
					c.change(f)
				}
			}
			require.NoError(t, s.Repair(t.Context()))
			require.Equal(t, c.want, f.registered)
		})
	}
}

func TestRepairOfADefinitionThatIsBehind(t *testing.T) {
	t.Parallel()
	f, s, _ := created(t)
	f.cached = f.All()
	timeout := 7
	_, err := s.Update(t.Context(), "acme", "hello", api.FunctionUpdate{Timeout: &timeout})
	require.NoError(t, err)
	f.done = nil
	require.NoError(t, s.Repair(t.Context()))
	require.Equal(t, []string{"Cluster.FunctionJobs", "Store.Get", "Cluster.Drifted"}, f.done, "the latest has its job")
}

func TestRepairFails(t *testing.T) {
	t.Parallel()
	for _, operation := range []string{"Cluster.FunctionJobs", "Store.Get", "Cluster.Register"} {
		t.Run(operation, func(t *testing.T) {
			t.Parallel()
			f, s, _ := created(t)
			clear(f.registered)
			f.fail[operation] = errAway
			requireCode(t, api.Unavailable, s.Repair(t.Context()))
			delete(f.fail, operation)
			require.NoError(t, s.Repair(t.Context()))
			require.Equal(t, map[string]uint64{"acme/hello": 1}, f.registered)
		})
	}
}

func TestRepairGoesOnAfterOneThatIsRefused(t *testing.T) {
	t.Parallel()
	f := newFakes()
	s := f.service()
	for _, name := range []string{"a", "b", "c"} {
		fn := hello()
		fn.Name = name
		_, err := s.Create(t.Context(), "acme", fn)
		require.NoError(t, err)
	}
	clear(f.registered)
	registrations := 0
	f.before = func(operation string) {
		if operation != "Cluster.Register" {
			return
		}
		delete(f.fail, operation)
		if registrations++; registrations == 1 {
			f.fail[operation] = api.Errorf(api.Invalid, "no such size")
		}
	}
	err := s.Repair(t.Context())
	requireCode(t, api.Invalid, err)
	require.ErrorContains(t, err, f.defs["acme/a"].ID)
	require.Equal(t, map[string]uint64{"acme/b": 1, "acme/c": 1}, f.registered)
}

// withOrphan returns fakes with one function that there is and one that is no more, in a time of its own.
func withOrphan(t *testing.T, test func(t *testing.T, f *fakes, s *Service, orphan string)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, s, _ := created(t)
		old := hello()
		old.Name = "old"
		_, err := s.Create(t.Context(), "acme", old)
		require.NoError(t, err)
		orphan := f.defs["acme/old"].ID
		delete(f.defs, "acme/old")
		f.kept = []string{f.defs["acme/hello"].ID, orphan}
		f.done = nil
		test(t, f, s, orphan)
	})
}

func TestOrphansAreRemoved(t *testing.T) {
	for name, c := range map[string]struct {
		change func(f *fakes)
		kept   bool // it is to stay
	}{
		"all of it":              {func(*fakes) {}, false},
		"its job":                {func(f *fakes) { f.kept = f.kept[:1] }, false},
		"its job, with calls":    {func(f *fakes) { f.inFlight = 2 }, false},
		"its outputs":            {func(f *fakes) { delete(f.registered, "acme/old") }, false},
		"its outputs with calls": {func(f *fakes) { delete(f.registered, "acme/old"); f.statuses[f.kept[1]] = api.Status{Running: 1} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			withOrphan(t, func(t *testing.T, f *fakes, s *Service, orphan string) {
				c.change(f)
				require.NoError(t, s.RemoveOrphans(t.Context()))
				time.Sleep(59 * time.Minute)
				require.NoError(t, s.RemoveOrphans(t.Context()))
				require.NotContains(t, f.done, "Store.Stored")
				require.Empty(t, f.removed, "it may come back, as from a backup of Consul's")
				time.Sleep(time.Minute)
				require.NoError(t, s.RemoveOrphans(t.Context()))
				require.NotContains(t, f.registered, "acme/old")
				if c.kept {
					require.Empty(t, f.removed)
					return
				}
				require.Equal(t, []string{orphan}, f.removed)
				require.Zero(t, f.inFlight)
				require.Contains(t, f.registered, "acme/hello")
				f.done = nil
				require.NoError(t, s.RemoveOrphans(t.Context()))
				require.Equal(t, []string{"Cluster.FunctionJobs", "Calls.Functions"}, f.done)
			})
		})
	}
}

func TestFunctionsThatAreNoOrphans(t *testing.T) {
	for name, change := range map[string]func(f *fakes){
		"one that this server has not heard of": func(f *fakes) {
			f.cached = f.All()
			d := hello()
			d.Name = "old"
			f.defs["acme/old"] = api.Definition{ID: f.ids["acme/old"], Account: "acme", Revision: 1, Function: d}
		},
		"one that Consul does not tell of":  func(f *fakes) { f.fail["Store.Stored"] = errAway },
		"one that can't be read any more":   func(f *fakes) { f.fail["Store.Stored"] = api.Errorf(api.Internal, "a stored value can't be read") },
		"one of which Nomad does not tell":  func(f *fakes) { f.fail["Cluster.FunctionJobs"] = errAway },
		"one whose outputs are not told of": func(f *fakes) { f.fail["Calls.Functions"] = errAway },
	} {
		t.Run(name, func(t *testing.T) {
			withOrphan(t, func(t *testing.T, f *fakes, s *Service, _ string) {
				_ = s.RemoveOrphans(t.Context())
				change(f)
				for range 3 {
					time.Sleep(time.Hour)
					err := s.RemoveOrphans(t.Context())
					require.Equal(t, len(f.fail) > 0, err != nil, "%v", err)
				}
				require.Len(t, f.registered, 2)
				require.Empty(t, f.removed)
			})
		})
	}
}

func TestAFunctionThatComesBackIsNoOrphan(t *testing.T) {
	withOrphan(t, func(t *testing.T, f *fakes, s *Service, orphan string) {
		require.NoError(t, s.RemoveOrphans(t.Context()))
		time.Sleep(59 * time.Minute)
		d := hello()
		d.Name = "old"
		f.defs["acme/old"] = api.Definition{ID: orphan, Account: "acme", Revision: 1, Function: d}
		require.NoError(t, s.RemoveOrphans(t.Context()))
		delete(f.defs, "acme/old")
		require.NoError(t, s.RemoveOrphans(t.Context()))
		time.Sleep(59 * time.Minute)
		require.NoError(t, s.RemoveOrphans(t.Context()))
		require.Empty(t, f.removed, "its time begins anew")
	})
}
