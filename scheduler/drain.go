package scheduler

import "context"

// LookForDrains asks which containers are on nodes that are being drained, so that those of them that wait for a call end when they next ask
// for one, and are replaced elsewhere. Those that serve a call do so to its end. The error is of code Unavailable.
func (s *Scheduler) LookForDrains(ctx context.Context) error {
	draining, err := s.cfg.Cluster.Draining(ctx)
	if err != nil {
		return err
	}
	s.draining.Store(&draining)
	return nil
}

// isDraining tells whether the allocation's node is being drained, as far as that is known.
func (s *Scheduler) isDraining(allocation string) bool {
	draining := s.draining.Load()
	return draining != nil && (*draining)[allocation]
}
