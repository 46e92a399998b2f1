//go:build integration

package test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// client asks nobody for a proxy and follows no redirects. Its requests are bounded by their contexts. An answer of funcd's that its document
// does not describe is an error.
var client = &http.Client{
	Transport:     document.Transport(&http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 32}, isDescribed, undescribed),
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// answer is an HTTP response with its body read.
type answer struct {
	status int
	header http.Header
	body   string
}

// request makes a request. headers are names and values in turn.
func request(t *testing.T, method, target, body string, headers ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// request makes a request to the stack's API.
func (s *stack) request(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	return request(t, method, s.url+path, body, headers...)
}

// function is a function that a test has created.
type function struct {
	api.Function
	on *stack
}

var (
	notInNames = regexp.MustCompile(`[^a-z0-9]+`)
	names      atomic.Int64
)

// newName returns a name for a function of the test that no other has.
func newName(t *testing.T) string {
	name := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(t.Name()), "-"), "-")
	return fmt.Sprintf("%.60s-%d", name, names.Add(1))
}

// create creates a function. Its name, if it has none, is one of the test's own, and its size the smallest.
func (s *stack) create(t *testing.T, f api.Function) *function {
	t.Helper()
	if f.Name == "" {
		f.Name = newName(t)
	}
	if f.ContainerSize == "" {
		f.ContainerSize = "s1"
	}
	created, err := s.CreateFunction(t.Context(), f)
	require.NoError(t, err)
	return &function{created, s}
}

// program is a function of an image with a command.
func program(image string, cmd ...string) api.Function {
	return api.Function{Config: api.Config{Image: image, Cmd: cmd}}
}

// cold is the function without containers that wait for calls: each call has one that was started for it.
func cold(f api.Function) api.Function {
	f.Config.Labels = map[string]string{"funcd.warm": "0"}
	return f
}

// path is that of a call endpoint for the function.
func (f *function) path(endpoint string, more ...string) string {
	return "/" + strings.Join(append([]string{endpoint, f.Name, f.UUID}, more...), "/")
}

// job is the id of the function's job in Nomad.
func (f *function) job() string { return "func-default-" + f.Name }

// sync makes a synchronous call.
func (f *function) sync(t *testing.T, payload string, headers ...string) answer {
	t.Helper()
	return f.on.request(t, http.MethodPost, f.path("call", "sync"), payload, headers...)
}

// call makes a call and returns its id.
func (f *function) call(t *testing.T, payload string) string {
	t.Helper()
	id, err := f.on.Call(t.Context(), f.Name, f.UUID, strings.NewReader(payload), nil)
	require.NoError(t, err)
	require.True(t, api.ValidUUID(id), id)
	return id
}

// output asks for a call's output, and wait waits for it.
func (f *function) output(t *testing.T, call string) answer {
	t.Helper()
	return f.on.request(t, http.MethodGet, f.path("output", call), "")
}

func (f *function) wait(t *testing.T, call string) answer {
	t.Helper()
	return f.on.request(t, http.MethodGet, f.path("output", call, "wait"), "")
}

// events returns the lines of /logs.
func (f *function) events(t *testing.T, query string) []api.Event {
	t.Helper()
	a := f.on.request(t, http.MethodGet, f.path("logs")+query, "")
	require.Equal(t, http.StatusOK, a.status, a.body)
	var events []api.Event
	lines := bufio.NewScanner(strings.NewReader(a.body))
	for lines.Scan() {
		var e api.Event
		require.NoError(t, json.Unmarshal(lines.Bytes(), &e), lines.Text())
		events = append(events, e)
	}
	return events
}

// eventsOf waits until the call has an event of the kind and returns all that it has.
func (f *function) eventsOf(t *testing.T, call string, kind api.State) []api.Event {
	t.Helper()
	var events []api.Event
	eventually(t, "the event "+string(kind)+" of a call", func() bool {
		events = f.events(t, "?callid="+call)
		return slices.ContainsFunc(events, func(e api.Event) bool { return e.Event == string(kind) })
	})
	return events
}

// awaitMessage waits until the call is pending for a reason with the text in it.
func (f *function) awaitMessage(t *testing.T, call, text string) {
	t.Helper()
	eventually(t, "a pending call that says "+text, func() bool {
		a := f.output(t, call)
		require.Equal(t, http.StatusAccepted, a.status, a.body)
		return strings.Contains(a.body, text)
	})
	eventually(t, "the same word among its events", func() bool {
		return slices.ContainsFunc(f.events(t, "?callid="+call), func(e api.Event) bool {
			return e.Event == string(api.Pending) && strings.Contains(e.Message, text)
		})
	})
}

// awaitGone waits until a call is removed whose answer has arrived: who has the answer may know that a moment before the server does.
func (f *function) awaitGone(t *testing.T, call string) {
	t.Helper()
	eventually(t, "the end of a call that was fetched", func() bool {
		return !slices.ContainsFunc(f.status(t, "?list=1").List, func(c api.CallStatus) bool { return c.CallID == call })
	})
}

// removeEnded removes a function whose calls have all ended: each leaves the queue a moment after its end is told, and until then the function
// can't be removed.
func (f *function) removeEnded(t *testing.T) {
	t.Helper()
	eventually(t, "the removal of a function without calls", func() bool {
		err := f.on.RemoveFunction(t.Context(), f.Name)
		require.Contains(t, []api.Code{"", api.Conflict}, api.CodeOf(err), "%v", err)
		return err == nil
	})
}

// kinds are the events' kinds, without what a pending call says of its waiting: whether a call has to wait depends on the other tests.
func kinds(events []api.Event) []string {
	var kinds []string
	for _, e := range events {
		if e.Event != string(api.Pending) || e.Message == "" {
			kinds = append(kinds, e.Event)
		}
	}
	return kinds
}

// last is the last of a list.
func last[T any](list []T) T { return list[len(list)-1] }

// dispatches are the function's containers as Nomad has them: those of calls, and those that were started ahead of any.
func (f *function) dispatches(t *testing.T) []job {
	t.Helper()
	var list []job
	f.on.nomadGet(t, "/v1/jobs?prefix="+f.job()+"/dispatch-", &list)
	return list
}

// children are the dispatches for a call.
func (f *function) children(t *testing.T) []job {
	t.Helper()
	return slices.DeleteFunc(f.dispatches(t), func(j job) bool { return strings.HasPrefix(j.ID, f.job()+"/dispatch-slot-") })
}

// childOf waits for the job of a call.
func (f *function) childOf(t *testing.T, call string) job {
	t.Helper()
	var child job
	eventually(t, "a Nomad job for the call", func() bool {
		for _, child = range f.children(t) {
			if strings.Contains(child.ID, call[:8]) {
				return true
			}
		}
		return false
	})
	return child
}

// allocationOf waits for the allocation of a call.
func (f *function) allocationOf(t *testing.T, call string) allocation {
	t.Helper()
	child := f.childOf(t, call)
	var list []allocation
	eventually(t, "an allocation for the call", func() bool {
		f.on.nomadGet(t, jobOf(child.ID)+"/allocations", &list)
		return len(list) > 0
	})
	return list[0]
}

// containerOf waits for the container of an allocation and returns its id.
func containerOf(t *testing.T, allocation string) string {
	t.Helper()
	var id string
	eventually(t, "a container for the allocation", func() bool {
		id = strings.TrimSpace(docker(t, "", "ps", "--quiet", "--no-trunc", "--filter", "label=com.hashicorp.nomad.alloc_id="+allocation))
		return id != ""
	})
	return id
}

// talking waits until a container of the function that runs has written the text to its stdout, and returns its id. Those that wait for a call have
// written nothing.
func (f *function) talking(t *testing.T, text string) string {
	t.Helper()
	var found string
	eventually(t, "a container that prints "+text, func() bool {
		for _, allocation := range f.allocationsOf(t, f.live(t)) {
			ids := docker(t, "", "ps", "--quiet", "--no-trunc", "--filter", "label=com.hashicorp.nomad.alloc_id="+allocation)
			for _, id := range strings.Fields(ids) {
				// It may end by itself meanwhile.
				said, err := exec.CommandContext(t.Context(), "docker", "logs", id).Output()
				if err == nil && strings.Contains(string(said), text) {
					found = id
					return true
				}
			}
		}
		return false
	})
	return found
}

// awaitSaid waits until a container has written the text to its stdout.
func awaitSaid(t *testing.T, container, text string) {
	t.Helper()
	eventually(t, "a function that prints "+text, func() bool { return strings.Contains(docker(t, "", "logs", container), text) })
}

// nomadBehindGate returns the address of dev's Nomad behind a gate.
func nomadBehindGate(t *testing.T) (*gate, *httptest.Server) {
	t.Helper()
	return behindGate(t, dev.nomad)
}

// behindGate returns a server that passes on requests to the one at the address, as long as its gate lets them through.
func behindGate(t *testing.T, address string) (*gate, *httptest.Server) {
	t.Helper()
	target, err := url.Parse(address)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = &http.Transport{DisableCompression: true}
	proxy.FlushInterval = -1 // Nomad's events are to come through one by one
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	g := &gate{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuse := g.get(); refuse != nil && refuse(w, r) {
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return g, server
}

// hangUp ends every connection without an answer, as one to a server that is gone ends.
func hangUp(w http.ResponseWriter, _ *http.Request) bool {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		conn.Close()
	}
	return true
}

// took is the time between two events of a call.
func took(events []api.Event, from, to api.State) time.Duration {
	var begin, end time.Time
	for _, e := range events {
		switch e.Event {
		case string(from):
			begin = e.Time.Time
		case string(to):
			end = e.Time.Time
		}
	}
	return end.Sub(begin)
}
