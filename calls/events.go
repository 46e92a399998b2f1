package calls

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

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
			// A line of a log may be lost with the power; a call may not, and would wait for the log.
			PersistMode: s.asyncIfSingle(),
		}
	})
}

// asyncIfSingle is the mode of a stream that need not be on disk at once. JetStream has it for streams without replicas only.
func (s *Store) asyncIfSingle() jetstream.PersistModeType {
	if s.cfg.Replicas > 1 {
		return jetstream.DefaultPersistMode
	}
	return jetstream.AsyncPersistMode
}

// Log adds events to a function's log, in their order. It does not wait for them to be stored: an event may be lost with the power, or
// when the store does not answer, which is logged.
func (s *Store) Log(ctx context.Context, function string, events ...api.Event) {
	if _, err := s.events(ctx, function); err != nil {
		s.log.Warn("events of a call were lost", "function", function, "error", err)
		return
	}
	for _, event := range events {
		data, err := json.Marshal(event)
		if err == nil {
			err = checkIDs(event.CallID)
		}
		if err == nil {
			err = s.nc.Publish(logSubject(function, event.CallID), data)
		}
		if err != nil {
			s.log.Warn("an event of a call was lost", "function", function, "call", event.CallID, "event", event.Event, "error", err)
		}
	}
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

// Events passes events of the function to yield, oldest first. Without Follow it returns after the last one that was stored when it
// began; with it, it blocks until ctx is done. It returns yield's error, ctx's, or one of code Unavailable.
func (s *Store) Events(ctx context.Context, function string, q api.EventQuery, yield func(api.Event) error) error {
	stream, err := s.events(ctx, function)
	if err != nil {
		return err
	}
	subject := logSubject(function, "*")
	if q.Call != "" {
		if err := checkIDs(q.Call); err != nil {
			return err
		}
		subject = logSubject(function, q.Call)
	}
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}}
	if q.Tail >= 0 && q.Call == "" {
		// The stream holds nothing but what is asked for, so the last ones can be told by their numbers.
		info, err := stream.Info(ctx)
		if err != nil {
			return unavailable(err)
		}
		cfg.DeliverPolicy = jetstream.DeliverByStartSequencePolicy
		cfg.OptStartSeq = max(info.State.LastSeq+1-min(uint64(q.Tail), info.State.LastSeq), 1)
	}
	consumer, err := stream.OrderedConsumer(ctx, cfg)
	if err != nil {
		return unavailable(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return unavailable(err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()

	stored := consumer.CachedInfo().NumPending // still to come of what was stored
	var last []api.Event                       // the latest of one call, of which the number is not known before
	for stored > 0 || q.Follow {
		msg, err := messages.Next()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return unavailable(err)
		}
		var event api.Event
		if err := json.Unmarshal(msg.Data(), &event); err != nil {
			return fmt.Errorf("an event of function %s can't be read: %w", function, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		ofStored := stored > 0
		if ofStored {
			// What was dropped meanwhile, to make room for others, does not come any more.
			stored = min(stored-1, meta.NumPending)
		}
		if ofStored && q.Tail >= 0 && q.Call != "" {
			if last = append(last, event); len(last) > q.Tail {
				last = last[1:]
			}
			if stored == 0 {
				err = each(last, yield)
			}
		} else {
			err = yield(event)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func each(events []api.Event, yield func(api.Event) error) error {
	for _, event := range events {
		if err := yield(event); err != nil {
			return err
		}
	}
	return nil
}
