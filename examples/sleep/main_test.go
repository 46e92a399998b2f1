package main

import (
	"bytes"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestSleepLastsAsLongAsItIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		start := time.Now()
		if status := run([]string{"1.5"}, nil, &stdout, &stderr); status != 0 {
			t.Errorf("the status is %d, want 0", status)
		}
		if took := time.Since(start); took != 1500*time.Millisecond {
			t.Errorf("it slept for %v, want 1.5s", took)
		}
		if stdout.String() != "slept for 1.5 seconds\n" {
			t.Errorf("it printed %q", stdout.String())
		}
	})
}

func TestSignalEndsTheSleep(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args   []string
		signal syscall.Signal
		status int
		stdout string
	}{
		"SIGTERM":            {[]string{"1"}, syscall.SIGTERM, 143, "got SIGTERM\n"},
		"SIGUSR1":            {[]string{"1"}, syscall.SIGUSR1, 138, "got SIGUSR1\n"},
		"ignored if told so": {[]string{"-ignore", "1"}, syscall.SIGTERM, 0, "got SIGTERM\nslept for 1 seconds\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				signals := make(chan os.Signal, 1)
				signals <- test.signal
				var stdout, stderr bytes.Buffer
				if status := run(test.args, signals, &stdout, &stderr); status != test.status {
					t.Errorf("the status is %d, want %d", status, test.status)
				}
				if stdout.String() != test.stdout {
					t.Errorf("it printed %q, want %q", stdout.String(), test.stdout)
				}
			})
		})
	}
}

func TestWrongArgumentsAreRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"soon"}, {"1", "2"}, {"-loud", "1"}} {
		var stdout, stderr bytes.Buffer
		if status := run(args, nil, &stdout, &stderr); status != 2 {
			t.Errorf("%q: the status is %d, want 2", args, status)
		}
	}
}
