package calls

import (
	"container/heap"
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

// keptSubject is where the record of a call whose answer was fetched is kept. It is no newer one of the call's own subject, as what that replaced would be there
// again, unfetched, after this has gone and a server was killed (see unlessThere).
func keptSubject(function, call string) string { return "kept." + function + "." + call }

// keptUntil is when the record of a call whose answer was fetched is removed, the zero time for one that was not.
func keptUntil(rec *api.Record) time.Time {
	if rec.Fetched.IsZero() {
		return time.Time{}
	}
	return rec.Fetched.Add(rec.Options.Keep)
}

// keepFetched keeps the record of a call whose answer was fetched for some time, which JetStream counts. It is on disk when this returns nil.
func (s *Store) keepFetched(ctx context.Context, rec api.Record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	s.use(s.records)
	if _, err := s.js.Publish(ctx, keptSubject(rec.Function, rec.CallID), data, untilLeader, leaderPause, jetstream.WithExpectStream(recordsStream),
		jetstream.WithMsgTTL(rec.Options.Keep)); err != nil {
		return unavailable(err)
	}
	return nil
}

// dropKept removes the records of fetched calls of which a function has too many, those first that would go first.
func (s *Store) dropKept(ctx context.Context, function string) error {
	for _, call := range s.states.overKept(function, s.cfg.KeptCalls) {
		if err := s.records.Purge(ctx, jetstream.WithPurgeSubject(keptSubject(function, call))); err != nil {
			return unavailable(err) // it goes with its time
		}
		s.changed(change{Kind: callGone, Function: function, Call: call})
	}
	return nil
}

// keptCall is a fetched call whose record is kept.
type keptCall struct {
	until int64 // Unix time in µs
	id    uuid.UUID
}

// keptCalls is a heap by until. A call that has gone otherwise stays in it until its time comes.
type keptCalls []keptCall

func (k keptCalls) Len() int           { return len(k) }
func (k keptCalls) Less(i, j int) bool { return k[i].until < k[j].until }
func (k keptCalls) Swap(i, j int)      { k[i], k[j] = k[j], k[i] }
func (k *keptCalls) Push(call any)     { *k = append(*k, call.(keptCall)) }
func (k *keptCalls) Pop() any {
	last := len(*k) - 1
	call := (*k)[last]
	*k = (*k)[:last]
	return call
}

// keep notes that a call is removed by JetStream then. It is in the table.
func (t *stateTable) keep(function string, call uuid.UUID, until int64) {
	heap.Push(&t.functions[function].kept, keptCall{until, call})
	t.expire(function, time.Now())
}

// expire removes the function's calls that JetStream has removed.
func (t *stateTable) expire(function string, now time.Time) {
	for f := t.functions[function]; f != nil && len(f.kept) > 0 && f.kept[0].until <= now.UnixMicro(); {
		t.set(function, heap.Pop(&f.kept).(keptCall).id, callState{})
	}
}

// overKept returns the ids of the function's kept calls over the limit, which are then no more in the heap.
func (s *states) overKept(function string, limit int) (calls []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		return nil // not all are known yet; the next one that is fetched makes up for it
	}
	f := s.now.functions[function]
	for f != nil && f.keptCalls > limit && len(f.kept) > 0 {
		id := heap.Pop(&f.kept).(keptCall).id
		if state, ok := f.calls[id]; ok && state.kept {
			f.keptCalls--
			state.kept = false
			f.calls[id] = state
			calls = append(calls, id.String())
		}
	}
	return calls
}
