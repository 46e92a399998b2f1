package scheduler

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// fakeServices has one service at most.
type fakeServices struct {
	mu    sync.Mutex
	name  string
	ip    string
	err   error
	asked []string
}

func (f *fakeServices) Endpoints(_ context.Context, account, service string) ([]api.Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, account+"/"+service)
	switch {
	case f.err != nil:
		return nil, f.err
	case service != f.name:
		return nil, api.Errorf(api.NotFound, "Consul has no service %s", service)
	}
	return []api.Endpoint{{IP: netip.MustParseAddr(f.ip), Port: 6379, Protocol: "tcp"}}, nil
}

func (f *fakeServices) set(name, ip string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.name, f.ip, f.err = name, ip, err
}

// linked has the function link to the service redis, which is at the address.
func (k *stack) linked(ip string) {
	k.functions.d.Function.HostConfig.Links = []string{"redis:cache"}
	k.services.set("redis", ip, nil)
}

func requireLinked(t *testing.T, ip string, a *api.Assignment) {
	t.Helper()
	require.Equal(t, []string{ip + "\tcache redis"}, a.Hosts)
	require.Contains(t, a.LinkEnv, "CACHE_PORT=tcp://"+ip+":6379")
	require.Contains(t, a.LinkEnv, "CACHE_NAME=/hello/cache")
}

func TestLinksOfAContainerThatIsStarted(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.linked("10.0.0.1")
		call := k.submit()
		k.services.set("redis", "10.0.0.2", nil) // while the container starts
		a, err := k.take(1, call)
		require.NoError(t, err)
		requireLinked(t, "10.0.0.2", a)
		require.Equal(t, []string{"acme/redis", "acme/redis"}, k.services.asked)
		again, err := k.take(1, call)
		require.NoError(t, err)
		require.Equal(t, a, again, "its first answer was lost")
		require.NoError(t, k.report(1, call, 0, ""))
	})
}

func TestLinksOfASlot(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.linked("10.0.0.1")
		slot := k.slot(1)
		k.services.set("redis", "10.0.0.2", nil) // since it was started
		call := k.submit()
		got := <-slot
		require.NoError(t, got.err)
		requireLinked(t, "10.0.0.2", got.assignment)
		require.NoError(t, k.begin(1, call))
		require.Len(t, k.services.asked, 1)
		require.NoError(t, k.report(1, call, 0, ""))
	})
}

func TestLinksAfterTheEndOfAServer(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.linked("10.0.0.1")
		call := k.submit()
		_, err := k.take(1, call)
		require.NoError(t, err)
		k.restart()
		a, err := k.take(1, call)
		require.NoError(t, err)
		requireLinked(t, "10.0.0.1", a)
		require.NoError(t, k.report(1, call, 0, ""))
	})
}

func TestCallWithoutItsServiceFails(t *testing.T) {
	const message = "link redis: Consul has no service redis"
	t.Run("before a container is started", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.linked("10.0.0.1")
			k.services.set("", "", nil)
			call := k.submit()
			k.requireFailed(call, api.CallFailed, message)
			require.Empty(t, k.dispatched())
		})
	})
	t.Run("while it starts", func(t *testing.T) {
		inBubble(t, func(t *testing.T, k *stack) {
			k.linked("10.0.0.1")
			call := k.submit()
			require.Len(t, k.dispatched(), 1)
			k.services.set("", "", nil)
			_, err := k.take(1, call)
			require.Equal(t, api.Expired, api.CodeOf(err), "the container ends")
			k.requireFailed(call, api.CallFailed, message)
			require.Equal(t, []string{k.job(call)}, k.stopped())
		})
	})
}

func TestCallsWaitForConsul(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.linked("10.0.0.1")
		k.services.set("", "", api.Errorf(api.Unavailable, "Consul does not answer"))
		call := k.submit()
		require.Equal(t, api.Pending, k.record(call).State)
		require.Equal(t, "link redis: Consul does not answer", k.record(call).Message)
		require.Empty(t, k.dispatched())
		k.services.set("redis", "10.0.0.1", nil)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		require.Len(t, k.dispatched(), 1)

		// A container asks again, too.
		k.services.set("", "", api.Errorf(api.Unavailable, "Consul does not answer"))
		_, err := k.take(1, call)
		require.Equal(t, api.Unavailable, api.CodeOf(err))
		k.services.set("redis", "10.0.0.3", nil)
		a, err := k.take(1, call)
		require.NoError(t, err)
		requireLinked(t, "10.0.0.3", a)
		require.NoError(t, k.report(1, call, 0, ""))
	})
}

func TestCancelledCallDoesNotWaitForConsul(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.linked("10.0.0.1")
		k.services.set("", "", api.Errorf(api.Unavailable, "Consul does not answer"))
		call := k.submit()
		require.NoError(t, k.cancel(call))
		synctest.Wait()
		k.requireCancelled(call)
		require.Empty(t, k.dispatched())
	})
}
