package calls

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

// callbackHeader holds the api.Callback as JSON; its body is the message's data.
const callbackHeader = "Funcd-Callback"

// callbackConsumer is the name of the consumer of an account's callbacks.
const callbackConsumer = "callbacks"

const callbackPause = time.Second // after JetStream did not answer

func callbackStream(account string) string { return "CALLBACK_" + account }

func callbackSubject(account, function, call string) string {
	return "callback." + account + "." + function + "." + call
}

// Callbacks are a stream for each account, so that one with slow receivers holds up no other.
func (s *Store) callbacks(ctx context.Context, account string) (*anchored, error) {
	if err := checkIDs(account); err != nil {
		return nil, err
	}
	return s.stream(ctx, callbackStream(account), "", func() jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Description:       "funcd: results on their way to callbacks",
			Subjects:          []string{"callback." + account + ".>"},
			Retention:         jetstream.WorkQueuePolicy,
			Discard:           jetstream.DiscardNew,
			MaxMsgs:           s.cfg.CallbackCalls,
			MaxBytes:          s.cfg.CallbackBytes,
			MaxMsgsPerSubject: 1,
			AllowDirect:       s.direct(),
		}
	})
}

// QueueCallback stores a callback until ServeCallbacks has delivered it. It is on disk when this returns nil. One that is there, or is queued again within two
// minutes, is not queued once more. The error is of code TooLarge if the account has too many, else Unavailable.
func (s *Store) QueueCallback(ctx context.Context, cb api.Callback, body []byte) error {
	if err := checkIDs(cb.Function, cb.CallID); err != nil {
		return err
	}
	if _, err := s.callbacks(ctx, cb.Account); err != nil {
		return err
	}
	head, err := json.Marshal(cb)
	if err != nil {
		return err
	}
	_, err = s.js.PublishMsg(ctx, &nats.Msg{
		Subject: callbackSubject(cb.Account, cb.Function, cb.CallID),
		Header:  nats.Header{callbackHeader: []string{string(head)}},
		Data:    body,
	}, jetstream.WithMsgID(cb.CallID), unlessThere, jetstream.WithExpectStream(callbackStream(cb.Account)), untilLeader, leaderPause)
	refused, _ := errors.AsType[*jetstream.APIError](err)
	if isThere(refused) {
		return nil
	}
	if refused != nil && strings.HasPrefix(refused.Description, "maximum ") {
		return api.Wrap(api.TooLarge, err, "too many callbacks wait")
	}
	if err != nil {
		return unavailable(err)
	}
	return nil
}

// CallbackAccounts returns the accounts that have had callbacks.
func (s *Store) CallbackAccounts(ctx context.Context) ([]string, error) {
	var accounts []string
	names := s.js.StreamNames(ctx, jetstream.WithStreamListSubject("callback.>"))
	for name := range names.Name() {
		if account, ok := strings.CutPrefix(name, callbackStream("")); ok {
			accounts = append(accounts, account)
		}
	}
	if err := names.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return nil, unavailable(err)
	}
	return accounts, nil
}

// ServeCallbacks passes the account's callbacks to deliver, at most so many at a time, until ctx ends, and returns when all calls of it have. deliver
// must return within the lease. It is called again with a callback after the time that it returns, on any server; with 0 the callback is done. attempt
// counts its calls, from 1, also those that have broken off with their server.
func (s *Store) ServeCallbacks(ctx context.Context, account string, most int, lease time.Duration,
	deliver func(ctx context.Context, cb api.Callback, body []byte, attempt int) (again time.Duration)) {
	var delivering sync.WaitGroup
	defer delivering.Wait()
	free := make(chan struct{}, most)
	var consumer jetstream.Consumer
	for {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		msg, err := s.nextCallback(ctx, account, lease, &consumer)
		if err != nil || msg == nil {
			<-free
			if err != nil && ctx.Err() == nil {
				s.log.Debug("callbacks are not read", "account", account, "error", err)
				consumer = nil
				select {
				case <-ctx.Done():
				case <-time.After(callbackPause):
				}
			}
			continue
		}
		delivering.Go(func() {
			defer func() { <-free }()
			if err := s.deliverCallback(ctx, msg, deliver); err != nil {
				s.log.Debug("a callback comes again with its lease", "subject", msg.Subject(), "error", err)
			}
		})
	}
}

// nextCallback returns nil if none has come for a while.
func (s *Store) nextCallback(ctx context.Context, account string, lease time.Duration, consumer *jetstream.Consumer) (jetstream.Msg, error) {
	if *consumer == nil {
		stream, err := s.callbacks(ctx, account)
		if err != nil {
			return nil, err
		}
		*consumer, err = stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
			Durable:       callbackConsumer,
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       lease,
			MaxAckPending: -1, // those that wait to be tried again count
			MaxDeliver:    -1,
			Replicas:      s.cfg.Replicas,
		})
		if err != nil {
			*consumer = nil
			return nil, err
		}
	}
	msg, err := (*consumer).Next(jetstream.FetchContext(ctx))
	if errors.Is(err, nats.ErrTimeout) || errors.Is(err, jetstream.ErrNoMessages) {
		return nil, nil
	}
	return msg, err
}

func (s *Store) deliverCallback(ctx context.Context, msg jetstream.Msg,
	deliver func(ctx context.Context, cb api.Callback, body []byte, attempt int) time.Duration) error {
	var cb api.Callback
	meta, err := msg.Metadata()
	if err == nil {
		err = json.Unmarshal([]byte(msg.Headers().Get(callbackHeader)), &cb)
	}
	if err != nil {
		s.log.Error("dropped a callback that can't be read", "subject", msg.Subject(), "error", err)
		return msg.Term()
	}
	again := deliver(ctx, cb, msg.Data(), int(min(meta.NumDelivered, 1<<30)))
	if again > 0 {
		return msg.NakWithDelay(again)
	}
	return msg.DoubleAck(context.WithoutCancel(ctx))
}
