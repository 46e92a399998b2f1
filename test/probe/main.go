// Command probe is the function of the integration tests for what the examples do not do. Its first argument says what:
//
//	cat              copy standard input to standard output
//	big BYTES        write as many bytes to standard output
//	streams STATUS   write a line to standard output and one to standard error, and exit with the status
//	eat MB           allocate and use as many MB of memory and print how many; 0 has no end
//	kill SIGNAL      send itself the signal of this number
//	orphan           start a child that holds the standard streams for an hour and says nothing, print its pid and exit without waiting for it
//	hold SECONDS     print "ready" and do nothing for the seconds, whatever signal comes
//	leave            print the name of the host, the own pid and what is in /tmp, in a line, and leave a file there
//	listen PORT      answer each line that comes to the port, over TCP or UDP, with the protocol and the name of the host, until one says "end"
//	dial PORT        send a line to the port of the host that standard input names, and print the answer
//	hosts            print /etc/hosts
//	fs               follow the lines of standard input: "write PATH TEXT", "read PATH" or "list DIR", and print what comes of each
//	tty              print which of the standard streams are a terminal and copy the lines of standard input to standard error, with "got" before each
//	signal SECONDS   print "ready", print the number of the first signal that comes to standard error, and exit with 128 and it; without one in the seconds with 0
//	ready            print "ready", wait for SIGUSR1, and copy standard input
//	confined         print what /proc/self/status says of capabilities and privileges, and the most processes of the control group
//	interfaces       print the network interfaces and their IPv4 addresses, a line each
//	find             print the files that hold what is on standard input, of all that it may read, and of its processes' environments
//	files            print the file descriptors that it was started with and what they are, a line each
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// commands are what can be asked for. Those that take no number ignore n.
var commands = map[string]func(n int, stdin io.Reader, stdout, stderr io.Writer) error{
	"cat":        cat,
	"big":        big,
	"streams":    streams,
	"eat":        eat,
	"kill":       kill,
	"orphan":     orphan,
	"hold":       hold,
	"leave":      leave,
	"files":      files,
	"listen":     listen,
	"interfaces": interfaces,
	"dial":       dial,
	"hosts":      hosts,
	"fs":         fs,
	"find":       find,
	"tty":        tty,
	"signal":     awaitSignal,
	"ready":      ready,
	"confined":   confined,
}

// status is an error that is to be the exit status and nothing else.
type status int

func (s status) Error() string { return "exit status " + strconv.Itoa(int(s)) }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	name, number := "", 0
	if len(args) > 0 {
		name = args[0]
	}
	if len(args) > 1 {
		var err error
		if number, err = strconv.Atoi(args[1]); err != nil {
			fmt.Fprintf(stderr, "probe: %q is no number\n", args[1])
			return 2
		}
	}
	command, ok := commands[name]
	if !ok {
		fmt.Fprintf(stderr, "probe: %q is not something that it can do\n", name)
		return 2
	}
	err := command(number, stdin, stdout, stderr)
	if d, err := time.ParseDuration(os.Getenv("LINGER")); err == nil {
		time.Sleep(d)
	}
	var exit status
	switch {
	case errors.As(err, &exit):
		return int(exit)
	case err != nil:
		fmt.Fprintf(stderr, "probe: %s\n", err)
		return 1
	}
	return 0
}

func cat(_ int, stdin io.Reader, stdout, _ io.Writer) error {
	_, err := io.Copy(stdout, stdin)
	return err
}

func big(bytes int, _ io.Reader, stdout, _ io.Writer) error {
	_, err := io.CopyN(stdout, letters{}, int64(bytes))
	return err
}

// letters is an endless text of the letter x.
type letters struct{}

func (letters) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

func streams(code int, _ io.Reader, stdout, stderr io.Writer) error {
	fmt.Fprintln(stdout, "this is standard output")
	fmt.Fprintln(stderr, "this is standard error")
	return status(code)
}

func eat(megabytes int, _ io.Reader, stdout, _ io.Writer) error {
	debug.SetGCPercent(-1) // nothing of it can be collected
	var all [][]byte
	for len(all) < megabytes || megabytes == 0 {
		one := make([]byte, 1<<20)
		for i := 0; i < len(one); i += os.Getpagesize() {
			one[i] = 1
		}
		all = append(all, one)
	}
	_, err := fmt.Fprintf(stdout, "%d MB\n", len(all))
	return err
}

func kill(signal int, _ io.Reader, _, _ io.Writer) error {
	if err := syscall.Kill(os.Getpid(), syscall.Signal(signal)); err != nil {
		return err
	}
	// The signal may come a moment later. One that does not end a process leaves this one asleep.
	time.Sleep(time.Hour)
	return nil
}

func orphan(_ int, _ io.Reader, stdout, _ io.Writer) error {
	child := exec.Command("/proc/self/exe", "kill", "0") // a signal of no effect
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := child.Start(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(stdout, child.Process.Pid)
	return err
}

func hold(seconds int, _ io.Reader, stdout, _ io.Writer) error {
	signal.Ignore()
	fmt.Fprintln(stdout, "ready")
	time.Sleep(time.Duration(seconds) * time.Second)
	return nil
}

func leave(_ int, _ io.Reader, stdout, _ io.Writer) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	const dir = "/tmp"
	if err := os.MkdirAll(dir, 0o1777); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	words := []string{host, strconv.Itoa(os.Getpid())}
	for _, entry := range entries {
		words = append(words, entry.Name())
	}
	fmt.Fprintln(stdout, strings.Join(words, " "))
	return os.WriteFile(fmt.Sprintf("%s/left-by-%d", dir, os.Getpid()), []byte("x"), 0o600)
}

func files(_ int, _ io.Reader, stdout, _ io.Writer) error {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		target, err := os.Readlink(dir + "/" + entry.Name())
		// An error is that of the descriptor that the folder was read by, and the limits of the cgroup are opened by Go itself.
		if err != nil || strings.HasPrefix(target, "/sys/fs/cgroup/") {
			continue
		}
		fmt.Fprintln(stdout, entry.Name(), target)
	}
	return nil
}

func find(_ int, stdin io.Reader, stdout, _ io.Writer) error {
	text, err := io.ReadAll(stdin)
	if err != nil {
		return err
	}
	return findIn("/", text, stdout)
}

// findIn looks into every file below root, apart from the kernel's own, of which only the processes' environments count.
func findIn(root string, text []byte, stdout io.Writer) error {
	return filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil // it may not be read, or has gone
		case entry.IsDir() && (path == "/sys" || path == "/dev" || strings.HasPrefix(path, "/proc/") && strings.Count(path, "/") > 2):
			return filepath.SkipDir
		case !entry.Type().IsRegular() || strings.HasPrefix(path, "/proc/") && filepath.Base(path) != "environ":
			return nil
		}
		if content, err := os.ReadFile(path); err == nil && bytes.Contains(content, text) {
			fmt.Fprintln(stdout, path)
		}
		return nil
	})
}
