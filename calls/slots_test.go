package calls

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func slotOf(function string, revision uint64, n int) api.Slot {
	return api.Slot{Account: "acme", Name: "hello", Function: function, Revision: revision, Job: fmt.Sprintf("job-%d", n), Allocation: fmt.Sprintf("alloc-%d", n)}
}

// neverAnswered is the timeout of claims in tests in which each is to be answered, however busy the machine.
const neverAnswered = 30 * time.Second

// waited is what WaitSlot has returned.
type waited struct {
	slot       api.Slot
	assignment *api.Assignment
	payload    []byte
	err        error
}

// waitSlots has slots 0 to n-1 wait, and returns when NATS knows all of them.
func waitSlots(t *testing.T, ctx context.Context, s *Store, function string, revision uint64, n int) <-chan waited {
	t.Helper()
	c := make(chan waited, n)
	ready := make(chan struct{}, n)
	stop, err := s.WatchSlots(func(api.Slot) { ready <- struct{}{} }, func(api.Use) {}, func() {}, func(string) api.SlotCounts { return api.SlotCounts{} })
	require.NoError(t, err)
	defer stop()
	var waiting sync.WaitGroup
	t.Cleanup(waiting.Wait)
	for i := range n {
		waiting.Go(func() {
			slot := slotOf(function, revision, i)
			a, payload, err := s.WaitSlot(ctx, slot)
			c <- waited{slot, a, payload, err}
		})
	}
	for range n {
		within(t, ready)
	}
	return c
}

func receiveSlot(t *testing.T, c <-chan waited) waited {
	t.Helper()
	select {
	case w := <-c:
		return w
	case <-time.After(patience):
		require.FailNow(t, "the slot still waits")
		return waited{}
	}
}

// ending is a context that ends when the test does, ahead of what the test waits for at its end.
func ending(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx
}

func TestClaimHandsOverACall(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	for name, claimer := range map[string]*Store{"the same server": s, "another server": openPeer(t, s)} {
		waiting := waitSlots(t, ending(t), s, "f", 1, 1)
		want := &api.Assignment{CallID: "call", Function: "f", Command: []string{"a", "ü\n"}, Env: []string{"A=b\tc"}, Timeout: time.Second, Confirm: true, Calls: 3}
		payload := make([]byte, 1<<20)
		payload[1<<19] = 7
		slot, err := claimer.ClaimSlot(t.Context(), 1, want, payload)
		require.NoError(t, err, name)
		require.Equal(t, slotOf("f", 1, 0), slot, "the claimer knows who has it")
		got := receiveSlot(t, waiting)
		require.NoError(t, got.err, name)
		require.Equal(t, want, got.assignment)
		require.Equal(t, payload, got.payload)
		_, err = claimer.ClaimSlot(t.Context(), 1, want, nil)
		requireCode(t, api.NotFound, err)
	}
}

// All slots of a function may be wanted in the same moment, by more calls than there are slots.
func TestEachSlotIsClaimedOnce(t *testing.T) {
	t.Parallel()
	const slots, callers = 20, 200
	s := openStore(t, Config{})
	servers := []*Store{s, openPeer(t, s), openPeer(t, s)}
	for _, server := range servers {
		server.claimTimeout = neverAnswered
	}
	for round := range 5 {
		function := fmt.Sprintf("f%d", round)
		waiting := waitSlots(t, ending(t), s, function, 1, slots)
		var mu sync.Mutex
		claimed := map[string]string{} // calls by job
		var claiming sync.WaitGroup
		var slowest atomic.Int64
		for i := range callers {
			claiming.Go(func() {
				call, begin := fmt.Sprintf("call-%d", i), time.Now()
				slot, err := servers[i%len(servers)].ClaimSlot(t.Context(), 1, &api.Assignment{CallID: call, Function: function}, []byte(call))
				if took := int64(time.Since(begin)); took > slowest.Load() {
					slowest.Store(took)
				}
				if err != nil {
					if api.CodeOf(err) != api.NotFound {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if other := claimed[slot.Job]; other != "" {
					t.Errorf("%s has %s and %s", slot.Job, other, call)
				}
				claimed[slot.Job] = call
			})
		}
		claiming.Wait()
		require.Len(t, claimed, slots, "no slot is left over while calls go without")
		require.Less(t, time.Duration(slowest.Load()), neverAnswered, "nobody waited for a slot that another has")
		for range slots {
			got := receiveSlot(t, waiting)
			require.NoError(t, got.err)
			require.Equal(t, claimed[got.slot.Job], got.assignment.CallID, "the slot has the call that thinks so")
			require.Equal(t, got.assignment.CallID, string(got.payload))
		}
	}
}

func TestNoFreeSlotIsToldAtOnce(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	openPeer(t, s)
	s.claimTimeout = neverAnswered
	begin := time.Now()
	for range 100 {
		_, err := s.ClaimSlot(t.Context(), 1, &api.Assignment{Function: "f"}, nil)
		requireCode(t, api.NotFound, err)
		_, err = s.RetireSlot(t.Context(), "f", 1)
		requireCode(t, api.NotFound, err)
	}
	require.Less(t, time.Since(begin), neverAnswered)
}

func TestSlotsOfOthersAreNotClaimed(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	old := waitSlots(t, ctx, s, "f", 1, 3)
	other := waitSlots(t, ctx, s, "g", 2, 3)
	for function, revision := range map[string]uint64{"f": 2, "g": 1} {
		_, err := s.ClaimSlot(t.Context(), revision, &api.Assignment{Function: function}, nil)
		requireCode(t, api.NotFound, err)
		_, err = s.RetireSlot(t.Context(), function, revision)
		requireCode(t, api.NotFound, err)
	}
	cancel()
	for range 3 {
		requireCode(t, api.NotFound, receiveSlot(t, old).err)
		requireCode(t, api.NotFound, receiveSlot(t, other).err)
	}
}

func TestRetiredSlotEnds(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	peer := openPeer(t, s)
	waiting := waitSlots(t, ending(t), s, "f", 1, 2)
	first, err := peer.RetireSlot(t.Context(), "f", 1)
	require.NoError(t, err)
	got := receiveSlot(t, waiting)
	requireCode(t, api.Expired, got.err)
	require.Equal(t, got.slot, first)
	second, err := s.ClaimSlot(t.Context(), 1, &api.Assignment{Function: "f", CallID: "call"}, nil)
	require.NoError(t, err)
	require.NotEqual(t, first, second, "the other one still takes calls")
	require.Equal(t, "call", receiveSlot(t, waiting).assignment.CallID)
}

// A wait ends at any moment, for instance that of a claim: then either both say that the slot has the call, or neither does.
func TestWaitThatEndsDuringAClaim(t *testing.T) {
	t.Parallel()
	t.Run("of the same server", func(t *testing.T) {
		t.Parallel()
		s := openStore(t, Config{})
		endWaitsDuringClaims(t, s, s)
	})
	t.Run("of another server", func(t *testing.T) {
		t.Parallel()
		s := openStore(t, Config{})
		endWaitsDuringClaims(t, s, openPeer(t, s))
	})
}

func endWaitsDuringClaims(t *testing.T, s, p *Store) {
	p.claimTimeout = neverAnswered
	both := 0
	for i := range 300 {
		function := fmt.Sprintf("f%d", i)
		ctx, cancel := context.WithCancel(t.Context())
		waiting := waitSlots(t, ctx, s, function, 1, 1)
		var ending sync.WaitGroup
		ending.Go(cancel)
		begin := time.Now()
		_, err := p.ClaimSlot(t.Context(), 1, &api.Assignment{Function: function, CallID: "call"}, []byte("in"))
		require.Less(t, time.Since(begin), neverAnswered, "a claim that comes too late is answered")
		ending.Wait()
		got := receiveSlot(t, waiting)
		if err == nil {
			both++
			require.NoError(t, got.err, "the claim was lost")
			require.Equal(t, "in", string(got.payload))
			continue
		}
		requireCode(t, api.NotFound, err)
		requireCode(t, api.NotFound, got.err)
	}
	t.Logf("%d of 300 claims came in time", both)
}

// A slot that was claimed by somebody who is gone still hears of it: it is the confirmation that fails.
func TestClaimersWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	openPeer(t, s)
	_, err := s.ClaimSlot(canceled(t), 1, &api.Assignment{Function: "f"}, nil)
	requireCode(t, api.Unavailable, err)
	_, _, err = s.WaitSlot(canceled(t), slotOf("f", 1, 0))
	requireCode(t, api.NotFound, err)

	// A server that has died answers no claim: it is as if its slots were gone with it.
	sub, err := s.nc.Subscribe(slotSubject("f", 1), func(*nats.Msg) {})
	require.NoError(t, err)
	begin := time.Now()
	_, err = s.ClaimSlot(t.Context(), 1, &api.Assignment{Function: "f"}, nil)
	requireCode(t, api.NotFound, err)
	require.GreaterOrEqual(t, time.Since(begin), claimTimeout)
	require.NoError(t, sub.Unsubscribe())
}

func TestSlotsOfAClosedStore(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	s.Close()
	_, _, err := s.WaitSlot(t.Context(), slotOf("f", 1, 0))
	requireCode(t, api.Unavailable, err)
	_, err = s.ClaimSlot(t.Context(), 1, &api.Assignment{Function: "f"}, nil)
	requireCode(t, api.Unavailable, err)
	_, err = s.SlotCounts(t.Context(), "f")
	requireCode(t, api.Unavailable, err)
	_, err = s.WatchSlots(nil, nil, nil, nil)
	requireCode(t, api.Unavailable, err)
	s.SlotPressure() // what it can't tell is not worth an error
}

func TestWatchersHearInOrder(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	p := openPeer(t, s)
	heard := make(chan string, 100)
	stop, err := p.WatchSlots(
		func(slot api.Slot) { heard <- "ready " + slot.Job },
		func(use api.Use) { heard <- "used " + use.Job },
		func() { heard <- "pressure" },
		func(string) api.SlotCounts { return api.SlotCounts{} },
	)
	require.NoError(t, err)
	require.NoError(t, p.nc.Flush())
	var want []string
	for i := range 10 {
		var waiting sync.WaitGroup
		slot := slotOf("f", 1, i)
		waiting.Go(func() { _, _, _ = s.WaitSlot(ending(t), slot) })
		for claimed := false; !claimed; {
			got, err := s.ClaimSlot(t.Context(), 1, &api.Assignment{Function: "f"}, nil)
			claimed = err == nil
			if claimed {
				require.Equal(t, slot, got)
			}
		}
		waiting.Wait() // it may be claimed before it has said that it is ready; its runner confirms when it has heard of the claim
		s.SlotUsed(api.Use{Account: "acme", Name: "hello", Function: "f", Job: slot.Job})
		s.SlotPressure()
		want = append(want, "ready "+slot.Job, "used "+slot.Job, "pressure")
	}
	for _, word := range want {
		select {
		case got := <-heard:
			require.Equal(t, word, got)
		case <-time.After(patience):
			require.FailNow(t, "not heard", word)
		}
	}
	stop()
	s.SlotPressure()
	require.NoError(t, s.nc.Flush())
	require.NoError(t, p.nc.Flush())
	require.Empty(t, heard, "nothing is told after stop")
	stop()
}

// stop returns when the last word has been heard, and no earlier.
func TestStopOfWatchSlotsWaits(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	began, goOn := make(chan struct{}), make(chan struct{})
	var ended atomic.Bool
	stop, err := s.WatchSlots(nil, nil, func() {
		close(began)
		<-goOn
		ended.Store(true)
	}, nil)
	require.NoError(t, err)
	s.SlotPressure()
	within(t, began)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
		if !ended.Load() {
			t.Error("a watcher still runs")
		}
	}()
	close(goOn)
	within(t, stopped)
}

// The store may be closed under those who watch and wait.
func TestStopOfWatchSlotsOfAClosedStore(t *testing.T) {
	t.Parallel()
	for range 20 {
		s := openPeer(t, openStore(t, Config{}))
		stop, err := s.WatchSlots(nil, nil, func() {}, nil)
		require.NoError(t, err)
		s.SlotPressure()
		var closing sync.WaitGroup
		closing.Go(s.nc.Close)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			stop()
		}()
		within(t, stopped)
		closing.Wait()
	}
}

func TestSlotCounts(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	p := openPeer(t, s)
	s.claimTimeout = neverAnswered
	begin := time.Now()
	_, err := s.SlotCounts(t.Context(), "f")
	requireCode(t, api.NotFound, err)
	require.Less(t, time.Since(begin), neverAnswered)

	want := api.SlotCounts{Ready: 2, Wanted: 3}
	stop, err := p.WatchSlots(nil, nil, nil, func(function string) api.SlotCounts {
		if function != "f" {
			return api.SlotCounts{}
		}
		return want
	})
	require.NoError(t, err)
	require.NoError(t, p.nc.Flush())
	for name, asked := range map[string]*Store{"itself": p, "another": s} {
		counts, err := asked.SlotCounts(t.Context(), "f")
		require.NoError(t, err, name)
		require.Equal(t, want, counts)
		counts, err = asked.SlotCounts(t.Context(), "g")
		require.NoError(t, err, name)
		require.Zero(t, counts)
	}
	stop()
	require.NoError(t, p.nc.Flush())
	_, err = s.SlotCounts(t.Context(), "f")
	requireCode(t, api.NotFound, err)
}
