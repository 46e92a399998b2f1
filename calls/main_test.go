package calls

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/funcd/funcd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come. It ends with what it waits for, so it may be long.
const patience = 30 * time.Second

// openStore opens an embedded store that is closed with the test, in cfg.Dir or a directory of the test's own.
func openStore(t *testing.T, cfg Config) *Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	s, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// openPeer opens the store of another funcd server on the same JetStream, as with Config.URL.
func openPeer(t *testing.T, s *Store) *Store {
	t.Helper()
	s.alone = false
	require.NoError(t, s.watchReady())
	require.NoError(t, s.nc.Flush())
	p := newStore(s.cfg)
	p.id = "peer"
	t.Cleanup(p.Close)
	var err error
	p.nc, err = nats.Connect("", nats.InProcessServer(s.server))
	require.NoError(t, err)
	p.js, err = jetstream.New(p.nc)
	require.NoError(t, err)
	records, err := p.js.Stream(t.Context(), recordsStream)
	require.NoError(t, err)
	p.records = &anchored{Stream: records}
	p.ended, err = p.nc.Subscribe("ended.*.*", func(m *nats.Msg) { p.wake(m.Subject) })
	require.NoError(t, err)
	require.NoError(t, p.followStates(p.running))
	require.NoError(t, p.watchReady())
	require.NoError(t, p.nc.Flush())
	return p
}

func newCall(function string, n int) *api.Call {
	return &api.Call{
		ID:       fmt.Sprintf("00000000-0000-4000-8000-%012d", n),
		Function: function,
		Name:     "hello",
		Account:  "acme",
		Accepted: time.Unix(int64(n), 0).UTC(),
		Env:      []string{"REQUEST_METHOD=POST", "HTTP_X=a\tb\n\"ü\""},
		Payload:  []byte(fmt.Sprintf("payload %d", n)),
	}
}

// enqueue queues the calls from to to-1.
func enqueue(t *testing.T, s *Store, function string, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		require.NoError(t, s.Enqueue(t.Context(), newCall(function, i)))
	}
}

// consume consumes the account's queue until the test ends.
func consume(t *testing.T, s *Store, quota int) <-chan *Delivery {
	t.Helper()
	deliveries := make(chan *Delivery, 1000)
	stop, err := s.Consume(t.Context(), "acme", quota, func(d *Delivery) { deliveries <- d })
	require.NoError(t, err)
	t.Cleanup(stop)
	return deliveries
}

// next returns the next delivery, which must be of the call of this number.
func next(t *testing.T, deliveries <-chan *Delivery, n int) *Delivery {
	t.Helper()
	select {
	case d := <-deliveries:
		require.Equal(t, newCall("f", n).ID, d.Call().ID)
		return d
	case <-time.After(patience):
		require.FailNow(t, "nothing was delivered", "call %d was expected", n)
		return nil
	}
}

// requirePending waits until the consumer has so many calls delivered and so many waiting.
func requirePending(t *testing.T, s *Store, delivered, waiting int) {
	t.Helper()
	consumer, err := s.js.Consumer(t.Context(), queueStream("acme"), pool)
	require.NoError(t, err)
	var info *jetstream.ConsumerInfo
	require.Eventually(t, func() bool {
		info, err = consumer.Info(t.Context())
		return err == nil && info.NumAckPending == delivered && info.NumPending == uint64(waiting)
	}, patience, time.Millisecond, "delivered %d, waiting %d", delivered, waiting)
}

func requireCode(t *testing.T, code api.Code, err error) {
	t.Helper()
	require.Equal(t, code, api.CodeOf(err), "%v", err)
}

func within(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		require.FailNow(t, "it did not come")
	}
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
