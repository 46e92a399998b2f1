package calls

import (
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/funcd/funcd/api"
)

// slotMemory is for how long a slot that was free once counts as there: one that waits says so at least every half a minute.
const slotMemory = 45 * time.Second

// readiness is what this server has heard of free slots.
type readiness struct {
	mu      sync.Mutex
	seen    map[string]time.Time       // when a slot of the function was free last
	waiting map[string][]chan struct{} // by function, in their order
}

// watchReady follows the announcements of free slots.
func (s *Store) watchReady() error {
	if s.alone {
		return nil // tell does
	}
	_, err := s.nc.Subscribe(slotReady, func(m *nats.Msg) {
		var slot api.Slot
		if err := json.Unmarshal(m.Data, &slot); err != nil {
			s.log.Warn("a slot's announcement can't be read", "error", err)
			return
		}
		s.ready.announced(slot.Function, time.Now())
	})
	return err
}

// announced wakes the one who has waited longest for a slot of the function: a slot serves one.
func (r *readiness) announced(function string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[function] = now
	r.wake(function)
	for other, seen := range r.seen { // a few at a time: Go's order is random
		if now.Sub(seen) < slotMemory {
			break
		}
		delete(r.seen, other)
	}
}

// wake wakes the first who waits, if anyone does. r.mu is held.
func (r *readiness) wake(function string) {
	if waiting := r.waiting[function]; len(waiting) > 0 {
		close(waiting[0])
		r.keep(function, waiting[1:])
	}
}

func (r *readiness) keep(function string, waiting []chan struct{}) {
	if r.waiting[function] = waiting; len(waiting) == 0 {
		delete(r.waiting, function)
	}
}

// NextReady returns a channel that is closed when a slot of the function becomes free, for the one who has waited longest. known tells that
// the function has slots, which serve other calls if none is free. Whoever stops waiting before the channel is closed calls stop, once: if it
// was closed in the same moment, the next in line is woken in place of the caller.
func (s *Store) NextReady(function string) (ready <-chan struct{}, known bool, stop func()) {
	r, c := &s.ready, make(chan struct{})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting[function] = append(r.waiting[function], c)
	return c, time.Since(r.seen[function]) < slotMemory, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		waiting := r.waiting[function]
		if i := slices.Index(waiting, c); i >= 0 {
			r.keep(function, slices.Delete(waiting, i, i+1))
		} else {
			r.wake(function)
		}
	}
}
