package functions

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestRemove(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(f *fakes)
		name   string
		code   api.Code
		stays  bool
	}{
		"without calls":            {func(*fakes) {}, "hello", "", false},
		"no such function":         {func(*fakes) {}, "none", api.NotFound, true},
		"with calls that wait":     {func(f *fakes) { f.fly(api.Status{Pending: 2}) }, "hello", api.Conflict, true},
		"with calls that run":      {func(f *fakes) { f.fly(api.Status{Running: 1, Finished: 1}) }, "hello", api.Conflict, true},
		"the queue is away":        {func(f *fakes) { f.fail["Calls.InFlight"] = errAway }, "hello", api.Unavailable, true},
		"the store is away":        {func(f *fakes) { f.fail["Store.Get"] = errAway }, "hello", api.Unavailable, true},
		"the store is away later":  {func(f *fakes) { f.fail["Store.Delete"] = errAway }, "hello", api.Unavailable, true},
		"the cluster is away":      {func(f *fakes) { f.fail["Cluster.Remove"] = errAway }, "hello", "", false},
		"its outputs can't be got": {func(f *fakes) { f.fail["Calls.RemoveFunction"] = errAway }, "hello", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, s, before := created(t)
			id := f.defs["acme/hello"].ID
			c.change(f)
			requireCode(t, c.code, s.Remove(t.Context(), "acme", c.name, false))
			if c.stays {
				require.Equal(t, before, f.defs["acme/hello"].Function)
				require.Len(t, f.registered, 1)
				require.Empty(t, f.removed)
				return
			}
			require.Empty(t, f.defs)
			require.Equal(t, f.fail["Cluster.Remove"] != nil, len(f.registered) == 1)
			if f.fail["Calls.RemoveFunction"] == nil {
				require.Equal(t, []string{id}, f.removed, "one place that is away does not keep the others")
			}
		})
	}
}

// fly has calls in flight, which stand like this.
func (f *fakes) fly(status api.Status) {
	f.inFlight = status.Pending + status.Running + status.Finished
	f.statuses = map[string]api.Status{f.defs["acme/hello"].ID: status}
}

// The answer of a call comes in the moment before the call leaves the queue.
func TestRemoveAfterTheAnswer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(f *fakes)
		code   api.Code
	}{
		"they leave":            {func(f *fakes) { f.inFlight = 0 }, ""},
		"they do not":           {func(*fakes) {}, api.Conflict},
		"another is accepted":   {func(f *fakes) { f.fly(api.Status{Pending: 1, Finished: 2}) }, api.Conflict},
		"the queue goes away":   {func(f *fakes) { f.fail["Calls.InFlight"] = errAway }, api.Unavailable},
		"the statuses are away": {func(f *fakes) { f.fail["Calls.Status"] = errAway }, api.Conflict},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f, s, _ := created(t)
				f.fly(api.Status{Finished: 2})
				time.AfterFunc(100*time.Millisecond, func() {
					f.mu.Lock()
					defer f.mu.Unlock()
					c.change(f)
				})
				began := time.Now()
				requireCode(t, c.code, s.Remove(t.Context(), "acme", "hello", false))
				require.LessOrEqual(t, time.Since(began), leaveTime)
				require.Equal(t, c.code == "", len(f.defs) == 0)
			})
		})
	}
}

func TestRemoveIsFinishedWhenItsCallerHasGone(t *testing.T) {
	t.Parallel()
	f, s, _ := created(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.before = func(operation string) {
		if operation == "Cluster.Remove" {
			cancel()
		}
	}
	require.NoError(t, s.Remove(ctx, "acme", "hello", false))
	require.Empty(t, f.registered)
	require.Len(t, f.removed, 1)
}

// forced removes the function by force, with so many calls in flight, in a time of its own.
func forced(t *testing.T, test func(t *testing.T, f *fakes, s *Service, id string)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, s, _ := created(t)
		f.inFlight = 2
		test(t, f, s, f.defs["acme/hello"].ID)
	})
}

func TestRemoveByForceCancelsTheCalls(t *testing.T) {
	forced(t, func(t *testing.T, f *fakes, s *Service, id string) {
		require.NoError(t, s.Remove(t.Context(), "acme", "hello", true))
		require.Equal(t, []string{"Store.Get", "Calls.InFlight", "Store.Delete", "Cancel.All", "Calls.InFlight", "Cluster.Remove",
			"Calls.RemoveFunction"}, f.done)
		require.Empty(t, f.defs)
		require.Equal(t, []string{id}, f.removed)
	})
}

func TestRemoveByForceWaitsForTheEndOfCalls(t *testing.T) {
	forced(t, func(t *testing.T, f *fakes, s *Service, id string) {
		f.stubborn = 1
		began := time.Now()
		time.AfterFunc(700*time.Millisecond, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.stubborn = 0
		})
		require.NoError(t, s.Remove(t.Context(), "acme", "hello", true))
		require.GreaterOrEqual(t, time.Since(began), 700*time.Millisecond)
		require.Less(t, time.Since(began), 2*time.Second)
		require.Equal(t, []string{id}, f.removed)
	})
}

func TestRemoveByForceOfCallsThatDoNotEnd(t *testing.T) {
	for name, spoil := range map[string]func(f *fakes){
		"they do not obey":  func(f *fakes) { f.stubborn = 1 },
		"the store is away": func(f *fakes) { f.fail["Cancel.All"] = errAway },
		"the queue goes away": func(f *fakes) {
			f.before = func(operation string) { f.breakAfter(operation, "Store.Delete", "Calls.InFlight") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			forced(t, func(t *testing.T, f *fakes, s *Service, _ string) {
				spoil(f)
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second/2, cancel) // its caller does not wait
				began := time.Now()
				require.NoError(t, s.Remove(ctx, "acme", "hello", true))
				require.GreaterOrEqual(t, time.Since(began), s.cfg.StopTime, "they have had their time")
				require.Empty(t, f.defs, "it takes no calls")
				require.Empty(t, f.registered)
			})
		})
	}
}

func TestRemoveByForceThatCannotBegin(t *testing.T) {
	for _, operation := range []string{"Store.Get", "Calls.InFlight", "Store.Delete"} {
		t.Run(operation, func(t *testing.T) {
			forced(t, func(t *testing.T, f *fakes, s *Service, _ string) {
				f.fail[operation] = errAway
				requireCode(t, api.Unavailable, s.Remove(t.Context(), "acme", "hello", true))
				require.Len(t, f.defs, 1)
				require.NotContains(t, f.done, "Cancel.All")
			})
		})
	}
}

// Where calls stand is not known until the streams have been read, which may take longer than a caller waits.
func TestRemoveWhileTheStreamsAreRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, s, _ := created(t)
		f.fly(api.Status{Running: 1})
		f.waits = true
		began := time.Now()
		requireCode(t, api.Conflict, s.Remove(t.Context(), "acme", "hello", false))
		require.Equal(t, leaveTime, time.Since(began))
	})
}
