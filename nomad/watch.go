package nomad

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
)

// watch is one caller's interest in one job.
type watch struct {
	image  string
	c      chan api.JobStatus // holds the latest status that was not read
	status api.JobStatus
	// Nomad's indexes of what status says, one for each kind: an evaluation that is newer does not make an allocation old.
	allocation, evaluation uint64
	created                uint64 // the allocation's: Nomad may replace it by a newer one
}

// Watch tells what becomes of the job of a call of the function: its status now, if Nomad answers, and each change. Only the latest
// is kept for a slow reader. Call stop; the channel is never closed.
func (c *Client) Watch(ctx context.Context, d *api.Definition, job string) (updates <-chan api.JobStatus, stop func()) {
	w := &watch{image: d.Function.Config.Image, c: make(chan api.JobStatus, 1), status: api.JobStatus{Job: job}}
	c.mu.Lock()
	if c.watches[job] == nil {
		c.watches[job] = map[*watch]struct{}{}
	}
	c.watches[job][w] = struct{}{}
	c.mu.Unlock()
	// What happened before the events are followed is asked for once. If Nomad does not answer, Run asks when it does again.
	if err := c.refresh(ctx, job); err != nil {
		c.log.Debug("the state of a job is not known yet", "job", job, "error", err)
	}
	return w.c, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watches[job], w)
		if len(c.watches[job]) == 0 {
			delete(c.watches, job)
		}
	}
}

// Run follows the events of all namespaces until ctx ends. A stream is of one: that of all is refused to a token that may not read each that there is.
func (c *Client) Run(ctx context.Context) {
	var streams sync.WaitGroup
	defer streams.Wait()
	for _, namespace := range c.namespaces() {
		streams.Go(func() { c.run(ctx, namespace) })
	}
}

// run follows Nomad's events in a namespace until ctx ends. Their stream may miss some without an error: its buffer is short, and a resumed one goes on
// with what is left in it. So every connection asks for the state of all watched jobs first, then follows.
func (c *Client) run(ctx context.Context, namespace string) {
	const first, most = 100 * time.Millisecond, 10 * time.Second
	wait, down := first, false
	// Nomad has no events for the allocations of a job that was purged: those are asked for until they have ended.
	deregistered := map[string]struct{}{}
	for ctx.Err() == nil {
		err := c.follow(ctx, namespace, deregistered, func() {
			if down {
				c.log.Info("Nomad answers again", "namespace", namespace)
			}
			wait, down = first, false
		})
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			continue
		}
		if !down {
			c.log.Warn("Nomad's events are not followed, trying again", "namespace", namespace, "error", err)
			down = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait/2)):
			wait = min(2*wait, most)
		}
	}
}

// renewTime is how long one connection to the events is used. A Nomad server that is frozen, behind a load balancer, says nothing more on it and does not end it.
const renewTime = 2 * time.Minute

// follow follows the events of a namespace over one connection, until that ends, and notes which jobs were deregistered. It returns nil when the connection is to be
// replaced by another.
func (c *Client) follow(ctx context.Context, namespace string, deregistered map[string]struct{}, connected func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	topics := map[nomad.Topic][]string{nomad.TopicAllocation: {"*"}, nomad.TopicEvaluation: {"*"}, nomad.TopicJob: {"*"}}
	begins := time.AfterFunc(c.cfg.Timeout, cancel) // it answers at once, if it does
	stream, err := c.nomad.EventStream().Stream(ctx, topics, 0, &nomad.QueryOptions{Namespace: namespace})
	if !begins.Stop() {
		err = errors.Join(errors.New("the stream of events did not begin"), err)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	watched := make([]string, 0, len(c.watches))
	for job := range c.watches {
		if c.namespaceOf(job) == namespace {
			watched = append(watched, job)
		}
	}
	c.mu.Unlock()
	for _, job := range watched {
		if err := c.refresh(ctx, job); err != nil {
			return err
		}
	}
	connected()
	ask := time.NewTicker(purgedInterval)
	defer ask.Stop()
	renew := time.NewTimer(c.renewal)
	defer renew.Stop()
	for {
		select {
		case events, ok := <-stream:
			if !ok {
				return errors.New("the stream of events ended")
			}
			if events.Err != nil {
				return events.Err
			}
			for i := range events.Events {
				if e := &events.Events[i]; e.Topic != nomad.TopicJob {
					c.event(namespace, e)
				} else if e.Type == "JobDeregistered" && c.namespaceOf(e.Key) == namespace {
					deregistered[e.Key] = struct{}{}
				}
			}
		case <-renew.C:
			return nil
		case <-ask.C:
			for job := range deregistered {
				if !c.watched(job) {
					delete(deregistered, job)
				} else if err := c.refresh(ctx, job); err != nil {
					return err
				}
			}
		}
	}
}

// purgedInterval is how often the allocations of a job that was deregistered are asked for.
const purgedInterval = time.Second

func (c *Client) watched(job string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.watches[job]) > 0
}

// event takes note of an event of the namespace. Jobs that are not to be there may have any name.
func (c *Client) event(namespace string, e *nomad.Event) {
	switch e.Topic {
	case nomad.TopicAllocation:
		if alloc, err := e.Allocation(); err == nil && alloc != nil && c.namespaceOf(alloc.JobID) == namespace {
			c.updateAllocation(alloc.JobID, alloc.Stub())
		}
	case nomad.TopicEvaluation:
		if eval, err := e.Evaluation(); err == nil && eval != nil && c.namespaceOf(eval.JobID) == namespace {
			c.updateEvaluation(eval.JobID, eval)
		}
	}
}

// refresh asks Nomad for the state of one job.
func (c *Client) refresh(ctx context.Context, job string) error {
	q, cancel := c.query(ctx, c.namespaceOf(job))
	defer cancel()
	allocs, _, err := c.nomad.Jobs().Allocations(job, true, q)
	if err != nil {
		return translate(err, "asking for a call's allocation")
	}
	if len(allocs) > 0 {
		latest := allocs[0]
		for _, a := range allocs[1:] {
			if a.CreateIndex > latest.CreateIndex {
				latest = a
			}
		}
		c.updateAllocation(job, latest)
		return nil
	}
	if _, _, err := c.nomad.Jobs().Info(job, q); api.CodeOf(translate(err, "asking for a call's job")) == api.NotFound {
		c.update(job, func(w *watch) {
			w.status.Ended, w.status.Code, w.status.Message = true, api.CallFailed, "the call's job was removed from Nomad"
			w.status.Another = true // Nomad may have lost its data
		})
		return nil
	}
	evals, _, err := c.nomad.Jobs().Evaluations(job, q)
	if err != nil {
		return translate(err, "asking for a call's evaluation")
	}
	for _, eval := range evals {
		c.updateEvaluation(job, eval)
	}
	return nil
}

func (c *Client) updateAllocation(job string, alloc *nomad.AllocationListStub) {
	c.update(job, func(w *watch) {
		if alloc.ModifyIndex < w.allocation || alloc.CreateIndex < w.created {
			return // an answer that was overtaken by an event, or news of one that was replaced
		}
		if w.status.Allocation != alloc.ID {
			w.status = api.JobStatus{Job: w.status.Job}
		}
		w.allocation, w.created = alloc.ModifyIndex, alloc.CreateIndex
		applyAllocation(&w.status, alloc, w.image)
	})
}

func (c *Client) updateEvaluation(job string, eval *nomad.Evaluation) {
	c.update(job, func(w *watch) {
		if eval.ModifyIndex >= w.evaluation {
			w.evaluation = eval.ModifyIndex
			applyEvaluation(&w.status, eval)
		}
	})
}

// update changes the status of a watched job and passes it on if it says anything new.
func (c *Client) update(job string, change func(w *watch)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watches[job] {
		before := w.status
		change(w)
		if w.status == before {
			continue
		}
		select {
		case <-w.c:
		default:
		}
		w.c <- w.status
	}
}
