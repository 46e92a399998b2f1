package scheduler

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/funcd/funcd/api"
)

// Keep bounds the jobs of containers that have ended, which stay in the cluster to be looked at.
type Keep struct {
	Time time.Duration // since their end
	Jobs int           // of one function, the latest
}

// purgePeriod is how often ended jobs are looked for at most. They stay until the next look after they were first seen, so that who waits for
// their end has heard of it.
const purgePeriod = 30 * time.Second

// PurgeEnded purges the jobs of containers that have ended and were kept for long enough, except for those that may have a call. It blocks until
// ctx ends or something does not answer; one server at a time calls it. The error is of code Unavailable.
func (s *Scheduler) PurgeEnded(ctx context.Context) error {
	p := &purger{s: s}
	tick := time.NewTicker(max(min(purgePeriod, s.cfg.Keep.Time), time.Second))
	defer tick.Stop()
	for {
		if err := p.pass(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// purger is what one pass of PurgeEnded leaves to the next.
type purger struct {
	s    *Scheduler
	seen map[string]time.Time // the jobs of the last pass, with the time of their end where that was asked for
}

func (p *purger) pass(ctx context.Context) error {
	ended, err := p.s.cfg.Cluster.EndedJobs(ctx)
	if err != nil {
		return err
	}
	functions := map[string][]api.EndedJob{}
	seen := make(map[string]time.Time, len(ended))
	for _, job := range ended {
		end, before := p.seen[job.Job]
		seen[job.Job] = end
		if before {
			functions[job.Function] = append(functions[job.Function], job)
		}
	}
	p.seen = seen
	purged := 0
	defer func() {
		if purged > 0 {
			p.s.log.Debug("ended containers were purged", "jobs", purged)
		}
	}()
	for function, jobs := range functions {
		slices.SortFunc(jobs, func(a, b api.EndedJob) int { return cmp.Compare(a.Order, b.Order) })
		var inUse map[string]bool
		for i, job := range jobs {
			due, err := p.due(ctx, job, len(jobs)-i > p.s.cfg.Keep.Jobs)
			if err != nil {
				return err
			}
			if !due {
				continue
			}
			if inUse == nil {
				if inUse, err = p.inUse(ctx, function); err != nil {
					return err
				}
			}
			if inUse[job.Job] {
				continue
			}
			if job.Call != "" {
				// A call that waits for a container after this one failed to start has it as its own still.
				queued, err := p.s.cfg.Queue.IsQueued(ctx, job.Account, job.Function, job.Call)
				if err != nil {
					return err
				}
				if queued {
					continue
				}
			}
			if err := p.s.cfg.Cluster.Purge(ctx, job.Job); err != nil {
				return err
			}
			purged++
		}
	}
	return nil
}

// due tells whether the job's time is over, or it is one too many.
func (p *purger) due(ctx context.Context, job api.EndedJob, surplus bool) (bool, error) {
	now, keep := time.Now(), p.s.cfg.Keep.Time
	if !surplus && now.Sub(job.Submitted) < keep {
		return false, nil // nor is its end so long ago
	}
	end := p.seen[job.Job]
	if end.IsZero() {
		at, ok, err := p.s.cfg.Cluster.Ended(ctx, job.Job)
		if err != nil || !ok {
			return false, err
		}
		if end = at; end.IsZero() {
			end = job.Submitted
		}
		p.seen[job.Job] = end
	}
	return surplus || now.Sub(end) >= keep, nil
}

// inUse returns the jobs that running calls of the function have: until their owners have seen what became of their containers, these are
// needed to tell.
func (p *purger) inUse(ctx context.Context, function string) (map[string]bool, error) {
	calls, err := p.s.cfg.Records.Running(ctx, function)
	if err != nil {
		return nil, err
	}
	inUse := make(map[string]bool, len(calls))
	for _, call := range calls {
		rec, _, err := p.s.cfg.Records.Record(ctx, function, call)
		if err != nil && api.CodeOf(err) != api.NotFound {
			return nil, err
		}
		inUse[rec.Job] = true
	}
	return inUse, nil
}
