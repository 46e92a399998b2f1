package consul

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/funcd/funcd/api"
)

// maxReads is how many misses of one cache ask Consul at a time. The others wait: unknown keys may come from an attacker without end.
const maxReads = 16

// cache answers from memory for the values of one kind.
type cache[V any] struct {
	turn sync.Mutex // held while changes are made and told, so that they are told in order; taken before mu
	mu   sync.RWMutex
	rows table[V] // guarded by mu

	index func(change[V]) // called with both locks held for each change; may be nil
	tell  func(change[V]) // called after it with turn held; may be nil

	filled  sync.Once
	ready   chan struct{} // closed once the first list is in
	timeout time.Duration // of a miss
	flights singleflight.Group
	reads   chan struct{} // holds one element for each miss that asks Consul
}

func (c *cache[V]) init(client *Client) {
	c.rows = table[V]{rows: map[string]row[V]{}, gone: map[string]deletion{}}
	c.ready = make(chan struct{})
	c.timeout = client.timeout
	c.reads = make(chan struct{}, maxReads)
}

// apply changes the table and tells what came of it.
func (c *cache[V]) apply(write func(*table[V]) []change[V]) {
	c.turn.Lock()
	defer c.turn.Unlock()
	c.mu.Lock()
	changes := write(&c.rows)
	if c.index != nil {
		for _, ch := range changes {
			c.index(ch)
		}
	}
	c.mu.Unlock()
	if c.tell != nil {
		for _, ch := range changes {
			c.tell(ch)
		}
	}
}

func (c *cache[V]) put(r record[V]) {
	c.apply(func(t *table[V]) []change[V] { return t.put(r) })
}

func (c *cache[V]) remove(key string, index uint64) {
	c.apply(func(t *table[V]) []change[V] { return t.remove(key, index) })
}

func (c *cache[V]) get(key string) (value V, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	row, ok := c.rows.rows[key]
	if ok {
		value = *row.value
	}
	return value, ok
}

// known returns what is in memory as Consul's record of it.
func (c *cache[V]) known(key string) (record[V], bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	row, ok := c.rows.rows[key]
	if !ok {
		return record[V]{}, false
	}
	return record[V]{key: key, index: row.index, value: *row.value}, true
}

// all returns the values that keep wants, in the order of compare.
func (c *cache[V]) all(keep func(*V) bool, compare func(a, b *V) int) []V {
	c.mu.RLock()
	kept := make([]*V, 0, len(c.rows.rows)) // what they point to never changes
	for _, row := range c.rows.rows {
		if keep(row.value) {
			kept = append(kept, row.value)
		}
	}
	c.mu.RUnlock()
	slices.SortFunc(kept, compare)
	values := make([]V, len(kept))
	for i, value := range kept {
		values[i] = *value
	}
	return values
}

// run follows Consul until ctx ends, whose error it returns.
func (c *cache[V]) run(ctx context.Context, client *Client, prefix string, keyOf func(*V) string) error {
	return follow(ctx, client, prefix, keyOf, func() func([]record[V], uint64) {
		c.mu.RLock()
		asked := c.rows.clock
		c.mu.RUnlock()
		return func(list []record[V], index uint64) {
			c.apply(func(t *table[V]) []change[V] { return t.sync(list, index, asked) })
			c.filled.Do(func() { close(c.ready) })
		}
	})
}

// WaitReady blocks until everything has been read for the first time. The error is ctx's own.
func (c *cache[V]) WaitReady(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// miss asks Consul for what is not in the table, and keeps it. Equal names are asked for once at a time. A caller whose ctx ends goes at
// once; the request, which others may wait for too, ends by itself within the client's timeout.
func (c *cache[V]) miss(ctx context.Context, name string, read func(context.Context) (record[V], error)) (V, error) {
	for joined := false; ; joined = true {
		first := false
		answer := c.flights.DoChan(name, func() (any, error) {
			first = true
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
			defer cancel()
			select {
			case c.reads <- struct{}{}:
				defer func() { <-c.reads }()
			case <-ctx.Done():
				return nil, translate(ctx, errors.New("too many reads are waiting"))
			}
			r, err := read(ctx)
			if err != nil {
				return nil, err
			}
			c.put(r)
			return r.value, nil
		})
		select {
		case <-ctx.Done():
			var none V
			return none, translate(ctx, ctx.Err())
		case result := <-answer:
			if result.Err == nil {
				return result.Val.(V), nil
			}
			// Another one's read may have been made before this call, and what was created between them is not to be missed.
			if !first && !joined && api.CodeOf(result.Err) == api.NotFound {
				continue
			}
			var none V
			return none, result.Err
		}
	}
}

// Functions answers for all functions from memory, and makes changes that are seen here at once. It is safe for concurrent use. The
// definitions that it returns share their slices and maps: they are read only.
type Functions struct {
	cache[api.Definition]
	client      *Client
	addresses   map[[sha256.Size]byte]string // SHA-256 of the UUID → key; guarded by mu. A lookup's time says nothing of the UUID.
	subscribers []func(old, now *api.Definition)
}

// NewFunctions returns a cache that is empty, and asks Consul for everything, until Run is called.
func NewFunctions(client *Client) *Functions {
	f := &Functions{client: client, addresses: map[[sha256.Size]byte]string{}}
	f.init(client)
	f.index = f.indexAddress
	f.tell = f.tellSubscribers
	return f
}

func (f *Functions) indexAddress(ch change[api.Definition]) {
	if ch.old != nil {
		if address := sha256.Sum256([]byte(ch.old.Function.UUID)); f.addresses[address] == ch.key {
			delete(f.addresses, address)
		}
	}
	if ch.now != nil {
		f.addresses[sha256.Sum256([]byte(ch.now.Function.UUID))] = ch.key
	}
}

func (f *Functions) tellSubscribers(ch change[api.Definition]) {
	for _, subscriber := range f.subscribers {
		if ch.old != nil && ch.now != nil && ch.old.ID != ch.now.ID {
			subscriber(ch.old, nil)
			subscriber(nil, ch.now)
		} else {
			subscriber(ch.old, ch.now)
		}
	}
}

// Run follows Consul's functions. It blocks until ctx ends, whose error it returns, and rides out outages of Consul. It is called once.
func (f *Functions) Run(ctx context.Context) error {
	return f.run(ctx, f.client, f.client.functionsPrefix(), keyOfDefinition)
}

// Subscribe has onChange called for each function that is known already (old is nil), and from then on for each that is created (old is
// nil), changed or removed (now is nil). A function that was deleted and created anew under its name is told as both. Calls come one at a
// time and in order, from the goroutine that learnt of the change: that of Run, of a method that writes, or of one that had to ask Consul.
// onChange must not block, as all of these wait for it, and of f's methods may call List and All only.
func (f *Functions) Subscribe(onChange func(old, now *api.Definition)) {
	f.turn.Lock()
	defer f.turn.Unlock()
	f.subscribers = append(f.subscribers, onChange)
	for _, def := range f.All() {
		onChange(nil, &def)
	}
}

// Get returns a function. The error is of code NotFound, which Consul has confirmed, Unavailable or Internal.
func (f *Functions) Get(ctx context.Context, account, name string) (api.Definition, error) {
	if def, ok := f.get(functionID(account, name)); ok {
		return def, nil
	}
	return f.miss(ctx, "name "+functionID(account, name), func(ctx context.Context) (functionRecord, error) {
		if r, ok := f.known(functionID(account, name)); ok {
			return r, nil // another one's read has just ended
		}
		return f.client.function(ctx, account, name)
	})
}

// ByUUID returns the function that has this UUID. Errors are those of Get.
func (f *Functions) ByUUID(ctx context.Context, uuid string) (api.Definition, error) {
	address := sha256.Sum256([]byte(uuid))
	f.mu.RLock()
	row, ok := f.rows.rows[f.addresses[address]]
	f.mu.RUnlock()
	if ok {
		return *row.value, nil
	}
	return f.miss(ctx, "address "+hex.EncodeToString(address[:]), func(ctx context.Context) (functionRecord, error) {
		return f.client.functionByUUID(ctx, uuid)
	})
}

// ByID returns the account's function of this name if it has this id. Another id, or none, is what Consul has confirmed, and an error of
// code NotFound; errors are else those of Get.
func (f *Functions) ByID(ctx context.Context, account, name, id string) (api.Definition, error) {
	// What is in memory may be older, or newer, than the id that was asked for.
	if def, ok := f.get(functionID(account, name)); ok && def.ID == id {
		return def, nil
	}
	return f.miss(ctx, "id "+id+" "+functionID(account, name), func(ctx context.Context) (functionRecord, error) {
		r, err := f.client.function(ctx, account, name)
		if err == nil && r.value.ID != id {
			err = noFunction()
		}
		return r, err
	})
}

// List returns the functions of the account, newest first. It is complete once WaitReady has returned.
func (f *Functions) List(account string) []api.Definition {
	return f.all(func(def *api.Definition) bool { return def.Account == account }, newestFirst)
}

// All returns the functions of all accounts, newest first. It is complete once WaitReady has returned.
func (f *Functions) All() []api.Definition {
	return f.all(func(*api.Definition) bool { return true }, newestFirst)
}

func newestFirst(a, b *api.Definition) int {
	return cmp.Or(b.Function.Created.Compare(a.Function.Created.Time), cmp.Compare(a.Function.Name, b.Function.Name),
		cmp.Compare(a.Account, b.Account))
}

// Create is Client.CreateFunction.
func (f *Functions) Create(ctx context.Context, def api.Definition) (api.Definition, error) {
	r, err := f.client.createFunction(ctx, def)
	if err != nil {
		return api.Definition{}, err
	}
	f.put(r)
	return r.value, nil
}

// Update is Client.UpdateFunction.
func (f *Functions) Update(ctx context.Context, account, name string, change func(*api.Definition) error) (api.Definition, error) {
	r, err := f.client.updateFunction(ctx, account, name, change)
	if err != nil {
		return api.Definition{}, err
	}
	f.put(r)
	return r.value, nil
}

// Delete is Client.DeleteFunction.
func (f *Functions) Delete(ctx context.Context, account, name, id string) error {
	index, err := f.client.deleteFunction(ctx, account, name, id)
	if err != nil {
		return err
	}
	f.remove(functionID(account, name), index)
	return nil
}
