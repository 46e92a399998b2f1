package calls

import (
	"context"
	"errors"
	"strconv"
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

// laterSubject is where a call waits for an attempt, or with * for any.
func laterSubject(account, function, call, attempt string) string {
	return "queue." + account + "." + later + "." + function + "." + call + "." + attempt
}

// Postpone puts a call that was delivered aside until then, for its next attempt, call.Attempt. It is on disk when this returns nil, and the delivery is to be Done.
// Its record must say before that it is Pending, with so many attempts behind it. Whoever puts it aside for an attempt for which it is aside already, as a server that has died
// before it was Done, or one that was stopped for longer than its lease, leaves it as it is. The error is of code Unavailable, also where the queue is full.
func (s *Store) Postpone(ctx context.Context, call *api.Call, until time.Time) error {
	if err := checkIDs(call.Function, call.ID); err != nil {
		return err
	}
	if _, err := s.queue(ctx, call.Account); err != nil {
		return err
	}
	data, err := encodeCall(call)
	if err != nil {
		return err
	}
	_, err = s.js.PublishMsg(ctx, &nats.Msg{
		Subject: laterSubject(call.Account, call.Function, call.ID, strconv.Itoa(call.Attempt)),
		Header:  nats.Header{untilHeader: []string{until.UTC().Format(time.RFC3339Nano)}},
		Data:    data,
	}, jetstream.WithExpectStream(queueStream(call.Account)), unlessThere, untilLeader, leaderPause)
	if refused, _ := errors.AsType[*jetstream.APIError](err); err != nil && !isThere(refused) {
		return unavailable(err)
	}
	return nil
}

// consumeLater puts the account's calls that were set aside back when their time has come, until stop is called.
func (s *Store) consumeLater(ctx context.Context, q *anchored, account string) (stop func(), err error) {
	aside := func() jetstream.ConsumerConfig {
		return jetstream.ConsumerConfig{
			Durable:       later,
			FilterSubject: laterSubject(account, "*", "*", "*"),
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
	if api.CodeOf(err) == api.NotFound || err == nil && !waitsFor(&rec, call.Attempt) {
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

// waitsFor tells whether the record is that of a call that may wait for this attempt where it was put aside. One that was cancelled there goes back too, if something
// is to be done at its end: who has cancelled it may have died before it was.
func waitsFor(rec *api.Record, attempt int) bool {
	return rec.State == api.Pending && rec.Attempts <= attempt || rec.Code == api.Cancelled && rec.Fetched.IsZero() && rec.Options.AtEnd()
}
