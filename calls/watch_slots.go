package calls

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/funcd/funcd/api"
)

// What calls and slots tell the server that keeps slots goes over NATS, or, on a server that is alone, straight to its own watchers: each call
// has two such messages.

// SlotUsed tells who keeps slots that a call has begun, and in which slot, if in any.
func (s *Store) SlotUsed(use api.Use) { s.tell(slotUsed, use) }

// SlotPressure tells who keeps slots that a call has no place in the cluster.
func (s *Store) SlotPressure() { s.tell(slotPressure, nil) }

// tell tells all servers' watchers, without waiting for them.
func (s *Store) tell(subject string, v any) {
	if s.alone {
		if slot, ok := v.(api.Slot); ok {
			s.ready.announced(slot.Function, time.Now())
		}
		s.slotsMu.Lock()
		defer s.slotsMu.Unlock()
		for w := range s.watchers {
			w.tell(v)
		}
		return
	}
	data, err := json.Marshal(v)
	if err == nil {
		err = s.nc.Publish(subject, data)
	}
	if err != nil {
		s.log.Warn("who keeps slots was not told", "subject", subject, "error", err)
	}
}

// slotWatcher is who is told what happens to slots.
type slotWatcher struct {
	ready    func(api.Slot)
	used     func(api.Use)
	pressure func()
	counts   func(function string) api.SlotCounts

	// What a server that is alone tells itself.
	mu    sync.Mutex
	words []any         // an api.Slot is free, an api.Use has begun, nil is pressure
	more  chan struct{} // of room for one: there are words
}

// tell never blocks.
func (w *slotWatcher) tell(v any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.words = append(w.words, v)
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// listen passes on what is told, in its order, until ctx ends.
func (w *slotWatcher) listen(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.more:
		}
		w.mu.Lock()
		words := w.words
		w.words = nil
		w.mu.Unlock()
		for _, word := range words {
			if ctx.Err() != nil {
				return
			}
			switch v := word.(type) {
			case api.Slot:
				w.ready(v)
			case api.Use:
				w.used(v)
			default:
				w.pressure()
			}
		}
	}
}

// received passes on another server's message.
func (w *slotWatcher) received(m *nats.Msg) error {
	switch m.Subject {
	case slotReady:
		var slot api.Slot
		if err := json.Unmarshal(m.Data, &slot); err != nil {
			return err
		}
		w.ready(slot)
	case slotUsed:
		var use api.Use
		if err := json.Unmarshal(m.Data, &use); err != nil {
			return err
		}
		w.used(use)
	case slotPressure:
		w.pressure()
	case slotCounts:
		answer, err := json.Marshal(w.counts(string(m.Data)))
		if err != nil {
			return err
		}
		return m.Respond(answer)
	}
	return nil
}

// WatchSlots tells what happens to slots on all servers, one at a time and in order, and asks counts for SlotCounts, until stop is called.
func (s *Store) WatchSlots(ready func(api.Slot), used func(api.Use), pressure func(), counts func(function string) api.SlotCounts) (stop func(), err error) {
	w := &slotWatcher{ready: ready, used: used, pressure: pressure, counts: counts, more: make(chan struct{}, 1)}
	if s.nc.IsClosed() {
		return nil, unavailable(nats.ErrConnectionClosed)
	}
	if s.alone {
		ctx, cancel := context.WithCancel(context.Background())
		var listening sync.WaitGroup
		listening.Go(func() { w.listen(ctx) })
		s.slotsMu.Lock()
		defer s.slotsMu.Unlock()
		s.watchers[w] = true
		return func() {
			s.slotsMu.Lock()
			delete(s.watchers, w)
			s.slotsMu.Unlock()
			cancel()
			listening.Wait()
		}, nil
	}
	// One subscription for all: a slot is told to be free before it is told to be used.
	sub, err := s.nc.Subscribe("slots.*", func(m *nats.Msg) {
		if err := w.received(m); err != nil {
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
	if s.alone && !s.nc.IsClosed() {
		s.slotsMu.Lock()
		watchers := slices.Collect(maps.Keys(s.watchers))
		s.slotsMu.Unlock()
		for _, w := range watchers { // one at most: the leader
			return w.counts(function), nil
		}
		return api.SlotCounts{}, api.Errorf(api.NotFound, "no server keeps slots now")
	}
	ctx, cancel := context.WithTimeout(ctx, s.claimTimeout)
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
