package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/funcd/funcd/api"
)

type assertions = assert.CollectT

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connectFake(t *testing.T, f *fake, cfg Config) *Client {
	cfg.Address = f.URL
	if cfg.Prefix == "" {
		cfg.Prefix = newPrefix()
	}
	c, err := New(cfg)
	require.NoError(t, err)
	c.lockDelay = time.Millisecond
	t.Cleanup(c.Close)
	return c
}

func TestFake(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	testBackend(t, func(t *testing.T, prefix string) *Client { return connectFake(t, f, Config{Prefix: prefix}) })
}

func TestNew(t *testing.T) {
	t.Parallel()
	for prefix, want := range map[string]string{"": "funcd/x", "/a/b/": "a/b/x", "a//b": "", "../a": "", "a b": ""} {
		c, err := New(Config{Address: "127.0.0.1:1", Prefix: prefix})
		if want == "" {
			require.Error(t, err, prefix)
		} else {
			require.NoError(t, err, prefix)
			require.Equal(t, want, c.key("x"))
		}
	}
	for name, cfg := range map[string]Config{
		"timeout": {Timeout: -1},
		"scheme":  {Address: "ftp://127.0.0.1:1"},
		"CA file": {Address: "https://127.0.0.1:1", TLS: TLS{CAFile: "/nonexistent"}},
	} {
		_, err := New(cfg)
		require.Error(t, err, name)
	}
}

// TestErrors: whatever fails, it is never taken for "not found".
func TestErrors(t *testing.T) {
	t.Parallel()
	status := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "no", code)
			return true
		}
	}
	for name, test := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request) bool
		code   api.Code
		say    string
	}{
		"no leader":    {status(500), api.Unavailable, "Consul does not answer"},
		"rate limited": {status(429), api.Unavailable, "Consul does not answer"},
		"denied":       {status(403), api.Internal, "Consul refuses access"},
		"bad request":  {status(400), api.Internal, "Consul refuses the request"},
		"not JSON": {func(w http.ResponseWriter, _ *http.Request) bool {
			_, err := fmt.Fprint(w, "<html>")
			return err == nil
		}, api.Unavailable, "Consul does not answer"},
		"no answer in time": {func(_ http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body) // else the server would not see the client go
			<-r.Context().Done()
			return true
		}, api.Unavailable, "Consul does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			cfg := Config{}
			if name == "no answer in time" { // those that come take longer on a busy machine
				cfg.Timeout = 100 * time.Millisecond
			}
			c := connectFake(t, f, cfg)
			f.answering(test.answer)
			functions, credentials := NewFunctions(c), NewCredentials(c)
			ctx := t.Context()
			for call, do := range map[string]func() error{
				"ping":       func() error { return c.Ping(ctx) },
				"get":        func() error { _, err := functions.Get(ctx, "alice", "a"); return err },
				"by UUID":    func() error { _, err := functions.ByUUID(ctx, uuid.NewString()); return err },
				"update":     func() error { _, err := functions.Update(ctx, "alice", "a", nil); return err },
				"delete":     func() error { return functions.Delete(ctx, "alice", "a", "id") },
				"credential": func() error { _, err := credentials.Get(ctx, "AK"); return err },
				"list":       func() error { _, err := c.Credentials(ctx); return err },
			} {
				var e *api.Error
				require.ErrorAs(t, do(), &e, call)
				require.Equal(t, test.code, e.Code, call)
				require.Equal(t, test.say, e.Message, call)
				require.Error(t, e.Err, call)
			}
			_, err := functions.Create(ctx, newDefinition("alice", "a"))
			require.Contains(t, []api.Code{test.code, api.Unavailable}, api.CodeOf(err), "a transaction's errors have no status")
		})
	}
}

func TestErrorOfCallerThatLeaves(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := connectFake(t, f, Config{})
	asked := make(chan struct{}, 1)
	f.answering(func(_ http.ResponseWriter, r *http.Request) bool {
		asked <- struct{}{}
		<-r.Context().Done()
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	_, err := c.Function(ctx, "alice", "a")
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, api.Internal, api.CodeOf(err), "it is not Consul's fault")
}

// TestRefusedWrite: a token that may read but not write has its transactions rolled back as a conflict would be.
func TestRefusedWrite(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := connectFake(t, f, Config{})
	def, err := c.CreateFunction(t.Context(), newDefinition("alice", "a"))
	require.NoError(t, err)
	f.answering(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/txn" {
			return false
		}
		w.WriteHeader(http.StatusConflict)
		_, err := fmt.Fprint(w, `{"Errors": [{"OpIndex": 0, "What": "Permission denied"}]}`)
		return err == nil
	})
	_, err = c.CreateFunction(t.Context(), newDefinition("alice", "b"))
	require.Equal(t, api.Internal, api.CodeOf(err))
	require.ErrorContains(t, err, "Permission denied")
	require.Equal(t, api.Internal, api.CodeOf(c.DeleteFunction(t.Context(), "alice", "a", def.ID)))
}

// log is a logger's output that may be read meanwhile.
type log struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *log) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.String(), text)
}

func TestFunctionsRideOutAnOutage(t *testing.T) {
	t.Parallel()
	f, lines := newFake(t), &log{}
	c := connectFake(t, f, Config{Logger: slog.New(slog.NewTextHandler(lines, nil))})
	functions := newFunctions(t, c)
	removed := make(chan string, 10)
	functions.Subscribe(func(old, now *api.Definition) {
		if now == nil {
			removed <- old.ID
		}
	})
	def, err := functions.Create(t.Context(), newDefinition("alice", "a"))
	require.NoError(t, err)

	f.answering(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	before := f.count("GET")
	require.Eventually(t, func() bool { return f.count("GET") > before+3 }, patience, time.Millisecond, "it retries")
	got, err := functions.ByUUID(t.Context(), def.Function.UUID)
	require.NoError(t, err, "what is known is answered from memory")
	require.Equal(t, def, got)
	_, err = functions.Get(t.Context(), "alice", "b")
	require.Equal(t, api.Unavailable, api.CodeOf(err))

	f.answering(nil)
	require.NoError(t, c.DeleteFunction(t.Context(), "alice", "a", def.ID))
	require.Equal(t, def.ID, receive(t, removed))
	require.Equal(t, 1, lines.count("watch interrupted"))
	require.Equal(t, 1, lines.count("watch resumed"))
	require.NotContains(t, lines.String(), def.Function.UUID)
}

// TestFunctionsOfATokenThatSeesLess: Consul answers a token that may not read with fewer keys and no error.
func TestFunctionsOfATokenThatSeesLess(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"with a token": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
			w.WriteHeader(http.StatusNotFound)
			return true
		},
		"without a token": func(w http.ResponseWriter, r *http.Request) bool {
			status := http.StatusForbidden
			if r.URL.Query().Has("recurse") {
				status = http.StatusNotFound
			}
			w.WriteHeader(status)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			functions := newFunctions(t, connectFake(t, f, Config{}))
			_, err := functions.Create(t.Context(), newDefinition("alice", "a"))
			require.NoError(t, err)
			functions.Subscribe(func(_, now *api.Definition) {
				if now == nil {
					t.Error("a function that can't be seen is taken for deleted")
				}
			})
			f.answering(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("X-Consul-Index", "1000000")
				w.Header().Set("X-Consul-LastContact", "0") // Consul's client reads no header after it if it is missing
				return answer(w, r)
			})
			before := f.count("GET")
			require.Eventually(t, func() bool { return f.count("GET") > before+4 }, patience, time.Millisecond)
			require.Len(t, functions.All(), 1)
		})
	}
}

func TestFunctionsAfterARestoredSnapshot(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := connectFake(t, f, Config{})
	functions := newFunctions(t, c)
	for n := range 5 {
		_, err := functions.Create(t.Context(), newDefinition("alice", fmt.Sprint("a", n)))
		require.NoError(t, err)
	}
	f.restore(3)
	other := connectFake(t, f, Config{Prefix: c.prefix})
	updated, err := other.UpdateFunction(t.Context(), "alice", "a4", func(d *api.Definition) error {
		d.Function.Timeout = 1
		return nil
	})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		def, err := functions.Get(t.Context(), "alice", "a4")
		return err == nil && def.Revision == updated.Revision
	}, patience, time.Millisecond, "changes of lower indexes are taken")
}

func TestFunctionThatCannotBeRead(t *testing.T) {
	t.Parallel()
	f, lines := newFake(t), &log{}
	c := connectFake(t, f, Config{Logger: slog.New(slog.NewTextHandler(lines, nil))})
	def := newDefinition("alice", "good")
	value, err := json.Marshal(def)
	require.NoError(t, err)
	f.set(c.functionsPrefix()+"alice/broken", `{"Account": "alice", "secret`)
	f.set(c.functionsPrefix()+"bob/stolen", string(value))
	f.set(c.functionsPrefix()+"alice/good", string(value))
	functions := newFunctions(t, c)
	require.Len(t, functions.All(), 1)
	f.set(c.functionsPrefix()+"alice/broken2", "")
	require.Eventually(t, func() bool { return lines.count("alice/broken2") == 1 }, patience, time.Millisecond)
	require.Equal(t, 1, lines.count("alice/broken\n"), "logged once")
	require.Equal(t, 1, lines.count("bob/stolen"))
	require.NotContains(t, lines.String(), "secret")
	require.NotContains(t, lines.String(), def.Function.UUID)
	for _, key := range []string{"broken", "broken2"} {
		_, err := functions.Get(t.Context(), "alice", key)
		require.Equal(t, api.Internal, api.CodeOf(err))
	}
}

func TestWatchDecodesOnlyWhatHasChanged(t *testing.T) {
	t.Parallel()
	c := connectFake(t, newFake(t), Config{})
	var decoded []string // by the watch alone, which calls keyOf for each
	lists := make(chan []functionRecord, 10)
	stop := start(t, func(ctx context.Context) {
		_ = follow(ctx, c, c.functionsPrefix(), func(def *api.Definition) string {
			decoded = append(decoded, fmt.Sprint(def.Function.Name, " ", def.Revision))
			return keyOfDefinition(def)
		}, func() func([]functionRecord, uint64) {
			return func(records []functionRecord, _ uint64) { lists <- records }
		})
	})
	await := func(names ...string) {
		t.Helper()
		for {
			var got []string
			for _, r := range receive(t, lists) {
				got = append(got, fmt.Sprint(r.value.Function.Name, " ", r.value.Revision))
			}
			if slices.Equal(names, got) {
				return
			}
		}
	}
	await()
	a, err := c.CreateFunction(t.Context(), newDefinition("alice", "a"))
	require.NoError(t, err)
	await("a 1")
	_, err = c.CreateFunction(t.Context(), newDefinition("alice", "b"))
	require.NoError(t, err)
	await("a 1", "b 1")
	_, err = c.UpdateFunction(t.Context(), "alice", "b", func(d *api.Definition) error { d.Function.Timeout++; return nil })
	require.NoError(t, err)
	await("a 1", "b 2")
	require.NoError(t, c.DeleteFunction(t.Context(), "alice", "a", a.ID))
	await("b 2")
	_, err = c.CreateFunction(t.Context(), newDefinition("alice", "a"))
	require.NoError(t, err)
	await("a 1", "b 2")
	stop()
	require.Equal(t, []string{"a 1", "b 1", "b 2", "a 1"}, decoded)
}

// TestMissesShareOneRead: identical misses at a time cost one read.
func TestMissesShareOneRead(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := connectFake(t, f, Config{})
	def, err := c.CreateFunction(t.Context(), newDefinition("alice", "a"))
	require.NoError(t, err)
	release := make(chan struct{})
	f.answering(func(http.ResponseWriter, *http.Request) bool {
		<-release
		return false
	})
	functions := NewFunctions(c)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			got, err := functions.Get(t.Context(), "alice", "a")
			if assert.NoError(t, err) {
				assert.Equal(t, def, got)
			}
		})
	}
	require.Eventually(t, func() bool { return f.count("GET") == 1 }, patience, time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = functions.Get(ctx, "alice", "a")
	require.ErrorIs(t, err, context.Canceled, "who leaves does not wait")
	close(release)
	all.Wait()
	require.Equal(t, 1, f.count("GET"))
	_, err = functions.ByUUID(t.Context(), def.Function.UUID)
	require.NoError(t, err)
	require.Equal(t, 1, f.count("GET"), "and from then on it is known")
}

func TestUnknownCredentialsAreRemembered(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	credentials := NewCredentials(connectFake(t, f, Config{}))
	for range 10 {
		_, err := credentials.Get(t.Context(), "AK")
		require.Equal(t, api.NotFound, api.CodeOf(err))
	}
	require.Equal(t, 1, f.count("GET"))
	for n := range unknownKeys + 100 {
		credentials.unknown.Add(fmt.Sprint(n), time.Now())
	}
	require.Equal(t, unknownKeys, credentials.unknown.Len(), "their number is bounded")
	_, err := credentials.Get(t.Context(), "AK")
	require.Equal(t, api.NotFound, api.CodeOf(err))
	require.Equal(t, 2, f.count("GET"), "what was pushed out is asked for again")
	credentials.unknown.Add("AK", time.Now())
	_, err = credentials.Get(t.Context(), "AK")
	require.Equal(t, api.NotFound, api.CodeOf(err))
	require.Equal(t, 3, f.count("GET"), "and what is over its time")
}

// TestMissesAreBounded: endless unknown keys have no more than maxReads requests going.
func TestMissesAreBounded(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	var mu sync.Mutex
	var once sync.Once
	going, most := 0, 0
	full, release := make(chan struct{}), make(chan struct{})
	f.answering(func(http.ResponseWriter, *http.Request) bool {
		mu.Lock()
		going++
		if most = max(most, going); going == maxReads {
			once.Do(func() { close(full) })
		}
		mu.Unlock()
		<-release
		mu.Lock()
		going--
		mu.Unlock()
		return false
	})
	credentials := NewCredentials(connectFake(t, f, Config{}))
	var all sync.WaitGroup
	for n := range 4 * maxReads {
		all.Go(func() {
			_, err := credentials.Get(t.Context(), fmt.Sprint("AK", n))
			assert.Equal(t, api.NotFound, api.CodeOf(err))
		})
	}
	receive(t, full)
	close(release)
	all.Wait()
	require.Equal(t, maxReads, most)
}

func TestRegistrationRidesOutAnOutage(t *testing.T) {
	t.Parallel()
	f, lines := newFake(t), &log{}
	c := connectFake(t, f, Config{Logger: slog.New(slog.NewTextHandler(lines, nil))})
	stop := start(t, func(ctx context.Context) {
		c.keepRegistered(ctx, Service{ID: "funcd-1", Name: "funcd"}, time.Millisecond)
	})
	require.Eventually(t, func() bool { return f.count("GET") > 2 }, patience, time.Millisecond)
	f.answering(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	before := f.count("GET")
	require.Eventually(t, func() bool { return f.count("GET") > before+2 }, patience, time.Millisecond)
	f.answering(nil)
	require.Eventually(t, func() bool { return lines.count("registration resumed") == 1 }, patience, time.Millisecond)
	require.Equal(t, 1, lines.count("registration interrupted"))
	require.Equal(t, 1, f.count("/register"), "a registration that has stayed is not made again")
	stop()
	require.Equal(t, 1, f.count("/deregister/funcd-1"))
}

func TestSubscribersOfAFunctionCreatedAnew(t *testing.T) {
	t.Parallel()
	f := NewFunctions(connectFake(t, newFake(t), Config{}))
	first, second := newDefinition("alice", "a"), newDefinition("alice", "a")
	f.put(functionRecord{key: "alice/a", index: 1, value: first})
	var told []string
	f.Subscribe(func(old, now *api.Definition) {
		if old != nil {
			told = append(told, "-"+old.ID)
		}
		if now != nil {
			told = append(told, "+"+now.ID)
		}
	})
	f.apply(func(t *table[api.Definition]) []change[api.Definition] {
		return t.sync([]functionRecord{{key: "alice/a", index: 5, value: second}}, 5, t.clock)
	})
	require.Equal(t, []string{"+" + first.ID, "-" + first.ID, "+" + second.ID}, told, "one list has shown both")
}

func TestLeaderRidesOutAnOutage(t *testing.T) {
	t.Parallel()
	f, lines := newFake(t), &log{}
	c := connectFake(t, f, Config{Logger: slog.New(slog.NewTextHandler(lines, nil))})
	fail := func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	f.answering(fail)
	gained := make(chan context.Context)
	start(t, func(ctx context.Context) {
		_ = c.WhileLeader(ctx, "chores", func(held context.Context) error {
			gained <- held
			<-held.Done()
			return nil
		})
	})
	require.Eventually(t, func() bool { return f.count("/session/create") > 1 }, patience, time.Millisecond, "it tries again")
	f.answering(nil)
	held := receive(t, gained)
	require.Equal(t, 1, lines.count("lock can't be acquired"))

	f.answering(fail)
	before := f.count("GET")
	require.Eventually(t, func() bool { return f.count("GET") > before+2 }, patience, time.Millisecond)
	require.NoError(t, held.Err(), "a session outlives a short outage")
	f.answering(nil)
	f.set(c.key("locks", "chores"), "")
	<-held.Done()
	require.ErrorIs(t, context.Cause(held), errLockLost, "but not the end of its lock")
	receive(t, gained)
}
