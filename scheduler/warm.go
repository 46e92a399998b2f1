package scheduler

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/funcd/funcd/api"
)

// Warm bounds the containers that are kept ready for calls.
type Warm struct {
	Function int           // of one function
	Account  int           // of one account
	Total    int           // in the cluster
	Idle     time.Duration // without a call for so long, a function that does not say how many it wants has none
}

// How the number of slots follows the calls.
const (
	warmTick    = 2 * time.Second  // all functions are looked at
	rateWindow  = 10 * time.Second // over which arrivals are averaged
	firstStart  = time.Second      // how long a container's start is taken to last until one was seen
	warmPause   = 3 * time.Second  // no slot is started after a call had no place in the cluster; it says so every second
	warmNoPlace = 20 * time.Second // no slot of a function is started after one had no place
	warmBackoff = time.Minute      // longest wait after slots that did not start
)

// KeepWarm keeps containers ready for the calls of all functions: as many as funcd.warm says, else as many as arrive while one starts. It
// blocks until ctx ends; one server at a time calls it. Slots run on when it returns, for the next one to find.
func (s *Scheduler) KeepWarm(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k := &keeper{
		s:         s,
		log:       s.log.With("part", "warm"),
		ctx:       ctx,
		events:    make(chan func(), 256),
		functions: map[string]*kept{},
	}
	defer k.working.Wait()
	defer cancel()
	stop, err := s.cfg.Slots.WatchSlots(
		func(slot api.Slot) { k.post(func() { k.ready(slot) }) },
		func(use api.Use) { k.post(func() { k.used(use) }) },
		func() { k.post(k.pressure) },
		k.counts,
	)
	if err != nil {
		return err
	}
	defer stop()
	defer cancel() // before stop, which waits for callbacks that may wait to post
	slots, err := s.cfg.Cluster.Slots(ctx)
	if err != nil {
		return err
	}
	for _, slot := range slots {
		k.add(slot).found = true
		k.functions[slot.Function].peak++ // as there were reasons for each
	}
	tick := time.NewTicker(warmTick)
	defer tick.Stop()
	for {
		k.adjustAll()
		for looking := true; looking; {
			select {
			case <-ctx.Done():
				return nil
			case event := <-k.events:
				event()
			case <-tick.C:
				looking = false
			}
		}
	}
}

// keeper is the state of KeepWarm. Only KeepWarm's goroutine touches it: all others post what they have to say.
type keeper struct {
	s       *Scheduler
	log     *slog.Logger
	ctx     context.Context
	events  chan func()
	working sync.WaitGroup

	functions map[string]*kept // by internal id
	short     map[string]bool  // accounts with functions that lack slots that they ask for
	paused    time.Time        // until when no slot is started
}

// kept is what is known of one function.
type kept struct {
	account  string
	adaptive bool                 // it does not say how many it wants
	slots    map[string]*keptSlot // by job
	starting int                  // dispatches that have not been answered
	wanted   int

	lastCall time.Time
	arrivals float64 // decayed by rateWindow
	start    time.Duration
	failures int
	after    time.Time // until when no slot is started, after failures

	// The most calls at once that its reused slots served, since then, and in the idle time before.
	peak, before int
	since        time.Time
}

type keptSlot struct {
	api.Slot
	ready, busy bool
	retiring    bool // it, or another like it, is being given up
	found       bool // it was there before KeepWarm was: it may have served a call already
	began       time.Time
	gone        chan struct{} // closed when it is not kept any more
}

// post runs event in KeepWarm's goroutine.
func (k *keeper) post(event func()) {
	select {
	case k.events <- event:
	case <-k.ctx.Done():
	}
}

// do runs work beside KeepWarm's goroutine, which waits for it at its end.
func (k *keeper) do(work func()) { k.working.Go(work) }

func (k *keeper) function(id, account string) *kept {
	f := k.functions[id]
	if f == nil {
		f = &kept{account: account, slots: map[string]*keptSlot{}, start: firstStart}
		k.functions[id] = f
	}
	return f
}

// add keeps a slot and watches its container.
func (k *keeper) add(slot api.Slot) *keptSlot {
	f := k.function(slot.Function, slot.Account)
	kept := &keptSlot{Slot: slot, began: time.Now(), gone: make(chan struct{})}
	f.slots[slot.Job] = kept
	k.do(func() {
		d := &api.Definition{ID: slot.Function, Account: slot.Account, Function: api.Function{Name: slot.Name}}
		updates, stop := k.s.cfg.Cluster.Watch(k.ctx, d, slot.Job)
		defer stop()
		for {
			select {
			case <-k.ctx.Done():
				return
			case <-kept.gone:
				return
			case status := <-updates:
				k.post(func() { k.observed(slot, status) })
			}
		}
	})
	return kept
}

func (k *keeper) drop(slot api.Slot) *keptSlot {
	f := k.function(slot.Function, slot.Account)
	kept := f.slots[slot.Job]
	if kept != nil {
		delete(f.slots, slot.Job)
		close(kept.gone)
	}
	return kept
}

// ready notes that a slot waits for a call.
func (k *keeper) ready(slot api.Slot) {
	f := k.function(slot.Function, slot.Account)
	kept := f.slots[slot.Job]
	if kept == nil {
		kept = k.add(slot) // a container that was started for a call, and may serve more
		kept.ready = true
		f.peak = min(f.peak+1, len(f.slots)) // the others had one each, or it had taken one of them
	}
	if !kept.ready {
		kept.ready = true
		f.failures = 0
		f.start = (3*f.start + time.Since(kept.began)) / 4
	}
	kept.busy = false
	kept.Allocation = slot.Allocation
}

// used notes a call, and starts the replacement of the slot that it took.
func (k *keeper) used(use api.Use) {
	f := k.function(use.Function, use.Account)
	now := time.Now()
	f.arrivals = f.decayed(now) + 1
	f.lastCall = now
	d, err := k.s.cfg.Functions.ByID(k.ctx, use.Account, use.Name, use.Function)
	if err != nil {
		return // it was removed
	}
	if slot := f.slots[use.Job]; slot != nil {
		if extensions, err := d.Function.Extensions(); err == nil && extensions.Reuse {
			slot.busy = true
			f.peak = max(f.peak, f.busy())
		} else {
			k.drop(slot.Slot)
		}
	}
	k.adjust(&d)
}

// decayed is the weight of past arrivals now. Divided by rateWindow it is the rate of a steady flow.
func (f *kept) decayed(now time.Time) float64 {
	return f.arrivals * math.Exp(-now.Sub(f.lastCall).Seconds()/rateWindow.Seconds())
}

// observed notes what the cluster says of a slot's container.
func (k *keeper) observed(slot api.Slot, status api.JobStatus) {
	f := k.function(slot.Function, slot.Account)
	switch {
	case f.slots[slot.Job] == nil:
	case status.Ended:
		if kept := k.drop(slot); !kept.ready && !kept.found && k.current(slot) {
			f.failures++
			f.after = time.Now().Add(min(time.Second<<min(f.failures, 6), warmBackoff))
			k.log.Warn("a container that was to wait for calls did not start", "function", slot.Function, "job", slot.Job, "reason", status.Message)
		}
	case status.Waiting != "" && !f.slots[slot.Job].ready:
		// It would take the next free place before a call does. As it has no container yet, no call can be in it.
		k.drop(slot)
		f.after = time.Now().Add(warmNoPlace)
		k.do(func() {
			if err := k.s.cfg.Cluster.Stop(k.ctx, slot.Job); err != nil {
				k.log.Warn("a slot without a place stays in the cluster", "job", slot.Job, "error", err)
			}
		})
	}
}

// current tells whether the slot is of the function as it is now. One that is not ends as soon as it asks for a call.
func (k *keeper) current(slot api.Slot) bool {
	d, err := k.s.cfg.Functions.ByID(k.ctx, slot.Account, slot.Name, slot.Function)
	return err == nil && d.Revision == slot.Revision
}

// pressure gives up one free slot for a call that has no place: of the function that was not called for the longest time.
func (k *keeper) pressure() {
	k.paused = time.Now().Add(warmPause)
	k.giveUp(func(*kept) bool { return true })
}

// giveUp retires one free slot of those functions.
func (k *keeper) giveUp(of func(f *kept) bool) {
	var choice *keptSlot
	var oldest time.Time
	for _, f := range k.functions {
		if !of(f) {
			continue
		}
		for _, slot := range f.slots {
			if slot.ready && !slot.busy && !slot.retiring && (choice == nil || f.lastCall.Before(oldest)) {
				choice, oldest = slot, f.lastCall
			}
		}
	}
	if choice != nil {
		k.retire(choice)
	}
}

// retire ends a free slot of the same function and revision: which one, if any is free still, is decided where slots are taken.
func (k *keeper) retire(slot *keptSlot) {
	slot.retiring = true
	k.do(func() {
		retired, err := k.s.cfg.Slots.RetireSlot(k.ctx, slot.Function, slot.Revision)
		if err != nil && api.CodeOf(err) != api.NotFound {
			k.log.Debug("a slot is not given up", "function", slot.Function, "error", err)
		}
		k.post(func() {
			slot.retiring = false
			if err == nil {
				k.drop(retired)
			}
		})
	})
}

func (k *keeper) adjustAll() {
	known, short := map[string]bool{}, map[string]bool{}
	for _, d := range k.s.cfg.Functions.All() {
		known[d.ID] = true
		if k.adjust(&d) {
			short[d.Account] = true
			// What a function asks for goes before what others of its account are given.
			k.giveUp(func(f *kept) bool { return f.adaptive && f.account == d.Account })
		}
	}
	k.short = short
	for id, f := range k.functions {
		if known[id] || f.starting > 0 {
			continue
		}
		// The slots of a function that was removed went with its job.
		for _, slot := range f.slots {
			k.drop(slot.Slot)
		}
		delete(k.functions, id)
	}
}

// adjust starts or gives up slots of a function so that it has as many as it needs. short tells that it lacks some that it asks for, as the
// limits leave no room for them.
func (k *keeper) adjust(d *api.Definition) (short bool) {
	extensions, err := d.Function.Extensions()
	if err != nil {
		return false // it was made under other rules
	}
	f, now := k.functions[d.ID], time.Now()
	if f == nil {
		if extensions.Warm <= 0 {
			return false // never called
		}
		f = k.function(d.ID, d.Account)
	}
	f.adaptive = extensions.Warm < 0
	f.wanted = k.wanted(f, extensions, now)
	enough := f.wanted
	if extensions.Reuse && f.wanted > 0 {
		enough = max(f.wanted, f.recentPeak(now, k.idle(extensions)))
	}
	current, busy := f.starting, 0
	var excess, free []*keptSlot
	for _, slot := range f.slots {
		switch {
		case slot.retiring:
		case slot.busy:
			current++ // it is reused, and comes back
			busy++
		case slot.Revision != d.Revision:
			excess = append(excess, slot)
		default:
			current++
			if slot.ready {
				free = append(free, slot)
			}
		}
	}
	excess = append(excess, free[:min(max(busy+len(free)-enough, 0), len(free))]...)
	for _, slot := range excess {
		k.retire(slot)
	}
	if current >= f.wanted || now.Before(k.paused) || now.Before(f.after) || f.adaptive && k.short[d.Account] {
		return false
	}
	for room := k.room(d.Account); current < f.wanted && room > 0; room-- {
		current++
		k.dispatch(f, d)
	}
	return current < f.wanted && !f.adaptive
}

// wanted is how many slots a function needs: by Little's law those that are taken while a new one starts, and a margin for arrivals that are
// not even.
func (k *keeper) wanted(f *kept, extensions api.Extensions, now time.Time) int {
	limits := k.s.cfg.Warm
	if extensions.Warm >= 0 {
		return min(extensions.Warm, limits.Function)
	}
	if f.lastCall.IsZero() || now.Sub(f.lastCall) > k.idle(extensions) {
		return 0
	}
	if extensions.Reuse {
		return 1 // containers that are started for calls stay, as many as there are calls at once
	}
	taken := f.decayed(now) / rateWindow.Seconds() * f.start.Seconds()
	return max(min(int(math.Ceil(taken+math.Sqrt(taken))), limits.Function), 1)
}

// idle is how long a function keeps slots that it does not need.
func (k *keeper) idle(extensions api.Extensions) time.Duration {
	if extensions.Idle != 0 {
		return extensions.Idle
	}
	return k.s.cfg.Warm.Idle
}

// busy is how many slots serve a call.
func (f *kept) busy() (n int) {
	for _, slot := range f.slots {
		if slot.busy {
			n++
		}
	}
	return n
}

// recentPeak is the most calls at once that reused slots served within the idle time, or up to twice that.
func (f *kept) recentPeak(now time.Time, idle time.Duration) int {
	if now.Sub(f.since) >= idle {
		f.before, f.peak, f.since = f.peak, f.busy(), now
	}
	return max(f.before, f.peak)
}

// room is how many more slots the limits leave an account.
func (k *keeper) room(account string) int {
	total, own := 0, 0
	for _, f := range k.functions {
		n := len(f.slots) + f.starting
		total += n
		if f.account == account {
			own += n
		}
	}
	return min(k.s.cfg.Warm.Total-total, k.s.cfg.Warm.Account-own)
}

func (k *keeper) dispatch(f *kept, d *api.Definition) {
	f.starting++
	slot := api.Slot{Account: d.Account, Name: d.Function.Name, Function: d.ID, Revision: d.Revision}
	k.do(func() {
		job, err := k.s.cfg.Cluster.DispatchSlot(k.ctx, slot.Account, slot.Name)
		k.post(func() {
			f.starting--
			if err != nil {
				k.log.Debug("a slot was not started", "function", slot.Function, "error", err)
				f.after = time.Now().Add(warmTick)
				return
			}
			slot.Job = job
			if f.slots[job] == nil { // else its container was faster than the answer
				k.add(slot)
			}
		})
	})
}

// counts tells how many slots of a function wait, and how many are to. It may be called from any goroutine.
func (k *keeper) counts(function string) api.SlotCounts {
	answer := make(chan api.SlotCounts, 1)
	k.post(func() {
		var c api.SlotCounts
		if f := k.functions[function]; f != nil {
			c.Wanted = f.wanted
			for _, slot := range f.slots {
				if slot.ready && !slot.busy {
					c.Ready++
				}
			}
		}
		answer <- c
	})
	select {
	case c := <-answer:
		return c
	case <-k.ctx.Done():
		return api.SlotCounts{}
	}
}
