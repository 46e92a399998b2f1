package runner

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
)

// What the runner empties between calls is this machine's, if the tests let it, and what is mounted there is the machine's matter.
func init() {
	mountInfo = "testdata/mountinfo"
	temporary = []string{filepath.Join(os.TempDir(), "funcd-runner-test-"+strconv.Itoa(os.Getpid())), "/does/not/exist"}
}

// waitingRoom is funcd for a container that waits for calls. Each request for one is answered by the next step, after the last with 410.
type waitingRoom struct {
	t     *testing.T
	steps []step

	mu      sync.Mutex
	at      int
	begins  []http.HandlerFunc // answer the first confirmations, the others are answered with 204
	polls   []string           // queries
	begun   []string           // queries
	order   []string           // "poll", "begin CALL", "result CALL"
	ends    string             // the call whose result is answered with the container's end
	results map[string]*api.Result
	outputs map[string]string
	polling chan struct{} // gets a value for each request for a call
}

// step is an answer to a request for a call: a call, or what the handler answers.
type step struct {
	call    *api.Assignment
	handler http.HandlerFunc
}

func newRoom(t *testing.T, steps ...step) *waitingRoom {
	return &waitingRoom{t: t, steps: steps, results: map[string]*api.Result{}, outputs: map[string]string{}, polling: make(chan struct{}, 100)}
}

// callOf is a call of the helper that must be confirmed.
func callOf(t *testing.T, id string, calls int, what string, args ...string) step {
	a := newFuncd(t, what, args...).assignment
	a.CallID, a.Confirm, a.Calls = id, true, calls
	return step{call: &a}
}

func (s step) env(variables ...string) step {
	s.call.Env = append(s.call.Env, variables...)
	return s
}

func (w *waitingRoom) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	call := r.URL.Query().Get("call")
	switch r.URL.Path {
	case api.RunnerNextPath:
		w.polls = append(w.polls, r.URL.RawQuery)
		w.order = append(w.order, "poll")
		w.polling <- struct{}{}
		s := step{handler: answer(http.StatusGone)}
		if w.at < len(w.steps) {
			s = w.steps[w.at]
			w.at++
		}
		w.mu.Unlock()
		if s.handler != nil {
			s.handler(rw, r.WithContext(context.WithValue(r.Context(), roomKey{}, w)))
			return
		}
		_ = api.WriteFrame(rw, s.call, []byte("in of "+s.call.CallID))
	case api.RunnerBeginPath:
		w.begun = append(w.begun, r.URL.RawQuery)
		w.order = append(w.order, "begin "+call)
		handler := answer(http.StatusNoContent)
		if len(w.begins) > 0 {
			handler, w.begins = w.begins[0], w.begins[1:]
		}
		w.mu.Unlock()
		handler(rw, r)
	case api.RunnerResultPath:
		var result api.Result
		stdout, err := api.ReadFrame(r.Body, &result, 1<<20)
		if err != nil {
			w.t.Error(err)
		}
		w.order = append(w.order, "result "+result.CallID)
		w.results[result.CallID], w.outputs[result.CallID] = &result, string(stdout)
		w.mu.Unlock()
		if result.CallID == w.ends {
			rw.WriteHeader(http.StatusResetContent)
			return
		}
		rw.WriteHeader(http.StatusNoContent)
	default:
		w.mu.Unlock()
		w.t.Errorf("a request for %s", r.URL)
		rw.WriteHeader(http.StatusNotFound)
	}
}

const slotQuery = "function=f&job=func-a-b%2Fdispatch-slot-1&revision=7"

// start runs a runner that waits for calls.
func (w *waitingRoom) start(change func(*Config)) *container {
	f := newFuncd(w.t, "")
	return f.startAt(w, func(cfg *Config) {
		cfg.Call, cfg.Function, cfg.Revision, cfg.Job = "", "f", "7", "func-a-b/dispatch-slot-1"
		if change != nil {
			change(cfg)
		}
	})
}

func TestSlotTakesACall(t *testing.T) {
	t.Parallel()
	w := newRoom(t, step{handler: answer(204)}, step{handler: answer(204)}, step{handler: answer(503)}, step{handler: breakOff}, callOf(t, "one", 1, "cat"))
	o := w.start(nil).wait(t)
	require.NoError(t, o.err)
	require.Zero(t, o.status)
	require.Equal(t, []string{"poll", "poll", "poll", "poll", "poll", "begin one", "result one"}, w.order, "it serves one call and ends")
	for _, query := range w.polls {
		require.Equal(t, slotQuery, query)
	}
	require.Equal(t, []string{"call=one&function=f"}, w.begun)
	require.Equal(t, "in of one", w.outputs["one"])
}

func TestConfirmation(t *testing.T) {
	t.Parallel()
	gone := answer(http.StatusGone)
	for name, c := range map[string]struct {
		begins []http.HandlerFunc
		order  string
		status int
		fails  bool
	}{
		"is refused, so the next call is asked for": {[]http.HandlerFunc{gone}, "poll begin one poll begin two result two", 0, false},
		"is refused twice":                          {[]http.HandlerFunc{gone, gone}, "poll begin one poll begin two poll", 0, false},
		"has to be repeated":                        {[]http.HandlerFunc{answer(503), breakOff, answer(500)}, "poll begin one begin one begin one begin one result one", 0, false},
		"is repeated and then refused":              {[]http.HandlerFunc{breakOff, gone}, "poll begin one begin one poll begin two result two", 0, false},
		"is an error":                               {[]http.HandlerFunc{answer(401)}, "poll begin one", 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newRoom(t, callOf(t, "one", 1, "cat"), callOf(t, "two", 1, "cat"))
			w.begins = c.begins
			o := w.start(nil).wait(t)
			require.Equal(t, c.fails, o.err != nil, "%v", o.err)
			require.Equal(t, c.status, o.status)
			require.Equal(t, c.order, strings.Join(w.order, " "))
			for id, result := range w.results {
				require.Equal(t, api.Exited, result.Outcome)
				require.Equal(t, "in of "+id, w.outputs[id])
			}
			if !strings.Contains(c.order, "result") {
				require.Empty(t, o.log, "nothing was run")
			}
		})
	}
}

func TestSlotThatIsNotNeededEnds(t *testing.T) {
	t.Parallel()
	w := newRoom(t, step{handler: answer(204)})
	o := w.start(nil).wait(t)
	require.NoError(t, o.err)
	require.Zero(t, o.status)
	require.Equal(t, []string{"poll", "poll"}, w.order)
}

func TestSlotGivesUpWithoutFuncd(t *testing.T) {
	t.Parallel()
	var away []step
	for range 100 {
		away = append(away, step{handler: answer(503)})
	}
	o := newRoom(t, away...).start(func(cfg *Config) { cfg.Patience = 50 * time.Millisecond }).wait(t)
	require.Error(t, o.err)
	require.Equal(t, api.RunnerGaveUp, o.status)
}

func TestReuseServesOneCallAfterAnother(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		calls []int // what each call says how many the container may serve
		want  int   // calls served
	}{
		"once":              {[]int{1, 1}, 1},
		"once by default":   {[]int{0, 0}, 1},
		"as many as may be": {[]int{3, 3, 3, 3, 3}, 3},
		"until told to end": {[]int{9, 9}, 2},
		"the last one says": {[]int{9, 2, 9}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var steps []step
			for i, calls := range c.calls {
				steps = append(steps, callOf(t, fmt.Sprint("c", i), calls, "cat"))
			}
			w := newRoom(t, steps...)
			o := w.start(nil).wait(t)
			require.NoError(t, o.err)
			var want []string
			for i := range c.want {
				id := fmt.Sprint("c", i)
				want = append(want, "poll", "begin "+id, "result "+id)
				require.Equal(t, "in of "+id, w.outputs[id])
			}
			if c.want == len(c.calls) && c.calls[0] > c.want {
				want = append(want, "poll")
			}
			require.Equal(t, want, w.order)
		})
	}
}

func TestReuseEndsWithACallThatWasCancelled(t *testing.T) {
	t.Parallel()
	w := newRoom(t, callOf(t, "one", 9, "cat"), callOf(t, "two", 9, "exit", "3"), callOf(t, "three", 9, "cat"))
	w.ends = "two"
	o := w.start(nil).wait(t)
	require.NoError(t, o.err)
	require.Equal(t, 3, o.status)
	require.Equal(t, []string{"poll", "begin one", "result one", "poll", "begin two", "result two"}, w.order)
}

// A container that was started for a call waits for others, if it may, as what it was started as.
func TestColdContainerWaitsForOthers(t *testing.T) {
	t.Parallel()
	first, second := callOf(t, "one", 2, "cat"), callOf(t, "two", 2, "cat")
	first.call.Confirm = false
	w := newRoom(t, first, second)
	o := w.start(func(cfg *Config) { cfg.Call = "one" }).wait(t)
	require.NoError(t, o.err)
	require.Equal(t, []string{"call=one&" + slotQuery, slotQuery}, w.polls)
	require.Equal(t, []string{"poll", "result one", "poll", "begin two", "result two"}, w.order)
}

func TestCallsOfOneContainerDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	w := newRoom(t,
		callOf(t, "one", 9, "env").env("SECRET=of one", "ONLY_ONE=1", "HOME=/one", "PATH=/nowhere"),
		callOf(t, "two", 9, "env").env("SECRET=of two"),
		callOf(t, "three", 9, "both"),
		callOf(t, "four", 9, "exit", "4"),
		callOf(t, "five", 9, "both"),
		callOf(t, "six", 9, "terminate"),
	)
	// The fifth fails to be started at all, the last runs into its Timeout.
	w.steps[4].call.Command = []string{"/no/such/file"}
	w.steps[5].call.Timeout = 50 * time.Millisecond
	o := w.start(nil).wait(t)
	require.NoError(t, o.err)
	one, two := strings.Split(w.outputs["one"], "\x00"), strings.Split(w.outputs["two"], "\x00")
	require.Contains(t, one, "SECRET=of one")
	require.Contains(t, one, "PATH=/nowhere")
	require.ElementsMatch(t, []string{"PATH=" + os.Getenv("PATH"), "HOME=/root", helperVariable + "=env", "SECRET=of two"}, two)
	require.Equal(t, "out", w.outputs["three"], "what was written before is another call's")
	require.Equal(t, "err", string(w.results["three"].Stderr))
	require.Equal(t, 4, w.results["four"].ExitCode)
	require.Equal(t, api.NoCommand, w.results["five"].Outcome)
	require.Empty(t, w.results["five"].Stderr)
	require.Equal(t, api.TimedOut, w.results["six"].Outcome)
	require.Len(t, w.results, 6, "a call that fails does not end the container")
	require.Equal(t, 128+int(unix.SIGTERM), o.status, "the last call's")
}

// It is not parallel: others empty the same folder.
func TestTemporaryFilesAreGone(t *testing.T) {
	dir, outside := temporary[0], t.TempDir()
	require.NoError(t, os.MkdirAll(dir, 0o700))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	kept := filepath.Join(outside, "kept")
	require.NoError(t, os.WriteFile(kept, nil, 0o600))
	w := newRoom(t, callOf(t, "one", 9, "leave", dir, outside), callOf(t, "two", 9, "leave", dir, outside))
	left := 0
	w.steps = append(w.steps, step{handler: func(rw http.ResponseWriter, _ *http.Request) {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 0 {
			t.Errorf("%v is left, %v", entries, err)
		}
		left++
		rw.WriteHeader(http.StatusGone)
	}})
	o := w.start(nil).wait(t)
	require.NoError(t, o.err)
	require.Equal(t, 1, left)
	require.Empty(t, w.outputs["one"])
	require.Empty(t, w.outputs["two"], "it finds nothing of the first")
	require.FileExists(t, kept, "a link is removed, not what it leads to")
	require.DirExists(t, dir)
}

// A container that serves one call leaves its files to whoever looks into it.
func TestTemporaryFilesOfALastCallStay(t *testing.T) {
	dir := temporary[0]
	require.NoError(t, os.MkdirAll(dir, 0o700))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o := newRoom(t, callOf(t, "one", 1, "leave", dir, "/")).start(nil).wait(t)
	require.NoError(t, o.err)
	require.FileExists(t, filepath.Join(dir, ".hidden"))
}

func TestSignalWhileASlotWaits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		signal os.Signal
		ends   bool
	}{
		"SIGTERM ends it":  {unix.SIGTERM, true},
		"SIGUSR1 ends it":  {unix.SIGUSR1, true},
		"SIGWINCH doesn't": {unix.SIGWINCH, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			goOn := make(chan struct{})
			w := newRoom(t, callOf(t, "one", 9, "cat"), step{handler: func(rw http.ResponseWriter, r *http.Request) {
				select {
				case <-r.Context().Done():
				case <-goOn:
				}
				rw.WriteHeader(http.StatusGone)
			}})
			running := w.start(nil)
			<-w.polling
			<-w.polling // the second is the one that is held
			running.signals <- c.signal
			if !c.ends {
				select {
				case <-running.done:
					require.FailNow(t, "it has ended")
				case <-time.After(50 * time.Millisecond):
				}
				close(goOn)
			}
			o := running.wait(t)
			require.NoError(t, o.err)
			require.Zero(t, o.status)
			require.Equal(t, []string{"poll", "begin one", "result one", "poll"}, w.order)
		})
	}
}

// A signal may come while a call is confirmed: it is the container's then, and runs. It is the last one.
func TestSignalWhileACallIsConfirmed(t *testing.T) {
	t.Parallel()
	confirming, goOn := make(chan struct{}), make(chan struct{})
	w := newRoom(t, callOf(t, "one", 9, "cat"), callOf(t, "two", 9, "cat"))
	w.begins = []http.HandlerFunc{func(rw http.ResponseWriter, _ *http.Request) {
		close(confirming)
		<-goOn
		rw.WriteHeader(http.StatusNoContent)
	}}
	running := w.start(nil)
	<-confirming
	running.signals <- unix.SIGTERM
	close(goOn)
	o := running.wait(t)
	require.NoError(t, o.err)
	require.Equal(t, []string{"poll", "begin one", "result one"}, w.order)
	require.Equal(t, "in of one", w.outputs["one"])
}

func TestSignalWhileACallRunsIsTheContainersEnd(t *testing.T) {
	t.Parallel()
	w := newRoom(t, callOf(t, "one", 9, "trap"), callOf(t, "two", 9, "cat"))
	running := w.start(nil)
	<-running.stderr.ready
	running.signals <- unix.SIGTERM
	o := running.wait(t)
	require.NoError(t, o.err)
	require.Equal(t, 7, o.status)
	require.Equal(t, api.Stopped, w.results["one"].Outcome)
	require.Equal(t, []string{"poll", "begin one", "result one"}, w.order, "its result is handed in, and no other call is asked for")
}

func TestSlotFromEnv(t *testing.T) {
	t.Parallel()
	cfg, err := FromEnv([]string{
		"FUNCD_ADDRESS=http://127.0.0.1:1", "NOMAD_TOKEN_funcd=t", "NOMAD_META_funcd_function=f", "NOMAD_META_funcd_revision=7",
		"NOMAD_JOB_ID=func-a-b/dispatch-slot-1", "NOMAD_META_slot=x", "NOMAD_META_call=", "PATH=/bin",
	})
	require.NoError(t, err)
	require.Equal(t, Config{
		Address: "http://127.0.0.1:1", Token: "t", Function: "f", Revision: "7", Job: "func-a-b/dispatch-slot-1",
		Patience: DefaultPatience, Environ: []string{"PATH=/bin"},
	}, cfg)
}
