package calls

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

// deadHeader holds the api.DeadLetter as JSON, without what the call and its payload hold.
const deadHeader = "Funcd-Dead"

// maxReason is how many bytes of the reason for its end a letter has, as a header of a message is bounded.
const maxReason = 4 << 10

func deadStream(account string) string { return "DEAD_" + account }

func deadSubject(account, function, call string) string {
	return "dead." + account + "." + function + "." + call
}

// Dead letters are a stream for each account, as queues are.
func (s *Store) dead(ctx context.Context, account string) (*anchored, error) {
	if err := checkIDs(account); err != nil {
		return nil, err
	}
	return s.stream(ctx, deadStream(account), "", func() jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Description:       "funcd: calls that have failed",
			Subjects:          []string{"dead." + account + ".>"},
			MaxMsgs:           s.cfg.DeadCalls,
			MaxBytes:          s.cfg.DeadBytes,
			MaxAge:            s.cfg.DeadTime,
			MaxMsgsPerSubject: 1,
			AllowDirect:       s.direct(),
		}
	})
}

// Bury keeps a call that has failed, as its record says, as a dead letter. It is on disk when this returns nil. A call that is there, or is buried again
// within two minutes, is not buried once more. The error is of code Unavailable.
func (s *Store) Bury(ctx context.Context, call *api.Call, rec api.Record) error {
	if err := checkIDs(call.Function, call.ID); err != nil {
		return err
	}
	if _, err := s.dead(ctx, call.Account); err != nil {
		return err
	}
	attempts := rec.Attempts
	if !rec.Started.IsZero() {
		attempts++
	}
	head, err := json.Marshal(api.DeadLetter{
		CallID: call.ID, Function: call.Name, Created: api.Timestamp{Time: call.Accepted}, Started: timestamp(rec.Started), Ended: api.Timestamp{Time: rec.Ended},
		Attempts: attempts, ExitCode: rec.ExitCode, Message: strings.ToValidUTF8(rec.Message[:min(len(rec.Message), maxReason)], ""), Size: len(call.Payload),
	})
	if err != nil {
		return err
	}
	data, err := encodeCall(call)
	if err != nil {
		return err
	}
	_, err = s.js.PublishMsg(ctx, &nats.Msg{
		Subject: deadSubject(call.Account, call.Function, call.ID),
		Header:  nats.Header{deadHeader: []string{string(head)}},
		Data:    data,
	}, jetstream.WithMsgID(call.ID), unlessThere, jetstream.WithExpectStream(deadStream(call.Account)), untilLeader, leaderPause)
	if refused, _ := errors.AsType[*jetstream.APIError](err); err != nil && !isThere(refused) {
		return unavailable(err)
	}
	return nil
}

func readLetter(header nats.Header) (letter api.DeadLetter, err error) {
	if err = json.Unmarshal([]byte(header.Get(deadHeader)), &letter); err != nil {
		err = fmt.Errorf("a dead letter can't be read: %w", err)
	}
	return letter, err
}

// DeadLetter returns a dead letter of the account with its call, and its version for RemoveLetter. The error is of code NotFound or
// Unavailable.
func (s *Store) DeadLetter(ctx context.Context, account, call string) (*api.Call, api.DeadLetter, uint64, error) {
	fail := func(err error) (*api.Call, api.DeadLetter, uint64, error) { return nil, api.DeadLetter{}, 0, err }
	if err := checkIDs(call); err != nil {
		return fail(err)
	}
	dead, err := s.dead(ctx, account)
	if err != nil {
		return fail(err)
	}
	msg, err := dead.GetLastMsgForSubject(ctx, deadSubject(account, "*", call))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return fail(api.Errorf(api.NotFound, "no such dead letter: %s", call))
	}
	if err != nil {
		return fail(unavailable(err))
	}
	letter, err := readLetter(msg.Header)
	if err != nil {
		return fail(err)
	}
	of, err := decodeCall(msg.Data)
	if err != nil {
		return fail(err)
	}
	letter.Env, letter.Payload = of.Env, of.Payload
	return of, letter, msg.Sequence, nil
}

// RemoveLetter removes this version of a dead letter. It is no error if it is gone.
func (s *Store) RemoveLetter(ctx context.Context, account string, version uint64) error {
	dead, err := s.dead(ctx, account)
	if err != nil {
		return err
	}
	if err := removeMessage(ctx, dead, version); err != nil {
		return unavailable(err)
	}
	return nil
}

// DeadLetters passes the account's dead letters to yield, the oldest first, without their payloads; of this function, by its id, if it is not empty.
// It returns yield's error, or one of code Unavailable.
func (s *Store) DeadLetters(ctx context.Context, account, function string, yield func(api.DeadLetter) error) error {
	subjects := deadSubject(account, "*", "*")
	if function != "" {
		if err := checkIDs(function); err != nil {
			return err
		}
		subjects = deadSubject(account, function, "*")
	}
	dead, err := s.dead(ctx, account)
	if err != nil {
		return err
	}
	return s.eachMessage(ctx, dead, []string{subjects}, true, func(msg jetstream.Msg) error {
		letter, err := readLetter(msg.Headers())
		if err != nil {
			return err
		}
		return yield(letter)
	})
}
