package consul

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	consul "github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
)

func testService(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, c := t.Context(), connect(t, newPrefix())
	s := Service{ID: "funcd-" + uuid.NewString(), Name: "funcd", Address: "127.0.0.1", Port: 3862, Tags: []string{"a"},
		CheckURL: "http://127.0.0.1:1/health", CheckInterval: time.Minute}
	known := func(want bool) {
		require.EventuallyWithT(t, func(t *assertions) {
			ok, err := c.registered(ctx, s.ID)
			require.NoError(t, err)
			require.Equal(t, want, ok)
		}, patience, 5*time.Millisecond)
	}
	stop := start(t, func(ctx context.Context) { c.keepRegistered(ctx, s, 10*time.Millisecond) })
	known(true)
	got, _, err := c.api.Agent().Service(s.ID, new(consul.QueryOptions).WithContext(ctx))
	require.NoError(t, err)
	require.Equal(t, []any{"funcd", "127.0.0.1", 3862, []string{"a"}}, []any{got.Service, got.Address, got.Port, got.Tags})

	require.NoError(t, c.Deregister(ctx, s.ID))
	known(true) // again
	stop()
	known(false)
	require.NoError(t, c.Deregister(ctx, s.ID), "deregistering what is not known is no error")
}

func testLeader(t *testing.T, connect func(*testing.T, string) *Client) {
	prefix := newPrefix()
	gained := make(chan int)
	var leaders atomic.Int32
	var stops [3]func()
	for i := range stops {
		c := connect(t, prefix)
		stops[i] = start(t, func(ctx context.Context) {
			_ = c.WhileLeader(ctx, "chores", func(ctx context.Context) error {
				if leaders.Add(1) != 1 {
					t.Error("two leaders at once")
				}
				defer leaders.Add(-1)
				select {
				case gained <- i:
				case <-ctx.Done():
				}
				<-ctx.Done()
				return ctx.Err()
			})
		})
	}
	seen := map[int]bool{}
	for range stops {
		i := receive(t, gained)
		require.False(t, seen[i])
		seen[i] = true
		stops[i]() // the next one gets it without the lock delay
	}
	require.Zero(t, leaders.Load())
}

func testLeaderLost(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, c := t.Context(), connect(t, newPrefix())
	gained, ended := make(chan struct{}), make(chan error)
	start(t, func(ctx context.Context) {
		_ = c.WhileLeader(ctx, "chores", func(held context.Context) error {
			select {
			case gained <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			<-held.Done()
			select {
			case ended <- context.Cause(held):
			case <-ctx.Done():
			}
			return nil
		})
	})
	for range 2 {
		receive(t, gained)
		pair, err := c.get(ctx, c.key("locks", "chores"))
		require.NoError(t, err)
		require.NoError(t, c.destroySession(ctx, pair.Session))
		require.ErrorIs(t, receive(t, ended), errLockLost)
	}
	receive(t, gained)
}

func testLeaderAgain(t *testing.T, connect func(*testing.T, string) *Client) {
	c := connect(t, newPrefix())
	led := make(chan struct{}, 100)
	stop := start(t, func(ctx context.Context) {
		require.ErrorIs(t, c.WhileLeader(ctx, "chores", func(context.Context) error {
			led <- struct{}{}
			return errors.New("out of luck")
		}), context.Canceled)
	})
	receive(t, led)
	receive(t, led)
	stop()
	require.Error(t, c.WhileLeader(t.Context(), "a/b", nil))
}
