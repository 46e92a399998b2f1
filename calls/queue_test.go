package calls

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestQueueKeepsACallAsItIs(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	for name, payload := range map[string][]byte{
		"no payload":     {},
		"binary":         {0, 255, '\r', '\n', 0},
		"a full payload": bytes.Repeat([]byte{0xff}, 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			call := newCall("f", len(payload))
			call.Payload = payload
			require.NoError(t, s.Enqueue(t.Context(), call))
			got, err := s.Queued(t.Context(), "acme", "f", call.ID)
			require.NoError(t, err)
			require.True(t, bytes.Equal(payload, got.Payload))
			got.Payload = call.Payload
			require.Equal(t, call, got)
		})
	}
}

func TestQueueIsFirstInFirstOut(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	enqueue(t, s, "f", 0, 3)
	deliveries := consume(t, s, 100)
	enqueue(t, s, "f", 3, 6)
	for i := range 6 {
		d := next(t, deliveries, i)
		require.Equal(t, newCall("f", i), d.Call())
		require.NoError(t, d.Done(t.Context()))
	}
	requirePending(t, s, 0, 0)
}

func TestQuotaIsNeverExceeded(t *testing.T) {
	t.Parallel()
	const quota, total = 3, 30
	s := openStore(t, Config{})
	peer := openPeer(t, s)
	enqueue(t, s, "f", 0, total)

	// Two servers share the quota; each ends its calls while it is given others.
	var mu sync.Mutex
	var delivered, most, done int
	all := make(chan struct{})
	work := make(chan *Delivery, total)
	deliver := func(d *Delivery) {
		mu.Lock()
		delivered++
		most = max(most, delivered)
		mu.Unlock()
		work <- d
	}
	for _, server := range []*Store{s, peer} {
		stop, err := server.Consume(t.Context(), "acme", quota, deliver)
		require.NoError(t, err)
		defer stop()
	}
	requirePending(t, s, quota, total-quota)
	go func() {
		defer close(all)
		for range total {
			d := <-work
			mu.Lock()
			delivered--
			done++
			mu.Unlock()
			if d.Done(t.Context()) != nil {
				return
			}
		}
	}()
	within(t, all)
	requirePending(t, s, 0, 0)
	require.LessOrEqual(t, most, quota)
	require.Equal(t, total, done)
}

func TestAQuotaChangesWhileCallsAreDelivered(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	quota := func() int {
		n, err := s.Quota(t.Context(), "acme")
		require.NoError(t, err)
		return n
	}
	require.Zero(t, quota(), "nobody has set one")
	requireCode(t, api.Unavailable, s.SetQuota(t.Context(), "acme", 3))
	enqueue(t, s, "f", 0, 30)
	deliveries := consume(t, s, 2)
	held := []*Delivery{next(t, deliveries, 0), next(t, deliveries, 1)}
	requirePending(t, s, 2, 28)
	require.Equal(t, 2, quota())

	require.NoError(t, s.SetQuota(t.Context(), "acme", 20))
	for i := 2; i < 20; i++ {
		held = append(held, next(t, deliveries, i))
	}
	requirePending(t, s, 20, 10)

	// Those over a smaller one stay, and none is added until they have ended.
	require.NoError(t, s.SetQuota(t.Context(), "acme", 1))
	for _, d := range held[1:] {
		require.NoError(t, d.Extend())
		require.NoError(t, d.Done(t.Context()))
	}
	requirePending(t, s, 1, 10)
	require.NoError(t, held[0].Done(t.Context()))
	next(t, deliveries, 20)
	requirePending(t, s, 1, 9)
	require.NoError(t, s.SetQuota(t.Context(), "acme", 1), "nothing changes")
	require.Equal(t, 1, quota())
}

func TestAQuotaIsTheAccountsOwn(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	enqueue(t, s, "f", 0, 3)
	next(t, consume(t, s, 1), 0)
	other := newCall("g", 7)
	other.Account = "other"
	require.NoError(t, s.Enqueue(t.Context(), other))
	deliveries := make(chan *Delivery, 1)
	stop, err := s.Consume(t.Context(), "other", 1, func(d *Delivery) { deliveries <- d })
	require.NoError(t, err)
	defer stop()
	next(t, deliveries, 7)
	requirePending(t, s, 1, 2)

	accounts, err := s.Accounts(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"acme", "other"}, accounts)
}

func TestNoAccountsAtFirst(t *testing.T) {
	t.Parallel()
	accounts, err := openStore(t, Config{}).Accounts(t.Context())
	require.NoError(t, err)
	require.Empty(t, accounts)
}

func TestAFullQueueRefusesAndLosesNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg     Config
		payload int
	}{
		"in calls": {Config{QueueCalls: 3}, 10},
		"in bytes": {Config{QueueBytes: 1 << 20}, 300 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, c.cfg)
			call := func(n int) *api.Call {
				call := newCall("f", n)
				call.Payload = bytes.Repeat([]byte("x"), c.payload)
				return call
			}
			for i := range 3 {
				require.NoError(t, s.Enqueue(t.Context(), call(i)))
			}
			err := s.Enqueue(t.Context(), call(3))
			requireCode(t, api.Unavailable, err)
			require.ErrorContains(t, err, "the queue is full, try again later")
			_, err = s.Queued(t.Context(), "acme", "f", call(3).ID)
			requireCode(t, api.NotFound, err)

			// It is the calls that have not ended that fill it, delivered or not.
			deliveries := consume(t, s, 10)
			first := next(t, deliveries, 0)
			requireCode(t, api.Unavailable, s.Enqueue(t.Context(), call(4)))
			require.NoError(t, first.Done(t.Context()))
			require.NoError(t, s.Enqueue(t.Context(), call(5)))
			for _, n := range []int{1, 2, 5} {
				next(t, deliveries, n)
			}
			requirePending(t, s, 3, 0)
		})
	}
}

func TestReturn(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	enqueue(t, s, "f", 0, 2)
	deliveries := consume(t, s, 1)

	require.NoError(t, next(t, deliveries, 0).Return(0))
	d := next(t, deliveries, 0) // to the front of the queue
	returned := time.Now()
	const delay = 300 * time.Millisecond
	require.NoError(t, d.Return(delay))
	d = next(t, deliveries, 0)
	require.GreaterOrEqual(t, time.Since(returned), delay)
	require.NoError(t, d.Done(t.Context()))
	next(t, deliveries, 1)
}

func TestManyLargePayloadsAreDeliveredOnce(t *testing.T) {
	t.Parallel()
	const total = 150
	s := openStore(t, Config{})
	for i := range total {
		call := newCall("f", i)
		call.Payload = make([]byte, 1<<20)
		require.NoError(t, s.Enqueue(t.Context(), call))
	}
	deliveries := consume(t, s, total)
	for i := range total {
		next(t, deliveries, i)
	}
	requirePending(t, s, total, 0)
	require.Empty(t, deliveries)
	require.Zero(t, s.nc.Stats().Reconnects, "the connection of the server to its queue was cut")
}

func TestALeaseThatEndsIsDeliveredAgain(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Lease: 200 * time.Millisecond})
	enqueue(t, s, "f", 0, 1)
	deliveries := consume(t, s, 10)
	first := next(t, deliveries, 0)
	second := next(t, deliveries, 0)
	require.Equal(t, first.Call(), second.Call())

	// What has been delivered twice is still one call: either delivery ends it, and the other may say so too.
	require.NoError(t, first.Done(t.Context()))
	require.NoError(t, second.Done(t.Context()))
	requirePending(t, s, 0, 0)
	_, err := s.Queued(t.Context(), "acme", "f", first.Call().ID)
	requireCode(t, api.NotFound, err)
}

func TestExtendKeepsACall(t *testing.T) {
	t.Parallel()
	const lease = time.Second
	s := openStore(t, Config{Lease: lease})
	enqueue(t, s, "f", 0, 1)
	deliveries := consume(t, s, 10)
	d := next(t, deliveries, 0)
	tick := time.NewTicker(lease / 20)
	defer tick.Stop()
	for begin := time.Now(); time.Since(begin) < 5*lease/2; {
		select {
		case <-tick.C:
			require.NoError(t, d.Extend())
		case <-deliveries:
			require.FailNow(t, "it was delivered again")
		}
	}
	next(t, deliveries, 0) // without
}

func TestDoneIsFinal(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Lease: 200 * time.Millisecond})
	enqueue(t, s, "f", 0, 2)
	deliveries := consume(t, s, 1)
	d := next(t, deliveries, 0)
	require.NoError(t, d.Done(t.Context()))
	require.NoError(t, d.Done(t.Context()))
	_, err := s.Queued(t.Context(), "acme", "f", d.Call().ID)
	requireCode(t, api.NotFound, err)
	next(t, deliveries, 1)
	next(t, deliveries, 1) // a lease later the other comes again, the one that is done does not
}

func TestDoneWithoutAStore(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	enqueue(t, s, "f", 0, 1)
	d := next(t, consume(t, s, 1), 0)
	requireCode(t, api.Unavailable, d.Done(canceled(t)))
}

func TestInFlightAndQueued(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	count := func(function string) int {
		n, err := s.InFlight(t.Context(), "acme", function)
		require.NoError(t, err)
		return n
	}
	require.Zero(t, count("f"))
	enqueue(t, s, "f", 0, 3)
	enqueue(t, s, "g", 3, 4)
	require.Equal(t, 3, count("f"))
	require.Equal(t, 1, count("g"))
	d := next(t, consume(t, s, 1), 0)
	require.Equal(t, 3, count("f"), "what is being executed counts")
	got, err := s.Queued(t.Context(), "acme", "f", d.Call().ID)
	require.NoError(t, err)
	require.Equal(t, newCall("f", 0), got)
	require.NoError(t, d.Done(t.Context()))
	require.Equal(t, 2, count("f"))

	_, err = s.Queued(t.Context(), "acme", "g", newCall("f", 1).ID)
	requireCode(t, api.NotFound, err)
}

func TestReopenDeliversWhatWasNotDoneAtOnce(t *testing.T) {
	t.Parallel()
	cfg := Config{Dir: t.TempDir(), Lease: time.Hour}
	s := openStore(t, cfg)
	enqueue(t, s, "f", 0, 5)
	deliveries := consume(t, s, 3)
	next(t, deliveries, 0)
	require.NoError(t, next(t, deliveries, 1).Done(t.Context()))
	next(t, deliveries, 2)
	next(t, deliveries, 3)
	c := newCall("f", 2).ID
	version, err := s.SaveRecord(t.Context(), api.Record{CallID: c, Function: "f", Account: "acme", State: api.Running}, 0)
	require.NoError(t, err)
	require.NoError(t, s.SaveOutput(t.Context(), "f", c, []byte("out")))
	s.Close()

	s = openStore(t, cfg)
	_, err = s.Status(t.Context(), "f")
	require.NoError(t, err)
	deliveries = consume(t, s, 10)
	for _, n := range []int{0, 2, 3, 4} {
		require.NoError(t, next(t, deliveries, n).Done(t.Context()))
	}
	requirePending(t, s, 0, 0)
	rec, again, err := s.Record(t.Context(), "f", c)
	require.NoError(t, err)
	require.Equal(t, version, again)
	require.Equal(t, api.Running, rec.State)
	out, err := s.Output(t.Context(), "f", c)
	require.NoError(t, err)
	require.Equal(t, "out", string(out))
}

func TestStopConsuming(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	deliveries := make(chan *Delivery, 10)
	stop, err := s.Consume(t.Context(), "acme", 10, func(d *Delivery) { deliveries <- d })
	require.NoError(t, err)
	enqueue(t, s, "f", 0, 1)
	require.NoError(t, next(t, deliveries, 0).Done(t.Context()))
	stop()
	stop()
	enqueue(t, s, "f", 1, 2)
	requirePending(t, s, 0, 1)
	require.Empty(t, deliveries)
}

func TestACallThatCannotBeReadHoldsNoPlace(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	enqueue(t, s, "f", 0, 1)
	for _, data := range []string{"", "\x00\x00\x00", "\x00\x00\x00\x01", "\x00\x00\x00\x01{", "\xff\xff\xff\xff{}"} {
		_, err := s.js.Publish(t.Context(), queueSubject("acme", "f", "broken"), []byte(data))
		require.NoError(t, err)
	}
	enqueue(t, s, "f", 1, 2)
	deliveries := consume(t, s, 1)
	require.NoError(t, next(t, deliveries, 0).Done(t.Context()))
	require.NoError(t, next(t, deliveries, 1).Done(t.Context()))
	requirePending(t, s, 0, 0)
	n, err := s.InFlight(t.Context(), "acme", "f")
	require.NoError(t, err)
	require.Zero(t, n)
}

// An operator may remove what is not known to him, and a NATS cluster that has lost its data has none.
func TestAConsumerThatWasRemovedIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	deliveries := consume(t, s, 2)
	enqueue(t, s, "f", 0, 1)
	first := next(t, deliveries, 0)
	require.NoError(t, s.SetQuota(t.Context(), "acme", 5))
	for _, name := range []string{pool, later} {
		require.NoError(t, s.js.DeleteConsumer(t.Context(), queueStream("acme"), name))
	}
	enqueue(t, s, "f", 1, 2)
	second := newCall("f", 1).ID
	for delivered := map[string]int{}; delivered[first.Call().ID] == 0 || delivered[second] == 0; { // the first once more, as nobody knows that it was
		select {
		case d := <-deliveries:
			require.True(t, d.Ours())
			delivered[d.Call().ID]++
			require.NoError(t, d.Done(t.Context()))
		case <-time.After(patience):
			require.FailNow(t, "a call was not delivered", "%v", delivered)
		}
	}
	require.Eventually(t, func() bool {
		quota, err := s.Quota(t.Context(), "acme")
		return err == nil && quota == 5 && len(inFlight(t, s)) == 0
	}, patience, 10*time.Millisecond)
	postponed(t, s, deliveries, 2, time.Now())
	require.NoError(t, next(t, deliveries, 2).Done(t.Context()))
	require.Eventually(t, func() bool { return len(inFlight(t, s)) == 0 }, patience, 10*time.Millisecond)
}
