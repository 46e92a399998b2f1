package calls

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

// statesSubject carries changes between the servers of a NATS cluster.
const statesSubject = "states"

const (
	statesInterval = 10 * time.Minute // between two readings of the streams on a NATS cluster, as a message between servers can get lost
	statesRetry    = time.Second      // after one that failed
	listPage       = 256              // records that are read at a time
	listIdle       = time.Minute      // that JetStream keeps a listing without a reader
	heardPause     = 10 * time.Millisecond
)

// changed notes what has happened to a call, and tells the other servers.
func (s *Store) changed(c change) {
	if s.states.apply(c) {
		s.tellChange(c)
	}
}

func (s *Store) tellChange(c change) {
	if s.server != nil { // nobody else can have the embedded store
		return
	}
	c.By = s.id
	data, err := json.Marshal(c)
	if err == nil {
		err = s.nc.Publish(statesSubject, data)
	}
	if err != nil {
		s.log.Warn("other servers were not told of a call", "call", c.Call, "error", err)
	}
}

func (s *Store) recorded(rec api.Record) {
	s.changed(change{Kind: callRecorded, Function: rec.Function, Call: rec.CallID, State: rec.State, Accepted: micros(rec.Accepted)})
}

// followStates begins to follow where calls stand. The streams are read in the background, until ctx ends.
func (s *Store) followStates(ctx context.Context) error {
	again := make(chan struct{}, 1)
	if s.server == nil {
		_, err := s.nc.Subscribe(statesSubject, func(m *nats.Msg) {
			var c change
			if err := json.Unmarshal(m.Data, &c); err != nil {
				s.log.Warn("a message about a call can't be read", "error", err)
			} else if c.By != s.id {
				s.states.apply(c)
				if c.Kind == functionGone {
					s.forgetStreams(c.Function)
				}
			}
		})
		if err != nil {
			return err
		}
		s.nc.SetReconnectHandler(func(*nats.Conn) {
			select {
			case again <- struct{}{}:
			default:
			}
		})
	}
	s.background.Go(func() {
		for ctx.Err() == nil {
			pause := statesInterval
			young, err := s.readStates(ctx)
			switch {
			case err != nil:
				if ctx.Err() == nil {
					s.log.Warn("where calls stand can't be read", "error", err)
				}
				pause = statesRetry
			case s.server != nil:
				return
			case young:
				pause = orphanAge
			}
			select {
			case <-ctx.Done():
			case <-again:
			case <-time.After(pause):
			}
		}
	})
	return nil
}

// readStates reads where all calls stand, and removes orphans. young tells that there may be more.
func (s *Store) readStates(ctx context.Context) (young bool, err error) {
	table := s.states.begin()
	found := func(rec *api.Record) {
		s.states.found(table, change{
			Kind: callRecorded, Function: rec.Function, Call: rec.CallID, State: rec.State, Accepted: micros(rec.Accepted), Until: micros(keptUntil(rec)),
		})
	}
	kept := map[string]bool{}
	err = s.eachRecord(ctx, []string{keptSubject("*", "*")}, func(rec *api.Record, _ *jetstream.MsgMetadata) error {
		kept[rec.CallID] = true
		found(rec)
		return nil
	})
	if err != nil {
		return false, err
	}
	var open []orphan // records of calls that have not ended
	err = s.eachRecord(ctx, []string{recordSubject("*", "*")}, func(rec *api.Record, meta *jetstream.MsgMetadata) error {
		switch {
		case kept[rec.CallID]: // a server has died while it removed the call
			return s.removeAnswer(ctx, rec)
		case !rec.State.Ended():
			open = append(open, orphan{rec: *rec, sequence: meta.Sequence.Stream, written: meta.Timestamp})
		}
		found(rec)
		return nil
	})
	if err != nil {
		return false, err
	}
	accounts, err := s.Accounts(ctx)
	if err != nil {
		return false, err
	}
	queued := map[string]bool{}
	for _, account := range accounts {
		// Not the messages: each may have a payload of a megabyte.
		q, err := s.js.Stream(ctx, queueStream(account))
		if err != nil {
			return false, unavailable(err)
		}
		info, err := subjectsOf(ctx, q, queueSubject(account, "*", "*"))
		if err != nil {
			return false, unavailable(err)
		}
		for subject := range info.State.Subjects {
			function, call := queuedCall(subject)
			queued[call] = true
			s.states.found(table, change{Kind: callQueued, Function: function, Call: call})
		}
	}
	open = slices.DeleteFunc(open, func(o orphan) bool { return queued[o.rec.CallID] })
	if young, err = s.removeOrphans(ctx, open); err != nil {
		return false, err
	}
	s.states.end(table)
	return young, nil
}

// queuedCall returns the ids in a subject of the queue, also of what was put aside.
func queuedCall(subject string) (function, call string) {
	if tokens := strings.Split(subject, "."); len(tokens) >= 5 {
		return tokens[3], tokens[4]
	}
	return "", ""
}

// eachRecord passes the records of the subjects to yield, those that were written last at the end. What is written while it reads may come or
// not, and may come once more. It returns yield's error, or one of code Unavailable.
func (s *Store) eachRecord(ctx context.Context, subjects []string, yield func(rec *api.Record, meta *jetstream.MsgMetadata) error) error {
	return s.eachMessage(ctx, s.records, subjects, false, func(msg jetstream.Msg) error {
		if len(msg.Data()) == 0 { // the anchor
			return nil
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		var rec api.Record
		if err := json.Unmarshal(msg.Data(), &rec); err != nil {
			return fmt.Errorf("the record in %s can't be read: %w", msg.Subject(), err)
		}
		return yield(&rec, meta)
	})
}

// eachMessage passes the stream's messages of the subjects to yield, in their order.
func (s *Store) eachMessage(ctx context.Context, stream jetstream.Stream, subjects []string, headersOnly bool, yield func(jetstream.Msg) error) error {
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubjects:    subjects,
		AckPolicy:         jetstream.AckNonePolicy,
		HeadersOnly:       headersOnly,
		MemoryStorage:     true,
		InactiveThreshold: listIdle,
		Replicas:          1,
	})
	if err != nil {
		return unavailable(err)
	}
	defer s.endConsumer(ctx, stream, consumer)
	unheard, silent, all := time.Now().Add(openTimeout), time.Now().Add(openTimeout), uint64(0)
	for stored := consumer.CachedInfo().NumPending; stored > 0; {
		page, err := consumer.FetchNoWait(listPage)
		if err != nil {
			return unavailable(err)
		}
		read := 0
		for msg := range page.Messages() {
			read++
			if err := yield(msg); err != nil {
				return err
			}
		}
		err = page.Error()
		if errors.Is(err, nats.ErrNoResponders) && time.Now().Before(unheard) && sleep(ctx, heardPause) {
			continue // the NATS server that this one is connected to has not heard of the consumer yet
		}
		if err != nil {
			return unavailable(err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if read > 0 {
			stored -= min(stored, uint64(read))
			all += uint64(read)
			silent = time.Now().Add(openTimeout)
			continue
		}
		// What was to come has been removed, or JetStream was silent for a second, and what it has sent since goes nowhere.
		info, err := consumer.Info(ctx)
		switch {
		case err == nil && info.Delivered.Consumer > all:
			return unavailable(errors.New("a part of a list did not come"))
		case err == nil && info.NumPending == 0:
			return nil
		case time.Now().After(silent):
			return unavailable(errors.Join(errors.New("a list does not come"), err))
		}
	}
	return nil
}

// sleep returns false if ctx has ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// endConsumer ends what JetStream would else keep for minutes after its reader has gone.
func (s *Store) endConsumer(ctx context.Context, stream jetstream.Stream, consumer jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := stream.DeleteConsumer(ctx, consumer.CachedInfo().Name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		s.log.Debug("a reader is left to JetStream", "error", err)
	}
}

// Status counts the calls of a function by their states, from memory. In the first moments after Open it waits until the streams have been
// read. The error is of code Unavailable if ctx ends before, and Invalid.
func (s *Store) Status(ctx context.Context, function string) (api.Status, error) {
	if err := checkIDs(function); err != nil {
		return api.Status{}, err
	}
	select {
	case <-s.states.read:
		return s.states.status(function), nil
	case <-ctx.Done():
		return api.Status{}, unavailable(context.Cause(ctx))
	}
}

// Running returns the ids of a function's calls that have a container, from memory: of one that another server has changed in this moment it may
// not have heard. Errors are those of Status.
func (s *Store) Running(ctx context.Context, function string) ([]string, error) {
	status, err := s.Status(ctx, function)
	if err != nil || status.Running == 0 {
		return nil, err
	}
	return s.states.running(function), nil
}

// Totals counts the calls of all functions by their states, from memory, without waiting. read is false in the first moments after Open.
func (s *Store) Totals() (total api.Status, read bool) { return s.states.totals() }

// Calls passes all calls of a function to yield: those with a record in the order in which they were last changed, then those that wait, the
// oldest first. A few hundred are in memory at a time, and the ids of those that wait. A call that changes meanwhile may be left
// out, or be told as it was. It returns yield's error, or one of code Unavailable.
func (s *Store) Calls(ctx context.Context, function, account string, yield func(api.CallStatus) error) error {
	if _, err := s.Status(ctx, function); err != nil {
		return err
	}
	open := map[string]bool{} // those told that had not ended: at most as many as may run at once
	err := s.eachRecord(ctx, []string{recordSubject(function, "*"), keptSubject(function, "*")}, func(rec *api.Record, _ *jetstream.MsgMetadata) error {
		if open[rec.CallID] {
			return nil
		}
		if !rec.State.Ended() {
			open[rec.CallID] = true
		}
		return yield(statusOf(rec))
	})
	if err != nil {
		return err
	}
	for _, call := range s.states.waiting(function) {
		id := call.id.String()
		if open[id] {
			continue
		}
		accepted := time.UnixMicro(call.accepted)
		if call.accepted == 0 { // it was accepted before this server began
			queued, err := s.Queued(ctx, account, function, id)
			if api.CodeOf(err) == api.NotFound {
				continue // it has just left
			}
			if err != nil {
				return err
			}
			accepted = queued.Accepted
			s.changed(change{Kind: callQueued, Function: function, Call: id, Accepted: micros(accepted)})
		}
		if err := yield(api.CallStatus{CallID: id, Created: api.Timestamp{Time: accepted}, Status: api.Pending}); err != nil {
			return err
		}
	}
	return nil
}

func statusOf(rec *api.Record) api.CallStatus {
	status := api.CallStatus{CallID: rec.CallID, Created: api.Timestamp{Time: rec.Accepted}, Status: rec.State, Message: rec.Message}
	if rec.State.Ended() {
		status.Started, status.Ended, status.Fetched = timestamp(rec.Started), timestamp(rec.Ended), timestamp(rec.Fetched)
		if rec.State == api.Finished || rec.ExitCode != 0 { // else it is not known
			status.ExitCode = &rec.ExitCode
		}
	}
	return status
}

func timestamp(t time.Time) *api.Timestamp {
	if t.IsZero() {
		return nil
	}
	return &api.Timestamp{Time: t}
}
