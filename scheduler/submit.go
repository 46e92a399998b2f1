package scheduler

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/funcd/funcd/api"
)

// Submit queues a call of the function and returns its id. The call is on disk then. The error is of code Unavailable.
func (s *Scheduler) Submit(ctx context.Context, d *api.Definition, env []string, payload []byte) (string, error) {
	call := newCall(d, env, payload)
	return call.ID, s.enqueue(ctx, call)
}

func newCall(d *api.Definition, env []string, payload []byte) *api.Call {
	extensions, _ := d.Function.Extensions() // one that was made under other rules asks for nothing
	return &api.Call{
		ID:       uuid.NewString(),
		Function: d.ID,
		Name:     d.Function.Name,
		Account:  d.Account,
		Accepted: time.Now(),
		Env:      env,
		Options:  extensions.Calls,
		Payload:  payload,
	}
}

func (s *Scheduler) enqueue(ctx context.Context, call *api.Call) error {
	return s.enqueueBy(ctx, call, s.cfg.Queue.Enqueue)
}

func (s *Scheduler) enqueueBy(ctx context.Context, call *api.Call, enqueue func(context.Context, *api.Call) error) error {
	if err := s.room(); err != nil {
		return err // the log has no room either
	}
	if err := s.Serve(ctx, call.Account); err != nil {
		return err
	}
	accepted := func() {
		s.event(ctx, call.Function, api.Event{CallID: call.ID, Event: api.Called, ShortStdin: api.Short(call.Payload)})
		s.event(ctx, call.Function, api.Event{CallID: call.ID, Event: string(api.Pending)})
	}
	// The events go first, so that the call's next one, which may come at once from another server, stands after them. Where calls are being refused, they would push
	// older lines out of the log: nothing is written of those, and one that is accepted comes to a queue that was full, so that its next event takes its time.
	refusing := s.refusing(call.Account)
	if !refusing {
		accepted()
	}
	err := enqueue(ctx, call)
	switch {
	case err == nil && refusing:
		accepted()
	case err != nil && !refusing:
		s.event(ctx, call.Function, api.Event{CallID: call.ID, Event: string(api.Failed), Message: "not accepted: " + api.MessageOf(err)})
	}
	if err != nil {
		s.mu.Lock()
		s.refused[call.Account] = time.Now()
		s.mu.Unlock()
	}
	return err
}

// refusedTime is for how long after a refusal an account's next call is likely to be refused too.
const refusedTime = time.Second

// refusing tells whether a call of the account was refused just now.
func (s *Scheduler) refusing(account string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.refused[account]
	return ok && time.Since(at) < refusedTime
}

// room tells whether another call may be queued. The error is of code Unavailable.
func (s *Scheduler) room() error {
	if s.cfg.Room == nil {
		return nil
	}
	return s.cfg.Room()
}

// holdTime is how long what is known of a call that its caller waits for is held in memory.
const holdTime = time.Second

// SubmitSync is Submit for a caller who waits for the answer. release must be called when the answer was delivered or won't be, once or more: a
// call that takes longer than holdTime, or whose answer was not delivered, is on disk from then on.
func (s *Scheduler) SubmitSync(ctx context.Context, d *api.Definition, env []string, payload []byte) (id string, release func(), err error) {
	call := newCall(d, env, payload)
	call.Options.Dead = false                // its caller is told
	if call.Options != (api.CallOptions{}) { // something of it lives on after its caller
		return call.ID, func() {}, s.enqueue(ctx, call)
	}
	store, held := s.cfg.Records.Hold(call.Function, call.ID)
	if !held {
		return call.ID, func() {}, s.enqueue(ctx, call)
	}
	call.Held = true
	waiting := call.ID // the payload is on disk while its caller waits, which may be all day: nothing below holds it
	s.mu.Lock()
	s.waited[waiting] = pendingRecord(call)
	s.mu.Unlock()
	var stored func()
	stored = func() {
		err := store(context.WithoutCancel(ctx))
		if err != nil && s.ctx.Err() == nil {
			s.log.Warn("what is known of a call is not stored yet", "call", waiting, "error", err)
			time.AfterFunc(holdTime, stored) // until it is: nobody else has it
		}
	}
	timer := time.AfterFunc(holdTime, stored)
	release = func() {
		timer.Stop()
		s.mu.Lock()
		delete(s.waited, waiting)
		s.mu.Unlock()
		stored()
	}
	if err := s.enqueue(ctx, call); err != nil {
		release()
		return "", release, err
	}
	return waiting, release, nil
}

// SlotCounts returns how many containers of the function wait for a call, and how many are to. The error is of code NotFound while no
// server keeps any.
func (s *Scheduler) SlotCounts(ctx context.Context, function string) (api.SlotCounts, error) {
	return s.cfg.Slots.SlotCounts(ctx, function)
}

// recheck is how often a waiter looks at the record, in case the message of the end was lost with the server that would have sent it.
const recheck = 15 * time.Second

// Output returns where a call of the function stands and, if it is Finished, its output. With wait it blocks until the call has ended or
// ctx is done. A call that failed is an error of the code and with the message of its record; one whose output had to make room is an error of
// code Expired. With both the record is returned too: it is to be given to Delivered once the answer has been. The error is of code
// NotFound if there is no such call, or it was fetched before.
func (s *Scheduler) Output(ctx context.Context, d *api.Definition, call string, wait bool) (api.Record, []byte, error) {
	ended, stop := s.cfg.Messages.WaitEnd(d.ID, call)
	defer stop()
	var away time.Time // since when the store does not answer
	for {
		rec, err := s.lookup(ctx, d, call)
		var output []byte
		if err == nil && rec.State == api.Finished {
			output, err = s.cfg.Records.Output(ctx, d.ID, call)
		}
		if wait && api.CodeOf(err) == api.Unavailable && s.pauseFor(ctx, &away) {
			continue
		}
		away = time.Time{}
		if err != nil {
			return rec, nil, err
		}
		switch {
		case rec.State == api.Finished:
			return rec, output, nil
		case rec.State == api.Failed:
			return rec, nil, &api.Error{Code: rec.Code, Message: rec.Message}
		case !wait:
			return rec, nil, nil
		}
		timer := time.NewTimer(recheck)
		select {
		case <-ctx.Done():
			timer.Stop()
			return rec, nil, api.Wrap(api.Unavailable, context.Cause(ctx), "the wait for the call was given up")
		case <-ended:
			ended = nil // closed for good; a record that is behind it, on another server, comes with the recheck
		case <-timer.C:
		}
		timer.Stop()
	}
}

// A wait goes on while the store does not answer, for as long as a NATS cluster needs for a new leader with a margin.
const (
	storePatience = 15 * time.Second
	storePause    = 500 * time.Millisecond
)

// pauseFor waits a moment for the store, which does not answer since away, or now. It returns false if that is too long ago, or ctx has ended.
func (s *Scheduler) pauseFor(ctx context.Context, away *time.Time) bool {
	if away.IsZero() {
		*away = time.Now()
	}
	if time.Since(*away) > storePatience {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(storePause):
		return true
	}
}

// lookup returns a call's record, made up for one that waits in the queue and has none yet.
func (s *Scheduler) lookup(ctx context.Context, d *api.Definition, call string) (api.Record, error) {
	rec, _, err := s.cfg.Records.Record(ctx, d.ID, call)
	if err == nil && !rec.Fetched.IsZero() {
		return api.Record{}, fetched(&rec)
	}
	if api.CodeOf(err) != api.NotFound {
		return rec, err
	}
	s.mu.Lock()
	waited, held := s.waited[call]
	s.mu.Unlock()
	if held && waited.Function == d.ID {
		return waited, nil
	}
	queued, err := s.cfg.Queue.IsQueued(ctx, d.Account, d.ID, call)
	if err != nil {
		return api.Record{}, err
	}
	if queued {
		return api.Record{CallID: call, Function: d.ID, Name: d.Function.Name, Account: d.Account, State: api.Pending}, nil
	}
	// It may have left the queue between the two looks.
	rec, _, err = s.cfg.Records.Record(ctx, d.ID, call)
	if err == nil && !rec.Fetched.IsZero() {
		return api.Record{}, fetched(&rec)
	}
	return rec, err
}

// fetched is the error of a call that is kept, but whose answer was fetched.
func fetched(rec *api.Record) error {
	return api.Errorf(api.NotFound, "no such call: %s has ended and its answer was fetched", rec.CallID)
}

func pendingRecord(call *api.Call) api.Record {
	return api.Record{
		CallID: call.ID, Function: call.Function, Name: call.Name, Account: call.Account, State: api.Pending, Accepted: call.Accepted,
		Options: call.Options,
	}
}

// Delivered removes an ended call whose answer has reached its caller.
func (s *Scheduler) Delivered(ctx context.Context, rec api.Record) error {
	if rec.Options.AtEnd() {
		// Its owner, on another server, may not have heard of the end yet.
		call, err := s.cfg.Queue.Queued(ctx, rec.Account, rec.Function, rec.CallID)
		if api.CodeOf(err) == api.NotFound && rec.Code == api.Cancelled && rec.Attempts > 0 {
			err = nil // it may have been cancelled where it was put aside, by a server that has died since: nobody else would do it
		}
		if err == nil {
			err = s.atEnd(ctx, call, rec)
		}
		if err != nil && api.CodeOf(err) != api.NotFound {
			return err
		}
	}
	return s.cfg.Records.Forget(ctx, rec)
}

func (s *Scheduler) event(ctx context.Context, function string, e api.Event) {
	e.Time = api.Timestamp{Time: time.Now()}
	s.cfg.Messages.Log(ctx, function, e)
}
