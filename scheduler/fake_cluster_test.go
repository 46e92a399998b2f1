package scheduler

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/funcd/funcd/api"
)

// fakeCluster is a Cluster of which the test says what becomes of the jobs.
type fakeCluster struct {
	mu         sync.Mutex
	dispatched []string // calls, also those that had a job
	registered []string // functions
	stopped    []string // jobs
	evaluated  []string // jobs
	slots      []string // jobs, in the order of their dispatch
	existing   []api.Slot
	onSlot     func(name, job string) // called for each slot that is dispatched, if set
	onStop     func(job string)
	stop       error // of the next stops
	ended      []api.EndedJob
	ends       map[string]time.Time // of containers; none for one that has not ended
	purged     []string             // jobs
	purge      func(job string) error
	watches    map[string][]chan api.JobStatus
	status     map[string]api.JobStatus
	draining   map[string]bool // allocations
	// dispatch and register, if set, tell the error of the next dispatch or registration.
	dispatch func(call string) error
	register func() error
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{ends: map[string]time.Time{}, watches: map[string][]chan api.JobStatus{}, status: map[string]api.JobStatus{}}
}

func (c *fakeCluster) Register(_ context.Context, d *api.Definition) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.registered = append(c.registered, d.ID)
	if c.register != nil {
		return c.register()
	}
	return nil
}

func (c *fakeCluster) Dispatch(ctx context.Context, account, name, call string, start int) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dispatched = append(c.dispatched, call)
	if ctx.Err() != nil {
		return "", api.Wrap(api.Unavailable, ctx.Err(), "the cluster does not answer")
	}
	if c.dispatch != nil {
		if err := c.dispatch(call); err != nil {
			return "", err
		}
	}
	if start > 0 {
		call += "-" + strconv.Itoa(start)
	}
	return jobOf(account, name, call), nil
}

func (c *fakeCluster) DispatchSlot(_ context.Context, account, name string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dispatch != nil {
		if err := c.dispatch(""); err != nil {
			return "", err
		}
	}
	job := jobOf(account, name, "slot-"+strconv.Itoa(len(c.slots)))
	c.slots = append(c.slots, job)
	if c.onSlot != nil {
		c.onSlot(name, job)
	}
	return job, nil
}

func (c *fakeCluster) Slots(context.Context) ([]api.Slot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.existing), nil
}

func jobOf(account, name, call string) string {
	return "func-" + account + "-" + name + "/dispatch-" + call
}

func (c *fakeCluster) Watch(_ context.Context, _ *api.Definition, job string) (<-chan api.JobStatus, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := make(chan api.JobStatus, 1)
	c.watches[job] = append(c.watches[job], w)
	if status, ok := c.status[job]; ok {
		w <- status
	}
	return w, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.watches[job] = slices.DeleteFunc(c.watches[job], func(other chan api.JobStatus) bool { return other == w })
	}
}

// say tells those who watch the job of its status.
func (c *fakeCluster) say(status api.JobStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status[status.Job] = status
	for _, w := range c.watches[status.Job] {
		select {
		case <-w:
		default:
		}
		w <- status
	}
}

func (c *fakeCluster) Draining(context.Context) (map[string]bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.draining), nil
}

func (c *fakeCluster) Stop(_ context.Context, job string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = append(c.stopped, job)
	if c.onStop != nil {
		c.onStop(job)
	}
	return c.stop
}

func (c *fakeCluster) Evaluate(_ context.Context, job string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.evaluated = append(c.evaluated, job)
	return nil
}

func (c *fakeCluster) failStop(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop = err
}

// fakeFunctions knows one function, and others.
type fakeFunctions struct {
	mu     sync.Mutex
	d      api.Definition
	others []api.Definition
	err    error
	before func() // called ahead of each question, if set
}

func (f *fakeFunctions) ByID(_ context.Context, account, name, id string) (api.Definition, error) {
	if f.before != nil {
		f.before()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return api.Definition{}, f.err
	}
	for _, d := range append([]api.Definition{f.d}, f.others...) {
		if account == d.Account && name == d.Function.Name && id == d.ID {
			return d, nil
		}
	}
	return api.Definition{}, api.Errorf(api.NotFound, "no such function")
}

func (f *fakeFunctions) All() []api.Definition {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]api.Definition{f.d}, f.others...)
}

func (f *fakeFunctions) failing(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (c *fakeCluster) EndedJobs(context.Context) ([]api.EndedJob, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.ended), nil
}

func (c *fakeCluster) Ended(_ context.Context, job string) (time.Time, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	end, ok := c.ends[job]
	return end, ok, nil
}

func (c *fakeCluster) Purge(_ context.Context, job string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.purge != nil {
		if err := c.purge(job); err != nil {
			return err
		}
	}
	c.purged = append(c.purged, job)
	c.ended = slices.DeleteFunc(c.ended, func(e api.EndedJob) bool { return e.Job == job })
	return nil
}
