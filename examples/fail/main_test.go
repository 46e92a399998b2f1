package main

import (
	"bytes"
	"testing"
)

func TestTheArgumentIsTheStatus(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args   []string
		status int
		stderr string
	}{
		"none is 3":              {nil, 3, "failing with exit status 3\n"},
		"42":                     {[]string{"42"}, 42, "failing with exit status 42\n"},
		"0 does not fail":        {[]string{"0"}, 0, "failing with exit status 0\n"},
		"no number is refused":   {[]string{"x"}, 2, "fail: \"x\" is no exit status from 0 to 255\n"},
		"over 255 it is refused": {[]string{"256"}, 2, "fail: \"256\" is no exit status from 0 to 255\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stderr bytes.Buffer
			if status := run(test.args, &stderr); status != test.status {
				t.Errorf("the status is %d, want %d", status, test.status)
			}
			if stderr.String() != test.stderr {
				t.Errorf("standard error is %q, want %q", stderr.String(), test.stderr)
			}
		})
	}
}
