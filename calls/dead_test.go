package calls

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// bury makes a dead letter of the call of this number, with so many bytes of payload.
func bury(t *testing.T, s *Store, function string, n, size int) *api.Call {
	t.Helper()
	call := newCall(function, n)
	call.Payload = []byte(strings.Repeat("x", size))
	rec := newRecord(n, api.Failed)
	rec.Message, rec.ExitCode, rec.Attempts = "exit status 3", 3, 2
	rec.Started, rec.Ended = rec.Accepted.Add(time.Second), rec.Accepted.Add(2*time.Second)
	require.NoError(t, s.Bury(t.Context(), call, rec))
	return call
}

func letters(t *testing.T, s *Store, account, function string) []string {
	t.Helper()
	list := []string{}
	require.NoError(t, s.DeadLetters(t.Context(), account, function, func(l api.DeadLetter) error {
		require.Nil(t, l.Payload)
		require.Nil(t, l.Env)
		list = append(list, fmt.Sprintf("%s %d %d %s", l.CallID[len(l.CallID)-2:], l.Size, l.Attempts, l.Message))
		return nil
	}))
	return list
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, Config{Dir: dir})
	require.Empty(t, letters(t, s, "acme", ""))
	first := bury(t, s, "f", 1, 1<<20)
	bury(t, s, "g", 2, 0)
	s.Close()
	s = openStore(t, Config{Dir: dir})
	require.Equal(t, []string{"01 1048576 3 exit status 3", "02 0 3 exit status 3"}, letters(t, s, "acme", ""))
	require.Equal(t, []string{"02 0 3 exit status 3"}, letters(t, s, "acme", "g"))
	require.Empty(t, letters(t, s, "umbra", ""))
	call, letter, _, err := s.DeadLetter(t.Context(), "acme", first.ID)
	require.NoError(t, err)
	require.Equal(t, first, call)
	require.Equal(t, first.Payload, letter.Payload)
	require.Equal(t, []string(first.Env), letter.Env)
	require.Equal(t, "hello", letter.Function)
	require.Equal(t, 3, letter.ExitCode)
	require.True(t, first.Accepted.Equal(letter.Created.Time))
	require.True(t, first.Accepted.Add(time.Second).Equal(letter.Started.Time))
	require.True(t, first.Accepted.Add(2*time.Second).Equal(letter.Ended.Time))

	require.NoError(t, s.RemoveFunction(t.Context(), "f"))
	require.Equal(t, []string{"02 0 3 exit status 3"}, letters(t, s, "acme", ""))
	_, _, _, err = s.DeadLetter(t.Context(), "acme", first.ID)
	requireCode(t, api.NotFound, err)
	for _, wrong := range []func() error{
		func() error { _, _, _, err := s.DeadLetter(t.Context(), "acme", "*"); return err },
		func() error { _, _, _, err := s.DeadLetter(t.Context(), "*", first.ID); return err },
		func() error { return s.DeadLetters(t.Context(), "acme", ">", nil) },
		func() error { return s.DeadLetters(t.Context(), "a.b", "", nil) },
	} {
		requireCode(t, api.Invalid, wrong())
	}
	require.ErrorIs(t, s.DeadLetters(t.Context(), "acme", "", func(api.DeadLetter) error { return context.Canceled }), context.Canceled)
}

func TestDeadLettersAreBounded(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{DeadCalls: 2})
	for n := range 4 {
		bury(t, s, "f", n, 1)
	}
	require.Equal(t, []string{"02 1 3 exit status 3", "03 1 3 exit status 3"}, letters(t, s, "acme", ""), "the oldest make room")

	s = openStore(t, Config{DeadBytes: 3 << 20})
	for n := range 4 {
		bury(t, s, "f", n, 1<<20)
	}
	require.Equal(t, []string{"02 1048576 3 exit status 3", "03 1048576 3 exit status 3"}, letters(t, s, "acme", ""))

	s = openStore(t, Config{DeadTime: time.Second})
	bury(t, s, "f", 1, 1)
	require.Eventually(t, func() bool { return len(letters(t, s, "acme", "")) == 0 }, patience, 10*time.Millisecond)
}

func TestLetterIsNotThereAgainAfterAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, Config{Dir: dir})
	call := bury(t, s, "f", 1, 1)
	// Once more by a server that has taken the call over, after JetStream's time of duplicates, which is in the message's id.
	data, err := encodeCall(call)
	require.NoError(t, err)
	_, err = s.js.Publish(t.Context(), deadSubject("acme", "f", call.ID), data, unlessThere)
	require.Error(t, err)
	_, _, version, err := s.DeadLetter(t.Context(), "acme", call.ID)
	require.NoError(t, err)
	require.NoError(t, s.RemoveLetter(t.Context(), "acme", version))
	again := openStore(t, Config{Dir: killed(t, dir)})
	require.Empty(t, letters(t, again, "acme", ""))
}
