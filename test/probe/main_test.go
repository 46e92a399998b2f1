package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestCommands(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args   []string
		stdin  string
		status int
		stdout string
		stderr string
	}{
		"cat copies":                {[]string{"cat"}, "a\x00\xffb", 0, "a\x00\xffb", ""},
		"big has its size":          {[]string{"big", "5"}, "", 0, "xxxxx", ""},
		"streams has three results": {[]string{"streams", "4"}, "", 4, "this is standard output\n", "this is standard error\n"},
		"streams may succeed":       {[]string{"streams", "0"}, "", 0, "this is standard output\n", "this is standard error\n"},
		"eat ends":                  {[]string{"eat", "2"}, "", 0, "2 MB\n", ""},
		"nothing is refused":        {nil, "", 2, "", "probe: \"\" is not something that it can do\n"},
		"the unknown is refused":    {[]string{"sing"}, "", 2, "", "probe: \"sing\" is not something that it can do\n"},
		"a wrong number is refused": {[]string{"big", "x"}, "", 2, "", "probe: \"x\" is no number\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			if status := run(test.args, strings.NewReader(test.stdin), &stdout, &stderr); status != test.status {
				t.Errorf("the status is %d, want %d", status, test.status)
			}
			if stdout.String() != test.stdout {
				t.Errorf("standard output is %q, want %q", stdout.String(), test.stdout)
			}
			if stderr.String() != test.stderr {
				t.Errorf("standard error is %q, want %q", stderr.String(), test.stderr)
			}
		})
	}
}

func TestFilesShowsTheStandardStreams(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	if status := run([]string{"files"}, nil, &stdout, &stderr); status != 0 {
		t.Fatalf("the status is %d: %s", status, &stderr)
	}
	for _, start := range []string{"0 ", "1 ", "2 "} {
		if !strings.HasPrefix(stdout.String(), start) && !strings.Contains(stdout.String(), "\n"+start) {
			t.Errorf("no descriptor %sin %q", start, stdout.String())
		}
	}
}

func TestLeaveTellsWhatWasLeft(t *testing.T) {
	t.Parallel()
	for range 2 {
		var stdout, stderr bytes.Buffer
		if status := run([]string{"leave"}, nil, &stdout, &stderr); status != 0 {
			t.Fatalf("the status is %d: %s", status, &stderr)
		}
		left := filepath.Join("/tmp", "left-by-"+strconv.Itoa(os.Getpid()))
		t.Cleanup(func() { _ = os.Remove(left) })
		if _, err := os.Stat(left); err != nil {
			t.Error(err)
		}
		host, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		if start := host + " " + strconv.Itoa(os.Getpid()); !strings.HasPrefix(stdout.String(), start) {
			t.Errorf("%q does not start with %q", &stdout, start)
		}
	}
}

func TestFindLooksIntoFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{"a": "it is here", "b/c": "here too", "d": "nothing"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var stdout bytes.Buffer
	if err := findIn(dir, []byte("here"), &stdout); err != nil {
		t.Fatal(err)
	}
	if want := dir + "/a\n" + dir + "/b/c\n"; stdout.String() != want {
		t.Errorf("it found %q, want %q", stdout.String(), want)
	}
}
