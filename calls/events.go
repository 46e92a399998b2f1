package calls

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

func logStream(function string) string { return "LOG_" + function }

func logSubject(function, call string) string { return "log." + function + "." + call }

func (s *Store) events(ctx context.Context, function string) (*anchored, error) {
	if err := checkIDs(function); err != nil {
		return nil, err
	}
	return s.stream(ctx, logStream(function), "", func() jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Description: "funcd: events of calls",
			Subjects:    []string{logSubject(function, "*")},
			MaxBytes:    s.cfg.LogBytes,
			AllowDirect: s.direct(),
			// A line of a log may be lost with the power; a call may not, and would wait for the log.
			PersistMode: s.asyncIfEmbedded(),
		}
	})
}

// asyncIfEmbedded is the mode of a stream that need not be on disk at once. JetStream has it for streams without replicas only, and can't change it: one of a NATS cluster
// may get replicas later.
func (s *Store) asyncIfEmbedded() jetstream.PersistModeType {
	if s.server == nil {
		return jetstream.DefaultPersistMode
	}
	return jetstream.AsyncPersistMode
}

// Log adds events to a function's log, in their order. It does not wait for them to be stored, but for the first on a NATS cluster: an event may be lost
// with the power, or when the store does not answer, which is logged.
func (s *Store) Log(ctx context.Context, function string, events ...api.Event) {
	stream, err := s.events(ctx, function)
	if err != nil {
		s.log.Warn("events of a call were lost", "function", function, "error", err)
		return
	}
	for _, event := range events {
		data, err := json.Marshal(event)
		if err == nil {
			err = checkIDs(event.CallID)
		}
		if err == nil {
			err = s.logTo(ctx, stream, logSubject(function, event.CallID), data)
		}
		if err != nil {
			s.log.Warn("an event of a call was lost", "function", function, "call", event.CallID, "event", event.Event, "error", err)
		}
	}
}

// In how many tries a new log is heard of by the NATS server that this server is connected to, and the pause between two.
const (
	logTries = 50
	logPause = 20 * time.Millisecond
)

// logTo publishes an event. Until the NATS server that this one is connected to has heard of the stream, what is published goes nowhere, so that it is waited for
// there.
func (s *Store) logTo(ctx context.Context, stream *anchored, subject string, event []byte) error {
	if s.alone || stream.heard.Load() {
		return s.nc.Publish(subject, event)
	}
	if _, err := s.js.Publish(ctx, subject, event, jetstream.WithRetryAttempts(logTries), jetstream.WithRetryWait(logPause)); err != nil {
		return err
	}
	stream.heard.Store(true)
	return nil
}

// LastEvent returns the latest event of a call. The error is of code NotFound if there is none, or Unavailable.
func (s *Store) LastEvent(ctx context.Context, function, call string) (api.Event, error) {
	if err := checkIDs(call); err != nil {
		return api.Event{}, err
	}
	stream, err := s.events(ctx, function)
	if err != nil {
		return api.Event{}, err
	}
	msg, err := stream.GetLastMsgForSubject(ctx, logSubject(function, call))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return api.Event{}, api.Errorf(api.NotFound, "the call %s has no events", call)
	}
	if err != nil {
		return api.Event{}, unavailable(err)
	}
	var event api.Event
	if err := json.Unmarshal(msg.Data, &event); err != nil {
		return api.Event{}, fmt.Errorf("an event of function %s can't be read: %w", function, err)
	}
	return event, nil
}

// infoTime is how long JetStream may take to say how far a log goes. Its client's default is 5 s.
const infoTime = 30 * time.Second

// Events passes events of the function to yield, each as its JSON, the oldest first. Without Follow it returns after the last one that was stored
// when it began; with it, it blocks until ctx is done, or the function removed, which is an error of code NotFound. It returns yield's error, ctx's,
// or one of code Unavailable. Before it waits for more it passes nil. However slow yield is, a page of events is all that is in memory for it.
func (s *Store) Events(ctx context.Context, function string, q api.EventQuery, yield func(event []byte) error) error {
	subject := logSubject(function, "*")
	if q.Call != "" {
		if err := checkIDs(q.Call); err != nil {
			return err
		}
		subject = logSubject(function, q.Call)
	}
	stream, err := s.events(ctx, function)
	if err != nil {
		return err
	}
	var f *follower
	if q.Follow {
		var leave func()
		if f, leave, err = s.follow(ctx, function); err != nil {
			return err
		}
		defer leave()
	}
	var options []jetstream.StreamInfoOpt
	if q.Call != "" {
		options = append(options, jetstream.WithSubjectFilter(subject))
	}
	asked, cancel := context.WithTimeout(ctx, infoTime) // as a thousand may ask at once
	info, err := stream.Info(asked, options...)
	cancel()
	if err != nil {
		return unavailable(err)
	}
	stored, err := s.pagesOf(stream, subject)
	if err != nil {
		return err
	}
	defer stored.close()
	from, to, skip := max(info.State.FirstSeq, 1), info.State.LastSeq, uint64(0)
	switch {
	case q.Tail < 0:
	case q.Call == "":
		// The stream holds nothing but what is asked for, so the last ones can be told by their numbers.
		from = max(from, to+1-min(uint64(q.Tail), to))
	default:
		n := info.State.Subjects[subject]
		skip = n - min(uint64(q.Tail), n)
	}
	if q.Follow {
		to = max(f.begin(), from) - 1 // it has what comes from there on
	}
	err = readEvents(ctx, stored, from, to, func(event []byte) error {
		if skip > 0 {
			skip--
			return nil
		}
		return yield(event)
	})
	if err != nil || !q.Follow {
		return err
	}
	for at := to; ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		next, err := f.after(at, q.Call)
		switch {
		case next.line != nil && skip > 0:
			skip--
		case next.line != nil:
			err = yield(next.line)
		case next.first != 0:
			// It was so slow that those who are faster have had them before.
			err = readEvents(ctx, stored, at+1, next.first-1, yield)
			next.upTo = next.first - 1
		case err == nil:
			if err = yield(nil); err != nil {
				return err
			}
			select {
			case <-next.more:
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		}
		if err != nil {
			return err
		}
		at = next.upTo
	}
}

// readEvents passes what is stored from one sequence to another, both included, to yield.
func readEvents(ctx context.Context, stored *pages, from, to uint64, yield func([]byte) error) error {
	for more := from <= to; more; {
		var err error
		more, err = stored.next(ctx, from, func(sequence uint64, data []byte) (bool, error) {
			if from = sequence; from > to {
				return false, nil
			}
			from++
			return true, yield(data)
		})
		if err != nil {
			return err
		}
		more = more && from <= to
	}
	return nil
}
