package calls

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// largest is a call whose request is as large as the API lets one be: of a mebibyte, and with headers that take six times their 64 KiB as JSON, or are no text.
func largest(n int) *api.Call {
	call := newCall("f", n)
	call.Payload = bytes.Repeat([]byte{0xff}, 1<<20)
	call.Env = api.Env{"HTTP_X_LARGE=" + strings.Repeat("<", 60<<10), "HTTP_X_BYTES=\xe4\xff\x80"}
	return call
}

func TestEveryRequestHasRoom(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	deliveries := consume(t, s, 1)
	want := largest(1)
	require.NoError(t, s.Enqueue(t.Context(), want))
	d := next(t, deliveries, 1)
	require.Equal(t, want, d.Call())
	queued, err := s.Queued(t.Context(), "acme", "f", want.ID)
	require.NoError(t, err)
	require.Equal(t, want, queued)

	_, err = s.SaveRecord(t.Context(), newRecord(1, api.Pending), 0)
	require.NoError(t, err)
	want.Attempt = 1
	require.NoError(t, s.Postpone(t.Context(), want, time.Now()))
	require.NoError(t, d.Done(t.Context()))
	require.Equal(t, want, next(t, deliveries, 1).Call(), "it comes back as it was")

	rec := newRecord(1, api.Failed)
	rec.Message = strings.Repeat("m", 100<<10)
	require.NoError(t, s.Bury(t.Context(), want, rec))
	buried, letter, _, err := s.DeadLetter(t.Context(), "acme", want.ID)
	require.NoError(t, err)
	require.Equal(t, want, buried)
	require.Equal(t, want.Payload, letter.Payload)
	require.LessOrEqual(t, len(letter.Message), maxReason)
}

func TestEveryRequestHasRoomBetweenServers(t *testing.T) {
	t.Parallel()
	stores := openCluster(t, 2)
	call := largest(1)
	assignment := &api.Assignment{CallID: call.ID, Function: "f", Env: call.Env}
	withdraw, err := stores[0].Offer(call.ID, func(context.Context, api.Allocation) (*api.Assignment, []byte, error) {
		return assignment, call.Payload, nil
	})
	require.NoError(t, err)
	defer withdraw()
	require.NoError(t, stores[0].nc.Flush())
	got, payload, err := stores[1].Take(t.Context(), call.ID, api.Allocation{ID: "a"})
	require.NoError(t, err)
	require.Equal(t, call.Env, got.Env)
	require.Equal(t, call.Payload, payload)
}

// A server that was stopped for longer than its lease may think that a call is its own which another has brought to its end.
func TestACallThatIsOverHasNoOtherRecord(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	status(t, s, "f")
	for _, state := range []api.State{api.Pending, api.Running, api.Failed} {
		t.Run(string(state), func(t *testing.T) {
			_, err := s.SaveRecord(t.Context(), newRecord(1, state), 0)
			requireCode(t, api.Conflict, err)
			_, _, err = s.Record(t.Context(), "f", newRecord(1, state).CallID)
			requireCode(t, api.NotFound, err)
			require.Equal(t, api.Status{}, status(t, s, "f"))
		})
	}
	t.Run("an end that others have acted on stays", func(t *testing.T) {
		enqueue(t, s, "f", 2, 3)
		rec := newRecord(2, api.Failed)
		_, err := s.SaveRecord(t.Context(), rec, 0)
		require.NoError(t, err)
		require.NoError(t, s.Withdraw(t.Context(), "acme", "f", rec.CallID))
		_, _, err = s.Record(t.Context(), "f", rec.CallID)
		require.NoError(t, err)
	})
	t.Run("of many calls that end meanwhile none has one", func(t *testing.T) {
		for n := range 200 {
			state := []api.State{api.Running, api.Failed}[n%2]
			call := newCall("f", 100+n)
			require.NoError(t, s.Enqueue(t.Context(), call))
			gone := make(chan error)
			go func() { gone <- s.Withdraw(t.Context(), "acme", "f", call.ID) }()
			_, err := s.SaveRecord(t.Context(), newRecord(100+n, state), 0)
			require.NoError(t, <-gone)
			_, _, found := s.Record(t.Context(), "f", call.ID)
			require.Equal(t, err == nil, found == nil, fmt.Sprint(err))
		}
	})
}
