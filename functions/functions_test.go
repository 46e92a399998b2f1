package functions

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/funcd/funcd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = api.Errorf(api.Unavailable, "away")

// fakes are the places that know of functions, in memory. An operation that has an error in fail returns it; with after it is done all the
// same, as if only its answer was lost.
type fakes struct {
	mu         sync.Mutex
	defs       map[string]api.Definition // by account/name
	registered map[string]uint64         // revisions by account/name
	ids        map[string]string         // the ids that they were registered with
	indexes    map[string]uint64         // of the jobs, by account/name
	stopped    map[string]bool           // jobs that take no dispatches
	drifted    map[string]bool           // jobs that are not what they were registered as
	kept       []string                  // functions of whose calls something is kept
	statuses   map[string]api.Status
	waits      bool // Status does not answer
	images     map[string]api.Image
	inFlight   int
	stubborn   int              // calls in flight that do not end when they are cancelled
	removed    []string         // functions whose calls were dropped
	done       []string         // operations, in their order
	cached     []api.Definition // what All returns in place of the definitions, if not nil
	fail       map[string]error
	after      bool
	before     func(operation string) // called ahead of each operation, if set
}

func newFakes() *fakes {
	return &fakes{
		defs:       map[string]api.Definition{},
		registered: map[string]uint64{},
		ids:        map[string]string{},
		indexes:    map[string]uint64{},
		stopped:    map[string]bool{},
		drifted:    map[string]bool{},
		statuses:   map[string]api.Status{},
		images:     map[string]api.Image{"busybox": {Ref: "busybox@sha256:1", ID: "sha256:2", Cmd: []string{"sh"}}, "bare": {Ref: "bare@sha256:3"}},
		fail:       map[string]error{},
	}
}

func (f *fakes) service() *Service {
	return New(Config{Store: f, Cluster: cluster{f}, Images: f, Calls: f, Cancel: f, Policy: f.policy, StopTime: time.Second, OrphanTime: time.Hour, Logger: slog.New(slog.DiscardHandler)})
}

// policy is that of an account which may not have everything.
func (f *fakes) policy(account string) api.Policy {
	p := api.FullPolicy()
	p.HostNetworking = account != "bridged"
	return p
}

// do does one operation, or fails as it was told to.
func (f *fakes) do(ctx context.Context, operation string, do func()) error {
	if f.before != nil {
		f.before(operation)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return api.Wrap(api.Unavailable, ctx.Err(), "away")
	}
	f.done = append(f.done, operation)
	err := f.fail[operation]
	if err == nil || f.after {
		do()
	}
	return err
}

func (f *fakes) Create(ctx context.Context, d api.Definition) (stored api.Definition, err error) {
	var taken bool
	err = f.do(ctx, "Store.Create", func() {
		k := d.Account + "/" + d.Function.Name
		if _, taken = f.defs[k]; !taken {
			f.defs[k] = d
		}
	})
	if taken {
		return d, api.Errorf(api.Conflict, "the name is already in use")
	}
	return d, err
}

func (f *fakes) Update(ctx context.Context, account, name string, change func(*api.Definition) error) (d api.Definition, err error) {
	var refused error
	err = f.do(ctx, "Store.Update", func() {
		var ok bool
		if d, ok = f.defs[account+"/"+name]; !ok {
			refused = api.Errorf(api.NotFound, "no such function")
			return
		}
		for range 2 { // it may be asked more than once
			attempt := d
			if refused = change(&attempt); refused != nil {
				return
			}
			attempt.Revision++
			f.defs[account+"/"+name] = attempt
		}
		d = f.defs[account+"/"+name]
	})
	return d, errors.Join(err, refused)
}

func (f *fakes) Delete(ctx context.Context, account, name, id string) error {
	gone := false
	err := f.do(ctx, "Store.Delete", func() {
		if d, ok := f.defs[account+"/"+name]; !ok || d.ID != id {
			gone = true
			return
		}
		delete(f.defs, account+"/"+name)
	})
	if gone {
		return api.Errorf(api.NotFound, "no such function")
	}
	return err
}

func (f *fakes) Get(ctx context.Context, account, name string) (d api.Definition, err error) {
	var ok bool
	err = f.do(ctx, "Store.Get", func() { d, ok = f.defs[account+"/"+name] })
	if err == nil && !ok {
		err = api.Errorf(api.NotFound, "no such function")
	}
	return d, err
}

func (f *fakes) All() []api.Definition {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cached != nil {
		return f.cached
	}
	var all []api.Definition
	for _, k := range slices.Sorted(maps.Keys(f.defs)) {
		all = append(all, f.defs[k])
	}
	return all
}

func (f *fakes) InFlight(ctx context.Context, _, _ string) (n int, err error) {
	err = f.do(ctx, "Calls.InFlight", func() { n = f.inFlight })
	return n, err
}

func (f *fakes) CancelAll(ctx context.Context, _, _ string) error {
	return f.do(ctx, "Cancel.All", func() { f.inFlight = f.stubborn })
}

func (f *fakes) RemoveFunction(ctx context.Context, function string) error {
	return f.do(ctx, "Calls.RemoveFunction", func() {
		f.removed = append(f.removed, function)
		f.kept = slices.DeleteFunc(f.kept, func(other string) bool { return other == function })
	})
}

// cluster is the fakes as a Cluster.
type cluster struct{ f *fakes }

func (c cluster) Ping(ctx context.Context) error {
	return c.f.do(ctx, "Cluster.Ping", func() {})
}

func (c cluster) Prepare(ctx context.Context, _ *api.Definition) error {
	return c.f.do(ctx, "Cluster.Prepare", func() {})
}

func (c cluster) Register(ctx context.Context, d *api.Definition) error {
	return c.f.do(ctx, "Cluster.Register", func() {
		k := d.Account + "/" + d.Function.Name
		c.f.registered[k], c.f.ids[k] = d.Revision, d.ID
		c.f.indexes[k]++
		delete(c.f.stopped, k)
		delete(c.f.drifted, k)
	})
}

func (c cluster) Remove(ctx context.Context, account, name, id string) error {
	return c.f.do(ctx, "Cluster.Remove", func() {
		if c.f.ids[account+"/"+name] == id {
			delete(c.f.registered, account+"/"+name)
			delete(c.f.ids, account+"/"+name)
		}
	})
}

func (c cluster) FunctionJobs(ctx context.Context) (jobs []api.FunctionJob, err error) {
	err = c.f.do(ctx, "Cluster.FunctionJobs", func() {
		for k, revision := range c.f.registered {
			account, name, _ := strings.Cut(k, "/")
			jobs = append(jobs, api.FunctionJob{
				Account: account, Name: name, Function: c.f.ids[k], Revision: revision, Index: c.f.indexes[k], Stopped: c.f.stopped[k],
			})
		}
	})
	return jobs, err
}

func (c cluster) Drifted(ctx context.Context, d *api.Definition) (drifted bool, err error) {
	err = c.f.do(ctx, "Cluster.Drifted", func() { drifted = c.f.drifted[d.Account+"/"+d.Function.Name] })
	return drifted, err
}

func (f *fakes) Stored(ctx context.Context) (all []api.Definition, err error) {
	err = f.do(ctx, "Store.Stored", func() {
		for _, k := range slices.Sorted(maps.Keys(f.defs)) {
			all = append(all, f.defs[k])
		}
	})
	return all, err
}

func (f *fakes) Functions(ctx context.Context) (ids []string, err error) {
	err = f.do(ctx, "Calls.Functions", func() { ids = slices.Clone(f.kept) })
	return ids, err
}

func (f *fakes) Status(ctx context.Context, function string) (status api.Status, err error) {
	if f.waits {
		<-ctx.Done()
	}
	err = f.do(ctx, "Calls.Status", func() { status = f.statuses[function] })
	return status, err
}

func hello() api.Function {
	return api.Function{
		Name: "hello", ContainerSize: "s4", Timeout: 300,
		Config: api.Config{Image: "busybox", Env: []string{"A=1"}, StopSignal: "SIGTERM"}, HostConfig: api.HostConfig{NetworkMode: "bridge"},
	}
}

// created returns fakes with the function hello of account acme.
func created(t *testing.T) (*fakes, *Service, api.Function) {
	t.Helper()
	f := newFakes()
	s := f.service()
	got, err := s.Create(t.Context(), "acme", hello())
	require.NoError(t, err)
	f.done = nil
	return f, s, got
}

func requireCode(t *testing.T, code api.Code, err error) {
	t.Helper()
	require.Equal(t, code, api.CodeOf(err), "%v", err)
}

func TestCreate(t *testing.T) {
	t.Parallel()
	f := newFakes()
	begin := time.Now()
	got, err := f.service().Create(t.Context(), "acme", hello())
	require.NoError(t, err)
	require.True(t, api.ValidUUID(got.UUID))
	require.WithinRange(t, got.Created.Time, begin.Add(-time.Millisecond), time.Now())
	want := hello()
	want.UUID, want.Created = got.UUID, got.Created
	require.Equal(t, want, got)

	d := f.defs["acme/hello"]
	require.Regexp(t, "^[0-9a-f]{32}$", d.ID, "it is part of subjects")
	require.Equal(t, api.Definition{ID: d.ID, Account: "acme", Revision: 1, Function: got, Image: f.images["busybox"]}, d)
	require.Equal(t, map[string]uint64{"acme/hello": 1}, f.registered)

	_, err = f.service().Create(t.Context(), "other", hello())
	require.NoError(t, err, "names are an account's own")
	require.NotEqual(t, d.ID, f.defs["other/hello"].ID)
}

func TestCreateByPolicy(t *testing.T) {
	t.Parallel()
	f := newFakes()
	host := hello()
	host.HostConfig.NetworkMode = "host"
	_, err := f.service().Create(t.Context(), "bridged", host)
	requireCode(t, api.Forbidden, err)
	require.ErrorContains(t, err, "host_networking")
	require.Empty(t, f.done, "nothing is asked for it")
	_, err = f.service().Create(t.Context(), "acme", host)
	require.NoError(t, err)
	_, err = f.service().Create(t.Context(), "bridged", hello())
	require.NoError(t, err)
}

func TestCreateFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  func(f *fakes, fn *api.Function)
		code    api.Code
		message string
		done    []string
	}{
		"no such image": {func(_ *fakes, fn *api.Function) { fn.Config.Image = "none" }, api.Invalid, "Config.Image: no such image: none",
			[]string{"Store.Get", "Images.Resolve"}},
		"the registry is away": {func(f *fakes, _ *api.Function) { f.fail["Images.Resolve"] = errAway }, api.Unavailable, "away",
			[]string{"Store.Get", "Images.Resolve"}},
		"no command": {func(_ *fakes, fn *api.Function) { fn.Config.Image = "bare" }, api.Invalid,
			"Config.Cmd: is required, as image bare has no command of its own", []string{"Store.Get", "Images.Resolve"}},
		"the store is away": {func(f *fakes, _ *api.Function) { f.fail["Store.Get"] = errAway }, api.Unavailable, "away",
			[]string{"Store.Get"}},
		"the cluster can't run it": {func(f *fakes, _ *api.Function) { f.fail["Cluster.Prepare"] = api.Errorf(api.Invalid, "no such volume") }, api.Invalid, "no such volume",
			[]string{"Store.Get", "Images.Resolve", "Cluster.Prepare"}},
		"the store is away later": {func(f *fakes, _ *api.Function) { f.fail["Store.Create"] = errAway }, api.Unavailable, "away",
			[]string{"Store.Get", "Images.Resolve", "Cluster.Prepare", "Store.Create"}},
		"the cluster is away": {func(f *fakes, _ *api.Function) { f.fail["Cluster.Register"] = errAway }, api.Unavailable, "away",
			[]string{"Store.Get", "Images.Resolve", "Cluster.Prepare", "Store.Create", "Cluster.Register", "Store.Delete", "Cluster.Remove"}},
		"the cluster refuses it": {func(f *fakes, _ *api.Function) {
			f.fail["Cluster.Register"] = api.Errorf(api.Invalid, "no such size")
		}, api.Invalid, "no such size",
			[]string{"Store.Get", "Images.Resolve", "Cluster.Prepare", "Store.Create", "Cluster.Register", "Store.Delete", "Cluster.Remove"}},
		"only the cluster's answer is lost": {func(f *fakes, _ *api.Function) {
			f.fail["Cluster.Register"], f.after = errAway, true
		}, api.Unavailable, "away",
			[]string{"Store.Get", "Images.Resolve", "Cluster.Prepare", "Store.Create", "Cluster.Register", "Store.Delete", "Cluster.Remove"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, fn := newFakes(), hello()
			c.change(f, &fn)
			got, err := f.service().Create(t.Context(), "acme", fn)
			requireCode(t, c.code, err)
			require.Equal(t, c.message, err.(*api.Error).Message)
			require.Empty(t, got)
			require.Equal(t, c.done, f.done)
			require.Empty(t, f.defs, "nothing of it is left")
			require.Empty(t, f.registered)
		})
	}
}

func TestACommandOfItsOwnIsEnough(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]api.Config{
		"Cmd":        {Image: "bare", Cmd: api.StrSlice{"/a"}},
		"Entrypoint": {Image: "bare", Entrypoint: api.StrSlice{"/a"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fn := hello()
			fn.Config = config
			_, err := newFakes().service().Create(t.Context(), "acme", fn)
			require.NoError(t, err)
		})
	}
}

func TestCreateUndoesWhenItsCallerHasGone(t *testing.T) {
	t.Parallel()
	f := newFakes()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.before = func(operation string) {
		if operation == "Cluster.Register" {
			cancel()
		}
	}
	_, err := f.service().Create(ctx, "acme", hello())
	requireCode(t, api.Unavailable, err)
	require.Empty(t, f.defs)
}

func TestCreateOfATakenName(t *testing.T) {
	t.Parallel()
	f, s, before := created(t)
	fn := hello()
	fn.Timeout = 7
	_, err := s.Create(t.Context(), "acme", fn)
	requireCode(t, api.Conflict, err)
	require.NotContains(t, f.done, "Images.Resolve")
	require.Equal(t, before, f.defs["acme/hello"].Function)

	// One that comes while the image is looked up keeps its definition and its job.
	f = newFakes()
	f.before = func(operation string) {
		if operation == "Images.Resolve" {
			f.before = nil
			_, err := f.service().Create(t.Context(), "acme", hello())
			require.NoError(t, err)
		}
	}
	_, err = f.service().Create(t.Context(), "acme", fn)
	requireCode(t, api.Conflict, err)
	require.Equal(t, 300, f.defs["acme/hello"].Function.Timeout)
	require.Equal(t, map[string]uint64{"acme/hello": 1}, f.registered)
}

func TestCallbacksHaveASecret(t *testing.T) {
	t.Parallel()
	f := newFakes()
	plain, err := f.service().Create(t.Context(), "acme", hello())
	require.NoError(t, err)
	require.Empty(t, plain.CallbackSecret)
	secrets := map[string]bool{}
	for _, name := range []string{"a", "b"} {
		fn := hello()
		fn.Name, fn.Config.Labels = name, map[string]string{"funcd.callback": "https://example.com/"}
		got, err := f.service().Create(t.Context(), "acme", fn)
		require.NoError(t, err)
		require.Regexp(t, "^whsec_[A-Za-z0-9+/]{43}=$", got.CallbackSecret)
		require.Equal(t, got, f.defs["acme/"+name].Function)
		secrets[got.CallbackSecret] = true
		updated, err := f.service().Update(t.Context(), "acme", name, api.FunctionUpdate{Refresh: true})
		require.NoError(t, err)
		require.Equal(t, got.CallbackSecret, updated.CallbackSecret, "it is the receiver's too")
	}
	require.Len(t, secrets, 2)
}

func TestCallbackThatIsNotAllowed(t *testing.T) {
	t.Parallel()
	f := newFakes()
	s := f.service()
	s.cfg.Callback = func(target string) error { return api.Errorf(api.Forbidden, "not to %s", target) }
	fn := hello()
	fn.Config.Labels = map[string]string{"funcd.callback": "http://10.0.0.1/"}
	_, err := s.Create(t.Context(), "acme", fn)
	require.Equal(t, api.Forbidden, api.CodeOf(err))
	require.Equal(t, "not to http://10.0.0.1/", api.MessageOf(err))
	require.Empty(t, f.defs)
	_, err = s.Create(t.Context(), "acme", hello())
	require.NoError(t, err, "one without")
}
