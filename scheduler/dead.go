package scheduler

import (
	"context"

	"github.com/google/uuid"

	"github.com/funcd/funcd/api"
)

// Dead holds the calls that have failed. Its errors are of code Unavailable.
type Dead interface {
	// Bury keeps a call that has failed, as its record says. It may be called more than once for a call.
	Bury(ctx context.Context, call *api.Call, rec api.Record) error
	// DeadLetter returns a call that was buried, and the letter's version. The error is also of code NotFound.
	DeadLetter(ctx context.Context, account, call string) (of *api.Call, letter api.DeadLetter, version uint64, err error)
	// RemoveLetter removes this version of a letter, if it is there.
	RemoveLetter(ctx context.Context, account string, version uint64) error
}

// atEnd does what the function asks for at the end of its calls. It is called before a call leaves the queue, so that it is done whoever dies, and
// may be called more than once. call is nil for one that was cancelled before it had a container. The error is of code Unavailable.
func (s *Scheduler) atEnd(ctx context.Context, call *api.Call, rec api.Record) error {
	if rec.Options.Dead && call != nil && rec.State == api.Failed && rec.Code != api.Cancelled {
		if err := s.cfg.Dead.Bury(ctx, call, rec); err != nil {
			return err
		}
	}
	if rec.Options.Callback != "" {
		return s.callBack(ctx, rec)
	}
	return nil
}

// atEnd is the scheduler's for the run's call, if it has ended. Where its answer was fetched already, Delivered has seen to it.
func (r *run) atEnd(ctx context.Context) error {
	if !r.call.Options.AtEnd() {
		return nil
	}
	rec, _, err := r.s.cfg.Records.Record(ctx, r.call.Function, r.call.ID)
	if api.CodeOf(err) == api.NotFound || err == nil && (!rec.State.Ended() || !rec.Fetched.IsZero()) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.s.atEnd(ctx, r.call, rec)
}

// requeued is what the ids of requeued calls are made in: a call's is always the same.
var requeued = uuid.MustParse("6b9c9c0e-8b3a-4f0b-9d57-0d5d3f8c1a52")

// Requeue makes a new call of a dead letter, with the function as it is now, and returns its id. It is queued, and the letter removed, when this
// returns nil. The error is of code NotFound or Unavailable. A letter always becomes the same call: where this breaks off, the letter is
// there still, and to requeue it again makes no second call, unless the first one was fetched meanwhile.
func (s *Scheduler) Requeue(ctx context.Context, account, id string) (string, error) {
	buried, _, version, err := s.cfg.Dead.DeadLetter(ctx, account, id)
	if err != nil {
		return "", err
	}
	d, err := s.cfg.Functions.ByID(ctx, account, buried.Name, buried.Function)
	if err != nil {
		return "", err
	}
	call := newCall(&d, buried.Env, buried.Payload)
	call.ID = uuid.NewSHA1(requeued, []byte(buried.ID)).String()
	queued, err := s.exists(ctx, &d, call.ID)
	if err != nil {
		return "", err
	}
	if !queued {
		if err := s.enqueueBy(ctx, call, s.cfg.Queue.EnqueueOnce); err != nil {
			return "", err
		}
	}
	return call.ID, s.cfg.Dead.RemoveLetter(ctx, account, version)
}

// RemoveDeadLetter removes a dead letter. The error is of code NotFound or Unavailable.
func (s *Scheduler) RemoveDeadLetter(ctx context.Context, account, id string) error {
	_, _, version, err := s.cfg.Dead.DeadLetter(ctx, account, id)
	if err != nil {
		return err
	}
	return s.cfg.Dead.RemoveLetter(ctx, account, version)
}
