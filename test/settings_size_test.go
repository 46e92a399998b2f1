//go:build integration

package test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// taskOf is the task of a function's job, as far as these tests look at it.
func (f *function) taskOf(t *testing.T) (task struct {
	KillTimeout time.Duration
	KillSignal  string
	Resources   struct{ CPU, MemoryMB int }
}) {
	t.Helper()
	registered := struct{ TaskGroups []struct{ Tasks []any } }{[]struct{ Tasks []any }{{[]any{&task}}}}
	f.on.nomadGet(t, jobOf(f.job()), &registered)
	return task
}

// The ten sizes reserve what is documented, and the container has it.
func TestSettingContainerSize(t *testing.T) {
	t.Parallel()
	const runner = 10 // MB, for funcd's own program
	for size, of := range map[string]struct{ cpu, memory int }{
		"s1": {100, 64}, "s2": {200, 128}, "s3": {300, 256}, "s4": {500, 512}, "m1": {1000, 1024},
		"m2": {2000, 2048}, "m3": {2000, 4096}, "l1": {4000, 4096}, "l2": {4000, 8192}, "l3": {8000, 16384},
	} {
		f := cold(program("funcd-test/probe", "hold", "600"))
		f.ContainerSize = size
		sized := dev.create(t, f)
		task := sized.taskOf(t)
		require.Equal(t, []int{of.cpu, of.memory + runner}, []int{task.Resources.CPU, task.Resources.MemoryMB}, size)
		if size != "s2" { // what is large need not fit here
			continue
		}
		call := sized.call(t, "")
		sized.eventsOf(t, call, api.Running)
		limits := docker(t, "", "inspect", "--format", "{{.HostConfig.CpuShares}} {{.HostConfig.Memory}}", containerOf(t, sized.allocationOf(t, call).ID))
		require.Equal(t, fmt.Sprintf("%d %d", of.cpu, (of.memory+runner)<<20), strings.TrimSpace(limits))
		require.Equal(t, http.StatusNoContent, sized.cancel(t, call).status)
		sized.requireCancelled(t, call)
	}
}

// Between its StopSignal and SIGKILL a function has its Timeout, at most max_kill_timeout, and nothing with SIGKILL.
func TestSettingKillTimeout(t *testing.T) {
	t.Parallel()
	o := beside("kill")
	o.config += "nomad {\n  max_kill_timeout = \"3s\"\n}\n"
	own := startOwn(t, "kill", o)
	const none = 5 * time.Second // what Nomad makes of 0. It is how long sending the signal may take, and with SIGKILL nothing waits for more
	for _, c := range []struct {
		on      *stack
		timeout int
		signal  api.Signal
		want    time.Duration
		sent    string
	}{
		{dev, 7, "", 7 * time.Second, "SIGTERM"},
		{dev, 300, "", 30 * time.Second, "SIGTERM"},
		{dev, 86400, "SIGINT", 30 * time.Second, "SIGINT"},
		{dev, 300, "9", none, "SIGKILL"},
		{own, 2, "", 2 * time.Second, "SIGTERM"},
		{own, 300, "SIGHUP", 3 * time.Second, "SIGHUP"},
		{own, 300, "KILL", none, "SIGKILL"},
	} {
		f := cold(program("funcd/hello"))
		f.Timeout, f.Config.StopSignal = c.timeout, c.signal
		task := c.on.create(t, f).taskOf(t)
		require.Equal(t, c.want, task.KillTimeout, "%+v", c)
		require.Equal(t, c.sent, task.KillSignal, "%+v", c)
	}

	f := own.create(t, cold(program("funcd-test/probe", "hold", "120"))) // whatever signal comes
	call := f.call(t, "")
	awaitSaid(t, containerOf(t, f.allocationOf(t, call).ID), "ready")
	cancelled := time.Now()
	require.Equal(t, http.StatusNoContent, f.cancel(t, call).status)
	f.requireCancelled(t, call)
	require.GreaterOrEqual(t, time.Since(cancelled), 3*time.Second, "it had the time")

	tells := cold(program("funcd-test/probe", "signal", "120"))
	tells.Config.StopSignal = "SIGKILL"
	f = own.create(t, tells)
	call = f.call(t, "")
	awaitSaid(t, containerOf(t, f.allocationOf(t, call).ID), "ready")
	require.Equal(t, http.StatusNoContent, f.cancel(t, call).status)
	require.Empty(t, last(f.eventsOf(t, call, api.Failed)).ShortStderr, "it was told nothing")
	f.requireCancelled(t, call)
}
