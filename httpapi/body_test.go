package httpapi

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// endless is a backend all of whose waits end with their clients alone.
type endless struct {
	*backend
	waiting chan struct{} // gets a value when one waits
}

func (e endless) wait(ctx context.Context) error {
	e.waiting <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

func (e endless) Output(ctx context.Context, _ *api.Definition, _ string, _ bool) (api.Record, []byte, error) {
	return api.Record{}, nil, e.wait(ctx)
}

func (e endless) Cancel(ctx context.Context, _ *api.Definition, _ string) error { return e.wait(ctx) }

func (e endless) Events(ctx context.Context, _ string, _ api.EventQuery, _ func([]byte) error) error {
	return e.wait(ctx)
}

func (e endless) Status(ctx context.Context, _ string) (api.Status, error) {
	return api.Status{}, e.wait(ctx)
}

func (e endless) Next(ctx context.Context, _ api.Allocation, _, _ string) (*api.Assignment, []byte, error) {
	return nil, nil, e.wait(ctx)
}

func (e endless) NextSlot(ctx context.Context, _ api.Allocation, _ api.Slot) (*api.Assignment, []byte, error) {
	return nil, nil, e.wait(ctx)
}

func (e endless) Begin(ctx context.Context, _ api.Allocation, _, _ string) error { return e.wait(ctx) }

// waits are requests that may take as long as they like, and need no body.
var waits = map[string]string{
	"output":             "GET " + outputPath + "/wait",
	"a cancellation":     "DELETE " + callPath + "/" + testCall,
	"logs":               "GET " + logsPath + "?follow=1",
	"logs, upgraded":     "GET " + logsPath + "?follow=1",
	"status":             "GET " + statusPath,
	"a container":        "POST " + nextPath,
	"a slot":             "POST " + slotNextPath,
	"a slot, upgraded":   "POST " + slotNextPath,
	"a slot that begins": "POST " + beginPath,
}

// signable returns whether one of the waits must be signed, in one case and the other: a runner has its token.
func signable(name string) []bool {
	if strings.Contains(waits[name], "/runner/") {
		return []bool{false}
	}
	return []bool{false, true}
}

// headOf returns the head of one of the waits, but for the length of its body.
func headOf(t *testing.T, name, body string, signs bool) string {
	method, path, _ := strings.Cut(waits[name], " ")
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	r.Host = "127.0.0.1:3862"
	switch {
	case strings.HasPrefix(path, "/runner/"):
		r.Header.Set("Authorization", "Bearer "+goodToken)
	case signs:
		api.Sign(r, []byte(body), signingKey("AKOWNER", testSecret), time.Now())
	}
	if strings.HasSuffix(name, ", upgraded") {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", map[bool]string{true: api.RunnerUpgrade, false: "tcp"}[strings.HasPrefix(path, "/runner/")])
	}
	head := &strings.Builder{}
	fmt.Fprintf(head, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, r.Host)
	require.NoError(t, r.Header.Write(head))
	return head.String()
}

// serveWaits is serve for requests that would not end by themselves.
func serveWaits(t *testing.T, handler http.Handler) *httptest.Server {
	server := httptest.NewUnstartedServer(handler)
	base, stop := context.WithCancel(context.Background())
	server.Config.BaseContext = func(net.Listener) context.Context { return base }
	server.Start()
	t.Cleanup(func() {
		stop()
		server.Close()
	})
	return server
}

// A client that is gone has sent all that it will: net/http, which reads on only after the body, must not wait for somebody to read that.
func TestABodyDoesNotHideThatItsClientHasGone(t *testing.T) {
	t.Parallel()
	// More than net/http reads by itself as the answer begins.
	body := strings.Repeat("x", 300<<10)
	for name := range waits {
		for _, chunked := range []bool{false, true} {
			for _, signs := range signable(name) {
				t.Run(fmt.Sprintf("%s, chunked %t, signed %t", name, chunked, signs), func(t *testing.T) {
					t.Parallel()
					b := newBackend()
					b.definition.Account = "owner"
					backend := endless{b, make(chan struct{}, 1)}
					cfg := testConfig(b)
					cfg.Calls, cfg.Logs, cfg.States, cfg.Runners, cfg.PollTime = backend, backend, backend, backend, time.Hour
					cfg.SignedCalls = func(string) bool { return signs }
					handler, ended := New(cfg).Handler(true), make(chan struct{})
					server := serveWaits(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						defer close(ended)
						handler.ServeHTTP(w, r)
					}))

					sent := headOf(t, name, body, signs)
					if chunked {
						sent += fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
					} else {
						sent += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
					}
					conn, _ := raw(t, server, sent)
					select {
					case <-backend.waiting:
					case <-ended:
						t.Fatal("the request does not wait")
					case <-time.After(20 * time.Second):
						t.Fatal("the request is not served")
					}
					require.NoError(t, conn.Close())
					select {
					case <-ended:
					case <-time.After(20 * time.Second):
						t.Fatal("the request outlives its client")
					}
				})
			}
		}
	}
}

// What a body may be does not depend on whether it is needed.
func TestABodyThatIsNotNeededIsBounded(t *testing.T) {
	t.Parallel()
	over := strings.Repeat("x", 101)
	for name, c := range map[string]struct {
		sent   string
		status int
	}{
		"too large":            {fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(over), over), 413},
		"too large, in chunks": {fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(over), over), 413},
		"stalls":               {"Content-Length: 10\r\n\r\nabc", 408},
		"stalls, in chunks":    {"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 408},
		"malformed":            {"Transfer-Encoding: chunked\r\n\r\nx\r\n", 400},
	} {
		for of := range waits {
			for _, signs := range signable(of) {
				t.Run(fmt.Sprintf("%s, %s, signed %t", of, name, signs), func(t *testing.T) {
					t.Parallel()
					b := newBackend()
					b.definition.Account = "owner"
					cfg := testConfig(b)
					cfg.MaxBody, cfg.BodyTime = 100, time.Minute
					if c.status == 408 {
						cfg.BodyTime = 30 * time.Millisecond
					}
					cfg.SignedCalls = func(string) bool { return signs }
					_, in := raw(t, serveWaits(t, New(cfg).Handler(true)), headOf(t, of, over, signs)+c.sent)
					resp, err := http.ReadResponse(in, nil)
					require.NoError(t, err)
					defer resp.Body.Close()
					text, err := io.ReadAll(resp.Body)
					require.NoError(t, err)
					require.Equal(t, c.status, resp.StatusCode, "%s", text)
					require.True(t, resp.Close, "what was not read can't be taken for the next request")
					method, path, _ := strings.Cut(waits[of], " ")
					if !strings.HasPrefix(path, "/runner/") {
						_, err = document.Check(method, strings.Split(path, "?")[0], resp)
						require.NoError(t, err)
					}
					require.Zero(t, b.cancelled)
				})
			}
		}
	}
}
