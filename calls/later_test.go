package calls

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// postponed enqueues the call n, has it delivered and puts it aside until then. Its record says that it is Pending.
func postponed(t *testing.T, s *Store, deliveries <-chan *Delivery, n int, until time.Time) {
	t.Helper()
	enqueue(t, s, "f", n, n+1)
	d := next(t, deliveries, n)
	rec := newRecord(n, api.Pending)
	rec.Attempts = 1
	_, err := s.SaveRecord(t.Context(), rec, 0)
	require.NoError(t, err)
	require.NoError(t, s.Postpone(t.Context(), aside(n, 1), until))
	require.NoError(t, d.Done(t.Context()))
}

// aside is the call as it is put aside for an attempt.
func aside(n, attempt int) *api.Call {
	call := newCall("f", n)
	call.Attempt = attempt
	return call
}

func inFlight(t *testing.T, s *Store) []string {
	t.Helper()
	calls, err := s.CallsInFlight(t.Context(), "acme", "f")
	require.NoError(t, err)
	return calls
}

func TestPostponedCallComesBack(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	deliveries := consume(t, s, 1)
	until := time.Now().Add(3 * time.Second)
	postponed(t, s, deliveries, 1, until)
	require.Equal(t, []string{newCall("f", 1).ID}, inFlight(t, s))
	require.Equal(t, api.Status{Total: 1, Pending: 1}, status(t, s, "f"))

	enqueue(t, s, "f", 2, 3)
	other := next(t, deliveries, 2)
	require.Equal(t, newCall("f", 2), other.Call(), "it does not draw on the quota meanwhile")
	require.NoError(t, other.Done(t.Context()))
	d := next(t, deliveries, 1)
	require.False(t, time.Now().Before(until))
	require.Equal(t, aside(1, 1), d.Call(), "payload and all")
	require.NoError(t, d.Done(t.Context()))
	require.Eventually(t, func() bool { return len(inFlight(t, s)) == 0 }, patience, 10*time.Millisecond)
}

func TestPostponedCallOutlivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, Config{Dir: dir})
	deliveries := consume(t, s, 1)
	postponed(t, s, deliveries, 1, time.Now().Add(time.Second))
	postponed(t, s, deliveries, 2, time.Now().Add(time.Hour))
	s.Close()
	s = openStore(t, Config{Dir: dir})
	deliveries = consume(t, s, 1)
	require.Equal(t, aside(1, 1), next(t, deliveries, 1).Call())
	require.Len(t, inFlight(t, s), 2)
}

func TestPostponedCallThatIsWithdrawn(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	deliveries := consume(t, s, 1)
	postponed(t, s, deliveries, 1, time.Now().Add(time.Hour))
	require.NoError(t, s.Withdraw(t.Context(), "acme", "f", newCall("f", 1).ID))
	require.Empty(t, inFlight(t, s))

	postponed(t, s, deliveries, 2, time.Now().Add(time.Hour))
	rec := newRecord(2, api.Failed)
	rec.Attempts = 1
	require.NoError(t, s.Forget(t.Context(), rec))
	require.Empty(t, inFlight(t, s))
}

// A server may have died after it had put a call back, and before it had taken it from where it was put aside.
func TestPostponedCallThatHasRunSince(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, s *Store){
		"and has ended": func(t *testing.T, s *Store) {
			_, version, err := s.Record(t.Context(), "f", newCall("f", 1).ID)
			require.NoError(t, err)
			_, err = s.SaveRecord(t.Context(), newRecord(1, api.Finished), version)
			require.NoError(t, err)
		},
		"and was fetched": func(t *testing.T, s *Store) {
			require.NoError(t, s.records.Purge(t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, Config{})
			deliveries := consume(t, s, 1)
			postponed(t, s, deliveries, 1, time.Now().Add(300*time.Millisecond))
			change(t, s)
			require.Eventually(t, func() bool { return len(inFlight(t, s)) == 0 }, patience, 10*time.Millisecond)
			require.Empty(t, deliveries)
		})
	}
}

func TestFullQueueTakesNoPostponedCall(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{QueueCalls: 2})
	deliveries := consume(t, s, 1)
	enqueue(t, s, "f", 1, 3)
	d := next(t, deliveries, 1)
	require.Equal(t, newCall("f", 1), d.Call())
	require.Equal(t, api.Unavailable, api.CodeOf(s.Postpone(t.Context(), aside(1, 1), time.Now())))
	require.Len(t, inFlight(t, s), 2, "it stays where it is")
}

// end has the call n, which was delivered, end and its answer fetched.
func end(t *testing.T, s *Store, d *Delivery, n int) {
	t.Helper()
	_, version, err := s.Record(t.Context(), "f", d.Call().ID)
	require.NoError(t, err)
	rec := newRecord(n, api.Failed)
	rec.Attempts = 1
	_, err = s.SaveRecord(t.Context(), rec, version)
	require.NoError(t, err)
	require.NoError(t, d.Done(t.Context()))
	require.NoError(t, s.Forget(t.Context(), rec))
}

// Where a server dies between setting a call aside and taking it out of the queue, it is in both, and goes on from there once. When it has ended it is in neither,
// or known to be over, also after a kill.
func TestPostponedCallThatHasNotLeftTheQueue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, Config{Dir: dir})
	deliveries := consume(t, s, 1)
	enqueue(t, s, "f", 1, 2)
	next(t, deliveries, 1)
	rec := newRecord(1, api.Pending)
	rec.Attempts = 1
	_, err := s.SaveRecord(t.Context(), rec, 0)
	require.NoError(t, err)
	until := time.Now()
	require.NoError(t, s.Postpone(t.Context(), aside(1, 1), until))

	dir = killed(t, dir)
	s = openStore(t, Config{Dir: dir})
	deliveries = consume(t, s, 2)
	d := next(t, deliveries, 1)
	require.Never(t, func() bool { return len(deliveries) > 0 }, 3*leavePause, leavePause/10, "it is not put back beside itself")
	require.NoError(t, s.Postpone(t.Context(), aside(1, 1), until))
	require.NoError(t, d.Done(t.Context()))
	d = next(t, deliveries, 1)
	require.Equal(t, aside(1, 1), d.Call())
	end(t, s, d, 1)
	over(t, s, deliveries)
	for range 2 {
		dir = killed(t, dir)
		again := openStore(t, Config{Dir: dir})
		over(t, again, consume(t, again, 1))
		require.Equal(t, api.Status{}, status(t, again, "f"))
	}
}

// over waits until no call is in the queue. One that has ended while it was put back comes once more, and tells by having no record that it is over.
func over(t *testing.T, s *Store, deliveries <-chan *Delivery) {
	t.Helper()
	require.Eventually(t, func() bool {
		select {
		case d := <-deliveries:
			_, _, err := s.Record(t.Context(), "f", d.Call().ID)
			if d.Call().Attempt == 0 || api.CodeOf(err) != api.NotFound {
				t.Errorf("a call has come that is over: %v, %v", d.Call(), err)
			}
			_ = d.Done(t.Context())
		default:
		}
		calls, err := s.CallsInFlight(t.Context(), "acme", "f")
		return err == nil && len(calls) == 0
	}, patience, 10*time.Millisecond)
}

// A server that was stopped for longer than its lease may put a call aside that another has put aside since: it is the only one, and stays where there is no room
// for another.
func TestPostponedCallIsNeverAway(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{QueueCalls: 2})
	deliveries := consume(t, s, 1)
	postponed(t, s, deliveries, 1, time.Now().Add(time.Hour))
	enqueue(t, s, "f", 2, 3)
	requireCode(t, api.Unavailable, s.Enqueue(t.Context(), newCall("f", 3)))
	require.NoError(t, s.Postpone(t.Context(), aside(1, 1), time.Now().Add(time.Hour)), "it is there")
	require.Contains(t, inFlight(t, s), newCall("f", 1).ID)
}

// A server may have put a call back and died before it had taken it from where it was put aside: the call is put back once.
func TestPostponedCallThatWasPutBackBefore(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	deliveries := consume(t, s, 1)
	postponed(t, s, deliveries, 1, time.Now().Add(time.Hour))
	_, err := s.enqueue(t.Context(), aside(1, 1), unlessThere)
	require.NoError(t, err)
	d := next(t, deliveries, 1)
	// Its next attempt fails too.
	rec, version, err := s.Record(t.Context(), "f", d.Call().ID)
	require.NoError(t, err)
	rec.Attempts = 2
	_, err = s.SaveRecord(t.Context(), rec, version)
	require.NoError(t, err)
	require.NoError(t, s.Postpone(t.Context(), aside(1, 2), time.Now()))
	require.NoError(t, d.Done(t.Context()))
	d = next(t, deliveries, 1)
	require.Equal(t, aside(1, 2), d.Call())
	end(t, s, d, 1)
	require.NoError(t, s.Withdraw(t.Context(), "acme", "f", d.Call().ID)) // what waits for an attempt that is behind it, for an hour
	over(t, s, deliveries)
}

// Whoever has cancelled it may have died before what is to be done at its end was.
func TestPostponedCallThatWasCancelledComesToItsEnd(t *testing.T) {
	t.Parallel()
	for name, comes := range map[string]bool{"if something is to be done": true, "else it is over": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, Config{})
			deliveries := consume(t, s, 1)
			postponed(t, s, deliveries, 1, time.Now().Add(300*time.Millisecond))
			_, version, err := s.Record(t.Context(), "f", newCall("f", 1).ID)
			require.NoError(t, err)
			rec := newRecord(1, api.Failed)
			rec.Code, rec.Attempts = api.Cancelled, 1
			if comes {
				rec.Options.Callback = "https://example.org"
			}
			_, err = s.SaveRecord(t.Context(), rec, version)
			require.NoError(t, err)
			if comes {
				require.NoError(t, next(t, deliveries, 1).Done(t.Context()))
			}
			require.Eventually(t, func() bool { return len(inFlight(t, s)) == 0 }, patience, 10*time.Millisecond)
			require.Empty(t, deliveries)
		})
	}
}
