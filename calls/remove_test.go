package calls

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The leases of the other calls go on: one that its server loses is delivered again, and none stays behind. The numbers are what a removal of messages by their subject
// makes JetStream take unfinished calls for done: one in the middle is removed, and the next one is done.
func TestWithdrawLeavesTheOtherCallsAsTheyAre(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Lease: time.Second})
	enqueue(t, s, "f", 0, 5)
	deliveries := consume(t, s, 10)
	var delivered []*Delivery
	for i := range 5 {
		delivered = append(delivered, next(t, deliveries, i))
	}
	require.NoError(t, s.Withdraw(t.Context(), "acme", "f", newCall("f", 2).ID))
	require.NoError(t, delivered[3].Done(t.Context()))
	requirePending(t, s, 3, 0)
	for _, n := range []int{0, 1, 4} {
		require.NoError(t, next(t, deliveries, n).Done(t.Context()))
	}
	requirePending(t, s, 0, 0)
	left, err := s.InFlight(t.Context(), "acme", "f")
	require.NoError(t, err)
	require.Zero(t, left)
}
