package calls

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

var errEnough = errors.New("enough")

// reader follows a function's events. It tells when it waits for more, and what Events returns.
type reader struct {
	waits chan struct{} // has room for one
	words chan string   // each event as "call:message"
	ended chan error
}

func read(ctx context.Context, s *Store, function string, q api.EventQuery) *reader {
	r := &reader{waits: make(chan struct{}, 1), words: make(chan string, 10_000), ended: make(chan error, 1)}
	q.Follow = true
	go func() {
		r.ended <- s.Events(ctx, function, q, func(event []byte) error {
			if event == nil {
				select {
				case r.waits <- struct{}{}:
				default:
				}
				return nil
			}
			return decoded(func(e api.Event) error {
				r.words <- e.CallID + ":" + e.Message
				return nil
			})(event)
		})
	}()
	return r
}

// take returns the next n events.
func (r *reader) take(t *testing.T, n int) []string {
	t.Helper()
	words := make([]string, n)
	for i := range words {
		select {
		case words[i] = <-r.words:
		case err := <-r.ended:
			require.FailNow(t, "it has ended", "after %d of %d: %v", i, n, err)
		case <-time.After(patience):
			require.FailNow(t, "nothing came", "after %d of %d", i, n)
		}
	}
	return words
}

func (r *reader) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(patience):
		require.FailNow(t, "it does not end")
		return nil
	}
}

func consumersOf(t *testing.T, s *Store, function string) int {
	t.Helper()
	stream, err := s.events(t.Context(), function)
	require.NoError(t, err)
	info, err := stream.Info(t.Context())
	require.NoError(t, err)
	return info.State.Consumers
}

func TestAllWhoFollowAFunctionShareOneReader(t *testing.T) {
	t.Parallel()
	const readers = 50
	s := openStore(t, Config{})
	logged(t, s, "f", "a:1", "b:1", "a:2")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	all := make([]*reader, readers)
	for i := range all {
		all[i] = read(ctx, s, "f", []api.EventQuery{{Tail: -1}, {Tail: 1}, {Tail: 0}, {Tail: -1, Call: "a"}, {Tail: 1, Call: "b"}}[i%5])
	}
	for _, r := range all {
		within(t, r.waits)
	}
	require.Equal(t, 1, consumersOf(t, s, "f"))
	logged(t, s, "f", "b:2", "a:3")
	for i, r := range all {
		want := [][]string{{"a:1", "b:1", "a:2", "b:2", "a:3"}, {"a:2", "b:2", "a:3"}, {"b:2", "a:3"}, {"a:1", "a:2", "a:3"}, {"b:1", "b:2"}}[i%5]
		require.Equal(t, want, r.take(t, len(want)), "reader %d", i)
	}
	cancel(errEnough)
	for _, r := range all {
		require.ErrorIs(t, r.end(t), errEnough)
		require.Empty(t, r.words)
	}
	require.Eventually(t, func() bool { return consumersOf(t, s, "f") == 0 }, patience, time.Millisecond, "it goes with the last")
	require.Empty(t, s.followers)

	// And is made anew for the next.
	r := read(t.Context(), s, "f", api.EventQuery{Tail: 1})
	require.Equal(t, []string{"a:3"}, r.take(t, 1))
	logged(t, s, "f", "a:4")
	require.Equal(t, []string{"a:4"}, r.take(t, 1))
	require.NoError(t, s.RemoveFunction(t.Context(), "f"))
	requireCode(t, api.NotFound, r.end(t))
}

// TestSlowReadersMissNothing: what is in memory is bounded, so who is slow reads on from the stream.
func TestSlowReadersMissNothing(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]string{"all": "", "one call's": "a"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, Config{})
			logged(t, s, "f", "a:first")
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			fast := read(ctx, s, "f", api.EventQuery{Tail: -1, Call: call})
			require.Equal(t, []string{"a:first"}, fast.take(t, 1))

			// Twice as much as is kept in memory comes while the slow one is busy with its first.
			const events = 600
			words := make([]string, events)
			for i := range words {
				words[i] = fmt.Sprintf("%c:%d%s", "ab"[i%2], i, strings.Repeat(".", 2*followed/events))
			}
			var slow []string
			err := s.Events(ctx, "f", api.EventQuery{Tail: -1, Call: call, Follow: true}, decoded(func(e api.Event) error {
				if e.Message == "first" {
					logged(t, s, "f", words...)
					return nil
				}
				slow = append(slow, e.CallID+":"+e.Message)
				if e.Message == "last" {
					return errEnough
				}
				if len(slow) == 100 {
					logged(t, s, "f", "a:last") // while it is behind
				}
				return nil
			}))
			require.ErrorIs(t, err, errEnough)
			want := append(words, "a:last")
			if call != "" {
				want = slices.DeleteFunc(want, func(word string) bool { return word[0] == 'b' })
			}
			require.Equal(t, want, slow, "in their order, without a gap")
			require.Equal(t, want, fast.take(t, len(want)))
			f := s.followers["f"]
			f.mu.Lock()
			defer f.mu.Unlock()
			require.LessOrEqual(t, f.bytes, followed)
			require.Greater(t, f.bytes, followed/2)
		})
	}
}

func TestFollowersEndWithTheStore(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	r := read(t.Context(), s, "f", api.EventQuery{Tail: -1})
	within(t, r.waits)
	s.Close()
	requireCode(t, api.Unavailable, r.end(t))
	requireCode(t, api.Unavailable, s.Events(t.Context(), "f", api.EventQuery{Follow: true}, func([]byte) error { return nil }))
}

func TestFollowersOnOtherServers(t *testing.T) {
	t.Parallel()
	stores := openCluster(t, 2)
	a, b := stores[0], stores[1]
	logged(t, a, "f", "a:1")
	r := read(t.Context(), b, "f", api.EventQuery{Tail: -1})
	require.Equal(t, []string{"a:1"}, r.take(t, 1))
	logged(t, a, "f", "a:2", "b:2")
	require.Equal(t, []string{"a:2", "b:2"}, r.take(t, 2))
	require.NoError(t, a.RemoveFunction(t.Context(), "f"))
	requireCode(t, api.NotFound, r.end(t))
}

// TestFollowingBeginsWithoutAGap: events come all the time while readers begin.
func TestFollowingBeginsWithoutAGap(t *testing.T) {
	t.Parallel()
	const events = 2000
	s := openStore(t, Config{})
	logged(t, s, "f", "a:0")
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := 1; i <= events; i++ {
			s.Log(t.Context(), "f", api.Event{CallID: "a", Message: fmt.Sprint(i)})
		}
	}()
	for i := range 20 {
		q := []api.EventQuery{{Tail: -1}, {Tail: 10}, {Tail: -1, Call: "a"}, {Tail: 10, Call: "a"}}[i%4]
		ctx, cancel := context.WithCancel(t.Context())
		last := -1
		q.Follow = true
		err := s.Events(ctx, "f", q, decoded(func(e api.Event) error {
			var n int
			_, err := fmt.Sscan(e.Message, &n)
			require.NoError(t, err)
			require.True(t, n == last+1 || last == -1, "%d after %d, %+v", n, last, q)
			if last = n; n >= min(events, 100*(i+1)) {
				return errEnough
			}
			return nil
		}))
		cancel()
		require.ErrorIs(t, err, errEnough)
	}
	within(t, written)
}
