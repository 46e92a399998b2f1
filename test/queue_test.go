//go:build integration

package test

import (
	"fmt"
	"net/http"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// TestQuotaBoundsTheCallsAtOnce has a funcd of its own, so that no other test draws on its quota.
func TestQuotaBoundsTheCallsAtOnce(t *testing.T) {
	t.Parallel()
	const quota, calls = 10, 12
	own := startOwn(t, "quota", beside("quota"))
	f := own.create(t, cold(program("funcd-test/probe", "ready")))
	ids := make([]string, calls)
	for i := range ids {
		ids[i] = f.call(t, "")
	}
	for i, id := range ids {
		// Those before it have ended. It and those after it run until they are told to end, as many as may, and the others wait.
		last := min(i+quota, calls)
		for _, runs := range ids[i:last] {
			f.eventsOf(t, runs, api.Running)
		}
		require.Len(t, f.children(t), last)
		for _, waits := range ids[last:] {
			require.Equal(t, http.StatusAccepted, f.output(t, waits).status, "it is over the quota")
		}
		container := containerOf(t, f.allocationOf(t, id).ID)
		awaitSaid(t, container, "ready")
		docker(t, "", "kill", "--signal", "USR1", container)
		out := f.wait(t, id)
		require.Equal(t, http.StatusOK, out.status, out.body)
	}
	running, together := 0, 0
	for _, e := range f.events(t, "") {
		switch e.Event {
		case string(api.Running):
			running++
		case string(api.Finished):
			running--
		}
		together = max(together, running)
	}
	require.LessOrEqual(t, together, quota)
	require.Len(t, f.children(t), calls)
}

func TestCallsStartInTheOrderOfTheirArrival(t *testing.T) {
	t.Parallel()
	o := beside("order")
	o.config += "quota = 1\n"
	own := startOwn(t, "order", o)
	a, b := own.create(t, program("funcd/upper")), own.create(t, program("funcd/hello"))
	var want, started []string
	for range 3 {
		want = append(want, a.call(t, "x"), b.call(t, ""))
	}
	events := []api.Event{}
	for i, id := range want {
		f := []*function{a, b}[i%2]
		out := f.wait(t, id)
		require.Equal(t, http.StatusOK, out.status, out.body)
		events = append(events, f.eventsOf(t, id, api.Finished)...)
	}
	slices.SortStableFunc(events, func(a, b api.Event) int { return a.Time.Compare(b.Time.Time) })
	running := ""
	for _, e := range events {
		switch e.Event {
		case string(api.Running):
			require.Empty(t, running, "one at a time")
			running = e.CallID
			started = append(started, e.CallID)
		case string(api.Finished):
			require.Equal(t, running, e.CallID)
			running = ""
		}
	}
	require.Equal(t, want, started)
}

func TestFullQueueRefusesAndLosesNothing(t *testing.T) {
	t.Parallel()
	o := beside("full")
	o.config += "quota = 1\nlimits {\n  queued_calls = 2\n}\n"
	own := startOwn(t, "full", o)
	f := own.create(t, cold(program("funcd-test/probe", "ready"))) // it ends when it is told to
	first, second := f.call(t, ""), f.call(t, "")
	refused := own.request(t, http.MethodPost, f.path("call"), "")
	require.Equal(t, http.StatusServiceUnavailable, refused.status)
	require.Contains(t, refused.body, "the queue is full")
	require.Equal(t, "2", refused.header.Get("Retry-After"))
	refused = f.sync(t, "")
	require.Equal(t, http.StatusServiceUnavailable, refused.status)
	require.Equal(t, "2", refused.header.Get("Retry-After"))
	for _, id := range []string{first, second} {
		f.eventsOf(t, id, api.Running)
		container := containerOf(t, f.allocationOf(t, id).ID)
		awaitSaid(t, container, "ready")
		docker(t, "", "kill", "--signal", "USR1", container)
		require.Equal(t, http.StatusOK, f.wait(t, id).status)
	}
	require.Equal(t, "HelloWorld\n", own.create(t, program("funcd/hello")).sync(t, "").body, "there is room again")
}

// TestCallsSurviveTheEndOfFuncd ends funcd while calls run and wait, lets those that run come to their end, and starts it again.
func TestCallsSurviveTheEndOfFuncd(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const quota, calls = 2, 5
			o := beside(name)
			o.config += "quota = 2\n"
			own := startOwn(t, name, o)
			f := own.create(t, cold(program("funcd-test/probe", "ready")))
			ids := make([]string, calls)
			for i := range ids {
				ids[i] = f.call(t, fmt.Sprintln("of call", i))
			}
			running := func(call string) (container string) {
				f.eventsOf(t, call, api.Running)
				container = containerOf(t, f.allocationOf(t, call).ID)
				awaitSaid(t, container, "ready")
				return container
			}
			containers := make([]string, quota)
			for i := range containers {
				containers[i] = running(ids[i])
			}
			if signal == syscall.SIGKILL {
				require.NoError(t, own.kill())
			} else {
				require.NoError(t, own.stop(signal))
			}
			for i, container := range containers {
				docker(t, "", "kill", "--signal", "USR1", container)
				awaitSaid(t, container, fmt.Sprintln("of call", i))
				require.Equal(t, "true\n", docker(t, "", "inspect", "--format", "{{.State.Running}}", container), "its result waits for funcd")
			}
			require.Len(t, f.children(t), quota)

			f.on = startOwn(t, name, o)
			for i, id := range ids {
				if i >= quota {
					docker(t, "", "kill", "--signal", "USR1", running(id))
				}
				out := f.wait(t, id)
				require.Equal(t, http.StatusOK, out.status, out.body)
				require.Equal(t, fmt.Sprintf("ready\nof call %d\n", i), out.body)
				require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, kinds(f.eventsOf(t, id, api.Finished)), "it ran once")
				f.awaitGone(t, id)
				require.Equal(t, http.StatusNotFound, f.output(t, id).status)
			}
			require.Len(t, f.children(t), calls, "one job for each call")
		})
	}
}
