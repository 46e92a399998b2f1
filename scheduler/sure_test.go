package scheduler

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// stale has the server own a call that another has executed meanwhile, and whose answer was fetched.
func (k *stack) stale() (call string) {
	k.t.Helper()
	call = k.submit()
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	k.store.queue = slices.DeleteFunc(k.store.queue, func(q *queued) bool { return q.call.ID == call })
	return call
}

func TestACallThatIsOverIsNotStarted(t *testing.T) {
	t.Run("by a container that was started for it", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.stale()
			_, err := k.take(1, call)
			requireCode(t, api.Expired, err)
			k.requireNoRecord(call)
			require.NotContains(t, k.s.owned, call)
			require.Equal(t, []string{"CALL", "PENDING"}, k.events(call))
		})
	})
	t.Run("by a slot", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			waiting := k.slot(1)
			call := k.stale()
			require.NoError(t, (<-waiting).err)
			requireCode(t, api.Expired, k.begin(1, call))
			k.requireNoRecord(call)
			require.NotContains(t, k.s.owned, call)
			require.Empty(t, k.dispatched())
		})
	})
	t.Run("nor does it fail", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.stale()
			k.cluster.say(api.JobStatus{Job: k.job(call), Ended: true, Code: api.CallFailed, Message: "no such image: x"})
			synctest.Wait()
			k.requireNoRecord(call)
			require.NotContains(t, k.s.owned, call)
			require.Equal(t, []string{"CALL", "PENDING"}, k.events(call))
		})
	})
}

// The store has written down that a slot has its call, and its answer was lost.
func TestSlotHasTheCallThatIsWrittenDownAsItsOwn(t *testing.T) {
	for name, late := range map[string]bool{"and confirms again": false, "and confirms again after its time": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				uses := k.uses()
				waiting, other := k.slot(1), k.slot(2)
				call := k.submit()
				require.NoError(t, (<-waiting).err)
				k.store.lose = 1
				requireCode(t, api.Unavailable, k.begin(1, call))
				require.Equal(t, "alloc-1", k.record(call).Allocation)
				if late {
					time.Sleep(2 * confirmTime)
					synctest.Wait()
				}
				require.NoError(t, k.begin(1, call))
				require.Empty(t, other, "it is nobody else's")
				require.NoError(t, k.report(1, call, 0, "out"))
				k.requireFinished(call, "out")
				require.Empty(t, k.dispatched())
				require.Equal(t, []string{slotJob(1)}, uses())
				require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, k.events(call))
			})
		})
	}
}

// A slot that died after it was written down to have the call is what the call has: nobody else is given it.
func TestSlotThatHasDiedWithTheCallThatIsWrittenDownAsItsOwn(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		waiting, other := k.slot(1), k.slot(2)
		call := k.submit()
		require.NoError(t, (<-waiting).err)
		k.store.lose = 1
		requireCode(t, api.Unavailable, k.begin(1, call))
		time.Sleep(confirmTime + watchAfter)
		synctest.Wait()
		k.cluster.say(api.JobStatus{Job: slotJob(1), Allocation: "alloc-1", Ended: true, Code: api.CallFailed, Message: "the container was killed by signal 9"})
		synctest.Wait()
		k.requireFailed(call, api.CallFailed, "the container was killed by signal 9")
		require.Empty(t, other)
		require.Empty(t, k.dispatched())
	})
}

// A server wakes up that was stopped, and writes a first record of a call that is over. Whoever reads that record must not take it for true.
func TestACallThatIsOverIsNotStartedByWhatIsWrittenOfIt(t *testing.T) {
	for name, slot := range map[string]bool{"by a slot": true, "by a container that was started for it": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				if slot {
					k.slot(1)
				}
				call := k.stale()
				ask := func() error {
					if slot {
						return k.begin(1, call)
					}
					_, err := k.take(1, call)
					return err
				}
				k.store.lose = 1
				requireCode(t, api.Unavailable, ask())
				requireCode(t, api.Expired, ask())
			})
		})
	}
	t.Run("after its server was killed", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			waiting := k.slot(1)
			call := k.stale()
			require.NoError(t, (<-waiting).err)
			k.store.lose = 1
			requireCode(t, api.Unavailable, k.begin(1, call))
			k.restart()
			requireCode(t, api.Expired, k.begin(1, call))
		})
	})
}

// On a NATS cluster a record that meets another in the same moment is refused before the other can be read.
func TestARecordThatIsBeingWrittenIsNoEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		var once atomic.Bool
		k.store.failing(func(operation string) error {
			if operation == "SaveRecord" && !once.Swap(true) {
				return api.Errorf(api.Conflict, "another is being written")
			}
			return nil
		})
		k.cluster.say(api.JobStatus{Job: k.job(call), Ended: true, Code: api.CallFailed, Message: "no such image: x"})
		synctest.Wait()
		require.Equal(t, []string{call}, k.waiting())
		time.Sleep(2 * time.Second)
		synctest.Wait()
		k.requireFailed(call, api.CallFailed, "no such image: x")
	})
}
