package calls

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

// followed is how many bytes of a function's latest events are in memory while somebody follows them, for all who do. Who falls further behind
// reads on from the stream.
const followed = 256 << 10

// follower reads the events of a function as they come, once for all on this server who follow them.
type follower struct {
	cancel  context.CancelFunc
	readers int           // guarded by Store.mu
	started chan struct{} // closed when first is set, or err

	mu    sync.Mutex
	first uint64 // the sequence from which on lines holds all
	lines []logLine
	bytes int
	more  chan struct{} // closed and replaced when there are more lines, closed when it has ended
	err   error         // why it has ended
}

// logLine is one event, as it is stored.
type logLine struct {
	sequence uint64
	call     string
	data     []byte
}

// follow returns the function's follower, once it has started. Call leave, once: the last one ends it.
func (s *Store) follow(ctx context.Context, function string) (f *follower, leave func(), err error) {
	s.mu.Lock()
	f = s.followers[function]
	if f == nil {
		if s.running.Err() != nil {
			s.mu.Unlock()
			return nil, nil, unavailable(s.running.Err())
		}
		running, cancel := context.WithCancel(s.running)
		made := &follower{cancel: cancel, started: make(chan struct{}), more: make(chan struct{})}
		f, s.followers[function] = made, made
		s.background.Go(func() { made.end(made.run(running, s, function)) })
	}
	f.readers++
	s.mu.Unlock()
	leave = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if f.readers--; f.readers == 0 {
			f.cancel()
			if s.followers[function] == f {
				delete(s.followers, function)
			}
		}
	}
	select {
	case <-f.started:
		return f, leave, nil
	case <-ctx.Done():
		leave()
		return nil, nil, context.Cause(ctx)
	}
}

// unfollow ends the follower of a function that was removed.
func (s *Store) unfollow(function string) {
	s.mu.Lock()
	f := s.followers[function]
	delete(s.followers, function)
	s.mu.Unlock()
	if f != nil {
		f.end(functionRemoved(nil))
		f.cancel()
	}
}

// followWait is how long one request for the next event is left with JetStream, and followRetry the pause after one that failed.
const (
	followWait  = 30 * time.Second
	followRetry = time.Second
)

// run follows the events until ctx ends, through whatever happens to JetStream meanwhile.
func (f *follower) run(ctx context.Context, s *Store, function string) error {
	stream, err := s.events(ctx, function)
	if err != nil {
		return err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return unavailable(err)
	}
	from := info.State.LastSeq + 1
	f.mu.Lock()
	f.first = from
	f.mu.Unlock()
	close(f.started)
	for {
		from, err = f.read(ctx, s, stream, from)
		if ctx.Err() != nil {
			return unavailable(context.Cause(ctx))
		}
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return functionRemoved(err)
		}
		s.log.Debug("events are asked for anew", "function", function, "error", err)
		select {
		case <-time.After(followRetry):
		case <-ctx.Done():
		}
	}
}

func functionRemoved(err error) error {
	return api.Wrap(api.NotFound, err, "the function was removed")
}

// read adds the events from the sequence on until there is an error. It returns the sequence to go on with.
func (f *follower) read(ctx context.Context, s *Store, stream jetstream.Stream, from uint64) (uint64, error) {
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		InactiveThreshold: 2 * followWait,
		Replicas:          1,
	})
	if err != nil {
		return from, err
	}
	defer s.endConsumer(ctx, stream, consumer)
	for {
		one, cancel := context.WithTimeout(ctx, followWait)
		page, err := consumer.Fetch(1, jetstream.FetchContext(one))
		n := 0
		for err == nil {
			was := n
			for msg := range page.Messages() {
				meta, err := msg.Metadata()
				if err != nil {
					continue // it is no event
				}
				f.add(logLine{meta.Sequence.Stream, callOf(msg.Subject()), msg.Data()})
				from = meta.Sequence.Stream + 1
				n++
			}
			if err = page.Error(); err != nil || n == was {
				break
			}
			page, err = consumer.FetchNoWait(pageMessages) // what has come with it
		}
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return from, err
		}
	}
}

// callOf returns the call's id in a subject of which it is the last token.
func callOf(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }

// begin is the sequence from which on it has all, or will have.
func (f *follower) begin() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.first
}

func (f *follower) add(line logLine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = append(f.lines, line)
	f.bytes += len(line.data)
	for f.bytes > followed && len(f.lines) > 1 {
		f.bytes -= len(f.lines[0].data)
		f.lines[0] = logLine{}
		f.lines = f.lines[1:]
		f.first = f.lines[0].sequence
	}
	if f.err == nil {
		close(f.more)
		f.more = make(chan struct{})
	}
}

// end tells all who follow that no more will come. The first error counts.
func (f *follower) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
		close(f.more)
	}
	select {
	case <-f.started:
	default:
		close(f.started)
	}
}

// view is what a follower has for one reader.
type view struct {
	line  []byte          // the next one, if there is one
	upTo  uint64          // the sequence up to which it has looked
	first uint64          // if not 0: lines before it are in the stream only
	more  <-chan struct{} // without a line: closed when there may be one
}

// after looks for the next line after the sequence that is of the call, if call is not empty. The error is why there will be none.
func (f *follower) after(sequence uint64, call string) (view, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if sequence+1 < f.first {
		return view{upTo: sequence, first: f.first}, nil
	}
	i, _ := slices.BinarySearchFunc(f.lines, sequence, func(l logLine, sequence uint64) int {
		if l.sequence <= sequence {
			return -1
		}
		return 1
	})
	for _, line := range f.lines[i:] {
		sequence = line.sequence
		if call == "" || line.call == call {
			return view{line: line.data, upTo: sequence}, nil
		}
	}
	return view{upTo: sequence, more: f.more}, f.err
}
