package calls

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestPing(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	require.NoError(t, s.Ping(t.Context()))
	requireCode(t, api.Unavailable, s.Ping(canceled(t)))
}

func TestCloseTwice(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	s.Close()
	s.Close()
	requireCode(t, api.Unavailable, s.Ping(t.Context()))
}

func TestCloseWhileItIsUsed(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	logged(t, s, "f", "a:1")
	following, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.Events(t.Context(), "f", api.EventQuery{Tail: -1, Follow: true}, decoded(func(api.Event) error {
			close(following)
			return nil
		}))
	}()
	within(t, following)
	s.Close()
	requireCode(t, api.Unavailable, <-done)
}

func TestOpenFails(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, cfg := range map[string]Config{
		"a file in place of the directory": {Dir: file},
		"no NATS at the URL":               {URL: "nats://127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg.Logger = slog.New(slog.DiscardHandler)
			_, err := Open(t.Context(), cfg)
			require.Error(t, err)
		})
	}
	t.Run("a context that has ended", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := Open(ctx, Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestTheStoreIsItsOwners(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "store")
	openStore(t, Config{Dir: dir})
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm(), "payloads are not for other users")
}

func TestRemoveFunction(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	rec := newRecord(1, api.Finished)
	fill := func() {
		logged(t, s, "f", "a:1")
		require.NoError(t, s.SaveOutput(t.Context(), "f", rec.CallID, []byte("out")))
		_, err := s.storeRecord(t.Context(), rec, 0)
		require.NoError(t, err)
	}
	fill()
	logged(t, s, "g", "a:2")
	require.NoError(t, s.SaveOutput(t.Context(), "g", rec.CallID, []byte("other")))

	require.NoError(t, s.RemoveFunction(t.Context(), "f"))
	require.NoError(t, s.RemoveFunction(t.Context(), "f"), "again")
	require.NoError(t, s.RemoveFunction(t.Context(), "none"))
	names := []string{}
	list := s.js.StreamNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	require.NoError(t, list.Err())
	require.ElementsMatch(t, []string{recordsStream, "LOG_g", "OUT_g"}, names)
	_, _, err := s.Record(t.Context(), "f", rec.CallID)
	requireCode(t, api.NotFound, err)
	out, err := s.Output(t.Context(), "g", rec.CallID)
	require.NoError(t, err, "others stay")
	require.Equal(t, "other", string(out))
	require.Equal(t, []string{"a:2"}, events(t, s, "g", api.EventQuery{Tail: -1}))

	// The streams are made again where the id is used again.
	fill()
	require.Equal(t, []string{"a:1"}, events(t, s, "f", api.EventQuery{Tail: -1}))
	out, err = s.Output(t.Context(), "f", rec.CallID)
	require.NoError(t, err)
	require.Equal(t, "out", string(out))
}

func TestFirstUseFromManySides(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	peer := openPeer(t, s)
	var users sync.WaitGroup
	errs := make(chan error, 40)
	for i := range 10 {
		for _, server := range []*Store{s, peer} {
			users.Go(func() { errs <- server.Enqueue(t.Context(), newCall("f", i)) })
			users.Go(func() { errs <- server.SaveOutput(t.Context(), "f", newCall("f", i).ID, nil) })
		}
	}
	users.Wait()
	for range 40 {
		require.NoError(t, <-errs)
	}
}

func TestFunctionsOfWhichSomethingIsKept(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	functions := func() []string {
		ids, err := s.Functions(t.Context())
		require.NoError(t, err)
		return ids
	}
	require.Empty(t, functions())
	require.NoError(t, s.SaveOutput(t.Context(), "f1", "c", []byte("out")))
	s.Log(t.Context(), "f2", api.Event{CallID: "c"})
	s.Log(t.Context(), "f1", api.Event{CallID: "c"})
	enqueue(t, s, "f3", 0, 1)
	require.Equal(t, []string{"f1", "f2"}, functions())
	require.NoError(t, s.RemoveFunction(t.Context(), "f1"))
	require.Equal(t, []string{"f2"}, functions())
}
