package scheduler

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func (k *stack) cancel(call string) error {
	err := k.s.Cancel(k.t.Context(), k.d, call)
	synctest.Wait()
	return err
}

// requireCancelled wants the call to have ended so, and to be removed once its answer has been given.
func (k *stack) requireCancelled(call string) {
	k.t.Helper()
	rec, _, err := k.s.Output(k.t.Context(), k.d, call, false)
	requireCode(k.t, api.Cancelled, err)
	require.Equal(k.t, "cancelled", err.Error())
	require.Equal(k.t, api.Failed, rec.State)
	require.False(k.t, rec.Ended.IsZero())
	require.Equal(k.t, "FAILED: cancelled", last(k.events(call)))
	require.NotContains(k.t, k.waiting(), call)
	require.NoError(k.t, k.cancel(call), "once more")
	require.NoError(k.t, k.s.Delivered(k.t.Context(), rec))
	_, _, err = k.s.Output(k.t.Context(), k.d, call, true)
	requireCode(k.t, api.NotFound, err)
	requireCode(k.t, api.NotFound, k.cancel(call))
}

func TestCancelledCallThatWaitsForTheQuotaNeverStarts(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		var running []string
		for range testQuota {
			running = append(running, k.submit())
		}
		call, next := k.submit(), k.submit()
		require.NoError(t, k.cancel(call))
		k.requireCancelled(call)
		require.Equal(t, []string{"CALL", "PENDING", "FAILED: cancelled"}, k.events(call))
		_, err := k.take(1, running[0])
		require.NoError(t, err)
		require.NoError(t, k.report(1, running[0], 0, ""))
		require.Equal(t, append(running, next), k.dispatched())
		require.Empty(t, k.stopped())
	})
}

func TestCancelledCallWhoseContainerStarts(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		require.Equal(t, []string{call}, k.dispatched())
		require.NoError(t, k.cancel(call))
		require.Equal(t, []string{k.job(call)}, k.stopped())
		_, err := k.take(1, call)
		requireCode(t, api.Expired, err)
		k.requireCancelled(call)
		require.Equal(t, []string{call}, k.dispatched())
	})
}

func TestCancelledCallThatRuns(t *testing.T) {
	for name, end := range map[string]func(k *stack, call string){
		"and obeys":                  func(k *stack, call string) { requireCode(k.t, api.Cancelled, k.report(1, call, 143, "")) },
		"and ends well all the same": func(k *stack, call string) { requireCode(k.t, api.Cancelled, k.report(1, call, 0, "out")) },
		"and has to be killed":       func(k *stack, call string) { k.cluster.say(api.JobStatus{Job: k.job(call), Ended: true}) },
		"and its node is lost": func(k *stack, call string) {
			k.cluster.say(api.JobStatus{Job: k.job(call), Ended: true, Code: api.CallFailed, Message: "node lost"})
		},
		"and is never heard of again": func(*stack, string) { time.Sleep(3*testTimeout*time.Second + 2*overtime) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				call := k.running()
				require.NoError(t, k.cancel(call))
				require.Equal(t, []string{k.job(call)}, k.stopped())
				rec, _, err := k.s.Output(t.Context(), k.d, call, false)
				require.NoError(t, err)
				require.Equal(t, api.Running, rec.State, "it ends when its container has")
				require.Equal(t, []string{call}, k.waiting(), "it holds its place until then")
				require.NoError(t, k.cancel(call))
				end(k, call)
				synctest.Wait()
				k.requireCancelled(call)
				require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FAILED: cancelled"}, k.events(call))
			})
		})
	}
}

func TestCancelOfWhatIsNotThere(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		requireCode(t, api.NotFound, k.cancel("7b6e1f0e-0000-4000-8000-000000000009"))
		call := k.running()
		require.NoError(t, k.report(1, call, 0, "out"))
		err := k.cancel(call)
		requireCode(t, api.Conflict, err)
		require.Equal(t, "the call has ended: FINISHED", api.MessageOf(err))
		k.requireFinished(call, "out")
		other := *k.d
		other.ID = "f2"
		requireCode(t, api.NotFound, k.s.Cancel(t.Context(), &other, k.submit()))
	})
}

func TestCancelBeforeASlotConfirms(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		waiting := k.slot(1)
		call := k.submit()
		require.Equal(t, call, (<-waiting).assignment.CallID)
		require.NoError(t, k.cancel(call))
		requireCode(t, api.Expired, k.begin(1, call))
		k.requireCancelled(call)
		require.Empty(t, k.stopped(), "the slot is free for the next call")
		require.Empty(t, k.dispatched())
		next := k.slot(1)
		second := k.submit()
		require.Equal(t, second, (<-next).assignment.CallID)
		require.NoError(t, k.begin(1, second))
	})
}

func TestCancelWhileTheClusterIsAway(t *testing.T) {
	t.Parallel()
	away := api.Errorf(api.Unavailable, "Nomad does not answer")
	t.Run("ends a call that was to be dispatched", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.cluster.dispatch = func(string) error { return away }
			call := k.submit()
			time.Sleep(3 * time.Second)
			require.NoError(t, k.cancel(call))
			k.requireCancelled(call)
			tries := len(k.dispatched())
			time.Sleep(time.Minute)
			require.Len(t, k.dispatched(), tries)
		})
	})
	t.Run("stops the container of one that runs when it is back", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.running()
			k.cluster.failStop(away)
			require.NoError(t, k.cancel(call))
			time.Sleep(3*stopAgain + stopAgain/2)
			synctest.Wait()
			require.Len(t, k.stopped(), 4)
			k.cluster.failStop(nil)
			time.Sleep(time.Minute / 4)
			synctest.Wait()
			require.Len(t, k.stopped(), 5, "it is told once")
			requireCode(t, api.Cancelled, k.report(1, call, 143, ""))
			k.requireCancelled(call)
		})
	})
}

func TestCancelThroughAnotherServer(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		dispatched, running := k.submit(), k.running()
		other := k.server()
		for _, call := range []string{dispatched, running} {
			require.NoError(t, other.Cancel(t.Context(), k.d, call))
		}
		synctest.Wait()
		require.ElementsMatch(t, []string{k.job(dispatched), k.job(running)}, k.stopped())
		k.requireCancelled(dispatched)
		requireCode(t, api.Cancelled, k.report(1, running, 0, ""))
		k.requireCancelled(running)
	})
}

func TestCancelWhoseMessageIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		dispatched, running := k.submit(), k.running()
		k.store.failing(func(operation string) error {
			if operation == "NotifyChange" || operation == "NotifyEnd" {
				return api.Errorf(api.Unavailable, "gone")
			}
			return nil
		})
		require.NoError(t, k.cancel(dispatched))
		require.NoError(t, k.cancel(running))
		require.Empty(t, k.stopped())
		k.store.failing(nil)
		time.Sleep(testLease / 3)
		synctest.Wait()
		require.Contains(t, k.stopped(), k.job(running))
		k.requireCancelled(dispatched)
		requireCode(t, api.Cancelled, k.report(1, running, 0, ""))
		k.requireCancelled(running)
	})
}

func TestCancelledCallOfAServerThatDied(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		waits, runs := k.submit(), k.running()
		k.s.Stop()
		require.NoError(t, k.cancel(waits))
		require.NoError(t, k.cancel(runs))
		require.Empty(t, k.stopped())
		k.restart()
		require.Equal(t, []string{k.job(runs)}, k.stopped(), "whoever adopts it stops it")
		require.Equal(t, []string{waits, runs}, k.dispatched())
		k.requireCancelled(waits)
		requireCode(t, api.Cancelled, k.report(1, runs, 0, ""))
		k.requireCancelled(runs)
	})
}

// What is decided in the same moment is decided in one way.
func TestCancelAndContainerRace(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		k := raceStack(t, s)
		for i := range 25 {
			call, err := k.s.Submit(t.Context(), k.d, nil, nil)
			require.NoError(t, err)
			require.Eventually(t, func() bool { return len(k.dispatched()) > i }, 30*time.Second, time.Millisecond)
			var took, cancelled error
			var both sync.WaitGroup
			both.Go(func() { _, _, took = k.s.Next(t.Context(), alloc(1), "f1", call) })
			both.Go(func() { cancelled = k.s.Cancel(t.Context(), k.d, call) })
			both.Wait()
			require.NoError(t, cancelled)
			if took == nil {
				requireCode(t, api.Cancelled, k.s.Report(t.Context(), alloc(1), &api.Result{CallID: call, Function: "f1", Outcome: api.Exited}, nil))
			} else {
				requireCode(t, api.Expired, took)
			}
			rec, _, err := k.s.Output(t.Context(), k.d, call, true)
			requireCode(t, api.Cancelled, err)
			require.Equal(t, took == nil, rec.Allocation != "", fmt.Sprintf("%+v", rec))
			require.NoError(t, k.s.Delivered(t.Context(), rec))
		}
	})
}

func TestCancelAndReportRace(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		k := raceStack(t, s)
		for range 25 {
			call, err := k.s.Submit(t.Context(), k.d, nil, nil)
			require.NoError(t, err)
			_, _, err = k.s.Next(t.Context(), alloc(1), "f1", call)
			require.NoError(t, err)
			var reported, cancelled error
			var both sync.WaitGroup
			both.Go(func() {
				reported = k.s.Report(t.Context(), alloc(1), &api.Result{CallID: call, Function: "f1", Outcome: api.Exited}, []byte("out"))
			})
			both.Go(func() { cancelled = k.s.Cancel(t.Context(), k.d, call) })
			both.Wait()
			rec, output, err := k.s.Output(t.Context(), k.d, call, true)
			if cancelled == nil {
				requireCode(t, api.Cancelled, reported)
				requireCode(t, api.Cancelled, err)
			} else {
				requireCode(t, api.Conflict, cancelled)
				require.NoError(t, reported)
				require.NoError(t, err)
				require.Equal(t, "out", string(output))
			}
			require.NoError(t, k.s.Delivered(t.Context(), rec))
		}
	})
}

func TestCancelAll(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		runs := k.running()
		var calls []string
		for range testQuota + 30 {
			calls = append(calls, k.submit())
		}
		other := *k.d
		other.ID, other.Function.Name = "f2", "other"
		k.functions.others = append(k.functions.others, other)
		spared, err := k.s.Submit(t.Context(), &other, nil, nil)
		require.NoError(t, err)
		k.store.failing(func(operation string) error {
			if operation == "SaveRecord" {
				return api.Errorf(api.Unavailable, "away")
			}
			return nil
		})
		requireCode(t, api.Unavailable, k.s.CancelAll(t.Context(), "acme", "f1"))
		k.store.failing(nil)
		require.NoError(t, k.s.CancelAll(t.Context(), "acme", "f1"))
		synctest.Wait()
		require.Equal(t, []string{runs, spared}, k.waiting(), "all but what runs have left the queue")
		require.Contains(t, k.stopped(), k.job(runs))
		require.NoError(t, k.s.CancelAll(t.Context(), "acme", "f1"))
		requireCode(t, api.Cancelled, k.report(1, runs, 0, ""))
		k.requireCancelled(runs)
		for _, call := range calls {
			k.requireCancelled(call)
		}
		require.Equal(t, []string{spared}, k.waiting())
	})
}

func TestRunningCallOfARemovedFunctionIsStoppedByWhoeverAdoptsIt(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.running()
		k.s.Stop()
		k.functions.failing(api.Errorf(api.NotFound, "no such function"))
		k.restart()
		require.Equal(t, []string{k.job(call)}, k.stopped())
		k.requireFailed(call, api.Cancelled, "cancelled: the function was removed")
	})
}
