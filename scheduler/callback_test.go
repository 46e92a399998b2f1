package scheduler

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

type fakeCallback struct {
	cb   api.Callback
	body string
}

func (f *fakeStore) QueueCallback(_ context.Context, cb api.Callback, body []byte) error {
	if err := f.begin("QueueCallback"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	cb.Ended = time.Time{}
	f.callbacks[cb.CallID] = fakeCallback{cb, string(body)}
	return nil
}

func (k *stack) callbacks() map[string]fakeCallback {
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	found := map[string]fakeCallback{}
	for id, cb := range k.store.callbacks {
		found[id] = cb
	}
	return found
}

const callbackURL = "https://example.com/results"

func TestTheResultIsSentToTheCallback(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(t *testing.T, k *stack) (call string)
		want api.Callback
		body string
	}{
		"finished": {func(t *testing.T, k *stack) string {
			call := k.running()
			require.Empty(t, k.callbacks())
			require.NoError(t, k.report(1, call, 0, "out"))
			return call
		}, api.Callback{State: api.Finished}, "out"},
		"failed": {func(t *testing.T, k *stack) string {
			call := k.running()
			require.NoError(t, k.report(1, call, 3, ""))
			return call
		}, api.Callback{State: api.Failed, Code: api.CallFailed, ExitCode: 3}, "exit status 3\n"},
		"cancelled while it waits": {func(t *testing.T, k *stack) string {
			call := k.submit()
			require.NoError(t, k.s.Cancel(t.Context(), k.d, call))
			return call
		}, api.Callback{State: api.Failed, Code: api.Cancelled}, "cancelled\n"},
		"cancelled on another server": {func(t *testing.T, k *stack) string {
			k.s.Stop()
			k.s = k.server()
			call := k.submit()
			idle := k.server()
			require.NoError(t, idle.Cancel(t.Context(), k.d, call))
			return call
		}, api.Callback{State: api.Failed, Code: api.Cancelled}, "cancelled\n"},
		"synchronous": {func(t *testing.T, k *stack) string {
			call, release, err := k.s.SubmitSync(t.Context(), k.d, nil, nil)
			require.NoError(t, err)
			synctest.Wait()
			_, err = k.take(1, call)
			require.NoError(t, err)
			require.NoError(t, k.report(1, call, 0, "out"))
			release()
			return call
		}, api.Callback{State: api.Finished}, "out"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				k.labels(map[string]string{"funcd.callback": callbackURL})
				call := c.end(t, k)
				time.Sleep(time.Minute)
				synctest.Wait()
				c.want.CallID, c.want.Function, c.want.Name, c.want.Account, c.want.URL = call, "f1", "hello", "acme", callbackURL
				require.Equal(t, map[string]fakeCallback{call: {c.want, c.body}}, k.callbacks())
				require.Empty(t, k.waiting())
				_, _, err := k.s.Output(t.Context(), k.d, call, false)
				require.NotEqual(t, api.NotFound, api.CodeOf(err), "it can be fetched all the same")
			})
		})
	}
}

// A call leaves the queue once its callback is on disk, whatever dies between.
func TestNoCallbackIsLost(t *testing.T) {
	t.Parallel()
	for _, operation := range []string{"QueueCallback", "Output", "Done"} {
		t.Run(operation, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				k.labels(map[string]string{"funcd.callback": callbackURL})
				call := k.running()
				k.store.failing(func(o string) error {
					if o == operation {
						return api.Errorf(api.Unavailable, "killed")
					}
					return nil
				})
				require.NoError(t, k.report(1, call, 0, "out"))
				require.Equal(t, []string{call}, k.waiting())
				k.store.failing(nil)
				k.restart()
				time.Sleep(time.Minute)
				synctest.Wait()
				require.Equal(t, "out", k.callbacks()[call].body)
				require.Empty(t, k.waiting())
				k.requireFinished(call, "out")
			})
		})
	}
}

func TestOneCallbackTooManyIsNoneAtAll(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.labels(map[string]string{"funcd.callback": callbackURL})
		call := k.running()
		k.store.failing(func(o string) error {
			if o == "QueueCallback" {
				return api.Errorf(api.TooLarge, "too many callbacks wait")
			}
			return nil
		})
		require.NoError(t, k.report(1, call, 0, "out"))
		require.Empty(t, k.waiting())
		require.Equal(t, "CALLBACK: the result is not sent to its callback: too many callbacks wait", last(k.events(call)))
		k.requireFinished(call, "out")
	})
}

func TestRetriesHaveOneCallback(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.labels(map[string]string{"funcd.callback": callbackURL, "funcd.retries": "1"})
		call := k.running()
		require.NoError(t, k.report(1, call, 3, ""))
		require.Empty(t, k.callbacks())
		time.Sleep(time.Second)
		synctest.Wait()
		require.NoError(t, k.attempt(1, call, exits(3)))
		require.Len(t, k.callbacks(), 1)
	})
}

// Who has cancelled a call that was put aside has died before its callback was queued, and its answer is fetched before it comes back.
func TestCallbackOfACallThatWasCancelledAside(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.labels(map[string]string{"funcd.callback": callbackURL, "funcd.retries": "3"})
		call := k.running()
		require.NoError(t, k.report(1, call, 1, ""))
		var once atomic.Bool
		k.store.failing(func(operation string) error {
			switch {
			case operation == "QueueCallback" && !once.Swap(true):
				return api.Errorf(api.Unavailable, "it has died")
			case operation == "Queued":
				return api.Errorf(api.NotFound, "it is aside")
			}
			return nil
		})
		require.NoError(t, k.s.Cancel(t.Context(), k.d, call))
		synctest.Wait()
		require.Empty(t, k.callbacks())
		rec, _, err := k.s.Output(t.Context(), k.d, call, false)
		requireCode(t, api.Cancelled, err)
		require.NoError(t, k.s.Delivered(t.Context(), rec))
		require.Contains(t, k.callbacks(), call)
	})
}
