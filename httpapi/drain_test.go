package httpapi

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestAnAnnouncedEnd(t *testing.T) {
	t.Parallel()
	s := New(testConfig(newBackend()))
	server := httptest.NewServer(s.Handler(false))
	t.Cleanup(server.Close)
	resp, _ := ask(t, server, "GET", "/readyz", nil)
	require.Equal(t, 200, resp.StatusCode)
	require.False(t, resp.Close)
	s.Announce()
	s.Announce()
	resp, body := ask(t, server, "GET", "/readyz", nil)
	require.Equal(t, 503, resp.StatusCode)
	require.Contains(t, body, "the server is stopping")
	resp, _ = ask(t, server, "GET", "/healthz", nil)
	require.Equal(t, 200, resp.StatusCode, "it lives")
	resp, _ = ask(t, server, "GET", "/funcs", nil)
	require.Equal(t, 200, resp.StatusCode, "all else is answered")
	require.True(t, resp.Close, "and the connection is closed, so that the client comes back to another server")
}

// slowBackend has the calls that end when they are told to.
type slowBackend struct {
	*backend
	waiting, end chan struct{}
}

func (b *slowBackend) Output(ctx context.Context, d *api.Definition, call string, wait bool) (api.Record, []byte, error) {
	close(b.waiting)
	<-b.end
	return b.backend.Output(ctx, d, call, wait)
}

func TestARequestThatOutlivesTheAnnouncementClosesItsConnection(t *testing.T) {
	t.Parallel()
	for _, path := range []string{outputPath + "/wait", callPath + "/sync"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			b := &slowBackend{backend: newBackend(), waiting: make(chan struct{}), end: make(chan struct{})}
			cfg := testConfig(b.backend)
			cfg.Calls = b
			s := New(cfg)
			server := httptest.NewServer(s.Handler(false))
			t.Cleanup(server.Close)
			closes := make(chan bool)
			go func() {
				resp, _ := ask(t, server, "GET", path, nil)
				closes <- resp.Close
			}()
			<-b.waiting
			s.Announce()
			close(b.end)
			require.True(t, <-closes)
		})
	}
}

// waitingBackend has no call for anyone.
type waitingBackend struct {
	*backend
	waiting chan struct{}
}

func (b *waitingBackend) Next(ctx context.Context, _ api.Allocation, _, _ string) (*api.Assignment, []byte, error) {
	b.waiting <- struct{}{}
	<-ctx.Done()
	return nil, nil, api.Errorf(api.NotFound, "no call")
}

func TestPollsEnd(t *testing.T) {
	t.Parallel()
	b := &waitingBackend{backend: newBackend(), waiting: make(chan struct{}, 2)}
	cfg := testConfig(b.backend)
	cfg.Runners, cfg.PollTime = b, time.Hour
	s := New(cfg)
	server := httptest.NewServer(s.RunnerHandler())
	t.Cleanup(server.Close)
	status := make(chan int)
	go func() {
		resp, _ := ask(t, server, "POST", nextPath, nil, "Authorization", "Bearer "+goodToken)
		status <- resp.StatusCode
	}()
	<-b.waiting
	s.EndPolls()
	require.Equal(t, 204, <-status)
	resp, _ := ask(t, server, "POST", nextPath, nil, "Authorization", "Bearer "+goodToken)
	require.Equal(t, 204, resp.StatusCode, "at once, from then on")
}
