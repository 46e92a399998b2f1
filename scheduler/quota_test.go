package scheduler

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// quotas are what Consul says, once it does.
type quotas struct{ atomic.Pointer[map[string]int] }

func (q *quotas) get() (map[string]int, bool) {
	if m := q.Load(); m != nil {
		return *m, true
	}
	return nil, false
}

func (q *quotas) set(m map[string]int) { q.Store(&m) }

func TestQuotasTakeEffectWhileCallsRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newStack(t)
		var q quotas
		k.s.cfg.Quotas = q.get
		require.NoError(t, k.s.UpdateQuotas(t.Context()), "nothing is known yet")
		for range 20 {
			k.submit()
		}
		require.Len(t, k.dispatched(), testQuota, "the server's own, as there was none before")

		q.set(map[string]int{"acme": 12, "other": 99})
		require.NoError(t, k.s.UpdateQuotas(t.Context()))
		synctest.Wait()
		require.Len(t, k.dispatched(), 12)

		k.store.failing(func(operation string) error {
			if operation == "SetQuota" {
				return api.Errorf(api.Unavailable, "the store does not answer")
			}
			return nil
		})
		q.set(map[string]int{"acme": 20})
		require.Equal(t, api.Unavailable, api.CodeOf(k.s.UpdateQuotas(t.Context())))
		synctest.Wait()
		require.Len(t, k.dispatched(), 12)
		k.store.failing(nil)
		require.NoError(t, k.s.UpdateQuotas(t.Context()), "it is tried again")
		synctest.Wait()
		require.Len(t, k.dispatched(), 20)

		q.set(map[string]int{})
		require.NoError(t, k.s.UpdateQuotas(t.Context()))
		k.submit()
		require.Len(t, k.dispatched(), 20, "no key states one any more")
		got, err := k.store.Quota(t.Context(), "acme")
		require.NoError(t, err)
		require.Equal(t, testQuota, got)
	})
}

func TestQuotaOfBeforeCountsUntilConsulIsRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newStack(t)
		var q quotas
		q.set(map[string]int{"acme": 2})
		k.s.cfg.Quotas = q.get
		for range 4 {
			k.submit()
		}
		require.Len(t, k.dispatched(), 2)
		k.s.Stop()

		k.s = k.server()
		var unknown quotas
		k.s.cfg.Quotas = unknown.get
		require.NoError(t, k.s.ServeAll(t.Context()))
		synctest.Wait()
		calls := k.dispatched()
		slices.Sort(calls)
		require.Len(t, slices.Compact(calls), 2, "the same, not as many as the server's own for a moment")
	})
}
