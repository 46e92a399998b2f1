//go:build integration

package test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// letters returns the dead letters of the function's calls.
func (f *function) letters(t *testing.T) []api.DeadLetter {
	t.Helper()
	letters, err := f.on.DeadLetters(t.Context(), f.Name)
	require.NoError(t, err)
	return letters
}

func TestDeadLettersOutliveFuncdAndAreRequeued(t *testing.T) {
	t.Parallel()
	o := beside("dead")
	o.config += "limits {\n  retry_pause = \"100ms\"\n}\n"
	own := startOwn(t, "dead", o)
	f := own.create(t, label(program("funcd/fail", "3"), "funcd.warm", "0", "funcd.retries", "1"))
	call := f.call(t, "the payload")
	out := f.wait(t, call)
	require.Equal(t, "exit status 3\n", out.body)
	require.Equal(t, http.StatusInternalServerError, f.sync(t, "waited for").status)
	require.NoError(t, own.kill())
	o.http = strings.TrimPrefix(own.url, "http://")
	own = startOwn(t, "dead", o)
	f.on = own

	letters := f.letters(t)
	require.Len(t, letters, 1, "not the one that was waited for")
	require.Equal(t, call, letters[0].CallID)
	require.Equal(t, f.Name, letters[0].Function)
	require.Equal(t, 2, letters[0].Attempts)
	require.Equal(t, 3, letters[0].ExitCode)
	require.Equal(t, "exit status 3", letters[0].Message)
	letter, err := own.DeadLetter(t.Context(), call)
	require.NoError(t, err)
	require.Equal(t, "the payload", string(letter.Payload))
	require.Contains(t, letter.Env, "REQUEST_METHOD=POST")

	again, err := own.Requeue(t.Context(), call)
	require.NoError(t, err)
	require.NotEqual(t, call, again)
	require.Equal(t, "exit status 3\n", f.wait(t, again).body)
	require.Equal(t, 2, attempts(f.eventsOf(t, again, api.Failed)))
	eventually(t, "the letter of the new call", func() bool {
		letters = f.letters(t)
		return len(letters) == 1 && letters[0].CallID == again
	})
	_, err = own.Requeue(t.Context(), call)
	require.EqualError(t, err, "no such dead letter: "+call)
	require.NoError(t, own.RemoveDeadLetter(t.Context(), again))
	require.Empty(t, f.letters(t))

	f.call(t, "")
	eventually(t, "another letter", func() bool { return len(f.letters(t)) == 1 })
	f.removeEnded(t)
	letters, err = own.DeadLetters(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, letters, "they go with their function")
}
