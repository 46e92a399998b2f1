package scheduler

import (
	"context"
	"strings"
	"time"

	"github.com/funcd/funcd/api"
)

// take gives the call to the allocation that asks for it, for good. It is written down before the container is told, so that no other
// can ever get it.
func (r *run) take(ctx context.Context, allocation api.Allocation) (*api.Assignment, []byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if allocation.Dispatch == r.job {
		r.asked = time.Now()
	}
	if r.unsure {
		if err := r.learn(ctx); err != nil {
			return nil, nil, err
		}
	}
	return r.give(ctx, allocation)
}

// give is take of what is known of the call. r.mu is held.
func (r *run) give(ctx context.Context, allocation api.Allocation) (*api.Assignment, []byte, error) {
	if r.job == "" || r.rec.Attempts > r.attempt {
		return nil, nil, api.Errorf(api.NotFound, "the call is not offered yet")
	}
	if !strings.HasPrefix(r.job, allocation.Job+"/") {
		return nil, nil, api.Errorf(api.Forbidden, "the call is of another function")
	}
	if r.rec.State == api.Running && has(&r.rec, &allocation) {
		// Its first answer was lost.
		if err := r.relink(ctx); err != nil {
			return nil, nil, err
		}
		return r.assignment(), r.payload(&allocation), nil
	}
	if r.rec.State == api.Running && r.rec.Allocation == allocation.ID {
		r.replace()
		return nil, nil, api.Errorf(api.Conflict, "the call was another container's, which is gone")
	}
	// A slot may be so late that the call was handed on; a container from before a crash may come while a slot has the call.
	stale := allocation.Slot && (!r.slot || r.claimed != allocation.ID)
	if r.rec.State != api.Pending || stale {
		return nil, nil, api.Errorf(api.Conflict, "the call is another container's")
	}
	if r.slot && !allocation.Slot {
		return nil, nil, api.Errorf(api.NotFound, "the call is not offered yet")
	}
	if !allocation.Slot {
		if err := r.suits(ctx, &allocation); err != nil {
			return nil, nil, err
		}
	}
	if err := r.relink(ctx); err != nil {
		return nil, nil, err
	}
	rec := r.rec
	rec.State, rec.Message, rec.RetryAt = api.Running, "", time.Time{}
	rec.Job, rec.Allocation, rec.Runner = r.job, allocation.ID, allocation.Runner
	rec.Started, rec.Timeout = time.Now(), r.function.Function.Timeout
	version, err := r.s.cfg.Records.SaveRecord(ctx, rec, r.version)
	switch api.CodeOf(err) {
	case "":
		r.rec, r.version = rec, version
		r.given(ctx)
		return r.assignment(), r.payload(&allocation), nil
	case api.Conflict: // it may be stored after all, if the answer to an earlier try was lost
		err = r.learn(ctx)
	default:
		r.unsure = true
	}
	switch {
	case err != nil:
		return nil, nil, err
	case r.rec.State == api.Pending:
		return r.give(ctx, allocation) // with the version that is stored
	case r.rec.State == api.Running && has(&r.rec, &allocation):
		return r.assignment(), r.payload(&allocation), nil
	}
	return nil, nil, api.Errorf(api.Conflict, "the call is another container's, or over")
}

// behindTime is how long a container waits for a server to hear of the update of which the container is.
const behindTime = 10 * time.Second

// suits returns nil if a container that was started for the call may have it. One that was given up may not, as when its node is back: the call has another. And what is
// to be run must be of the container's image: the function may have been updated before its start, or in the moment after it. A container of the function as it was is turned
// away once, if the call may have another: that is of the update. r.mu is held.
func (r *run) suits(ctx context.Context, allocation *api.Allocation) error {
	if allocation.Dispatch != "" && allocation.Dispatch != r.job {
		return api.Errorf(api.Conflict, "the call has another container")
	}
	if allocation.Revision == 0 || allocation.Revision == r.function.Revision {
		return nil
	}
	function, err := r.s.cfg.Functions.ByID(ctx, r.call.Account, r.call.Name, r.call.Function)
	switch {
	case api.CodeOf(err) == api.NotFound:
		return api.Wrap(api.Conflict, err, "the function was removed")
	case err != nil:
		return err
	case function.Revision < allocation.Revision && r.behind.IsZero():
		r.behind = time.Now()
		fallthrough
	case function.Revision < allocation.Revision && time.Since(r.behind) < behindTime:
		return api.Errorf(api.NotFound, "the function's update is not known here yet")
	case function.Revision < allocation.Revision:
		return api.Errorf(api.Conflict, "the container is of an update that is not known")
	}
	r.function = &function
	if function.Revision == allocation.Revision || r.outdated || r.rec.Starts+1 >= r.s.cfg.Starts {
		return nil
	}
	r.outdated = true
	return api.Errorf(api.Conflict, "the function was updated after the start of the container")
}

// given notes that a container has the call. r.mu is held.
func (r *run) given(ctx context.Context) {
	if r.slot {
		r.used(r.job) // before the slot is told: it may be free again in the next millisecond, and says so itself
	}
	close(r.taken)
	r.s.event(ctx, r.rec.Function, api.Event{CallID: r.rec.CallID, Event: string(api.Running)})
}

// learn finds out what is stored where that is not sure, or was not what it was thought to be. A container that was written down to have the call has it, whatever
// was concluded meanwhile. The error is of code Conflict if the call is over, else Unavailable. r.mu is held.
func (r *run) learn(ctx context.Context) error {
	rec, version, err := r.s.cfg.Records.Record(ctx, r.call.Function, r.call.ID)
	none := api.CodeOf(err) == api.NotFound
	if err != nil && !none {
		return err
	}
	if none || r.version == 0 && !rec.State.Ended() { // a first record counts as long as its call is in the queue
		queued, err := r.queued(ctx)
		if err != nil {
			return err
		}
		if !queued {
			r.told()
			return api.Errorf(api.Conflict, "the call is over")
		}
	}
	if none {
		r.unsure = false // nothing was stored: what is on its way still makes the next try a Conflict
		return nil
	}
	before := r.rec.State
	r.rec, r.version, r.unsure = rec, version, false
	if before == api.Pending && rec.State == api.Running && rec.Attempts == r.attempt {
		r.slot = r.slot && r.claimed == rec.Allocation
		r.job = rec.Job
		r.given(ctx)
	}
	return nil
}

// payload is what a container that takes the call has to be given. A slot has the payload already.
func (r *run) payload(allocation *api.Allocation) []byte {
	if allocation.Slot {
		return nil
	}
	return r.call.Payload
}

func (r *run) assignment() *api.Assignment {
	f := &r.function.Function
	timeout := time.Duration(f.Timeout) * time.Second
	if r.rec.Timeout != 0 {
		timeout = time.Duration(r.rec.Timeout) * time.Second // it was taken before the function's was changed
	}
	calls := 1
	if extensions, err := f.Extensions(); err == nil && extensions.Reuse {
		calls = extensions.ReuseMax
	}
	signal, err := f.Config.StopSignal.Parse()
	killAfter := min(timeout, r.s.cfg.MaxKillTimeout)
	if err != nil || f.Config.StopSignal.Name() == "SIGKILL" {
		killAfter = 0
	}
	return &api.Assignment{
		CallID:     r.call.ID,
		Function:   r.call.Function,
		Command:    r.function.Command(),
		Env:        append(append([]string{}, r.call.Env...), f.Config.Env...),
		Tty:        f.Config.Tty,
		Timeout:    timeout,
		StopSignal: int(signal),
		KillAfter:  killAfter,
		LinkEnv:    r.links.env,
		Hosts:      r.links.hosts,
		Attempt:    r.rec.Attempts,
		MaxOutput:  r.s.cfg.MaxOutput,
		Calls:      calls,
	}
}

// replace tells the owner that the container of the call is gone.
func (r *run) replace() {
	select {
	case r.replaced <- struct{}{}:
	default:
	}
}

// has tells whether the call was given to this runner.
func has(rec *api.Record, allocation *api.Allocation) bool {
	return rec.Allocation == allocation.ID && rec.Runner == allocation.Runner
}
