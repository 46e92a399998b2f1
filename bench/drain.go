package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"sync"
	"time"

	"github.com/funcd/funcd/api"
)

// passes is in how many parts raw dispatches and calls take turns.
const passes = 2

// drained measures how fast queued calls are executed, against raw dispatches, as many at once.
func (r *Report) drained(ctx context.Context, s *stack, o *options, noise *noise, out io.Writer) error {
	job, err := registerRaw(ctx, s)
	if err != nil {
		return err
	}
	number := max(o.drained/passes, 1)
	kinds := []struct {
		name string
		do   func(pass int, rate *Rate) error
	}{
		{rateRaw, func(_ int, rate *Rate) error { return s.dispatchMany(ctx, job, number) }},
		{rateDrained, func(pass int, rate *Rate) error { return s.drain(ctx, fmt.Sprint("drained-", pass), nil, number) }},
		{rateDrainedReused, func(pass int, rate *Rate) error {
			return s.drain(ctx, fmt.Sprint("reused-", pass), map[string]string{"funcd.reuse": "true"}, number)
		}},
	}
	rates := make([]Rate, len(kinds))
	took := make([]time.Duration, len(kinds))
	for pass := range passes {
		for i, kind := range kinds {
			noise.probe()
			one := Rate{Name: kind.name, Callers: quota, Count: number}
			costs, err := s.costs("")
			if err != nil {
				return err
			}
			start := time.Now()
			if err := kind.do(pass, &one); err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			took[i] += time.Since(start)
			if err := costs.addTo(&one); err != nil {
				return err
			}
			fmt.Fprintf(out, "%s: %d in %.1f s\n", kind.name, number, time.Since(start).Seconds())
			one.CPU, one.NomadCPU = one.CPU/passes+rates[i].CPU, one.NomadCPU/passes+rates[i].NomadCPU
			one.Count += rates[i].Count
			one.PerSecond = float64(one.Count) / took[i].Seconds()
			rates[i] = one
			if err := s.waitIdle(ctx); err != nil {
				return err
			}
		}
	}
	r.Rates = append(r.Rates, rates...)
	return nil
}

// dispatchMany dispatches the job so often and returns when all have been seen to be complete.
func (s *stack) dispatchMany(ctx context.Context, job string, number int) error {
	return many(ctx, quota, number, func(ctx context.Context, _ int) error { return dispatchRaw(ctx, s, job) })
}

// drain queues so many calls and returns when all have ended, and their outputs have been fetched. The function is gone then.
func (s *stack) drain(ctx context.Context, name string, labels map[string]string, number int) error {
	f, err := s.create(ctx, name, labels)
	if err != nil {
		return err
	}
	ids := make([]string, number)
	for i := range ids {
		if ids[i], err = s.accept(ctx, f); err != nil {
			return err
		}
	}
	err = many(ctx, 2*quota, number, func(ctx context.Context, i int) error {
		output, state, err := s.client.Output(ctx, f.Name, f.UUID, ids[i], true)
		if err == nil && state != api.Finished {
			err = fmt.Errorf("a call is %s", state)
		}
		return check(output, err)
	})
	if err != nil {
		return err
	}
	return s.remove(ctx, f.Name)
}

// waitIdle returns when Nomad has no container any more.
func (s *stack) waitIdle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	filter := url.QueryEscape(`ClientStatus == "pending" or ClientStatus == "running"`)
	for {
		var allocations []struct{ ID string }
		if err := s.get(ctx, s.nomad+"/v1/allocations?filter="+filter, &allocations); err != nil {
			return err
		}
		if len(allocations) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the end of %d containers: %w", len(allocations), ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// many does it number times, with numbers from 0 on, so many at once. The first error ends all.
func many(ctx context.Context, atOnce, number int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var working sync.WaitGroup
	for range min(atOnce, number) {
		working.Go(func() {
			for i := range next {
				if err := do(ctx, i); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	for i := 0; i < number && ctx.Err() == nil; i++ {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	working.Wait()
	return context.Cause(ctx)
}
