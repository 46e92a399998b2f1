package callbacks

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// fake is the Queue, the Functions and the Events of a Service.
type fake struct {
	mu       sync.Mutex
	secret   string
	err      error // of ByID
	events   []string
	accounts []string
	full     bool
	served   map[string]int
	queued   chan queued
}

type queued struct {
	cb   api.Callback
	body []byte
}

func (f *fake) ByID(context.Context, string, string, string) (api.Definition, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return api.Definition{Function: api.Function{CallbackSecret: f.secret}}, f.err
}

func (f *fake) Log(_ context.Context, _ string, events ...api.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		f.events = append(f.events, e.Event+" "+e.CallID+": "+e.Message)
	}
}

func (f *fake) said() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	said := f.events
	f.events = nil
	return said
}

func (f *fake) QueueCallback(_ context.Context, cb api.Callback, body []byte) error {
	if f.full {
		return api.Errorf(api.TooLarge, "too many")
	}
	f.queued <- queued{cb, body}
	return nil
}

func (f *fake) CallbackAccounts(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.accounts, nil
}

func (f *fake) ServeCallbacks(ctx context.Context, account string, _ int, _ time.Duration,
	deliver func(context.Context, api.Callback, []byte, int) time.Duration) {
	f.mu.Lock()
	if f.served == nil {
		f.served = map[string]int{}
	}
	f.served[account]++
	f.mu.Unlock()
	<-ctx.Done()
}

var result = api.Callback{CallID: "c", Function: "f", Name: "hello", Account: "acme", State: api.Finished}

func TestACallbackIsTheResultSigned(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
	}))
	defer receiver.Close()
	s, f := newService(t, local)
	cb := result
	cb.URL = receiver.URL + "/results?of=hello"
	require.Zero(t, s.deliver(t.Context(), cb, []byte("out\x00\xff"), 1))
	require.Equal(t, []string{"CALLBACK c: the result was delivered to its callback"}, f.said())
	require.Equal(t, "out\x00\xff", string(body))
	require.Equal(t, "POST", got.Method)
	require.Equal(t, "/results?of=hello", got.URL.String())
	for name, want := range map[string]string{
		"Funcd-Call": "c", "Funcd-Function": "hello", "Funcd-State": "FINISHED", "Funcd-Exit-Status": "0", "Funcd-Error": "", "Webhook-Id": "c",
		"Content-Type": "text/plain; charset=utf-8", "User-Agent": "funcd/test",
	} {
		require.Equal(t, want, got.Header.Get(name), name)
	}
	require.NoError(t, api.VerifyCallback(f.secret, got.Header, body, time.Now()))
	require.Error(t, api.VerifyCallback(f.secret, got.Header, body[1:], time.Now()))

	cb.State, cb.ExitCode, cb.Code = api.Failed, 3, api.CallFailed
	require.Zero(t, s.deliver(t.Context(), cb, []byte("exit status 3\n"), 2))
	require.Equal(t, "FAILED 3 call-failed", got.Header.Get("Funcd-State")+" "+got.Header.Get("Funcd-Exit-Status")+" "+got.Header.Get("Funcd-Error"))
	require.Equal(t, "exit status 3\n", string(body))
}

func TestACallbackIsTriedAgain(t *testing.T) {
	t.Parallel()
	status := http.StatusInternalServerError
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer receiver.Close()
	s, f := newService(t, local)
	cb := result
	cb.URL = receiver.URL
	require.Equal(t, time.Second, s.deliver(t.Context(), cb, nil, 1))
	require.Equal(t, []string{"CALLBACK c: the result was not delivered to its callback, attempt 1 of 3: it has answered with 500; the next comes in 1s"}, f.said())
	require.Equal(t, 2*time.Second, s.deliver(t.Context(), cb, nil, 2))
	f.said()
	status = http.StatusNotFound
	require.Zero(t, s.deliver(t.Context(), cb, nil, 3))
	require.Equal(t, []string{"CALLBACK c: the result was not delivered to its callback, attempt 3 of 3: it has answered with 404; it is given up"}, f.said())
	for attempts, want := range []time.Duration{1: 1, 2: 2, 3: 3, 4: 3, 1000: 3} {
		if attempts > 0 && want > 0 {
			require.Equal(t, want*time.Second, s.pause(attempts))
		}
	}

	receiver.Close()
	require.Equal(t, time.Second, s.deliver(t.Context(), cb, nil, 1))
	require.Contains(t, f.said()[0], ": it can't be reached; the next")
	s.cfg.Allow = nil
	s, f = newService(t, nil)
	require.Zero(t, s.deliver(t.Context(), cb, nil, 1), "what is not allowed is not tried again")
	require.Equal(t, []string{"CALLBACK c: the result was not delivered to its callback, attempt 1 of 3: its address is not allowed here; it is given up"}, f.said())
}

func TestACallbackOfNoFunction(t *testing.T) {
	t.Parallel()
	s, f := newService(t, local)
	f.err = api.Errorf(api.NotFound, "removed")
	require.Zero(t, s.deliver(t.Context(), result, nil, 1))
	f.err = api.Errorf(api.Unavailable, "no Consul")
	require.Equal(t, outage, s.deliver(t.Context(), result, nil, 1))
	require.Empty(t, f.said())
}

func TestAnOutageOfConsulIsNoAttempt(t *testing.T) {
	t.Parallel()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	defer receiver.Close()
	s, f := newService(t, local)
	cb := result
	cb.URL = receiver.URL
	f.err = api.Errorf(api.Unavailable, "no Consul")
	for delivery := range 100 {
		require.Equal(t, outage, s.deliver(t.Context(), cb, nil, 1+delivery))
	}
	f.err = nil
	require.Equal(t, time.Second, s.deliver(t.Context(), cb, nil, 101))
	require.Equal(t, []string{"CALLBACK c: the result was not delivered to its callback, attempt 1 of 3: it has answered with 500; the next comes in 1s"}, f.said())
	f.err = api.Errorf(api.Unavailable, "no Consul")
	require.Equal(t, outage, s.deliver(t.Context(), cb, nil, 102))
	f.err = nil
	require.Equal(t, 2*time.Second, s.deliver(t.Context(), cb, nil, 103))
	require.Zero(t, s.deliver(t.Context(), cb, nil, 104))
	require.Contains(t, f.said()[1], "attempt 3 of 3")
	require.Empty(t, s.skipped)
}

// A receiver that takes its time, or sends without end, has its timeout and no more.
func TestASlowReceiver(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"no answer": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"headers without end": func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			for err == nil {
				_, err = io.WriteString(conn, "A: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			receiver := httptest.NewServer(http.HandlerFunc(answer))
			defer receiver.Close()
			s, f := newService(t, func(cfg *Config) {
				local(cfg)
				cfg.Timeout = 200 * time.Millisecond
			})
			cb := result
			cb.URL = receiver.URL
			require.Equal(t, time.Second, s.deliver(t.Context(), cb, nil, 1))
			require.Len(t, f.said(), 1)
		})
	}
	t.Run("a body without end", func(t *testing.T) {
		t.Parallel()
		gone := make(chan struct{})
		receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			defer close(gone)
			for page := make([]byte, 4096); ; {
				if _, err := w.Write(page); err != nil {
					return
				}
			}
		}))
		defer receiver.Close()
		s, _ := newService(t, local)
		cb := result
		cb.URL = receiver.URL
		require.Zero(t, s.deliver(t.Context(), cb, nil, 1), "nobody reads it")
		<-gone
	})
	t.Run("the server stops", func(t *testing.T) {
		t.Parallel()
		asked := make(chan struct{})
		receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(asked)
			<-r.Context().Done()
		}))
		defer receiver.Close()
		s, f := newService(t, local)
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			<-asked
			stop()
		}()
		cb := result
		cb.URL = receiver.URL
		require.Equal(t, time.Millisecond, s.deliver(ctx, cb, nil, 3))
		require.Empty(t, f.said())
	})
}

func TestEachAccountIsServedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, f := newService(t, nil)
		require.NoError(t, s.QueueCallback(t.Context(), result, []byte("out")), "before it runs")
		f.accounts = []string{"acme"}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.Run(ctx)
		}()
		synctest.Wait()
		other := result
		other.Account = "umbra"
		for range 2 {
			require.NoError(t, s.QueueCallback(t.Context(), other, nil))
		}
		f.mu.Lock()
		f.accounts = []string{"acme", "umbra", "third"}
		f.mu.Unlock()
		time.Sleep(2 * lookPeriod)
		synctest.Wait()
		stop()
		<-done
		require.Equal(t, map[string]int{"acme": 1, "umbra": 1, "third": 1}, f.served)
		f.full = true
		require.Equal(t, api.TooLarge, api.CodeOf(s.QueueCallback(t.Context(), result, nil)))
	})
}
