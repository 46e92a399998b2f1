//go:build integration

package test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
)

// TestFullDiskRefusesAndLosesNothing gives funcd a small disk and fills it up: first but for what it leaves free itself, then to its last byte.
func TestFullDiskRefusesAndLosesNothing(t *testing.T) {
	t.Parallel()
	const reserve, room = 32 << 20, 4 << 20
	o := beside("disk")
	o.config += fmt.Sprintf("quota = 1\nlimits {\n  disk_free = %d\n}\n", reserve)
	o.dir = filepath.Join(root, "disk")
	require.NoError(t, os.MkdirAll(o.data(), 0o755))
	require.NoError(t, unix.Mount("tmpfs", o.data(), "tmpfs", 0, "size=128m"), "only root can make a disk")
	t.Cleanup(func() { require.NoError(t, unix.Unmount(o.data(), unix.MNT_DETACH)) })
	fill := func(name string, but int64) (free func()) {
		name = filepath.Join(o.data(), name)
		filler, err := os.Create(name)
		require.NoError(t, err)
		defer filler.Close()
		for {
			var fs unix.Statfs_t
			require.NoError(t, unix.Statfs(o.data(), &fs))
			room := int64(fs.Bavail) * int64(fs.Bsize)
			if room <= but || unix.Fallocate(int(filler.Fd()), 0, 0, room-but) == nil { // else funcd has just written
				break
			}
		}
		return func() { require.NoError(t, os.Remove(name)) }
	}
	own := startOwn(t, "disk", o)
	f := own.create(t, cold(program("funcd-test/probe", "ready")))
	finish := func(call string) {
		f.eventsOf(t, call, api.Running)
		container := containerOf(t, f.allocationOf(t, call).ID)
		awaitSaid(t, container, "ready")
		docker(t, "", "kill", "--signal", "USR1", container)
	}
	payload := func(n int) string { return fmt.Sprintln("of call", n) + strings.Repeat("x", 1<<19) }
	refused := func(endpoint ...string) {
		a := f.on.request(t, http.MethodPost, f.path("call", endpoint...), payload(0))
		require.Equal(t, http.StatusServiceUnavailable, a.status, a.body)
		require.Equal(t, "the disk of the server is full, try again later\n", a.body)
		require.Equal(t, "2", a.header.Get("Retry-After"))
	}
	running := f.call(t, "the first")
	f.eventsOf(t, running, api.Running)

	free := fill("filler", reserve+room)
	var queued []string
	for {
		a := own.request(t, http.MethodPost, f.path("call"), payload(len(queued)))
		if a.status != http.StatusOK {
			break
		}
		queued = append(queued, a.body)
	}
	refused()
	refused("sync")
	require.NotEmpty(t, queued)
	require.LessOrEqual(t, len(queued), room>>19)

	require.NoError(t, own.kill())
	f.on = startOwn(t, "disk", o)
	own = f.on
	refused()
	freeAll := fill("more", 0)
	finish(running)
	eventually(t, "a result that can't be written", func() bool {
		log, err := os.ReadFile(own.logFile)
		return err == nil && bytes.Contains(log, []byte(syscall.ENOSPC.Error()))
	})
	refused()
	for i, answer := range queued {
		_, call, _ := strings.Cut(answer, `"CallId":"`)
		queued[i], _, _ = strings.Cut(call, `"`)
		require.Equal(t, http.StatusAccepted, f.output(t, queued[i]).status, answer)
	}

	freeAll()
	free()
	out := f.wait(t, running)
	require.Equal(t, http.StatusOK, out.status, out.body)
	require.Equal(t, "ready\nthe first", out.body)
	var last string
	eventually(t, "a call is taken again", func() bool { // while the store is opened again it does not answer
		var err error
		last, err = own.Call(t.Context(), f.Name, f.UUID, strings.NewReader(payload(len(queued))), http.Header{api.KeyHeader: {"the last"}})
		return err == nil
	})
	queued = append(queued, last)
	for i, call := range queued {
		finish(call)
		out := f.wait(t, call)
		require.Equal(t, http.StatusOK, out.status, "call %d: %.200s", i, out.body)
		require.Equal(t, "ready\n"+payload(i), out.body)
	}
	require.Len(t, f.children(t), 1+len(queued), "one job for each call")
}
