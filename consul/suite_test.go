package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// patience is how long a test waits for what is to come in milliseconds, on a busy machine.
const patience = time.Minute

// newPrefix returns a prefix that no other test has.
func newPrefix() string { return "funcd-test/" + uuid.NewString() }

func newDefinition(account, name string) api.Definition {
	return api.Definition{
		ID:      uuid.NewString(),
		Account: account,
		Function: api.Function{
			Name: name, UUID: uuid.NewString(), ContainerSize: "s4", Timeout: 300,
			Created: api.Timestamp{Time: time.Now().UTC().Truncate(time.Millisecond)},
			Config: api.Config{
				Image: "busybox", Env: []string{"A=1"}, Labels: map[string]string{"funcd.warm": "1"}, Cmd: api.StrSlice{"cat"},
			},
		},
		Image: api.Image{Ref: "busybox@sha256:0", ID: "sha256:1"},
	}
}

// start runs f until the test ends, and waits for it.
func start(t *testing.T, f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}

// testBackend is what must hold on any Consul. connect returns a client of the backend for the prefix.
func testBackend(t *testing.T, connect func(t *testing.T, prefix string) *Client) {
	for name, test := range map[string]func(*testing.T, func(*testing.T, string) *Client){
		"ping":                            testPing,
		"create":                          testCreate,
		"create at once":                  testCreateAtOnce,
		"update":                          testUpdate,
		"update at once":                  testUpdateAtOnce,
		"delete":                          testDelete,
		"watch":                           testWatch,
		"the cluster's id":                testClusterID,
		"stored functions":                testStored,
		"functions of two servers":        testFunctions,
		"functions before the first list": testFunctionsNotRunning,
		"functions under churn":           testFunctionsChurn,
		"subscribe":                       testSubscribe,
		"credentials":                     testCredentials,
		"credentials of two servers":      testCredentialsCache,
		"quotas of credentials":           testQuotas,
		"service":                         testService,
		"endpoints":                       testEndpoints,
		"one leader":                      testLeader,
		"leader loses its session":        testLeaderLost,
		"leader again after its end":      testLeaderAgain,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, connect)
		})
	}
}

func testPing(t *testing.T, connect func(*testing.T, string) *Client) {
	require.NoError(t, connect(t, newPrefix()).Ping(t.Context()))
}

func testCreate(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, c := t.Context(), connect(t, newPrefix())
	def := newDefinition("alice", "resize")
	created, err := c.CreateFunction(ctx, def)
	require.NoError(t, err)
	def.Revision = 1
	require.Equal(t, def, created)

	got, err := c.Function(ctx, "alice", "resize")
	require.NoError(t, err)
	require.Equal(t, def, got)
	got, err = c.FunctionByUUID(ctx, def.Function.UUID)
	require.NoError(t, err)
	require.Equal(t, def, got)

	_, err = c.CreateFunction(ctx, newDefinition("alice", "resize"))
	require.Equal(t, api.Conflict, api.CodeOf(err))
	require.EqualError(t, err, `the name "resize" is already in use`)
	_, err = c.CreateFunction(ctx, newDefinition("bob", "resize"))
	require.NoError(t, err, "another account's names are its own")

	for name, read := range map[string]func() (api.Definition, error){
		"name":          func() (api.Definition, error) { return c.Function(ctx, "alice", "other") },
		"account":       func() (api.Definition, error) { return c.Function(ctx, "carol", "resize") },
		"name of a key": func() (api.Definition, error) { return c.Function(ctx, "alice", "../bob/resize") },
		"UUID":          func() (api.Definition, error) { return c.FunctionByUUID(ctx, uuid.NewString()) },
		"no UUID":       func() (api.Definition, error) { return c.FunctionByUUID(ctx, "../") },
	} {
		_, err := read()
		require.Equal(t, api.NotFound, api.CodeOf(err), name)
	}

	large := newDefinition("alice", "large")
	large.Function.Config.Env = []string{"A=" + string(make([]byte, maxValue))}
	_, err = c.CreateFunction(ctx, large)
	require.Equal(t, api.TooLarge, api.CodeOf(err))
	large.Function.Config.Env = []string{"A=" + fmt.Sprintf("%0*d", maxValue-2048, 0)}
	_, err = c.CreateFunction(ctx, large)
	require.NoError(t, err, "what the limit lets through, Consul takes")
}

func testCreateAtOnce(t *testing.T, connect func(*testing.T, string) *Client) {
	c := connect(t, newPrefix())
	var created, refused atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			switch _, err := c.CreateFunction(t.Context(), newDefinition("alice", "one")); api.CodeOf(err) {
			case "":
				created.Add(1)
			case api.Conflict:
				refused.Add(1)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, created.Load())
	require.EqualValues(t, 7, refused.Load())
}

func testUpdate(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, c := t.Context(), connect(t, newPrefix())
	def, err := c.CreateFunction(ctx, newDefinition("alice", "resize"))
	require.NoError(t, err)

	updated, err := c.UpdateFunction(ctx, "alice", "resize", func(d *api.Definition) error {
		d.Function.Timeout = 7
		d.ID, d.Account, d.Function.Name, d.Revision = "x", "bob", "y", 99
		return nil
	})
	require.NoError(t, err)
	want := def
	want.Function.Timeout, want.Revision = 7, 2
	require.Equal(t, want, updated)
	got, err := c.FunctionByUUID(ctx, def.Function.UUID)
	require.NoError(t, err)
	require.Equal(t, want, got)

	fresh := uuid.NewString()
	refreshed, err := c.UpdateFunction(ctx, "alice", "resize", func(d *api.Definition) error {
		d.Function.UUID = fresh
		return nil
	})
	require.NoError(t, err)
	require.EqualValues(t, 3, refreshed.Revision)
	_, err = c.FunctionByUUID(ctx, def.Function.UUID)
	require.Equal(t, api.NotFound, api.CodeOf(err), "the old address is unknown")
	got, err = c.FunctionByUUID(ctx, fresh)
	require.NoError(t, err)
	require.Equal(t, refreshed, got)

	stop := errors.New("stop")
	_, err = c.UpdateFunction(ctx, "alice", "resize", func(*api.Definition) error { return stop })
	require.ErrorIs(t, err, stop)
	_, err = c.UpdateFunction(ctx, "alice", "other", func(*api.Definition) error { return nil })
	require.Equal(t, api.NotFound, api.CodeOf(err))

	other, err := c.CreateFunction(ctx, newDefinition("bob", "thief"))
	require.NoError(t, err)
	_, err = c.UpdateFunction(ctx, "bob", "thief", func(d *api.Definition) error {
		d.Function.UUID = fresh
		return nil
	})
	require.Equal(t, api.Internal, api.CodeOf(err), "an address belongs to one function, and the refusal ends the retries")
	got, err = c.FunctionByUUID(ctx, other.Function.UUID)
	require.NoError(t, err, "a refused transaction changes nothing")
	require.Equal(t, other, got)
}

func testUpdateAtOnce(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, c := t.Context(), connect(t, newPrefix())
	_, err := c.CreateFunction(ctx, newDefinition("alice", "resize"))
	require.NoError(t, err)
	var all sync.WaitGroup
	errs := make([]error, 5)
	for i := range errs {
		all.Go(func() {
			_, errs[i] = c.UpdateFunction(ctx, "alice", "resize", func(d *api.Definition) error {
				d.Function.Timeout++
				return nil
			})
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	got, err := c.Function(ctx, "alice", "resize")
	require.NoError(t, err)
	require.Equal(t, 305, got.Function.Timeout, "no update is lost")
	require.EqualValues(t, 6, got.Revision)
}

func testDelete(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, c := t.Context(), connect(t, newPrefix())
	first, err := c.CreateFunction(ctx, newDefinition("alice", "resize"))
	require.NoError(t, err)
	require.NoError(t, c.DeleteFunction(ctx, "alice", "resize", first.ID))
	require.Equal(t, api.NotFound, api.CodeOf(c.DeleteFunction(ctx, "alice", "resize", first.ID)))
	_, err = c.Function(ctx, "alice", "resize")
	require.Equal(t, api.NotFound, api.CodeOf(err))
	pair, err := c.get(ctx, c.addressKey(first.Function.UUID))
	require.NoError(t, err)
	require.Nil(t, pair, "its address is gone too")

	second, err := c.CreateFunction(ctx, newDefinition("alice", "resize"))
	require.NoError(t, err)
	require.Equal(t, api.NotFound, api.CodeOf(c.DeleteFunction(ctx, "alice", "resize", first.ID)))
	got, err := c.FunctionByUUID(ctx, second.Function.UUID)
	require.NoError(t, err, "the one created anew is left alone")
	require.Equal(t, second, got)

	var deleted atomic.Int32
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if err := c.DeleteFunction(ctx, "alice", "resize", second.ID); err == nil {
				deleted.Add(1)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, deleted.Load(), "one of several deletions has done it")
}

func testWatch(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, c := t.Context(), connect(t, newPrefix())
	lists := make(chan []api.Definition, 100)
	ended := make(chan error, 1)
	stop := start(t, func(ctx context.Context) {
		ended <- c.WatchFunctions(ctx, func(all []api.Definition) { lists <- all })
	})
	await := func(want ...api.Definition) {
		t.Helper()
		for got := receive(t, lists); !assert.ObjectsAreEqual(append([]api.Definition{}, want...), got); got = receive(t, lists) {
		}
	}
	await()

	a, err := c.CreateFunction(ctx, newDefinition("alice", "a"))
	require.NoError(t, err)
	await(a)
	for key, value := range map[string]string{"alice/broken": "{", "alice/moved": string(must(json.Marshal(newDefinition("bob", "c"))))} {
		_, err := c.write(ctx, put(c.functionsPrefix()+key, []byte(value), 0))
		require.NoError(t, err)
	}
	b, err := c.CreateFunction(ctx, newDefinition("bob", "b"))
	require.NoError(t, err)
	await(a, b) // and what can't be read is left out
	require.NoError(t, c.DeleteFunction(ctx, "alice", "a", a.ID))
	await(b)
	stop()
	require.ErrorIs(t, <-ended, context.Canceled)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// newFunctions returns a cache that runs and is ready.
func newFunctions(t *testing.T, c *Client) *Functions {
	f := NewFunctions(c)
	start(t, func(ctx context.Context) { _ = f.Run(ctx) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, f.WaitReady(ctx))
	return f
}

func testFunctions(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, prefix := t.Context(), newPrefix()
	here, there := newFunctions(t, connect(t, prefix)), newFunctions(t, connect(t, prefix))

	old := newDefinition("alice", "old")
	old.Function.Created.Time = old.Function.Created.Add(-time.Hour)
	old, err := here.Create(ctx, old)
	require.NoError(t, err)
	require.Equal(t, []api.Definition{old}, here.List("alice"), "own writes are seen at once")
	got, err := there.ByUUID(ctx, old.Function.UUID)
	require.NoError(t, err, "a miss asks Consul")
	require.Equal(t, old, got)

	def, err := there.Create(ctx, newDefinition("alice", "new"))
	require.NoError(t, err)
	require.Equal(t, []api.Definition{def, old}, there.List("alice"), "newest first")
	require.Empty(t, there.List("bob"))
	got, err = here.Get(ctx, "alice", "new")
	require.NoError(t, err)
	require.Equal(t, def, got)

	fresh := uuid.NewString()
	updated, err := here.Update(ctx, "alice", "new", func(d *api.Definition) error {
		d.Function.UUID = fresh
		return nil
	})
	require.NoError(t, err)
	_, err = here.ByUUID(ctx, def.Function.UUID)
	require.Equal(t, api.NotFound, api.CodeOf(err), "the old address ends at once")
	got, err = here.ByUUID(ctx, fresh)
	require.NoError(t, err)
	require.Equal(t, updated, got)
	require.Eventually(t, func() bool {
		_, err := there.ByUUID(ctx, def.Function.UUID)
		got, _ := there.Get(ctx, "alice", "new")
		return api.CodeOf(err) == api.NotFound && got.Revision == 2
	}, patience, 5*time.Millisecond, "the watch brings other servers' changes")

	got, err = there.ByID(ctx, "alice", "new", def.ID)
	require.NoError(t, err)
	require.Equal(t, updated, got)
	require.NoError(t, there.Delete(ctx, "alice", "new", updated.ID))
	again, err := there.Create(ctx, newDefinition("alice", "new"))
	require.NoError(t, err)
	got, err = here.ByID(ctx, "alice", "new", again.ID)
	require.NoError(t, err, "though the one of before may be in memory")
	require.Equal(t, again, got)
	_, err = there.ByID(ctx, "alice", "new", def.ID)
	require.Equal(t, api.NotFound, api.CodeOf(err), "it is another one now")
	require.NoError(t, there.Delete(ctx, "alice", "new", again.ID))
	_, err = there.Get(ctx, "alice", "new")
	require.Equal(t, api.NotFound, api.CodeOf(err))
	_, err = there.ByUUID(ctx, fresh)
	require.Equal(t, api.NotFound, api.CodeOf(err))
	require.Eventually(t, func() bool { return len(here.All()) == 1 }, patience, 5*time.Millisecond)
	require.Equal(t, api.NotFound, api.CodeOf(here.Delete(ctx, "alice", "new", updated.ID)))
}

func testFunctionsNotRunning(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, prefix := t.Context(), newPrefix()
	c := connect(t, prefix)
	def, err := c.CreateFunction(ctx, newDefinition("alice", "resize"))
	require.NoError(t, err)

	f := NewFunctions(c)
	got, err := f.Get(ctx, "alice", "resize")
	require.NoError(t, err)
	require.Equal(t, def, got)
	_, err = f.Get(ctx, "alice", "other")
	require.Equal(t, api.NotFound, api.CodeOf(err))
	done, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, f.WaitReady(done), context.Canceled)
}

// testFunctionsChurn writes on two servers at once, each of which must see its own writes, and then both the same.
func testFunctionsChurn(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, prefix := t.Context(), newPrefix()
	servers := []*Functions{newFunctions(t, connect(t, prefix)), newFunctions(t, connect(t, prefix))}
	errs := make([]error, len(servers))
	var all sync.WaitGroup
	for i, f := range servers {
		all.Go(func() {
			errs[i] = func() error {
				for n := range 15 {
					name := fmt.Sprintf("f%d-%d", i, n%3) // each name is created anew several times
					def, err := f.Create(ctx, newDefinition("alice", name))
					if err != nil {
						return err
					}
					if got, err := f.Get(ctx, "alice", name); err != nil || got.ID != def.ID {
						return fmt.Errorf("created %s, got %s: %w", def.ID, got.ID, err)
					}
					if def, err = f.Update(ctx, "alice", name, func(d *api.Definition) error {
						d.Function.Timeout = n + 1
						return nil
					}); err != nil {
						return err
					}
					if got, err := f.ByUUID(ctx, def.Function.UUID); err != nil || got.Function.Timeout != n+1 {
						return fmt.Errorf("updated to %d, got %d: %w", n+1, got.Function.Timeout, err)
					}
					if n >= 12 {
						continue // the last three stay
					}
					if err := f.Delete(ctx, "alice", name, def.ID); err != nil {
						return err
					}
					if _, err := f.Get(ctx, "alice", name); api.CodeOf(err) != api.NotFound {
						return fmt.Errorf("deleted, got %w", err)
					}
				}
				return nil
			}()
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	require.EventuallyWithT(t, func(t *assertions) {
		require.Len(t, servers[0].All(), 6)
		require.Equal(t, servers[0].All(), servers[1].All())
	}, patience, 10*time.Millisecond)
}

func testSubscribe(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, prefix := t.Context(), newPrefix()
	here, there := newFunctions(t, connect(t, prefix)), NewFunctions(connect(t, prefix))
	first, err := here.Create(ctx, newDefinition("alice", "a"))
	require.NoError(t, err)

	events := make(chan string, 100)
	tell := func(old, now *api.Definition) {
		switch {
		case old == nil:
			events <- fmt.Sprintf("created %s %d", now.ID, now.Revision)
		case now == nil:
			events <- "removed " + old.ID
		default:
			events <- fmt.Sprintf("changed %s %d→%d", old.ID, old.Revision, now.Revision)
		}
	}
	here.Subscribe(tell)
	require.Equal(t, "created "+first.ID+" 1", receive(t, events), "what was known before")
	_, err = here.Update(ctx, "alice", "a", func(d *api.Definition) error { d.Function.Timeout = 9; return nil })
	require.NoError(t, err)
	require.Equal(t, "changed "+first.ID+" 1→2", receive(t, events))
	require.NoError(t, there.Delete(ctx, "alice", "a", first.ID))
	require.Equal(t, "removed "+first.ID, receive(t, events))
	second, err := there.Create(ctx, newDefinition("alice", "a"))
	require.NoError(t, err)
	require.Equal(t, "created "+second.ID+" 1", receive(t, events))
	require.NoError(t, here.Delete(ctx, "alice", "a", second.ID))
	require.Equal(t, "removed "+second.ID, receive(t, events))
}

func newCredential(key string) api.Credential {
	return api.Credential{AccessKey: key, Secret: "s3cret", Account: "alice",
		Created: api.Timestamp{Time: time.Now().UTC().Truncate(time.Millisecond)}}
}

func testCredentials(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, c := t.Context(), connect(t, newPrefix())
	all, err := c.Credentials(ctx)
	require.NoError(t, err)
	require.Empty(t, all)

	a, b := newCredential("AK1"), newCredential("AK0")
	b.CallOnly, b.Created.Time = true, a.Created.Add(time.Second)
	require.NoError(t, c.CreateCredential(ctx, a))
	require.NoError(t, c.CreateCredential(ctx, b))
	require.Equal(t, api.Conflict, api.CodeOf(c.CreateCredential(ctx, a)))
	got, err := c.Credential(ctx, "AK0")
	require.NoError(t, err)
	require.Equal(t, b, got)
	all, err = c.Credentials(ctx)
	require.NoError(t, err)
	require.Equal(t, []api.Credential{a, b}, all, "oldest first")

	require.NoError(t, c.DeleteCredential(ctx, "AK0"))
	require.Equal(t, api.NotFound, api.CodeOf(c.DeleteCredential(ctx, "AK0")))
	for _, key := range []string{"AK0", "", "../AK1", "AK1/"} {
		_, err = c.Credential(ctx, key)
		require.Equal(t, api.NotFound, api.CodeOf(err), key)
	}
	for name, cred := range map[string]api.Credential{
		"key":     {AccessKey: "a/b", Secret: "s", Account: "alice"},
		"secret":  {AccessKey: "a", Account: "alice"},
		"account": {AccessKey: "a", Secret: "s", Account: "Alice!"},
		"quota":   {AccessKey: "a", Secret: "s", Account: "alice", Quota: -1},
		"lines":   {AccessKey: "a", Secret: "s", Account: "alice", Description: "a\nb"},
	} {
		require.Equal(t, api.Invalid, api.CodeOf(c.CreateCredential(ctx, cred)), name)
	}

	updated, err := c.UpdateCredential(ctx, "AK1", func(cred *api.Credential) {
		*cred = api.Credential{Quota: 3, Description: "of the build server", Account: "mallory", Secret: "x"}
	})
	require.NoError(t, err)
	a.Quota, a.Description = 3, "of the build server"
	require.Equal(t, a, updated, "and nothing else of it")
	got, err = c.Credential(ctx, "AK1")
	require.NoError(t, err)
	require.Equal(t, a, got)
	_, err = c.UpdateCredential(ctx, "AK1", func(cred *api.Credential) { cred.Quota = api.MaxQuota + 1 })
	require.Equal(t, api.Invalid, api.CodeOf(err))
	_, err = c.UpdateCredential(ctx, "AK0", func(*api.Credential) {})
	require.Equal(t, api.NotFound, api.CodeOf(err))
}

func testQuotas(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, prefix := t.Context(), newPrefix()
	client := connect(t, prefix)
	server := NewCredentials(connect(t, prefix))
	_, known := server.Quotas()
	require.False(t, known, "before it has read them")
	start(t, func(ctx context.Context) { _ = server.Run(ctx) })
	require.NoError(t, server.WaitReady(ctx))
	expect := func(want map[string]int) {
		require.EventuallyWithT(t, func(t *assertions) {
			got, known := server.Quotas()
			require.True(t, known)
			require.Equal(t, want, got)
		}, patience, 5*time.Millisecond)
	}
	expect(map[string]int{})
	for key, quota := range map[string]int{"AK1": 0, "AK2": 5, "AK3": 2} {
		cred := newCredential(key)
		cred.Quota = quota
		require.NoError(t, client.CreateCredential(ctx, cred))
	}
	bob := newCredential("AK4")
	bob.Account = "bob"
	require.NoError(t, client.CreateCredential(ctx, bob))
	expect(map[string]int{"alice": 5})
	_, err := client.UpdateCredential(ctx, "AK4", func(cred *api.Credential) { cred.Quota = 1 })
	require.NoError(t, err)
	expect(map[string]int{"alice": 5, "bob": 1})
	require.NoError(t, client.DeleteCredential(ctx, "AK2"))
	expect(map[string]int{"alice": 2, "bob": 1})
}

func testCredentialsCache(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, prefix := t.Context(), newPrefix()
	var servers [2]*Credentials
	for i := range servers {
		servers[i] = NewCredentials(connect(t, prefix))
		start(t, func(ctx context.Context) { _ = servers[i].Run(ctx) })
		require.NoError(t, servers[i].WaitReady(ctx))
	}
	here, there := servers[0], servers[1]

	_, err := here.Get(ctx, "AK1")
	require.Equal(t, api.NotFound, api.CodeOf(err))
	cred := newCredential("AK1")
	require.NoError(t, here.Create(ctx, cred))
	got, err := here.Get(ctx, "AK1")
	require.NoError(t, err, "created here, though unknown a moment ago")
	require.Equal(t, cred, got)
	got, err = there.Get(ctx, "AK1")
	require.NoError(t, err)
	require.Equal(t, cred, got)
	require.Equal(t, []api.Credential{cred}, there.List())

	require.NoError(t, there.Delete(ctx, "AK1"))
	_, err = there.Get(ctx, "AK1")
	require.Equal(t, api.NotFound, api.CodeOf(err))
	require.Eventually(t, func() bool { return len(here.List()) == 0 }, patience, 5*time.Millisecond)
}
