package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func tty(_ int, stdin io.Reader, stdout, stderr io.Writer) error {
	words := []any{"isatty"}
	for fd := range 3 {
		_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		words = append(words, err == nil)
	}
	fmt.Fprintln(stdout, words...)
	lines := bufio.NewScanner(stdin)
	for lines.Scan() {
		fmt.Fprintln(stderr, "got", lines.Text())
	}
	return lines.Err()
}

func awaitSignal(seconds int, _ io.Reader, stdout, stderr io.Writer) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	signal.Reset(syscall.SIGURG) // the Go runtime's own
	fmt.Fprintln(stdout, "ready")
	select {
	case s := <-signals:
		number := s.(syscall.Signal)
		fmt.Fprintf(stderr, "signal %d\n", number)
		return status(128 + int(number))
	case <-time.After(time.Duration(seconds) * time.Second):
		return nil
	}
}

func ready(_ int, stdin io.Reader, stdout, _ io.Writer) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	fmt.Fprintln(stdout, "ready")
	<-signals
	_, err := io.Copy(stdout, stdin)
	return err
}

func confined(_ int, _ io.Reader, stdout, _ io.Writer) error {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "Cap") || strings.HasPrefix(line, "NoNewPrivs") {
			fmt.Fprint(stdout, strings.ReplaceAll(line, "\t", " "))
		}
	}
	for _, file := range []string{"/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max"} { // version 1, 2
		most, err := os.ReadFile(file)
		if err == nil {
			_, err := fmt.Fprintf(stdout, "pids.max: %s", most)
			return err
		}
	}
	return errors.New("no control group has a limit of processes")
}
