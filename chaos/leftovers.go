package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/funcd/funcd/api"
)

// promises returns what is wrong with what funcd keeps and sends of calls that have ended: records of those that were fetched, dead letters and
// callbacks.
func (w *load) promises(ctx context.Context, calls []call) []string {
	var ended []call
	for _, c := range calls {
		if c.id() != "" && (c.state == finished || c.state == failed) {
			ended = append(ended, c)
		}
	}
	kept, err := w.settled(ctx, ended)
	if err != nil {
		return []string{"what is kept of calls is not known: " + err.Error()}
	}
	letters, err := w.s.client.DeadLetters(ctx, "")
	if err != nil {
		return []string{"the dead letters are not known: " + err.Error()}
	}
	dead := map[string]api.DeadLetter{}
	for _, letter := range letters {
		dead[letter.CallID] = letter
	}
	// Every callback that is missing may be waiting for its next attempt.
	_ = w.s.until(ctx, "the callbacks", func() error {
		for _, c := range ended {
			if callsBack[c.function] && len(w.receiver.of(c.id())) == 0 {
				return fmt.Errorf("none of %s", c.id())
			}
		}
		return nil
	})
	wrong := w.receiver.refused()
	for _, c := range ended {
		for _, text := range broken(c, kept, dead, w.receiver.of(c.id())) {
			wrong = append(wrong, c.name()+": "+text)
		}
	}
	return wrong
}

// orphanPatience is how long the record of a call that was fetched may be there once more: servers of a NATS cluster look for such every ten minutes, and
// then wait for another one.
const orphanPatience = 12 * time.Minute

// settled is kept, when no call has a record that contradicts its end, or after orphanPatience.
func (w *load) settled(ctx context.Context, ended []call) (map[string]api.CallStatus, error) {
	deadline := time.Now().Add(orphanPatience)
	for {
		kept, err := w.kept(ctx)
		orphans := slices.ContainsFunc(ended, func(c call) bool {
			status, ok := kept[c.id()]
			return ok && !status.Status.Ended()
		})
		if err == nil && !orphans || time.Now().After(deadline) || ctx.Err() != nil {
			return kept, err
		}
		time.Sleep(time.Second)
	}
}

// kept returns what funcd keeps of calls that were fetched.
func (w *load) kept(ctx context.Context) (map[string]api.CallStatus, error) {
	all := map[string]api.CallStatus{}
	for _, f := range w.functions {
		status, err := w.s.client.Status(ctx, f.Name, f.UUID, true)
		if err != nil {
			return nil, err
		}
		for _, c := range status.List {
			all[c.CallID] = c
		}
	}
	return all, nil
}

// broken returns which promises are not kept of a call that has ended, as its caller was told.
func broken(c call, kept map[string]api.CallStatus, dead map[string]api.DeadLetter, got []callback) []string {
	var wrong []string
	state := api.Finished
	if c.state == failed {
		state = api.Failed
	}
	// One that is not to be kept may be there still: a server that is killed when it has answered does not know that it has.
	switch status, ok := kept[c.id()]; {
	case keeps[c.function] && !ok:
		wrong = append(wrong, "it is to be kept, and is not there")
	case ok && (status.Status != state || status.Message != c.message):
		wrong = append(wrong, fmt.Sprintf("it is kept as %s %q", status.Status, status.Message))
	}
	switch letter, ok := dead[c.id()]; {
	case ok && (retries[c.function] == 0 || state == api.Finished || c.message == cancelled):
		wrong = append(wrong, "it is a dead letter: "+letter.Message)
	case !ok && retries[c.function] > 0 && state == api.Failed && c.message != cancelled:
		wrong = append(wrong, "it is no dead letter: "+c.message)
	case ok && letter.Message != c.message:
		wrong = append(wrong, fmt.Sprintf("its dead letter says %q", letter.Message))
	}
	if callsBack[c.function] && len(got) == 0 {
		wrong = append(wrong, "it was not sent to its callback")
	}
	for _, g := range got {
		if g.state != state || g.body != c.output+c.message {
			wrong = append(wrong, fmt.Sprintf("its callback was told %s %q", g.state, g.body))
		}
	}
	return wrong
}

// leftovers returns what is wrong after all calls have ended: calls that funcd still has, and containers that nobody needs.
func (s *stack) leftovers(ctx context.Context, functions []api.Function) []string {
	var wrong []string
	for _, f := range functions {
		if text := s.twice(f); text != "" {
			wrong = append(wrong, text)
		}
		err := s.until(ctx, "the end of "+f.Name, func() error { return s.client.RemoveFunction(ctx, f.Name) })
		if err != nil {
			wrong = append(wrong, "a function can't be removed: "+err.Error())
		}
	}
	if err := s.until(ctx, "the end of the containers", func() error {
		if left := s.containers(); len(left) > 0 {
			return fmt.Errorf("%d containers run", len(left))
		}
		return nil
	}); err != nil {
		wrong = append(wrong, err.Error())
	}
	return wrong
}

// dispatchToken finds, in the name of a job, the call and which of its containers it is. Nomad puts a time and a random text after it.
var dispatchToken = regexp.MustCompile(`/dispatch-([0-9a-f]{8}-[0-9a-f-]{27}(-[0-9]+)?)-[0-9]+-[0-9a-f]+$`)

// twice tells of a call that has two jobs in Nomad where it was to have one.
func (s *stack) twice(f api.Function) string {
	var jobs []struct{ ID string }
	body, err := get(s.nomadURL + "/v1/jobs?prefix=func-chaos-" + f.Name + "/dispatch-")
	if err == nil {
		err = json.Unmarshal([]byte(body), &jobs)
	}
	if err != nil {
		return "the jobs of " + f.Name + " are not known: " + err.Error()
	}
	seen := map[string]string{}
	for _, job := range jobs {
		token := dispatchToken.FindStringSubmatch(job.ID)
		if token == nil {
			continue
		}
		if other := seen[token[1]]; other != "" {
			return "a call has two jobs: " + other + " and " + job.ID
		}
		seen[token[1]] = job.ID
	}
	return ""
}
