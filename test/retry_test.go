//go:build integration

package test

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// attempts is how often a call was started.
func attempts(events []api.Event) (n int) {
	for _, e := range events {
		if e.Event == string(api.Running) {
			n++
		}
	}
	return n
}

func TestFailedCallIsTriedAgain(t *testing.T) {
	t.Parallel()
	f := dev.create(t, label(program("funcd/fail", "3"), "funcd.warm", "0", "funcd.retries", "2"))
	call := f.call(t, "")
	out := f.wait(t, call)
	require.Equal(t, http.StatusInternalServerError, out.status)
	require.Equal(t, "exit status 3\n", out.body)
	events := f.eventsOf(t, call, api.Failed)
	require.Equal(t, 3, attempts(events))
	require.Len(t, f.children(t), 3, "a container for each")
	said := ""
	for _, e := range events {
		said += e.Message + "\n"
	}
	require.Contains(t, said, "attempt 1 of 3 has failed, the next comes in 1s: exit status 3\n")
	require.Contains(t, said, "attempt 2 of 3 has failed, the next comes in 2s: exit status 3\n")
	require.Equal(t, http.StatusNotFound, f.output(t, call).status)
}

func TestCallWhoseContainerIsKilledIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, labels := range map[string][]string{
		"cold": {"funcd.warm", "0", "funcd.retries", "1"},
		"warm": {"funcd.warm", "1", "funcd.reuse", "true", "funcd.retries", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := dev.create(t, label(program("funcd/sleep", "6"), labels...))
			if name == "warm" {
				f.awaitReady(t, 1) // or the call is given a container of its own, beside the one that waits
			}
			call := f.call(t, "")
			f.eventsOf(t, call, api.Running)
			killed := containerOf(t, dev.allocationOfRunning(t, f))
			require.NoError(t, exec.Command("docker", "kill", killed).Run())
			out := f.wait(t, call)
			require.Equal(t, http.StatusOK, out.status, out.body)
			require.Equal(t, "slept for 6 seconds\n", out.body)
			require.Equal(t, 2, attempts(f.eventsOf(t, call, api.Finished)))
		})
	}
}

// allocationOfRunning returns the allocation of the function's only container that runs.
func (s *stack) allocationOfRunning(t *testing.T, f *function) string {
	t.Helper()
	var running string
	eventually(t, "a container that runs", func() bool {
		for _, id := range f.live(t) {
			var list []allocation
			s.nomadGet(t, jobOf(id)+"/allocations", &list)
			for _, a := range list {
				if a.ClientStatus == "running" {
					running = a.ID
					return true
				}
			}
		}
		return false
	})
	return running
}

func TestNextAttemptOutlivesFuncd(t *testing.T) {
	t.Parallel()
	o := beside("attempts")
	o.config += "limits {\n  retry_pause = \"4s\"\n}\n"
	own := startOwn(t, "attempts", o)
	f := own.create(t, label(program("funcd/fail", "3"), "funcd.warm", "0", "funcd.retries", "1"))
	call := f.call(t, "")
	eventually(t, "the end of the first attempt", func() bool {
		return strings.Contains(last(f.events(t, "?callid="+call)).Message, "attempt 1 of 2 has failed")
	})
	waiting := f.output(t, call)
	require.Equal(t, http.StatusAccepted, waiting.status, waiting.body)
	require.Contains(t, waiting.body, "attempt 1 of 2 has failed")
	require.NoError(t, own.kill())
	o.http = strings.TrimPrefix(own.url, "http://")
	startOwn(t, "attempts", o)
	out := f.wait(t, call)
	require.Equal(t, "exit status 3\n", out.body)
	require.Equal(t, 2, attempts(f.eventsOf(t, call, api.Failed)))
	require.Len(t, f.children(t), 2)
}

func TestCallThatWaitsTooLongExpires(t *testing.T) {
	t.Parallel()
	o := beside("expiry")
	o.config += "quota = 1\n"
	own := startOwn(t, "expiry", o)
	slow := own.create(t, cold(program("funcd/sleep", "6")))
	f := own.create(t, label(program("funcd/hello"), "funcd.warm", "0", "funcd.maxage", "2s"))
	slow.eventsOf(t, slow.call(t, ""), api.Running)
	call := f.call(t, "")
	out := f.wait(t, call)
	require.Equal(t, http.StatusInternalServerError, out.status)
	require.Equal(t, "expired in the queue: it has waited for 2s\n", out.body)
	require.Empty(t, f.children(t))
	patient := own.create(t, label(program("funcd/hello"), "funcd.warm", "0", "funcd.maxage", "1h"))
	require.Equal(t, "HelloWorld\n", patient.sync(t, "").body, "one that need not wait so long")
}
