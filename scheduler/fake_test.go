package scheduler

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/funcd/funcd/api"
)

// fakeStore is Queue, Records and Messages in memory, for any number of schedulers. TestStores holds it to what calls.Store does.
type fakeStore struct {
	mu        sync.Mutex
	queue     []*queued
	accounts  []string
	consumers []*fakeConsumer
	quotas    map[string]int
	records   map[string]fakeRecord
	versions  uint64
	outputs   map[string][]byte
	keys      map[string]fakeKey
	letters   map[string]fakeLetter
	callbacks map[string]fakeCallback
	buried    map[string]bool
	enqueued  map[string]bool // once
	offers    map[string][]*fakeOffer
	waiters   map[string]map[chan struct{}]struct{}
	changes   []*func(call string)
	events    []api.Event
	alone     bool            // calls are held
	held      map[string]bool // what a crash forgets
	// before, if set, is called ahead of each operation; its error is the operation's.
	before func(operation string) error
	// lose is how many answers to SaveRecord are lost: the record is stored.
	lose int
}

type queued struct {
	call      *api.Call
	latest    *fakeDelivery // nil if it is not delivered
	from      time.Time     // not to be delivered before
	extended  int
	delivered bool
	ours      bool
}

type fakeRecord struct {
	rec     api.Record
	version uint64
}

type fakeOffer struct {
	mu   sync.Mutex
	take func(context.Context, api.Allocation) (*api.Assignment, []byte, error)
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		records: map[string]fakeRecord{},
		outputs: map[string][]byte{},
		held:    map[string]bool{},
		quotas:  map[string]int{},

		keys:      map[string]fakeKey{},
		enqueued:  map[string]bool{},
		letters:   map[string]fakeLetter{},
		callbacks: map[string]fakeCallback{},
		buried:    map[string]bool{},
		offers:    map[string][]*fakeOffer{},
		waiters:   map[string]map[chan struct{}]struct{}{},
	}
}

func key(function, call string) string { return function + "." + call }

// begin locks the store for an operation. After an error it is not locked.
func (f *fakeStore) begin(operation string) error {
	f.mu.Lock()
	before := f.before
	f.mu.Unlock()
	if before != nil {
		if err := before(operation); err != nil {
			return err
		}
	}
	f.mu.Lock()
	return nil
}

func (f *fakeStore) failing(before func(operation string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = before
}

func (f *fakeStore) Enqueue(_ context.Context, call *api.Call) error {
	if err := f.begin("Enqueue"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if !slices.Contains(f.accounts, call.Account) {
		f.accounts = append(f.accounts, call.Account)
	}
	f.queue = append(f.queue, &queued{call: call, ours: f.alone})
	f.wake()
	return nil
}

func (f *fakeStore) find(call string) int {
	return slices.IndexFunc(f.queue, func(q *queued) bool { return q.call.ID == call })
}

func (f *fakeStore) Queued(_ context.Context, account, function, call string) (*api.Call, error) {
	if err := f.begin("Queued"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	if i := f.find(call); i >= 0 && f.queue[i].call.Account == account && f.queue[i].call.Function == function {
		return f.queue[i].call, nil
	}
	return nil, api.Errorf(api.NotFound, "no such call: %s", call)
}

func (f *fakeStore) IsQueued(_ context.Context, account, function, call string) (bool, error) {
	if err := f.begin("IsQueued"); err != nil {
		return false, err
	}
	defer f.mu.Unlock()
	i := f.find(call)
	return i >= 0 && f.queue[i].call.Account == account && f.queue[i].call.Function == function, nil
}

func (f *fakeStore) Accounts(context.Context) ([]string, error) {
	if err := f.begin("Accounts"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	return slices.Clone(f.accounts), nil
}

type fakeConsumer struct {
	account string
	quota   int
	deliver func(Delivery)
	changed chan struct{}
}

func (f *fakeStore) wake() {
	for _, c := range f.consumers {
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}
}

func (f *fakeStore) Consume(_ context.Context, account string, quota int, deliver func(Delivery)) (stop func(), err error) {
	if err := f.begin("Consume"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	c := &fakeConsumer{account: account, quota: quota, deliver: deliver, changed: make(chan struct{}, 1)}
	f.consumers = append(f.consumers, c)
	f.quotas[account] = quota
	stopping, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stopping:
				return
			default:
			}
			if d := f.next(c); d != nil {
				deliver(d)
				continue
			}
			select {
			case <-stopping:
				return
			case <-c.changed:
			}
		}
	}()
	var once sync.Once
	return func() {
		once.Do(func() { close(stopping) })
		<-stopped
		f.mu.Lock()
		defer f.mu.Unlock()
		f.consumers = slices.DeleteFunc(f.consumers, func(other *fakeConsumer) bool { return other == c })
	}, nil
}

func (f *fakeStore) Quota(_ context.Context, account string) (int, error) {
	if err := f.begin("Quota"); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	return f.quotas[account], nil
}

func (f *fakeStore) SetQuota(_ context.Context, account string, quota int) error {
	if err := f.begin("SetQuota"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	f.quotas[account] = quota
	for _, c := range f.consumers {
		if c.account == account {
			c.quota = quota
		}
	}
	f.wake()
	return nil
}

func (f *fakeStore) next(c *fakeConsumer) Delivery {
	f.mu.Lock()
	defer f.mu.Unlock()
	delivered := 0
	for _, q := range f.queue {
		if q.latest != nil && q.call.Account == c.account {
			delivered++
		}
	}
	for _, q := range f.queue {
		if q.latest == nil && q.call.Account == c.account && !time.Now().Before(q.from) && delivered < c.quota {
			q.latest = &fakeDelivery{f: f, q: q, fresh: !q.delivered}
			q.delivered = true
			return q.latest
		}
	}
	return nil
}

// redeliver delivers the call once more, as if its lease had ended.
func (f *fakeStore) redeliver(call string) *fakeDelivery {
	f.mu.Lock()
	q, c := f.queue[f.find(call)], f.consumers[0]
	d := &fakeDelivery{f: f, q: q}
	q.latest = d
	f.mu.Unlock()
	c.deliver(d)
	return d
}

type fakeDelivery struct {
	f     *fakeStore
	q     *queued
	done  bool
	fresh bool
}

func (d *fakeDelivery) Call() *api.Call { return d.q.call }

func (d *fakeDelivery) Fresh() bool { return d.fresh }

func (d *fakeDelivery) Ours() bool {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	return d.q.ours
}

// reopened has no call in the queue be the server's own any more.
func (f *fakeStore) reopened() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, q := range f.queue {
		q.ours = false
	}
}

func (d *fakeDelivery) Extend() error {
	if err := d.f.begin("Extend"); err != nil {
		return err
	}
	defer d.f.mu.Unlock()
	d.q.extended++
	return nil
}

func (d *fakeDelivery) Done(context.Context) error {
	if err := d.f.begin("Done"); err != nil {
		return err
	}
	defer d.f.mu.Unlock()
	d.done = true
	d.f.queue = slices.DeleteFunc(d.f.queue, func(q *queued) bool { return q == d.q })
	d.f.wake()
	return nil
}

func (d *fakeDelivery) Return(delay time.Duration) error {
	if err := d.f.begin("Return"); err != nil {
		return err
	}
	defer d.f.mu.Unlock()
	d.q.latest, d.q.from = nil, time.Now().Add(delay)
	d.f.wake()
	if delay > 0 {
		time.AfterFunc(delay, func() {
			d.f.mu.Lock()
			defer d.f.mu.Unlock()
			d.f.wake()
		})
	}
	return nil
}

func (f *fakeStore) Record(_ context.Context, function, call string) (api.Record, uint64, error) {
	if err := f.begin("Record"); err != nil {
		return api.Record{}, 0, err
	}
	defer f.mu.Unlock()
	stored, ok := f.records[key(function, call)]
	if !ok {
		return api.Record{}, 0, api.Errorf(api.NotFound, "no such call: %s", call)
	}
	return stored.rec, stored.version, nil
}

func (f *fakeStore) SaveRecord(_ context.Context, rec api.Record, version uint64) (uint64, error) {
	if err := f.begin("SaveRecord"); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	k := key(rec.Function, rec.CallID)
	if f.records[k].version != version {
		return 0, api.Errorf(api.Conflict, "the record of the call has changed meanwhile")
	}
	over := version == 0 && f.find(rec.CallID) < 0
	if over && rec.State.Ended() {
		return 0, api.Errorf(api.Conflict, "the call is over")
	}
	f.versions++
	f.records[k] = fakeRecord{rec, f.versions}
	if f.lose > 0 {
		f.lose--
		return 0, api.Errorf(api.Unavailable, "the answer was lost")
	}
	if over { // which is known only after it was written
		delete(f.records, k)
		return 0, api.Errorf(api.Conflict, "the call is over")
	}
	return f.versions, nil
}

func (f *fakeStore) Running(_ context.Context, function string) (calls []string, err error) {
	if err := f.begin("Running"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	for _, stored := range f.records {
		if stored.rec.Function == function && stored.rec.State == api.Running {
			calls = append(calls, stored.rec.CallID)
		}
	}
	return calls, nil
}

func (f *fakeStore) SaveOutput(_ context.Context, function, call string, output []byte) error {
	if err := f.begin("SaveOutput"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	f.outputs[key(function, call)] = output
	return nil
}

func (f *fakeStore) Output(_ context.Context, function, call string) ([]byte, error) {
	if err := f.begin("Output"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	output, ok := f.outputs[key(function, call)]
	if !ok {
		return nil, api.Errorf(api.Expired, "the output of call %s has expired", call)
	}
	return output, nil
}

func (f *fakeStore) Forget(_ context.Context, rec api.Record) error {
	if err := f.begin("Forget"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	delete(f.held, key(rec.Function, rec.CallID))
	if rec.Options.Keep > 0 {
		rec.Fetched = time.Now()
		f.versions++
		f.records[key(rec.Function, rec.CallID)] = fakeRecord{rec, f.versions}
	} else {
		delete(f.records, key(rec.Function, rec.CallID))
	}
	delete(f.outputs, key(rec.Function, rec.CallID))
	f.queue = slices.DeleteFunc(f.queue, func(q *queued) bool { return q.call.ID == rec.CallID })
	f.wake()
	return nil
}

func (f *fakeStore) Offer(call string, take func(context.Context, api.Allocation) (*api.Assignment, []byte, error)) (func(), error) {
	if err := f.begin("Offer"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	offer := &fakeOffer{take: take}
	f.offers[call] = append(f.offers[call], offer)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.offers[call] = slices.DeleteFunc(f.offers[call], func(other *fakeOffer) bool { return other == offer })
	}, nil
}

func (f *fakeStore) Take(ctx context.Context, call string, allocation api.Allocation) (*api.Assignment, []byte, error) {
	if err := f.begin("Take"); err != nil {
		return nil, nil, err
	}
	offers := slices.Clone(f.offers[call])
	f.mu.Unlock()
	if len(offers) == 0 {
		return nil, nil, api.Errorf(api.NotFound, "no server offers call %s", call)
	}
	offers[0].mu.Lock()
	defer offers[0].mu.Unlock()
	return offers[0].take(ctx, allocation)
}

func (f *fakeStore) WaitEnd(function, call string) (<-chan struct{}, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, k := make(chan struct{}), key(function, call)
	if f.waiters[k] == nil {
		f.waiters[k] = map[chan struct{}]struct{}{}
	}
	f.waiters[k][c] = struct{}{}
	return c, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.waiters[k], c)
	}
}

func (f *fakeStore) NotifyEnd(function, call string) {
	if f.begin("NotifyEnd") != nil {
		return // the message is lost
	}
	defer f.mu.Unlock()
	for c := range f.waiters[key(function, call)] {
		close(c)
	}
	delete(f.waiters, key(function, call))
}

func (f *fakeStore) NotifyChange(call string) {
	if f.begin("NotifyChange") != nil {
		return // the message is lost
	}
	changes := slices.Clone(f.changes)
	f.mu.Unlock()
	for _, changed := range changes {
		(*changed)(call)
	}
}

func (f *fakeStore) WatchChanges(changed func(call string)) (func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	own := &changed
	f.changes = append(f.changes, own)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.changes = slices.DeleteFunc(f.changes, func(other *func(string)) bool { return other == own })
	}, nil
}

func (f *fakeStore) CallsInFlight(_ context.Context, account, function string) (calls []string, err error) {
	if err := f.begin("CallsInFlight"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	for _, q := range f.queue {
		if q.call.Account == account && q.call.Function == function {
			calls = append(calls, q.call.ID)
		}
	}
	return calls, nil
}

// Postpone puts the call aside at once: Done, which follows, finds it there.
func (f *fakeStore) Postpone(_ context.Context, call *api.Call, until time.Time) error {
	if err := f.begin("Postpone"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	f.queue = append(f.queue, &queued{call: call, from: until})
	time.AfterFunc(time.Until(until), func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.wake()
	})
	return nil
}

func (f *fakeStore) Withdraw(_ context.Context, account, function, call string) error {
	if err := f.begin("Withdraw"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	f.queue = slices.DeleteFunc(f.queue, func(q *queued) bool {
		return q.call.ID == call && q.call.Account == account && q.call.Function == function
	})
	f.wake()
	return nil
}

func (f *fakeStore) Log(_ context.Context, _ string, events ...api.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, events...)
}
