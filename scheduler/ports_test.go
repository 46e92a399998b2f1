package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// What a call waits for that has no port is another call's end: containers that wait for calls have none.
func TestCallWithoutAPortAsksForNoSlot(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.node()
		d := k.add("other", 1, "funcd.warm", "2")
		k.keep()
		k.wait(time.Second)
		call := k.submit()
		const reason = "no capacity in the cluster: port 8080 is taken on 1 node"
		k.cluster.say(api.JobStatus{Job: k.job(call), Waiting: reason, PortTaken: true})
		synctest.Wait()
		k.wait(3 * pressure)
		require.Equal(t, 2, k.counts(d.ID).Ready)
		rec, _, err := k.store.Record(t.Context(), "f1", call)
		require.NoError(t, err)
		require.Equal(t, api.Pending, rec.State)
		require.Equal(t, reason, rec.Message)
		_, err = k.take(1, call)
		require.NoError(t, err)
		require.NoError(t, k.report(1, call, 0, ""))
	})
}
