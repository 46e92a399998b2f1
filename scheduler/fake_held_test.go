package scheduler

import (
	"context"
	"slices"

	"github.com/funcd/funcd/api"
)

func (f *fakeStore) Hold(function, call string) (func(context.Context) error, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.alone {
		return func(context.Context) error { return nil }, false
	}
	f.held[key(function, call)] = true
	return func(context.Context) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.held, key(function, call))
		return nil
	}, true
}

// crash forgets what is held.
func (f *fakeStore) crash() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.held {
		delete(f.records, key)
		delete(f.outputs, key)
	}
	clear(f.held)
}

func (f *fakeStore) LastEvent(_ context.Context, _, call string) (api.Event, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, event := range slices.Backward(f.events) {
		if event.CallID == call {
			return event, nil
		}
	}
	return api.Event{}, api.Errorf(api.NotFound, "the call %s has no events", call)
}
