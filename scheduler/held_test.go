package scheduler

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// held submits a call whose caller waits, and has a container take it.
func (k *stack) held() (call string, release func()) {
	k.t.Helper()
	k.store.alone = true
	call, release, err := k.s.SubmitSync(k.t.Context(), k.d, nil, []byte("in"))
	require.NoError(k.t, err)
	synctest.Wait()
	_, err = k.take(1, call)
	require.NoError(k.t, err)
	return call, release
}

// onDisk tells whether a crash would leave what is known of the call.
func (k *stack) onDisk(call string) bool {
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	return !k.store.held[key(k.d.ID, call)]
}

func TestWhatIsKnownOfASynchronousCallIsHeld(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call, release := k.held()
		require.False(t, k.onDisk(call))
		rec, _, err := k.s.Output(t.Context(), k.d, call, false)
		require.NoError(t, err)
		require.Equal(t, api.Running, rec.State)
		require.NoError(t, k.report(1, call, 0, "out"))
		require.False(t, k.onDisk(call))
		rec, output, err := k.s.Output(t.Context(), k.d, call, true)
		require.NoError(t, err)
		require.Equal(t, "out", string(output))
		require.NoError(t, k.s.Delivered(t.Context(), rec))
		release()
		require.Empty(t, k.waiting())
		require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, k.events(call))
	})
}

// disk is a queue that keeps no call in memory.
type disk struct{ Queue }

func (disk) Enqueue(context.Context, *api.Call) error { return nil }

func TestThePayloadOfACallThatIsWaitedForIsNotInMemory(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.store.alone = true
		k.s.cfg.Queue = disk{k.s.cfg.Queue}
		payload := make([]byte, 1<<20)
		held := weak.Make(&payload[0])
		call, release, err := k.s.SubmitSync(t.Context(), k.d, nil, payload)
		require.NoError(t, err)
		runtime.GC()
		require.Nil(t, held.Value())
		rec, _, err := k.s.Output(t.Context(), k.d, call, false)
		require.NoError(t, err)
		require.Equal(t, api.Pending, rec.State)
		release()
	})
}

func TestACallThatTakesLongerIsWrittenDown(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call, release := k.held()
		time.Sleep(holdTime)
		synctest.Wait()
		require.True(t, k.onDisk(call))
		k.store.crash()
		k.restart()
		require.NoError(t, k.report(1, call, 0, "out"), "it is adopted")
		k.requireFinished(call, "out")
		release()
	})
}

func TestAnAnswerThatIsNotDeliveredIsWrittenDown(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call, release := k.held()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, err := k.s.Output(gone, k.d, call, true)
		requireCode(t, api.Unavailable, err)
		release()
		release()
		require.True(t, k.onDisk(call))
		require.NoError(t, k.report(1, call, 0, "out"))
		k.requireFinished(call, "out")
	})
}

// Whether its process has started is not known: it is not started again.
func TestAHeldCallOfAServerThatHasDiedFails(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call, _ := k.held()
		k.store.crash()
		k.restart()
		k.requireFailed(call, api.CallFailed, "funcd was stopped while its caller waited: whether it has run is not known")
		requireCode(t, api.Expired, k.report(1, call, 0, "out"))
		require.Len(t, k.dispatched(), 1)
	})
}

// The queue may hold a call for a moment longer than its caller waits.
func TestAHeldCallThatWasAnsweredHasNoOtherEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call, _ := k.held()
		k.s.event(t.Context(), k.d.ID, api.Event{CallID: call, Event: string(api.Finished)})
		k.store.crash()
		k.restart()
		require.Empty(t, k.waiting())
		require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, k.events(call))
	})
}

func TestNothingIsHeldBesideOtherServers(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call, release, err := k.s.SubmitSync(t.Context(), k.d, nil, nil)
		require.NoError(t, err)
		release()
		synctest.Wait()
		require.False(t, k.store.queue[0].call.Held)
		require.Equal(t, []string{call}, k.waiting())
	})
}

func TestACallThatLivesOnAfterItsCallerIsNotHeld(t *testing.T) {
	for _, label := range []string{"funcd.keep", "funcd.maxage", "funcd.retries", "funcd.callback"} {
		t.Run(label, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				k.d.Function.Config.Labels = map[string]string{label: map[string]string{"funcd.retries": "1", "funcd.callback": "https://example.org"}[label]}
				if k.d.Function.Config.Labels[label] == "" {
					k.d.Function.Config.Labels[label] = "1h"
				}
				call, release := k.held()
				defer release()
				require.True(t, k.onDisk(call))
			})
		})
	}
}

func TestTheRecordOfAFetchedCallIsKept(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.d.Function.Config.Labels = map[string]string{"funcd.keep": "1h"}
		call, release := k.held()
		require.NoError(t, k.report(1, call, 0, "out"))
		rec, _, err := k.s.Output(t.Context(), k.d, call, true)
		require.NoError(t, err)
		require.Equal(t, time.Hour, rec.Options.Keep)
		require.NoError(t, k.s.Delivered(t.Context(), rec))
		release()
		_, _, err = k.s.Output(t.Context(), k.d, call, false)
		requireCode(t, api.NotFound, err)
		require.EqualError(t, err, "no such call: "+call+" has ended and its answer was fetched")
		requireCode(t, api.NotFound, k.s.Cancel(t.Context(), k.d, call))
	})
}

// Its server is there, and so is its caller: it goes back to the queue as something else does not answer.
func TestAHeldCallThatComesAgainIsExecuted(t *testing.T) {
	for name, gone := range map[string]bool{"while its caller waits": false, "after its caller has gone": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				k.store.alone = true
				k.functions.failing(api.Errorf(api.Unavailable, "Consul does not answer"))
				call, release, err := k.s.SubmitSync(t.Context(), k.d, nil, []byte("in"))
				require.NoError(t, err)
				defer release()
				if gone {
					release()
				}
				time.Sleep(time.Minute)
				require.Equal(t, []string{call}, k.waiting())
				k.functions.failing(nil)
				time.Sleep(time.Minute)
				_, err = k.take(1, call)
				require.NoError(t, err)
				require.NoError(t, k.report(1, call, 0, "out"))
				k.requireFinished(call, "out")
			})
		})
	}
}
