package calls

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

// JetStream does not write down that a message was removed as a newer one of its subject came. When that one is removed, too, and the server then
// killed, the older one is there again: the record of a call that was fetched as it was before the call's end. A call that has not ended is in the
// queue, for as long as its record says so. One that is not is such a record, an orphan, and is removed for good.

// orphan is a record that may be one.
type orphan struct {
	rec      api.Record
	sequence uint64
	written  time.Time
}

// orphanAge is how old a record must be on a NATS cluster, where a server that leads the queue no more may not have heard of its call yet. It finds
// out within seconds. An embedded store has orphans from before it was opened alone.
const orphanAge = time.Minute

// removeOrphans removes the orphans among some records. young tells that some can't be told yet.
func (s *Store) removeOrphans(ctx context.Context, records []orphan) (young bool, err error) {
	for _, o := range records {
		if s.server != nil && o.written.After(s.opened) {
			continue
		}
		switch queued, err := s.queuedAnywhere(ctx, o.rec.Account, o.rec.Function, o.rec.CallID); {
		case err != nil:
			return young, err
		case queued:
			continue
		case s.server == nil && time.Since(o.written) < orphanAge:
			young = true
			continue
		}
		// The call may have ended since. A record that is older than the queue's answer and still the last is of no call.
		msg, err := s.records.GetLastMsgForSubject(ctx, recordSubject(o.rec.Function, o.rec.CallID))
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && msg.Sequence != o.sequence {
			continue
		}
		if err != nil {
			return young, unavailable(err)
		}
		if err := removeMessage(ctx, s.records, o.sequence); err != nil {
			return young, unavailable(err)
		}
		s.log.Debug("the record of a call that is over was there again", "call", o.rec.CallID, "function", o.rec.Function, "state", o.rec.State)
		s.changed(change{Kind: callGone, Function: o.rec.Function, Call: o.rec.CallID})
	}
	return young, nil
}

// queuedAnywhere tells whether a call is in the queue, or set aside. It may move from one to the other meanwhile.
func (s *Store) queuedAnywhere(ctx context.Context, account, function, call string) (bool, error) {
	q, err := s.js.Stream(ctx, queueStream(account))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	if err != nil {
		return false, unavailable(err)
	}
	inQueue := queueSubject(account, function, call)
	for _, subject := range []string{inQueue, laterSubject(account, function, call, "*"), inQueue} {
		_, err := q.GetLastMsgForSubject(ctx, subject)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return false, unavailable(err)
		}
	}
	return false, nil
}
