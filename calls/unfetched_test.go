package calls

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// endCall stores a call of function "f" that has ended with its number as output.
func endCall(t *testing.T, s *Store, n int) api.Record {
	t.Helper()
	call := newCall("f", n)
	rec := api.Record{CallID: call.ID, Function: "f", Account: "acme", State: api.Finished, Accepted: call.Accepted, Options: api.CallOptions{Keep: time.Hour}}
	require.NoError(t, s.SaveOutput(t.Context(), "f", call.ID, call.Payload))
	s.changed(change{Kind: callQueued, Function: "f", Call: call.ID})
	_, err := s.storeRecord(t.Context(), rec, 0)
	require.NoError(t, err)
	s.changed(change{Kind: callLeft, Function: "f", Call: call.ID})
	return rec
}

func requireUnknown(t *testing.T, s *Store, rec api.Record) {
	t.Helper()
	_, _, err := s.Record(t.Context(), rec.Function, rec.CallID)
	requireCode(t, api.NotFound, err)
	_, err = s.Output(t.Context(), rec.Function, rec.CallID)
	requireCode(t, api.Expired, err)
}

func requireStatus(t *testing.T, s *Store, want api.Status) {
	t.Helper()
	got, err := s.Status(t.Context(), "f")
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestUnfetchedCallsAreRemovedByTheirAge(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{UnfetchedTime: time.Hour})
	ended := endCall(t, s, 1)
	fetched := endCall(t, s, 2)
	require.NoError(t, s.Forget(t.Context(), fetched))
	enqueue(t, s, "f", 3, 6)
	deliveries := consume(t, s, 2)
	running, waiting := next(t, deliveries, 3).Call(), next(t, deliveries, 4).Call()
	for call, state := range map[*api.Call]api.State{running: api.Running, waiting: api.Pending} {
		_, err := s.SaveRecord(t.Context(), api.Record{CallID: call.ID, Function: "f", Account: "acme", State: state, Accepted: call.Accepted}, 0)
		require.NoError(t, err)
	}
	before := api.Status{Total: 5, Pending: 2, Running: 1, Finished: 2}
	requireStatus(t, s, before)
	removed, err := s.RemoveUnfetched(t.Context())
	require.NoError(t, err)
	require.Zero(t, removed, "nothing is old")

	s.cfg.UnfetchedTime = time.Nanosecond
	removed, err = s.RemoveUnfetched(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, removed)
	requireUnknown(t, s, ended)
	requireStatus(t, s, api.Status{Total: 4, Pending: 2, Running: 1, Finished: 1})
	for _, call := range []string{running.ID, waiting.ID, fetched.CallID} {
		_, _, err := s.Record(t.Context(), "f", call)
		require.NoError(t, err, "what runs, waits or is kept after it was fetched stays")
	}
	inFlight, err := s.CallsInFlight(t.Context(), "acme", "f")
	require.NoError(t, err)
	require.Len(t, inFlight, 3)
	removed, err = s.RemoveUnfetched(t.Context())
	require.NoError(t, err)
	require.Zero(t, removed)
}

func TestUnfetchedCallsAreRemovedByTheirNumber(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{UnfetchedCalls: 3})
	var all []api.Record
	for n := range 8 {
		all = append(all, endCall(t, s, n))
	}
	removed, err := s.RemoveUnfetched(t.Context())
	require.NoError(t, err)
	require.Equal(t, 5, removed)
	for i, rec := range all {
		if i < 5 {
			requireUnknown(t, s, rec)
			continue
		}
		_, err := s.Output(t.Context(), "f", rec.CallID)
		require.NoError(t, err, "the latest stay")
	}
	requireStatus(t, s, api.Status{Total: 3, Finished: 3})

	_, err = s.RemoveUnfetched(canceled(t))
	require.Error(t, err)
}

// An end that a server has not taken out of the queue, as it died, must not run again.
func TestUnfetchedCallLeavesTheQueueToo(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{UnfetchedTime: time.Nanosecond})
	enqueue(t, s, "f", 1, 2)
	rec := endCall(t, s, 1)
	removed, err := s.RemoveUnfetched(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, removed)
	requireUnknown(t, s, rec)
	_, err = s.Queued(t.Context(), "acme", "f", rec.CallID)
	requireCode(t, api.NotFound, err)
	requireStatus(t, s, api.Status{})
}

func TestOutputsExpireByTheirAge(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{OutputTime: 300 * time.Millisecond})
	rec := endCall(t, s, 1)
	require.Eventually(t, func() bool {
		_, err := s.Output(t.Context(), "f", rec.CallID)
		return api.CodeOf(err) == api.Expired
	}, patience, 10*time.Millisecond)
	_, _, err := s.Record(t.Context(), "f", rec.CallID)
	require.NoError(t, err, "so that who asks is told what became of it")
	next := endCall(t, s, 2)
	out, err := s.Output(t.Context(), "f", next.CallID)
	require.NoError(t, err)
	require.Equal(t, newCall("f", 2).Payload, out)
}
