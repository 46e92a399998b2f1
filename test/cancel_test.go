//go:build integration

package test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func (f *function) cancel(t *testing.T, call string) answer {
	t.Helper()
	return f.on.request(t, http.MethodDelete, f.path("call", call), "")
}

// requireCancelled waits for the call's end and wants it to have been cancelled.
func (f *function) requireCancelled(t *testing.T, call string) {
	t.Helper()
	out := f.wait(t, call)
	require.Equal(t, http.StatusInternalServerError, out.status, out.body)
	require.Equal(t, "cancelled\n", out.body)
	require.Equal(t, string(api.Cancelled), out.header.Get(api.ErrorHeader))
	require.Equal(t, "cancelled", last(f.eventsOf(t, call, api.Failed)).Message)
	f.awaitGone(t, call)
	require.Equal(t, http.StatusNotFound, f.output(t, call).status, "it is told once")
	require.Equal(t, http.StatusNotFound, f.cancel(t, call).status)
}

func TestCancelledCallThatRunsIsStopped(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args    []string
		signal  api.Signal
		timeout int
		stderr  string
	}{
		"by SIGTERM":                     {[]string{"signal", "120"}, "", 300, "signal 15\n"},
		"by its own StopSignal":          {[]string{"signal", "120"}, "SIGUSR1", 300, "signal 10\n"},
		"by SIGKILL if it does not obey": {[]string{"hold", "120"}, "", 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slow := cold(program("funcd-test/probe", c.args...))
			slow.Timeout, slow.Config.StopSignal = c.timeout, c.signal
			f := dev.create(t, slow)
			call := f.call(t, "")
			awaitSaid(t, containerOf(t, f.allocationOf(t, call).ID), "ready")
			require.Equal(t, http.StatusNoContent, f.cancel(t, call).status)
			require.Contains(t, []int{http.StatusNoContent, http.StatusNotFound}, f.cancel(t, call).status)
			f.requireCancelled(t, call)
			events := f.eventsOf(t, call, api.Failed)
			require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FAILED"}, kinds(events))
			require.Equal(t, c.stderr, last(events).ShortStderr)
			require.Less(t, took(events, api.Running, api.Failed), 100*time.Second)
			require.NoError(t, noContainers([]string{f.allocationOf(t, call).ID}))
			require.Len(t, f.children(t), 1)
		})
	}
}

func TestCancelledCallThatHasEndedStaysAsItIs(t *testing.T) {
	t.Parallel()
	f := dev.create(t, program("funcd/hello"))
	call := f.call(t, "")
	f.eventsOf(t, call, api.Finished)
	a := f.cancel(t, call)
	require.Equal(t, http.StatusConflict, a.status)
	require.Equal(t, "the call has ended: FINISHED\n", a.body)
	require.Equal(t, "HelloWorld\n", f.wait(t, call).body)
	f.awaitGone(t, call)
	require.Equal(t, http.StatusNotFound, f.cancel(t, call).status)
}

// TestCancelledCallThatWaitsNeverStarts has a funcd of its own, for its quota of one.
func TestCancelledCallThatWaitsNeverStarts(t *testing.T) {
	t.Parallel()
	o := beside("cancel")
	o.config += "quota = 1\n"
	own := startOwn(t, "cancel", o)
	f := own.create(t, cold(program("funcd/sleep", "120")))
	hello := own.create(t, cold(program("funcd/hello")))
	running := f.call(t, "")
	f.eventsOf(t, running, api.Running)
	waiting, next := f.call(t, ""), hello.call(t, "")
	require.Equal(t, http.StatusAccepted, f.output(t, waiting).status)
	require.Equal(t, http.StatusNoContent, f.cancel(t, waiting).status)
	f.requireCancelled(t, waiting)
	require.Equal(t, http.StatusCreated, f.output(t, running).status)
	require.Equal(t, http.StatusNoContent, f.cancel(t, running).status)
	f.requireCancelled(t, running)
	out := hello.wait(t, next)
	require.Equal(t, http.StatusOK, out.status, out.body)
	require.Len(t, f.children(t), 1, "of the running one")
}

// A container that is reused serves nobody after a call that was cancelled: the next one would be stopped in its place.
func TestCancelHitsNoOtherCallOfAReusedContainer(t *testing.T) {
	t.Parallel()
	own := startOwn(t, "cancel-reuse", beside("cancel-reuse"))
	f := own.create(t, label(program("funcd/sleep", "0.2"), "funcd.warm", "2", "funcd.reuse", "true"))
	f.awaitReady(t, 2)
	const calls = 24
	answers := make([]answer, calls)
	var all sync.WaitGroup
	cancelled := 0
	for i := range calls {
		id := f.call(t, "")
		if i%3 == 0 {
			// At any moment of its life, also as its process ends.
			time.Sleep(time.Duration(i) * 20 * time.Millisecond)
			if a := f.cancel(t, id); a.status == http.StatusNoContent {
				cancelled++
				all.Go(func() { f.requireCancelled(t, id) })
				continue
			} else {
				require.Equal(t, http.StatusConflict, a.status, a.body)
			}
		}
		all.Go(func() { answers[i] = f.wait(t, id) })
	}
	all.Wait()
	require.NotZero(t, cancelled)
	for _, a := range answers {
		if a.status != 0 {
			require.Equal(t, http.StatusOK, a.status, a.body)
			require.Equal(t, "slept for 0.2 seconds\n", a.body)
			cancelled++
		}
	}
	require.Equal(t, calls, cancelled)
}

// TestRemoveByForceCancelsTheCalls has a funcd of its own, for its quota.
func TestRemoveByForceCancelsTheCalls(t *testing.T) {
	t.Parallel()
	o := beside("force")
	o.config += "quota = 3\n"
	own := startOwn(t, "force", o)
	f := own.create(t, cold(program("funcd/sleep", "300")))
	hello := own.create(t, cold(program("funcd/hello")))
	var calls []string
	answers := make([]answer, 30)
	var waiting sync.WaitGroup
	for i := range answers {
		call := f.call(t, "")
		calls = append(calls, call)
		waiting.Go(func() { answers[i] = f.wait(t, call) })
	}
	other := hello.call(t, "")
	for _, call := range calls[:3] {
		f.eventsOf(t, call, api.Running)
	}
	require.Equal(t, http.StatusConflict, own.request(t, http.MethodDelete, "/funcs/"+f.Name, "").status)
	containers := f.allocationsOf(t, f.live(t))
	require.Len(t, containers, 3)

	require.NoError(t, own.ForceRemoveFunction(t.Context(), f.Name))
	waiting.Wait()
	for _, a := range answers {
		require.Equal(t, http.StatusInternalServerError, a.status, a.body)
		require.Contains(t, a.body, "cancelled")
	}
	require.NoError(t, noContainers(containers))
	require.Empty(t, f.dispatches(t))
	require.Equal(t, http.StatusNotFound, request(t, http.MethodGet, own.nomad+jobOf(f.job()), "").status)
	require.Equal(t, http.StatusNotFound, f.output(t, calls[0]).status)
	require.Equal(t, http.StatusNotFound, own.request(t, http.MethodDelete, "/funcs/"+f.Name+"?force=1", "").status)
	require.Equal(t, "HelloWorld\n", hello.wait(t, other).body)
}
