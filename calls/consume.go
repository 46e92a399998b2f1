package calls

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

// Delivery is a call that this server has been given to execute. It stays this server's while Extend is called within each Lease, and until
// Done or Return.
type Delivery struct {
	s     *Store
	call  *api.Call
	msg   jetstream.Msg
	fresh bool
	ours  bool
}

// Fresh tells that no server can have had the call before: it was accepted after this consumer was made, and is delivered for the first time.
func (d *Delivery) Fresh() bool { return d.fresh }

// Ours tells that this server has accepted the call itself since it was opened, and no other can have had it. It is false on a server that is not alone.
func (d *Delivery) Ours() bool { return d.ours }

// Call returns the call, with its payload.
func (d *Delivery) Call() *api.Call { return d.call }

// Extend keeps the call with this server for another Lease.
func (d *Delivery) Extend() error { return d.msg.InProgress() }

// Done removes the call from the queue, for good when it returns nil: its record must be on disk as ended before. It may be called more
// than once. A call that is held may come again after a power loss.
func (d *Delivery) Done(ctx context.Context) error {
	var err error
	if d.call.Held {
		err = d.msg.Ack()
	} else {
		err = d.msg.DoubleAck(ctx)
	}
	if err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		return unavailable(err)
	}
	d.s.changed(change{Kind: callLeft, Function: d.call.Function, Call: d.call.ID})
	return nil
}

// Return gives the call back to the front of the queue, to be delivered again to any server after the delay.
func (d *Delivery) Return(delay time.Duration) error { return d.msg.NakWithDelay(delay) }

// pullTime is how long JetStream keeps a server's request for calls, which that makes again then: what is delivered for the request of a server that has vanished
// without a word waits for its lease, so that the request must end well before the leases of the calls that the server had.
func (s *Store) pullTime() jetstream.PullExpiry {
	const least = time.Second // JetStream's
	return jetstream.PullExpiry(max(s.cfg.Lease/2, least))
}

// pullBytes bounds the messages of one request, which is then made again. NATS cuts a connection that has tens of megabytes to take, as a quota of large payloads would
// be, and what was on its way waits for its lease.
const pullBytes = 2 * maxMessage

// Consume starts to deliver the account's calls. At any time at most quota calls of the account are delivered and not Done, on all servers
// together. deliver is called from one goroutine and must not block. stop returns when it will not be called any more, which it may be once
// more for each call that is on its way; it may be called more than once.
func (s *Store) Consume(ctx context.Context, account string, quota int, deliver func(*Delivery)) (stop func(), err error) {
	q, err := s.queue(ctx, account)
	if err != nil {
		return nil, err
	}
	info, err := q.Info(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	before := info.State.LastSeq // what is there now, an earlier consumer may have delivered
	s.keepQuota(account, quota)
	shared := func() jetstream.ConsumerConfig {
		s.mu.Lock()
		defer s.mu.Unlock()
		return jetstream.ConsumerConfig{Durable: pool, FilterSubject: queueSubject(account, "*", "*"), MaxAckPending: s.quotas[account]}
	}
	stopQueue, err := s.consume(ctx, q, shared, max(quota, 1), func(msg jetstream.Msg) {
		call, err := decodeCall(msg.Data())
		if err != nil {
			// No server will ever be able to read it, and it would hold a place of the quota for ever.
			s.log.Error("dropped a call that can't be read", "subject", msg.Subject(), "error", err)
			if err := msg.Term(); err != nil {
				s.log.Error("a call that can't be read stays in the queue", "error", err)
			}
			function, id := queuedCall(msg.Subject())
			s.changed(change{Kind: callLeft, Function: function, Call: id})
			return
		}
		if call.Held && s.answered.has(call.ID) {
			if err := msg.Ack(); err != nil {
				s.log.Debug("a call that was answered comes again", "call", call.ID, "error", err)
			}
			return
		}
		// It is known but where Enqueue was told that it had failed, or the server that did it was not heard.
		s.changed(change{Kind: callQueued, Function: call.Function, Call: call.ID, Accepted: micros(call.Accepted)})
		meta, err := msg.Metadata()
		// An embedded store's consumer is a new one: it does not know what an earlier one has delivered.
		ours := err == nil && s.alone && meta.Sequence.Stream > before
		fresh := err == nil && meta.NumDelivered == 1 && (ours || !s.alone)
		deliver(&Delivery{s: s, call: call, msg: msg, fresh: fresh, ours: ours})
	})
	if err != nil {
		return nil, err
	}
	stopLater, err := s.consumeLater(ctx, q, account)
	if err != nil {
		stopQueue()
		return nil, err
	}
	return func() {
		stopLater()
		stopQueue()
	}, nil
}

// consume has the messages of a consumer of a queue handled, from one goroutine, so many requested at a time, until stop is called, which returns when the last
// was. A consumer that an operator, or JetStream, has removed is made again, as config says then. The error is of code Unavailable.
func (s *Store) consume(ctx context.Context, q *anchored, config func() jetstream.ConsumerConfig, most int, handle jetstream.MessageHandler) (stop func(), err error) {
	name := config().Durable
	log := s.log.With("stream", q.CachedInfo().Config.Name, "consumer", name)
	begin := func(ctx context.Context) (jetstream.ConsumeContext, error) {
		cfg := config()
		cfg.AckPolicy, cfg.AckWait, cfg.MaxDeliver, cfg.Replicas = jetstream.AckExplicitPolicy, s.cfg.Lease, -1, s.cfg.Replicas
		consumer, err := q.CreateOrUpdateConsumer(ctx, cfg)
		if err != nil {
			return nil, err
		}
		return consumer.Consume(handle, jetstream.PullMaxMessagesWithBytesLimit(most, pullBytes), s.pullTime(), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			log.Debug("consuming a queue", "error", err)
		}))
	}
	if s.server != nil {
		// What was delivered before a restart would come back only when its lease ends. As no other server can hold it, a new consumer
		// has it delivered at once.
		if err := q.DeleteConsumer(ctx, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return nil, unavailable(err)
		}
	}
	consuming, err := begin(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	running, end := context.WithCancel(s.running)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-running.Done():
				// What has come and was not handled yet is: dropped, it would wait for its lease to end.
				consuming.Drain()
				<-consuming.Closed()
				return
			case <-consuming.Closed():
			}
			log.Warn("a queue's consumer was removed, and is made again")
			for {
				again, err := begin(running)
				if err == nil {
					consuming = again
					break
				}
				log.Warn("a queue's consumer can't be made again", "error", err)
				if !sleep(running, beginPause) {
					return
				}
			}
		}
	})
	return func() {
		end()
		done.Wait()
	}, nil
}

// beginPause is after which a consumer that could not be made is tried again.
const beginPause = time.Second
