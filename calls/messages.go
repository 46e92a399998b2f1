package calls

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/funcd/funcd/api"
)

func takeSubject(call string) string { return "take." + call }

func endedSubject(function, call string) string { return "ended." + function + "." + call }

func changeSubject(call string) string { return "changed." + call }

// TakeTimeout is how long Take waits for the server that holds a call to write down who takes it.
const TakeTimeout = 10 * time.Second

// Take decides whether an allocation gets a call, and returns what it is to run.
type Take = func(ctx context.Context, allocation api.Allocation) (*api.Assignment, []byte, error)

// Offer lets containers take the call, through any server, until the returned function is called. take is told the allocation that asks,
// one at a time; its error's code and message are what Take returns.
func (s *Store) Offer(call string, take Take) (withdraw func(), err error) {
	if err := checkIDs(call); err != nil {
		return nil, err
	}
	if s.nc.IsClosed() {
		return nil, unavailable(nats.ErrConnectionClosed)
	}
	var one sync.Mutex
	ask := take
	take = func(ctx context.Context, allocation api.Allocation) (*api.Assignment, []byte, error) {
		one.Lock()
		defer one.Unlock()
		return ask(ctx, allocation)
	}
	s.mu.Lock()
	s.offers[call] = take
	s.mu.Unlock()
	forget := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.offers, call)
	}
	if s.alone {
		return forget, nil
	}
	var taken atomic.Bool
	sub, err := s.nc.Subscribe(takeSubject(call), func(m *nats.Msg) {
		ctx, cancel := context.WithTimeout(context.Background(), TakeTimeout)
		defer cancel()
		var allocation api.Allocation
		err := json.Unmarshal(m.Data, &allocation)
		var assignment *api.Assignment
		var payload []byte
		if err == nil {
			assignment, payload, err = take(ctx, allocation)
			taken.Store(taken.Load() || err == nil)
		}
		if err := m.RespondMsg(takeAnswer(assignment, payload, err)); err != nil {
			s.log.Warn("a container was not told that it has a call", "call", call, "error", err)
		}
	})
	if err != nil {
		forget()
		return nil, unavailable(err)
	}
	return func() {
		forget()
		if taken.Load() {
			_ = sub.Unsubscribe()
		} else {
			// A container whose request is on its way is told that there is no call, rather than left to wait.
			_ = sub.Drain()
		}
	}, nil
}

const assignmentHeader = "Funcd-Assignment"

func takeAnswer(assignment *api.Assignment, payload []byte, err error) *nats.Msg {
	head, jsonErr := json.Marshal(assignment)
	if err == nil {
		err = jsonErr
	}
	if err != nil {
		return &nats.Msg{Header: nats.Header{api.ErrorHeader: []string{string(api.CodeOf(err))}}, Data: []byte(api.MessageOf(err))}
	}
	return &nats.Msg{Header: nats.Header{assignmentHeader: []string{string(head)}}, Data: payload}
}

// Take takes the call for an allocation from the server that offers it. The error is of code NotFound if no server does now, and Conflict if
// another allocation has it.
func (s *Store) Take(ctx context.Context, call string, allocation api.Allocation) (*api.Assignment, []byte, error) {
	if err := checkIDs(call); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, TakeTimeout)
	defer cancel()
	s.mu.Lock()
	take := s.offers[call]
	s.mu.Unlock()
	switch {
	case take != nil:
		return take(ctx, allocation)
	case s.nc.IsClosed():
		return nil, nil, unavailable(nats.ErrConnectionClosed)
	case s.alone:
		return nil, nil, api.Errorf(api.NotFound, "no server offers call %s", call)
	}
	request, err := json.Marshal(allocation)
	if err != nil {
		return nil, nil, err
	}
	m, err := s.nc.RequestWithContext(ctx, takeSubject(call), request)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, nil, api.Errorf(api.NotFound, "no server offers call %s", call)
	}
	if err != nil {
		return nil, nil, unavailable(err)
	}
	if code := m.Header.Get(api.ErrorHeader); code != "" {
		return nil, nil, &api.Error{Code: api.Code(code), Message: string(m.Data)}
	}
	var assignment api.Assignment
	if err := json.Unmarshal([]byte(m.Header.Get(assignmentHeader)), &assignment); err != nil {
		return nil, nil, fmt.Errorf("an assignment can't be read: %w", err)
	}
	return &assignment, m.Data, nil
}

// NotifyChange tells the server that owns a call that its record was changed by another: it was cancelled, or is to be tried again.
func (s *Store) NotifyChange(call string) {
	err := checkIDs(call)
	if err == nil {
		err = s.nc.Publish(changeSubject(call), nil)
	}
	if err != nil {
		s.log.Warn("the owner of a call was not told of a change", "call", call, "error", err)
	}
}

// WatchChanges passes on what NotifyChange tells, on whichever server, until stop is called.
func (s *Store) WatchChanges(changed func(call string)) (stop func(), err error) {
	sub, err := s.nc.Subscribe(changeSubject("*"), func(m *nats.Msg) {
		changed(strings.TrimPrefix(m.Subject, changeSubject("")))
	})
	if err != nil {
		return nil, unavailable(err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

// WaitEnd returns a channel that is closed when the call ends, on any server. What ended before is not told: look at the record after
// WaitEnd. Call stop, once or more.
func (s *Store) WaitEnd(function, call string) (ended <-chan struct{}, stop func()) {
	c, key := make(chan struct{}), endedSubject(function, call)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiters[key] == nil {
		s.waiters[key] = map[chan struct{}]struct{}{}
	}
	s.waiters[key][c] = struct{}{}
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waiters[key], c)
		if len(s.waiters[key]) == 0 {
			delete(s.waiters, key)
		}
	}
}

// NotifyEnd tells the waiters on all servers that the call has ended. Its record must say so before.
func (s *Store) NotifyEnd(function, call string) {
	subject := endedSubject(function, call)
	if err := checkIDs(function, call); err != nil {
		s.log.Warn("nobody is told of a call's end", "error", err)
		return
	}
	if s.alone {
		s.wake(subject)
		return
	}
	if err := s.nc.Publish(subject, nil); err != nil {
		s.log.Warn("other servers were not told of a call's end", "call", call, "error", err)
	}
	// This server's own need not wait for the message to come back.
	s.wake(subject)
}

func (s *Store) wake(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.waiters[subject] {
		close(c)
	}
	delete(s.waiters, subject)
}
