package calls

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// logged logs one event for each word, "call:message", and waits until the function's log has ended with them.
func logged(t *testing.T, s *Store, function string, words ...string) {
	t.Helper()
	before := lastEvent(t, s, function)
	for _, word := range words {
		call, text, _ := strings.Cut(word, ":")
		s.Log(t.Context(), function, api.Event{Time: api.Timestamp{Time: time.Unix(1, 0).UTC()}, Event: api.Called, CallID: call, Message: text})
	}
	require.Eventually(t, func() bool { return lastEvent(t, s, function) == before+uint64(len(words)) }, patience, time.Millisecond)
}

func lastEvent(t *testing.T, s *Store, function string) uint64 {
	stream, err := s.events(t.Context(), function)
	require.NoError(t, err)
	info, err := stream.Info(t.Context())
	require.NoError(t, err)
	return info.State.LastSeq
}

// events returns what Events yields, each as "call:message".
func events(t *testing.T, s *Store, function string, q api.EventQuery) []string {
	t.Helper()
	words := []string{}
	require.NoError(t, s.Events(t.Context(), function, q, decoded(func(e api.Event) error {
		words = append(words, e.CallID+":"+e.Message)
		return nil
	})))
	return words
}

// decoded is yield for Events.
func decoded(yield func(api.Event) error) func([]byte) error {
	return func(event []byte) error {
		if event == nil {
			return nil
		}
		var e api.Event
		if err := json.Unmarshal(event, &e); err != nil {
			return err
		}
		return yield(e)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	logged(t, s, "f", "a:1", "b:1", "a:2", "b:2", "a:3")
	logged(t, s, "g", "a:9")
	for name, c := range map[string]struct {
		q    api.EventQuery
		want []string
	}{
		"all, oldest first":           {api.EventQuery{Tail: -1}, []string{"a:1", "b:1", "a:2", "b:2", "a:3"}},
		"the last two":                {api.EventQuery{Tail: 2}, []string{"b:2", "a:3"}},
		"as many as there are":        {api.EventQuery{Tail: 5}, []string{"a:1", "b:1", "a:2", "b:2", "a:3"}},
		"more than there are":         {api.EventQuery{Tail: 100}, []string{"a:1", "b:1", "a:2", "b:2", "a:3"}},
		"none":                        {api.EventQuery{Tail: 0}, []string{}},
		"one call's":                  {api.EventQuery{Call: "b", Tail: -1}, []string{"b:1", "b:2"}},
		"the last two of one call":    {api.EventQuery{Call: "a", Tail: 2}, []string{"a:2", "a:3"}},
		"the last of one call":        {api.EventQuery{Call: "b", Tail: 1}, []string{"b:2"}},
		"more than the call has":      {api.EventQuery{Call: "b", Tail: 9}, []string{"b:1", "b:2"}},
		"none of one call":            {api.EventQuery{Call: "a", Tail: 0}, []string{}},
		"of a call that has none":     {api.EventQuery{Call: "c", Tail: -1}, []string{}},
		"the last of one that has no": {api.EventQuery{Call: "c", Tail: 3}, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, events(t, s, "f", c.q))
		})
	}
	require.Empty(t, events(t, s, "h", api.EventQuery{Tail: -1}), "a function without events")
	require.Empty(t, events(t, s, "i", api.EventQuery{Tail: 3}))
}

func TestAnEventComesAsItWas(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	event := api.Event{
		Time: api.Timestamp{Time: time.Unix(1, 5e6).UTC()}, Event: string(api.Failed), CallID: "c",
		ShortStdin: "in\n", ShortStdout: "\x00out", ShortStderr: "ä", Message: "exit status 3",
	}
	s.Log(t.Context(), "f", event)
	require.Eventually(t, func() bool { return lastEvent(t, s, "f") == 1 }, patience, time.Millisecond)
	require.NoError(t, s.Events(t.Context(), "f", api.EventQuery{Tail: -1}, decoded(func(e api.Event) error {
		require.Equal(t, event, e)
		return nil
	})))
}

func TestFollowEvents(t *testing.T) {
	t.Parallel()
	errEnough := errors.New("enough")
	for name, c := range map[string]struct {
		q    api.EventQuery
		want []string
	}{
		"all":                  {api.EventQuery{Tail: -1}, []string{"a:1", "b:1", "a:2", "b:2", "a:3", "b:3", "a:4"}},
		"the last":             {api.EventQuery{Tail: 1}, []string{"a:2", "b:2", "a:3", "b:3", "a:4"}},
		"one call's":           {api.EventQuery{Call: "a", Tail: -1}, []string{"a:1", "a:2", "a:3", "a:4"}},
		"the last of one call": {api.EventQuery{Call: "a", Tail: 1}, []string{"a:2", "a:3", "a:4"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, Config{})
			logged(t, s, "f", "a:1", "b:1", "a:2")
			q := c.q
			q.Follow = true
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			var got []string
			err := s.Events(ctx, "f", q, decoded(func(e api.Event) error {
				got = append(got, e.CallID+":"+e.Message)
				switch got[len(got)-1] {
				case "a:2": // what was stored has been told
					logged(t, s, "f", "b:2", "a:3", "b:3", "a:4")
				case "a:4":
					cancel(errEnough)
				}
				return nil
			}))
			require.ErrorIs(t, err, errEnough)
			require.Equal(t, c.want, got)
		})
	}
}

func TestFollowWithoutTheStored(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]string{"all": "", "one call's": "a"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, Config{})
			logged(t, s, "f", "a:old", "a:old")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			first := make(chan string, 1)
			done := make(chan error, 1)
			go func() {
				done <- s.Events(ctx, "f", api.EventQuery{Call: call, Follow: true}, decoded(func(e api.Event) error {
					first <- e.Message
					cancel()
					return nil
				}))
			}()
			// When it has begun to follow can't be seen from outside, so events come until one is told.
			require.Eventually(t, func() bool {
				s.Log(t.Context(), "f", api.Event{CallID: "a", Message: "new"})
				return len(first) == 1
			}, patience, 5*time.Millisecond)
			require.Equal(t, "new", <-first)
			require.ErrorIs(t, <-done, context.Canceled)
		})
	}
}

func TestFollowersEndWithTheirContext(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := s.Events(ctx, "f", api.EventQuery{Tail: -1, Follow: true}, func([]byte) error { return nil })
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestYieldsErrorEndsEvents(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	logged(t, s, "f", "a:1", "a:2")
	errGone := errors.New("gone")
	for _, q := range []api.EventQuery{{Tail: -1}, {Tail: 1}, {Tail: 1, Call: "a"}, {Tail: -1, Follow: true}} {
		calls := 0
		err := s.Events(t.Context(), "f", q, func(event []byte) error {
			if event == nil {
				return nil
			}
			calls++
			return errGone
		})
		require.ErrorIs(t, err, errGone)
		require.Equal(t, 1, calls)
	}
}

// numbered returns n events of 300 bytes and more, the first of which has the number from.
func numbered(from, n int) []string {
	words := make([]string, n)
	for i := range words {
		words[i] = "a:" + time.Duration(from+i).String() + strings.Repeat(".", 300)
	}
	return words
}

func TestALargeLogDropsItsOldest(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{LogBytes: 64 << 10})
	words := numbered(0, 1000)
	logged(t, s, "f", words...)
	got := events(t, s, "f", api.EventQuery{Tail: -1})
	require.Greater(t, len(got), 50)
	require.Less(t, len(got), 300)
	require.Equal(t, words[len(words)-len(got):], got, "the newest are there, without a gap")
	require.Equal(t, words[990:], events(t, s, "f", api.EventQuery{Tail: 10}))
	require.Equal(t, got, events(t, s, "f", api.EventQuery{Tail: 900}), "more than are left")
	require.Equal(t, words[990:], events(t, s, "f", api.EventQuery{Call: "a", Tail: 10}))
}

func TestReadingALogThatDropsItsOldest(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{LogBytes: 600 << 10})
	const stored = 1000 // more than are sent ahead of the reader
	logged(t, s, "f", numbered(0, stored)...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	read := 0
	err := s.Events(ctx, "f", api.EventQuery{Tail: -1}, func([]byte) error {
		if read++; read == 1 {
			// Fewer and larger events take the place of those that are still to be read.
			logged(t, s, "f", "b:"+strings.Repeat("x", 250<<10), "b:"+strings.Repeat("x", 250<<10))
		}
		return nil
	})
	require.NoError(t, err, "the end of the log is the end, whatever it held at first")
	require.Less(t, read, stored)
}

// What a client's connection takes is up to its own time for writing.
func TestAReaderMayTakeLongerThanAPageMayTake(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	var words []string
	for i := range pageMessages {
		words = append(words, "call:"+strconv.Itoa(i))
	}
	logged(t, s, "f", words...)
	stream, err := s.events(t.Context(), "f")
	require.NoError(t, err)
	p, err := s.pagesOf(stream, logSubject("f", "*"))
	require.NoError(t, err)
	defer p.close()
	p.time = 300 * time.Millisecond
	got := 0
	_, err = p.next(t.Context(), 1, func(uint64, []byte) (bool, error) {
		if got++; got%30 == 1 {
			<-time.After(2 * p.time)
		}
		return true, nil
	})
	require.NoError(t, err)
	require.Equal(t, pageMessages, got)
}
