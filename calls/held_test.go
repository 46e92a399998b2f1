package calls

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func heldRecord(state api.State) api.Record {
	return api.Record{CallID: "c", Function: "f", Account: "acme", State: state}
}

// inStream tells whether a record of the call is in the stream.
func inStream(t *testing.T, s *Store) bool {
	t.Helper()
	_, err := s.records.GetLastMsgForSubject(t.Context(), recordSubject("f", "c"))
	return err == nil
}

func TestHeldIsNotStored(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	release, ok := s.Hold("f", "c")
	require.True(t, ok)
	_, _, err := s.Record(t.Context(), "f", "c")
	requireCode(t, api.NotFound, err)
	running, err := s.SaveRecord(t.Context(), heldRecord(api.Running), 0)
	require.NoError(t, err)
	_, err = s.SaveRecord(t.Context(), heldRecord(api.Running), 0)
	requireCode(t, api.Conflict, err)
	rec, version, err := s.Record(t.Context(), "f", "c")
	require.NoError(t, err)
	require.Equal(t, running, version)
	require.Equal(t, heldRecord(api.Running), rec)
	require.NoError(t, s.SaveOutput(t.Context(), "f", "c", []byte("out")))
	_, err = s.SaveRecord(t.Context(), heldRecord(api.Finished), version)
	require.NoError(t, err)
	output, err := s.Output(t.Context(), "f", "c")
	require.NoError(t, err)
	require.Equal(t, "out", string(output))
	require.False(t, inStream(t, s))
	require.NoError(t, s.Forget(t.Context(), heldRecord(api.Finished)))
	require.NoError(t, release(t.Context()))
	require.False(t, inStream(t, s))
	_, _, err = s.Record(t.Context(), "f", "c")
	requireCode(t, api.NotFound, err)
	require.Empty(t, s.held)
}

func TestReleaseStoresWhatIsHeld(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before func(t *testing.T, s *Store) (version uint64) // release
		after  func(t *testing.T, s *Store, version uint64)
	}{
		"nothing yet": {
			func(*testing.T, *Store) uint64 { return 0 },
			func(t *testing.T, s *Store, _ uint64) {
				require.False(t, inStream(t, s))
				require.NoError(t, s.Enqueue(t.Context(), &api.Call{ID: "c", Function: "f", Account: "acme"}))
				version, err := s.SaveRecord(t.Context(), heldRecord(api.Running), 0)
				require.NoError(t, err)
				require.NoError(t, s.SaveOutput(t.Context(), "f", "c", []byte("out")))
				_, err = s.SaveRecord(t.Context(), heldRecord(api.Finished), version)
				require.NoError(t, err)
			},
		},
		"a running call": {
			func(t *testing.T, s *Store) uint64 {
				version, err := s.SaveRecord(t.Context(), heldRecord(api.Running), 0)
				require.NoError(t, err)
				return version
			},
			func(t *testing.T, s *Store, version uint64) {
				require.NoError(t, s.SaveOutput(t.Context(), "f", "c", []byte("out")))
				_, err := s.SaveRecord(t.Context(), heldRecord(api.Finished), version)
				require.NoError(t, err, "the version from before the release is still the record's")
				_, err = s.SaveRecord(t.Context(), heldRecord(api.Failed), version)
				requireCode(t, api.Conflict, err)
			},
		},
		"a running call that is read again": {
			func(t *testing.T, s *Store) uint64 {
				version, err := s.SaveRecord(t.Context(), heldRecord(api.Running), 0)
				require.NoError(t, err)
				return version
			},
			func(t *testing.T, s *Store, stale uint64) {
				_, version, err := s.Record(t.Context(), "f", "c")
				require.NoError(t, err)
				require.NoError(t, s.SaveOutput(t.Context(), "f", "c", []byte("out")))
				_, err = s.SaveRecord(t.Context(), heldRecord(api.Finished), version)
				require.NoError(t, err)
				_, err = s.SaveRecord(t.Context(), heldRecord(api.Failed), stale)
				requireCode(t, api.Conflict, err)
			},
		},
		"an output whose record is still to come": {
			func(t *testing.T, s *Store) uint64 {
				version, err := s.SaveRecord(t.Context(), heldRecord(api.Running), 0)
				require.NoError(t, err)
				require.NoError(t, s.SaveOutput(t.Context(), "f", "c", []byte("out")))
				return version
			},
			func(t *testing.T, s *Store, version uint64) {
				_, err := s.SaveRecord(t.Context(), heldRecord(api.Finished), version)
				require.NoError(t, err)
			},
		},
		"a finished call": {
			func(t *testing.T, s *Store) uint64 {
				require.NoError(t, s.SaveOutput(t.Context(), "f", "c", []byte("out")))
				version, err := s.SaveRecord(t.Context(), heldRecord(api.Finished), 0)
				require.NoError(t, err)
				return version
			},
			func(*testing.T, *Store, uint64) {},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, Config{})
			release, _ := s.Hold("f", "c")
			version := c.before(t, s)
			require.NoError(t, release(t.Context()))
			require.NoError(t, release(t.Context()))
			c.after(t, s, version)
			require.True(t, inStream(t, s))
			require.Empty(t, s.held)
			rec, _, err := s.Record(t.Context(), "f", "c")
			require.NoError(t, err)
			require.Equal(t, api.Finished, rec.State)
			output, err := s.Output(t.Context(), "f", "c")
			require.NoError(t, err)
			require.Equal(t, "out", string(output))
		})
	}
}

func TestNothingIsHeldWhereOthersMustSeeIt(t *testing.T) {
	t.Parallel()
	p := openPeer(t, openStore(t, Config{}))
	release, ok := p.Hold("f", "c")
	require.False(t, ok)
	require.NoError(t, release(t.Context()))
}

func TestAReleaseThatFailsHoldsOn(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	release, _ := s.Hold("f", "c")
	_, err := s.SaveRecord(t.Context(), heldRecord(api.Running), 0)
	require.NoError(t, err)
	requireCode(t, api.Unavailable, release(canceled(t)))
	_, _, err = s.Record(t.Context(), "f", "c")
	require.NoError(t, err)
	require.NoError(t, release(t.Context()))
	require.True(t, inStream(t, s))
}

func TestLastEvent(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	_, err := s.LastEvent(t.Context(), "f", "c")
	requireCode(t, api.NotFound, err)
	s.Log(t.Context(), "f", api.Event{CallID: "c", Event: "CALL"}, api.Event{CallID: "c", Event: "FAILED"}, api.Event{CallID: "d", Event: "CALL"})
	require.Eventually(t, func() bool {
		event, err := s.LastEvent(t.Context(), "f", "c")
		return err == nil && event.Event == "FAILED"
	}, patience, 1e6)
}

// Nothing waits for the queue to hear that a held call has left it, and it does not hear while it is opened again.
func TestAnAnsweredCallDoesNotComeAgain(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	deliveries := consume(t, s, 2)
	call := newCall("f", 1)
	call.Held = true
	release, ok := s.Hold("f", call.ID)
	require.True(t, ok)
	require.NoError(t, s.Enqueue(t.Context(), call))
	d := next(t, deliveries, 1)
	rec := newRecord(1, api.Finished)
	_, err := s.SaveRecord(t.Context(), rec, 0)
	require.NoError(t, err)
	require.NoError(t, s.Forget(t.Context(), rec))
	require.NoError(t, release(t.Context()))
	require.NoError(t, d.Return(0), "in place of Done, which was lost")
	require.Eventually(t, func() bool { return len(inFlight(t, s)) == 0 }, patience, 10*time.Millisecond)
	require.Empty(t, deliveries)
}

func TestAnsweredCallsAreForgotten(t *testing.T) {
	t.Parallel()
	a, now := answered{calls: map[string]struct{}{}, lifetime: time.Minute}, time.Now()
	a.add("first", now)
	a.add("second", now.Add(time.Minute))
	require.True(t, a.has("first"))
	a.add("third", now.Add(time.Minute+1))
	require.False(t, a.has("first"))
	require.True(t, a.has("second"))
	require.Len(t, a.inOrder, 2)
}

// The answer to the first try may have been lost, or the store away.
func TestWhatIsHeldIsStoredInTheEnd(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	release, ok := s.Hold("f", "c")
	require.True(t, ok)
	_, err := s.SaveRecord(t.Context(), heldRecord(api.Running), 0)
	require.NoError(t, err)
	_, err = s.storeRecord(t.Context(), heldRecord(api.Pending), 0) // an earlier try
	require.NoError(t, err)
	require.NoError(t, release(t.Context()))
	rec, version, err := s.Record(t.Context(), "f", "c")
	require.NoError(t, err)
	require.Equal(t, heldRecord(api.Running), rec)
	_, err = s.SaveRecord(t.Context(), heldRecord(api.Finished), version)
	require.NoError(t, err)
}
