package scheduler

import (
	"context"
	"errors"
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

	attempt int // as the record's Attempts were at the start

	// wanted ends when the call is cancelled, or the server stops.
	wanted   context.Context
	unwanted context.CancelFunc
	changed  chan struct{} // holds a value when somebody else has changed the record
	stopped  bool          // its container was told to stop, as the call is cancelled
	enforced bool          // its container was told to stop, as its time is over
	final    bool          // what has become of the container is not to be tried again

	mu       sync.Mutex
	function *api.Definition // as it was when the call's container was started, or is to be
	outdated bool            // a container was turned away as the function was updated after its start
	behind   time.Time       // since when a container waits for this server to hear of an update
	asked    time.Time       // when the container asked for the call last

	job     string   // of the container that the call is meant for, empty while there is none
	slot    bool     // job is that of a slot, which has the payload already
	claimed string   // the slot's allocation
	links   links    // as they were resolved last
	d       Delivery // the latest, if the lease ended although this server was there
	left    Delivery // what the run has ended with: one that came after it is not its own
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

// last is delivery, for the run's end.
func (r *run) last() Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left = r.d
	return r.d
}

// late is a delivery that came after the run's end, as one of the call's next attempt, or nil.
func (r *run) late() Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.d == r.left {
		return nil
	}
	return r.d
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
	if err := r.last().Return(delay); err != nil {
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
	if api.CodeOf(err) == api.NotFound && r.call.Attempt > 0 {
		return r.leave(ctx) // it is over
	}
	if api.CodeOf(err) == api.NotFound && !r.delivery().Fresh() {
		// It may have ended and been fetched in the moment of its delivery. It is then in the queue no more.
		var queued bool
		if queued, err = r.queued(ctx); err == nil && !queued {
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
	if err := r.refresh(ctx); errors.Is(err, errRemoved) {
		return r.functionRemoved(ctx, rec)
	} else if err != nil {
		return err
	}
	// A call that was adopted may end at any moment, by a report: what counts here is what it was found as.
	adopted := rec.State == api.Running
	if adopted {
		r.job = rec.Job // nobody else knows the run yet
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
	if _, slot := r.container(); slot {
		watch.Reset(watchAfter)
	}
	defer watch.Stop()
	taken, expiry := (<-chan struct{})(r.taken), r.expiry()
	var deadline, pressing, placing, stopping, silence, unplaced <-chan time.Time
	next := func(pause time.Duration) { // the call gets another container after the pause
		stopWatching()
		updates, stopWatching = nil, func() {}
		pressing, silence, unplaced, placing = nil, nil, nil, time.After(pause)
	}
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
			taken, expiry, silence, unplaced = nil, nil, nil, nil
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
			job, _ := r.container()
			updates, stopWatching = r.s.cfg.Cluster.Watch(ctx, r.definition(), job)
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
		case <-unplaced:
			unplaced = time.After(placeTime)
			job, _ := r.container()
			if err := r.s.cfg.Cluster.Evaluate(ctx, job); err != nil {
				r.log.Debug("the cluster was not asked for a place again", "job", job, "error", err)
			}
		case <-silence:
			if silence = r.untilSilent(); silence != nil {
				continue
			}
			pause, done, err := r.giveUpSilent(ctx)
			if done || err != nil {
				return err
			}
			if pause > 0 {
				next(pause)
			}
		case status := <-updates:
			if r.retried() {
				continue // what it says is of the attempt before
			}
			if pause, err := r.another(ctx, status); err != nil {
				return err
			} else if pause > 0 {
				next(pause)
				continue
			}
			if status.Running && taken != nil && silence == nil {
				silence = time.After(silentTime)
			}
			if status.Waiting == "" {
				unplaced = nil
			} else if unplaced == nil {
				unplaced = time.After(placeTime)
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

// placeTime is how often Nomad is asked again for a place for a container that waits for one. It does so by itself when a node changes, but misses a change that comes while
// it looks, as a Docker that is found to be back.
const placeTime = 30 * time.Second

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
	job, _ := r.container()
	if err := r.s.cfg.Cluster.Stop(ctx, job); err != nil {
		r.log.Warn("the container of an ended call may still run", "job", job, "error", err)
	}
	return nil
}

// container returns the job of the container that the call is meant for, empty while there is none, and whether it is a slot's.
func (r *run) container() (job string, slot bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.job, r.slot
}

// definition returns the function as the call is to be executed.
func (r *run) definition() *api.Definition {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.function
}

func (r *run) timeoutMessage() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return timeoutMessage(r.rec)
}

func timeoutMessage(rec api.Record) string {
	return fmt.Sprintf("timeout: it ran longer than %d s", rec.Timeout)
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
				return false, r.leaveIfOver(ctx)
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

// queued tells whether the call has not ended.
func (r *run) queued(ctx context.Context) (bool, error) {
	return r.s.cfg.Queue.IsQueued(ctx, r.call.Account, r.call.Function, r.call.ID)
}

// leaveIfOver leaves a call without a record, as it has ended and its answer was fetched. One that is in the queue still has a record that is just being written: the
// error is of code Unavailable then.
func (r *run) leaveIfOver(ctx context.Context) error {
	queued, err := r.queued(ctx)
	switch {
	case err != nil:
		return err
	case queued:
		return api.Errorf(api.Unavailable, "the record of the call is being written")
	}
	return r.leave(ctx)
}

// leave takes an ended call out of the queue, then tells those who wait for it.
func (r *run) leave(ctx context.Context) error {
	if err := r.atEnd(ctx); err != nil {
		return err
	}
	if err := r.last().Done(ctx); err != nil {
		return err
	}
	r.s.cfg.Messages.NotifyEnd(r.call.Function, r.call.ID)
	return nil
}
