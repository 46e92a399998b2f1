package scheduler

import (
	"context"
	"errors"
	"time"

	"github.com/funcd/funcd/api"
)

// A call whose container has ended without having taken it is given another, after a pause that grows: what has kept the first from starting
// may pass.
const (
	firstPause = time.Second
	mostPause  = 16 * time.Second
)

// find is place for a call that may be cancelled meanwhile. left tells that it has left the queue.
func (r *run) find(ctx context.Context, started bool) (left bool, err error) {
	wanted, cancel := r.untilExpiry()
	defer cancel()
	if context.Cause(wanted) == errExpired {
		return r.expire(ctx)
	}
	err = r.place(wanted, started)
	switch {
	case err == nil:
		return false, nil
	case context.Cause(wanted) == errExpired:
		return r.expire(ctx)
	case errors.Is(err, errRemoved):
		r.mu.Lock()
		rec := r.rec
		r.mu.Unlock()
		return true, r.functionRemoved(ctx, rec)
	case api.CodeOf(err) == api.Invalid:
		return true, r.end(ctx, api.CallFailed, api.MessageOf(err))
	case ctx.Err() != nil || r.wanted.Err() == nil:
		return false, err
	}
	done, _, stopErr := r.stopCancelled(ctx)
	if done || stopErr != nil {
		return done, stopErr
	}
	if job, _ := r.container(); job == "" {
		return false, err
	}
	return false, nil
}

// silentTime is how long a container runs before it must have asked for its call. It asks at once, and again within a minute where a server was silent.
const silentTime = 3 * time.Minute

// untilSilent comes when the container has been silent for silentTime. It is nil if it has.
func (r *run) untilSilent() <-chan time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if left := silentTime - time.Since(r.asked); left > 0 { // it can't be given the call: a service of its links is not known, or the store is away
		return time.After(left)
	}
	return nil
}

// giveUpSilent gives up a container that runs, as the cluster says, and does not ask for its call: Nomad may have forgotten it, as when its client was killed before it had
// told of the container's end, or nothing reaches it. The call gets another after the pause, or has ended and left the queue, if done says so, or was taken after all.
func (r *run) giveUpSilent(ctx context.Context) (pause time.Duration, done bool, err error) {
	const silent = "the container runs and does not ask for its call"
	pause, err = r.another(ctx, api.JobStatus{Ended: true, Another: true, Message: silent})
	if pause > 0 || err != nil {
		return pause, false, err
	}
	if _, slot := r.container(); slot {
		return 0, false, nil
	}
	done, err = r.endWaiting(ctx, silent)
	return 0, done, err
}

// starts is the number of the container that the call has, or is to get.
func (r *run) starts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rec.Begun + r.rec.Starts
}

// another notes that the call is to have another container, and returns after which pause, if the status says that this one has ended before it
// took the call, and another may fare better. It returns 0 if not.
func (r *run) another(ctx context.Context, status api.JobStatus) (pause time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !status.Ended || !status.Another || r.rec.State != api.Pending || r.slot || r.rec.Starts+1 >= r.s.cfg.Starts {
		return 0, nil
	}
	rec := r.rec
	rec.Starts++
	rec.Job, rec.Message = "", status.Message
	// It is on disk before the next container is started, so that who takes the call over does not start it a second time.
	version, err := r.s.cfg.Records.SaveRecord(ctx, rec, r.version)
	if err != nil {
		return 0, err
	}
	last := r.job
	r.rec, r.version, r.job, r.behind = rec, version, "", time.Time{}
	r.s.event(ctx, rec.Function, api.Event{CallID: rec.CallID, Event: string(api.Pending), Message: rec.Message})
	// Nomad may have replaced it already.
	if err := r.s.cfg.Cluster.Stop(ctx, last); err != nil {
		r.log.Warn("a container that has ended may be replaced", "job", last, "error", err)
	}
	r.log.Info("a call is given another container", "job", last, "starts", rec.Starts, "reason", rec.Message)
	return min(firstPause<<min(rec.Starts-1, 10), mostPause), nil
}
