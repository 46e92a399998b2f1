package scheduler

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestOutcomes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		result  api.Result
		output  int // bytes
		code    api.Code
		message string
	}{
		"exit status 0":            {api.Result{Outcome: api.Exited}, testOutput, "", ""},
		"exit status 3":            {api.Result{Outcome: api.Exited, ExitCode: 3}, 9, api.CallFailed, "exit status 3"},
		"killed":                   {api.Result{Outcome: api.Signaled, Signal: 9}, 0, api.CallFailed, "killed by signal 9 (SIGKILL)"},
		"a crash":                  {api.Result{Outcome: api.Signaled, Signal: 11}, 0, api.CallFailed, "killed by signal 11 (SIGSEGV)"},
		"out of memory":            {api.Result{Outcome: api.OutOfMemory, Signal: 9}, 0, api.CallFailed, "out of memory"},
		"timeout":                  {api.Result{Outcome: api.TimedOut, Signal: 15}, 0, api.CallTimeout, "timeout: it ran longer than 10 s"},
		"timeout that it survived": {api.Result{Outcome: api.TimedOut}, 0, api.CallTimeout, "timeout: it ran longer than 10 s"},
		"over its output":          {api.Result{Outcome: api.OverOutput}, 0, api.OutputTooLarge, "the output is over its limit"},
		"more than is kept":        {api.Result{Outcome: api.Exited}, testOutput + 1, api.OutputTooLarge, "the output is over its limit"},
		"failed with much output":  {api.Result{Outcome: api.Exited, ExitCode: 1}, testOutput + 1, api.CallFailed, "exit status 1"},
		"no command": {api.Result{Outcome: api.NoCommand, ExitCode: 127, Message: "nope"}, 0, api.CallFailed,
			"entrypoint not found: nope"},
		"not startable": {api.Result{Outcome: api.NotStartable, ExitCode: 126, Message: "permission denied"}, 0, api.CallFailed,
			"the command can't be started: permission denied"},
		"stopped": {api.Result{Outcome: api.Stopped, Signal: 15}, 0, api.CallFailed,
			"the container was stopped in Nomad while the function ran"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				call := k.running()
				output := strings.Repeat("x", c.output)
				c.result.CallID, c.result.Function = call, "f1"
				c.result.Started = time.Now().Add(-time.Minute)
				c.result.Ended = time.Now().Add(-time.Second)
				require.NoError(t, k.s.Report(t.Context(), alloc(1), &c.result, []byte(output)))
				rec := k.record(call)
				require.Equal(t, c.result.Started, rec.Started, "the times are the runner's")
				require.Equal(t, c.result.Ended, rec.Ended)
				require.Equal(t, c.result.ExitCode, rec.ExitCode)
				if c.code == "" {
					k.requireFinished(call, output)
					return
				}
				k.requireFailed(call, c.code, c.message)
				require.Empty(t, k.store.outputs)
			})
		})
	}
}

func TestAResultOfAProcessThatNeverStarted(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.running()
		taken := k.record(call).Started
		time.Sleep(time.Second)
		result := &api.Result{CallID: call, Function: "f1", Outcome: api.NoCommand, Message: "nope"}
		require.NoError(t, k.s.Report(t.Context(), alloc(1), result, nil))
		require.Equal(t, taken, k.record(call).Started)
		require.Equal(t, time.Now(), k.record(call).Ended)
	})
}

func TestReportsThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, report := range map[string]func(k *stack, call string) error{
		"another container's":  func(k *stack, call string) error { return k.report(2, call, 0, "out") },
		"an unknown call's":    func(k *stack, _ string) error { return k.report(1, "none", 0, "out") },
		"another function's":   func(k *stack, call string) error { return k.reportAs("f2", call) },
		"of a call nobody has": func(k *stack, _ string) error { return k.report(1, k.submit(), 0, "out") },
		"a second one": func(k *stack, call string) error {
			require.NoError(k.t, k.report(1, call, 3, ""))
			return k.report(1, call, 0, "out")
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				call := k.running()
				requireCode(t, api.Expired, report(k, call))
				require.Empty(t, k.store.outputs)
				require.NotContains(t, k.events(call), string(api.Finished))
				require.NotEqual(t, api.Finished, k.record(call).State)
			})
		})
	}
}

func (k *stack) reportAs(function, call string) error {
	return k.s.Report(k.t.Context(), alloc(1), &api.Result{CallID: call, Function: function, Outcome: api.Exited}, nil)
}

func TestAReportThatIsNotStoredComesAgain(t *testing.T) {
	t.Parallel()
	for _, operation := range []string{"Record", "SaveOutput", "SaveRecord"} {
		t.Run(operation, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				call := k.running()
				k.store.failing(func(o string) error {
					if o == operation {
						return api.Errorf(api.Unavailable, "away")
					}
					return nil
				})
				requireCode(t, api.Unavailable, k.report(1, call, 0, "out"))
				k.store.failing(nil)
				require.Equal(t, api.Running, k.record(call).State)
				require.NoError(t, k.report(1, call, 0, "out"))
				k.requireFinished(call, "out")
			})
		})
	}
}

func TestAReportCountsThoughItsCallStaysInTheQueue(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.running()
		k.store.failing(func(operation string) error {
			if operation == "Done" {
				return api.Errorf(api.Unavailable, "away")
			}
			return nil
		})
		require.NoError(t, k.report(1, call, 0, "out"))
		rec, output, err := k.s.Output(t.Context(), k.d, call, true)
		require.NoError(t, err)
		require.Equal(t, "out", string(output))
		require.Equal(t, []string{call}, k.waiting())
		k.store.failing(nil)
		time.Sleep(2 * time.Second) // it is given back and delivered again
		synctest.Wait()
		require.Empty(t, k.waiting())
		require.Equal(t, []string{call}, k.dispatched())
		require.Equal(t, rec, k.record(call))
	})
}

func TestWhoGetsACall(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		for _, job := range []string{"func-acme-hell", "func-acme", "func-acme-other", ""} {
			_, _, err := k.s.Next(t.Context(), api.Allocation{ID: "alloc-9", Job: job}, "f1", call)
			requireCode(t, api.Expired, err)
			require.Equal(t, "there is no call for this container", err.(*api.Error).Message)
		}
		codes := make(chan api.Code, 10)
		for i := range 10 {
			go func() {
				_, _, err := k.s.Next(t.Context(), alloc(i), "f1", call)
				codes <- api.CodeOf(err)
			}()
		}
		count := map[api.Code]int{}
		for range 10 {
			count[<-codes]++
		}
		require.Equal(t, map[api.Code]int{"": 1, api.Expired: 9}, count)

		rec := k.record(call)
		first, payload, err := k.s.Next(t.Context(), api.Allocation{ID: rec.Allocation, Job: "func-acme-hello", Account: "acme", Name: "hello"}, "f1", call)
		require.NoError(t, err, "its answer may have been lost")
		require.Equal(t, call, first.CallID)
		require.Equal(t, "in", string(payload))
		require.Equal(t, rec, k.record(call))
		require.Equal(t, []string{"CALL", "PENDING", "RUNNING"}, k.events(call))
	})
}

func TestATakeThatIsNotStoredIsNoTake(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		k.store.failing(func(operation string) error {
			if operation == "SaveRecord" {
				return api.Errorf(api.Unavailable, "away")
			}
			return nil
		})
		_, err := k.take(1, call)
		requireCode(t, api.Unavailable, err)
		require.Equal(t, []string{"CALL", "PENDING"}, k.events(call))
		k.store.failing(nil)
		_, err = k.take(2, call)
		require.NoError(t, err)
	})
}

func TestNextWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		const id = "8c1e52b2-0000-4000-8000-000000000001"
		_, _, err := k.s.Next(t.Context(), alloc(1), "f1", id)
		requireCode(t, api.Expired, err) // no such call: it is over

		require.NoError(t, k.store.Enqueue(t.Context(), &api.Call{ID: id, Function: "f1", Name: "hello", Account: "acme"}))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		_, _, err = k.s.Next(ctx, alloc(1), "f1", id)
		requireCode(t, api.NotFound, err)
		require.Equal(t, 3*time.Second, time.Since(begin))

		got := make(chan error, 1)
		go func() {
			_, _, err := k.s.Next(t.Context(), alloc(1), "f1", id)
			got <- err
		}()
		time.Sleep(time.Second)
		require.NoError(t, k.s.Serve(t.Context(), "acme"))
		require.NoError(t, <-got)
	})
}

func TestStopSignals(t *testing.T) {
	t.Parallel()
	for signal, want := range map[api.Signal]struct {
		number    int
		killAfter time.Duration
	}{
		"SIGTERM": {15, 10 * time.Second},
		"INT":     {2, 10 * time.Second},
		"3":       {3, 10 * time.Second},
		"SIGKILL": {9, 0},
		"9":       {9, 0},
	} {
		t.Run(string(signal), func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				k.d.Function.Config.StopSignal = signal
				assignment, err := k.take(1, k.submit())
				require.NoError(t, err)
				require.Equal(t, want.number, assignment.StopSignal)
				require.Equal(t, want.killAfter, assignment.KillAfter)
			})
		})
	}
}

func TestOutputWaits(t *testing.T) {
	t.Parallel()
	t.Run("until the call has ended", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			const waiters = 20
			outputs := make(chan string, waiters)
			for range waiters {
				go func() {
					_, output, err := k.s.Output(t.Context(), k.d, call, true)
					if err != nil {
						output = []byte(err.Error())
					}
					outputs <- string(output)
				}()
			}
			_, err := k.take(1, call)
			require.NoError(t, err)
			require.Empty(t, outputs)
			reported := time.Now()
			require.NoError(t, k.report(1, call, 0, "out"))
			for range waiters {
				require.Equal(t, "out", <-outputs)
			}
			require.Equal(t, reported, time.Now(), "they were told at once")
			for _, waiting := range k.store.waiters {
				require.Empty(t, waiting)
			}
		})
	})
	t.Run("until its context ends", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			errGone := errors.New("gone")
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errGone)
			defer cancel()
			rec, _, err := k.s.Output(ctx, k.d, call, true)
			requireCode(t, api.Unavailable, err)
			require.ErrorIs(t, err, errGone)
			require.Equal(t, api.Pending, rec.State)
		})
	})
	t.Run("though the word of its end is lost", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.running()
			k.store.failing(func(operation string) error {
				if operation == "NotifyEnd" {
					return errors.New("lost")
				}
				return nil
			})
			go func() {
				time.Sleep(time.Second)
				if err := k.s.Report(t.Context(), alloc(1), &api.Result{CallID: call, Function: "f1", Outcome: api.Exited}, []byte("out")); err != nil {
					t.Error(err)
				}
			}()
			_, output, err := k.s.Output(t.Context(), k.d, call, true)
			require.NoError(t, err)
			require.Equal(t, "out", string(output))
			// Its owner has not heard of it either and would fail it, if the result did not win.
			time.Sleep(time.Hour)
			synctest.Wait()
			k.requireFinished(call, "out")
		})
	})
}

func TestOutputErrors(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		_, _, err := k.s.Output(t.Context(), k.d, "none", true)
		requireCode(t, api.NotFound, err)

		call := k.running()
		other := testFunction()
		other.ID = "f2"
		_, _, err = k.s.Output(t.Context(), &other, call, true)
		requireCode(t, api.NotFound, err)

		require.NoError(t, k.report(1, call, 0, "out"))
		k.store.mu.Lock()
		clear(k.store.outputs)
		k.store.mu.Unlock()
		rec, _, err := k.s.Output(t.Context(), k.d, call, true)
		requireCode(t, api.Expired, err)
		require.Equal(t, api.Finished, rec.State, "it is to be removed like one that was fetched")

		for _, operation := range []string{"Record", "Output"} {
			k.store.failing(func(o string) error {
				if o == operation {
					return api.Errorf(api.Unavailable, "away")
				}
				return nil
			})
			_, _, err = k.s.Output(t.Context(), k.d, call, true)
			requireCode(t, api.Unavailable, err)
		}
	})
}

// A Nomad client that finds a container gone after its own restart starts another in the same allocation, with the same token.
func TestASecondContainerOfTheSameAllocationGetsNoCall(t *testing.T) {
	t.Parallel()
	named := func(name string) api.Allocation {
		a := alloc(1)
		a.Runner = name
		return a
	}
	t.Run("that has one", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			for range 2 {
				assignment, _, err := k.s.Next(t.Context(), named("first"), "f1", call)
				require.NoError(t, err, "an answer that was lost is given again")
				require.Equal(t, call, assignment.CallID)
			}
			_, _, err := k.s.Next(t.Context(), named("second"), "f1", call)
			requireCode(t, api.Expired, err)
			synctest.Wait()
			k.requireFailed(call, api.CallFailed, "the container of the call is gone, Nomad has started another in its place")
			require.Equal(t, []string{k.record(call).Job}, k.cluster.stopped)
		})
	})
	t.Run("that has one, after a restart of the server", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			_, _, err := k.s.Next(t.Context(), named("first"), "f1", call)
			require.NoError(t, err)
			k.restart()
			_, _, err = k.s.Next(t.Context(), named("second"), "f1", call)
			requireCode(t, api.Expired, err)
			synctest.Wait()
			k.requireFailed(call, api.CallFailed, "the container of the call is gone, Nomad has started another in its place")
		})
	})
	t.Run("whose result is on its way", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			_, _, err := k.s.Next(t.Context(), named("first"), "f1", call)
			require.NoError(t, err)
			result := &api.Result{CallID: call, Function: "f1", Outcome: api.Exited}
			require.NoError(t, k.s.Report(t.Context(), named("first"), result, []byte("out")))
			_, _, err = k.s.Next(t.Context(), named("second"), "f1", call)
			requireCode(t, api.Expired, err)
			k.requireFinished(call, "out")
		})
	})
	t.Run("that has not asked yet", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			_, _, err := k.s.Next(t.Context(), named("second"), "f1", call)
			require.NoError(t, err)
		})
	})
	t.Run("that confirms what the first was handed", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			slot := k.slot(1)
			call := k.submit()
			require.NoError(t, (<-slot).err)
			require.NoError(t, k.s.Begin(t.Context(), named("first"), "f1", call))
			requireCode(t, api.Expired, k.s.Begin(t.Context(), named("second"), "f1", call))
		})
	})
}
