package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
)

func TestInputIsPrintedInUpperCase(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                 "",
		"said quietly":     "SAID QUIETLY",
		"two\nlines\n":     "TWO\nLINES\n",
		"größer, Ελλάδα 1": "GRÖßER, ΕΛΛΆΔΑ 1",
	} {
		var out bytes.Buffer
		if err := run(strings.NewReader(in), &out); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%q became %q, want %q", in, out.String(), want)
		}
	}
}

func TestAnInputThatBreaksOffIsAnError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	var out bytes.Buffer
	if err := run(iotest.ErrReader(broken), &out); !errors.Is(err, broken) {
		t.Errorf("got the error %v, want %v", err, broken)
	}
}
