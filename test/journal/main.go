// Command journal is the function of the fault suite. It reads a number, a time in milliseconds and, if it is to fail, how often, writes to a file (its
// argument, on a volume of the host) that the number has started, waits, writes there what comes next, and prints that. If the number has started no
// more often than it is to fail, it fails in place of that.
package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: journal FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "journal:", err)
		os.Exit(1)
	}
}

// run leaves a trace outside of all that can be killed: each line is in the file before it goes on.
func run(file string, stdin io.Reader, stdout io.Writer) error {
	var number, milliseconds, fails int
	if n, err := fmt.Fscan(stdin, &number, &milliseconds, &fails); n < 2 {
		return err
	}
	journal, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	defer journal.Close()
	start := fmt.Sprintf("start %d\n", number)
	if _, err := io.WriteString(journal, start); err != nil {
		return err
	}
	time.Sleep(time.Duration(milliseconds) * time.Millisecond)
	if fails > 0 {
		lines, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		starts := 0
		for line := range bytes.Lines(lines) {
			if string(line) == start {
				starts++
			}
		}
		if starts <= fails {
			return fmt.Errorf("start %d of %d that fail", starts, fails)
		}
	}
	text := rand.Text()
	if _, err := fmt.Fprintf(journal, "wrote %d %s\n", number, text); err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, text)
	return err
}
