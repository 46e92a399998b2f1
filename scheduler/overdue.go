package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/funcd/funcd/api"
)

// overtime is how long word of a container that has ended may take: from its runner, before its owner stops it, and then from the cluster.
const overtime = 10 * time.Second

// askAgain is how long after a failure the container of a call whose time is over is stopped again.
const askAgain = time.Second

// latestEnd is when the runner must have reported a call that has been taken.
func (r *run) latestEnd() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rec.Started.Add(time.Duration(r.rec.Timeout)*time.Second + r.patience(r.rec.Timeout))
}

// patience is what a container may take to end, of a call with a Timeout of so many seconds, that is told to, and to be heard of.
func (r *run) patience(timeout int) time.Duration {
	return min(time.Duration(timeout)*time.Second, r.s.cfg.MaxKillTimeout) + overtime
}

// enforce stops the container of a call that was not heard of until its latest end. It may have ended long ago while the cluster could not say
// so, for another reason than its Timeout: the cluster is given the time to tell of that (see observe). done means that it has not, and that the
// call has ended by its Timeout. While the cluster does not answer nothing is concluded. again is when to call this once more.
func (r *run) enforce(ctx context.Context) (done bool, again <-chan time.Time, err error) {
	rec, err := r.load(ctx)
	switch {
	case api.CodeOf(err) == api.NotFound:
		return true, nil, r.leaveIfOver(ctx)
	case err != nil:
		return false, nil, err
	case rec.State != api.Running || rec.Attempts > r.attempt:
		return true, nil, r.end(ctx, api.CallTimeout, timeoutMessage(rec)) // its container may serve the next call already
	}
	job, _ := r.container()
	if err := r.s.cfg.Cluster.Stop(ctx, job); err != nil {
		r.log.Warn("the container of a call whose time is over may still run", "job", job, "error", err)
		r.enforced = false
		return false, time.After(askAgain), nil
	}
	if !r.enforced {
		r.enforced = true
		return false, time.After(r.patience(rec.Timeout)), nil
	}
	// Its runner would have told that the function ran into its Timeout. Nomad may have forgotten the container, and what has become of it is not known.
	return true, nil, r.end(ctx, api.CallTimeout, fmt.Sprintf("timeout: no result came within %d s, and Nomad says that its container runs on", rec.Timeout))
}
