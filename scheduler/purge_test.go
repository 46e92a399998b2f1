package scheduler

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// end has the container of a job end now, which was started for the call, or ahead of any.
func (k *stack) end(job, call string) {
	k.cluster.mu.Lock()
	defer k.cluster.mu.Unlock()
	order := uint64(len(k.cluster.ended) + 1)
	k.cluster.ended = append(k.cluster.ended, api.EndedJob{
		Account: "acme", Name: "hello", Function: "f1", Job: job, Call: call, Submitted: time.Now(), Order: order,
	})
	k.cluster.ends[job] = time.Now()
}

func (k *stack) purged() []string { return k.cluster.asked(&k.cluster.purged) }

// purging has the stack's server purge until the test ends.
func purging(t *testing.T, keep Keep, test func(t *testing.T, k *stack)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newStack(t)
		k.s.cfg.Keep = keep
		require.NoError(t, k.s.ServeAll(t.Context()))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- k.s.PurgeEnded(ctx) }()
		test(t, k)
		cancel()
		require.NoError(t, <-ended)
	})
}

func TestEndedContainersArePurgedWhenTheirTimeIsOver(t *testing.T) {
	purging(t, Keep{Time: time.Hour, Jobs: 500}, func(t *testing.T, k *stack) {
		k.end("one", "00000000-0000-4000-8000-000000000001")
		time.Sleep(30 * time.Minute)
		k.end("two", "")
		time.Sleep(30*time.Minute - purgePeriod)
		synctest.Wait()
		require.Empty(t, k.purged())
		time.Sleep(2 * purgePeriod)
		synctest.Wait()
		require.Equal(t, []string{"one"}, k.purged())
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, []string{"one", "two"}, k.purged())
	})
}

// The time counts from the end of a container, not from its start.
func TestEndedContainerThatRanForLongIsKept(t *testing.T) {
	purging(t, Keep{Time: time.Hour, Jobs: 500}, func(t *testing.T, k *stack) {
		began := time.Now()
		time.Sleep(5 * time.Hour)
		k.end("one", "")
		k.cluster.mu.Lock()
		k.cluster.ended[0].Submitted = began
		k.cluster.mu.Unlock()
		time.Sleep(time.Hour - purgePeriod)
		synctest.Wait()
		require.Empty(t, k.purged())
		time.Sleep(2 * purgePeriod)
		synctest.Wait()
		require.Equal(t, []string{"one"}, k.purged())
	})
}

func TestEndedContainersOverTheNumberArePurged(t *testing.T) {
	purging(t, Keep{Time: time.Hour, Jobs: 5}, func(t *testing.T, k *stack) {
		other := api.EndedJob{Account: "acme", Name: "other", Function: "f2", Job: "other", Submitted: time.Now(), Order: 1}
		k.cluster.mu.Lock()
		k.cluster.ended = []api.EndedJob{other}
		k.cluster.ends["other"] = time.Now()
		k.cluster.mu.Unlock()
		for i := range 8 {
			k.end(fmt.Sprint(i), "")
		}
		time.Sleep(purgePeriod - time.Second)
		synctest.Wait()
		require.Empty(t, k.purged(), "whoever waits for their end has heard of it by then")
		time.Sleep(purgePeriod + 2*time.Second)
		synctest.Wait()
		require.Equal(t, []string{"0", "1", "2"}, k.purged(), "the oldest of this function")
	})
}

func TestContainersThatMayHaveACallAreNotPurged(t *testing.T) {
	for name, c := range map[string]struct {
		end   func(k *stack) (call string)
		after int // purges once the call is over
	}{
		"that of a call that runs": {func(k *stack) string {
			call := k.running()
			k.end(k.job(call), call)
			return call
		}, 1},
		"that of a call that has not begun": {func(k *stack) string {
			call := k.submit()
			k.end(k.job(call), call)
			return call
		}, 1},
		"a slot that a call runs in": {func(k *stack) string {
			waiting := k.slot(1)
			call := k.submit()
			require.NoError(k.t, (<-waiting).err)
			require.NoError(k.t, k.begin(1, call))
			k.end(slotJob(1), "")
			return call
		}, 1},
		"that of an older call, in which one runs now": {func(k *stack) string {
			waiting := k.slot(1)
			call := k.submit()
			require.NoError(k.t, (<-waiting).err)
			require.NoError(k.t, k.begin(1, call))
			k.end(slotJob(1), "00000000-0000-4000-8000-000000000001")
			return call
		}, 1},
		"one whose container has not quite ended": {func(k *stack) string {
			k.end("one", "")
			k.cluster.mu.Lock()
			defer k.cluster.mu.Unlock()
			delete(k.cluster.ends, "one")
			return ""
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			purging(t, Keep{Time: time.Hour, Jobs: 0}, func(t *testing.T, k *stack) {
				k.d.Function.Timeout = 7200
				call := c.end(k)
				time.Sleep(90 * time.Minute)
				synctest.Wait()
				require.Empty(t, k.purged())
				if call != "" {
					require.NoError(t, k.cancel(call))
					_ = k.report(1, call, 0, "")
				}
				time.Sleep(2 * purgePeriod)
				synctest.Wait()
				require.Len(t, k.purged(), c.after)
			})
		})
	}
}

func TestPurgeEndsWhenSomethingDoesNotAnswer(t *testing.T) {
	t.Parallel()
	away := api.Errorf(api.Unavailable, "away")
	for name, spoil := range map[string]func(k *stack){
		"the queue": func(k *stack) {
			k.store.failing(func(operation string) error {
				if operation == "IsQueued" {
					return away
				}
				return nil
			})
		},
		"the records": func(k *stack) {
			k.store.failing(func(operation string) error {
				if operation == "Running" {
					return away
				}
				return nil
			})
		},
		"the cluster": func(k *stack) { k.cluster.purge = func(string) error { return away } },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				k := newStack(t)
				k.s.cfg.Keep = Keep{Time: time.Hour, Jobs: 0}
				k.end("one", "00000000-0000-4000-8000-000000000001")
				spoil(k)
				requireCode(t, api.Unavailable, k.s.PurgeEnded(t.Context()))
				require.Empty(t, k.purged())
			})
		})
	}
}
