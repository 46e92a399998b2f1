package main

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/funcd/funcd/api"
)

// rateTime is how long each rate is measured.
const rateTime = 5 * time.Second

// The names of the rates.
const (
	rateReused        = "sync calls, reused containers"
	rateAccepted      = "calls accepted, synced to disk"
	rateRaw           = "raw Nomad dispatches"
	rateDrained       = "queued calls drained"
	rateDrainedReused = "queued calls drained, reused containers"
)

// callers measures how many calls those make who begin the next when the last is done.
func (r *Report) callers(ctx context.Context, s *stack, noise *noise) error {
	for _, callers := range []int{1, 4, 16} {
		// Containers are not what is measured: as many as callers are ready before.
		f, err := s.create(ctx, fmt.Sprint("rate-", callers),
			map[string]string{"funcd.warm": fmt.Sprint(callers), "funcd.reuse": "true", "funcd.reuse.max": "1000000"})
		if err != nil {
			return err
		}
		if err := s.waitWarm(ctx, f, callers); err != nil {
			return err
		}
		noise.probe()
		rate, err := s.rate(ctx, rateReused, callers, f, func(ctx context.Context) error { return s.call(ctx, f) })
		if err != nil {
			return err
		}
		r.Rates = append(r.Rates, rate)
		if err := s.remove(ctx, f.Name); err != nil {
			return err
		}
	}
	return nil
}

// rate has callers do it for rateTime, and counts what it costs.
func (s *stack) rate(ctx context.Context, name string, callers int, f api.Function, do func(context.Context) error) (Rate, error) {
	costs, err := s.costs(f.Name)
	if err != nil {
		return Rate{}, err
	}
	rate, err := measureRate(ctx, name, callers, do)
	if err != nil {
		return Rate{}, fmt.Errorf("%s: %w", name, err)
	}
	return rate, costs.addTo(&rate)
}

// measureRate has callers do it for rateTime. The first error ends all.
func measureRate(ctx context.Context, name string, callers int, do func(context.Context) error) (Rate, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var all []time.Duration
	var working sync.WaitGroup
	start := time.Now()
	for range callers {
		working.Go(func() {
			var took []time.Duration
			for time.Since(start) < rateTime && ctx.Err() == nil {
				before := time.Now()
				if err := do(ctx); err != nil {
					cancel(err)
					return
				}
				took = append(took, time.Since(before))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	working.Wait()
	if err := context.Cause(ctx); err != nil {
		return Rate{}, err
	}
	row := summarize(name, all)
	return Rate{
		Name:      name,
		Callers:   callers,
		Count:     len(all),
		PerSecond: float64(len(all)) / time.Since(start).Seconds(),
		Median:    row.Median,
		P99:       row.P99,
	}, nil
}

// costs is what the parts have used of the processors so far.
type costs struct {
	s              *stack
	runners        []process
	funcd, nomad   time.Duration
	containersTime time.Duration
}

// costs begins to count. Of the function's containers, those count that are there now: they are to stay.
func (s *stack) costs(function string) (*costs, error) {
	c := &costs{s: s}
	var err error
	if c.runners, err = runnersOf(function); err != nil {
		return nil, err
	}
	c.funcd, c.nomad, c.containersTime, err = c.now()
	return c, err
}

func (c *costs) now() (funcd, nomad, containers time.Duration, err error) {
	if funcd, err = c.s.funcd.cpu(); err != nil {
		return 0, 0, 0, err
	}
	if nomad, err = c.s.nomadAgent.cpu(); err != nil {
		return 0, 0, 0, err
	}
	for _, runner := range c.runners {
		time, err := runner.cpuWithChildren()
		if err != nil {
			return 0, 0, 0, err
		}
		containers += time
	}
	return funcd, nomad, containers, nil
}

// addTo gives the rate what was used since, for each of what it counts.
func (c *costs) addTo(rate *Rate) error {
	funcd, nomad, containers, err := c.now()
	if err != nil || rate.Count == 0 {
		return err
	}
	each := func(d time.Duration) float64 { return milliseconds(d) / float64(rate.Count) }
	rate.CPU, rate.NomadCPU, rate.ContainersCPU = each(funcd-c.funcd), each(nomad-c.nomad), each(containers-c.containersTime)
	return nil
}

// accept queues a call.
func (s *stack) accept(ctx context.Context, f api.Function) (callID string, err error) {
	return s.client.Call(ctx, f.Name, f.UUID, bytes.NewReader(input), nil)
}
