//go:build integration

package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// relay stands between the containers that wait and their funcd, and knows the messages that go over their connections.
type relay struct {
	backend string // host:port of funcd

	mu   sync.Mutex
	hold byte // the kind of the message that is not passed on
	job  chan string
	gone chan struct{}
}

// at has the next message of the kind dropped. Its container's job comes over the channel that is returned, and its connection stays until gone is
// closed.
func (r *relay) at(kind byte, gone chan struct{}) (job <-chan string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold, r.job, r.gone = kind, make(chan string, 1), gone
	return r.job
}

// drops tells whether a message is the one to be dropped.
func (r *relay) drops(kind byte, job string) bool {
	r.mu.Lock()
	if r.hold == 0 || kind != r.hold {
		r.mu.Unlock()
		return false
	}
	r.hold = 0
	r.job <- job
	gone := r.gone
	r.mu.Unlock()
	<-gone
	return true
}

func (r *relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Header.Get("Upgrade") == "" {
		httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: r.backend}).ServeHTTP(w, req)
		return
	}
	server, err := net.Dial("tcp", r.backend)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer server.Close()
	runner, fromRunner, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer runner.Close()
	fromServer := bufio.NewReader(server)
	if err := req.Write(server); err != nil {
		return
	}
	resp, err := http.ReadResponse(fromServer, req)
	if err != nil || resp.Write(runner) != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		return
	}
	job := req.URL.Query().Get("job")
	var back sync.WaitGroup
	back.Go(func() {
		defer runner.Close()
		r.pass(runner, fromServer, job)
	})
	r.pass(server, fromRunner.Reader, job)
	server.Close()
	back.Wait()
}

// pass passes messages on until an end of the connection is closed, or the message comes that is dropped.
func (r *relay) pass(to io.Writer, from *bufio.Reader, job string) {
	out := bufio.NewWriter(to)
	for {
		kind, head, body, err := api.ReadMessage(from, 2<<20)
		if err != nil || r.drops(kind, job) {
			return
		}
		var line any // as it came
		if len(head) > 0 {
			line = raw(head)
		}
		if api.WriteMessage(out, kind, line, body) != nil {
			return
		}
	}
}

// raw is JSON already.
type raw []byte

func (r raw) MarshalJSON() ([]byte, error) { return r, nil }

// TestSlotIsKilledAtEachStep kills the container of a slot, as kill -9 does, at each step of its taking a call and giving it back. Until the
// function may have started that costs the call nothing but time.
func TestSlotIsKilledAtEachStep(t *testing.T) {
	t.Parallel()
	free, err := freePorts(1)
	require.NoError(t, err)
	between := &relay{backend: "127.0.0.1:" + free[0]}
	listener := httptest.NewServer(between)
	t.Cleanup(listener.Close)
	o := beside("steps")
	o.http = between.backend
	o.config += fmt.Sprintf("runner {\n  mode    = \"http\"\n  address = %q\n}\n", listener.URL)
	own := startOwn(t, "steps", o)
	listening := warm(2, program("funcd-test/probe", "cat"))
	listening.HostConfig.NetworkMode = "host" // where the relay is
	f := own.create(t, listening)

	for _, step := range []struct {
		kind   byte
		before string
		status int
		events []string
	}{
		{api.MessageCall, "the call has come to it", http.StatusOK, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}},
		{api.MessageBegin, "it has confirmed the call", http.StatusOK, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}},
		{api.MessageGo, "it has started the function", http.StatusInternalServerError, []string{"CALL", "PENDING", "RUNNING", "FAILED"}},
		{api.MessageLast, "it has handed in the result", http.StatusInternalServerError, []string{"CALL", "PENDING", "RUNNING", "FAILED"}},
		{api.MessageStored, "it knows that the result is stored", http.StatusOK, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}},
	} {
		t.Run("before "+step.before, func(t *testing.T) {
			f.awaitReady(t, 2)
			gone := make(chan struct{})
			release := sync.OnceFunc(func() { close(gone) })
			defer release()
			dropped := between.at(step.kind, gone)
			call := f.call(t, step.before)
			var job string
			select {
			case job = <-dropped:
			case <-time.After(patience):
				require.FailNow(t, "the message did not come")
			}
			docker(t, "", append([]string{"kill", "--signal", "KILL"}, containersOf(t, f.allocationsOf(t, []string{job}))...)...)
			release()
			out := f.wait(t, call)
			require.Equal(t, step.status, out.status, out.body)
			if step.status == http.StatusOK {
				require.Equal(t, step.before, out.body)
			} else {
				require.Contains(t, out.body, "container")
			}
			require.Equal(t, step.events, kinds(f.eventsOf(t, call, api.State(last(step.events)))))
		})
	}
	f.remove(t)
}

// containersOf returns the ids of the containers that run of the allocations.
func containersOf(t *testing.T, allocations []string) (ids []string) {
	t.Helper()
	for _, id := range allocations {
		ids = append(ids, containerOf(t, id))
	}
	return ids
}
