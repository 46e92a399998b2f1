package cli

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/funcd/funcd/api"
)

// completionTime is how long a shell waits for names at most.
const completionTime = 2 * time.Second

// completeNames completes the first so many arguments with the names of functions; 0 for all.
func (a *app) completeNames(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := a.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		functions, err := c.Functions(ctx, nil)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []cobra.Completion
		for _, f := range functions {
			if strings.HasPrefix(f.Name, toComplete) && !slices.Contains(args, f.Name) {
				names = append(names, cobra.CompletionWithDesc(f.Name, printable(f.Config.Image)))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeSizes(cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("size", cobra.FixedCompletions(api.Sizes, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder))
}

// needs is a check of arguments that says what a command needs, as cobra's own do not.
func needs(check cobra.PositionalArgs, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) != nil {
			return usageErrorf("%s needs %s: funcd %[1]s --help shows how", pathOf(cmd), what)
		}
		return nil
	}
}

// FlagError says what a flag may be, or where the flags are shown, in place of what pflag and strconv say.
func FlagError(cmd *cobra.Command, err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return usageErrorf("%v: %s --help shows the flags", err, cmd.CommandPath())
	}
	flag := invalid.GetFlag()
	switch flag.Value.Type() {
	case "int":
		return usageErrorf("--%s: %q must be a whole number", flag.Name, invalid.GetValue())
	case "bool":
		return usageErrorf("--%s: %q must be true or false", flag.Name, invalid.GetValue())
	}
	return usageErrorf("--%s: %q: %v", flag.Name, invalid.GetValue(), invalid.Unwrap())
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageErrorf("%s takes no arguments: funcd %[1]s --help shows how", pathOf(cmd))
	}
	return nil
}

// pathOf is what follows the program's name for the command.
func pathOf(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}
