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

// JetStream's error codes for a publish whose expected last sequence is not the last; the second is that of a stream with replicas, for two
// that come in the same moment.
const (
	errWrongLastSequence         = 10071
	errWrongLastSequenceConstant = 10164
)

// hasChanged tells that a message was refused as the one that it was to follow is not the last of its subject.
func hasChanged(err error) bool {
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (refused.ErrorCode == errWrongLastSequence || refused.ErrorCode == errWrongLastSequenceConstant)
}

func recordSubject(function, call string) string { return "record." + function + "." + call }

// Record returns a call's record and its version for SaveRecord. The error is of code NotFound if there is none: the call was not given
// to a container yet, was fetched, or never existed.
func (s *Store) Record(ctx context.Context, function, call string) (api.Record, uint64, error) {
	if err := checkIDs(function, call); err != nil {
		return api.Record{}, 0, err
	}
	if h := s.holding(function, call); h != nil {
		defer h.mu.Unlock()
		if !h.over && h.version == 0 {
			return api.Record{}, 0, api.Errorf(api.NotFound, "no such call: %s", call)
		}
		if !h.over {
			return h.rec, h.version, nil
		}
	}
	rec, version, err := s.record(ctx, function, call)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return api.Record{}, 0, api.Errorf(api.NotFound, "no such call: %s", call)
	}
	if err != nil {
		return api.Record{}, 0, unavailable(err)
	}
	return rec, version, nil
}

// record returns the last record of a call, which is kept elsewhere once it was fetched. function may be *. The error is JetStream's.
func (s *Store) record(ctx context.Context, function, call string) (rec api.Record, version uint64, err error) {
	msg, err := s.records.GetLastMsgForSubject(ctx, recordSubject(function, call))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		msg, err = s.records.GetLastMsgForSubject(ctx, keptSubject(function, call))
	}
	if err != nil {
		return rec, 0, err
	}
	if err := json.Unmarshal(msg.Data, &rec); err != nil {
		return rec, 0, fmt.Errorf("the record in %s can't be read: %w", msg.Subject, err)
	}
	return rec, msg.Sequence, nil
}

// FunctionOf returns the internal id and the name of the function that a call of the account belongs to: one that waits, runs, or has ended and
// was not fetched, or is kept. The error is of code NotFound for any other call, also if another account has it.
func (s *Store) FunctionOf(ctx context.Context, account, call string) (function, name string, err error) {
	if err := checkIDs(account, call); err != nil {
		return "", "", err
	}
	// It may leave the queue with a record between the first two looks.
	for _, look := range []func() (string, string, error){
		func() (string, string, error) { return s.functionOfRecord(ctx, account, call) },
		func() (string, string, error) { return s.functionOfQueued(ctx, account, call) },
		func() (string, string, error) { return s.functionOfRecord(ctx, account, call) },
	} {
		function, name, err = look()
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
	}
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return "", "", api.Errorf(api.NotFound, "no such call: %s", call)
	}
	if err != nil {
		return "", "", unavailable(err)
	}
	return function, name, nil
}

func (s *Store) functionOfRecord(ctx context.Context, account, call string) (function, name string, err error) {
	rec, _, err := s.record(ctx, "*", call)
	if err != nil {
		return "", "", err
	}
	if rec.Account != account {
		return "", "", jetstream.ErrMsgNotFound
	}
	return rec.Function, rec.Name, nil
}

func (s *Store) functionOfQueued(ctx context.Context, account, call string) (function, name string, err error) {
	q, err := s.js.Stream(ctx, queueStream(account)) // which an account without calls has not
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return "", "", jetstream.ErrMsgNotFound
	}
	if err != nil {
		return "", "", err
	}
	msg, err := q.GetLastMsgForSubject(ctx, queueSubject(account, "*", call))
	if err != nil {
		return "", "", err
	}
	queued, err := decodeCall(msg.Data)
	if err != nil {
		return "", "", err
	}
	return queued.Function, queued.Name, nil
}

// SaveRecord stores the record if its version is still the given one, 0 for none. It returns the new version; the record is then on disk.
// The error is of code Conflict if the record has changed meanwhile, also if it is gone, as the call is over, else Unavailable: it may be stored all the same then.
func (s *Store) SaveRecord(ctx context.Context, rec api.Record, version uint64) (uint64, error) {
	if err := checkIDs(rec.Function, rec.CallID); err != nil {
		return 0, err
	}
	if h := s.holding(rec.Function, rec.CallID); h != nil {
		defer h.mu.Unlock()
		return h.save(ctx, s, rec, version)
	}
	if version == 0 {
		return s.storeFirst(ctx, rec)
	}
	return s.storeRecord(ctx, rec, version)
}

// storeFirst stores the first record of a call, unless the call is in the queue no more: it has ended then, and its record went when its answer was fetched. Whoever
// writes one all the same had the call delivered before, and was stopped for longer than its lease. As a call leaves the queue before its record goes, one that is
// there after its record was written was not over before. An end must not be taken back, as others may have acted on it: it is the second record.
func (s *Store) storeFirst(ctx context.Context, rec api.Record) (uint64, error) {
	if rec.State.Ended() {
		version, err := s.storeFirst(ctx, api.Record{
			CallID: rec.CallID, Function: rec.Function, Name: rec.Name, Account: rec.Account, State: api.Pending, Accepted: rec.Accepted, Options: rec.Options,
		})
		if err != nil {
			return 0, err
		}
		return s.storeRecord(ctx, rec, version)
	}
	version, err := s.storeRecord(ctx, rec, 0)
	if err != nil {
		return 0, err
	}
	if queued, err := s.IsQueued(ctx, rec.Account, rec.Function, rec.CallID); err != nil || queued {
		return version, err
	}
	if err := removeMessage(ctx, s.records, version); err != nil {
		return 0, unavailable(err)
	}
	if _, _, err := s.record(ctx, rec.Function, rec.CallID); errors.Is(err, jetstream.ErrMsgNotFound) {
		s.changed(change{Kind: callGone, Function: rec.Function, Call: rec.CallID})
	}
	return 0, api.Errorf(api.Conflict, "the call is over")
}

func (s *Store) storeRecord(ctx context.Context, rec api.Record, version uint64) (uint64, error) {
	data, err := json.Marshal(rec)
	if err != nil {
		return 0, err
	}
	s.use(s.records)
	ack, err := s.js.Publish(ctx, recordSubject(rec.Function, rec.CallID), data,
		untilLeader, leaderPause, jetstream.WithExpectStream(recordsStream), jetstream.WithExpectLastSequencePerSubject(version))
	if hasChanged(err) {
		return 0, api.Wrap(api.Conflict, err, "the record of the call has changed meanwhile")
	}
	if err != nil {
		return 0, unavailable(err)
	}
	s.recorded(rec)
	return ack.Sequence, nil
}

// Forget removes an ended call: its record, its output, and what may be left of it in the queue after a crash, which would run it again. The record
// of one that is kept is marked as fetched instead, and removed when its time has passed or the function has too many.
func (s *Store) Forget(ctx context.Context, rec api.Record) error {
	rec.Fetched = time.Now()
	if err := s.forget(ctx, rec); err != nil {
		return err
	}
	if rec.Options.Keep == 0 {
		s.changed(change{Kind: callGone, Function: rec.Function, Call: rec.CallID})
		return nil
	}
	s.changed(change{Kind: callRecorded, Function: rec.Function, Call: rec.CallID, State: rec.State, Accepted: micros(rec.Accepted), Until: micros(keptUntil(&rec))})
	return s.dropKept(ctx, rec.Function)
}

func (s *Store) forget(ctx context.Context, rec api.Record) error {
	// One that was cancelled may be about to start: it leaves the queue first.
	if h := s.holding(rec.Function, rec.CallID); h != nil && !h.over && rec.Code != api.Cancelled {
		defer h.mu.Unlock()
		h.over, h.output = true, nil
		s.answered.add(rec.CallID, time.Now())
		s.unhold(recordSubject(rec.Function, rec.CallID))
		return nil
	} else if h != nil {
		h.mu.Unlock()
		if err := s.release(ctx, recordSubject(rec.Function, rec.CallID), h); err != nil {
			return err
		}
	}
	if err := s.takeOut(ctx, rec.Account, rec.Function, rec.CallID, rec.Attempts > 0); err != nil {
		return err
	}
	if rec.Options.Keep > 0 {
		if err := s.keepFetched(ctx, rec); err != nil {
			return err
		}
	}
	return s.removeAnswer(ctx, &rec)
}

// removeAnswer removes what there is to be fetched of a call.
func (s *Store) removeAnswer(ctx context.Context, rec *api.Record) error {
	if err := s.records.Purge(ctx, jetstream.WithPurgeSubject(recordSubject(rec.Function, rec.CallID))); err != nil {
		return unavailable(err)
	}
	// One that has failed may have an output: of a report that its end has overtaken.
	return s.removeOutput(ctx, rec.Function, rec.CallID)
}
