// funcd is the server and the command line of the function service.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
)

// The exit statuses of funcd.
const (
	exitOK    = 0
	exitError = 1 // what was asked for failed
	exitUsage = 2 // the command line or the configuration is wrong
)

// version is funcd's own. A release is built with -ldflags "-X main.version=…".
var version = "0.1.0-dev"

// stdio is what a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}, os.Getenv))
}

// usageError marks an error of the command line or the configuration.
type usageError struct{ error }

func run(ctx context.Context, args []string, std stdio, getenv func(string) string) int {
	root := &cobra.Command{
		Use:   "funcd",
		Short: "A function service for HashiCorp clusters",
		Long: `funcd runs Docker images as functions: each call gets a new container, scheduled by Nomad, with the request's body on stdin and
stdout as the answer. Functions are kept in Consul.

Start with:  funcd agent --dev`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(agentCommand(std, getenv), credentialCommand(std), versionCommand(std))
	// What fails before a command has begun is the command line: an unknown command, or an argument too many.
	begun := false
	root.PersistentPreRun = func(*cobra.Command, []string) { begun = true }
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(std.err, "funcd:", err)
	var usage usageError
	if errors.As(err, &usage) || !begun {
		return exitUsage
	}
	return exitError
}

func versionCommand(std stdio) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the versions of funcd and of its API",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo()
			_, err := fmt.Fprintf(std.out, "funcd %s, Func API %s, %s %s/%s %s\n", v.Version, v.APIVersion, v.GoVersion, v.Os, v.Arch, v.GitCommit)
			return err
		},
	}
}

func versionInfo() api.VersionInfo {
	v := api.VersionInfo{
		Version:    version,
		APIVersion: api.Version,
		GoVersion:  runtime.Version(),
		Os:         runtime.GOOS,
		Arch:       runtime.GOARCH,
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		v.KernelVersion = unix.ByteSliceToString(name.Release[:])
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			switch setting.Key {
			case "vcs.revision":
				v.GitCommit = setting.Value
			case "vcs.time":
				v.BuildTime = setting.Value
			}
		}
	}
	return v
}
