package calls

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
)

// RemoveFunction drops the logs, outputs, records, keys, dead letters and callbacks of a function. Its calls must have ended.
func (s *Store) RemoveFunction(ctx context.Context, function string) error {
	if err := checkIDs(function); err != nil {
		return err
	}
	for _, subject := range []string{recordSubject(function, "*"), keptSubject(function, "*")} {
		if err := s.records.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
			return unavailable(err)
		}
	}
	for _, subject := range []string{"key.*." + function + ".*", deadSubject("*", function, "*")} {
		if err := s.eachStream(ctx, subject, func(stream jetstream.Stream) error {
			return stream.Purge(ctx, jetstream.WithPurgeSubject(subject))
		}); err != nil {
			return unavailable(err)
		}
	}
	if err := s.removeCallbacks(ctx, function); err != nil {
		return unavailable(err)
	}
	s.forgetStreams(function)
	// The log, which every function has that was ever called, goes last: as long as it is there, Functions tells that something is left.
	for _, name := range []string{outStream(function), logStream(function)} {
		if err := s.js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return unavailable(err)
		}
	}
	gone := change{Kind: functionGone, Function: function}
	s.states.apply(gone)
	s.tellChange(gone) // also of one without calls: the others have its streams
	return nil
}

// removeCallbacks removes the callbacks of a function. The error is JetStream's.
func (s *Store) removeCallbacks(ctx context.Context, function string) error {
	all := callbackSubject("*", function, "*")
	return s.eachStream(ctx, all, func(stream jetstream.Stream) error {
		info, err := subjectsOf(ctx, stream, all)
		if err != nil {
			return err
		}
		for subject := range info.State.Subjects {
			if err := removeMessages(ctx, stream, subject); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachStream has something done with each stream that has room for a subject. That one is gone meanwhile is no error. The error is JetStream's, or what do returns.
func (s *Store) eachStream(ctx context.Context, subject string, do func(jetstream.Stream) error) error {
	names := s.js.StreamNames(ctx, jetstream.WithStreamListSubject(subject))
	for name := range names.Name() {
		stream, err := s.js.Stream(ctx, name)
		if err == nil {
			err = do(stream)
		}
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
	}
	if err := names.Err(); !errors.Is(err, jetstream.ErrEndOfData) {
		return err
	}
	return nil
}

// forgetStreams drops what is known of the streams of a function that was removed, on this server or another.
func (s *Store) forgetStreams(function string) {
	s.unfollow(function)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, logStream(function))
	delete(s.streams, outStream(function))
}

// removeMessages removes the messages of a subject, which may have wildcards if there are few, one by one. JetStream can purge a subject in one step, but then can take
// other messages for done that its consumers have delivered, and never deliver them again: https://github.com/nats-io/nats-server/issues/5727. So nothing is purged
// of a stream that has lasting consumers: the queues, and the callbacks. The error is JetStream's.
func removeMessages(ctx context.Context, stream jetstream.Stream, subject string) error {
	for {
		msg, err := stream.GetLastMsgForSubject(ctx, subject) // mostly it is not there, which costs little to hear
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err == nil {
			err = removeMessage(ctx, stream, msg.Sequence)
		}
		if err != nil {
			return err
		}
	}
}

// removeMessage removes the message of this sequence. It is no error if it is gone, as somebody else has removed it in the same moment. The error is JetStream's.
func removeMessage(ctx context.Context, stream jetstream.Stream, sequence uint64) error {
	if err := stream.DeleteMsg(ctx, sequence); err != nil {
		if _, gone := stream.GetMsg(ctx, sequence); errors.Is(gone, jetstream.ErrMsgNotFound) {
			return nil
		}
		return err
	}
	return nil
}
