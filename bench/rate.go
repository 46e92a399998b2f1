package main

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/funcd/funcd/api"
)

// rateTime is how long each rate is measured.
const rateTime = 5 * time.Second

// rates measures how much is done in a time by callers that begin the next when the last is done.
func rates(ctx context.Context, s *stack) ([]Rate, error) {
	var results []Rate
	for _, callers := range []int{1, 4, 8} {
		// Containers are not what is measured: as many as callers are ready before.
		f, err := s.create(ctx, "rate-"+string(rune('a'+callers)), map[string]string{"funcd.warm": "8", "funcd.reuse": "true", "funcd.reuse.max": "1000000"})
		if err != nil {
			return nil, err
		}
		if err := s.waitWarm(ctx, f, 8); err != nil {
			return nil, err
		}
		rate, err := measureRate(ctx, "sync calls, reused containers", callers, func(ctx context.Context) error { return s.call(ctx, f) })
		if err != nil {
			return nil, err
		}
		results = append(results, rate)
		if err := s.client.RemoveFunction(ctx, f.Name); err != nil {
			return nil, err
		}
	}
	f, err := s.client.CreateFunction(ctx, api.Function{
		Name: "queued", ContainerSize: "l3", // which has no place on a small machine: the calls wait
		Config: api.Config{Image: image, Cmd: api.StrSlice{command}},
	})
	if err != nil {
		return nil, err
	}
	accepted, err := measureRate(ctx, "calls accepted, synced to disk", 16, func(ctx context.Context) error {
		_, err := s.client.Call(ctx, f.Name, f.UUID, bytes.NewReader(input), nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	return append(results, accepted), nil
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
		PerSecond: float64(len(all)) / time.Since(start).Seconds(),
		Median:    row.Median,
		P99:       row.P99,
	}, nil
}
