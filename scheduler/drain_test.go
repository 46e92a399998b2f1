package scheduler

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestASlotOnANodeThatIsDrainedEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		require.NoError(t, k.s.LookForDrains(t.Context()))
		slot := api.Slot{Function: "f1", Revision: 1, Job: slotJob(1)}
		waiting := k.slot(1)
		call := k.submit()
		require.NoError(t, (<-waiting).err)
		require.NoError(t, k.begin(1, call))

		k.cluster.draining = map[string]bool{alloc(1).ID: true}
		require.NoError(t, k.s.LookForDrains(t.Context()))
		require.NoError(t, k.report(1, call, 0, "out"), "its call comes to its end")
		k.requireFinished(call, "out")
		_, _, err := k.s.NextSlot(t.Context(), alloc(1), slot)
		requireCode(t, api.Expired, err)

		other := k.slot(2)
		next := k.submit()
		require.NoError(t, (<-other).err, "the next call goes to another")
		require.NoError(t, k.begin(2, next))

		require.NoError(t, k.s.Report(t.Context(), alloc(2), &api.Result{CallID: next, Function: "f1", Outcome: api.Stopped, Signal: 15, Started: time.Now(), Ended: time.Now()}, nil))
		require.Equal(t, "the container was stopped in Nomad while the function ran", k.record(next).Message, "its node is not drained")
		third := k.slot(3)
		ends := k.submit()
		require.NoError(t, (<-third).err)
		require.NoError(t, k.begin(3, ends))
		k.cluster.draining = map[string]bool{alloc(3).ID: true}
		require.NoError(t, k.s.LookForDrains(t.Context()))
		require.NoError(t, k.s.Report(t.Context(), alloc(3), &api.Result{CallID: ends, Function: "f1", Outcome: api.Stopped, Signal: 15, Started: time.Now(), Ended: time.Now()}, nil))
		require.Equal(t, "node lost: it is being drained", k.record(ends).Message)

		k.cluster.draining = nil
		require.NoError(t, k.s.LookForDrains(t.Context()))
		k.slot(1)
	})
}
