// Command hello prints its arguments, as echo does.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	_, err := fmt.Fprintln(stdout, strings.Join(args, " "))
	return err
}
