package calls

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestKeysAreKeptForTheirTime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, Config{Dir: dir})
	want := api.CallKey{Call: "c", Same: "x", Queued: true}
	_, err := s.SaveKey(t.Context(), "acme", "f", "secret key", want, 0)
	require.NoError(t, err)
	s.Close()
	s = openStore(t, Config{Dir: dir, KeyTime: time.Second})
	got, _, err := s.Key(t.Context(), "acme", "f", "secret key")
	require.NoError(t, err, "after a restart")
	require.Equal(t, want, got)

	keys, err := s.keys(t.Context(), "acme")
	require.NoError(t, err)
	info, err := keys.Info(t.Context(), jetstream.WithSubjectFilter(">"))
	require.NoError(t, err)
	require.Len(t, info.State.Subjects, 1)
	for subject := range info.State.Subjects {
		require.Regexp(t, `^key\.acme\.f\.[0-9a-f]{64}$`, subject)
		require.NotContains(t, subject, "secret")
	}
	require.NotEqual(t, keySubject("a", "f", "gx")[len("key.a.f."):], keySubject("a", "fg", "x")[len("key.a.fg."):])

	_, err = s.SaveKey(t.Context(), "acme", "f", "short", want, 0)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, _, err := s.Key(t.Context(), "acme", "f", "short")
		return api.CodeOf(err) == api.NotFound
	}, patience, 10*time.Millisecond)
	_, err = s.SaveKey(t.Context(), "acme", "f", "short", want, 0)
	require.NoError(t, err, "it may be used again")
	require.NoError(t, s.RemoveFunction(t.Context(), "f"))
	_, _, err = s.Key(t.Context(), "acme", "f", "secret key")
	requireCode(t, api.NotFound, err)
	_, _, err = s.Key(t.Context(), "*", "f", "x")
	requireCode(t, api.Invalid, err)
	_, _, err = s.Key(t.Context(), "acme", ">", "x")
	requireCode(t, api.Invalid, err)
}

func TestKeysAreBounded(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Keys: 2})
	for _, key := range []string{"a", "b"} {
		version, err := s.SaveKey(t.Context(), "acme", "f", key, api.CallKey{Call: key}, 0)
		require.NoError(t, err)
		_, err = s.SaveKey(t.Context(), "acme", "f", key, api.CallKey{Call: key, Queued: true}, version)
		require.NoError(t, err, "what is there can be changed")
	}
	_, err := s.SaveKey(t.Context(), "acme", "f", "c", api.CallKey{}, 0)
	requireCode(t, api.Unavailable, err)
	require.True(t, strings.HasPrefix(err.Error(), "the account has too many idempotency keys, try again later"), err.Error())
	_, _, err = s.Key(t.Context(), "acme", "f", "a")
	require.NoError(t, err, "none is forgotten")
	_, err = s.SaveKey(t.Context(), "umbra", "f", "c", api.CallKey{}, 0)
	require.NoError(t, err, "another account has its own")
}

func TestACallIsQueuedOnce(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	call := newCall("f", 1)
	deliveries := consume(t, s, 10)
	require.NoError(t, s.EnqueueOnce(t.Context(), call))
	require.NoError(t, s.EnqueueOnce(t.Context(), call))
	require.Equal(t, api.Status{Total: 1, Pending: 1}, status(t, s, "f"))
	d := next(t, deliveries, 1)
	require.NoError(t, s.EnqueueOnce(t.Context(), call))
	require.NoError(t, d.Done(t.Context()))
	require.NoError(t, s.EnqueueOnce(t.Context(), call))
	require.Equal(t, api.Status{}, status(t, s, "f"), "it has left, and is not counted as if it were there")
	requirePending(t, s, 0, 0)
	require.Empty(t, deliveries)
	// A call that is put back after it was set aside is no duplicate.
	require.NoError(t, s.Enqueue(t.Context(), call))
	next(t, deliveries, 1)
}

func TestKeysAreOneForAllServers(t *testing.T) {
	t.Parallel()
	stores := openCluster(t, 2)
	_, err := stores[0].SaveKey(t.Context(), "acme", "f", "a", api.CallKey{Call: "c"}, 0)
	require.NoError(t, err)
	_, err = stores[1].SaveKey(t.Context(), "acme", "f", "a", api.CallKey{Call: "d"}, 0)
	requireCode(t, api.Conflict, err)
	got, _, err := stores[1].Key(t.Context(), "acme", "f", "a")
	require.NoError(t, err)
	require.Equal(t, "c", got.Call)
}
