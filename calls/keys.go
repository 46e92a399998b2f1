package calls

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

func keyStream(account string) string { return "KEYS_" + account }

// keySubject is where a key of a function is kept. Neither the key nor, to who guesses it, whether another function has it can be read from it.
func keySubject(account, function, key string) string {
	hash := sha256.Sum256([]byte(function + "\x00" + key))
	return "key." + account + "." + function + "." + hex.EncodeToString(hash[:])
}

// Keys are a stream for each account, as one account's must not take another's place.
func (s *Store) keys(ctx context.Context, account string) (*anchored, error) {
	if err := checkIDs(account); err != nil {
		return nil, err
	}
	return s.stream(ctx, keyStream(account), "", func() jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Description:       "funcd: idempotency keys of calls",
			Subjects:          []string{"key." + account + ".>"},
			Discard:           jetstream.DiscardNew, // a key is never forgotten ahead of its time
			MaxMsgs:           s.cfg.Keys,
			MaxMsgsPerSubject: 1,
			AllowMsgTTL:       true,
			AllowDirect:       s.direct(),
		}
	})
}

// Key returns what is stored of a function's key, and its version for SaveKey. The error is of code NotFound if it was not used, or not for
// Config.KeyTime.
func (s *Store) Key(ctx context.Context, account, function, key string) (api.CallKey, uint64, error) {
	if err := checkIDs(function); err != nil {
		return api.CallKey{}, 0, err
	}
	keys, err := s.keys(ctx, account)
	if err != nil {
		return api.CallKey{}, 0, err
	}
	msg, err := keys.GetLastMsgForSubject(ctx, keySubject(account, function, key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return api.CallKey{}, 0, api.Errorf(api.NotFound, "the key was not used")
	}
	if err != nil {
		return api.CallKey{}, 0, unavailable(err)
	}
	var stored api.CallKey
	if err := json.Unmarshal(msg.Data, &stored); err != nil {
		return api.CallKey{}, 0, fmt.Errorf("a key of function %s can't be read: %w", function, err)
	}
	return stored, msg.Sequence, nil
}

// SaveKey stores what a key stands for, for Config.KeyTime from now, if its version is still the given one, 0 for none. It is on disk when this
// returns nil. The error is of code Conflict if it has changed meanwhile, else Unavailable, also if the account has too many keys.
func (s *Store) SaveKey(ctx context.Context, account, function, key string, value api.CallKey, version uint64) (uint64, error) {
	if err := checkIDs(function); err != nil {
		return 0, err
	}
	if _, err := s.keys(ctx, account); err != nil {
		return 0, err
	}
	data, err := json.Marshal(value)
	if err != nil {
		return 0, err
	}
	ack, err := s.js.Publish(ctx, keySubject(account, function, key), data, untilLeader, leaderPause, jetstream.WithExpectStream(keyStream(account)),
		jetstream.WithExpectLastSequencePerSubject(version), jetstream.WithMsgTTL(s.cfg.KeyTime))
	refused, _ := errors.AsType[*jetstream.APIError](err)
	switch {
	case err == nil:
		return ack.Sequence, nil
	case hasChanged(err):
		return 0, api.Wrap(api.Conflict, err, "the key has just been used")
	case refused != nil && strings.HasPrefix(refused.Description, "maximum "):
		return 0, api.Wrap(api.Unavailable, err, "the account has too many idempotency keys, try again later")
	}
	return 0, unavailable(err)
}
