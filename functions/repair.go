package functions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/funcd/funcd/api"
)

// upkeep is what one call of Repair, or of RemoveOrphans, leaves to the next.
type upkeep struct {
	checked map[string]uint64    // the index with which a function's job was found to be as it should, by function
	orphans map[string]time.Time // since when functions that there is something left of are unknown
}

// Repair registers the functions that the cluster has not, or has otherwise than they would be registered now: it has lost its data, a server
// died between the two steps of a change, the options have changed, or somebody has changed a job by hand. One that the cluster refuses does
// not keep the others. One goroutine at a time calls it.
func (s *Service) Repair(ctx context.Context) error {
	jobs, err := s.cfg.Cluster.FunctionJobs(ctx)
	if err != nil {
		return err
	}
	registered := make(map[string]api.FunctionJob, len(jobs))
	for _, job := range jobs {
		registered[job.Function] = job
	}
	checked := s.upkeep.checked
	maps.DeleteFunc(checked, func(id string, _ uint64) bool { return registered[id].Function == "" })
	var refused error
	for _, d := range s.cfg.Store.All() {
		job, ok := registered[d.ID]
		ok = ok && !job.Stopped
		if ok && job.Revision == d.Revision && checked[d.ID] == job.Index {
			continue
		}
		// All may be behind by a moment: the latest definition is what counts.
		latest, err := s.cfg.Store.Get(ctx, d.Account, d.Function.Name)
		if api.CodeOf(err) == api.NotFound || err == nil && latest.ID != d.ID {
			continue
		}
		if err != nil {
			return err
		}
		if ok && job.Revision == latest.Revision {
			drifted, err := s.cfg.Cluster.Drifted(ctx, &latest)
			if err == nil && !drifted {
				checked[d.ID] = job.Index
				continue
			}
			if api.CodeOf(err) == api.Unavailable || ctx.Err() != nil {
				return err
			}
		}
		err = s.cfg.Cluster.Register(ctx, &latest)
		switch api.CodeOf(err) {
		case "":
			s.log.Info("a function was registered again", "function", latest.ID, "name", latest.Function.Name)
		case api.Unavailable:
			return err
		default:
			refused = errors.Join(refused, fmt.Errorf("function %s: %w", latest.ID, err))
		}
	}
	return refused
}

// RemoveOrphans removes what is left of functions that have been unknown for OrphanTime: their calls, which are cancelled, their jobs, and what
// is kept of their calls. One goroutine at a time calls it.
func (s *Service) RemoveOrphans(ctx context.Context) error {
	jobs, err := s.cfg.Cluster.FunctionJobs(ctx)
	if err != nil {
		return err
	}
	kept, err := s.cfg.Calls.Functions(ctx)
	if err != nil {
		return err
	}
	known, now := map[string]bool{}, time.Now()
	for _, d := range s.cfg.Store.All() {
		known[d.ID] = true
	}
	orphans, due := map[string]time.Time{}, 0
	note := func(id string) {
		if known[id] || !orphans[id].IsZero() {
			return
		}
		if orphans[id] = s.upkeep.orphans[id]; orphans[id].IsZero() {
			orphans[id] = now
		}
		if now.Sub(orphans[id]) >= s.cfg.OrphanTime {
			due++
		}
	}
	jobOf := map[string]api.FunctionJob{}
	for _, job := range jobs {
		jobOf[job.Function] = job
		note(job.Function)
	}
	for _, id := range kept {
		note(id)
	}
	s.upkeep.orphans = orphans
	if due == 0 {
		return nil
	}
	// What is known here is from memory. What is removed is removed for good, so it is asked for once more.
	stored, err := s.cfg.Store.Stored(ctx)
	if err != nil {
		return err
	}
	for _, d := range stored {
		delete(orphans, d.ID)
	}
	for id, since := range orphans {
		if now.Sub(since) < s.cfg.OrphanTime {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.removeOrphan(ctx, id, jobOf[id])
	}
	return nil
}

// removeOrphan removes what is left of a function. job is empty if it has none.
func (s *Service) removeOrphan(ctx context.Context, id string, job api.FunctionJob) {
	if job.Function != "" {
		s.log.Info("what is left of a removed function is removed", "function", id, "account", job.Account, "name", job.Name)
		s.endCalls(ctx, job.Account, id)
		s.clear(ctx, job.Account, job.Name, id)
		return
	}
	status, err := s.cfg.Calls.Status(ctx, id)
	if err == nil && status.Pending+status.Running > 0 {
		return // they end by themselves: whoever gets them finds that the function was removed
	}
	if err == nil {
		err = s.cfg.Calls.RemoveFunction(ctx, id)
	}
	if err != nil {
		s.log.Warn("outputs and logs of a removed function are left behind", "function", id, "error", err)
		return
	}
	s.log.Info("outputs and logs of a removed function were removed", "function", id)
}
