package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/funcd/funcd/api"
)

// run is a call that this server owns.
type run struct {
	s    *Scheduler
	call *api.Call
	log  *slog.Logger

	function *api.Definition // from start on
	attempt  int             // as the record's Attempts were then

	// wanted ends when the call is cancelled, or the server stops.
	wanted   context.Context
	unwanted context.CancelFunc
	changed  chan struct{} // holds a value when somebody else has changed the record
	stopped  bool          // its container was told to stop, as the call is cancelled
	enforced bool          // its container was told to stop, as its time is over
	final    bool          // what has become of the container is not to be tried again

	mu      sync.Mutex
	job     string   // of the container that the call is meant for, empty while there is none
	slot    bool     // job is that of a slot, which has the payload already
	claimed string   // the slot's allocation
	links   links    // as they were resolved last
	d       Delivery // the latest, if the lease ended although this server was there
	rec     api.Record
	version uint64        // of rec in the store, 0 for one that is not stored
	unsure  bool          // what is stored may be newer than rec, as an answer of the store was lost
	taken   chan struct{} // closed when a container has the call

	unlinked chan error    // holds why the call can't have its links
	replaced chan struct{} // holds a value when Nomad has started another container in place of the one that has the call
}

func newRun(s *Scheduler, d Delivery) *run {
	call := d.Call()
	r := &run{
		s:     s,
		d:     d,
		call:  call,
		log:   s.log.With("call", call.ID, "function", call.Function, "account", call.Account),
		taken: make(chan struct{}),

		changed:  make(chan struct{}, 1),
		unlinked: make(chan error, 1),
		replaced: make(chan struct{}, 1),
	}
	r.wanted, r.unwanted = context.WithCancel(s.ctx)
	return r
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

// watchAfter is how long a call may run in a slot before the slot's container is watched.
const watchAfter = time.Second

// pressure is how often a call that has no place in the cluster asks for one that a slot holds.
const pressure = time.Second

func (r *run) delivery() Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.d
}

func (r *run) redelivered(d Delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.d = d
}

// main owns the call until it has ended, or the server stops.
func (r *run) main(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var extending sync.WaitGroup
	extending.Go(func() { r.extend(ctx) })
	defer extending.Wait()
	defer cancel()
	defer r.unwanted()

	err := r.guard(ctx)
	if err == nil {
		return
	}
	// The call stays in the queue: it goes on with this server, or the next one.
	delay := time.Second
	if ctx.Err() != nil {
		delay = 0
	} else {
		r.log.Warn("a call goes back to the queue", "error", err)
	}
	if err := r.delivery().Return(delay); err != nil {
		r.log.Warn("a call waits for its lease to end", "error", err)
	}
}

// guard makes a panic in one call that call's end, not the server's.
func (r *run) guard(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("a call has panicked", "panic", p, "stack", string(debug.Stack()))
			err = r.end(ctx, api.Internal, "a fault in funcd, see its log")
		}
	}()
	return r.execute(ctx)
}

// extend keeps the call this server's.
func (r *run) extend(ctx context.Context) {
	tick := time.NewTicker(r.s.cfg.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := r.delivery().Extend(); err != nil {
				r.log.Warn("the lease of a call was not extended", "error", err)
			}
			r.look(ctx)
		}
	}
}

// execute brings the call to its end. A nil error means that it has left the queue.
func (r *run) execute(ctx context.Context) error {
	ended, stopWaiting := r.s.cfg.Messages.WaitEnd(r.call.Function, r.call.ID)
	defer stopWaiting()
	rec, err := r.load(ctx)
	if api.CodeOf(err) == api.NotFound && !r.delivery().Fresh() {
		// It may have ended and been fetched in the moment of its delivery. It is then in the queue no more.
		var queued bool
		if queued, err = r.s.cfg.Queue.IsQueued(ctx, r.call.Account, r.call.Function, r.call.ID); err == nil && !queued {
			return r.leave(ctx)
		}
		if err == nil && r.call.Held && !r.delivery().Ours() { // else it comes again as something did not answer
			return r.endHeld(ctx)
		}
	}
	if err != nil && api.CodeOf(err) != api.NotFound {
		return err
	}
	if rec.State.Ended() {
		return r.leave(ctx)
	}
	if time.Now().Before(rec.RetryAt) {
		return r.postpone(ctx, rec)
	}
	r.attempt = rec.Attempts
	function, err := r.s.cfg.Functions.ByID(ctx, r.call.Account, r.call.Name, r.call.Function)
	if api.CodeOf(err) == api.NotFound {
		return r.functionRemoved(ctx, rec)
	}
	if err != nil {
		return err
	}
	r.function = &function
	// A call that was adopted may end at any moment, by a report: what counts here is what it was found as.
	adopted := rec.State == api.Running
	if adopted {
		r.job = rec.Job
		close(r.taken)
		r.log.Info("a running call was adopted", "job", r.job)
		if !rec.Cancelled.IsZero() {
			r.told()
		}
	}
	withdraw, err := r.s.cfg.Messages.Offer(r.call.ID, r.take)
	if err != nil {
		return err
	}
	defer withdraw()
	if !adopted {
		if left, err := r.find(ctx, rec.Job != ""); left || err != nil {
			return err
		}
	}
	return r.await(ctx, ended)
}

// endHeld ends a call that was held by a server that has died: its caller has gone with it, and whether it has run was not written down.
func (r *run) endHeld(ctx context.Context) error {
	last, err := r.s.cfg.Messages.LastEvent(ctx, r.call.Function, r.call.ID)
	switch {
	case err == nil && api.State(last.Event).Ended():
		return r.leave(ctx) // it was answered
	case err != nil && api.CodeOf(err) != api.NotFound:
		return err
	}
	return r.end(ctx, api.CallFailed, "funcd was stopped while its caller waited: whether it has run is not known")
}

// load reads what is stored of the call, and returns it. If nothing is, the error is of code NotFound and the record a new one.
func (r *run) load(ctx context.Context) (api.Record, error) {
	rec, version, err := r.s.cfg.Records.Record(ctx, r.call.Function, r.call.ID)
	if api.CodeOf(err) == api.NotFound {
		rec, version = pendingRecord(r.call), 0
	} else if err != nil {
		return api.Record{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rec, r.version = rec, version
	return rec, err
}

// await watches the container until the call has ended: by its result, through whichever server, or because nothing can come any more.
func (r *run) await(ctx context.Context, ended <-chan struct{}) error {
	var updates <-chan api.JobStatus
	stopWatching := func() {}
	defer func() { stopWatching() }()
	// Most calls that have taken a slot end before the cluster could say anything of it.
	watch := time.NewTimer(0)
	if r.slot {
		watch.Reset(watchAfter)
	}
	defer watch.Stop()
	taken, expiry := (<-chan struct{})(r.taken), r.expiry()
	var deadline, pressing, placing, stopping <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ended:
			return r.over(ctx)
		case <-r.changed:
			stopping = time.After(0)
		case <-stopping:
			done, again, err := r.stopCancelled(ctx)
			if done || err != nil {
				return err
			}
			stopping = again
		case <-expiry:
			if done, err := r.expire(ctx); done || err != nil {
				return err
			}
		case <-taken:
			taken, expiry = nil, nil
			// One that was adopted may have ended in time, long ago: its result has waited for a server, and comes now.
			deadline = time.After(max(time.Until(r.latestEnd()), overtime))
		case <-r.replaced:
			// It may have started the function, so the new one must not.
			return r.abandon(ctx, api.CallFailed, "the container of the call is gone, Nomad has started another in its place")
		case err := <-r.unlinked:
			return r.abandon(ctx, api.CallFailed, api.MessageOf(err))
		case <-deadline:
			done, again, err := r.enforce(ctx)
			if done || err != nil {
				return err
			}
			deadline = again
		case <-watch.C:
			updates, stopWatching = r.s.cfg.Cluster.Watch(ctx, r.function, r.job)
		case <-pressing:
			// One slot is given up each time, until the call has a place.
			r.s.cfg.Slots.SlotPressure()
			pressing = time.After(pressure)
		case <-placing:
			placing = nil
			if left, err := r.find(ctx, false); left || err != nil {
				return err
			}
			watch.Reset(0)
		case status := <-updates:
			if r.retried() {
				continue // what it says is of the attempt before
			}
			if pause, err := r.another(ctx, status); err != nil {
				return err
			} else if pause > 0 {
				stopWatching()
				updates, stopWatching = nil, func() {}
				pressing, placing = nil, time.After(pause)
				continue
			}
			pressing = nil
			if status.Waiting != "" && !status.PortTaken { // no slot holds a port
				pressing = time.After(0)
			}
			if done, err := r.observe(ctx, status); done || err != nil {
				return err
			}
		}
	}
}

// notStarted is what a message begins with of a container that could not be started, which is not so if it has a call.
const notStarted = "the container can't be started: "

// observe draws the conclusions of what the cluster says. done means that the call has left the queue.
func (r *run) observe(ctx context.Context, status api.JobStatus) (done bool, err error) {
	r.mu.Lock()
	running, allocation := r.rec.State == api.Running, r.rec.Allocation
	r.mu.Unlock()
	switch {
	case status.Waiting != "" && !running:
		return false, r.pendingBecause(ctx, status.Waiting)
	case running && status.Allocation != "" && status.Allocation != allocation:
		// Nomad has replaced the container that has the call. It may have started the function, so the new one must not.
		return true, r.abandon(ctx, api.CallFailed, "node lost: the container of the call is gone")
	case status.Ended && running && strings.HasPrefix(status.Message, notStarted):
		// It has started, or could not have asked for the call; whoever started it was cut off before they heard of it.
		return true, r.abandon(ctx, api.CallFailed, "the container is lost: "+strings.TrimPrefix(status.Message, notStarted))
	case status.Ended && status.Stopped && r.enforced:
		return true, r.abandon(ctx, api.CallTimeout, r.timeoutMessage())
	case status.Ended && status.Code == "":
		return true, r.abandon(ctx, api.CallFailed, "the container ended without a result")
	case status.Ended:
		r.final = !status.Another
		return true, r.abandon(ctx, status.Code, status.Message)
	}
	return false, nil
}

// abandon ends a call whose result will not come, and its container. A result that came in the same moment wins.
func (r *run) abandon(ctx context.Context, code api.Code, message string) error {
	failed, err := r.fail(ctx, code, message)
	if err != nil || !failed {
		return err // a container that has reported may serve the next call already
	}
	if err := r.s.cfg.Cluster.Stop(ctx, r.job); err != nil {
		r.log.Warn("the container of an ended call may still run", "job", r.job, "error", err)
	}
	return nil
}

func (r *run) timeoutMessage() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return timeoutMessage(r.rec)
}

func timeoutMessage(rec api.Record) string {
	return fmt.Sprintf("timeout: it ran longer than %d s", rec.Timeout)
}

// take gives the call to the allocation that asks for it, for good. It is written down before the container is told, so that no other
// can ever get it.
func (r *run) take(ctx context.Context, allocation api.Allocation) (*api.Assignment, []byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.unsure {
		if err := r.learn(ctx); err != nil {
			return nil, nil, err
		}
	}
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
	case api.Conflict: // it may be stored after all, if the answer to an earlier try was lost
		if err := r.learn(ctx); err != nil {
			return nil, nil, err
		}
		if r.rec.State == api.Pending {
			return nil, nil, api.Errorf(api.Unavailable, "the call was not written down, ask again")
		}
		if r.rec.State != api.Running || !has(&r.rec, &allocation) {
			return nil, nil, api.Errorf(api.Conflict, "the call is another container's, or over")
		}
	default:
		r.unsure = true
		return nil, nil, err
	}
	return r.assignment(), r.payload(&allocation), nil
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
	if api.CodeOf(err) == api.NotFound {
		queued, err := r.s.cfg.Queue.IsQueued(ctx, r.call.Account, r.call.Function, r.call.ID)
		if err != nil {
			return err
		}
		if !queued {
			r.told()
			return api.Errorf(api.Conflict, "the call is over")
		}
		r.unsure = false // nothing was stored: what is on its way still makes the next try a Conflict
		return nil
	}
	if err != nil {
		return err
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

// pendingBecause notes why the call still waits.
func (r *run) pendingBecause(ctx context.Context, reason string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rec.State != api.Pending || r.rec.Message == reason {
		return nil
	}
	rec := r.rec
	rec.Message, rec.Job = reason, r.job
	version, err := r.s.cfg.Records.SaveRecord(ctx, rec, r.version)
	if err != nil {
		return err
	}
	r.rec, r.version = rec, version
	r.s.event(ctx, rec.Function, api.Event{CallID: rec.CallID, Event: string(api.Pending), Message: reason})
	return nil
}

// end is fail where it does not matter who has ended the call.
func (r *run) end(ctx context.Context, code api.Code, message string) error {
	_, err := r.fail(ctx, code, message)
	return err
}

// fail ends the call, unless it has ended meanwhile, and takes it out of the queue, or puts it aside for its next attempt. failed tells that it
// was this that has ended it, or its attempt.
func (r *run) fail(ctx context.Context, code api.Code, message string) (failed bool, err error) {
	for {
		r.mu.Lock()
		rec, version := r.rec, r.version
		r.mu.Unlock()
		if rec.State.Ended() {
			return false, r.leave(ctx)
		}
		if rec.Attempts > r.attempt {
			return false, r.postpone(ctx, rec)
		}
		ran, retry := rec.State == api.Running, false
		rec.State, rec.Code, rec.Message, rec.Ended = api.Failed, code, message, time.Now()
		if !rec.Cancelled.IsZero() {
			endCancelled(&rec)
		} else if ran && !r.final {
			retry = r.s.again(&rec)
		}
		version, err := r.s.cfg.Records.SaveRecord(ctx, rec, version)
		if api.CodeOf(err) == api.Conflict {
			_, err := r.load(ctx)
			if api.CodeOf(err) == api.NotFound {
				return false, r.leave(ctx) // it has ended, and its answer was fetched
			}
			if err != nil {
				return false, err
			}
			continue
		}
		if err != nil {
			return false, err
		}
		r.mu.Lock()
		r.rec, r.version = rec, version
		r.mu.Unlock()
		r.s.event(ctx, rec.Function, api.Event{CallID: rec.CallID, Event: string(rec.State), Message: rec.Message})
		if retry {
			return true, r.postpone(ctx, rec)
		}
		return true, r.leave(ctx)
	}
}

// leave takes an ended call out of the queue, then tells those who wait for it.
func (r *run) leave(ctx context.Context) error {
	if err := r.atEnd(ctx); err != nil {
		return err
	}
	if err := r.delivery().Done(ctx); err != nil {
		return err
	}
	r.s.cfg.Messages.NotifyEnd(r.call.Function, r.call.ID)
	return nil
}
