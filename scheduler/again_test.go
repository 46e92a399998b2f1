package scheduler

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// fails says that the call's container of this number, from 0, has ended before it took the call.
func (k *stack) fails(job, message string, another bool) {
	k.cluster.say(api.JobStatus{Job: job, Allocation: "alloc-of-" + job, Ended: true, Code: api.CallFailed, Message: message, Another: another})
	synctest.Wait()
}

func TestACallWhoseContainerDoesNotStartGetsAnother(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		first := jobOf("acme", "hello", call)
		k.fails(first, "Docker is away", true)
		require.Equal(t, []string{first}, k.cluster.stopped, "Nomad may have replaced it")
		require.Equal(t, []string{call}, k.dispatched(), "not at once")
		rec := k.record(call)
		require.Equal(t, api.Pending, rec.State)
		require.Equal(t, "Docker is away", rec.Message)
		require.Equal(t, 1, rec.Starts)

		time.Sleep(firstPause)
		synctest.Wait()
		require.Equal(t, []string{call, call}, k.dispatched())
		_, err := k.take(1, call)
		require.NoError(t, err)
		require.Equal(t, first+"-1", k.record(call).Job, "Nomad would have returned the first for the same name")
		require.NoError(t, k.report(1, call, 0, "out"))
		k.requireFinished(call, "out")
		require.Equal(t, []string{"CALL", "PENDING", "PENDING: Docker is away", "RUNNING", "FINISHED"}, k.events(call))
	})
}

func TestACallWhoseContainersNeverStartFails(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		job := jobOf("acme", "hello", call)
		k.fails(job, "Docker is away", true)
		time.Sleep(mostPause)
		synctest.Wait()
		k.fails(job+"-1", "Docker is away", true)
		time.Sleep(mostPause)
		synctest.Wait()
		k.fails(job+"-2", "Docker is broken", true)
		k.requireFailed(call, api.CallFailed, "Docker is broken")
		require.Len(t, k.dispatched(), testStarts)
	})
}

func TestNoOtherContainer(t *testing.T) {
	t.Parallel()
	t.Run("for a reason that stays", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			k.fails(jobOf("acme", "hello", call), "no such image: x", false)
			k.requireFailed(call, api.CallFailed, "no such image: x")
		})
	})
	t.Run("for a call that was taken", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.running()
			k.cluster.say(api.JobStatus{Job: k.job(call), Allocation: "alloc-1", Ended: true, Code: api.CallFailed, Message: "node lost", Another: true})
			synctest.Wait()
			k.requireFailed(call, api.CallFailed, "node lost")
			require.Len(t, k.dispatched(), 1)
		})
	})
}

func TestTheNextServerGoesOnWithTheSameContainer(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		job := jobOf("acme", "hello", call)
		k.fails(job, "Docker is away", true)
		k.restart()
		require.Equal(t, []string{call, call}, k.dispatched())
		_, err := k.take(1, call)
		require.NoError(t, err)
		require.Equal(t, job+"-1", k.record(call).Job)
	})
}

func TestTheFirstContainerMayStillTakeTheCall(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		k.fails(jobOf("acme", "hello", call), "node lost", true)
		time.Sleep(firstPause)
		synctest.Wait()
		_, err := k.take(1, call) // its node was only cut off
		require.NoError(t, err)
		_, err = k.take(2, call)
		requireCode(t, api.Expired, err)
	})
}

func TestACallThatIsCancelledBeforeItsNextContainerGetsNone(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		k.fails(jobOf("acme", "hello", call), "Docker is away", true)
		require.NoError(t, k.s.Cancel(t.Context(), k.d, call))
		time.Sleep(mostPause)
		synctest.Wait()
		k.requireFailed(call, api.Cancelled, "cancelled")
		require.Len(t, k.dispatched(), 1)
	})
}

func TestAWaitGoesOnWhileTheStoreIsAway(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.running()
		type answer struct {
			output []byte
			err    error
		}
		answers := make(chan answer, 1)
		go func() {
			_, output, err := k.s.Output(t.Context(), k.d, call, true)
			answers <- answer{output, err}
		}()
		synctest.Wait()
		away := func(operation string) error {
			if operation == "Record" || operation == "Output" {
				return api.Errorf(api.Unavailable, "away")
			}
			return nil
		}
		require.NoError(t, k.report(1, call, 0, "out"))
		<-answers
		other := k.running()
		k.store.failing(away)
		_, _, err := k.s.Output(t.Context(), k.d, other, false)
		requireCode(t, api.Unavailable, err)
		began := time.Now()
		go func() {
			_, output, err := k.s.Output(t.Context(), k.d, other, true)
			answers <- answer{output, err}
		}()
		time.Sleep(storePatience / 2)
		k.store.failing(nil)
		require.NoError(t, k.report(1, other, 0, "late"))
		a := <-answers
		require.NoError(t, a.err)
		require.Equal(t, "late", string(a.output))
		require.Less(t, time.Since(began), storePatience)

		k.store.failing(away)
		began = time.Now()
		_, _, err = k.s.Output(t.Context(), k.d, other, true)
		requireCode(t, api.Unavailable, err)
		require.Less(t, time.Since(began), storePatience+2*storePause, "not for ever")
	})
}

// Its node was cut off, and is back before Nomad's client has heard that the container is to stop.
func TestAContainerThatWasGivenUpGetsNoCall(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		k.fails(k.job(call), "node lost", true)
		k.wait(firstPause)
		_, err := k.takeAs(1, call, k.job(call), 1)
		requireCode(t, api.Expired, err)
		k.cluster.say(api.JobStatus{Job: k.job(call) + "-1", Allocation: "alloc-2", Running: true})
		_, err = k.takeAs(2, call, k.job(call)+"-1", 1)
		require.NoError(t, err)
		require.NoError(t, k.report(2, call, 0, "out"))
		k.requireFinished(call, "out")
	})
}

func TestManyContainersMayBeStarted(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		const starts = 80
		k.s.cfg.Starts = starts
		call := k.submit()
		k.fails(k.job(call), "Docker is away", true)
		for n := 1; n < starts; n++ {
			k.wait(mostPause)
			require.Len(t, k.dispatched(), n+1)
			k.fails(fmt.Sprintf("%s-%d", k.job(call), n), "Docker is away", true)
		}
		k.requireFailed(call, api.CallFailed, "Docker is away")
	})
}

// Nomad says that it runs, and has forgotten it.
func TestAContainerThatDoesNotAskIsGivenUp(t *testing.T) {
	t.Run("for another", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			k.cluster.say(api.JobStatus{Job: k.job(call), Allocation: "alloc-1", Running: true})
			time.Sleep(silentTime - time.Second)
			k.cluster.say(api.JobStatus{Job: k.job(call), Allocation: "alloc-1", Node: "n1", Running: true})
			synctest.Wait()
			require.Empty(t, k.stopped())
			k.wait(time.Second)
			require.Equal(t, []string{k.job(call)}, k.stopped())
			require.Equal(t, "the container runs and does not ask for its call", k.record(call).Message)
			k.wait(firstPause)
			_, err := k.takeAs(2, call, k.job(call)+"-1", 1)
			require.NoError(t, err)
			require.NoError(t, k.report(2, call, 0, "out"))
			k.requireFinished(call, "out")
		})
	})
	t.Run("for the last time", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			for n := range testStarts {
				job := k.job(call)
				if n > 0 {
					job = fmt.Sprintf("%s-%d", job, n)
				}
				k.cluster.say(api.JobStatus{Job: job, Allocation: fmt.Sprintf("alloc-%d", n), Running: true})
				k.wait(silentTime + mostPause)
			}
			k.requireFailed(call, api.CallFailed, "the container runs and does not ask for its call")
			require.Len(t, k.stopped(), testStarts)
			require.Empty(t, k.waiting())
		})
	})
	t.Run("not one that asks and can't have it", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.linked("10.0.0.1")
			call := k.submit()
			k.services.set("redis", "10.0.0.1", api.Errorf(api.Unavailable, "Consul is away"))
			k.cluster.say(api.JobStatus{Job: k.job(call), Allocation: "alloc-1", Running: true})
			for begun := time.Now(); time.Since(begun) < 3*silentTime; time.Sleep(30 * time.Second) {
				_, err := k.takeAs(1, call, k.job(call), 1)
				requireCode(t, api.Unavailable, err)
			}
			require.Empty(t, k.stopped())
			k.services.set("redis", "10.0.0.1", nil)
			_, err := k.takeAs(1, call, k.job(call), 1)
			require.NoError(t, err)
		})
	})
	t.Run("not once it has the call", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.d.Function.Timeout = 3600
			call := k.submit()
			k.cluster.say(api.JobStatus{Job: k.job(call), Allocation: "alloc-1", Running: true})
			time.Sleep(time.Second)
			_, err := k.takeAs(1, call, k.job(call), 1)
			require.NoError(t, err)
			k.cluster.say(api.JobStatus{Job: k.job(call), Allocation: "alloc-1", Node: "n1", Running: true})
			k.wait(2 * silentTime)
			require.Empty(t, k.stopped())
			require.NoError(t, k.report(1, call, 0, "out"))
			k.requireFinished(call, "out")
		})
	})
}

// Nomad may miss that a node has changed, and then never look again.
func TestAPlaceIsAskedForAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		k.cluster.say(api.JobStatus{Job: k.job(call), Waiting: "no capacity"})
		k.wait(placeTime - time.Second)
		require.Empty(t, k.cluster.asked(&k.cluster.evaluated))
		k.wait(2*time.Second + placeTime)
		require.Equal(t, []string{k.job(call), k.job(call)}, k.cluster.asked(&k.cluster.evaluated))
		k.cluster.say(api.JobStatus{Job: k.job(call), Allocation: "alloc-1", Running: true})
		_, err := k.takeAs(1, call, k.job(call), 1)
		require.NoError(t, err)
		k.wait(2 * placeTime)
		require.Len(t, k.cluster.asked(&k.cluster.evaluated), 2)
	})
}
