package scheduler

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// labels gives the function labels.
func (k *stack) labels(labels map[string]string) { k.d.Function.Config.Labels = labels }

// attempt has a container take the call for its attempt of this number, from 0, and report.
func (k *stack) attempt(number int, call string, change func(*api.Result)) error {
	k.t.Helper()
	assignment, err := k.take(number, call)
	require.NoError(k.t, err)
	require.Equal(k.t, number, assignment.Attempt)
	result := &api.Result{CallID: call, Function: k.d.ID, Attempt: number, Outcome: api.Exited}
	change(result)
	err = k.s.Report(k.t.Context(), alloc(number), result, []byte("out"))
	synctest.Wait()
	return err
}

func exits(status int) func(*api.Result) { return func(r *api.Result) { r.ExitCode = status } }

func TestFailedCallIsTriedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.labels(map[string]string{"funcd.retries": "2"})
		call := k.submit()
		require.NoError(t, k.attempt(0, call, exits(3)))
		require.Equal(t, []string{call}, k.dispatched(), "not at once")
		rec, _, err := k.s.Output(t.Context(), k.d, call, false)
		require.NoError(t, err)
		require.Equal(t, api.Pending, rec.State)
		require.Equal(t, "attempt 1 of 3 has failed, the next comes in 1s: exit status 3", rec.Message)
		require.Equal(t, []string{call}, k.waiting(), "it has not left the queue")

		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, k.dispatched(), 2)
		require.NoError(t, k.attempt(1, call, exits(4)))
		time.Sleep(2*time.Second - 1)
		synctest.Wait()
		require.Len(t, k.dispatched(), 2, "the pause has grown")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.NoError(t, k.attempt(2, call, exits(0)))
		k.requireFinished(call, "out")
		require.Equal(t, []string{
			"CALL", "PENDING", "RUNNING", "PENDING: attempt 1 of 3 has failed, the next comes in 1s: exit status 3",
			"RUNNING", "PENDING: attempt 2 of 3 has failed, the next comes in 2s: exit status 4", "RUNNING", "FINISHED",
		}, k.events(call))
		require.Equal(t, k.job(call)+"-2", k.record(call).Job, "each attempt has a container of its own")
		require.Empty(t, k.waiting())
	})
}

func TestCallThatFailsEachTimeFails(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.labels(map[string]string{"funcd.retries": "1"})
		call := k.submit()
		require.NoError(t, k.attempt(0, call, exits(3)))
		time.Sleep(time.Second)
		synctest.Wait()
		require.NoError(t, k.attempt(1, call, exits(4)))
		k.requireFailed(call, api.CallFailed, "exit status 4")
		time.Sleep(time.Hour)
		require.Len(t, k.dispatched(), 2)
	})
}

func TestPausesGrowUpToTheirMost(t *testing.T) {
	t.Parallel()
	var pauses []time.Duration
	for n := range 5 {
		pauses = append(pauses, Retry{First: time.Second, Most: 5 * time.Second}.after(n))
	}
	require.Equal(t, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second}, pauses)
	require.Equal(t, time.Minute, Retry{First: time.Second, Most: time.Minute}.after(1_000_000))
	require.Equal(t, time.Second, Retry{First: time.Minute, Most: time.Second}.after(0))
}

func TestWhatIsTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		end   func(k *stack, call string)
		again bool
	}{
		"an exit status":  {func(k *stack, call string) { _ = k.report(1, call, 1, "") }, true},
		"a signal":        {reported(func(r *api.Result) { r.Outcome, r.Signal = api.Signaled, 9 }), true},
		"out of memory":   {reported(func(r *api.Result) { r.Outcome = api.OutOfMemory }), true},
		"a timeout":       {reported(func(r *api.Result) { r.Outcome = api.TimedOut }), true},
		"too much output": {reported(func(r *api.Result) { r.Outcome = api.OverOutput }), true},
		"success":         {reported(func(*api.Result) {}), false},
		"no such command": {reported(func(r *api.Result) { r.Outcome = api.NoCommand }), false},
		"no executable":   {reported(func(r *api.Result) { r.Outcome = api.NotStartable }), false},
		"a stop by hand":  {reported(func(r *api.Result) { r.Outcome, r.ExitCode = api.Stopped, 143 }), false},
		"a lost node": {func(k *stack, call string) {
			k.cluster.say(api.JobStatus{Job: k.job(call), Allocation: "alloc-1", Ended: true, Code: api.CallFailed, Message: "node lost", Another: true})
		}, true},
		"a stop by hand that Nomad tells of": {func(k *stack, call string) {
			k.cluster.say(api.JobStatus{Job: k.job(call), Allocation: "alloc-1", Ended: true, Code: api.CallFailed, Message: "stopped"})
		}, false},
		"a runner that is never heard of again": {func(*stack, string) { time.Sleep(3*testTimeout*time.Second + 2*overtime) }, true},
		"a cancellation": {func(k *stack, call string) {
			require.NoError(k.t, k.cancel(call))
			_ = k.report(1, call, 143, "")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				k.labels(map[string]string{"funcd.retries": "1"})
				call := k.running()
				c.end(k, call)
				synctest.Wait()
				rec := k.record(call)
				require.Equal(t, c.again, rec.State == api.Pending, "%+v", rec)
				require.NotEqual(t, c.again, rec.State.Ended())
				if c.again {
					time.Sleep(time.Second)
					synctest.Wait()
					require.Len(t, k.dispatched(), 2)
				}
			})
		})
	}
}

// reported has the container 1 report of the call.
func reported(change func(*api.Result)) func(k *stack, call string) {
	return func(k *stack, call string) {
		result := &api.Result{CallID: call, Function: k.d.ID, Outcome: api.Exited}
		change(result)
		require.NoError(k.t, k.s.Report(k.t.Context(), alloc(1), result, nil))
	}
}

func TestCallThatWaitsForItsNextAttemptLeavesItsPlaceToOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.labels(map[string]string{"funcd.retries": "1"})
		var calls []string
		for range testQuota {
			calls = append(calls, k.submit())
		}
		next := k.submit()
		require.NotContains(t, k.dispatched(), next)
		require.NoError(t, k.attempt(0, calls[0], exits(1)))
		require.Contains(t, k.dispatched(), next)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, k.dispatched(), testQuota+1, "the quota is used")
		require.NoError(t, k.attempt(0, next, exits(0)))
		require.Equal(t, calls[0], last(k.dispatched()))
	})
}

func TestNextAttemptThroughOtherServers(t *testing.T) {
	t.Parallel()
	t.Run("one that takes the report", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.labels(map[string]string{"funcd.retries": "1"})
			call := k.running()
			other := k.server()
			require.NoError(t, other.Report(t.Context(), alloc(1), &api.Result{CallID: call, Function: "f1", Outcome: api.Exited, ExitCode: 1}, nil))
			time.Sleep(time.Second)
			synctest.Wait()
			require.Len(t, k.dispatched(), 2)
		})
	})
	t.Run("one whose message is lost", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.labels(map[string]string{"funcd.retries": "1"})
			call := k.running()
			k.store.failing(func(operation string) error {
				if operation == "NotifyChange" {
					return api.Errorf(api.Unavailable, "gone")
				}
				return nil
			})
			other := k.server()
			require.NoError(t, other.Report(t.Context(), alloc(1), &api.Result{CallID: call, Function: "f1", Outcome: api.Exited, ExitCode: 1}, nil))
			k.cluster.say(api.JobStatus{Job: k.job(call), Allocation: "alloc-1", Ended: true, Code: api.CallFailed, Message: "it has ended"})
			time.Sleep(testLease / 3)
			synctest.Wait()
			require.Len(t, k.dispatched(), 2)
			require.Equal(t, api.Pending, k.record(call).State, "the end of the first container is not that of the call")
		})
	})
	t.Run("one that adopts it", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.labels(map[string]string{"funcd.retries": "1"})
			call := k.running()
			k.s.Stop()
			require.NoError(t, k.s.Report(t.Context(), alloc(1), &api.Result{CallID: call, Function: "f1", Outcome: api.Exited, ExitCode: 1}, nil))
			k.restart()
			require.Len(t, k.dispatched(), 1)
			time.Sleep(time.Second)
			synctest.Wait()
			require.Len(t, k.dispatched(), 2)
			require.NoError(t, k.attempt(1, call, exits(0)))
			k.requireFinished(call, "out")
		})
	})
	t.Run("one that can't put it aside", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.labels(map[string]string{"funcd.retries": "1"})
			call := k.running()
			k.store.failing(func(operation string) error {
				if operation == "Postpone" {
					return api.Errorf(api.Unavailable, "the queue is full")
				}
				return nil
			})
			require.NoError(t, k.report(1, call, 1, ""))
			time.Sleep(3 * time.Second)
			synctest.Wait()
			require.Len(t, k.dispatched(), 2, "it waits in its place")
			require.NoError(t, k.attempt(1, call, exits(0)))
			k.requireFinished(call, "out")
		})
	})
}

func TestLateReportOfAnEarlierAttempt(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.labels(map[string]string{"funcd.retries": "1"})
		call := k.running()
		require.NoError(t, k.report(1, call, 1, ""))
		requireCode(t, api.Expired, k.report(1, call, 0, "late"))
		time.Sleep(time.Second)
		synctest.Wait()
		_, err := k.take(1, call) // the same container, which is reused
		require.NoError(t, err)
		requireCode(t, api.Expired, k.report(1, call, 0, "of the first attempt, once more"))
		require.Equal(t, api.Running, k.record(call).State)
	})
}

func TestCancelOfACallThatWaitsForItsNextAttempt(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.labels(map[string]string{"funcd.retries": "5"})
		call := k.running()
		require.NoError(t, k.report(1, call, 1, ""))
		require.NoError(t, k.s.CancelAll(t.Context(), "acme", "f1"))
		synctest.Wait()
		k.requireCancelled(call)
		time.Sleep(time.Hour)
		require.Len(t, k.dispatched(), 1)
	})
}

func TestCallThatWaitsTooLongExpires(t *testing.T) {
	const message = "expired in the queue: it has waited for 1m0s"
	t.Run("behind others", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.labels(map[string]string{"funcd.maxage": "1m"})
			k.functions.d.Function.Timeout = 3600
			var running []string
			for range testQuota {
				running = append(running, k.submit())
				_, err := k.take(1, running[len(running)-1])
				require.NoError(t, err)
			}
			call := k.submit()
			time.Sleep(2 * time.Minute)
			require.NoError(t, k.report(1, running[0], 0, ""))
			rec, _, err := k.s.Output(t.Context(), k.d, call, false)
			requireCode(t, api.CallFailed, err)
			require.Equal(t, message, rec.Message)
			require.NotContains(t, k.dispatched(), call)
			require.Len(t, k.waiting(), testQuota-1)
			require.Empty(t, k.stopped())
			require.Equal(t, api.Running, k.record(running[1]).State, "what has started may go on")
		})
	})
	t.Run("for a place in the cluster", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.labels(map[string]string{"funcd.maxage": "1m"})
			call := k.submit()
			k.cluster.say(api.JobStatus{Job: k.job(call), Waiting: "no capacity"})
			time.Sleep(time.Minute - 1)
			synctest.Wait()
			require.Equal(t, api.Pending, k.record(call).State)
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			k.requireFailed(call, api.CallFailed, message)
			require.Equal(t, []string{k.job(call)}, k.stopped())
			_, err := k.take(1, call)
			requireCode(t, api.Expired, err)
		})
	})
	t.Run("for the cluster to answer", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.labels(map[string]string{"funcd.maxage": "1m"})
			k.cluster.dispatch = func(string) error { return api.Errorf(api.Unavailable, "Nomad does not answer") }
			call := k.submit()
			time.Sleep(time.Minute)
			synctest.Wait()
			k.requireFailed(call, api.CallFailed, message)
		})
	})
	t.Run("but not once it has started", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.labels(map[string]string{"funcd.maxage": "2s", "funcd.retries": "9"})
			call := k.running()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			require.NoError(t, k.report(1, call, 1, ""))
			k.requireFailed(call, api.CallFailed, "exit status 1") // and too old for another attempt
		})
	})
}

// The real store puts calls aside and brings them back.
func TestStoresRetry(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		k := raceStack(t, s)
		k.s.cfg.Retry = Retry{First: time.Millisecond, Most: 50 * time.Millisecond}
		k.labels(map[string]string{"funcd.retries": "3"})
		const calls = 20
		var all sync.WaitGroup
		for i := range calls {
			call, err := k.s.Submit(t.Context(), k.d, nil, []byte(fmt.Sprint(i)))
			require.NoError(t, err)
			all.Go(func() {
				for attempt := range 3 {
					assignment, payload, err := k.s.Next(t.Context(), alloc(i), "f1", call)
					if err != nil || assignment.Attempt != attempt || string(payload) != fmt.Sprint(i) {
						t.Errorf("call %d: %v %+v %q", i, err, assignment, payload)
						return
					}
					result := &api.Result{CallID: call, Function: "f1", Outcome: api.Exited, Attempt: attempt, ExitCode: 2 - attempt}
					if err := k.s.Report(t.Context(), alloc(i), result, payload); err != nil {
						t.Error(err)
					}
				}
				_, output, err := k.s.Output(t.Context(), k.d, call, true)
				if err != nil || string(output) != fmt.Sprint(i) {
					t.Errorf("call %d: %v %q", i, err, output)
				}
			})
		}
		all.Wait()
		require.Len(t, k.dispatched(), 3*calls)
		left, err := s.CallsInFlight(t.Context(), "acme", "f1")
		require.NoError(t, err)
		require.Empty(t, left)
	})
}

// slowStop is a cluster that takes its time to stop a container.
type slowStop struct{ Cluster }

func (c slowStop) Stop(ctx context.Context, job string) error {
	time.Sleep(10 * time.Second)
	return c.Cluster.Stop(ctx, job)
}

func TestNextAttemptThatComesWhileTheLastIsStopped(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.labels(map[string]string{"funcd.retries": "3"})
		k.s.cfg.Cluster = slowStop{k.cluster}
		call := k.running()
		k.cluster.say(api.JobStatus{Job: k.job(call), Allocation: "alloc-1", Ended: true, Code: api.CallFailed, Message: "node lost", Another: true})
		time.Sleep(testLease)
		synctest.Wait()
		require.Len(t, k.dispatched(), 2)
	})
}

// An attempt has failed in a container that serves another call now, and its call is cancelled before its owner has looked.
func TestCancelOfAnAttemptThatIsOverStopsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.labels(map[string]string{"funcd.retries": "3", "funcd.reuse": "true"})
		call := k.running()
		var saved, done atomic.Bool
		k.store.failing(func(operation string) error {
			switch {
			case operation == "SaveRecord":
				saved.Store(true)
			case operation == "Record" && saved.Load() && !done.Swap(true):
				k.store.mu.Lock()
				defer k.store.mu.Unlock()
				stored := k.store.records[key("f1", call)]
				stored.rec.Cancelled, stored.rec.Ended = time.Now(), time.Now()
				endCancelled(&stored.rec)
				k.store.versions++
				stored.version = k.store.versions
				k.store.records[key("f1", call)] = stored
			}
			return nil
		})
		require.NoError(t, k.report(1, call, 1, ""))
		synctest.Wait()
		require.True(t, done.Load())
		require.Empty(t, k.stopped())
	})
}
