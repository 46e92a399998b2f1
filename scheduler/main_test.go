package scheduler

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/funcd/funcd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testQuota   = 5
	testLease   = 30 * time.Second
	testTimeout = 10 // seconds
	testOutput  = 1 << 10
	testStarts  = 3
)

// stack is a scheduler among fakes.
type stack struct {
	t         *testing.T
	store     *fakeStore
	cluster   *fakeCluster
	slots     *fakeSlots
	functions *fakeFunctions
	services  *fakeServices
	d         *api.Definition
	s         *Scheduler
}

// inBubble runs a test with a scheduler that serves, in a time of its own.
func inBubble(t *testing.T, test func(t *testing.T, k *stack)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newStack(t)
		require.NoError(t, k.s.ServeAll(t.Context()))
		test(t, k)
	})
}

func testFunction() api.Definition {
	return api.Definition{
		ID:       "f1",
		Account:  "acme",
		Revision: 1,
		Function: api.Function{
			Name:    "hello",
			Timeout: testTimeout,
			UUID:    "7b6e1f0e-0000-4000-8000-000000000001",
			Config:  api.Config{Cmd: api.StrSlice{"cat"}, Env: []string{"A=function"}, StopSignal: "SIGTERM", Tty: true},
		},
		Image: api.Image{Entrypoint: []string{"/bin/env"}},
	}
}

func newStack(t *testing.T) *stack {
	k := &stack{t: t, store: newFakeStore(), cluster: newFakeCluster(), slots: newFakeSlots(), functions: &fakeFunctions{d: testFunction()}, services: &fakeServices{}}
	k.d = &k.functions.d
	k.s = k.server()
	return k
}

// server returns one more scheduler of the stack, stopped with the test.
func (k *stack) server() *Scheduler {
	s := New(Config{
		Queue: k.store, Records: k.store, Keys: k.store, Dead: k.store, Callbacks: k.store, Messages: k.store, Slots: k.slots, Cluster: k.cluster, Functions: k.functions, Services: k.services,
		Quota: testQuota, Lease: testLease, MaxKillTimeout: 30 * time.Second, MaxOutput: testOutput, Starts: testStarts,
		Retry:  Retry{First: time.Second, Most: 4 * time.Second},
		Warm:   Warm{Function: 5, Account: 8, Total: 12, Idle: 5 * time.Minute},
		Logger: slog.New(slog.DiscardHandler),
	})
	k.t.Cleanup(s.Stop)
	return s
}

// restart stops the server and starts the next.
func (k *stack) restart() {
	k.s.Stop()
	k.store.reopened()
	k.s = k.server()
	require.NoError(k.t, k.s.ServeAll(k.t.Context()))
	synctest.Wait()
}

// submit queues a call and returns when the scheduler has done with it what can be done at once.
func (k *stack) submit() string {
	k.t.Helper()
	call, err := k.s.Submit(k.t.Context(), k.d, []string{"A=request", "HTTP_B=b"}, []byte("in"))
	require.NoError(k.t, err)
	synctest.Wait()
	return call
}

func alloc(n int) api.Allocation {
	return api.Allocation{ID: fmt.Sprintf("alloc-%d", n), Job: "func-acme-hello", Account: "acme", Name: "hello"}
}

// take is a container that asks for its call.
func (k *stack) take(n int, call string) (*api.Assignment, error) {
	return k.takeAs(n, call, "", 0) // whose runner does not say what it is
}

// running submits a call and has a container take it.
func (k *stack) running() string {
	k.t.Helper()
	call := k.submit()
	_, err := k.take(1, call)
	require.NoError(k.t, err)
	return call
}

// report is a container whose function exits with the status.
func (k *stack) report(n int, call string, status int, output string) error {
	result := &api.Result{CallID: call, Function: k.d.ID, Outcome: api.Exited, ExitCode: status}
	err := k.s.Report(k.t.Context(), alloc(n), result, []byte(output))
	synctest.Wait()
	return err
}

func (k *stack) job(call string) string { return jobOf("acme", "hello", call) }

// record returns what is stored of the call.
func (k *stack) record(call string) api.Record {
	k.t.Helper()
	rec, _, err := k.store.Record(k.t.Context(), k.d.ID, call)
	require.NoError(k.t, err)
	return rec
}

// requireFailed wants the call to have failed so, and to have left the queue.
func (k *stack) requireFailed(call string, code api.Code, message string) {
	k.t.Helper()
	rec, output, err := k.s.Output(k.t.Context(), k.d, call, false)
	requireCode(k.t, code, err)
	require.Equal(k.t, message, err.Error())
	require.Equal(k.t, api.Failed, rec.State)
	require.Nil(k.t, output)
	require.False(k.t, rec.Ended.IsZero())
	require.Equal(k.t, string(api.Failed)+": "+message, last(k.events(call)))
	require.Empty(k.t, k.waiting())
}

// requireFinished wants the call to have this output, and to have left the queue.
func (k *stack) requireFinished(call, output string) {
	k.t.Helper()
	rec, got, err := k.s.Output(k.t.Context(), k.d, call, false)
	require.NoError(k.t, err)
	require.Equal(k.t, api.Finished, rec.State)
	require.Equal(k.t, output, string(got))
	require.NotContains(k.t, k.waiting(), call)
}

func last(words []string) string { return words[len(words)-1] }

// events returns the call's events, those with a message as "EVENT: message".
func (k *stack) events(call string) []string {
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	var words []string
	for _, e := range k.store.events {
		switch {
		case e.CallID != call:
		case e.Message != "":
			words = append(words, e.Event+": "+e.Message)
		default:
			words = append(words, e.Event)
		}
	}
	return words
}

// waiting returns the calls in the queue.
func (k *stack) waiting() []string {
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	var calls []string
	for _, q := range k.store.queue {
		calls = append(calls, q.call.ID)
	}
	return calls
}

// dispatched, stopped and registered return what the cluster was asked for.
func (k *stack) dispatched() []string { return k.cluster.asked(&k.cluster.dispatched) }
func (k *stack) stopped() []string    { return k.cluster.asked(&k.cluster.stopped) }
func (k *stack) registered() []string { return k.cluster.asked(&k.cluster.registered) }

func (c *fakeCluster) asked(what *[]string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(*what)
}

func requireCode(t *testing.T, code api.Code, err error) {
	t.Helper()
	require.Equal(t, code, api.CodeOf(err), "%v", err)
}
