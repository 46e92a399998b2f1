//go:build integration

package test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// received is a callback as its receiver has seen it.
type received struct {
	header http.Header
	body   string
}

// receiver takes callbacks, and answers with what status is.
func receiver(t *testing.T) (url string, got <-chan received, status *atomic.Int64) {
	t.Helper()
	all := make(chan received, 1000)
	status = &atomic.Int64{}
	status.Store(http.StatusOK)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the sender was killed
		}
		all <- received{r.Header, string(body)}
		w.WriteHeader(int(status.Load()))
	}))
	t.Cleanup(server.Close)
	return server.URL, all, status
}

func nextReceived(t *testing.T, got <-chan received) received {
	t.Helper()
	select {
	case r := <-got:
		return r
	case <-time.After(patience):
		require.FailNow(t, "no callback came")
		return received{}
	}
}

const localCallbacks = "callbacks {\n  allow = [\"127.0.0.0/8\"]\n  pause = \"300ms\"\n  pause_max = \"300ms\"\n  attempts = 1000\n}\n"

func TestResultsAreSentToTheCallback(t *testing.T) {
	t.Parallel()
	url, got, status := receiver(t)
	o := beside("callback")
	o.config += localCallbacks
	own := startOwn(t, "callback", o)
	f := own.create(t, label(program("funcd/upper"), "funcd.warm", "0", "funcd.callback", url+"/results"))
	require.Regexp(t, "^whsec_", f.CallbackSecret)
	inspected, err := own.Function(t.Context(), f.Name)
	require.NoError(t, err)
	require.Equal(t, f.CallbackSecret, inspected.CallbackSecret)
	call := f.call(t, "hello")
	r := nextReceived(t, got)
	require.Equal(t, "HELLO", r.body)
	require.NoError(t, api.VerifyCallback(f.CallbackSecret, r.header, []byte(r.body), time.Now()))
	require.Equal(t, call, r.header.Get(api.CallbackCallHeader))
	require.Equal(t, f.Name, r.header.Get(api.CallbackFunctionHeader))
	require.Equal(t, "FINISHED", r.header.Get(api.CallbackStateHeader))
	require.Equal(t, "0", r.header.Get(api.CallbackExitHeader))
	require.NotContains(t, fmt.Sprint(r.header), f.UUID)
	require.Equal(t, "HELLO", f.wait(t, call).body, "it can be fetched all the same")
	f.eventsOf(t, call, api.CalledBack)

	broken := own.create(t, label(program("funcd/fail", "3"), "funcd.warm", "0", "funcd.callback", url))
	call = broken.call(t, "")
	r = nextReceived(t, got)
	require.Equal(t, "exit status 3\n", r.body)
	require.NoError(t, api.VerifyCallback(broken.CallbackSecret, r.header, []byte(r.body), time.Now()))
	require.Error(t, api.VerifyCallback(f.CallbackSecret, r.header, []byte(r.body), time.Now()), "another function's secret")
	require.Equal(t, "FAILED 3 call-failed", r.header.Get(api.CallbackStateHeader)+" "+r.header.Get(api.CallbackExitHeader)+" "+r.header.Get(api.ErrorHeader))
	require.Equal(t, "exit status 3\n", broken.wait(t, call).body)

	// funcd is killed while the receiver is away, and the answer is fetched by then.
	status.Store(http.StatusServiceUnavailable)
	call = f.call(t, "again")
	require.Equal(t, "AGAIN", f.wait(t, call).body)
	nextReceived(t, got)
	require.NoError(t, own.kill())
	status.Store(http.StatusNoContent)
	for len(got) > 0 {
		<-got
	}
	o.http = strings.TrimPrefix(own.url, "http://")
	startOwn(t, "callback", o)
	r = nextReceived(t, got)
	require.Equal(t, "AGAIN", r.body)
	require.Equal(t, call, r.header.Get(api.WebhookIDHeader))
	require.NoError(t, api.VerifyCallback(f.CallbackSecret, r.header, []byte(r.body), time.Now()))
	eventually(t, "the end of the callback", func() bool {
		return strings.Contains(last(f.events(t, "?callid="+call)).Message, "was delivered")
	})
}

func TestCallbacksStayOutOfTheOperatorsNetwork(t *testing.T) {
	t.Parallel()
	url, got, _ := receiver(t)
	port := url[strings.LastIndexByte(url, ':'):]
	for _, host := range []string{"127.0.0.1", "[::ffff:127.0.0.1]", "10.0.0.1"} {
		_, err := dev.CreateFunction(t.Context(), label(api.Function{Name: newName(t), Config: api.Config{Image: "funcd/hello"}}, "funcd.callback", "http://"+host+port+"/"))
		require.Equal(t, api.Forbidden, api.CodeOf(err), "%s: %v", host, err)
		require.ErrorContains(t, err, "is an address that nothing is sent to here")
	}
	f := dev.create(t, label(program("funcd/hello"), "funcd.warm", "0", "funcd.callback", "http://localhost"+port+"/"))
	call := f.call(t, "")
	require.Equal(t, "HelloWorld\n", f.wait(t, call).body)
	events := f.eventsOf(t, call, api.CalledBack)
	require.Equal(t, "the result was not delivered to its callback, attempt 1 of 12: its address is not allowed here; it is given up", last(events).Message)
	require.Empty(t, got)
	_, err := dev.CreateFunction(t.Context(), label(api.Function{Name: newName(t), Config: api.Config{Image: "funcd/hello"}}, "funcd.callback", "ftp://example.com/"))
	require.ErrorContains(t, err, "Config.Labels: funcd.callback:")
}
