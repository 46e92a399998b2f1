// Command sleep sleeps for the seconds that are its argument, which may be a fraction, and prints how long it slept. A signal ends it early:
// it prints the signal's name and exits with 128 and the signal's number. With -ignore it prints the name and sleeps on.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// names are the signals that a function may be stopped with.
var names = map[os.Signal]string{
	syscall.SIGHUP:  "SIGHUP",
	syscall.SIGINT:  "SIGINT",
	syscall.SIGQUIT: "SIGQUIT",
	syscall.SIGTERM: "SIGTERM",
	syscall.SIGUSR1: "SIGUSR1",
	syscall.SIGUSR2: "SIGUSR2",
}

func main() {
	signals := make(chan os.Signal, 1)
	for s := range names {
		signal.Notify(signals, s)
	}
	os.Exit(run(os.Args[1:], signals, os.Stdout, os.Stderr))
}

func run(args []string, signals <-chan os.Signal, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("sleep", flag.ContinueOnError)
	flags.SetOutput(stderr)
	ignore := flags.Bool("ignore", false, "sleep on when a signal comes")
	if flags.Parse(args) != nil {
		return 2
	}
	seconds, err := strconv.ParseFloat(flags.Arg(0), 64)
	if err != nil || flags.NArg() != 1 {
		fmt.Fprintln(stderr, "usage: sleep [-ignore] SECONDS")
		return 2
	}
	timer := time.After(time.Duration(seconds * float64(time.Second)))
	for {
		select {
		case <-timer:
			fmt.Fprintf(stdout, "slept for %v seconds\n", seconds)
			return 0
		case s := <-signals:
			fmt.Fprintf(stdout, "got %s\n", names[s])
			fmt.Fprintf(stderr, "got %s\n", names[s])
			if !*ignore {
				return 128 + int(s.(syscall.Signal))
			}
		}
	}
}
