package nomad

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	nomad "github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testJob = "func-default-hello/dispatch-1"

// fakeNomad answers what the Client asks for, with the bodies that Nomad gives.
type fakeNomad struct {
	mu          sync.Mutex
	allocations []*nomad.AllocationListStub
	evaluations []*nomad.Evaluation
	keys        jose.JSONWebKeySet
	keysAsked   int
	status      int // of every answer, if not 0
	body        string
	requests    []string
	streams     chan *stream // each connection to the event stream
	mute        int          // so many of them are not answered
}

// stream is one connection to the event stream.
type stream struct {
	lines chan string
	end   chan struct{}
}

func (f *fakeNomad) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v1/event/stream" {
		f.serveStream(w, r)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	if f.status != 0 {
		http.Error(w, f.body, f.status)
		return
	}
	var answer any
	switch {
	case r.URL.Path == "/.well-known/jwks.json":
		f.keysAsked++
		answer = f.keys
	case strings.HasSuffix(r.URL.Path, "/allocations"):
		answer = f.allocations
	case strings.HasSuffix(r.URL.Path, "/evaluations"):
		answer = f.evaluations
	default:
		_, _ = fmt.Fprint(w, f.body)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (f *fakeNomad) serveStream(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	status, mute := f.status, f.mute > 0
	f.mute--
	f.mu.Unlock()
	if mute {
		<-r.Context().Done()
		return
	}
	if status != 0 {
		http.Error(w, f.body, status)
		return
	}
	s := &stream{lines: make(chan string), end: make(chan struct{})}
	flusher := http.NewResponseController(w)
	_ = flusher.Flush()
	select {
	case f.streams <- s:
	case <-r.Context().Done():
		return
	}
	for {
		select {
		case line := <-s.lines:
			_, _ = fmt.Fprintln(w, line)
			_ = flusher.Flush()
		case <-s.end:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (f *fakeNomad) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func newFake(t *testing.T) (*fakeNomad, *Client) {
	f := &fakeNomad{streams: make(chan *stream, 8)}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return f, newClient(t, server.URL)
}

func newClient(t *testing.T, address string) *Client {
	c, err := New(Config{
		Address: address, Token: "token", Timeout: 20 * time.Second, Logger: slog.New(slog.DiscardHandler),
		Options: jobs.Options{Sizes: jobs.DefaultSizes(), Runner: jobs.Runner{SocketDir: "/x"}, MaxKillTimeout: time.Second, Placement: jobs.Placement{Priority: 50}},
	})
	require.NoError(t, err)
	t.Cleanup(c.nomad.Close)
	return c
}

func testDefinition() *api.Definition {
	return &api.Definition{
		ID: "f", Account: "default", Revision: 1, Image: api.Image{Ref: "busybox@sha256:0"},
		Function: api.Function{Name: "hello", ContainerSize: "s1", Timeout: 5, Config: api.Config{Image: "busybox", StopSignal: "SIGTERM"}},
	}
}

func TestTranslate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		code   api.Code
		text   string
	}{
		"no such job":           {404, "job not found", api.NotFound, "does not know the job"},
		"no such parameterized": {500, "parameterized job not found", api.NotFound, "does not know the job"},
		"a token without power": {403, "Permission denied", api.Unavailable, "refuses funcd's token"},
		"a job that is wrong":   {400, "Job ID can't be empty", api.Invalid, "dispatching a container: Job ID can't be empty"},
		"no such node pool":     {500, "1 error occurred:\n\t* job \"f\" is in nonexistent node pool \"x\"", api.Invalid, `Nomad has no node pool "x"`},
		"no such namespace":     {500, "1 error occurred:\n\t* job \"f\" is in nonexistent namespace \"x\"", api.Invalid, `Nomad has no namespace "x"`},
		"no leader":             {500, "No cluster leader", api.Unavailable, "does not answer"},
		"too many requests":     {429, "slow down", api.Unavailable, "does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, client := newFake(t)
			f.status, f.body = c.status, c.body
			_, err := client.Dispatch(t.Context(), "default", "hello", "call", 0)
			require.Equal(t, c.code, api.CodeOf(err))
			require.ErrorContains(t, err, c.text)
		})
	}
	require.NoError(t, translate(nil, "x"))

	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	client := newClient(t, gone.URL)
	_, err := client.Dispatch(t.Context(), "default", "hello", "call", 0)
	require.Equal(t, api.Unavailable, api.CodeOf(err), "unreachable is never not found")
	require.Equal(t, api.Unavailable, api.CodeOf(client.Stop(t.Context(), testJob)))
	require.Equal(t, api.Unavailable, api.CodeOf(client.Register(t.Context(), testDefinition())))
	require.Equal(t, api.Unavailable, api.CodeOf(client.Ping(t.Context())))
}

func TestStopOfWhatIsGone(t *testing.T) {
	t.Parallel()
	f, client := newFake(t)
	f.status, f.body = 404, "job not found"
	require.NoError(t, client.Stop(t.Context(), testJob))
}

func TestPing(t *testing.T) {
	t.Parallel()
	f, client := newFake(t)
	f.body = `"127.0.0.1:4647"`
	require.NoError(t, client.Ping(t.Context()))
	f.set(func() { f.body = `""` })
	require.ErrorContains(t, client.Ping(t.Context()), "no leader")
	f.set(func() { f.status = 500 })
	require.Equal(t, api.Unavailable, api.CodeOf(client.Ping(t.Context())))
}

func TestNewChecksItsOptions(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Logger: slog.New(slog.DiscardHandler)})
	require.ErrorContains(t, err, "size s1")
}
