// Package scheduler is the life of a call: it is queued, waits for its account's quota, gets a container, runs, and ends in exactly one
// way. The package decides; it stores through Calls, and acts through Cluster.
//
// Any server may accept a call, give it to a container and take its result. One server at a time owns it: the one that the queue has
// delivered it to. The owner dispatches the container, watches it, and is who fails the call when nothing comes of it. If the owner dies,
// the queue delivers the call to another, which goes on where the record says that it stands.
package scheduler

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/funcd/funcd/api"
)

// Delivery is a call that the queue has given to this server.
type Delivery interface {
	Call() *api.Call
	// Fresh tells that nobody can have had the call before.
	Fresh() bool
	// Ours tells that this server has accepted the call, since it was started, and nobody else can have had it.
	Ours() bool
	// Extend keeps the call with this server for another lease.
	Extend() error
	// Done removes the call from the queue for good.
	Done(ctx context.Context) error
	// Return gives the call back, to be delivered again after the delay.
	Return(delay time.Duration) error
}

// Queue holds the calls that have not ended, for each account first in, first out. Its errors are of code Unavailable.
type Queue interface {
	Enqueue(ctx context.Context, call *api.Call) error
	// EnqueueOnce is Enqueue of a call that others may queue in the same moment.
	EnqueueOnce(ctx context.Context, call *api.Call) error
	// Queued returns a call that has not ended, or an error of code NotFound.
	Queued(ctx context.Context, account, function, call string) (*api.Call, error)
	// IsQueued tells whether a call has not ended, without reading it.
	IsQueued(ctx context.Context, account, function, call string) (bool, error)
	// CallsInFlight returns the ids of the function's calls that have not ended.
	CallsInFlight(ctx context.Context, account, function string) ([]string, error)
	// Withdraw takes a call out of the queue, if it is there.
	Withdraw(ctx context.Context, account, function, call string) error
	// Postpone puts a delivered call aside until then, for call.Attempt, outside of the quota. The delivery is to be Done after it.
	Postpone(ctx context.Context, call *api.Call, until time.Time) error
	// Consume delivers at most quota calls at a time, from one goroutine, until stop is called.
	Consume(ctx context.Context, account string, quota int, deliver func(Delivery)) (stop func(), err error)
	// Quota returns that of the account's last Consume or SetQuota, 0 for none. SetQuota changes that of an account that is consumed.
	Quota(ctx context.Context, account string) (int, error)
	SetQuota(ctx context.Context, account string, quota int) error
	// Accounts returns those that have a queue.
	Accounts(ctx context.Context) ([]string, error)
}

// Records holds what is known of calls. Its errors are of code NotFound, Unavailable and, for an output, Expired.
type Records interface {
	Record(ctx context.Context, function, call string) (rec api.Record, version uint64, err error)
	// SaveRecord stores rec if version is still the stored one's, 0 for none; else the error is of code Conflict.
	SaveRecord(ctx context.Context, rec api.Record, version uint64) (uint64, error)
	// Hold keeps what is saved of a call that is not queued yet in memory, until release stores it or Forget drops it. ok is false where
	// nothing is ever held.
	Hold(function, call string) (release func(context.Context) error, ok bool)
	// Running returns the calls of the function that have a container, as far as this server has heard.
	Running(ctx context.Context, function string) ([]string, error)
	SaveOutput(ctx context.Context, function, call string, output []byte) error
	Output(ctx context.Context, function, call string) ([]byte, error)
	// Forget removes all that is kept of an ended call.
	Forget(ctx context.Context, rec api.Record) error
}

// Messages is how servers tell each other of calls.
type Messages interface {
	// Offer lets containers take the call through any server until withdraw is called.
	Offer(call string, take func(context.Context, api.Allocation) (*api.Assignment, []byte, error)) (withdraw func(), err error)
	// Take takes an offered call. The error is of code NotFound if no server offers it, else what the offer's take returned.
	Take(ctx context.Context, call string, allocation api.Allocation) (*api.Assignment, []byte, error)
	// WaitEnd returns a channel that is closed when the call ends after this.
	WaitEnd(function, call string) (ended <-chan struct{}, stop func())
	NotifyEnd(function, call string)
	// NotifyChange tells those who watch, on all servers, that the record of a call was changed by another than its owner.
	NotifyChange(call string)
	WatchChanges(changed func(call string)) (stop func(), err error)
	// Log adds events to the function's log without waiting.
	Log(ctx context.Context, function string, events ...api.Event)
	// LastEvent returns the latest event of a call, or an error of code NotFound or Unavailable.
	LastEvent(ctx context.Context, function, call string) (api.Event, error)
}

// Slots is how calls find containers that were started ahead of them, on any server. Its errors are of code NotFound and Unavailable.
type Slots interface {
	// WaitSlot offers the slot until a call has claimed it. The error is of code NotFound if none has until ctx ended, and Expired if the
	// slot is to end.
	WaitSlot(ctx context.Context, slot api.Slot) (*api.Assignment, []byte, error)
	// ClaimSlot hands the call to a free slot of this revision of its function, which is then to take it.
	ClaimSlot(ctx context.Context, revision uint64, assignment *api.Assignment, payload []byte) (api.Slot, error)
	// NextReady returns a channel that is closed when a slot of the function becomes free, for the one who has waited longest. known tells
	// that the function has slots, if none is free. Whoever stops waiting before it is closed calls stop, once.
	NextReady(function string) (ready <-chan struct{}, known bool, stop func())
	// RetireSlot ends a free slot.
	RetireSlot(ctx context.Context, function string, revision uint64) (api.Slot, error)
	// SlotUsed and SlotPressure tell the server that keeps slots that a call has begun, and that one has no place in the cluster.
	SlotUsed(use api.Use)
	SlotPressure()
	// WatchSlots tells what happens to slots, and asks counts for SlotCounts, until stop is called.
	WatchSlots(ready func(api.Slot), used func(api.Use), pressure func(), counts func(function string) api.SlotCounts) (stop func(), err error)
	// SlotCounts asks the server that keeps slots.
	SlotCounts(ctx context.Context, function string) (api.SlotCounts, error)
}

// Cluster runs containers. Its errors are of code Unavailable if it does not answer and NotFound if it does not know the function.
type Cluster interface {
	Register(ctx context.Context, d *api.Definition) error
	// Dispatch starts a container for the call, its first of number 0; for one that there is it returns that one's job.
	Dispatch(ctx context.Context, account, name, call string, start int) (job string, err error)
	// DispatchSlot starts a container of the function ahead of any call.
	DispatchSlot(ctx context.Context, account, name string) (job string, err error)
	// Slots returns the containers that were started ahead of a call and have not ended.
	Slots(ctx context.Context) ([]api.Slot, error)
	// Watch tells the job's status and its changes until stop is called.
	Watch(ctx context.Context, d *api.Definition, job string) (updates <-chan api.JobStatus, stop func())
	// Evaluate has the cluster look for a place for the job once more.
	Evaluate(ctx context.Context, job string) error
	// Stop ends the job's container, if it runs.
	Stop(ctx context.Context, job string) error
	// Draining returns the ids of the allocations that are on nodes that are being drained.
	Draining(ctx context.Context) (map[string]bool, error)
	// EndedJobs returns the jobs of all containers that have ended, and Ended when one did: the zero time if it never began. ok is false if
	// it has not quite.
	EndedJobs(ctx context.Context) ([]api.EndedJob, error)
	Ended(ctx context.Context, job string) (end time.Time, ok bool, err error)
	// Purge removes a job from the cluster, at a bounded rate.
	Purge(ctx context.Context, job string) error
}

// Functions knows the functions.
type Functions interface {
	// ByID returns the account's function of this name if it has this internal id; one that was removed and made again has another. The
	// error is of code NotFound or Unavailable.
	ByID(ctx context.Context, account, name, id string) (api.Definition, error)
	// All returns all functions, from memory.
	All() []api.Definition
}

// Config is what a Scheduler works with. All of it is required but Room and ResultRoom.
type Config struct {
	Queue     Queue
	Records   Records
	Keys      Keys
	Dead      Dead
	Callbacks Callbacks
	Messages  Messages
	Slots     Slots
	Cluster   Cluster
	Functions Functions
	Services  Services

	// Quotas returns those of the accounts that have one of their own, from memory; nil if none has. known is false while that is not known yet.
	Quotas func() (byAccount map[string]int, known bool)
	// Room tells whether another call may be queued, and ResultRoom whether one may be started, with an error of code Unavailable if not; nil if one
	// always may.
	Room           func() error
	ResultRoom     func() error
	Quota          int           // calls of one account that are being executed at once, for all others
	Lease          time.Duration // how long the queue leaves a call with a server that does not extend it
	MaxKillTimeout time.Duration // between a function's StopSignal and SIGKILL, at most
	MaxOutput      int           // bytes of a call's output
	Starts         int           // containers that are started for one call, one after another, until one takes it
	Warm           Warm
	Keep           Keep
	Retry          Retry
	Logger         *slog.Logger
}

// Scheduler is the scheduler of one server. Make it with New, then ServeAll.
type Scheduler struct {
	cfg Config
	log *slog.Logger

	draining atomic.Pointer[map[string]bool] // what LookForDrains has found; nil before

	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	runs   sync.WaitGroup

	serving   sync.Mutex // held while an account's consumer is made, and before mu
	mu        sync.Mutex
	stopped   bool
	consumers map[string]*consumer  // by account
	owned     map[string]*run       // by call
	waited    map[string]api.Record // of calls that are held, by id
	refused   map[string]time.Time  // when the queue has not taken a call, by account
	unwatch   func()                // ends the watch for changes by others; guarded by serving
}

// New returns a scheduler that executes no calls yet.
func New(cfg Config) *Scheduler {
	ctx, cancel := context.WithCancel(context.Background())
	return &Scheduler{
		cfg:       cfg,
		log:       cfg.Logger.With("component", "scheduler"),
		ctx:       ctx,
		cancel:    cancel,
		consumers: map[string]*consumer{},
		owned:     map[string]*run{},
		waited:    map[string]api.Record{},
		refused:   map[string]time.Time{},
	}
}

// ServeAll begins to execute the calls of all accounts that have a queue, where this server does not do so yet. The error is of code
// Unavailable.
func (s *Scheduler) ServeAll(ctx context.Context) error {
	accounts, err := s.cfg.Queue.Accounts(ctx)
	if err != nil {
		return err
	}
	for _, account := range accounts {
		if err := s.Serve(ctx, account); err != nil {
			return err
		}
	}
	return nil
}

// Serve begins to execute the calls of an account, if this server does not do so yet.
func (s *Scheduler) Serve(ctx context.Context, account string) error {
	if s.serves(account) {
		return nil
	}
	// One at a time, so that an account has one consumer; calls of others go on meanwhile.
	s.serving.Lock()
	defer s.serving.Unlock()
	if s.serves(account) {
		return nil
	}
	if err := s.watchChanges(); err != nil {
		return err
	}
	quota, err := s.quotaOf(ctx, account)
	if err != nil {
		return err
	}
	stop, err := s.cfg.Queue.Consume(ctx, account, quota, s.deliver)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.consumers[account] = &consumer{stop: stop, quota: quota}
	return nil
}

// serves tells whether there is nothing to do to serve the account.
func (s *Scheduler) serves(account string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.consumers[account] != nil || s.stopped
}

func (s *Scheduler) deliver(d Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		// Nothing was done for it yet: another server has it at once.
		if err := d.Return(0); err != nil {
			s.log.Warn("a call waits for its lease to end", "call", d.Call().ID, "error", err)
		}
		return
	}
	if r := s.owned[d.Call().ID]; r != nil {
		r.redelivered(d)
		return
	}
	r := newRun(s, d)
	s.owned[r.call.ID] = r
	s.runs.Go(func() {
		r.main(s.ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.owned, r.call.ID)
		if late := r.late(); late != nil {
			if err := late.Return(0); err != nil {
				s.log.Warn("a call waits for its lease to end", "call", r.call.ID, "error", err)
			}
		}
	})
}

// Stop takes no more calls, hands those that it owns back to the queue with their containers running on, and returns when that is done.
// The next server to have them goes on with them. It may be called more than once, and before ServeAll.
func (s *Scheduler) Stop() {
	s.serving.Lock()
	s.mu.Lock()
	s.stopped = true
	consumers := s.consumers
	s.consumers = map[string]*consumer{}
	s.mu.Unlock()
	if s.unwatch != nil {
		s.unwatch()
		s.unwatch = nil
	}
	s.serving.Unlock()
	for _, c := range consumers {
		c.stop()
	}
	s.cancel()
	s.runs.Wait()
}
