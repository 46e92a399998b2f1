// Command fail writes a line to standard error and exits with the status that is its argument, 3 if it has none.
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
)

func main() { os.Exit(run(os.Args[1:], os.Stderr)) }

func run(args []string, stderr io.Writer) int {
	status := 3
	if len(args) > 0 {
		n, err := strconv.ParseUint(args[0], 10, 8)
		if err != nil {
			fmt.Fprintf(stderr, "fail: %q is no exit status from 0 to 255\n", args[0])
			return 2
		}
		status = int(n)
	}
	fmt.Fprintf(stderr, "failing with exit status %d\n", status)
	return status
}
