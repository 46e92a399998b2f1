//go:build integration

package test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// TestResultWaitsForFuncd kills funcd while a function runs, and starts it again when it would have stopped the function long ago.
func TestResultWaitsForFuncd(t *testing.T) {
	t.Parallel()
	o := beside("patience")
	own := startOwn(t, "patience", o)
	const timeout = 20 // seconds, in which the function ends, and funcd is killed before
	slow := cold(program("funcd-test/probe", "ready"))
	slow.Timeout = timeout
	f := own.create(t, slow)
	call := f.call(t, "in time")
	started := last(f.eventsOf(t, call, api.Running)).Time
	container := containerOf(t, f.allocationOf(t, call).ID)
	awaitSaid(t, container, "ready")
	require.NoError(t, own.kill())
	docker(t, "", "kill", "--signal", "USR1", container)

	overdue := 2*timeout*time.Second + 11*time.Second // Timeout, kill time, and what a report may take
	eventually(t, "the time in which the call had to end has passed", func() bool { return time.Since(started.Time) > overdue })
	require.Equal(t, "true\n", docker(t, "", "inspect", "--format", "{{.State.Running}}", container), "its result waits for funcd")
	f.on = startOwn(t, "patience", o)
	out := f.wait(t, call)
	require.Equal(t, http.StatusOK, out.status, out.body)
	require.Equal(t, "ready\nin time", out.body)
	require.Len(t, f.children(t), 1)
}

func TestContainerGivesUpWithoutFuncd(t *testing.T) {
	t.Parallel()
	o := beside("impatience")
	o.config += "runner {\n  patience = \"10s\"\n}\n"
	own := startOwn(t, "impatience", o)
	f := own.create(t, cold(program("funcd-test/probe", "ready")))
	call := f.call(t, "")
	f.eventsOf(t, call, api.Running)
	container := containerOf(t, f.allocationOf(t, call).ID)
	awaitSaid(t, container, "ready")
	require.NoError(t, own.kill())
	docker(t, "", "kill", "--signal", "USR1", container)
	require.Equal(t, fmt.Sprintln(api.RunnerGaveUp), docker(t, "", "wait", container))

	f.on = startOwn(t, "impatience", o)
	out := f.wait(t, call)
	require.Equal(t, http.StatusInternalServerError, out.status)
	require.Equal(t, "the container has given up: it found no funcd server for longer than it waits\n", out.body)
	require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FAILED"}, kinds(f.eventsOf(t, call, api.Failed)))
	require.Len(t, f.children(t), 1, "it is not run again")
}
