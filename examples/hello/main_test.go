package main

import (
	"bytes"
	"testing"
)

func TestArgumentsAreJoined(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"none":            {nil, "\n"},
		"one":             {[]string{"HelloWorld"}, "HelloWorld\n"},
		"several":         {[]string{"Hello", "World"}, "Hello World\n"},
		"spaces are kept": {[]string{"a  b", ""}, "a  b \n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			if err := run(test.args, &out); err != nil {
				t.Fatal(err)
			}
			if out.String() != test.want {
				t.Errorf("got %q, want %q", out.String(), test.want)
			}
		})
	}
}
