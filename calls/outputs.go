package calls

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

func outStream(function string) string { return "OUT_" + function }

func outSubject(function, call string) string { return "out." + function + "." + call }

func (s *Store) outputs(ctx context.Context, function string) (*anchored, error) {
	if err := checkIDs(function); err != nil {
		return nil, err
	}
	return s.stream(ctx, outStream(function), outSubject(function, outAnchor), func() jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Description:       "funcd: outputs of finished calls",
			Subjects:          []string{outSubject(function, "*")},
			MaxBytes:          s.cfg.OutputBytes,
			MaxAge:            s.cfg.OutputTime,
			MaxMsgsPerSubject: 1,
			AllowDirect:       s.direct(),
		}
	})
}

// SaveOutput stores what a call wrote to stdout. It is on disk when this returns nil. Older outputs of the function are dropped where
// there is no room for it.
func (s *Store) SaveOutput(ctx context.Context, function, call string, output []byte) error {
	if err := checkIDs(call); err != nil {
		return err
	}
	if h := s.holding(function, call); h != nil {
		defer h.mu.Unlock()
		if !h.over {
			h.output = &output
			return nil
		}
	}
	return s.storeOutput(ctx, function, call, output)
}

func (s *Store) storeOutput(ctx context.Context, function, call string, output []byte) error {
	if _, err := s.outputs(ctx, function); err != nil {
		return err
	}
	if _, err := s.js.Publish(ctx, outSubject(function, call), output, jetstream.WithExpectStream(outStream(function)), untilLeader, leaderPause); err != nil {
		return unavailable(err)
	}
	return nil
}

// Output returns what a finished call wrote to stdout. The error is of code Expired if it had to make room for others.
func (s *Store) Output(ctx context.Context, function, call string) ([]byte, error) {
	if err := checkIDs(call); err != nil {
		return nil, err
	}
	if h := s.holding(function, call); h != nil {
		defer h.mu.Unlock()
		if !h.over && h.output != nil {
			return *h.output, nil
		}
	}
	outputs, err := s.outputs(ctx, function)
	if err != nil {
		return nil, err
	}
	msg, err := outputs.GetLastMsgForSubject(ctx, outSubject(function, call))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, api.Errorf(api.Expired, "the output of call %s has expired", call)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return msg.Data, nil
}

func (s *Store) removeOutput(ctx context.Context, function, call string) error {
	outputs, err := s.outputs(ctx, function)
	if err != nil {
		return err
	}
	if err := outputs.Purge(ctx, jetstream.WithPurgeSubject(outSubject(function, call))); err != nil {
		return unavailable(err)
	}
	return nil
}
