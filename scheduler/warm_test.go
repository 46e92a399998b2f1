package scheduler

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestWarmKeepsAsManyAsItSays(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		k.d.Function.Timeout = 600
		k.label("funcd.warm", "2")
		k.keep()
		require.Equal(t, api.SlotCounts{Wanted: 2}, k.counts("f1"), "they start at once")
		k.wait(n.start)
		require.Equal(t, api.SlotCounts{Ready: 2, Wanted: 2}, k.counts("f1"))
		n.work = time.Minute
		call := k.submit()
		require.Equal(t, 1, n.calls())
		require.Equal(t, 3, n.count("hello"), "the used one is replaced at once")
		require.Equal(t, api.SlotCounts{Ready: 1, Wanted: 2}, k.counts("f1"))
		k.wait(n.start)
		require.Equal(t, api.SlotCounts{Ready: 2, Wanted: 2}, k.counts("f1"))
		require.Equal(t, api.Running, k.record(call).State)
		k.wait(10 * time.Minute)
		require.Equal(t, api.SlotCounts{Ready: 2, Wanted: 2}, k.counts("f1"), "nothing was idle for too long")
		require.Equal(t, 2, n.count("hello"))
		require.Len(t, k.cluster.asked(&k.cluster.slots), 3, "no more than that were started")
		require.Empty(t, k.dispatched())

		k.label("funcd.warm", "1")
		k.wait(warmTick)
		require.Equal(t, api.SlotCounts{Ready: 1, Wanted: 1}, k.counts("f1"))
		require.Equal(t, 1, n.count("hello"))
		k.label("funcd.warm", "0")
		k.wait(warmTick)
		require.Zero(t, k.counts("f1"))
		require.Zero(t, n.count("hello"))
		require.Empty(t, k.stopped(), "they end, and are not ended")
	})
}

func TestSlotsAreReplacedUnderLoad(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		k.label("funcd.warm", "5")
		k.keep()
		k.wait(time.Second)
		const calls = 40
		for range calls {
			require.False(t, k.called())
			k.wait(n.start)
		}
		require.Equal(t, calls, n.calls())
		for job, served := range n.served {
			require.Len(t, served, 1, job)
		}
		k.wait(time.Minute)
		require.Equal(t, api.SlotCounts{Ready: 5, Wanted: 5}, k.counts("f1"))
		require.LessOrEqual(t, n.most["hello"], 6)
		require.Len(t, k.cluster.asked(&k.cluster.slots), calls+5)
	})
}

func TestSlotsFollowTheCalls(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		k.keep()
		k.wait(10 * time.Minute)
		require.Zero(t, k.counts("f1"), "none for a function that was never called")
		require.True(t, k.called(), "the first is cold")
		require.Equal(t, 1, k.counts("f1").Wanted)
		k.wait(n.start)
		require.Equal(t, api.SlotCounts{Ready: 1, Wanted: 1}, k.counts("f1"))
		require.False(t, k.called(), "the second is not")

		// A slot is ready after 0.3 s, in which 3 calls arrive at 10 a second.
		cold := 0
		for i := range 200 {
			if k.called() && i >= 100 {
				cold++
			}
			k.wait(100 * time.Millisecond)
		}
		wanted := k.counts("f1").Wanted
		require.Greater(t, wanted, 3, "as many as arrive while one starts, and some for chance")
		require.LessOrEqual(t, wanted, 5)
		require.Zero(t, cold, "then no call is cold any more")

		k.wait(time.Minute)
		require.Equal(t, api.SlotCounts{Ready: 1, Wanted: 1}, k.counts("f1"), "few calls, few slots")
		k.wait(4*time.Minute - 2*warmTick)
		require.Equal(t, 1, k.counts("f1").Ready)
		k.wait(3 * warmTick)
		require.Zero(t, k.counts("f1"), "none after five minutes without a call")
		require.Zero(t, n.count("hello"))
		require.True(t, k.called())
	})
}

func TestIdleOfTheFunction(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		k.label("funcd.idle", "3s")
		k.keep()
		require.True(t, k.called())
		k.wait(n.start)
		require.Equal(t, 1, k.counts("f1").Ready)
		k.wait(3*time.Second + warmTick)
		require.Zero(t, k.counts("f1"))
		require.Zero(t, n.count("hello"))
	})
}

func TestLimitsOfSlots(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		k.label("funcd.warm", "1000")
		for i := range 4 {
			k.add("acme", i, "funcd.warm", "3")
		}
		k.add("other", 4, "funcd.warm", "3")
		k.add("other", 5, "funcd.warm", "3")
		k.keep()
		for range 100 {
			k.wait(time.Second)
			require.Equal(t, 5, n.count("hello"), "of one function")
			require.Equal(t, 8, n.count("hello")+n.count("other0")+n.count("other1")+n.count("other2")+n.count("other3"), "of one account")
			require.Equal(t, 12, n.count(""), "in all")
		}
		require.Equal(t, 12, n.most[""], "also while they start")
		require.Equal(t, api.SlotCounts{Ready: 5, Wanted: 5}, k.counts("f1"))
	})
}

// Functions that were called once hold slots for minutes. One that asks for its own does not have to wait for them.
func TestWhatIsAskedForGoesBeforeWhatIsGiven(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		k.keep()
		call := func(d *api.Definition) {
			k.slots.SlotUsed(api.Use{Account: d.Account, Name: d.Function.Name, Function: d.ID})
			k.wait(time.Second)
		}
		var others []*api.Definition
		for i := range 8 {
			others = append(others, k.add("acme", i))
			call(others[i])
			require.Equal(t, 1, k.counts(others[i].ID).Ready, "up to the account's limit")
		}
		foreign := k.add("other", 8)
		call(foreign)
		asks := k.add("acme", 9, "funcd.warm", "3")
		for range 5 {
			k.wait(time.Second)
			call(others[7]) // which would like to have more
		}
		require.Equal(t, api.SlotCounts{Ready: 3, Wanted: 3}, k.counts(asks.ID))
		for i, d := range others {
			require.Equal(t, i >= 3, k.counts(d.ID).Ready > 0, "those called the longest time ago have none: %d", i)
		}
		require.Equal(t, 1, k.counts(foreign.ID).Ready, "it is another account's")
		for i := range 6 {
			k.add("acme", 10+i, "funcd.warm", "1")
		}
		k.wait(20 * warmTick)
		require.Equal(t, api.SlotCounts{Ready: 3, Wanted: 3}, k.counts(asks.ID), "what was asked for is not taken for others that ask")
		require.Equal(t, 8+1, n.count(""))
		for _, d := range others {
			require.Zero(t, k.counts(d.ID).Ready)
		}
		require.Equal(t, 8+1, n.most[""], "the limit was never passed")
	})
}

func TestUpdateReplacesTheSlots(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		k.label("funcd.warm", "3")
		k.keep()
		k.wait(time.Second)
		old := n.jobs()
		require.Len(t, old, 3)
		k.functions.mu.Lock()
		k.functions.d.Revision = 2
		k.functions.mu.Unlock()
		require.True(t, k.called(), "those of before the update have no call any more")
		k.wait(warmTick)
		for _, job := range old {
			require.NotContains(t, n.jobs(), job)
		}
		require.Equal(t, api.SlotCounts{Ready: 3, Wanted: 3}, k.counts("f1"))
		require.False(t, k.called())
		require.Equal(t, 1, n.calls())
		require.Empty(t, k.stopped())
	})
}

// An update may come while slots start. They end by themselves, and that is no failure of the new ones.
func TestUpdateWhileSlotsStart(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		n.start = 10 * time.Second
		k.label("funcd.warm", "2")
		k.keep()
		k.wait(9 * time.Second)
		k.functions.mu.Lock()
		k.functions.d.Revision = 2
		k.functions.mu.Unlock()
		n.mu.Lock()
		n.start = 300 * time.Millisecond
		n.mu.Unlock()
		k.wait(2*time.Second + 300*time.Millisecond)
		require.Equal(t, api.SlotCounts{Ready: 2, Wanted: 2}, k.counts("f1"))
		require.Len(t, n.jobs(), 2)
		for _, job := range n.jobs() {
			n.kill(job)
		}
		k.wait(warmTick + n.start)
		require.Equal(t, api.SlotCounts{Ready: 2, Wanted: 2}, k.counts("f1"), "nothing holds them back")
	})
}

func TestRemovedFunctionIsForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		d := k.add("acme", 1, "funcd.warm", "2")
		k.keep()
		k.wait(time.Second)
		require.Equal(t, api.SlotCounts{Ready: 2, Wanted: 2}, k.counts(d.ID))
		jobs := n.jobs()
		require.Len(t, jobs, 2)
		k.functions.mu.Lock()
		k.functions.others = nil
		k.functions.mu.Unlock()
		k.wait(warmTick)
		require.Zero(t, k.counts(d.ID))
		for _, job := range jobs {
			require.Zero(t, k.cluster.watched(job), "nobody asks for them any more")
			n.kill(job) // with the function's job
		}
		k.wait(time.Minute)
		require.Empty(t, n.jobs())
		require.Len(t, k.cluster.asked(&k.cluster.slots), 2)
		k.slots.SlotUsed(api.Use{Account: "acme", Name: d.Function.Name, Function: d.ID})
		k.wait(warmTick)
		require.Empty(t, n.jobs(), "a late word of a call starts none")
	})
}

func TestSlotWithoutAPlaceIsTakenBack(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		n.place = func(job string) string {
			if strings.HasSuffix(job, "slot-0") || len(k.cluster.asked(&k.cluster.slots)) > 4 {
				return ""
			}
			return "no capacity in the cluster"
		}
		k.label("funcd.warm", "4")
		k.keep()
		k.wait(time.Second)
		require.Equal(t, api.SlotCounts{Ready: 1, Wanted: 4}, k.counts("f1"))
		require.Len(t, n.jobs(), 1)
		require.Len(t, k.stopped(), 3, "they do not stand in the way of calls")
		require.Len(t, k.cluster.asked(&k.cluster.slots), 4)
		k.wait(warmNoPlace - 2*time.Second)
		require.Len(t, k.cluster.asked(&k.cluster.slots), 4, "nor are they tried again at once")
		k.wait(2*warmTick + time.Second)
		require.Equal(t, api.SlotCounts{Ready: 4, Wanted: 4}, k.counts("f1"))
	})
}

func TestPressureTakesASlotOfTheFunctionCalledTheLongestTimeAgo(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		k.label("funcd.warm", "2")
		never, older := k.add("acme", 1, "funcd.warm", "1"), k.add("other", 2, "funcd.warm", "1")
		k.keep()
		k.wait(time.Second)
		k.slots.SlotUsed(api.Use{Account: older.Account, Name: older.Function.Name, Function: older.ID})
		k.wait(time.Second)
		require.False(t, k.called())
		k.wait(time.Second)
		ready := func() [3]int {
			return [3]int{k.counts(never.ID).Ready, k.counts(older.ID).Ready, k.counts("f1").Ready}
		}
		require.Equal(t, [3]int{1, 1, 2}, ready())
		for _, want := range [][3]int{{0, 1, 2}, {0, 0, 2}, {0, 0, 1}, {0, 0, 0}, {0, 0, 0}} {
			k.slots.SlotPressure()
			synctest.Wait()
			require.Equal(t, want, ready(), "one at a time")
			k.wait(time.Second)
		}
		require.Empty(t, n.jobs(), "they have left their places")
		require.Empty(t, k.stopped())
		k.wait(warmPause + warmTick + n.start)
		require.Equal(t, [3]int{1, 1, 2}, ready(), "when nobody asks any more they come back")
	})
}

// A call that the cluster has no place for says so until it has one.
func TestCallWithoutAPlaceAsksForOne(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		d := k.add("other", 1, "funcd.warm", "3")
		k.keep()
		k.wait(time.Second)
		require.Equal(t, 3, k.counts(d.ID).Ready)
		call := k.submit()
		k.cluster.say(api.JobStatus{Job: k.job(call), Waiting: "no capacity in the cluster: cpu"})
		synctest.Wait()
		require.Equal(t, 2, k.counts(d.ID).Ready)
		k.wait(pressure)
		require.Equal(t, 1, k.counts(d.ID).Ready)
		k.cluster.say(api.JobStatus{Job: k.job(call), Allocation: "alloc-1", Running: true})
		k.wait(2 * pressure)
		require.Equal(t, 1, k.counts(d.ID).Ready, "it has a place: no more is given up")
		require.Equal(t, 1, n.count(d.Function.Name))
		_, err := k.take(1, call)
		require.NoError(t, err)
		require.NoError(t, k.report(1, call, 0, ""))
	})
}

func TestStartsThatFailAreTriedLessAndLess(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		var mu sync.Mutex
		failing := true
		var starts []time.Duration
		begin := time.Now()
		run := k.cluster.onSlot
		k.cluster.onSlot = func(name, job string) {
			mu.Lock()
			defer mu.Unlock()
			starts = append(starts, time.Since(begin))
			if !failing {
				run(name, job)
				return
			}
			go k.cluster.say(api.JobStatus{Job: job, Ended: true, Code: api.CallFailed, Message: "no such image"})
		}
		k.label("funcd.warm", "1")
		k.keep()
		k.wait(10 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		require.Less(t, len(starts), 20)
		require.Greater(t, len(starts), 8, "but they are tried")
		for i := 2; i < len(starts); i++ {
			require.LessOrEqual(t, starts[i]-starts[i-1], warmBackoff+warmTick)
			require.GreaterOrEqual(t, starts[i]-starts[i-1], starts[i-1]-starts[i-2]-warmTick, "%v", starts)
		}
		failing = false
		mu.Unlock()
		k.wait(warmBackoff + warmTick + n.start)
		require.Equal(t, api.SlotCounts{Ready: 1, Wanted: 1}, k.counts("f1"))
		before := len(k.cluster.asked(&k.cluster.slots))
		n.kill(n.jobs()[0])
		k.wait(warmTick + n.start)
		mu.Lock()
		require.Equal(t, 1, k.counts("f1").Ready, "one that was ready is replaced at once")
		require.Len(t, starts, before+1)
	})
}

func TestClusterThatIsAwayIsAskedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		tries := 0
		k.cluster.dispatch = func(string) error {
			if tries++; tries < 10 {
				return api.Errorf(api.Unavailable, "away")
			}
			return nil
		}
		k.label("funcd.warm", "1")
		k.keep()
		k.wait(9*warmTick + n.start)
		require.Equal(t, api.SlotCounts{Ready: 1, Wanted: 1}, k.counts("f1"))
		require.Equal(t, 10, tries, "once each time")
	})
}

func TestNextLeaderFindsTheSlots(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		n.work = time.Minute
		k.d.Function.Timeout = 600
		k.label("funcd.warm", "2")
		stop := k.keep()
		k.wait(time.Second)
		k.submit()
		k.submit()
		k.wait(time.Second)
		stop()
		_, err := k.s.SlotCounts(t.Context(), "f1")
		requireCode(t, api.NotFound, err)
		require.Len(t, n.jobs(), 4, "two wait and two work")
		for _, job := range n.jobs() {
			k.cluster.existing = append(k.cluster.existing, api.Slot{Account: "acme", Name: "hello", Function: "f1", Revision: 1, Job: job})
		}
		k.keep()
		require.Equal(t, 2, k.counts("f1").Wanted)
		k.wait(31 * time.Second)
		require.Equal(t, api.SlotCounts{Ready: 2, Wanted: 2}, k.counts("f1"), "each says so when it asks again")
		require.Len(t, n.jobs(), 4)
		require.Len(t, k.cluster.asked(&k.cluster.slots), 4, "none was started anew")
		k.wait(29 * time.Second)
		require.Len(t, n.jobs(), 2, "those that worked have just ended")
		require.Equal(t, api.SlotCounts{Ready: 2, Wanted: 2}, k.counts("f1"))
		n.kill(n.jobs()[0])
		k.wait(warmTick + n.start)
		require.Equal(t, api.SlotCounts{Ready: 2, Wanted: 2}, k.counts("f1"), "nothing was taken for a failure")
	})
}

func TestReusedContainerServesManyCalls(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		k.label("funcd.warm", "1")
		k.label("funcd.reuse", "true")
		k.label("funcd.reuse.max", "10")
		k.keep()
		k.wait(time.Second)
		for range 40 {
			require.False(t, k.called())
			k.wait(3 * time.Second) // the replacement of one that has served its calls starts meanwhile
			require.Equal(t, 1, k.counts("f1").Ready)
		}
		require.Equal(t, 40, n.calls())
		for job, calls := range n.served {
			require.LessOrEqual(t, len(calls), 10, job)
		}
		require.GreaterOrEqual(t, k.counts("f1").Ready, 1)
		require.LessOrEqual(t, n.most["hello"], 2, "one works or is ready, one is in its place soon")
		require.Len(t, k.cluster.asked(&k.cluster.slots), 5)
	})
}

// As many reused containers are kept as there were calls at once, for the idle time or up to twice that.
func TestReusedContainersThatAreNotNeededEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		const most = 4
		k.label("funcd.reuse", "true")
		k.label("funcd.idle", "5m")
		k.label("funcd.warm", strconv.Itoa(most))
		n := k.node()
		n.work = 10 * time.Second
		k.keep()
		k.wait(time.Second)
		for range most {
			k.submit()
		}
		k.label("funcd.warm", "1")
		// One at a time from now on.
		trickle := func(d time.Duration) {
			for range int(d / (20 * time.Second)) {
				k.wait(20 * time.Second)
				k.submit()
			}
			k.wait(20 * time.Second)
		}
		trickle(4 * time.Minute)
		require.Equal(t, api.SlotCounts{Ready: most, Wanted: 1}, k.counts("f1"), "there may be as many again")
		trickle(7 * time.Minute)
		require.Equal(t, api.SlotCounts{Ready: 1, Wanted: 1}, k.counts("f1"))
		require.Len(t, n.jobs(), 1)
	})
}

// A container that was started for a call is a slot after it, if its function's containers are reused.
func TestColdContainerBecomesASlot(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.label("funcd.reuse", "true")
		k.keep()
		require.True(t, k.called())
		waiting := k.slot(1)
		require.Equal(t, 1, k.counts("f1").Ready)
		require.Equal(t, 1, k.cluster.watched(slotJob(1)))
		call := k.submit()
		require.Equal(t, call, (<-waiting).assignment.CallID)
		require.NoError(t, k.begin(1, call))
		require.Zero(t, k.counts("f1").Ready, "it is busy")
		require.NoError(t, k.report(1, call, 0, ""))
		k.cluster.say(api.JobStatus{Job: slotJob(1), Ended: true})
		synctest.Wait()
		require.Zero(t, k.counts("f1").Ready)
	})
}

// Excess is given up once, not once for each call that comes while it is.
func TestNoMoreIsGivenUpThanThereIsTooMuch(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		k.label("funcd.warm", "5")
		k.keep()
		k.wait(time.Second)
		require.Len(t, n.jobs(), 5)
		k.label("funcd.warm", "3")
		for range 20 {
			k.slots.SlotUsed(api.Use{Account: "acme", Name: "hello", Function: "f1"})
		}
		synctest.Wait()
		require.Equal(t, api.SlotCounts{Ready: 3, Wanted: 3}, k.counts("f1"))
		require.Len(t, n.jobs(), 3)
		require.Len(t, k.cluster.asked(&k.cluster.slots), 5)
	})
}

// Slots are taken, given up, started and killed while calls come: each call is answered, and started once.
func TestManyCallsOnFewSlotsThatDie(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		n := k.node()
		n.work = 20 * time.Millisecond
		k.label("funcd.warm", "3")
		stop := k.keep()
		k.wait(time.Second)
		const calls = 60
		ids := make([]string, calls)
		var calling sync.WaitGroup
		for i := range calls {
			calling.Go(func() {
				time.Sleep(time.Duration(i%20) * 37 * time.Millisecond)
				call, err := k.s.Submit(t.Context(), k.d, nil, nil)
				if err != nil {
					t.Error(err)
				}
				ids[i] = call
				// Its container, if it has to have one of its own.
				allocation := api.Allocation{ID: fmt.Sprintf("cold-%d", i), Job: "func-acme-hello", Account: "acme", Name: "hello"}
				if _, _, err := k.s.Next(t.Context(), allocation, "f1", call); err == nil {
					n.mu.Lock()
					n.served[allocation.ID] = append(n.served[allocation.ID], call)
					n.mu.Unlock()
					_ = k.s.Report(t.Context(), allocation, &api.Result{CallID: call, Function: "f1", Outcome: api.Exited}, nil)
				}
			})
		}
		for i := range 20 {
			time.Sleep(41 * time.Millisecond)
			if jobs := n.jobs(); len(jobs) > 0 && i%3 == 0 {
				n.kill(jobs[i%len(jobs)])
			}
			if i%7 == 0 {
				k.slots.SlotPressure()
			}
		}
		calling.Wait()
		k.wait(20 * time.Second)
		finished := 0
		for _, call := range ids {
			rec := k.record(call)
			require.True(t, rec.State.Ended(), "%+v", rec)
			if rec.State == api.Finished {
				finished++
			} else {
				require.Contains(t, rec.Message, "container", "only one whose container was killed may fail")
			}
		}
		require.GreaterOrEqual(t, finished, calls-7)
		require.GreaterOrEqual(t, n.calls(), finished)
		require.Empty(t, k.waiting())
		stop()
	})
}
