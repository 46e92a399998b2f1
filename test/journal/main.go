// Command journal is the function of the fault suite. It reads a number and a time in milliseconds, tells an address (its argument,
// unix:PATH or tcp:HOST:PORT) that the number has started, waits, tells it what comes next, and prints that.
package main

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: journal ADDRESS")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "journal:", err)
		os.Exit(1)
	}
}

// run leaves a trace outside of all that can be killed: each line is answered when it is written down, and nothing is done before.
func run(address string, stdin io.Reader, stdout io.Writer) error {
	var number, milliseconds int
	if _, err := fmt.Fscan(stdin, &number, &milliseconds); err != nil {
		return err
	}
	network, target, _ := strings.Cut(address, ":")
	conn, err := net.Dial(network, target)
	if err != nil {
		return err
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	tell := func(format string, values ...any) error {
		if _, err := fmt.Fprintf(conn, format+"\n", values...); err != nil {
			return err
		}
		_, err := answers.ReadString('\n')
		return err
	}
	if err := tell("start %d", number); err != nil {
		return err
	}
	time.Sleep(time.Duration(milliseconds) * time.Millisecond)
	text := rand.Text()
	if err := tell("wrote %d %s", number, text); err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, text)
	return err
}
