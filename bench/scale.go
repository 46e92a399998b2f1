package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/funcd/funcd/api"
)

// settle is how long the parts are left alone before their memory is read: what is only in their way is given back meanwhile.
const settle = 10 * time.Second

// The names of the sizes.
const (
	sizeDefined = "functions are defined"
	sizeEmpty   = "no call waits"
	sizeWaiting = "calls wait"
)

// functions measures what functions cost that are only defined, and what a call costs beside them.
func (r *Report) functions(ctx context.Context, s *stack, o *options, noise *noise, out io.Writer) error {
	defined := 1 // the one that is called
	for _, number := range []int{1, 100, o.defined} {
		size := Size{Name: sizeDefined, Functions: number}
		if add := number - defined; add > 0 {
			start := time.Now()
			err := many(ctx, quota, add, func(ctx context.Context, i int) error {
				_, err := s.create(ctx, fmt.Sprint("other-", defined+i), nil)
				return err
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "%d functions made in %.1f s\n", add, time.Since(start).Seconds())
			size.Create = milliseconds(time.Since(start)) / float64(add)
			defined = number
		}
		noise.probe()
		if err := s.measureCalls(ctx, fmt.Sprint("called-", number), o.rounds, &size); err != nil {
			return err
		}
		if err := s.measureMemory(ctx, &size); err != nil {
			return err
		}
		r.Sizes = append(r.Sizes, size)
	}
	return nil
}

// measureCalls measures calls of a function that is there only meanwhile: first as one with reused containers, then with one for each.
func (s *stack) measureCalls(ctx context.Context, name string, rounds int, size *Size) error {
	reused, err := s.create(ctx, name, oneReused)
	if err != nil {
		return err
	}
	if err := s.waitWarm(ctx, reused, 1); err != nil {
		return err
	}
	rate, err := s.rate(ctx, name, 1, reused, func(ctx context.Context) error { return s.call(ctx, reused) })
	if err != nil {
		return err
	}
	size.Reused, size.CPU = rate.Median, rate.CPU
	if err := s.remove(ctx, name); err != nil {
		return err
	}
	warm, err := s.create(ctx, name, oneWarm)
	if err != nil {
		return err
	}
	m := measurement{
		before: func(ctx context.Context) error { return s.waitWarm(ctx, warm, 1) },
		do:     func(ctx context.Context) error { return s.call(ctx, warm) },
	}
	for round := range rounds + 1 {
		if err := m.once(ctx, s, round > 0); err != nil {
			return err
		}
	}
	size.Warm = summarize(name, m.took).Median
	return s.remove(ctx, name)
}

func (s *stack) measureMemory(ctx context.Context, size *Size) (err error) {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settle):
	}
	if size.Funcd, err = s.funcd.memory(); err != nil {
		return err
	}
	if size.Nomad, err = s.nomadAgent.memory(); err != nil {
		return err
	}
	size.Consul, err = s.consulAgent.memory()
	return err
}

// queued measures how fast calls are accepted, and what those cost that wait.
func (r *Report) queued(ctx context.Context, s *stack, o *options, noise *noise, out io.Writer) error {
	f, err := s.client.CreateFunction(ctx, api.Function{
		Name: "queued", ContainerSize: "l3", // which has no place: the calls wait
		Config: api.Config{Image: image, Cmd: api.StrSlice{command}},
	})
	if err != nil {
		return err
	}
	base := Size{Name: sizeEmpty, Functions: 1}
	if err := s.measureMemory(ctx, &base); err != nil {
		return err
	}
	noise.probe()
	rate, err := s.rate(ctx, rateAccepted, quota, f, func(ctx context.Context) error {
		_, err := s.accept(ctx, f)
		return err
	})
	if err != nil {
		return err
	}
	r.Rates = append(r.Rates, rate)
	if !o.wants("waiting") {
		return nil
	}
	fmt.Fprintf(out, "queueing %d calls\n", o.waiting)
	if missing := o.waiting - rate.Count; missing > 0 {
		err := many(ctx, quota, missing, func(ctx context.Context, _ int) error {
			_, err := s.accept(ctx, f)
			return err
		})
		if err != nil {
			return err
		}
	}
	size := Size{Name: sizeWaiting, Functions: 1, Waiting: max(o.waiting, rate.Count)}
	if err := s.measureMemory(ctx, &size); err != nil {
		return err
	}
	r.Sizes = append(r.Sizes, base, size)
	// A call that waits for the quota is none of Nomad's. There may be slots that have no place either.
	var jobs []struct{ ID string }
	if err := s.get(ctx, s.nomad+"/v1/jobs?prefix=func-default-queued/", &jobs); err != nil {
		return err
	}
	if len(jobs) > 2*quota {
		return fmt.Errorf("there are %d jobs of calls that wait in Nomad", len(jobs))
	}
	return nil
}
