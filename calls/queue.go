package calls

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

// pool is the part of an account's quota that a call draws on. It is a token of the subject, so that a function with a part of its own can
// have a consumer of its own.
const pool = "shared"

func queueStream(account string) string { return "QUEUE_" + account }

func queueSubject(account, function, call string) string {
	return "queue." + account + "." + pool + "." + function + "." + call
}

// A queue is a stream for each account, so that its bounds in calls and in bytes are the account's own.
func (s *Store) queue(ctx context.Context, account string) (*anchored, error) {
	if err := checkIDs(account); err != nil {
		return nil, err
	}
	return s.stream(ctx, queueStream(account), "queue."+account+"."+queueAnchor, func() jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Description: "funcd: calls that have not ended",
			Subjects:    []string{"queue." + account + ".>"},
			Retention:   jetstream.WorkQueuePolicy,
			Discard:     jetstream.DiscardNew,
			MaxMsgs:     s.cfg.QueueCalls + 1, // the anchor
			MaxBytes:    s.cfg.QueueBytes,
			AllowDirect: s.direct(),
			// A call has a subject of its own: this is for the anchor.
			MaxMsgsPerSubject: 1,
		}
	})
}

// JetStream writes no note of a message that goes as a newer one of its subject comes: if the newer one is then removed and the server killed, the older one
// is there again. So what is removed must have been written once, and is written with unlessThere where it might be there.
var unlessThere = jetstream.WithExpectLastSequencePerSubject(0)

// isThere tells that a message was refused as unlessThere says.
func isThere(refused *jetstream.APIError) bool {
	return refused != nil && refused.ErrorCode == errWrongLastSequence
}

// Enqueue stores the call. When it returns nil the call is on disk and will be delivered to a server that consumes the account's queue, in
// the order of Enqueue. The error is of code Unavailable if the queue is full or the store does not answer; the call may then be
// in the queue all the same if the store failed after writing it.
func (s *Store) Enqueue(ctx context.Context, call *api.Call) error {
	_, err := s.enqueue(ctx, call)
	return err
}

// EnqueueOnce is Enqueue of a call that may be, or have been, queued by another in this moment: it is queued once. That holds for JetStream's two
// minutes of duplicates, and for a call that is there still.
func (s *Store) EnqueueOnce(ctx context.Context, call *api.Call) error {
	duplicate, err := s.enqueue(ctx, call, jetstream.WithMsgID(call.ID), unlessThere)
	if err != nil || !duplicate {
		return err
	}
	if there, err := s.IsQueued(ctx, call.Account, call.Function, call.ID); err == nil && !there {
		s.changed(change{Kind: callLeft, Function: call.Function, Call: call.ID}) // it has left already
	}
	return nil
}

// enqueue is Enqueue. duplicate tells that the options have found the call to be, or have been, there.
func (s *Store) enqueue(ctx context.Context, call *api.Call, options ...jetstream.PublishOpt) (duplicate bool, err error) {
	if err := checkIDs(call.Function, call.ID); err != nil {
		return false, err
	}
	if _, err := s.queue(ctx, call.Account); err != nil {
		return false, err
	}
	data, err := encodeCall(call)
	if err != nil {
		return false, err
	}
	release, err := s.disk.take(len(data))
	if err != nil {
		return false, err
	}
	defer release()
	// It is noted before: a server may have the call, and have ended it, before this one hears that it is stored.
	s.changed(change{Kind: callQueued, Function: call.Function, Call: call.ID, Accepted: micros(call.Accepted)})
	ack, err := s.js.Publish(ctx, queueSubject(call.Account, call.Function, call.ID), data,
		append(options, jetstream.WithExpectStream(queueStream(call.Account)), untilLeader, leaderPause)...)
	refused, _ := errors.AsType[*jetstream.APIError](err)
	if isThere(refused) {
		return true, nil
	}
	if err != nil {
		s.changed(change{Kind: callLeft, Function: call.Function, Call: call.ID})
	}
	if refused != nil && strings.HasPrefix(refused.Description, "maximum ") {
		return false, api.Wrap(api.Unavailable, err, "the queue is full, try again later")
	}
	if err != nil {
		return false, unavailable(err)
	}
	return ack.Duplicate, nil
}

// Queued returns the call as it waits in the queue or is being executed. The error is of code NotFound if it is not there, also if it has
// ended.
func (s *Store) Queued(ctx context.Context, account, function, call string) (*api.Call, error) {
	if err := checkIDs(function, call); err != nil {
		return nil, err
	}
	q, err := s.queue(ctx, account)
	if err != nil {
		return nil, err
	}
	msg, err := q.GetLastMsgForSubject(ctx, queueSubject(account, function, call))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, api.Errorf(api.NotFound, "no such call: %s", call)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return decodeCall(msg.Data)
}

// errNoLeader is why it is not known what a stream holds.
var errNoLeader = errors.New("the stream has no leader")

// subjectsOf is the stream's Info with the subjects that match, as its leader tells it. While there is none any replica answers, as far as it has heard.
func subjectsOf(ctx context.Context, stream jetstream.Stream, subject string) (*jetstream.StreamInfo, error) {
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err == nil && info.Cluster != nil && info.Cluster.Leader == "" {
		return nil, errNoLeader
	}
	return info, err
}

// IsQueued tells whether a call waits in the queue or is being executed. It does not read the payload. The error is of code Unavailable.
func (s *Store) IsQueued(ctx context.Context, account, function, call string) (bool, error) {
	if err := checkIDs(function, call); err != nil {
		return false, err
	}
	q, err := s.queue(ctx, account)
	if err != nil {
		return false, err
	}
	subject := queueSubject(account, function, call)
	var info *jetstream.StreamInfo
	asked := make(chan struct{})
	go func() { // reading the answer takes a deep stack, which each of the thousands who ask before they wait would keep
		defer close(asked)
		info, err = subjectsOf(ctx, q, subject)
	}()
	<-asked
	if err != nil {
		return false, unavailable(err)
	}
	return info.State.Subjects[subject] > 0, nil
}

// Withdraw takes a call out of the queue. It is no error if it is not there. Its record must be on disk as ended before, for the server that has
// it delivered in the same moment.
func (s *Store) Withdraw(ctx context.Context, account, function, call string) error {
	return s.takeOut(ctx, account, function, call, true)
}

// takeOut is Withdraw. aside tells that the call may have been put aside.
func (s *Store) takeOut(ctx context.Context, account, function, call string, aside bool) error {
	if err := checkIDs(function, call); err != nil {
		return err
	}
	q, err := s.queue(ctx, account)
	if err != nil {
		return err
	}
	subjects := []string{queueSubject(account, function, call)}
	if aside {
		subjects = append(subjects, laterSubject(account, function, call, "*"))
	}
	for _, subject := range subjects {
		if err := removeMessages(ctx, q, subject); err != nil {
			return unavailable(err)
		}
	}
	s.changed(change{Kind: callLeft, Function: function, Call: call})
	return nil
}

// InFlight returns how many calls of a function have not ended.
func (s *Store) InFlight(ctx context.Context, account, function string) (int, error) {
	calls, err := s.CallsInFlight(ctx, account, function)
	return len(calls), err
}

// CallsInFlight returns the ids of a function's calls that have not ended, in no order.
func (s *Store) CallsInFlight(ctx context.Context, account, function string) ([]string, error) {
	if err := checkIDs(function); err != nil {
		return nil, err
	}
	q, err := s.queue(ctx, account)
	if err != nil {
		return nil, err
	}
	info, err := subjectsOf(ctx, q, "queue."+account+".*."+function+".>")
	if err != nil {
		return nil, unavailable(err)
	}
	calls := make([]string, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		_, call := queuedCall(subject)
		calls = append(calls, call)
	}
	slices.Sort(calls)
	return slices.Compact(calls), nil // one that was just put aside may be there twice
}

// Accounts returns the accounts that have a queue.
func (s *Store) Accounts(ctx context.Context) ([]string, error) {
	var accounts []string
	names := s.js.StreamNames(ctx, jetstream.WithStreamListSubject("queue.>"))
	for name := range names.Name() {
		if account, ok := strings.CutPrefix(name, "QUEUE_"); ok {
			accounts = append(accounts, account)
		}
	}
	if err := names.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return nil, unavailable(err)
	}
	return accounts, nil
}

// Quota returns how many calls of the account may be delivered and not Done, 0 if none ever were. The error is of code Unavailable.
func (s *Store) Quota(ctx context.Context, account string) (int, error) {
	q, err := s.queue(ctx, account)
	if err != nil {
		return 0, err
	}
	consumer, err := q.Consumer(ctx, pool)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, unavailable(err)
	}
	return consumer.CachedInfo().Config.MaxAckPending, nil
}

// SetQuota changes the quota of an account whose calls are being delivered. Those over a smaller one stay where they are. The error is of code
// Unavailable.
func (s *Store) SetQuota(ctx context.Context, account string, quota int) error {
	q, err := s.queue(ctx, account)
	if err != nil {
		return err
	}
	consumer, err := q.Consumer(ctx, pool)
	if err != nil {
		return unavailable(err)
	}
	config := consumer.CachedInfo().Config
	if config.MaxAckPending == quota {
		s.keepQuota(account, quota)
		return nil
	}
	config.MaxAckPending = quota
	if _, err := q.UpdateConsumer(ctx, config); err != nil {
		return unavailable(err)
	}
	s.keepQuota(account, quota)
	return nil
}

// keepQuota is the quota that a consumer of the account which has to be made again gets.
func (s *Store) keepQuota(account string, quota int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quotas[account] = quota
}
