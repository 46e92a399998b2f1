package calls

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/funcd/funcd/api"
)

// slotSubject is where the servers that hold free slots of one revision of a function listen, as one queue group: a message reaches exactly one.
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

// freeSlots is the free slots of one revision of a function whose requests this server holds.
type freeSlots struct {
	waiting []*freeSlot        // the one that has waited longest first
	sub     *nats.Subscription // how the calls of other servers reach them, while there are any; nil on a server that is alone
}

type freeSlot struct {
	slot   api.Slot
	claims chan claim // of room for the only one
}

// claim is what a slot has waited for.
type claim struct {
	assignment *api.Assignment // nil: the slot is to end
	payload    []byte
}

func (c claim) answer() (*api.Assignment, []byte, error) {
	if c.assignment == nil {
		return nil, nil, api.Errorf(api.Expired, "the slot is not needed any more")
	}
	return c.assignment, c.payload, nil
}

// WaitSlot offers the slot to calls, through any server, until one has claimed it or ctx has ended. It returns the call, to be confirmed by
// taking it. The error is of code Expired if the slot is to end, and NotFound if no call has claimed it.
func (s *Store) WaitSlot(ctx context.Context, slot api.Slot) (*api.Assignment, []byte, error) {
	if err := checkIDs(slot.Function); err != nil {
		return nil, nil, err
	}
	own := &freeSlot{slot: slot, claims: make(chan claim, 1)}
	subject := slotSubject(slot.Function, slot.Revision)
	if err := s.addSlot(subject, own); err != nil {
		return nil, nil, unavailable(err)
	}
	s.tell(slotReady, slot)
	select {
	case c := <-own.claims:
		return c.answer()
	case <-ctx.Done():
	}
	if s.dropSlot(subject, own) {
		return nil, nil, api.Errorf(api.NotFound, "no call has claimed the slot")
	}
	return (<-own.claims).answer()
}

func (s *Store) addSlot(subject string, own *freeSlot) error {
	if s.nc.IsClosed() {
		return nats.ErrConnectionClosed
	}
	s.slotsMu.Lock()
	defer s.slotsMu.Unlock()
	free := s.slots[subject]
	if free == nil {
		free = &freeSlots{}
		if !s.alone {
			var err error
			if free.sub, err = s.nc.QueueSubscribe(subject, slotGroup, s.claimed); err != nil {
				return err
			}
		}
		s.slots[subject] = free
	}
	free.waiting = append(free.waiting, own)
	return nil
}

// dropSlot takes back an offer. It returns false if a claim was faster, which the slot has then.
func (s *Store) dropSlot(subject string, own *freeSlot) bool {
	s.slotsMu.Lock()
	defer s.slotsMu.Unlock()
	free := s.slots[subject]
	if free == nil {
		return false
	}
	i := slices.Index(free.waiting, own)
	if i < 0 {
		return false
	}
	s.keepSlots(subject, free, slices.Delete(free.waiting, i, i+1))
	return true
}

// takeSlot returns the free slot of this server that has waited longest, or nil. It is the caller's to be sent a claim.
func (s *Store) takeSlot(subject string) *freeSlot {
	s.slotsMu.Lock()
	defer s.slotsMu.Unlock()
	free := s.slots[subject]
	if free == nil {
		return nil
	}
	first := free.waiting[0]
	s.keepSlots(subject, free, free.waiting[1:])
	return first
}

// keepSlots has only these wait. s.slotsMu is held.
func (s *Store) keepSlots(subject string, free *freeSlots, waiting []*freeSlot) {
	if free.waiting = waiting; len(waiting) > 0 {
		return
	}
	delete(s.slots, subject)
	if free.sub != nil {
		// NATS gives the next claim to another server, or says that there is none. What is on its way is still answered.
		_ = free.sub.Drain()
	}
}

// claimed gives another server's claim to a slot of this one.
func (s *Store) claimed(m *nats.Msg) {
	answer := &nats.Msg{}
	c, err := readClaim(m)
	if err != nil {
		s.log.Error("a claim of a slot can't be read", "error", err)
		return
	}
	if own := s.takeSlot(m.Subject); own == nil {
		answer.Header = nats.Header{api.ErrorHeader: []string{string(api.Conflict)}}
	} else if head, err := json.Marshal(own.slot); err == nil {
		answer.Header = nats.Header{slotHeader: []string{string(head)}}
		own.claims <- c
	}
	if err := m.RespondMsg(answer); err != nil {
		s.log.Warn("who claims a slot was not answered", "error", err)
	}
}

func readClaim(m *nats.Msg) (claim, error) {
	if m.Header.Get(retiredHeader) != "" {
		return claim{}, nil
	}
	c := claim{assignment: new(api.Assignment), payload: m.Data}
	return c, json.Unmarshal([]byte(m.Header.Get(assignmentHeader)), c.assignment)
}

// ClaimSlot hands the call to a free slot of this revision of its function, which is then to take it. The error is of code NotFound if
// there is none.
func (s *Store) ClaimSlot(ctx context.Context, revision uint64, assignment *api.Assignment, payload []byte) (api.Slot, error) {
	if err := checkIDs(assignment.Function); err != nil {
		return api.Slot{}, err
	}
	return s.askSlot(ctx, slotSubject(assignment.Function, revision), claim{assignment, payload})
}

// RetireSlot ends a free slot of this revision of the function, and returns it. The error is of code NotFound if there is none.
func (s *Store) RetireSlot(ctx context.Context, function string, revision uint64) (api.Slot, error) {
	if err := checkIDs(function); err != nil {
		return api.Slot{}, err
	}
	return s.askSlot(ctx, slotSubject(function, revision), claim{})
}

// askSlot gives the claim to one free slot, of this server if it has one. Another server's may have been taken in the same moment: the next
// is asked.
func (s *Store) askSlot(ctx context.Context, subject string, c claim) (api.Slot, error) {
	if err := ctx.Err(); err != nil {
		return api.Slot{}, unavailable(err)
	}
	if own := s.takeSlot(subject); own != nil {
		own.claims <- c
		return own.slot, nil
	}
	if s.nc.IsClosed() {
		return api.Slot{}, unavailable(nats.ErrConnectionClosed)
	}
	if s.alone {
		return api.Slot{}, api.Errorf(api.NotFound, "the function has no free slot")
	}
	request := &nats.Msg{Subject: subject, Header: nats.Header{retiredHeader: []string{"true"}}}
	if c.assignment != nil {
		head, err := json.Marshal(c.assignment)
		if err != nil {
			return api.Slot{}, err
		}
		request.Header, request.Data = nats.Header{assignmentHeader: []string{string(head)}}, c.payload
	}
	for {
		bounded, cancel := context.WithTimeout(ctx, s.claimTimeout)
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
