package calls

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

// later is the pool of calls that wait for a time of their own, as for their next attempt. They draw on nobody's quota meanwhile, but are in the
// queue still and count for its bounds. When their time has come they go to the end of the queue.
const later = "later"

// untilHeader holds that time, in RFC 3339.
const untilHeader = "Funcd-Until"

const (
	laterPause = time.Second      // after which a call that could not be put back is tried again
	laterTime  = 10 * time.Second // in which it is put back

	laterMessages = 500 // that are asked for at a time

	// leavePause is after which it is looked again whether a call has left the queue that is still there.
	leavePause = 100 * time.Millisecond
)

// errInQueue is why a call is not put back: it has not left yet. Its server has just put it aside, or has died before it was Done, or after it had put it back.
var errInQueue = errors.New("the call is in the queue")

func laterSubject(account, function, call string) string {
	return "queue." + account + "." + later + "." + function + "." + call
}

// Postpone puts a call that was delivered aside until then. It is on disk when this returns nil, and the delivery is to be Done. Its record must
// say that it is Pending. The error is of code Unavailable, also where the queue is full. A call may be aside already: a server has died before it was Done, or has
// not quite taken it from there since it was put back.
func (s *Store) Postpone(ctx context.Context, call *api.Call, until time.Time) error {
	if err := checkIDs(call.Function, call.ID); err != nil {
		return err
	}
	q, err := s.queue(ctx, call.Account)
	if err != nil {
		return err
	}
	data, err := encodeCall(call)
	if err != nil {
		return err
	}
	subject := laterSubject(call.Account, call.Function, call.ID)
	aside := &nats.Msg{Subject: subject, Header: nats.Header{untilHeader: []string{until.UTC().Format(time.RFC3339Nano)}}, Data: data}
	for {
		_, err := s.js.PublishMsg(ctx, aside, jetstream.WithExpectStream(queueStream(call.Account)), unlessThere, untilLeader, leaderPause)
		if refused, _ := errors.AsType[*jetstream.APIError](err); !isThere(refused) {
			if err != nil {
				return unavailable(err)
			}
			return nil
		}
		// What is there may be taken out in the next moment, as what was put back: it can't stand for this.
		if err := s.withdraw(ctx, q, subject); err != nil {
			return err
		}
	}
}

// consumeLater puts the account's calls that were set aside back when their time has come, until stop is called.
func (s *Store) consumeLater(ctx context.Context, q *anchored, account string) (stop func(), err error) {
	aside := func() jetstream.ConsumerConfig {
		return jetstream.ConsumerConfig{
			Durable:       later,
			FilterSubject: laterSubject(account, "*", "*"),
			MaxAckPending: -1,
			HeadersOnly:   true, // a payload is read once, when it moves
		}
	}
	return s.consume(ctx, q, aside, laterMessages, func(msg jetstream.Msg) {
		until, err := time.Parse(time.RFC3339Nano, msg.Headers().Get(untilHeader))
		wait := time.Until(until)
		if err != nil {
			wait = 0
		}
		if wait <= 0 {
			err := s.putBack(q, msg)
			switch {
			case err == nil:
				return
			case errors.Is(err, errInQueue):
				wait = leavePause
			default:
				s.log.Warn("a call waits on, as it can't be put back into the queue", "subject", msg.Subject(), "error", err)
				wait = laterPause
			}
		}
		if err := msg.NakWithDelay(wait); err != nil {
			s.log.Debug("a call that was set aside comes again with the lease", "subject", msg.Subject(), "error", err)
		}
	})
}

// putBack moves a call that was set aside to the end of the queue.
func (s *Store) putBack(q jetstream.Stream, msg jetstream.Msg) error {
	ctx, cancel := context.WithTimeout(context.Background(), laterTime)
	defer cancel()
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	aside, err := q.GetMsg(ctx, meta.Sequence.Stream)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return msg.Ack() // it was withdrawn
	}
	if err != nil {
		return unavailable(err)
	}
	call, err := decodeCall(aside.Data)
	if err != nil {
		s.log.Error("dropped a call that can't be read", "subject", msg.Subject(), "error", err)
		return msg.Term()
	}
	// It may have been put back before, by a server that died in between, and have run since.
	rec, _, err := s.Record(ctx, call.Function, call.ID)
	if api.CodeOf(err) == api.NotFound || err == nil && !isAside(&rec) {
		return msg.DoubleAck(ctx)
	}
	if err != nil {
		return err
	}
	there, err := s.enqueue(ctx, call, unlessThere)
	if err == nil && there {
		err = errInQueue // which may be left in the next moment: it can't stand for this
	}
	if err != nil {
		return err
	}
	return msg.DoubleAck(ctx)
}

// isAside tells whether the record is that of a call that may wait where it was put aside. One that was cancelled there goes back too, if something is to be done
// at its end: who has cancelled it may have died before it was.
func isAside(rec *api.Record) bool {
	return rec.State == api.Pending || rec.Code == api.Cancelled && rec.Fetched.IsZero() && rec.Options.AtEnd()
}
