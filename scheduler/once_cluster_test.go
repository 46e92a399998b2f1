package scheduler

import (
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/calls"
)

// TestAKeyIsOneCallOnTwoServers has two servers on one NATS given the same requests at once.
func TestAKeyIsOneCallOnTwoServers(t *testing.T) {
	t.Parallel()
	nats, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), MaxPayload: 4 << 20,
	})
	require.NoError(t, err)
	nats.Start()
	t.Cleanup(func() {
		nats.Shutdown()
		nats.WaitForShutdown()
	})
	require.True(t, nats.ReadyForConnections(30*time.Second))
	var stacks []*stack
	for range 2 {
		s, err := calls.Open(t.Context(), calls.Config{URL: nats.ClientURL(), Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		t.Cleanup(s.Close)
		stacks = append(stacks, raceStack(t, realStore{s}))
	}
	const keys, requests = 5, 8
	var mu sync.Mutex
	ids, firsts := map[int]map[string]bool{}, 0
	var all sync.WaitGroup
	for i := range keys * requests {
		all.Go(func() {
			k := stacks[i/keys%2]
			call, again, err := k.s.SubmitOnce(t.Context(), k.d, api.Once{Key: fmt.Sprint(i % keys), Same: "x"}, nil, []byte("in"))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			if !again {
				firsts++
			}
			if ids[i%keys] == nil {
				ids[i%keys] = map[string]bool{}
			}
			ids[i%keys][call] = true
		})
	}
	all.Wait()
	require.Equal(t, keys, firsts)
	for key, calls := range ids {
		require.Len(t, calls, 1, key)
	}
	inFlight, err := stacks[0].s.cfg.Queue.CallsInFlight(t.Context(), "acme", "f1")
	require.NoError(t, err)
	require.Len(t, inFlight, keys)
}
