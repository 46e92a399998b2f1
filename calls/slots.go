package calls

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/funcd/funcd/api"
)

// slotSubject is where the free slots of one revision of a function listen, as one queue group: a message reaches exactly one of them.
func slotSubject(function string, revision uint64) string {
	return "slot." + function + "." + strconv.FormatUint(revision, 10)
}

const (
	slotGroup     = "slots"
	slotReady     = "slots.ready"    // a slot is free
	slotUsed      = "slots.used"     // a call has begun
	slotPressure  = "slots.pressure" // a call has no place in the cluster
	slotCounts    = "slots.counts"   // a request for those of a function
	slotHeader    = "Funcd-Slot"     // the slot that has taken a message
	claimTimeout  = time.Second      // in which a slot's server answers; it only has to hand the call on
	retiredHeader = "Funcd-Retire"   // in place of a call: the slot is to end
)

// WaitSlot offers the slot to calls, through any server, until one has claimed it or ctx has ended. It returns the call, to be confirmed by
// taking it. The error is of code Expired if the slot is to end, and NotFound if no call has claimed it.
func (s *Store) WaitSlot(ctx context.Context, slot api.Slot) (*api.Assignment, []byte, error) {
	if err := checkIDs(slot.Function); err != nil {
		return nil, nil, err
	}
	head, err := json.Marshal(slot)
	if err != nil {
		return nil, nil, err
	}
	// Exactly one of a claim and the end of the wait closes the offer.
	var closing sync.Once
	claims := make(chan *nats.Msg, 1)
	sub, err := s.nc.QueueSubscribe(slotSubject(slot.Function, slot.Revision), slotGroup, func(m *nats.Msg) {
		answer := &nats.Msg{Header: nats.Header{api.ErrorHeader: []string{string(api.Conflict)}}}
		closing.Do(func() {
			claims <- m
			answer.Header = nats.Header{slotHeader: []string{string(head)}}
		})
		if err := m.RespondMsg(answer); err != nil {
			s.log.Warn("who claims a slot was not answered", "slot", slot.Job, "error", err)
		}
	})
	if err != nil {
		return nil, nil, unavailable(err)
	}
	// NATS gives the next claim to another slot, or says that there is none, as soon as this one has its own.
	if err := sub.AutoUnsubscribe(1); err != nil {
		_ = sub.Unsubscribe()
		return nil, nil, unavailable(err)
	}
	s.tell(slotReady, slot)
	select {
	case claim := <-claims:
		return readClaim(claim)
	case <-ctx.Done():
	}
	// A claim that is on its way is refused rather than dropped: whoever has sent it would wait for an answer.
	_ = sub.Drain()
	closing.Do(func() { close(claims) })
	if claim := <-claims; claim != nil {
		return readClaim(claim)
	}
	return nil, nil, api.Errorf(api.NotFound, "no call has claimed the slot")
}

func readClaim(claim *nats.Msg) (*api.Assignment, []byte, error) {
	if claim.Header.Get(retiredHeader) != "" {
		return nil, nil, api.Errorf(api.Expired, "the slot is not needed any more")
	}
	var assignment api.Assignment
	if err := json.Unmarshal([]byte(claim.Header.Get(assignmentHeader)), &assignment); err != nil {
		return nil, nil, fmt.Errorf("an assignment can't be read: %w", err)
	}
	return &assignment, claim.Data, nil
}

// ClaimSlot hands the call to a free slot of this revision of its function, which is then to take it. The error is of code NotFound if
// there is none.
func (s *Store) ClaimSlot(ctx context.Context, revision uint64, assignment *api.Assignment, payload []byte) (api.Slot, error) {
	if err := checkIDs(assignment.Function); err != nil {
		return api.Slot{}, err
	}
	head, err := json.Marshal(assignment)
	if err != nil {
		return api.Slot{}, err
	}
	return s.askSlot(ctx, &nats.Msg{
		Subject: slotSubject(assignment.Function, revision),
		Header:  nats.Header{assignmentHeader: []string{string(head)}},
		Data:    payload,
	})
}

// RetireSlot ends a free slot of this revision of the function, and returns it. The error is of code NotFound if there is none.
func (s *Store) RetireSlot(ctx context.Context, function string, revision uint64) (api.Slot, error) {
	if err := checkIDs(function); err != nil {
		return api.Slot{}, err
	}
	return s.askSlot(ctx, &nats.Msg{
		Subject: slotSubject(function, revision),
		Header:  nats.Header{retiredHeader: []string{"true"}},
	})
}

// askSlot sends the message to one free slot, and to another if that one was taken in the same moment.
func (s *Store) askSlot(ctx context.Context, request *nats.Msg) (api.Slot, error) {
	for {
		bounded, cancel := context.WithTimeout(ctx, claimTimeout)
		answer, err := s.nc.RequestMsgWithContext(bounded, request)
		cancel()
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			// A server that has died meanwhile does not answer: what it held is gone.
			return api.Slot{}, api.Wrap(api.NotFound, err, "the function has no free slot")
		}
		if err != nil {
			return api.Slot{}, unavailable(err)
		}
		if answer.Header.Get(api.ErrorHeader) != "" {
			continue
		}
		var slot api.Slot
		if err := json.Unmarshal([]byte(answer.Header.Get(slotHeader)), &slot); err != nil {
			return api.Slot{}, fmt.Errorf("a slot can't be read: %w", err)
		}
		return slot, nil
	}
}

// SlotUsed tells who keeps slots that a call has begun, and in which slot, if in any.
func (s *Store) SlotUsed(use api.Use) { s.tell(slotUsed, use) }

// SlotPressure tells who keeps slots that a call has no place in the cluster.
func (s *Store) SlotPressure() { s.tell(slotPressure, nil) }

func (s *Store) tell(subject string, v any) {
	data, err := json.Marshal(v)
	if err == nil {
		err = s.nc.Publish(subject, data)
	}
	if err != nil {
		s.log.Warn("who keeps slots was not told", "subject", subject, "error", err)
	}
}

// WatchSlots tells what happens to slots on all servers, one at a time and in order, and asks counts for SlotCounts, until stop is called.
func (s *Store) WatchSlots(ready func(api.Slot), used func(api.Use), pressure func(), counts func(function string) api.SlotCounts) (stop func(), err error) {
	handle := func(m *nats.Msg) error {
		switch m.Subject {
		case slotReady:
			var slot api.Slot
			if err := json.Unmarshal(m.Data, &slot); err != nil {
				return err
			}
			ready(slot)
		case slotUsed:
			var use api.Use
			if err := json.Unmarshal(m.Data, &use); err != nil {
				return err
			}
			used(use)
		case slotPressure:
			pressure()
		case slotCounts:
			answer, err := json.Marshal(counts(string(m.Data)))
			if err != nil {
				return err
			}
			return m.Respond(answer)
		}
		return nil
	}
	// One subscription for all: a slot is told to be free before it is told to be used.
	sub, err := s.nc.Subscribe("slots.*", func(m *nats.Msg) {
		if err := handle(m); err != nil {
			s.log.Warn("a message about slots is not understood", "subject", m.Subject, "error", err)
		}
	})
	if err != nil {
		return nil, unavailable(err)
	}
	ended := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(ended) })
	return func() {
		if sub.Unsubscribe() == nil { // else the connection is closed, and the subscription with it
			<-ended
		}
	}, nil
}

// SlotCounts asks the server that keeps slots how many a function has. The error is of code NotFound if none does.
func (s *Store) SlotCounts(ctx context.Context, function string) (api.SlotCounts, error) {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	m, err := s.nc.RequestWithContext(ctx, slotCounts, []byte(function))
	if errors.Is(err, nats.ErrNoResponders) {
		return api.SlotCounts{}, api.Wrap(api.NotFound, err, "no server keeps slots now")
	}
	if err != nil {
		return api.SlotCounts{}, unavailable(err)
	}
	var counts api.SlotCounts
	if err := json.Unmarshal(m.Data, &counts); err != nil {
		return api.SlotCounts{}, fmt.Errorf("an answer about slots can't be read: %w", err)
	}
	return counts, nil
}
