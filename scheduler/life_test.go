package scheduler

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestACallThatEndsWell(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		require.Equal(t, []string{call}, k.dispatched())
		rec, output, err := k.s.Output(t.Context(), k.d, call, false)
		require.NoError(t, err)
		require.Nil(t, output)
		require.Equal(t, api.Record{CallID: call, Function: "f1", Name: "hello", Account: "acme", State: api.Pending, Accepted: rec.Accepted}, rec)

		assignment, payload, err := k.s.Next(t.Context(), alloc(1), "f1", call)
		require.NoError(t, err)
		require.Equal(t, "in", string(payload))
		require.Equal(t, &api.Assignment{
			CallID: call, Function: "f1", Command: []string{"/bin/env", "cat"},
			Env: []string{"A=request", "HTTP_B=b", "A=function"}, // the function's own wins, as the later one
			Tty: true, Timeout: testTimeout * time.Second, StopSignal: 15, KillAfter: testTimeout * time.Second, MaxOutput: testOutput, Calls: 1,
		}, assignment)
		rec, _, err = k.s.Output(t.Context(), k.d, call, false)
		require.NoError(t, err)
		require.Equal(t, api.Running, rec.State)
		require.Equal(t, k.job(call), rec.Job)
		require.Equal(t, "alloc-1", rec.Allocation)
		require.Equal(t, testTimeout, rec.Timeout)
		require.Equal(t, []string{call}, k.waiting(), "it holds its place until it has ended")

		started := time.Now()
		time.Sleep(time.Second)
		result := &api.Result{CallID: call, Function: "f1", Outcome: api.Exited, Started: started, Ended: time.Now(), Stderr: []byte("err")}
		require.NoError(t, k.s.Report(t.Context(), alloc(1), result, []byte("out")))
		k.requireFinished(call, "out")
		require.Empty(t, k.waiting())
		rec = k.record(call)
		require.Equal(t, time.Second, rec.Ended.Sub(rec.Started))
		require.Empty(t, k.stopped(), "a container that has reported ends by itself")
		require.Equal(t, []string{call}, k.dispatched())
		require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, k.events(call))
		require.Equal(t, "in", k.store.events[0].ShortStdin)
		require.Equal(t, "out", k.store.events[3].ShortStdout)
		require.Equal(t, "err", k.store.events[3].ShortStderr)

		require.NoError(t, k.s.Delivered(t.Context(), rec))
		_, _, err = k.s.Output(t.Context(), k.d, call, true)
		requireCode(t, api.NotFound, err)
	})
}

func TestAFullQueueIsSaidInTheEvents(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.store.failing(func(operation string) error {
			if operation == "Enqueue" {
				return api.Errorf(api.Unavailable, "the queue is full, try again later")
			}
			return nil
		})
		_, err := k.s.Submit(t.Context(), k.d, nil, nil)
		requireCode(t, api.Unavailable, err)
		require.Equal(t, []string{"CALL", "PENDING", "FAILED: not accepted: the queue is full, try again later"},
			k.events(k.store.events[0].CallID))
		for range 100 {
			_, err := k.s.Submit(t.Context(), k.d, nil, nil)
			requireCode(t, api.Unavailable, err)
			time.Sleep(refusedTime / 2)
		}
		require.Len(t, k.store.events, 3, "an overload leaves the log as it was")
		k.store.failing(nil)
		call := k.submit()
		require.ElementsMatch(t, []string{"CALL", "PENDING"}, k.events(call))
		require.Equal(t, []string{call}, k.dispatched())
	})
}

func TestTheQuotaHoldsCallsBack(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		var calls []string
		for range testQuota + 2 {
			calls = append(calls, k.submit())
		}
		require.Equal(t, calls[:testQuota], k.dispatched())
		_, err := k.take(2, calls[2])
		require.NoError(t, err)
		require.NoError(t, k.report(2, calls[2], 0, ""))
		require.Equal(t, calls[:testQuota+1], k.dispatched())
	})
}

func TestTheClusterIsAway(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		away := true
		k.cluster.dispatch = func(string) error {
			if away {
				return api.Errorf(api.Unavailable, "Nomad does not answer")
			}
			return nil
		}
		call := k.submit()
		time.Sleep(time.Minute)
		synctest.Wait()
		rec, _, err := k.s.Output(t.Context(), k.d, call, false)
		require.NoError(t, err)
		require.Equal(t, api.Pending, rec.State)
		require.Equal(t, "Nomad does not answer", rec.Message)
		require.Equal(t, []string{"CALL", "PENDING", "PENDING: Nomad does not answer"}, k.events(call), "it is said once")
		tries := len(k.dispatched())
		require.Greater(t, tries, 60/5)
		require.Less(t, tries, 30)

		k.cluster.mu.Lock()
		away = false
		k.cluster.mu.Unlock()
		time.Sleep(5 * time.Second) // the longest wait between two tries
		synctest.Wait()
		require.Len(t, k.dispatched(), tries+1)
		_, err = k.take(1, call)
		require.NoError(t, err)
		require.Empty(t, k.record(call).Message, "it does not wait any more")
		require.NoError(t, k.report(1, call, 0, "out"))
		k.requireFinished(call, "out")
		require.Empty(t, k.registered())
	})
}

func TestDispatchErrors(t *testing.T) {
	t.Parallel()
	notFound := api.Errorf(api.NotFound, "no such job")
	invalid := api.Errorf(api.Invalid, "the payload is no good")
	for name, c := range map[string]struct {
		dispatch   []error // of the first ones
		register   error
		registered int
		failed     string // the call's message, or empty if it gets its container
	}{
		"none":                              {nil, nil, 0, ""},
		"a function that the cluster lost":  {[]error{notFound}, nil, 1, ""},
		"an invalid dispatch":               {[]error{invalid}, nil, 0, "the payload is no good"},
		"an invalid function":               {[]error{notFound}, api.Errorf(api.Invalid, "no such size"), 1, "no such size"},
		"one that goes back to the queue":   {[]error{api.Errorf(api.Internal, "a fault")}, nil, 0, ""},
		"one that goes back more than once": {[]error{notFound, notFound, notFound, notFound}, nil, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				k.cluster.register = func() error { return c.register }
				k.cluster.dispatch = func(string) error {
					if n := len(k.cluster.dispatched); n <= len(c.dispatch) {
						return c.dispatch[n-1]
					}
					return nil
				}
				call := k.submit()
				time.Sleep(2500 * time.Millisecond) // a call that goes back comes again after a second
				synctest.Wait()
				require.Len(t, k.registered(), c.registered)
				if c.failed != "" {
					k.requireFailed(call, api.CallFailed, c.failed)
					return
				}
				require.Len(t, k.dispatched(), len(c.dispatch)+1)
				_, err := k.take(1, call)
				require.NoError(t, err)
			})
		})
	}
}

func TestADispatchThatNeverFindsItsFunctionIsNoLoop(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.cluster.dispatch = func(string) error { return api.Errorf(api.NotFound, "no such job") }
		call := k.submit()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.LessOrEqual(t, len(k.dispatched()), 2*11)
		require.Equal(t, []string{call}, k.waiting())
	})
}

func TestARemovedFunction(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.functions.failing(api.Errorf(api.Unavailable, "Consul does not answer"))
		call := k.submit()
		require.Equal(t, []string{call}, k.waiting(), "unreachable is not removed")
		k.functions.failing(api.Errorf(api.NotFound, "no such function"))
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		k.requireFailed(call, api.Cancelled, "cancelled: the function was removed")
		require.Empty(t, k.dispatched())
	})
}

func TestWhatTheClusterSays(t *testing.T) {
	t.Parallel()
	type says = api.JobStatus
	for name, c := range map[string]struct {
		taken   bool // before
		status  []says
		code    api.Code // empty for a call that goes on
		message string
		events  []string // after CALL and PENDING
	}{
		"there is no place": {false, []says{{Waiting: "no capacity: memory"}}, "", "no capacity: memory",
			[]string{"PENDING: no capacity: memory"}},
		"there is no place, twice": {false, []says{{Waiting: "no capacity"}, {Waiting: "no capacity", Node: "n"}}, "", "no capacity",
			[]string{"PENDING: no capacity"}},
		"there is none, for another reason": {false, []says{{Waiting: "no capacity"}, {Waiting: "no node"}}, "", "no node",
			[]string{"PENDING: no capacity", "PENDING: no node"}},
		"it has a place":                        {false, []says{{Allocation: "alloc-1", Running: true}}, "", "", nil},
		"another container before it was taken": {false, []says{{Allocation: "alloc-1"}, {Allocation: "alloc-2"}}, "", "", nil},
		"it never starts": {false, []says{{Allocation: "alloc-1", Ended: true, Code: api.CallFailed, Message: "no such image: x"}},
			api.CallFailed, "no such image: x", []string{"FAILED: no such image: x"}},
		"its container runs": {true, []says{{Allocation: "alloc-1", Running: true}}, "", "", []string{"RUNNING"}},
		"its container has ended": {true, []says{{Allocation: "alloc-1", Ended: true, Code: api.CallFailed, Message: "out of memory"}},
			api.CallFailed, "out of memory", []string{"RUNNING", "FAILED: out of memory"}},
		"its container was started, and Docker killed before Nomad heard of it": {true,
			[]says{{Allocation: "alloc-1", Ended: true, Another: true, Code: api.CallFailed, Message: notStarted + "Docker is away"}},
			api.CallFailed, "the container is lost: Docker is away", []string{"RUNNING", "FAILED: the container is lost: Docker is away"}},
		"its container has ended well, without a result": {true, []says{{Allocation: "alloc-1", Ended: true}},
			api.CallFailed, "the container ended without a result", []string{"RUNNING", "FAILED: the container ended without a result"}},
		"its container was replaced": {true, []says{{Allocation: "alloc-2"}}, api.CallFailed, "node lost: the container of the call is gone",
			[]string{"RUNNING", "FAILED: node lost: the container of the call is gone"}},
		"a place is waited for after it was taken": {true, []says{{Waiting: "no capacity"}}, "", "", []string{"RUNNING"}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				call := k.submit()
				if c.taken {
					_, err := k.take(1, call)
					require.NoError(t, err)
				}
				for _, status := range c.status {
					status.Job = k.job(call)
					k.cluster.say(status)
					synctest.Wait()
				}
				require.Equal(t, append([]string{"CALL", "PENDING"}, c.events...), k.events(call))
				if c.code != "" {
					k.requireFailed(call, c.code, c.message)
					require.Equal(t, []string{k.job(call)}, k.stopped())
					requireCode(t, api.Expired, k.report(1, call, 0, "late"))
					k.requireFailed(call, c.code, c.message)
					return
				}
				rec, _, err := k.s.Output(t.Context(), k.d, call, false)
				require.NoError(t, err)
				require.Equal(t, c.message, rec.Message)
				require.Empty(t, k.stopped())
				require.Equal(t, []string{call}, k.waiting())
			})
		})
	}
}

func TestTheLeaseIsExtendedWhileACallIsOwned(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		time.Sleep(10*testLease + time.Second)
		k.store.mu.Lock()
		extended := k.store.queue[0].extended
		k.store.mu.Unlock()
		require.Equal(t, 30, extended)
		k.cluster.say(api.JobStatus{Job: k.job(call), Ended: true, Code: api.CallFailed, Message: "x"})
		synctest.Wait()
		k.requireFailed(call, api.CallFailed, "x")
	})
}

func TestAPanicIsOneCallsEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		first := true
		k.cluster.dispatch = func(string) error {
			if first {
				first = false
				panic("a fault")
			}
			return nil
		}
		bad, good := k.submit(), k.running()
		require.NoError(t, k.report(1, good, 0, "out"))
		k.requireFinished(good, "out")
		k.requireFailed(bad, api.Internal, "a fault in funcd, see its log")
	})
}

// The calls go on with the next server, each where it stands.
func TestStopHandsCallsBack(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		pending, running := k.submit(), k.running()
		k.s.Stop()
		k.s.Stop()
		require.Empty(t, k.stopped(), "containers run on")
		require.Equal(t, []string{pending, running}, k.waiting())
		k.store.mu.Lock()
		for _, q := range k.store.queue {
			if q.latest != nil {
				t.Error("a call was not handed back")
			}
		}
		k.store.mu.Unlock()
		require.Equal(t, api.Running, k.record(running).State)

		// A stopped server still takes calls in, and executes none.
		late := k.submit()
		require.NoError(t, k.s.ServeAll(t.Context()))
		require.Equal(t, []string{pending, running}, k.dispatched())

		k.s = k.server()
		require.NoError(t, k.s.ServeAll(t.Context()))
		synctest.Wait()
		require.ElementsMatch(t, []string{pending, running, pending, late}, k.dispatched(), "a running call is not started again")
		require.NoError(t, k.report(1, running, 0, "out"))
		k.requireFinished(running, "out")
		_, err := k.take(2, pending)
		require.NoError(t, err)
	})
}

func TestStopBeforeServeAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newStack(t)
		k.s.Stop()
		k.s.Stop()
		require.NoError(t, k.s.ServeAll(t.Context()))
	})
}

func TestACallDeliveredAfterStopGoesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.submit()
		k.s.Stop()
		k.store.mu.Lock()
		d := &fakeDelivery{f: k.store, q: k.store.queue[0]}
		d.q.latest = d
		k.store.mu.Unlock()
		k.s.deliver(d)
		require.Nil(t, d.q.latest)
		require.Equal(t, []string{call}, k.dispatched())
	})
}

func TestAdoption(t *testing.T) {
	t.Parallel()
	t.Run("of a running call keeps its deadline", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.obeys()
			call := k.running()
			time.Sleep(testTimeout * time.Second)
			k.restart()
			require.Equal(t, []string{call}, k.dispatched(), "it is not started again")
			_, err := k.take(1, call)
			require.NoError(t, err, "its container may ask again")
			_, err = k.take(2, call)
			requireCode(t, api.Expired, err)
			adopted := time.Now()
			_, _, err = k.s.Output(t.Context(), k.d, call, true)
			requireCode(t, api.CallTimeout, err)
			require.LessOrEqual(t, time.Since(adopted), testTimeout*time.Second+overtime)
		})
	})
	t.Run("of a call whose time has passed waits for its result", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			delivered, lost := k.running(), k.running()
			k.s.Stop()
			time.Sleep(time.Hour) // no server is there
			k.restart()
			time.Sleep(overtime / 2)
			require.NoError(t, k.report(1, delivered, 0, "out"))
			k.requireFinished(delivered, "out")
			_, _, err := k.s.Output(t.Context(), k.d, lost, true)
			requireCode(t, api.CallTimeout, err)
		})
	})
	t.Run("of a call that ended meanwhile only takes it out of the queue", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.running()
			k.s.Stop()
			require.NoError(t, k.report(1, call, 0, "out")) // through a server that does not own it
			require.Equal(t, []string{call}, k.waiting())
			k.restart()
			k.requireFinished(call, "out")
			require.Empty(t, k.waiting())
			require.Equal(t, []string{call}, k.dispatched())
			require.Empty(t, k.stopped())
			require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, k.events(call))
		})
	})
	t.Run("of a call whose container is gone fails it", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.running()
			k.s.Stop()
			k.cluster.say(api.JobStatus{Job: k.job(call), Allocation: "alloc-1", Ended: true, Code: api.CallFailed, Message: "node lost"})
			k.restart()
			k.requireFailed(call, api.CallFailed, "node lost")
		})
	})
	t.Run("in whose midst its result comes", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.running()
			k.s.Stop()
			k.s = k.server()
			k.functions.before = func() {
				result := &api.Result{CallID: call, Function: "f1", Outcome: api.Exited}
				reported := make(chan error)
				go func() { reported <- k.s.Report(t.Context(), alloc(1), result, []byte("out")) }()
				if err := <-reported; err != nil {
					t.Error(err)
				}
			}
			require.NoError(t, k.s.ServeAll(t.Context()))
			synctest.Wait()
			k.requireFinished(call, "out")
			require.Equal(t, []string{call}, k.dispatched(), "it is not started again")
		})
	})
	t.Run("while its result comes", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			var calls []string
			for range testQuota {
				calls = append(calls, k.running())
			}
			k.s.Stop()
			k.s = k.server()
			var containers sync.WaitGroup
			errs := make(chan error, testQuota)
			for _, call := range calls {
				containers.Go(func() {
					result := &api.Result{CallID: call, Function: "f1", Outcome: api.Exited}
					errs <- k.s.Report(t.Context(), alloc(1), result, []byte("out"))
				})
			}
			require.NoError(t, k.s.ServeAll(t.Context()))
			containers.Wait()
			synctest.Wait()
			for _, call := range calls {
				require.NoError(t, <-errs)
				k.requireFinished(call, "out")
			}
			require.Empty(t, k.waiting())
		})
	})
}

func TestRedeliveryToTheServerThatHasIt(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.running()
		latest := k.store.redeliver(call)
		synctest.Wait()
		require.Equal(t, []string{call}, k.dispatched())
		require.NoError(t, k.report(1, call, 0, "out"))
		k.requireFinished(call, "out")
		require.True(t, latest.done, "the latest delivery is the one that counts")
		require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, k.events(call))
	})
}

func TestTwoServers(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		other := k.server()
		require.NoError(t, other.ServeAll(t.Context()))
		var calls []string
		for range 2 * testQuota {
			calls = append(calls, k.submit())
		}
		// Containers ask and report through either server, whoever owns their call.
		for i, call := range calls {
			take, report := k.s, other
			if i%2 == 0 {
				take, report = report, take
			}
			_, _, err := take.Next(t.Context(), alloc(i), "f1", call)
			require.NoError(t, err)
			result := &api.Result{CallID: call, Function: "f1", Outcome: api.Exited}
			require.NoError(t, report.Report(t.Context(), alloc(i), result, []byte(fmt.Sprint(i))))
			rec, output, err := k.s.Output(t.Context(), k.d, call, true)
			require.NoError(t, err)
			require.Equal(t, api.Finished, rec.State)
			require.Equal(t, fmt.Sprint(i), string(output))
		}
		synctest.Wait()
		require.Empty(t, k.waiting())
		require.Len(t, k.dispatched(), len(calls))
	})
}
