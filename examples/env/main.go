// Command env prints what it was started with, as JSON: its arguments, environment, working directory and user.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

type environment struct {
	Args []string // with the name that it was started by
	Env  []string // NAME=value, as they came
	Dir  string
	UID  int
	GID  int
}

func main() {
	if err := run(os.Args, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "env:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	out := json.NewEncoder(stdout)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(environment{Args: args, Env: os.Environ(), Dir: dir, UID: os.Getuid(), GID: os.Getgid()})
}
