package calls

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestFunctionOfACall(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	enqueue(t, s, "f", 0, 2)
	enqueue(t, s, "g", 2, 4)
	running := newRecord(1, api.Running)
	running.Name = "hello"
	version, err := s.SaveRecord(t.Context(), running, 0)
	require.NoError(t, err)
	ended := newRecord(9, api.Failed) // and has left the queue
	ended.Name, ended.Function = "hello", "h"
	_, err = s.storeRecord(t.Context(), ended, 0)
	require.NoError(t, err)

	for n, want := range map[int]string{0: "f", 1: "f", 2: "g", 3: "g", 9: "h"} {
		id := newCall("", n).ID
		function, name, err := s.FunctionOf(t.Context(), "acme", id)
		require.NoError(t, err, n)
		require.Equal(t, want+" hello", function+" "+name)
		_, _, err = s.FunctionOf(t.Context(), "other", id)
		require.EqualError(t, err, "no such call: "+id, "of another account")
		requireCode(t, api.NotFound, err)
	}
	accounts, err := s.Accounts(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"acme"}, accounts, "asking makes no queue")
	for _, id := range wrongIDs {
		_, _, err := s.FunctionOf(t.Context(), "acme", id)
		requireCode(t, api.Invalid, err)
	}

	// What was fetched is gone, at once or, if it was cancelled, as far as callers know.
	running.State = api.Finished
	_, err = s.SaveRecord(t.Context(), running, version)
	require.NoError(t, err)
	require.NoError(t, s.Forget(t.Context(), running))
	cancelled := newRecord(3, api.Failed)
	cancelled.Code, cancelled.Function = api.Cancelled, "g"
	_, err = s.storeRecord(t.Context(), cancelled, 0)
	require.NoError(t, err)
	require.NoError(t, s.Forget(t.Context(), cancelled))
	for _, n := range []int{1, 3, 4} {
		_, _, err := s.FunctionOf(t.Context(), "acme", newCall("", n).ID)
		requireCode(t, api.NotFound, err)
	}
	s.Close()
	_, _, err = s.FunctionOf(t.Context(), "acme", newCall("", 0).ID)
	requireCode(t, api.Unavailable, err)
}
