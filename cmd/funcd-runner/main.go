// funcd-runner is pid 1 in every function's container. See package runner.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/runner"
)

func main() {
	os.Exit(run())
}

func run() int {
	if slices.Equal(os.Args[1:], []string{api.RunnerNothing}) {
		return 0
	}
	// The function's process runs as the same user. Without this it could read the runner's token out of /proc/1/environ.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "funcd-runner: prctl:", err)
		return 1
	}
	// The runner lives in the container's memory. A payload and an output of 1 MiB each are all that it ever holds.
	debug.SetMemoryLimit(8 << 20)
	// It waits far more than it works: a second thread would be woken for each call and find nothing to do.
	runtime.GOMAXPROCS(1)

	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	signal.Reset(unix.SIGURG) // the Go runtime's own

	cfg, err := runner.FromEnv(os.Environ())
	if err != nil {
		fmt.Fprintln(os.Stderr, "funcd-runner:", err)
		return 1
	}
	cfg.Stdout, cfg.Stderr = os.Stdout, os.Stderr
	status, err := runner.Run(context.Background(), cfg, signals)
	if err != nil {
		fmt.Fprintln(os.Stderr, "funcd-runner:", err)
	}
	return status
}
