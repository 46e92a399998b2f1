package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/calls"
)

type store interface {
	Queue
	Records
	Messages
	Keys
	Dead
}

// realStore is calls.Store as the scheduler sees it.
type realStore struct{ *calls.Store }

func (s realStore) Consume(ctx context.Context, account string, quota int, deliver func(Delivery)) (stop func(), err error) {
	return s.Store.Consume(ctx, account, quota, func(d *calls.Delivery) { deliver(d) })
}

// eachStore runs a test on the fake and on the real store.
func eachStore(t *testing.T, test func(t *testing.T, s store)) {
	t.Parallel()
	t.Run("fake", func(t *testing.T) {
		t.Parallel()
		test(t, newFakeStore())
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		s, err := calls.Open(t.Context(), calls.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		t.Cleanup(s.Close)
		test(t, realStore{s})
	})
}

func call(n int) *api.Call {
	return &api.Call{ID: fmt.Sprintf("call-%d", n), Function: "f1", Name: "hello", Account: "acme", Payload: []byte("in")}
}

func receive(t *testing.T, deliveries <-chan Delivery, n int) Delivery {
	t.Helper()
	select {
	case d := <-deliveries:
		require.Equal(t, call(n), d.Call())
		return d
	case <-time.After(30 * time.Second):
		require.FailNow(t, "nothing was delivered")
		return nil
	}
}

func TestStoresQueue(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		accounts, err := s.Accounts(t.Context())
		require.NoError(t, err)
		require.Empty(t, accounts)
		for i := range 3 {
			require.NoError(t, s.Enqueue(t.Context(), call(i)))
		}
		accounts, err = s.Accounts(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"acme"}, accounts)

		deliveries := make(chan Delivery, 10)
		stop, err := s.Consume(t.Context(), "acme", 2, func(d Delivery) { deliveries <- d })
		require.NoError(t, err)
		defer stop()
		first, second := receive(t, deliveries, 0), receive(t, deliveries, 1)
		queued, err := s.Queued(t.Context(), "acme", "f1", "call-0")
		require.NoError(t, err)
		require.Equal(t, call(0), queued)
		there, err := s.IsQueued(t.Context(), "acme", "f1", "call-0")
		require.NoError(t, err)
		require.True(t, there)
		for _, other := range [][3]string{{"acme", "f1", "call-9"}, {"acme", "f2", "call-0"}, {"other", "f1", "call-0"}} {
			there, err := s.IsQueued(t.Context(), other[0], other[1], other[2])
			require.NoError(t, err)
			require.False(t, there, "%v", other)
		}
		require.NoError(t, first.Extend())
		require.NoError(t, first.Return(0))
		first = receive(t, deliveries, 0)
		require.Empty(t, deliveries, "no more than the quota")

		require.NoError(t, second.Done(t.Context()))
		require.NoError(t, second.Done(t.Context()))
		_, err = s.Queued(t.Context(), "acme", "f1", "call-1")
		requireCode(t, api.NotFound, err)
		there, err = s.IsQueued(t.Context(), "acme", "f1", "call-1")
		require.NoError(t, err)
		require.False(t, there)
		third := receive(t, deliveries, 2)
		require.NoError(t, s.Enqueue(t.Context(), call(4)))
		require.NoError(t, s.Withdraw(t.Context(), "acme", "f1", "call-2"))
		require.NoError(t, s.Withdraw(t.Context(), "acme", "f1", "call-2"), "it is not there any more")
		require.NoError(t, third.Done(t.Context()))
		third = receive(t, deliveries, 4)
		returned := time.Now()
		require.NoError(t, third.Return(50*time.Millisecond))
		third = receive(t, deliveries, 4)
		require.GreaterOrEqual(t, time.Since(returned), 50*time.Millisecond)
		require.NoError(t, third.Done(t.Context()))
		require.NoError(t, first.Done(t.Context()))
		stop()
		stop()
		require.NoError(t, s.Enqueue(t.Context(), call(3)))
		require.Empty(t, deliveries)
	})
}

func TestStoresRecords(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		rec := api.Record{CallID: "call-0", Function: "f1", Account: "acme", State: api.Pending}
		_, _, err := s.Record(t.Context(), "f1", "call-0")
		requireCode(t, api.NotFound, err)
		for _, state := range []api.State{api.Pending, api.Running, api.Failed} {
			rec.State = state
			_, err = s.SaveRecord(t.Context(), rec, 0)
			requireCode(t, api.Conflict, err)
			_, _, err = s.Record(t.Context(), "f1", "call-0")
			requireCode(t, api.NotFound, err)
		}
		require.NoError(t, s.Enqueue(t.Context(), call(0)))
		version, err := s.SaveRecord(t.Context(), rec, 0)
		require.NoError(t, err)
		_, err = s.SaveRecord(t.Context(), rec, 0)
		requireCode(t, api.Conflict, err)
		rec.State = api.Finished
		second, err := s.SaveRecord(t.Context(), rec, version)
		require.NoError(t, err)
		_, err = s.SaveRecord(t.Context(), rec, version)
		requireCode(t, api.Conflict, err)
		got, at, err := s.Record(t.Context(), "f1", "call-0")
		require.NoError(t, err)
		require.Equal(t, rec, got)
		require.Equal(t, second, at)

		_, err = s.Output(t.Context(), "f1", "call-0")
		requireCode(t, api.Expired, err)
		require.NoError(t, s.SaveOutput(t.Context(), "f1", "call-0", []byte("out")))
		output, err := s.Output(t.Context(), "f1", "call-0")
		require.NoError(t, err)
		require.Equal(t, "out", string(output))

		require.NoError(t, s.Forget(t.Context(), rec))
		require.NoError(t, s.Forget(t.Context(), rec))
		_, _, err = s.Record(t.Context(), "f1", "call-0")
		requireCode(t, api.NotFound, err)
		_, err = s.Output(t.Context(), "f1", "call-0")
		requireCode(t, api.Expired, err)
		_, err = s.Queued(t.Context(), "acme", "f1", "call-0")
		requireCode(t, api.NotFound, err)

		cancelled := api.Record{CallID: "call-1", Function: "f1", Account: "acme", State: api.Failed, Code: api.Cancelled}
		require.NoError(t, s.Enqueue(t.Context(), call(1)))
		_, err = s.SaveRecord(t.Context(), cancelled, 0)
		require.NoError(t, err)
		require.NoError(t, s.SaveOutput(t.Context(), "f1", "call-1", []byte("too late")))
		require.NoError(t, s.Forget(t.Context(), cancelled))
		_, _, err = s.Record(t.Context(), "f1", "call-1")
		requireCode(t, api.NotFound, err)
		_, err = s.SaveRecord(t.Context(), api.Record{CallID: "call-1", Function: "f1", Account: "acme", State: api.Running}, 0)
		requireCode(t, api.Conflict, err)
		_, err = s.Output(t.Context(), "f1", "call-1")
		requireCode(t, api.Expired, err)
	})
}

func TestStoresMessages(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		_, _, err := s.Take(t.Context(), "call-0", alloc(1))
		requireCode(t, api.NotFound, err)
		withdraw, err := s.Offer("call-0", func(_ context.Context, a api.Allocation) (*api.Assignment, []byte, error) {
			if a != alloc(1) {
				return nil, nil, api.Errorf(api.Conflict, "another's")
			}
			return &api.Assignment{CallID: "call-0"}, []byte("in"), nil
		})
		require.NoError(t, err)
		assignment, payload, err := s.Take(t.Context(), "call-0", alloc(1))
		require.NoError(t, err)
		require.Equal(t, &api.Assignment{CallID: "call-0"}, assignment)
		require.Equal(t, "in", string(payload))
		_, _, err = s.Take(t.Context(), "call-0", alloc(2))
		requireCode(t, api.Conflict, err)
		withdraw()
		_, _, err = s.Take(t.Context(), "call-0", alloc(1))
		requireCode(t, api.NotFound, err)

		ended, stop := s.WaitEnd("f1", "call-0")
		other, stopOther := s.WaitEnd("f1", "call-1")
		defer stopOther()
		s.NotifyEnd("f1", "call-0")
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			require.Fail(t, "the end was not told")
		}
		stop()
		stop()
		select {
		case <-other:
			require.Fail(t, "another's end was told")
		default:
		}

		cancels := make(chan string, 10)
		stopCancels, err := s.WatchChanges(func(call string) { cancels <- call })
		require.NoError(t, err)
		s.NotifyChange("call-0")
		select {
		case call := <-cancels:
			require.Equal(t, "call-0", call)
		case <-time.After(30 * time.Second):
			require.Fail(t, "the cancellation was not told")
		}
		stopCancels()
		s.NotifyChange("call-1")
		require.Empty(t, cancels)
	})
}

// raceStack is a stack on a store, in real time.
func raceStack(t *testing.T, s store) *stack {
	k := &stack{t: t, cluster: newFakeCluster(), slots: newFakeSlots(), functions: &fakeFunctions{d: testFunction()}}
	k.d = &k.functions.d
	k.s = New(Config{
		Queue: s, Records: s, Keys: s, Dead: s, Messages: s, Slots: k.slots, Cluster: k.cluster, Functions: k.functions,
		Quota: testQuota, Lease: time.Minute, MaxKillTimeout: time.Second, MaxOutput: testOutput, Logger: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(k.s.Stop)
	return k
}

// TestStoresCalls has many calls go through a scheduler, with a container for each that is dispatched.
func TestStoresCalls(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		const total, quota = 40, 4
		cluster, functions := newFakeCluster(), &fakeFunctions{d: testFunction()}
		started := make(chan string, total)
		cluster.dispatch = func(call string) error {
			started <- call
			return nil
		}
		sched := New(Config{
			Queue: s, Records: s, Keys: s, Dead: s, Messages: s, Slots: newFakeSlots(), Cluster: cluster, Functions: functions,
			Quota: quota, Lease: time.Minute, MaxKillTimeout: time.Second, MaxOutput: testOutput, Logger: slog.New(slog.DiscardHandler),
		})
		defer sched.Stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ids := make([]string, total)
		for i := range ids {
			var err error
			ids[i], err = sched.Submit(ctx, &functions.d, nil, []byte(fmt.Sprint(i)))
			require.NoError(t, err)
		}
		for range total {
			var id string
			select {
			case id = <-started:
			case <-ctx.Done():
				require.FailNow(t, "a call was not dispatched")
			}
			require.Less(t, len(started), quota)
			_, payload, err := sched.Next(ctx, alloc(1), "f1", id)
			require.NoError(t, err)
			require.NoError(t, sched.Report(ctx, alloc(1), &api.Result{CallID: id, Function: "f1", Outcome: api.Exited}, payload))
		}
		for i, id := range ids {
			rec, output, err := sched.Output(ctx, &functions.d, id, true)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), string(output))
			require.NoError(t, sched.Delivered(ctx, rec))
		}
		require.Len(t, cluster.asked(&cluster.dispatched), total)
		require.Empty(t, cluster.asked(&cluster.stopped))
	})
}
