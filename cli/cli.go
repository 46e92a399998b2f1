// Package cli is the command line of those who use funcd: one command for each call of the Func API, and what they need to reach a server.
// Which programs there are, and what their main does, is left to others.
package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/funcd/funcd/api"
)

// Config is what the commands read, write and know of the process that they run in.
type Config struct {
	In        io.Reader
	Out, Err  io.Writer
	LookupEnv func(name string) (value string, found bool)
}

// app is what the commands of one run share.
type app struct {
	Config
	settings   settings
	flags      connectionFlags
	connection *pflag.FlagSet // the flags of settings
	output     Output
	outage     outage
}

// Commands returns the commands. Their errors are of type *Error, or cobra's own of the command line.
func Commands(cfg Config) []*cobra.Command {
	return newApp(cfg).commands()
}

func newApp(cfg Config) *app {
	a := &app{Config: cfg, outage: outage{time: time.Minute, pause: time.Second}}
	a.connection = a.flags.flagSet()
	return a
}

func (a *app) commands() []*cobra.Command {
	commands := []*cobra.Command{
		a.createCommand(), a.updateCommand(), a.listCommand(), a.inspectCommand(), a.removeCommand(),
		a.callCommand(), a.getCommand(), a.cancelCommand(), a.logsCommand(), a.statusCommand(), a.pullCommand(),
		a.jobCommand(), a.openCommand(), a.deadCommand(),
	}
	leaves := slices.Clone(commands)
	for _, cmd := range commands {
		leaves = append(leaves, cmd.Commands()...)
	}
	for _, cmd := range leaves {
		if cmd.HasSubCommands() {
			continue
		}
		a.output.AddFlag(cmd)
		cmd.Flags().SortFlags = false
		cmd.Flags().AddFlagSet(a.connection)
		cmd.DisableFlagsInUseLine = true
		cmd.SetUsageFunc(a.usage)
	}
	return commands
}

// run returns what a command does: do, with a client of the server that was asked for. Errors of do are explained.
func (a *app) run(do func(ctx context.Context, c *api.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		return a.explain(cmd.Context(), do(cmd.Context(), c, args))
	}
}

// usage shows a command's own flags apart from those that all share.
func (a *app) usage(cmd *cobra.Command) error {
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	own.SortFlags = false
	cmd.LocalFlags().VisitAll(func(flag *pflag.Flag) {
		if a.connection.Lookup(flag.Name) == nil {
			own.AddFlag(flag)
		}
	})
	_, err := fmt.Fprintf(cmd.OutOrStderr(), "Usage:\n  %s\n\nFlags:\n%s\nWhich funcd, and as whom:\n%s",
		cmd.UseLine(), own.FlagUsages(), a.connection.FlagUsages())
	return err
}

// Output is the form in which a command prints what it has to say: text, if empty, or json.
type Output string

// AddFlag gives the command the flag that sets it.
func (o *Output) AddFlag(cmd *cobra.Command) {
	cmd.Flags().VarP(o, "output", "o", "text or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// JSON tells whether the form is JSON.
func (o Output) JSON() bool { return o == "json" }

// String is the form's name.
func (o *Output) String() string {
	if *o == "" {
		return "text"
	}
	return string(*o)
}

// Set is the value of the flag.
func (o *Output) Set(text string) error {
	switch text {
	case "text", "json":
		*o = Output(text)
		return nil
	}
	return fmt.Errorf("must be text or json")
}

// Type is what help shows as the flag's value.
func (o *Output) Type() string { return "form" }

// WriteJSON writes v as a person can read it too.
func WriteJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "    ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
