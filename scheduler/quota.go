package scheduler

import (
	"context"
	"errors"
	"maps"
	"slices"
)

// consumer is what delivers an account's calls to this server.
type consumer struct {
	stop  func()
	quota int // as this server has set it; guarded by Scheduler.serving
}

// quotaOf returns the account's quota. While it is not known what Consul says of it, that is what it was before.
func (s *Scheduler) quotaOf(ctx context.Context, account string) (int, error) {
	if s.cfg.Quotas == nil {
		return s.cfg.Quota, nil
	}
	byAccount, known := s.cfg.Quotas()
	if known {
		return s.quotaIn(byAccount, account), nil
	}
	quota, err := s.cfg.Queue.Quota(ctx, account)
	if err != nil {
		return 0, err
	}
	if quota == 0 {
		quota = s.cfg.Quota
	}
	return quota, nil
}

func (s *Scheduler) quotaIn(byAccount map[string]int, account string) int {
	if quota := byAccount[account]; quota > 0 {
		return quota
	}
	return s.cfg.Quota
}

// UpdateQuotas has each account's calls delivered by the quota that it has now. Calls over a smaller one go on. The error is of code Unavailable.
func (s *Scheduler) UpdateQuotas(ctx context.Context) error {
	if s.cfg.Quotas == nil {
		return nil
	}
	byAccount, known := s.cfg.Quotas()
	if !known {
		return nil
	}
	s.serving.Lock()
	defer s.serving.Unlock()
	s.mu.Lock()
	consumers := maps.Clone(s.consumers)
	s.mu.Unlock()
	var failed error
	for _, account := range slices.Sorted(maps.Keys(consumers)) {
		c, quota := consumers[account], s.quotaIn(byAccount, account)
		if c.quota == quota {
			continue
		}
		if err := s.cfg.Queue.SetQuota(ctx, account, quota); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		s.log.Info("the quota of an account has changed", "account", account, "quota", quota, "before", c.quota)
		c.quota = quota
	}
	return failed
}
