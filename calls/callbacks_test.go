package calls

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func callback(account string, n int) api.Callback {
	return api.Callback{CallID: newCall("f", n).ID, Function: "f", Name: "hello", Account: account, URL: "http://example.com/", State: api.Finished, Ended: time.Unix(9, 0).UTC()}
}

type delivered struct {
	cb      api.Callback
	body    string
	attempt int
}

// serveCallbacks passes the account's callbacks to the channel, and returns for each what answer does.
func serveCallbacks(t *testing.T, s *Store, account string, most int, lease time.Duration, answer func(delivered) time.Duration) (<-chan delivered, func()) {
	t.Helper()
	got := make(chan delivered, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeCallbacks(ctx, account, most, lease, func(_ context.Context, cb api.Callback, body []byte, attempt int) time.Duration {
			d := delivered{cb, string(body), attempt}
			got <- d
			return answer(d)
		})
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	return got, stop
}

func receiveCallback(t *testing.T, got <-chan delivered) delivered {
	t.Helper()
	select {
	case d := <-got:
		return d
	case <-time.After(patience):
		require.FailNow(t, "no callback was delivered")
		return delivered{}
	}
}

// waitingCallbacks is how many are stored.
func waitingCallbacks(t *testing.T, s *Store, account string) int {
	t.Helper()
	stream, err := s.callbacks(t.Context(), account)
	require.NoError(t, err)
	info, err := stream.Info(t.Context())
	require.NoError(t, err)
	return int(info.State.Msgs)
}

func TestCallbacksOutliveTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, Config{Dir: dir})
	accounts, err := s.CallbackAccounts(t.Context())
	require.NoError(t, err)
	require.Empty(t, accounts)
	body := strings.Repeat("x", 1<<20)
	require.NoError(t, s.QueueCallback(t.Context(), callback("acme", 1), []byte(body)))
	require.NoError(t, s.QueueCallback(t.Context(), callback("acme", 1), []byte(body)), "again, as after a crash")
	require.NoError(t, s.QueueCallback(t.Context(), callback("acme", 2), nil))
	require.Equal(t, 2, waitingCallbacks(t, s, "acme"))
	s.Close()
	s = openStore(t, Config{Dir: dir})
	accounts, err = s.CallbackAccounts(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"acme"}, accounts)

	got, stop := serveCallbacks(t, s, "acme", 1, time.Minute, func(d delivered) time.Duration {
		if d.attempt < 3 {
			return 10 * time.Millisecond
		}
		return 0
	})
	attempts := map[string][]int{}
	for range 6 {
		d := receiveCallback(t, got)
		attempts[d.cb.CallID] = append(attempts[d.cb.CallID], d.attempt)
		if d.cb.CallID == callback("acme", 1).CallID {
			require.Equal(t, callback("acme", 1), d.cb)
			require.True(t, body == d.body)
		}
	}
	require.Equal(t, map[string][]int{callback("acme", 1).CallID: {1, 2, 3}, callback("acme", 2).CallID: {1, 2, 3}}, attempts)
	require.Eventually(t, func() bool { return waitingCallbacks(t, s, "acme") == 0 }, patience, time.Millisecond)
	stop()
	require.Empty(t, got)
}

// A server that dies while it sends one leaves it to the next, after the lease.
func TestACallbackThatBreaksOffComesAgain(t *testing.T) {
	t.Parallel()
	stores := openCluster(t, 2)
	require.NoError(t, stores[0].QueueCallback(t.Context(), callback("acme", 1), []byte("out")))
	release := make(chan struct{})
	got, _ := serveCallbacks(t, stores[0], "acme", 1, time.Second, func(delivered) time.Duration {
		<-release
		return 0
	})
	defer close(release)
	require.Equal(t, 1, receiveCallback(t, got).attempt)
	other, _ := serveCallbacks(t, stores[1], "acme", 1, time.Second, func(delivered) time.Duration { return 0 })
	d := receiveCallback(t, other)
	require.Equal(t, 2, d.attempt)
	require.Equal(t, "out", d.body)
}

func TestCallbacksOfOthersDoNotWait(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	const most = 3
	for n := range 10 {
		require.NoError(t, s.QueueCallback(t.Context(), callback("acme", n), nil))
		require.NoError(t, s.QueueCallback(t.Context(), callback("umbra", n), nil))
	}
	release := make(chan struct{})
	stuck, _ := serveCallbacks(t, s, "acme", most, time.Minute, func(delivered) time.Duration {
		<-release
		return 0
	})
	for range most {
		receiveCallback(t, stuck)
	}
	others, _ := serveCallbacks(t, s, "umbra", most, time.Minute, func(delivered) time.Duration { return 0 })
	for range 10 {
		require.Equal(t, "umbra", receiveCallback(t, others).cb.Account)
	}
	require.Empty(t, stuck, "no more than so many at once")
	close(release)
	for range 10 - most {
		require.Equal(t, "acme", receiveCallback(t, stuck).cb.Account)
	}
}

func TestCallbacksAreBounded(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{CallbackCalls: 2})
	for n := range 2 {
		require.NoError(t, s.QueueCallback(t.Context(), callback("acme", n), nil))
	}
	err := s.QueueCallback(t.Context(), callback("acme", 3), nil)
	requireCode(t, api.TooLarge, err)
	require.Equal(t, "too many callbacks wait", api.MessageOf(err))
	require.NoError(t, s.QueueCallback(t.Context(), callback("umbra", 3), nil))
	for _, wrong := range []api.Callback{{CallID: "*", Function: "f", Account: "acme"}, {CallID: "c", Function: "a.b", Account: "acme"}, {CallID: "c", Function: "f", Account: ">"}} {
		requireCode(t, api.Invalid, s.QueueCallback(t.Context(), wrong, nil))
	}
	require.NoError(t, s.RemoveFunction(t.Context(), "f"))
	require.Zero(t, waitingCallbacks(t, s, "acme"), "they go with their function")
}

// Those that wait for their next attempt still come to it.
func TestRemovedCallbacksTakeNoOthersWithThem(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	removed := make(chan struct{})
	const pause = time.Second
	got, _ := serveCallbacks(t, s, "acme", 3, time.Minute, func(d delivered) time.Duration {
		switch {
		case d.cb.CallID == callback("acme", 2).CallID:
			<-removed
			return 0
		case d.attempt > 1:
			return 0
		}
		return pause
	})
	for n, function := range []string{"f", "g", "f"} {
		cb := callback("acme", n)
		cb.Function = function
		require.NoError(t, s.QueueCallback(t.Context(), cb, nil))
		require.Equal(t, cb.CallID, receiveCallback(t, got).cb.CallID)
	}
	require.NoError(t, s.RemoveFunction(t.Context(), "g"))
	require.Equal(t, 2, waitingCallbacks(t, s, "acme"))
	close(removed)
	again := receiveCallback(t, got)
	require.Equal(t, callback("acme", 0).CallID, again.cb.CallID)
	require.Equal(t, 2, again.attempt)
	require.Eventually(t, func() bool { return waitingCallbacks(t, s, "acme") == 0 }, patience, time.Millisecond)
}
