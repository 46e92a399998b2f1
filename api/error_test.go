package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMessageOf(t *testing.T) {
	t.Parallel()
	cause := errors.New("10.0.0.1 refused")
	require.Equal(t, "away", MessageOf(fmt.Errorf("asking: %w", Wrap(Unavailable, cause, "away"))))
	require.Equal(t, "internal error", MessageOf(cause))
}

func TestCodeOf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want Code
	}{
		"no error":                  {nil, ""},
		"an error of another kind":  {io.EOF, Internal},
		"an *Error":                 {Errorf(NotFound, "x"), NotFound},
		"a wrapped *Error":          {fmt.Errorf("y: %w", Errorf(Conflict, "x")), Conflict},
		"the outer of two":          {Wrap(Unavailable, Errorf(NotFound, "x"), "y"), Unavailable},
		"one of two that are equal": {errors.Join(io.EOF, Errorf(Expired, "x")), Expired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, CodeOf(c.err))
		})
	}
}

func TestErrorText(t *testing.T) {
	t.Parallel()
	plain := Errorf(Invalid, "Name: %q is taken", "a")
	require.Equal(t, `Name: "a" is taken`, plain.Error())
	require.NoError(t, plain.Err)

	caused := Errorf(Internal, "reading: %w", io.EOF)
	require.Equal(t, "reading: EOF", caused.Message)
	require.Equal(t, "reading: EOF", caused.Error(), "the cause is said once")
	require.ErrorIs(t, caused, io.EOF)

	wrapped := Wrap(Unavailable, io.EOF, "Consul does not answer")
	require.Equal(t, "Consul does not answer", wrapped.Message, "the cause is not for the caller")
	require.Equal(t, "Consul does not answer: EOF", wrapped.Error())
	require.ErrorIs(t, wrapped, io.EOF)
}

func TestStatus(t *testing.T) {
	t.Parallel()
	for code, status := range map[Code]int{
		Internal: 500, Invalid: 400, Unauthorized: 401, Forbidden: 403, NotFound: 404, NotAllowed: 405, Conflict: 409, Expired: 410,
		TooLarge: 413, BodyTimeout: 408, Unavailable: 503, CallFailed: 500, Cancelled: 500, CallTimeout: 504, OutputTooLarge: 509, "": 500, "of a later version": 500,
	} {
		require.Equal(t, status, code.Status(), "%q", code)
	}
}

func TestCodeOfAnswer(t *testing.T) {
	t.Parallel()
	for code := range statuses {
		require.Equal(t, code, codeOf(code.Status(), string(code)))
		if code != CallFailed && code != Cancelled {
			require.Equal(t, code, codeOf(code.Status(), ""), "without a header")
			require.Equal(t, code, codeOf(code.Status(), "of a later version"))
		}
	}
	require.Equal(t, Internal, codeOf(http.StatusInternalServerError, ""), "a function is not blamed without its code")
	require.Equal(t, NotFound, codeOf(http.StatusNotFound, string(Conflict)), "a code that is not of the status")
	require.Equal(t, Internal, codeOf(http.StatusTeapot, ""))
}
