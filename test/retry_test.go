//go:build integration

package test

import (
	"net/http"
	"strings"
	"testing"
	"time"

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
	require.Equal(t, 3, attempts(f.eventsOf(t, call, api.Failed)))
	require.Len(t, f.children(t), 3, "a container for each")
	said := f.messages(t, call)
	require.Contains(t, said, "attempt 1 of 3 has failed, the next comes in 1s: exit status 3\n")
	require.Contains(t, said, "attempt 2 of 3 has failed, the next comes in 2s: exit status 3\n")
	f.awaitGone(t, call)
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
			f := dev.create(t, label(program("funcd-test/probe", "ready"), labels...)) // it ends when it is told to
			if name == "warm" {
				f.awaitSlot(t)
			}
			call := f.call(t, "again")
			// Another container may wait beside the one that the call has.
			docker(t, "", "kill", f.talking(t, "ready"))
			eventually(t, "the end of the first attempt", func() bool { return strings.Contains(f.messages(t, call), "attempt 1 of 2 has failed") })
			docker(t, "", "kill", "--signal", "USR1", f.talking(t, "ready"))
			out := f.wait(t, call)
			require.Equal(t, http.StatusOK, out.status, out.body)
			require.Equal(t, "ready\nagain", out.body)
			require.Equal(t, 2, attempts(f.eventsOf(t, call, api.Finished)))
		})
	}
}

// messages is what a call's events say, a line each.
func (f *function) messages(t *testing.T, call string) (said string) {
	t.Helper()
	for _, e := range f.events(t, "?callid="+call) {
		said += e.Message + "\n"
	}
	return said
}

func TestNextAttemptOutlivesFuncd(t *testing.T) {
	t.Parallel()
	o := beside("attempts")
	o.config += "limits {\n  retry_pause = \"20s\"\n}\n" // longer than it takes to look at the call and to kill funcd
	own := startOwn(t, "attempts", o)
	f := own.create(t, label(program("funcd/fail", "3"), "funcd.warm", "0", "funcd.retries", "1"))
	call := f.call(t, "")
	eventually(t, "the end of the first attempt", func() bool {
		return strings.Contains(f.messages(t, call), "attempt 1 of 2 has failed")
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
	slow := own.create(t, cold(program("funcd/sleep", "600")))
	f := own.create(t, label(program("funcd/hello"), "funcd.warm", "0", "funcd.maxage", "2s"))
	running := slow.call(t, "")
	slow.eventsOf(t, running, api.Running)
	call, called := f.call(t, ""), time.Now()
	eventually(t, "the time in which it may start", func() bool { return time.Since(called) > 2*time.Second })
	require.Equal(t, http.StatusNoContent, slow.cancel(t, running).status)
	out := f.wait(t, call)
	require.Equal(t, http.StatusInternalServerError, out.status)
	require.Equal(t, "expired in the queue: it has waited for 2s\n", out.body)
	require.Empty(t, f.children(t))
	patient := own.create(t, label(program("funcd/hello"), "funcd.warm", "0", "funcd.maxage", "1h"))
	require.Equal(t, "HelloWorld\n", patient.sync(t, "").body, "one that need not wait so long")
}
