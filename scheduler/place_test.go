package scheduler

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// handed is what a slot has got.
type handed struct {
	assignment *api.Assignment
	payload    []byte
	err        error
}

func slotJob(n int) string { return jobOf("acme", "hello", "waiting-"+alloc(n).ID) }

// slot has the container n wait for a call, for at most half a minute.
func (k *stack) slot(n int) <-chan handed { return k.slotOf(n, 1) }

func (k *stack) slotOf(n int, revision uint64) <-chan handed {
	c := make(chan handed, 1)
	s, ctx := k.s, k.t.Context()
	go func() {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		assignment, payload, err := s.NextSlot(ctx, alloc(n), api.Slot{Function: "f1", Revision: revision, Job: slotJob(n)})
		c <- handed{assignment, payload, err}
	}()
	synctest.Wait()
	return c
}

// begin is the container n that confirms the call.
func (k *stack) begin(n int, call string) error {
	err := k.s.Begin(k.t.Context(), alloc(n), "f1", call)
	synctest.Wait()
	return err
}

// uses returns where the calls began that the scheduler tells of: the slots' jobs, "" for a cold one.
func (k *stack) uses() func() []string {
	var jobs []string
	stop, err := k.slots.WatchSlots(func(api.Slot) {}, func(use api.Use) {
		if use.Account != "acme" || use.Name != "hello" || use.Function != "f1" {
			k.t.Errorf("a use of another function: %+v", use)
		}
		jobs = append(jobs, use.Job)
	}, func() {}, nil)
	require.NoError(k.t, err)
	k.t.Cleanup(stop)
	return func() []string { return jobs }
}

func (k *stack) requireNoRecord(call string) {
	k.t.Helper()
	_, _, err := k.store.Record(k.t.Context(), "f1", call)
	requireCode(k.t, api.NotFound, err)
}

func TestCallIsHandedToASlot(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		uses := k.uses()
		waiting := k.slot(1)
		begin := time.Now()
		call := k.submit()
		got := <-waiting
		require.NoError(t, got.err)
		require.True(t, got.assignment.Confirm)
		require.Equal(t, call, got.assignment.CallID)
		require.Equal(t, "in", string(got.payload))
		require.Equal(t, api.Env{"A=request", "HTTP_B=b", "A=function"}, got.assignment.Env)
		require.Equal(t, 1, got.assignment.Calls)
		k.requireNoRecord(call)
		require.Empty(t, uses(), "it has not begun")

		require.NoError(t, k.begin(1, call))
		rec := k.record(call)
		require.Equal(t, api.Running, rec.State)
		require.Equal(t, []string{slotJob(1), "alloc-1"}, []string{rec.Job, rec.Allocation})
		require.NoError(t, k.begin(1, call), "its answer may have been lost")
		require.NoError(t, k.report(1, call, 0, "out"))
		k.requireFinished(call, "out")
		require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, k.events(call))
		require.Equal(t, []string{slotJob(1)}, uses())
		require.Empty(t, k.dispatched())
		require.Zero(t, time.Since(begin), "nothing is waited for")
		require.Zero(t, k.cluster.watched(slotJob(1)), "the cluster is not asked for so short a call")
	})
}

func TestReusedSlotIsToldHowManyCallsItMayServe(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.d.Function.Config.Labels = map[string]string{"funcd.reuse": "true", "funcd.reuse.max": "7"}
		waiting := k.slot(1)
		call := k.submit()
		require.Equal(t, 7, (<-waiting).assignment.Calls)
		require.NoError(t, k.begin(1, call))
		require.NoError(t, k.report(1, call, 0, ""))

		cold := k.submit()
		assignment, err := k.take(2, cold)
		require.NoError(t, err)
		require.Equal(t, 7, assignment.Calls, "a container that was started for a call serves others too")
		require.False(t, assignment.Confirm)
		require.NoError(t, k.report(2, cold, 0, ""))
	})
}

// What a slot that dies costs is time, and not even that if it is known to be dead.
func TestSlotThatDoesNotConfirmCostsASecond(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		uses := k.uses()
		begin := time.Now()
		var dead []<-chan handed
		for n := range 3 {
			dead = append(dead, k.slot(n))
		}
		call := k.submit()
		for i, waiting := range dead {
			require.Equal(t, call, (<-waiting).assignment.CallID, "it is tried after those before it")
			require.Equal(t, time.Duration(i)*confirmTime, time.Since(begin))
			require.Empty(t, k.dispatched())
		}
		time.Sleep(confirmTime)
		synctest.Wait()
		require.Equal(t, []string{call}, k.dispatched())
		k.requireNoRecord(call)
		assignment, err := k.take(9, call)
		require.NoError(t, err)
		require.False(t, assignment.Confirm)
		require.Equal(t, k.job(call), k.record(call).Job)
		require.NoError(t, k.report(9, call, 0, "out"))
		k.requireFinished(call, "out")
		require.Equal(t, []string{""}, uses(), "one cold call")
	})
}

func TestSlotThatConfirmsLateDoesNotRunTheCall(t *testing.T) {
	for name, taken := range map[string]bool{"before its container has it": false, "after its container has it": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				waiting := k.slot(1)
				call := k.submit()
				require.NoError(t, (<-waiting).err)
				time.Sleep(confirmTime)
				synctest.Wait()
				require.Equal(t, []string{call}, k.dispatched(), "it went cold")
				if taken {
					_, err := k.take(2, call)
					require.NoError(t, err)
				}
				requireCode(t, api.Expired, k.begin(1, call))
				if !taken {
					k.requireNoRecord(call)
					_, err := k.take(2, call)
					require.NoError(t, err)
				}
				requireCode(t, api.Expired, k.begin(1, call))
				require.Equal(t, "alloc-2", k.record(call).Allocation)
				requireCode(t, api.Expired, k.report(1, call, 0, "of the late one"))
				require.NoError(t, k.report(2, call, 0, "out"))
				k.requireFinished(call, "out")
				requireCode(t, api.Expired, k.begin(1, call))
				require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, k.events(call))
			})
		})
	}
}

func TestTwoSlotsConfirmOneCall(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		first, second := k.slot(1), k.slot(2)
		call := k.submit()
		require.NoError(t, (<-first).err)
		time.Sleep(confirmTime)
		synctest.Wait()
		require.Equal(t, call, (<-second).assignment.CallID)
		answers := make([]chan error, 4)
		for n := range answers {
			answers[n] = make(chan error, 1)
			go func() { answers[n] <- k.s.Begin(t.Context(), alloc(n), "f1", call) }()
		}
		for n, answer := range answers {
			if n == 2 {
				require.NoError(t, <-answer)
			} else {
				requireCode(t, api.Expired, <-answer)
			}
		}
		require.Equal(t, "alloc-2", k.record(call).Allocation)
		require.NoError(t, k.report(2, call, 0, "out"))
		k.requireFinished(call, "out")
		require.Empty(t, k.dispatched())
	})
}

// The moment in which the owner gives the slot up may be that of the confirmation: one of the two containers has the call then, never both.
func TestConfirmationInTheLastMoment(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		slots := 0
		for n := range 50 {
			waiting := k.slot(n)
			call := k.submit()
			require.NoError(t, (<-waiting).err)
			time.Sleep(confirmTime) // the owner's timer and this end together
			slotErr := k.begin(n, call)
			_, coldErr := k.take(100+n, call)
			if slotErr == nil {
				slots++
				requireCode(t, api.Expired, coldErr)
				require.NoError(t, k.report(n, call, 0, "out"))
			} else {
				requireCode(t, api.Expired, slotErr)
				require.NoError(t, coldErr)
				require.NoError(t, k.report(100+n, call, 0, "out"))
			}
			k.requireFinished(call, "out")
		}
		t.Logf("%d of 50 were the slot's", slots)
	})
}

// A server that dies after it has dispatched a container may not have written that down.
func TestContainerFromBeforeACrashLeavesTheCallToTheSlot(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		waiting := k.slot(1)
		call := k.submit()
		require.NoError(t, (<-waiting).err)
		cold := make(chan error, 1)
		go func() {
			_, _, err := k.s.Next(t.Context(), alloc(2), "f1", call)
			cold <- err
		}()
		synctest.Wait()
		require.Empty(t, cold, "it waits, as the slot may die yet")
		require.NoError(t, k.begin(1, call))
		requireCode(t, api.Expired, <-cold)
		require.NoError(t, k.report(1, call, 0, "out"))
		k.requireFinished(call, "out")
	})
}

func TestSlotThatIsStaleEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.functions.d.Revision = 2
		got := <-k.slotOf(1, 1)
		requireCode(t, api.Expired, got.err)

		waiting := k.slotOf(1, 2)
		k.functions.mu.Lock()
		k.functions.d.Revision = 3
		k.functions.mu.Unlock()
		call := k.submit()
		require.Equal(t, []string{call}, k.dispatched(), "no slot of an older revision has a call")
		require.Empty(t, waiting)
		_, err := k.take(2, call)
		require.NoError(t, err)
		require.NoError(t, k.report(2, call, 0, ""))

		k.functions.failing(api.Errorf(api.Unavailable, "away"))
		requireCode(t, api.Unavailable, (<-k.slotOf(3, 3)).err)
		k.functions.failing(api.Errorf(api.NotFound, "removed"))
		requireCode(t, api.Expired, (<-k.slotOf(3, 3)).err)
		k.functions.failing(nil)
		_, _, err = k.s.NextSlot(t.Context(), alloc(3), api.Slot{Function: "f1", Revision: 3, Job: "func-acme-hello2/dispatch-x"})
		requireCode(t, api.Expired, err)
		requireCode(t, api.NotFound, (<-waiting).err)
	})
}

func TestCallInASlotIsAdopted(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		waiting := k.slot(1)
		call := k.submit()
		require.NoError(t, (<-waiting).err)
		require.NoError(t, k.begin(1, call))
		k.s.Stop()
		k.s = k.server() // which has no calls yet
		begin := time.Now()
		require.NoError(t, k.begin(1, call), "the confirmation of which the answer was lost")
		require.LessOrEqual(t, time.Since(begin), confirmTime)
		requireCode(t, api.Expired, k.begin(2, call))
		k.store.failing(func(operation string) error {
			if operation == "Record" {
				return api.Errorf(api.Unavailable, "away")
			}
			return nil
		})
		requireCode(t, api.Unavailable, k.begin(1, call))
		k.store.failing(nil)

		require.NoError(t, k.s.ServeAll(t.Context()))
		synctest.Wait()
		require.NoError(t, k.begin(1, call), "also when it was adopted")
		requireCode(t, api.Expired, k.begin(2, call))
		require.Empty(t, k.dispatched())
		require.NoError(t, k.report(1, call, 0, "out"))
		k.requireFinished(call, "out")
		require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, k.events(call))
	})
}

func TestServerThatStopsWhileASlotIsTaken(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		waiting := k.slot(1)
		call := k.submit()
		require.NoError(t, (<-waiting).err)
		begin := time.Now()
		k.restart()
		require.Zero(t, time.Since(begin), "it does not wait for the slot")
		requireCode(t, api.Expired, k.begin(1, call))
		require.Equal(t, []string{call}, k.dispatched())
		_, err := k.take(2, call)
		require.NoError(t, err)
		require.NoError(t, k.report(2, call, 0, "out"))
		k.requireFinished(call, "out")
	})
}

func TestContainerOfASlotIsWatchedAfterASecond(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		waiting := k.slot(1)
		call := k.submit()
		require.NoError(t, (<-waiting).err)
		require.NoError(t, k.begin(1, call))
		k.cluster.say(api.JobStatus{Job: slotJob(1), Allocation: "alloc-1", Running: true})
		time.Sleep(watchAfter - time.Millisecond)
		require.Zero(t, k.cluster.watched(slotJob(1)))
		time.Sleep(time.Millisecond)
		synctest.Wait()
		require.Equal(t, 1, k.cluster.watched(slotJob(1)))
		k.cluster.say(api.JobStatus{Job: slotJob(1), Allocation: "alloc-1", Ended: true, Code: api.CallFailed, Message: "the container was killed by signal 9"})
		synctest.Wait()
		k.requireFailed(call, api.CallFailed, "the container was killed by signal 9")
		requireCode(t, api.Expired, k.begin(1, call))
	})
}

func TestStoreThatIsAwayWhileASlotIsClaimed(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		waiting := k.slot(1)
		k.slots.fail = api.Errorf(api.Unavailable, "away")
		call := k.submit()
		require.Empty(t, waiting)
		require.Empty(t, k.dispatched())
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, call, (<-waiting).assignment.CallID, "it was tried again")
		k.store.failing(func(operation string) error {
			if operation == "SaveRecord" {
				return api.Errorf(api.Unavailable, "away")
			}
			return nil
		})
		requireCode(t, api.Unavailable, k.begin(1, call))
		k.store.failing(nil)
		require.NoError(t, k.begin(1, call), "the runner asks again")
		require.NoError(t, k.report(1, call, 0, "out"))
		k.requireFinished(call, "out")
	})
}

// Where containers are reused, a call waits a moment for one that serves another call, before it has one of its own started.
func TestCallWaitsForAReusedContainer(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.label("funcd.reuse", "true")
		waiting := k.slot(1)
		first := k.submit()
		require.Equal(t, first, (<-waiting).assignment.CallID)
		require.NoError(t, k.begin(1, first))

		second := k.submit()
		time.Sleep(reuseTime / 2)
		synctest.Wait()
		require.Empty(t, k.dispatched())
		require.NoError(t, k.report(1, first, 0, ""))
		require.Equal(t, second, (<-k.slot(1)).assignment.CallID)
		require.NoError(t, k.begin(1, second))

		begin := time.Now()
		third := k.submit()
		time.Sleep(reuseTime)
		synctest.Wait()
		require.Equal(t, []string{third}, k.dispatched())
		require.Equal(t, reuseTime, time.Since(begin))
	})
}

// Where they are not, one that serves a call is of no use to the next.
func TestCallDoesNotWaitForAContainerOfAnother(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		waiting := k.slot(1)
		first := k.submit()
		require.Equal(t, first, (<-waiting).assignment.CallID)
		require.NoError(t, k.begin(1, first))
		second := k.submit()
		require.Equal(t, []string{second}, k.dispatched())
	})
}
