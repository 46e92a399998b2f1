package calls

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// natsCluster is three NATS servers on ports of this machine.
type natsCluster struct {
	servers []*server.Server
	options []*server.Options
	urls    string
}

func startNATS(t *testing.T) *natsCluster {
	t.Helper()
	const size = 3
	ports := make([]int, 2*size)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	c := &natsCluster{}
	var routes []*url.URL
	var urls []string
	for i := range size {
		routes = append(routes, &url.URL{Scheme: "nats", Host: "127.0.0.1:" + strconv.Itoa(ports[size+i])})
		urls = append(urls, "nats://127.0.0.1:"+strconv.Itoa(ports[i]))
	}
	c.urls = strings.Join(urls, ",")
	dir := t.TempDir()
	for i := range size {
		c.options = append(c.options, &server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: ports[i], NoSigs: true, NoLog: true,
			MaxPayload: maxMessage, JetStream: true, StoreDir: fmt.Sprintf("%s/%d", dir, i),
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[size+i]}, Routes: routes,
		})
	}
	c.servers = make([]*server.Server, size)
	t.Cleanup(func() {
		for i := range size {
			c.stop(i)
		}
	})
	return c
}

func (c *natsCluster) start(t *testing.T, i int) {
	t.Helper()
	s, err := server.NewServer(c.options[i].Clone())
	require.NoError(t, err)
	c.servers[i] = s
	s.Start()
}

func (c *natsCluster) stop(i int) {
	if s := c.servers[i]; s != nil {
		s.Shutdown()
		s.WaitForShutdown()
		c.servers[i] = nil
	}
}

// openClustered opens the store of a funcd server on the cluster.
func openClustered(t *testing.T, c *natsCluster, lease time.Duration) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{URL: c.urls, Replicas: 3, Lease: lease, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// TestCluster is a test of its own process of servers: those of a cluster that share one processor with many others elect leaders all day.
func TestCluster(t *testing.T) {
	c := startNATS(t)
	for i := range c.servers {
		defer func() { c.stop(i) }()
	}
	opened := make(chan *Store)
	go func() {
		s, err := Open(context.WithoutCancel(t.Context()), Config{URL: c.urls, Replicas: 3, Lease: 2 * time.Second, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Error(err)
		}
		opened <- s
	}()
	for i := range c.servers {
		c.start(t, i)
	}
	a := <-opened // the servers were not there when it was opened
	require.NotNil(t, a)
	t.Cleanup(a.Close)
	b := openClustered(t, c, 2*time.Second)

	t.Run("streams have replicas", func(t *testing.T) {
		require.NoError(t, a.Enqueue(t.Context(), newCall("replicas", 1)))
		require.NoError(t, a.SaveOutput(t.Context(), "replicas", newCall("replicas", 1).ID, []byte("out")))
		a.Log(t.Context(), "replicas", api.Event{CallID: newCall("replicas", 1).ID})
		for _, name := range []string{recordsStream, queueStream("acme"), outStream("replicas"), logStream("replicas")} {
			stream, err := b.js.Stream(t.Context(), name)
			require.NoError(t, err)
			info, err := stream.Info(t.Context())
			require.NoError(t, err)
			require.Equal(t, 3, info.Config.Replicas, name)
			require.False(t, info.Config.AllowDirect, "a replica may not have heard of the last writes")
		}
		require.NoError(t, b.Withdraw(t.Context(), "acme", "replicas", newCall("replicas", 1).ID))
	})
	t.Run("one of many writers wins", func(t *testing.T) {
		for round := range 20 {
			call := newCall("cas", round)
			require.NoError(t, a.Enqueue(t.Context(), call))
			rec := api.Record{CallID: call.ID, Function: "cas", Account: "acme", State: api.Running}
			codes := make(chan api.Code)
			for i := range 8 {
				store := []*Store{a, b}[i%2]
				go func() {
					_, err := store.SaveRecord(context.WithoutCancel(t.Context()), rec, 0)
					codes <- api.CodeOf(err)
				}()
			}
			count := map[api.Code]int{}
			for range 8 {
				count[<-codes]++
			}
			require.Equal(t, map[api.Code]int{"": 1, api.Conflict: 7}, count)
			require.NoError(t, b.Withdraw(t.Context(), "acme", "cas", call.ID))
		}
	})
	t.Run("events are read and followed", func(t *testing.T) {
		logged(t, a, "events", "a:1", "b:1", "a:2")
		require.Equal(t, []string{"a:1", "b:1", "a:2"}, events(t, b, "events", api.EventQuery{Tail: -1}))
		require.Equal(t, []string{"a:2"}, events(t, b, "events", api.EventQuery{Tail: 1, Call: "a"}))
		r := read(t.Context(), b, "events", api.EventQuery{Tail: -1, Call: "a"})
		require.Equal(t, []string{"a:1", "a:2"}, r.take(t, 2))
		logged(t, a, "events", "b:2", "a:3")
		require.Equal(t, []string{"a:3"}, r.take(t, 1))
		require.NoError(t, a.RemoveFunction(t.Context(), "events"))
		requireCode(t, api.NotFound, r.end(t))
	})
	t.Run("a server reads what another has just written", func(t *testing.T) {
		for i := range 300 {
			call := newCall("reads", i)
			rec := api.Record{CallID: call.ID, Function: "reads", Account: "acme", State: api.Running}
			_, err := a.storeRecord(t.Context(), rec, 0)
			require.NoError(t, err)
			got, _, err := b.Record(t.Context(), "reads", call.ID)
			require.NoError(t, err, "record %d", i)
			require.Equal(t, rec, got)
			require.NoError(t, a.SaveOutput(t.Context(), "reads", call.ID, []byte("out")))
			_, err = b.Output(t.Context(), "reads", call.ID)
			require.NoError(t, err, "output %d", i)
		}
	})
	t.Run("the first event of a function is not lost", func(t *testing.T) {
		for n := range 50 { // a NATS server hears of a new log a moment after the one that it is made on
			logged(t, []*Store{a, b}[n%2], fmt.Sprintf("first%d", n), "a:1")
		}
	})
	t.Run("a list is read as soon as it is begun", func(t *testing.T) {
		bury(t, a, "lists", 1, 1)
		inARow := 0
		require.Eventually(t, func() bool { // a list is read from any replica, and misses what that one has not heard of yet
			if inARow++; len(letters(t, a, "acme", "")) == 0 {
				inARow = 0
			}
			return inARow == 30
		}, patience, time.Millisecond)
		for range 200 { // a NATS server hears of a new reader a moment after the one that it is made on
			require.Len(t, letters(t, a, "acme", ""), 1)
			require.Len(t, letters(t, b, "acme", ""), 1)
		}
	})
	t.Run("an end is told to all", func(t *testing.T) {
		ended, stop := b.WaitEnd("f", newCall("f", 1).ID)
		defer stop()
		require.NoError(t, b.nc.Flush())
		a.NotifyEnd("f", newCall("f", 1).ID)
		within(t, ended)
	})
	t.Run("a call is taken through another server", func(t *testing.T) {
		withdraw, err := a.Offer(newCall("f", 1).ID, func(_ context.Context, allocation api.Allocation) (*api.Assignment, []byte, error) {
			return &api.Assignment{CallID: allocation.Runner}, []byte("payload"), nil
		})
		require.NoError(t, err)
		defer withdraw()
		require.NoError(t, a.nc.Flush())
		require.Eventually(t, func() bool { // until the other NATS server has heard of it
			assignment, payload, err := b.Take(t.Context(), newCall("f", 1).ID, api.Allocation{ID: "a1", Runner: "r1"})
			return err == nil && assignment.CallID == "r1" && string(payload) == "payload"
		}, patience, 10*time.Millisecond)
	})
	t.Run("a slot is claimed through another server", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		call := make(chan string, 1)
		go func() {
			assignment, _, err := b.WaitSlot(ctx, api.Slot{Function: "f", Revision: 3, Job: "job"})
			if err != nil {
				call <- err.Error()
				return
			}
			call <- assignment.CallID
		}()
		require.Eventually(t, func() bool {
			slot, err := a.ClaimSlot(t.Context(), 3, &api.Assignment{CallID: "c1", Function: "f"}, nil)
			return err == nil && slot.Job == "job"
		}, patience, 10*time.Millisecond)
		require.Equal(t, "c1", <-call)
	})
	t.Run("a removed function is forgotten by all", func(t *testing.T) {
		require.NoError(t, b.SaveOutput(t.Context(), "removed", newCall("f", 1).ID, []byte("out")))
		require.NoError(t, a.RemoveFunction(t.Context(), "removed"))
		require.Eventually(t, func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.streams[outStream("removed")] == nil
		}, patience, time.Millisecond)
		require.NoError(t, b.SaveOutput(t.Context(), "removed", newCall("f", 1).ID, []byte("again")), "not into a stream that is gone")
	})
	t.Run("the quota and the order hold across servers, and a dead one's calls are delivered again", func(t *testing.T) {
		crossServers(t, c, a, b)
	})
	t.Run("a NATS server may die", func(t *testing.T) {
		var accepted []string
		for i := range 60 {
			if i == 20 {
				leader := slices.IndexFunc(c.servers, func(s *server.Server) bool {
					return s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, queueStream("loss"))
				})
				require.GreaterOrEqual(t, leader, 0)
				c.stop(leader)
			}
			call := newCall("loss", i)
			call.Account = "loss"
			if err := a.Enqueue(t.Context(), call); err == nil {
				accepted = append(accepted, call.ID)
			} else {
				requireCode(t, api.Unavailable, err)
			}
		}
		require.Greater(t, len(accepted), 40, "the next leader takes over")
		var mu sync.Mutex
		var got []string
		stop, err := b.Consume(t.Context(), "loss", 100, func(d *Delivery) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, d.Call().ID)
		})
		require.NoError(t, err)
		defer stop()
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got) >= len(accepted)
		}, patience, 10*time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		known := map[string]bool{}
		for _, id := range got {
			known[id] = true
		}
		for _, id := range accepted {
			require.True(t, known[id], "call %s is lost", id)
		}
	})
	t.Run("without a leader nothing is said of a queue", func(t *testing.T) {
		call := newCall("alone", 1)
		require.Eventually(t, func() bool { return a.Enqueue(t.Context(), call) == nil }, patience, 10*time.Millisecond)
		for i := range c.servers {
			if c.servers[i] != nil { // the second of three
				c.stop(i)
				break
			}
		}
		queued, err := true, error(nil)
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			queued, err = a.IsQueued(ctx, "acme", "alone", call.ID)
			return err != nil || !queued
		}, patience, 10*time.Millisecond)
		requireCode(t, api.Unavailable, err)
		_, err = a.CallsInFlight(t.Context(), "acme", "alone")
		requireCode(t, api.Unavailable, err)
	})
}

// An operator may add servers to a cluster, and then replicas.
func TestStreamsMayGetReplicasLater(t *testing.T) {
	c := startNATS(t)
	for i := range c.servers {
		c.start(t, i)
	}
	single, err := Open(t.Context(), Config{URL: c.urls, Replicas: 1, Lease: 2 * time.Second, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	logged(t, single, "grows", "a:1")
	require.NoError(t, single.Enqueue(t.Context(), newCall("grows", 1)))
	single.Close()
	s := openClustered(t, c, 2*time.Second)
	require.Eventually(t, func() bool { // a stream that gets them has no leader for a moment
		s.Log(t.Context(), "grows", api.Event{CallID: "b", Event: api.Called})
		_, err := s.LastEvent(t.Context(), "grows", "b")
		return err == nil
	}, patience, 10*time.Millisecond)
	deliveries := make(chan *Delivery, 1)
	require.Eventually(t, func() bool {
		stop, err := s.Consume(t.Context(), "acme", 1, func(d *Delivery) { deliveries <- d })
		if err == nil {
			t.Cleanup(stop)
		}
		return err == nil
	}, patience, 10*time.Millisecond)
	next(t, deliveries, 1)
	stream, err := s.js.Stream(t.Context(), logStream("grows"))
	require.NoError(t, err)
	require.Equal(t, 3, stream.CachedInfo().Config.Replicas)
}

// crossServers has two servers, one of which dies, work off one queue.
func crossServers(t *testing.T, c *natsCluster, a, b *Store) {
	const quota, total = 4, 40
	for i := range total {
		require.NoError(t, []*Store{a, b}[i%2].Enqueue(t.Context(), newCall("cross", i)))
	}
	doomed := openClustered(t, c, 2*time.Second)
	var mu sync.Mutex
	held := map[string]bool{}
	first := []string{} // calls in the order of their first delivery
	seen := map[string]int{}
	most := 0
	deliver := func(done bool) func(d *Delivery) {
		return func(d *Delivery) {
			mu.Lock()
			id := d.Call().ID
			if seen[id]++; seen[id] == 1 {
				first = append(first, id)
			}
			held[id] = true
			most = max(most, len(held))
			mu.Unlock()
			if !done {
				return // until it dies
			}
			go func() {
				mu.Lock()
				delete(held, id) // the queue may deliver the next before it has answered
				mu.Unlock()
				if err := d.Done(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
				}
			}()
		}
	}
	_, err := doomed.Consume(t.Context(), "acme", quota, deliver(false))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(held) == quota
	}, patience, time.Millisecond)
	doomed.Close() // without a word to the queue
	stop, err := b.Consume(t.Context(), "acme", quota, deliver(true))
	require.NoError(t, err)
	defer stop()
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(first) == total && len(held) == 0
	}, patience, 10*time.Millisecond)
	require.LessOrEqual(t, most, quota)
	for i, id := range first {
		require.Equal(t, newCall("cross", i).ID, id, "first in, first out")
	}
	for i := range quota {
		require.Equal(t, 2, seen[newCall("cross", i).ID], "those of the dead one came again")
	}
}

func TestStoppedConsumerLosesNoTime(t *testing.T) {
	t.Parallel()
	const total = 20
	s := openStore(t, Config{Lease: time.Hour})
	peer := openPeer(t, s)
	enqueue(t, s, "f", 0, total)
	// Most have come and wait for the first to be handed over when the consumer is stopped.
	begun, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	stop, err := s.Consume(t.Context(), "acme", total, func(d *Delivery) {
		once.Do(func() { close(begun) })
		<-goOn
		if err := d.Return(0); err != nil {
			t.Error(err)
		}
	})
	require.NoError(t, err)
	<-begun
	requirePending(t, s, total, 0)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	close(goOn)
	<-stopped
	deliveries := make(chan *Delivery, total)
	stopPeer, err := peer.Consume(t.Context(), "acme", total, func(d *Delivery) { deliveries <- d })
	require.NoError(t, err)
	defer stopPeer()
	for range total {
		select {
		case <-deliveries:
		case <-time.After(patience):
			require.FailNow(t, "a call waits for its lease to end")
		}
	}
}

func TestNATSServerThatTakesTooLittleIsRefused(t *testing.T) {
	t.Parallel()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()})
	require.NoError(t, err)
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	require.True(t, s.ReadyForConnections(patience))
	_, err = Open(t.Context(), Config{URL: s.ClientURL(), Logger: slog.New(slog.DiscardHandler)})
	require.ErrorContains(t, err, "max_payload of the NATS servers is 1048576 bytes, and must be at least")
}
