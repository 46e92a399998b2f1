package scheduler

import (
	"context"
	"errors"
	"time"

	"github.com/funcd/funcd/api"
)

// place finds the call a container: a slot that waits, or one that is started for it. started tells that one may have been started before.
func (r *run) place(ctx context.Context, started bool) error {
	if !started {
		if err := r.awaitRoom(ctx); err != nil {
			return err
		}
	}
	if err := r.refresh(ctx); err != nil {
		return err
	}
	if err := r.link(ctx); err != nil {
		return err
	}
	if !started {
		if ok, err := r.findSlot(ctx); ok || err != nil {
			return err
		}
	}
	r.used("")
	return r.dispatch(ctx)
}

// errRemoved is why a call is given no container.
var errRemoved = errors.New("the function was removed")

// refresh takes the function as it is now, as its job is: the call may have waited for hours. The error is errRemoved, or of code Unavailable.
func (r *run) refresh(ctx context.Context) error {
	function, err := r.s.cfg.Functions.ByID(ctx, r.call.Account, r.call.Name, r.call.Function)
	if api.CodeOf(err) == api.NotFound {
		return errRemoved
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.function = &function
	return nil
}

// roomPause is how often a call looks whether there is room for its result.
const roomPause = time.Second

// awaitRoom waits until the call's result could be stored. Meanwhile the call stays pending and says why.
func (r *run) awaitRoom(ctx context.Context) error {
	for r.s.cfg.ResultRoom != nil {
		full := r.s.cfg.ResultRoom()
		if full == nil {
			return nil
		}
		if err := r.pendingBecause(ctx, "it is not started: "+api.MessageOf(full)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(roomPause):
		}
	}
	return nil
}

// reuseTime is how long a call waits for a container that serves another call now, where the function lets containers be reused: a new one
// would take as long to start, and much more of the machine.
const reuseTime = 300 * time.Millisecond

// findSlot gives the call to a slot. ok is false if it is to have a container of its own.
func (r *run) findSlot(ctx context.Context) (ok bool, err error) {
	function := r.definition()
	extensions, err := function.Function.Extensions()
	if err != nil {
		return false, err
	}
	var ready <-chan struct{}
	var enough <-chan time.Time
	stop := func() {}
	defer func() { stop() }()
	for {
		slot, ok, err := r.claim(ctx)
		switch {
		case ok || err != nil:
			return ok, err
		case slot.Job != "":
			continue // it has died: the next one
		case !extensions.Reuse:
			return false, nil
		case ready == nil:
			// It looks once more from here on, so that a slot that became free meanwhile is not missed.
			var known bool
			if ready, known, stop = r.s.cfg.Slots.NextReady(function.ID); !known {
				return false, nil
			}
			continue
		case enough == nil:
			enough = time.After(reuseTime)
		}
		select {
		case <-ready:
			ready, stop = nil, func() {}
		case <-enough:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// used tells that the call has begun in a slot, or without one.
func (r *run) used(slot string) {
	r.s.cfg.Slots.SlotUsed(api.Use{Account: r.call.Account, Name: r.call.Name, Function: r.call.Function, Job: slot})
}

// confirmTime is how long a slot that was handed a call may take to confirm it. One that has died does not.
const confirmTime = time.Second

// claim gives the call to a free slot. ok is false if the slot has not confirmed it, or, with an empty slot, if there is none.
func (r *run) claim(ctx context.Context) (slot api.Slot, ok bool, err error) {
	r.mu.Lock()
	assignment, revision := r.assignment(), r.function.Revision
	r.mu.Unlock()
	assignment.Confirm = true
	slot, err = r.s.cfg.Slots.ClaimSlot(ctx, revision, assignment, r.call.Payload)
	if api.CodeOf(err) == api.NotFound {
		return api.Slot{}, false, nil
	}
	if err != nil {
		return api.Slot{}, false, err
	}
	r.mu.Lock()
	if r.rec.State == api.Pending { // else the last one had it after all, and this one finds that out
		r.job, r.slot, r.claimed = slot.Job, true, slot.Allocation
	}
	r.mu.Unlock()
	timer := time.NewTimer(confirmTime)
	defer timer.Stop()
	select {
	case <-r.taken:
		return slot, true, nil
	case <-ctx.Done():
		return slot, false, ctx.Err()
	case <-timer.C:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.unsure {
		if err := r.learn(ctx); err != nil {
			return slot, false, err
		}
	}
	if r.rec.State == api.Running {
		return slot, true, nil
	}
	r.log.Info("a slot did not confirm its call", "slot", slot.Job)
	r.job, r.slot, r.claimed = "", false, ""
	return slot, false, nil
}

// dispatch starts the call's container, or finds the one that was started before a crash. While the cluster does not answer the call stays
// pending and says so.
func (r *run) dispatch(ctx context.Context) error {
	const first, most = 200 * time.Millisecond, 5 * time.Second
	registered := false
	for wait := first; ; wait = min(2*wait, most) {
		job, err := r.s.cfg.Cluster.Dispatch(ctx, r.call.Account, r.call.Name, r.call.ID, r.starts())
		if api.CodeOf(err) == api.NotFound && !registered {
			// The cluster has lost the function's job, or a server died before it was registered.
			registered = true
			if err := r.refresh(ctx); err != nil {
				return err
			}
			if err = r.s.cfg.Cluster.Register(ctx, r.definition()); err == nil {
				continue
			}
		}
		if err == nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.rec.State == api.Pending { // else a slot had it after all, and this container finds that out
				r.job = job
			}
			return nil
		}
		if api.CodeOf(err) != api.Unavailable || ctx.Err() != nil {
			return err
		}
		if err := r.pendingBecause(ctx, api.MessageOf(err)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}
