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
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/cli"
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
	os.Exit(run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}, os.LookupEnv))
}

// usageError marks an error of the command line or the configuration.
type usageError struct{ error }

func run(ctx context.Context, args []string, std stdio, lookupEnv func(string) (string, bool)) int {
	getenv := func(name string) string {
		value, _ := lookupEnv(name)
		return value
	}
	root := &cobra.Command{
		Use:   "funcd",
		Short: "A function service for HashiCorp clusters",
		Long: `funcd runs Docker images as functions: each call gets a new container, scheduled by Nomad, with the request's body on stdin and
stdout as the answer. Functions are kept in Consul.

Start with:  funcd agent --dev

` + cli.ExitStatuses,
		SilenceErrors: true,
		SilenceUsage:  true,
		// For unknownCommand, in place of cobra's own.
		DisableSuggestions:         true,
		SuggestionsMinimumDistance: 2,
	}
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	root.SetFlagErrorFunc(cli.FlagError)
	root.AddGroup(&cobra.Group{ID: "functions", Title: "Functions and their calls:"}, &cobra.Group{ID: "service", Title: "The service:"})
	for _, cmd := range cli.Commands(cli.Config{In: std.in, Out: std.out, Err: std.err, LookupEnv: lookupEnv}) {
		cmd.GroupID = "functions"
		root.AddCommand(cmd)
	}
	for _, cmd := range []*cobra.Command{agentCommand(std, getenv), credentialCommand(std), versionCommand(std)} {
		cmd.GroupID = "service"
		root.AddCommand(cmd)
	}
	// What fails before a command has begun is the command line: an unknown command, or an argument too many.
	begun := false
	root.PersistentPreRun = func(*cobra.Command, []string) { begun = true }
	err := root.ExecuteContext(ctx)
	if err == nil {
		return cli.ExitOK
	}
	if explained, ok := errors.AsType[*cli.Error](err); ok {
		return explained.Report(std.err)
	}
	fmt.Fprintln(std.err, "funcd:", unknownCommand(root, err.Error()))
	if _, ok := errors.AsType[usageError](err); ok || !begun {
		return cli.ExitUsage
	}
	return cli.ExitError
}

// unknownCommand adds to cobra's message what there is instead. Other messages stay as they are.
func unknownCommand(root *cobra.Command, message string) string {
	var name string
	if _, err := fmt.Sscanf(message, `unknown command %q for "funcd"`, &name); err != nil {
		return message
	}
	if similar := root.SuggestionsFor(name); len(similar) > 0 {
		return fmt.Sprintf("unknown command %q: did you mean %s?", name, strings.Join(similar, " or "))
	}
	return fmt.Sprintf("unknown command %q: funcd --help lists those that there are", name)
}

func versionCommand(std stdio) *cobra.Command {
	var output cli.Output
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of funcd and of its API",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo()
			if output.JSON() {
				return cli.WriteJSON(std.out, v)
			}
			_, err := fmt.Fprintf(std.out, "funcd %s, Func API %s, %s %s/%s %s\n", v.Version, v.APIVersion, v.GoVersion, v.Os, v.Arch, v.GitCommit)
			return err
		},
	}
	output.AddFlag(cmd)
	return cmd
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
