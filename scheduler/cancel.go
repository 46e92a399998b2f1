package scheduler

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/funcd/funcd/api"
)

// Cancel ends a call of the function that has not ended. One that waits never starts. One that runs has its container stopped, and ends as
// cancelled when that has ended, however its process ends. It is on disk when this returns nil, also for a call that was cancelled before. The
// error is of code NotFound if there is no such call or it was fetched, Conflict if it has ended in another way, or Unavailable.
func (s *Scheduler) Cancel(ctx context.Context, d *api.Definition, call string) error {
	for {
		rec, version, err := s.cancellable(ctx, d, call)
		if err != nil {
			return err
		}
		switch {
		case !rec.Cancelled.IsZero():
			return nil
		case rec.State.Ended():
			return api.Errorf(api.Conflict, "the call has ended: %s", rec.State)
		}
		waits := rec.State == api.Pending
		rec.Cancelled = time.Now()
		if waits {
			rec.Ended = rec.Cancelled
			endCancelled(&rec)
		}
		// Whoever gives the call to a container writes that down first: one of the two finds that it was too late.
		_, err = s.cfg.Records.SaveRecord(ctx, rec, version)
		if api.CodeOf(err) == api.Conflict {
			continue
		}
		if err != nil {
			return err
		}
		if waits {
			s.event(ctx, rec.Function, api.Event{CallID: rec.CallID, Event: string(rec.State), Message: rec.Message})
			s.withdraw(ctx, rec)
		}
		s.cfg.Messages.NotifyChange(rec.CallID)
		if waits {
			s.cfg.Messages.NotifyEnd(rec.Function, rec.CallID)
		}
		return nil
	}
}

// cancelsAtOnce is how many calls of a function are cancelled at a time, each of which is a write to disk or two.
const cancelsAtOnce = 16

// CancelAll cancels all calls of a function that have not ended. The error is of code Unavailable; some may be cancelled then.
func (s *Scheduler) CancelAll(ctx context.Context, account, function string) error {
	calls, err := s.cfg.Queue.CallsInFlight(ctx, account, function)
	if err != nil {
		return err
	}
	var cancelling errgroup.Group
	cancelling.SetLimit(cancelsAtOnce)
	for _, call := range calls {
		cancelling.Go(func() error {
			err := s.Cancel(ctx, &api.Definition{ID: function, Account: account}, call)
			if code := api.CodeOf(err); code == api.NotFound || code == api.Conflict {
				return nil // it has ended by itself
			}
			return err
		})
	}
	return cancelling.Wait()
}

// cancellable is lookup with the record's version.
func (s *Scheduler) cancellable(ctx context.Context, d *api.Definition, call string) (api.Record, uint64, error) {
	for again := true; ; again = false {
		rec, version, err := s.cfg.Records.Record(ctx, d.ID, call)
		if err == nil && !rec.Fetched.IsZero() {
			return api.Record{}, 0, fetched(&rec)
		}
		if api.CodeOf(err) != api.NotFound {
			return rec, version, err
		}
		queued, err := s.cfg.Queue.Queued(ctx, d.Account, d.ID, call)
		if err == nil {
			return pendingRecord(queued), 0, nil
		}
		if api.CodeOf(err) != api.NotFound || !again {
			return api.Record{}, 0, err
		}
		// It may have left the queue between the two looks.
	}
}

// withdraw takes a call that was cancelled before it had a container out of the queue. Where it stays, whoever gets it finds that it has ended.
func (s *Scheduler) withdraw(ctx context.Context, rec api.Record) {
	s.mu.Lock()
	owned := s.owned[rec.CallID] != nil
	s.mu.Unlock()
	if owned {
		return // its owner stops what it has started for the call, and then gives up its part of the quota
	}
	if rec.Options.AtEnd() {
		if err := s.atEnd(ctx, nil, rec); err != nil {
			s.log.Debug("a cancelled call stays in the queue", "call", rec.CallID, "error", err)
			return // whoever gets it sees to that
		}
	}
	if err := s.cfg.Queue.Withdraw(ctx, rec.Account, rec.Function, rec.CallID); err != nil {
		s.log.Debug("a cancelled call stays in the queue", "call", rec.CallID, "error", err)
	}
}

// errCancelled is what a container that has run a cancelled call is told.
var errCancelled = api.Errorf(api.Cancelled, "the call was cancelled, and its container is to end")

// endCancelled makes rec that of a cancelled call that has ended.
func endCancelled(rec *api.Record) {
	rec.State, rec.Code, rec.Message = api.Failed, api.Cancelled, "cancelled"
}

// watchChanges has the owners of calls told what others have changed. s.serving is held.
func (s *Scheduler) watchChanges() error {
	if s.unwatch != nil {
		return nil
	}
	stop, err := s.cfg.Messages.WatchChanges(func(call string) {
		s.mu.Lock()
		r := s.owned[call]
		s.mu.Unlock()
		if r != nil {
			r.told()
		}
	})
	s.unwatch = stop
	return err
}

// told has the run look at the call's record, and gives up the search for a container.
func (r *run) told() {
	r.unwanted()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// look makes up for messages about the call that were lost, as with the server that was to send them.
func (r *run) look(ctx context.Context) {
	rec, _, err := r.s.cfg.Records.Record(ctx, r.call.Function, r.call.ID)
	r.mu.Lock()
	ran := r.rec.State == api.Running
	r.mu.Unlock()
	switch {
	case api.CodeOf(err) == api.NotFound && ran: // it is over, and its answer was fetched
		r.told()
	case err != nil: // there is nothing to know, or it can't be known now
	case rec.State.Ended():
		r.s.cfg.Messages.NotifyEnd(r.call.Function, r.call.ID)
	case !rec.Cancelled.IsZero(), ran && rec.State == api.Pending:
		r.told()
	}
}

// functionRemoved ends the call of a function that was removed while the call was accepted or, by force, while it was executed.
func (r *run) functionRemoved(ctx context.Context, rec api.Record) error {
	if rec.State != api.Running {
		return r.end(ctx, api.Cancelled, "cancelled: the function was removed")
	}
	r.mu.Lock()
	r.job = rec.Job
	r.mu.Unlock()
	return r.abandon(ctx, api.Cancelled, "cancelled: the function was removed")
}

// over leaves a call that has ended, through whichever server.
func (r *run) over(ctx context.Context) error {
	r.mu.Lock()
	never := r.rec.State == api.Pending
	r.mu.Unlock()
	if !never {
		return r.leave(ctx)
	}
	done, _, err := r.stopCancelled(ctx)
	if err == nil && !done {
		err = api.Errorf(api.Conflict, "the end of the call was told, and is not written down")
	}
	return err
}

// stopAgain is how long after a failure a cancelled call's container is stopped again.
const stopAgain = time.Second

// stopCancelled does what is left to do for a call that was cancelled, or is to be tried again. done tells that it has left the queue. One that
// was cancelled while it runs leaves it when its container has reported or ended: it is told to here, or is to be told again.
func (r *run) stopCancelled(ctx context.Context) (done bool, again <-chan time.Time, err error) {
	rec, _, err := r.s.cfg.Records.Record(ctx, r.call.Function, r.call.ID)
	if api.CodeOf(err) == api.NotFound {
		err = r.leaveIfOver(ctx)
		return err == nil, nil, err
	}
	if err != nil {
		return false, nil, err
	}
	runs := rec.State == api.Running && !rec.Cancelled.IsZero()
	// A container that was started for a call that never got there has none. A slot goes on to the next call by itself.
	job, slot := r.container()
	useless := rec.Code == api.Cancelled && rec.Allocation == "" && rec.Attempts == r.attempt && job != "" && !slot
	if (runs || useless) && !r.stopped {
		if err := r.s.cfg.Cluster.Stop(ctx, job); err != nil {
			r.log.Warn("the container of a cancelled call still runs", "job", job, "error", err)
			again = time.After(stopAgain)
		} else {
			r.stopped = true
		}
	}
	switch {
	case rec.State.Ended():
		return true, nil, r.leave(ctx)
	case rec.Attempts > r.attempt:
		return true, nil, r.postpone(ctx, rec)
	}
	return false, again, nil
}
