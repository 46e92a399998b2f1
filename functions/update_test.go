package functions

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestUpdate(t *testing.T) {
	t.Parallel()
	timeout, env := 7, []string{"B=2"}
	for name, c := range map[string]struct {
		update  api.FunctionUpdate
		want    func(f *api.Function)
		newUUID bool
	}{
		"nothing": {api.FunctionUpdate{}, func(*api.Function) {}, false},
		"Timeout": {api.FunctionUpdate{Timeout: &timeout}, func(f *api.Function) { f.Timeout = 7 }, false},
		"Env": {api.FunctionUpdate{Config: &api.ConfigUpdate{Env: &env}}, func(f *api.Function) { f.Config.Env = env },
			false},
		"Refresh": {api.FunctionUpdate{Refresh: true}, func(*api.Function) {}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, s, before := created(t)
			id := f.defs["acme/hello"].ID
			got, err := s.Update(t.Context(), "acme", "hello", c.update)
			require.NoError(t, err)
			want := before
			c.want(&want)
			require.Equal(t, c.newUUID, got.UUID != before.UUID)
			want.UUID = got.UUID
			require.Equal(t, want, got)
			require.Equal(t, got, f.defs["acme/hello"].Function)
			require.Equal(t, id, f.defs["acme/hello"].ID, "its calls, logs and outputs stay")
			require.Equal(t, f.defs["acme/hello"].Revision, f.registered["acme/hello"])
		})
	}
}

func TestUpdateFails(t *testing.T) {
	t.Parallel()
	timeout, wrong := 7, 0
	for name, c := range map[string]struct {
		name    string
		timeout *int
		fail    map[string]error
		code    api.Code
	}{
		"no such function":       {"none", &timeout, nil, api.NotFound},
		"an invalid value":       {"hello", &wrong, nil, api.Invalid},
		"the store is away":      {"hello", &timeout, map[string]error{"Store.Update": errAway}, api.Unavailable},
		"the cluster is away":    {"hello", &timeout, map[string]error{"Cluster.Register": errAway}, api.Unavailable},
		"the cluster refuses it": {"hello", &timeout, map[string]error{"Cluster.Register": api.Errorf(api.Invalid, "no")}, api.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, s, before := created(t)
			f.fail = c.fail
			_, err := s.Update(t.Context(), "acme", c.name, api.FunctionUpdate{Timeout: c.timeout, Refresh: true})
			requireCode(t, c.code, err)
			require.Equal(t, before, f.defs["acme/hello"].Function, "it is as it was, with its address")
			f.fail = nil
			require.NoError(t, s.Repair(t.Context()))
			require.Equal(t, f.defs["acme/hello"].Revision, f.registered["acme/hello"], "its job is the latest, or will be")
		})
	}
}

// TestUpdateWithoutTheCluster: containers that wait for a call are of the revision that there is. An update that is refused leaves it, and so them.
func TestUpdateWithoutTheCluster(t *testing.T) {
	t.Parallel()
	timeout, wrong := 7, 0
	for name, c := range map[string]struct {
		name   string
		update api.FunctionUpdate
		code   api.Code
		done   []string
	}{
		"no such function":           {"none", api.FunctionUpdate{Timeout: &timeout}, api.NotFound, []string{"Store.Get"}},
		"no such function to pull":   {"none", api.FunctionUpdate{Pull: true}, api.NotFound, []string{"Store.Get"}},
		"a wrong value":              {"hello", api.FunctionUpdate{Timeout: &wrong}, api.Invalid, []string{"Store.Get"}},
		"a wrong value, with a pull": {"hello", api.FunctionUpdate{Timeout: &wrong, Pull: true}, api.Invalid, []string{"Store.Get"}},
		"a right one":                {"hello", api.FunctionUpdate{Timeout: &timeout}, api.Unavailable, []string{"Store.Get", "Cluster.Ping"}},
		"a new address":              {"hello", api.FunctionUpdate{Refresh: true}, api.Unavailable, []string{"Store.Get", "Cluster.Ping"}},
		"a pull":                     {"hello", api.FunctionUpdate{Pull: true}, api.Unavailable, []string{"Store.Get", "Images.ResolveFromRegistry", "Cluster.Ping"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, s, _ := created(t)
			before := f.defs["acme/hello"]
			f.fail["Cluster.Ping"], f.fail["Cluster.Register"] = errAway, errAway
			_, err := s.Update(t.Context(), "acme", c.name, c.update)
			requireCode(t, c.code, err)
			require.Equal(t, before, f.defs["acme/hello"], "its revision too")
			require.Equal(t, c.done, f.done)
		})
	}
	t.Run("an image without a command", func(t *testing.T) {
		t.Parallel()
		f, s, _ := created(t)
		f.images["busybox"] = api.Image{Ref: "busybox@sha256:9"}
		f.fail["Cluster.Ping"] = errAway
		_, err := s.Update(t.Context(), "acme", "hello", api.FunctionUpdate{Pull: true})
		requireCode(t, api.Invalid, err)
	})
}

// TestAnUpdateIsUndoneWithItsJob: where the cluster goes away after it was asked, or refuses the job, the function and its job are as they were, and of one
// revision as soon as the cluster answers.
func TestAnUpdateIsUndoneWithItsJob(t *testing.T) {
	t.Parallel()
	timeout := 7
	for name, c := range map[string]struct {
		fail       error
		answerLost bool
		stays      bool // away
	}{
		"the cluster refuses it":     {fail: api.Errorf(api.Invalid, "no such node pool")},
		"only its answer was lost":   {fail: errAway, answerLost: true},
		"it has gone away meanwhile": {fail: errAway, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, s, before := created(t)
			f.fail["Cluster.Register"], f.after = c.fail, c.answerLost
			registrations := 0
			f.before = func(operation string) {
				if operation != "Cluster.Register" {
					return
				}
				if registrations++; registrations == 2 && !c.stays {
					delete(f.fail, operation)
				}
			}
			_, err := s.Update(t.Context(), "acme", "hello", api.FunctionUpdate{Timeout: &timeout})
			requireCode(t, api.CodeOf(c.fail), err)
			require.Equal(t, before, f.defs["acme/hello"].Function)
			if c.stays {
				delete(f.fail, "Cluster.Register")
				require.NoError(t, s.Repair(t.Context()))
			}
			require.Equal(t, map[string]uint64{"acme/hello": f.defs["acme/hello"].Revision}, f.registered)
		})
	}
}

func TestAFailedUpdateLeavesALaterOneAlone(t *testing.T) {
	t.Parallel()
	f, s, _ := created(t)
	first, second := 7, 8
	f.fail["Cluster.Register"] = errAway
	f.before = func(operation string) {
		if operation == "Cluster.Register" {
			f.before = nil
			f.mu.Lock()
			d := f.defs["acme/hello"]
			d.Function.Timeout = second
			d.Revision++
			f.defs["acme/hello"] = d
			f.mu.Unlock()
		}
	}
	_, err := s.Update(t.Context(), "acme", "hello", api.FunctionUpdate{Timeout: &first})
	requireCode(t, api.Unavailable, err)
	require.Equal(t, second, f.defs["acme/hello"].Function.Timeout)
}

// breakAfter has an operation fail from the first of another one on.
func (f *fakes) breakAfter(operation, after, broken string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if operation == after {
		f.fail[broken] = errAway
	}
}
