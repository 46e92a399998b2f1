package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/funcd/funcd/api"
)

// Retry is the pause before a call whose function has failed is tried again: First, and doubled each time up to Most.
type Retry struct {
	First, Most time.Duration
}

func (r Retry) after(attempts int) time.Duration {
	pause := r.First
	for range attempts {
		if pause *= 2; pause >= r.Most {
			break
		}
	}
	return min(pause, r.Most)
}

// mayPass tells the failures of a function that another attempt may not have: not those of what is not in the image, and not the end that
// somebody has put to the container in Nomad.
func mayPass(outcome api.Outcome) bool {
	switch outcome {
	case api.NoCommand, api.NotStartable, api.Stopped:
		return false
	}
	return true
}

// again makes rec, of a call that has just failed after its start, that of a call which waits for its next attempt, if it has one left. What it
// has of the attempt goes with it.
func (s *Scheduler) again(rec *api.Record) bool {
	options, now := rec.Options, time.Now()
	if rec.State != api.Failed || rec.Code == api.Cancelled || rec.Attempts >= options.Retries {
		return false
	}
	pause := s.cfg.Retry.after(rec.Attempts)
	if options.MaxAge > 0 && now.Add(pause).Sub(rec.Accepted) > options.MaxAge {
		return false
	}
	*rec = api.Record{
		CallID: rec.CallID, Function: rec.Function, Name: rec.Name, Account: rec.Account, Accepted: rec.Accepted, Options: options,
		State: api.Pending, Attempts: rec.Attempts + 1, Begun: rec.Begun + rec.Starts + 1, RetryAt: now.Add(pause),
		Message: fmt.Sprintf("attempt %d of %d has failed, the next comes in %s: %s", rec.Attempts+1, options.Retries+1, pause, rec.Message),
	}
	return true
}

// retry has the owner of a call, of which it was reported that it failed, put it aside.
func (s *Scheduler) retry(rec api.Record) {
	s.mu.Lock()
	owner := s.owned[rec.CallID]
	s.mu.Unlock()
	if owner == nil {
		s.cfg.Messages.NotifyChange(rec.CallID)
		return
	}
	owner.mu.Lock()
	owner.rec = rec // from here on no container is given it
	owner.mu.Unlock()
	owner.told()
}

// retried tells whether the attempt that the run is for is over.
func (r *run) retried() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rec.Attempts > r.attempt
}

// postpone takes a call that waits for its next attempt out of the quota until then.
func (r *run) postpone(ctx context.Context, rec api.Record) error {
	aside := *r.call
	aside.Attempt = rec.Attempts
	if err := r.s.cfg.Queue.Postpone(ctx, &aside, rec.RetryAt); err != nil {
		return err
	}
	return r.last().Done(ctx)
}

// errExpired is why the search for a container ends when a call has waited for its MaxAge.
var errExpired = errors.New("the call has expired")

// deadline is when the call must have started, the zero time for any. One that is tried again has started.
func (r *run) deadline() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.call.Options.MaxAge == 0 || r.rec.Attempts > 0 {
		return time.Time{}
	}
	return r.call.Accepted.Add(r.call.Options.MaxAge)
}

// untilExpiry is wanted, ended with errExpired when the call has waited for too long.
func (r *run) untilExpiry() (context.Context, context.CancelFunc) {
	if deadline := r.deadline(); !deadline.IsZero() {
		return context.WithDeadlineCause(r.wanted, deadline, errExpired)
	}
	return r.wanted, func() {}
}

// expiry comes when the call has waited for too long. It is nil if it can't.
func (r *run) expiry() <-chan time.Time {
	if deadline := r.deadline(); !deadline.IsZero() {
		return time.After(time.Until(deadline))
	}
	return nil
}

// expire ends a call that has waited for too long, and the container that was started for it, unless that has just taken it. done tells that it
// has left the queue.
func (r *run) expire(ctx context.Context) (done bool, err error) {
	return r.endWaiting(ctx, fmt.Sprintf("expired in the queue: it has waited for %s", r.call.Options.MaxAge))
}

// endWaiting ends a call that has not been taken, and the container that was started for it. done tells that it has left the queue: it may just have been taken.
func (r *run) endWaiting(ctx context.Context, message string) (done bool, err error) {
	r.mu.Lock()
	rec, job, slot := r.rec, r.job, r.slot
	if rec.State != api.Pending {
		r.mu.Unlock()
		return false, nil
	}
	rec.State, rec.Code, rec.Message, rec.Ended = api.Failed, api.CallFailed, message, time.Now()
	// Whoever takes it waits for the lock: it is too late then.
	version, err := r.s.cfg.Records.SaveRecord(ctx, rec, r.version)
	if err == nil {
		r.rec, r.version = rec, version
	}
	r.mu.Unlock()
	if err != nil {
		return false, err
	}
	r.s.event(ctx, rec.Function, api.Event{CallID: rec.CallID, Event: string(rec.State), Message: rec.Message})
	if job != "" && !slot {
		if err := r.s.cfg.Cluster.Stop(ctx, job); err != nil {
			r.log.Warn("the container of a call that has ended may still start", "job", job, "error", err)
		}
	}
	return true, r.leave(ctx)
}
