package calls

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/funcd/funcd/api"
)

// states is where each call stands, in memory: JetStream counts the messages of a filter by walking them, 0.6 µs each, which is too slow for a
// function with many calls and holds up who writes meanwhile. It takes some 50 bytes for each call in the queue or with a record, a
// quarter of what JetStream itself keeps in memory of one, and is bounded as they are.
//
// It is read from the streams once and then follows what this server, and the others of a cluster, say they do.
type states struct {
	mu   sync.Mutex
	now  *stateTable   // nil until the streams have been read for the first time
	next *stateTable   // nil unless they are being read
	read chan struct{} // closed when now is there
}

// stateTable holds the calls of all functions. It is guarded by states.mu.
type stateTable struct {
	functions map[string]*functionCalls
	// While the streams are being read, what they tell may be older than what has happened meanwhile.
	reading bool
	gone    map[uuid.UUID]struct{} // calls that were removed
	left    map[uuid.UUID]struct{} // calls that have left the queue
	dropped map[string]struct{}    // functions that were removed
}

// functionCalls is the calls of one function.
type functionCalls struct {
	counts [len(stateNames)]int
	calls  map[uuid.UUID]callState

	kept      keptCalls // those that are removed by themselves
	keptCalls int       // how many of calls are kept
}

// callState is where one call stands. It is there while the call is in the queue or has a record.
type callState struct {
	accepted         int64 // Unix time in µs; 0 while it is not known
	state            uint8 // index of stateNames
	queued, recorded bool
	kept             bool // it was fetched, and is in functionCalls.kept
}

var stateNames = [...]api.State{api.Pending, api.Running, api.Finished, api.Failed}

// The kinds of change.
const (
	callQueued   = "queued"
	callRecorded = "recorded" // with its state
	callLeft     = "left"     // the queue
	callGone     = "gone"     // with its record
	functionGone = "function"
)

// change is what happens to a call, and travels to the other servers of a cluster.
type change struct {
	Kind     string
	Function string
	Call     string    `json:",omitempty"`
	State    api.State `json:",omitempty"`
	Accepted int64     `json:",omitempty"` // Unix time in µs
	Until    int64     `json:",omitempty"` // Unix time in µs at which a recorded call that was fetched is removed
	By       string    `json:",omitempty"` // the server that tells of it
}

func newStates() *states {
	return &states{read: make(chan struct{})}
}

// begin starts to collect what happens, for a table that is then filled from the streams by found and becomes the current one by end.
func (s *states) begin() *stateTable {
	t := &stateTable{
		functions: map[string]*functionCalls{}, reading: true,
		gone: map[uuid.UUID]struct{}{}, left: map[uuid.UUID]struct{}{}, dropped: map[string]struct{}{},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = t
	return t
}

// found adds what a stream holds, unless something newer is known.
func (s *states) found(t *stateTable, c change) {
	call, err := uuid.Parse(c.Call)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, gone := t.gone[call]
	_, left := t.left[call]
	_, dropped := t.dropped[c.Function]
	var known callState
	if f := t.functions[c.Function]; f != nil {
		known = f.calls[call]
	}
	if gone || dropped || c.Kind == callRecorded && known.recorded || c.Kind == callQueued && (known.queued || left) {
		return
	}
	t.change(c, call, known)
}

func (s *states) end(t *stateTable) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.reading = false
	t.gone, t.left, t.dropped = nil, nil, nil
	s.next = nil
	first := s.now == nil
	s.now = t
	if first {
		close(s.read)
	}
}

// apply notes what has happened. It returns whether that was news.
func (s *states) apply(c change) bool {
	call, err := uuid.Parse(c.Call)
	if err != nil && c.Kind != functionGone {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	news := false
	for _, t := range []*stateTable{s.now, s.next} {
		if t != nil && t.apply(c, call) {
			news = true
		}
	}
	return news
}

func (t *stateTable) apply(c change, call uuid.UUID) (news bool) {
	if c.Kind == functionGone {
		if t.reading {
			t.dropped[c.Function] = struct{}{}
		}
		_, news = t.functions[c.Function]
		delete(t.functions, c.Function)
		return news
	}
	var known callState
	exists := false
	if f := t.functions[c.Function]; f != nil {
		known, exists = f.calls[call]
	}
	if t.reading {
		switch _, gone := t.gone[call]; {
		case gone:
			return false
		case c.Kind == callGone:
			t.gone[call] = struct{}{}
		case c.Kind == callLeft:
			t.left[call] = struct{}{}
		}
	} else if !exists && c.Kind != callQueued {
		// A call is queued before anything else. What is told of one that is not there comes late: its record was removed meanwhile.
		return false
	}
	return t.change(c, call, known)
}

// change is what apply and found have found to be done.
func (t *stateTable) change(c change, call uuid.UUID, known callState) (news bool) {
	state := known.with(c)
	t.set(c.Function, call, state)
	if state.kept && !known.kept {
		t.keep(c.Function, call, c.Until)
	}
	return state != known
}

// with returns the state after the change.
func (s callState) with(c change) callState {
	switch c.Kind {
	case callQueued:
		s.queued = true
	case callRecorded:
		// What another server has written before may be heard of after an end, which is the last.
		if !s.recorded || !stateNames[s.state].Ended() {
			s.recorded, s.state = true, uint8(max(slices.Index(stateNames[:], c.State), 0))
		}
		s.kept = s.kept || c.Until != 0
	case callLeft:
		s.queued = false
	case callGone:
		s = callState{}
	}
	s.accepted = cmp.Or(s.accepted, c.Accepted)
	return s
}

func (t *stateTable) set(function string, call uuid.UUID, to callState) {
	f := t.functions[function]
	if f == nil {
		f = &functionCalls{calls: map[uuid.UUID]callState{}}
		t.functions[function] = f
	}
	if was, ok := f.calls[call]; ok {
		f.counts[was.state]--
		if was.kept {
			f.keptCalls--
		}
		delete(f.calls, call)
	}
	if to.queued || to.recorded {
		f.calls[call] = to
		f.counts[to.state]++
		if to.kept {
			f.keptCalls++
		}
	}
	if len(f.calls) == 0 {
		delete(t.functions, function) // with its map, which does not shrink
	}
}

// status counts the function's calls.
func (s *states) status(function string) api.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.expire(function, time.Now())
	f := s.now.functions[function]
	if f == nil {
		return api.Status{}
	}
	return api.Status{Total: len(f.calls), Pending: f.counts[0], Running: f.counts[1], Finished: f.counts[2], Failed: f.counts[3]}
}

// totals counts the calls of all functions. read is false while they are not known yet.
func (s *states) totals() (total api.Status, read bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		return api.Status{}, false
	}
	now := time.Now()
	for name, f := range s.now.functions {
		s.now.expire(name, now)
		total.Total += len(f.calls)
		total.Pending += f.counts[0]
		total.Running += f.counts[1]
		total.Finished += f.counts[2]
		total.Failed += f.counts[3]
	}
	return total, true
}

// waitingCall is a call in the queue that nothing is written of yet.
type waitingCall struct {
	id       uuid.UUID
	accepted int64
}

// waiting returns the calls of the function that are in the queue and have no record, the oldest first.
func (s *states) waiting(function string) []waitingCall {
	s.mu.Lock()
	var waiting []waitingCall
	if f := s.now.functions[function]; f != nil && f.counts[0] > 0 {
		for id, state := range f.calls {
			if !state.recorded {
				waiting = append(waiting, waitingCall{id, state.accepted})
			}
		}
	}
	s.mu.Unlock()
	slices.SortFunc(waiting, func(a, b waitingCall) int { return cmp.Compare(a.accepted, b.accepted) })
	return waiting
}

// running returns the ids of the function's calls that have a container.
func (s *states) running(function string) (calls []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.now.functions[function]; f != nil {
		for id, state := range f.calls {
			if stateNames[state.state] == api.Running {
				calls = append(calls, id.String())
			}
		}
	}
	return calls
}

// micros is t for a change.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}
