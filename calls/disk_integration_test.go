//go:build integration

package calls

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
)

// smallDisk returns a directory on a disk of its own, and what fills it up but for so many bytes.
func smallDisk(t *testing.T, megabytes string) (dir string, fill func(but int64) (free func())) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+megabytes+"m"), "only root can make a disk")
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir, func(but int64) func() {
		name := filepath.Join(dir, "filler")
		filler, err := os.Create(name)
		require.NoError(t, err)
		defer filler.Close()
		for {
			room, err := available(dir)
			require.NoError(t, err)
			if room <= but || unix.Fallocate(int(filler.Fd()), 0, 0, room-but) == nil { // else the store has just written
				break
			}
		}
		return func() { require.NoError(t, os.Remove(name)) }
	}
}

// TestStoreIsWrittenAgainAfterAFullDisk fills a disk to its last byte.
func TestStoreIsWrittenAgainAfterAFullDisk(t *testing.T) {
	t.Parallel()
	dir, fill := smallDisk(t, "64")
	s := openStore(t, Config{Dir: filepath.Join(dir, "store"), DiskFree: 16 << 20})
	deliveries := consume(t, s, 1)
	enqueue(t, s, "f", 0, 3)
	first := next(t, deliveries, 0)
	version, err := s.SaveRecord(t.Context(), newRecord(0, api.Running), 0)
	require.NoError(t, err)
	require.NoError(t, s.SaveOutput(t.Context(), "f", newCall("f", 9).ID, []byte("before")))

	free := fill(0)
	requireCode(t, api.Unavailable, s.Enqueue(t.Context(), newCall("f", 3)))
	output := bytes.Repeat([]byte("x"), 1<<20)
	save := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return s.SaveOutput(ctx, "f", newCall("f", 0).ID, output)
	}
	requireCode(t, api.Unavailable, save())
	free()
	require.Eventually(t, func() bool { return save() == nil }, patience, 10*time.Millisecond)
	require.True(t, s.server.JetStreamConfig().SyncAlways, "as before")
	_, err = s.SaveRecord(t.Context(), newRecord(0, api.Finished), version)
	require.NoError(t, err)
	require.NoError(t, first.Done(t.Context()))
	for n := 1; n < 3; n++ { // what was queued is there, in its order
		require.NoError(t, next(t, deliveries, n).Done(t.Context()))
	}
	require.NoError(t, s.Enqueue(t.Context(), newCall("f", 3)))
	require.NoError(t, next(t, deliveries, 3).Done(t.Context()))
	stored, err := s.Output(t.Context(), "f", newCall("f", 0).ID)
	require.NoError(t, err)
	require.Equal(t, output, stored)
}
