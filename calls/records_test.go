package calls

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func newRecord(n int, state api.State) api.Record {
	call := newCall("f", n)
	return api.Record{CallID: call.ID, Function: call.Function, Account: call.Account, State: state, Accepted: call.Accepted}
}

func TestRecordVersions(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	rec := newRecord(1, api.Pending)
	enqueue(t, s, "f", 1, 3)
	_, _, err := s.Record(t.Context(), "f", rec.CallID)
	requireCode(t, api.NotFound, err)
	_, err = s.SaveRecord(t.Context(), rec, 77)
	requireCode(t, api.Conflict, err)

	first, err := s.SaveRecord(t.Context(), rec, 0)
	require.NoError(t, err)
	_, err = s.SaveRecord(t.Context(), rec, 0)
	requireCode(t, api.Conflict, err)

	// The versions of one record have nothing to do with those of others.
	_, err = s.SaveRecord(t.Context(), newRecord(2, api.Pending), 0)
	require.NoError(t, err)

	running := rec
	running.State, running.Started, running.Job, running.Allocation, running.Timeout = api.Running, time.Unix(9, 0).UTC(), "j", "a", 300
	second, err := s.SaveRecord(t.Context(), running, first)
	require.NoError(t, err)
	require.Greater(t, second, first)
	_, err = s.SaveRecord(t.Context(), rec, first)
	requireCode(t, api.Conflict, err)

	got, version, err := s.Record(t.Context(), "f", rec.CallID)
	require.NoError(t, err)
	require.Equal(t, running, got)
	require.Equal(t, second, version)
	_, _, err = s.Record(t.Context(), "g", rec.CallID)
	requireCode(t, api.NotFound, err)
}

func TestOneOfManyChangesARecord(t *testing.T) {
	t.Parallel()
	const writers = 20
	s := openStore(t, Config{})
	enqueue(t, s, "f", 1, 2)
	codes := make(chan api.Code, writers)
	for i := range writers {
		rec := newRecord(1, api.Running)
		rec.Allocation = fmt.Sprint(i)
		go func() {
			_, err := s.SaveRecord(t.Context(), rec, 0)
			codes <- api.CodeOf(err)
		}()
	}
	count := map[api.Code]int{}
	for range writers {
		count[<-codes]++
	}
	require.Equal(t, map[api.Code]int{"": 1, api.Conflict: writers - 1}, count)
}

func TestForget(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Dir: t.TempDir()})
	end := func(n int, state api.State) api.Record {
		rec := newRecord(n, state)
		_, err := s.SaveRecord(t.Context(), rec, 0)
		require.NoError(t, err)
		if state == api.Finished {
			require.NoError(t, s.SaveOutput(t.Context(), "f", rec.CallID, []byte("out")))
		}
		return rec
	}
	// Their servers have died between the end of the call and Done: one had been delivered, one was to be delivered again.
	enqueue(t, s, "f", 0, 4)
	deliveries := consume(t, s, 1)
	delivered := next(t, deliveries, 0)
	finished, failed, kept := end(0, api.Finished), end(1, api.Failed), end(3, api.Finished)

	require.NoError(t, s.Forget(t.Context(), failed))
	require.NoError(t, s.Forget(t.Context(), finished))
	for _, rec := range []api.Record{finished, failed} {
		_, _, err := s.Record(t.Context(), "f", rec.CallID)
		requireCode(t, api.NotFound, err)
		_, err = s.Queued(t.Context(), "acme", "f", rec.CallID)
		requireCode(t, api.NotFound, err)
		_, err = s.Output(t.Context(), "f", rec.CallID)
		requireCode(t, api.Expired, err)
		require.NoError(t, s.Forget(t.Context(), rec), "again")
	}
	_, _, err := s.Record(t.Context(), "f", kept.CallID)
	require.NoError(t, err, "others stay")
	out, err := s.Output(t.Context(), "f", kept.CallID)
	require.NoError(t, err)
	require.Equal(t, "out", string(out))

	// The queue goes on with what is left, now and after a restart.
	require.NoError(t, delivered.Return(0))
	next(t, deliveries, 2)
	s.Close()
	again := openStore(t, Config{Dir: s.cfg.Dir})
	deliveries = consume(t, again, 10)
	next(t, deliveries, 2)
	next(t, deliveries, 3)
	requirePending(t, again, 2, 0)
	require.Empty(t, deliveries)
}

func TestOutputs(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{OutputBytes: 100 << 10})
	_, err := s.Output(t.Context(), "f", "none")
	requireCode(t, api.Expired, err)

	output := func(n int) []byte { return bytes.Repeat([]byte{byte(n)}, 30<<10) }
	for i := range 5 {
		require.NoError(t, s.SaveOutput(t.Context(), "f", newCall("f", i).ID, output(i)))
	}
	require.NoError(t, s.SaveOutput(t.Context(), "g", newCall("g", 0).ID, output(0)), "functions have room of their own")
	for i := range 5 {
		got, err := s.Output(t.Context(), "f", newCall("f", i).ID)
		if i < 2 {
			requireCode(t, api.Expired, err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, output(i), got)
	}

	// A report that is sent again is stored once, as it came last.
	require.NoError(t, s.SaveOutput(t.Context(), "f", newCall("f", 4).ID, nil))
	got, err := s.Output(t.Context(), "f", newCall("f", 4).ID)
	require.NoError(t, err)
	require.Empty(t, got)
	_, err = s.Output(t.Context(), "f", newCall("f", 2).ID)
	require.NoError(t, err)
}

func TestAFullOutput(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	output := bytes.Repeat([]byte{0, 0xff}, 512<<10)
	require.NoError(t, s.SaveOutput(t.Context(), "f", "c", output))
	got, err := s.Output(t.Context(), "f", "c")
	require.NoError(t, err)
	require.True(t, bytes.Equal(output, got))
}

func TestRecordsWithoutAStore(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	s.Close()
	rec := newRecord(1, api.Finished)
	ctx := t.Context()
	_, _, err := s.Record(ctx, "f", rec.CallID)
	requireCode(t, api.Unavailable, err)
	_, err = s.SaveRecord(ctx, rec, 0)
	requireCode(t, api.Unavailable, err)
	_, err = s.Output(ctx, "f", rec.CallID)
	requireCode(t, api.Unavailable, err)
	requireCode(t, api.Unavailable, s.SaveOutput(ctx, "f", rec.CallID, nil))
	requireCode(t, api.Unavailable, s.Forget(ctx, rec))
	requireCode(t, api.Unavailable, s.Enqueue(ctx, newCall("f", 1)))
	_, err = s.Queued(ctx, "acme", "f", rec.CallID)
	requireCode(t, api.Unavailable, err)
	_, err = s.InFlight(ctx, "acme", "f")
	requireCode(t, api.Unavailable, err)
	_, err = s.Accounts(ctx)
	requireCode(t, api.Unavailable, err)
	_, err = s.Consume(ctx, "acme", 1, func(*Delivery) {})
	requireCode(t, api.Unavailable, err)
	_, err = s.Offer(rec.CallID, nil)
	requireCode(t, api.Unavailable, err)
	_, _, err = s.Take(ctx, rec.CallID, api.Allocation{})
	requireCode(t, api.Unavailable, err)
	requireCode(t, api.Unavailable, s.Events(ctx, "f", api.EventQuery{Tail: -1}, nil))
	requireCode(t, api.Unavailable, s.RemoveFunction(ctx, "f"))
	requireCode(t, api.Unavailable, s.Ping(ctx))
	s.Log(ctx, "f", api.Event{})
	s.NotifyEnd("f", rec.CallID)
}
