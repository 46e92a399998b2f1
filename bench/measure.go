package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/funcd/funcd/api"
)

// measurement is one row of the table: what is done once in each round.
type measurement struct {
	row    string // of rowNames
	name   string
	before func(ctx context.Context) error // not timed; may be nil
	atOnce bool                            // without rest after before
	do     func(ctx context.Context) error
	took   []time.Duration
	cpu    time.Duration // of funcd, of all that took counts
}

// rest is how long the machine is left alone before each measurement, at least; at most twice as long.
const rest = time.Second

// once does it once more. It counts if it is to.
func (m *measurement) once(ctx context.Context, s *stack, counts bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if m.before != nil {
		if err := m.before(ctx); err != nil {
			return err
		}
	}
	if !m.atOnce {
		// The one before is not over with its answer: Nomad and Docker still clear its container away.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rest + rand.N(rest)): // at no fixed moment of the client's batches
		}
	}
	cpu, err := s.funcd.cpu()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := m.do(ctx); err != nil {
		return err
	}
	took := time.Since(start)
	cpuThen, err := s.funcd.cpu()
	if err == nil && counts {
		m.took = append(m.took, took)
		m.cpu += cpuThen - cpu
	}
	return err
}

// The names of the rows. The first two are the baselines. A Nomad client sends states to its server in batches, so when a dispatch is seen to
// be complete depends on when it was made: back to back each just misses a batch.
const (
	rowDocker   = "docker run --rm -i"
	rowDispatch = "nomad job dispatch until complete, back to back"
	rowRested   = "nomad job dispatch until complete, by itself"
	rowCold     = "cold sync call"
	rowWarm     = "warm sync call, a container each"
	rowReused   = "sync call, a reused container"
)

// All rows run the same image, which copies stdin to stdout, with the same input.
const (
	image   = "funcd-bench/cat"
	command = "cat"
)

var input = []byte("HelloWorld\n")

// measurements sets up the rows that are wanted.
func measurements(ctx context.Context, s *stack, o *options) ([]measurement, error) {
	job, err := registerRaw(ctx, s)
	if err != nil {
		return nil, err
	}
	dispatch := func(ctx context.Context) error { return dispatchRaw(ctx, s, job) }
	rows := []measurement{
		{row: "docker", name: rowDocker, do: dockerRun},
		{row: "dispatch", name: rowDispatch, before: dispatch, atOnce: true, do: dispatch},
		{row: "dispatch", name: rowRested, do: dispatch},
	}
	for _, kind := range []struct {
		row, name string
		labels    map[string]string
	}{
		{"cold", rowCold, map[string]string{"funcd.warm": "0"}},
		{"warm", rowWarm, oneWarm},
		{"reused", rowReused, oneReused},
	} {
		if !o.wants(kind.row) {
			continue
		}
		f, err := s.create(ctx, kind.row, kind.labels)
		if err != nil {
			return nil, err
		}
		m := measurement{row: kind.row, name: kind.name, do: func(ctx context.Context) error { return s.call(ctx, f) }}
		if kind.row != "cold" {
			m.before = func(ctx context.Context) error { return s.waitWarm(ctx, f, 1) }
		}
		rows = append(rows, m)
	}
	return slices.DeleteFunc(rows, func(m measurement) bool { return !o.wants(m.row) }), nil
}

// Labels of functions.
var (
	oneWarm   = map[string]string{"funcd.warm": "1"}
	oneReused = map[string]string{"funcd.warm": "1", "funcd.reuse": "true", "funcd.reuse.max": "1000000"}
)

// create makes a function of the image that all rows run.
func (s *stack) create(ctx context.Context, name string, labels map[string]string) (api.Function, error) {
	return s.client.CreateFunction(ctx, api.Function{
		Name:          name,
		ContainerSize: "s1",
		Config:        api.Config{Image: image, Cmd: api.StrSlice{command}, Labels: labels},
	})
}

// remove removes a function, once its last calls have left the queue: their answers may come before.
func (s *stack) remove(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := s.client.RemoveFunction(ctx, name)
		if api.CodeOf(err) != api.Conflict {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *stack) call(ctx context.Context, f api.Function) error {
	output, err := s.client.CallSync(ctx, f.Name, f.UUID, bytes.NewReader(input), nil)
	return check(output, err)
}

// waitWarm returns when the function has as many containers ready.
func (s *stack) waitWarm(ctx context.Context, f api.Function, n int) error {
	for {
		now, err := s.client.Function(ctx, f.Name)
		if err != nil {
			return err
		}
		if now.Slots != nil && now.Slots.Ready >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d ready containers: %w", n, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func check(output []byte, err error) error {
	if err == nil && !bytes.Equal(output, input) {
		err = fmt.Errorf("the answer is %q", output)
	}
	return err
}

func dockerRun(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "docker", "run", "--rm", "-i", image, command)
	cmd.Stdin = bytes.NewReader(input)
	return check(cmd.Output())
}

// registerRaw registers what a user without funcd would: the image as a parameterized batch job. Its function has an empty stdin.
func registerRaw(ctx context.Context, s *stack) (id string, err error) {
	id = "bench-raw"
	// Nomad pulls an image without a tag anew each time, and this one is in no registry: it goes by its id.
	out, err := exec.CommandContext(ctx, "docker", "image", "inspect", "--format", "{{.Id}}", image).Output()
	if err != nil {
		return "", fmt.Errorf("the image %s (make bench makes it): %w", image, err)
	}
	job := map[string]any{
		"ID": id, "Name": id, "Type": "batch", "Datacenters": []string{"*"},
		"ParameterizedJob": map[string]any{"Payload": "required"},
		"TaskGroups": []any{map[string]any{
			"Name": "raw", "Count": 1,
			"RestartPolicy": map[string]any{"Attempts": 0, "Mode": "fail"},
			"Tasks": []any{map[string]any{
				"Name": "raw", "Driver": "docker",
				// A payload comes as a file, at most 16 KiB: there is no stdin.
				"Config":          map[string]any{"image": strings.TrimSpace(string(out)), "args": []string{command}},
				"DispatchPayload": map[string]any{"File": "input"},
				"Resources":       map[string]any{"CPU": 100, "MemoryMB": 64},
			}},
		}},
	}
	return id, s.request(ctx, "POST", s.nomad+"/v1/jobs", map[string]any{"Job": job}, nil)
}

// dispatchRaw dispatches the job and returns when the API says that it is complete, which blocking queries tell at once.
func dispatchRaw(ctx context.Context, s *stack, job string) error {
	var dispatched struct{ DispatchedJobID string }
	if err := s.request(ctx, "POST", s.nomad+"/v1/job/"+job+"/dispatch", map[string]any{"Payload": input}, &dispatched); err != nil {
		return err
	}
	at := s.nomad + "/v1/job/" + url.PathEscape(dispatched.DispatchedJobID) + "/allocations?wait=30s&index="
	for index := "0"; ; {
		var allocations []struct{ ClientStatus string }
		var err error
		// Nomad answers when there is news of the job, and not before: asking all the time would take its processors.
		if index, err = s.requestIndex(ctx, http.MethodGet, at+index, nil, &allocations); err != nil {
			return err
		}
		for _, a := range allocations {
			switch a.ClientStatus {
			case "complete":
				return nil
			case "failed", "lost":
				return fmt.Errorf("the allocation is %s", a.ClientStatus)
			}
		}
	}
}
