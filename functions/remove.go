package functions

import (
	"context"
	"time"

	"github.com/funcd/funcd/api"
)

// Remove removes the function, its job and all that is kept of its calls. With force its calls are cancelled, else none may be in flight. It
// blocks until those that run have ended. The error is of code NotFound, Conflict while a call has not ended, or Unavailable.
func (s *Service) Remove(ctx context.Context, account, name string, force bool) error {
	d, err := s.cfg.Store.Get(ctx, account, name)
	if err != nil {
		return err
	}
	n, err := s.cfg.Calls.InFlight(ctx, account, d.ID)
	if n > 0 && !force {
		n, err = s.leaving(ctx, account, d.ID, n)
	}
	if err != nil {
		return err
	}
	if n > 0 && !force {
		return api.Errorf(api.Conflict, "%s has calls that have not ended (%d)", name, n)
	}
	// From here on it takes no calls: one that is busy would otherwise never be without.
	if err := s.cfg.Store.Delete(ctx, account, name, d.ID); err != nil {
		return err
	}
	// It is gone for its callers. What is left of it is cleared away as far as its places answer; what is not is logged.
	ctx = context.WithoutCancel(ctx)
	if force {
		s.endCalls(ctx, account, d.ID)
	}
	s.clear(ctx, account, name, d.ID)
	s.log.Info("a function was removed", "function", d.ID, "account", account, "name", name)
	return nil
}

// leaveTime is how long a removal waits for calls that have ended to leave the queue.
const leaveTime = time.Second

// leaving returns how many of a function's n calls in flight have not ended. One that has leaves the queue in the moment after its answer: who has that and
// removes the function at once is not told that the call runs.
func (s *Service) leaving(ctx context.Context, account, id string, n int) (int, error) {
	bounded, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		status, err := s.cfg.Calls.Status(bounded, id) // which waits until the streams have been read
		if err != nil || status.Pending+status.Running > 0 {
			return n, nil
		}
		select {
		case <-bounded.Done():
			return n, nil
		case <-time.After(wait):
		}
		if n, err = s.cfg.Calls.InFlight(ctx, account, id); err != nil || n == 0 {
			return n, err
		}
	}
}

// clear removes what is left of a function without calls in flight. What it does not reach is logged, and left to Repair.
func (s *Service) clear(ctx context.Context, account, name, id string) {
	ctx, cancel := context.WithTimeout(ctx, undoTime)
	defer cancel()
	if err := s.cfg.Cluster.Remove(ctx, account, name, id); err != nil {
		s.log.Warn("jobs of a removed function are left behind", "function", id, "error", err)
	}
	if err := s.cfg.Calls.RemoveFunction(ctx, id); err != nil {
		s.log.Warn("outputs and logs of a removed function are left behind", "function", id, "error", err)
	}
}

// How often it is looked whether calls have ended.
const (
	firstLook = 20 * time.Millisecond
	lastLook  = time.Second
)

// endCalls cancels the calls of a function that takes no more, and returns when all have ended, or have had the time for it.
func (s *Service) endCalls(ctx context.Context, account, id string) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StopTime+undoTime)
	defer cancel()
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		// Each time, as a server may have accepted one that had not heard yet.
		err := s.cfg.Cancel.CancelAll(ctx, account, id)
		n := 0
		if err == nil {
			n, err = s.cfg.Calls.InFlight(ctx, account, id)
		}
		if err == nil && n == 0 {
			return
		}
		select {
		case <-ctx.Done():
			s.log.Warn("calls of a removed function have not ended", "function", id, "calls", n, "error", err)
			return
		case <-time.After(wait):
		}
	}
}
