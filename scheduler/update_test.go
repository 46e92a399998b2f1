package scheduler

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// updated gives the function another image and command, from here on.
func (k *stack) updated() {
	k.functions.mu.Lock()
	defer k.functions.mu.Unlock()
	k.functions.d.Revision++
	k.functions.d.Image.Entrypoint = []string{"/updated"}
	k.functions.d.Function.Config.Env = []string{"A=new"}
	k.functions.d.Function.Timeout = 99
}

// takeAs is a container of the job that was started as of this revision.
func (k *stack) takeAs(n int, call, job string, revision uint64) (*api.Assignment, error) {
	ctx, cancel := context.WithTimeout(k.t.Context(), time.Second)
	defer cancel()
	allocation := alloc(n)
	allocation.Dispatch, allocation.Revision = job, revision
	assignment, _, err := k.s.Next(ctx, allocation, "f1", call)
	synctest.Wait()
	return assignment, err
}

func requireUpdated(t *testing.T, a *api.Assignment, err error) {
	t.Helper()
	require.NoError(t, err)
	require.Equal(t, "/updated", a.Command[0])
	require.Contains(t, a.Env, "A=new")
	require.Equal(t, 99*time.Second, a.Timeout)
}

func TestACallHasTheCommandOfItsContainersImage(t *testing.T) {
	t.Run("updated while it pauses between two containers", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			k.fails(k.job(call), "Docker is away", true)
			k.updated()
			k.wait(firstPause)
			a, err := k.takeAs(2, call, k.job(call)+"-1", 2)
			requireUpdated(t, a, err)
		})
	})
	t.Run("updated while there is no room for its result", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			var full atomic.Bool
			full.Store(true)
			k.s.cfg.ResultRoom = func() error {
				if full.Load() {
					return api.Errorf(api.Unavailable, "full")
				}
				return nil
			}
			call := k.submit()
			k.updated()
			time.Sleep(time.Hour)
			full.Store(false)
			k.wait(2 * roomPause)
			a, err := k.takeAs(1, call, k.job(call), 2)
			requireUpdated(t, a, err)
		})
	})
	t.Run("updated while its container starts", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			k.updated() // what Nomad had when it was dispatched was of the update
			a, err := k.takeAs(1, call, k.job(call), 2)
			requireUpdated(t, a, err)
		})
	})
	t.Run("an update that this server has not heard of", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			_, err := k.takeAs(1, call, k.job(call), 2)
			requireCode(t, api.NotFound, err)
			k.updated()
			a, err := k.takeAs(1, call, k.job(call), 2)
			requireUpdated(t, a, err)
		})
	})
	t.Run("an update that no server will hear of", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			_, err := k.takeAs(1, call, k.job(call), 9)
			requireCode(t, api.NotFound, err)
			time.Sleep(behindTime)
			_, err = k.takeAs(1, call, k.job(call), 9)
			requireCode(t, api.Expired, err)
			k.fails(k.job(call), "the container ended", true)
			k.wait(firstPause)
			_, err = k.takeAs(2, call, k.job(call)+"-1", 1)
			require.NoError(t, err)
		})
	})
	t.Run("a container from before the update is turned away, once", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.updated()
			call := k.submit()
			_, err := k.takeAs(1, call, k.job(call), 1)
			requireCode(t, api.Expired, err)
			k.fails(k.job(call), "the container ended", true)
			k.wait(firstPause)
			a, err := k.takeAs(2, call, k.job(call)+"-1", 1)
			requireUpdated(t, a, err)
		})
	})
	t.Run("a container from before the update is taken, if it is the last", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.s.cfg.Starts = 1
			k.updated()
			call := k.submit()
			a, err := k.takeAs(1, call, k.job(call), 1)
			requireUpdated(t, a, err)
		})
	})
	t.Run("removed while it pauses between two containers", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			call := k.submit()
			k.fails(k.job(call), "Docker is away", true)
			k.functions.mu.Lock()
			k.functions.d.ID = "f2"
			k.functions.mu.Unlock()
			k.wait(firstPause)
			require.Len(t, k.dispatched(), 1)
			require.Empty(t, k.waiting())
			require.Equal(t, []string{"CALL", "PENDING", "PENDING: Docker is away", "FAILED: cancelled: the function was removed"}, k.events(call))
		})
	})
}
