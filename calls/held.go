package calls

import (
	"context"
	"sync"
	"time"

	"github.com/funcd/funcd/api"
)

// A call whose caller waits for it on the connection that it came on has an answer that nobody else was promised. Until it is given, or it is
// known that it won't be, nothing of the call but its place in the queue need be on disk: what is saved of it is held in memory, and a call
// of milliseconds is never written at all.

// heldVersion marks the versions of records that are held, apart from the store's, which count from 1.
const heldVersion = 1 << 63

// held is what is held of one call.
type held struct {
	mu      sync.Mutex
	rec     api.Record
	version uint64 // of rec, 0 while there is none
	output  *[]byte
	stored  uint64 // rec's version in the store, once it is there
	over    bool   // nothing is held any more: the store has what there is
}

// Hold keeps what is saved of the call in memory, until release stores it or Forget drops it. Hold comes before Enqueue. release may be called
// more than once and returns when what was held is on disk; its error is of code Unavailable, and what is held stays held. ok is false on a server
// that is not alone, as the others must see it: nothing is held there.
func (s *Store) Hold(function, call string) (release func(context.Context) error, ok bool) {
	if !s.alone || checkIDs(function, call) != nil {
		return func(context.Context) error { return nil }, false
	}
	h, key := &held{}, recordSubject(function, call)
	s.mu.Lock()
	s.held[key] = h
	s.mu.Unlock()
	return func(ctx context.Context) error { return s.release(ctx, key, h) }, true
}

// answeredLeases is for how many leases a call that was answered is remembered: it comes again within one of the moment in which the queue is open again.
const answeredLeases = 5

// answered remembers the held calls that were answered and dropped, for as long as the queue may deliver them again: nothing waits for it to hear that they have left,
// which it does not while it is opened again (see reopen).
type answered struct {
	mu       sync.Mutex
	calls    map[string]struct{}
	inOrder  []answeredCall
	lifetime time.Duration
}

type answeredCall struct {
	id string
	at time.Time
}

func (a *answered) add(call string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := 0
	for old < len(a.inOrder) && now.Sub(a.inOrder[old].at) > a.lifetime {
		delete(a.calls, a.inOrder[old].id)
		old++
	}
	a.inOrder = append(a.inOrder[old:], answeredCall{call, now})
	a.calls[call] = struct{}{}
}

func (a *answered) has(call string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.calls[call]
	return ok
}

func (s *Store) release(ctx context.Context, key string, h *held) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return nil
	}
	if h.version != 0 {
		if h.output != nil { // also if the record that says so is still to come
			if err := s.storeOutput(ctx, h.rec.Function, h.rec.CallID, *h.output); err != nil {
				return err
			}
		}
		stored, err := s.storeRecord(ctx, h.rec, h.stored)
		if api.CodeOf(err) == api.Conflict { // an earlier try was stored, and its answer lost
			if _, h.stored, err = s.record(ctx, h.rec.Function, h.rec.CallID); err == nil {
				stored, err = s.storeRecord(ctx, h.rec, h.stored)
			}
		}
		if err != nil {
			return unavailable(err)
		}
		h.stored = stored
	}
	h.over, h.output = true, nil
	if h.version == 0 || h.rec.State.Ended() {
		s.unhold(key) // else until the next version: whoever has this one knows it by its number here
	}
	return nil
}

func (s *Store) unhold(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, key)
}

// holding returns what is held of a call, locked, or nil.
func (s *Store) holding(function, call string) *held {
	s.mu.Lock()
	h := s.held[recordSubject(function, call)]
	s.mu.Unlock()
	if h != nil {
		h.mu.Lock()
	}
	return h
}

// save is SaveRecord of a call that is held. h is locked.
func (h *held) save(ctx context.Context, s *Store, rec api.Record, version uint64) (uint64, error) {
	if !h.over {
		if version != h.version {
			return 0, api.Errorf(api.Conflict, "the record of the call has changed meanwhile")
		}
		h.rec, h.version = rec, max(h.version, heldVersion)+1
		s.recorded(rec)
		return h.version, nil
	}
	if version == h.version {
		version = h.stored
	}
	saved, err := s.storeRecord(ctx, rec, version)
	if err == nil {
		s.unhold(recordSubject(rec.Function, rec.CallID))
	}
	return saved, err
}
