package scheduler

import (
	"context"
	"strconv"
	"sync"

	"github.com/funcd/funcd/api"
)

// fakeSlots is Slots in memory, for any number of schedulers.
type fakeSlots struct {
	mu       sync.Mutex
	free     map[string][]*fakeSlot // by function and revision
	watchers []*fakeWatcher
	fail     error           // of the next claim
	seen     map[string]bool // functions of which a slot has waited
	waiting  []chan struct{} // for any slot
}

type fakeSlot struct {
	api.Slot
	claims chan fakeClaim
}

type fakeClaim struct {
	assignment *api.Assignment // nil: the slot is to end
	payload    []byte
}

type fakeWatcher struct {
	ready    func(api.Slot)
	used     func(api.Use)
	pressure func()
	counts   func(string) api.SlotCounts
}

func newFakeSlots() *fakeSlots {
	return &fakeSlots{free: map[string][]*fakeSlot{}, seen: map[string]bool{}}
}

func slotKey(function string, revision uint64) string {
	return function + "." + strconv.FormatUint(revision, 10)
}

func (f *fakeSlots) WaitSlot(ctx context.Context, slot api.Slot) (*api.Assignment, []byte, error) {
	own := &fakeSlot{Slot: slot, claims: make(chan fakeClaim, 1)}
	key := slotKey(slot.Function, slot.Revision)
	f.mu.Lock()
	f.free[key] = append(f.free[key], own)
	f.seen[slot.Function] = true
	for _, c := range f.waiting {
		close(c)
	}
	f.waiting = nil
	f.mu.Unlock()
	f.tell(func(w *fakeWatcher) { w.ready(slot) })
	select {
	case <-ctx.Done():
	case claim := <-own.claims:
		return claim.answer()
	}
	f.mu.Lock()
	for i, slot := range f.free[key] {
		if slot == own {
			f.free[key] = append(f.free[key][:i:i], f.free[key][i+1:]...)
		}
	}
	f.mu.Unlock()
	select {
	case claim := <-own.claims:
		return claim.answer()
	default:
		return nil, nil, api.Errorf(api.NotFound, "no call has claimed the slot")
	}
}

func (c fakeClaim) answer() (*api.Assignment, []byte, error) {
	if c.assignment == nil {
		return nil, nil, api.Errorf(api.Expired, "the slot is not needed any more")
	}
	return c.assignment, c.payload, nil
}

func (f *fakeSlots) ask(function string, revision uint64, claim fakeClaim) (api.Slot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail; err != nil {
		f.fail = nil
		return api.Slot{}, err
	}
	key := slotKey(function, revision)
	if len(f.free[key]) == 0 {
		return api.Slot{}, api.Errorf(api.NotFound, "the function has no free slot")
	}
	slot := f.free[key][0]
	f.free[key] = f.free[key][1:]
	slot.claims <- claim
	return slot.Slot, nil
}

func (f *fakeSlots) ClaimSlot(_ context.Context, revision uint64, a *api.Assignment, payload []byte) (api.Slot, error) {
	return f.ask(a.Function, revision, fakeClaim{a, payload})
}

func (f *fakeSlots) RetireSlot(_ context.Context, function string, revision uint64) (api.Slot, error) {
	return f.ask(function, revision, fakeClaim{})
}

func (f *fakeSlots) NextReady(function string) (<-chan struct{}, bool, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(chan struct{})
	f.waiting = append(f.waiting, c)
	return c, f.seen[function], func() {}
}

func (f *fakeSlots) SlotUsed(use api.Use) { f.tell(func(w *fakeWatcher) { w.used(use) }) }

func (f *fakeSlots) SlotPressure() { f.tell(func(w *fakeWatcher) { w.pressure() }) }

func (f *fakeSlots) tell(what func(*fakeWatcher)) {
	f.mu.Lock()
	watchers := f.watchers
	f.mu.Unlock()
	for _, w := range watchers {
		what(w)
	}
}

func (f *fakeSlots) WatchSlots(ready func(api.Slot), used func(api.Use), pressure func(), counts func(string) api.SlotCounts) (func(), error) {
	w := &fakeWatcher{ready, used, pressure, counts}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers = append(f.watchers[:len(f.watchers):len(f.watchers)], w)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		kept := []*fakeWatcher{}
		for _, other := range f.watchers {
			if other != w {
				kept = append(kept, other)
			}
		}
		f.watchers = kept
	}, nil
}

func (f *fakeSlots) SlotCounts(_ context.Context, function string) (api.SlotCounts, error) {
	f.mu.Lock()
	watchers := f.watchers
	f.mu.Unlock()
	if len(watchers) == 0 {
		return api.SlotCounts{}, api.Errorf(api.NotFound, "no server keeps slots now")
	}
	return watchers[0].counts(function), nil
}
