package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/funcd/funcd/api"
)

func (a *app) deadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead",
		Short: "Look at calls that have failed for good, and queue them again",
		Long: `dead shows the calls that have failed after all their attempts, which are kept with their payloads: those of functions with the label funcd.retries
or funcd.dead=true that nobody has waited for on /sync. It queues them again, or removes them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.deadListCommand(), a.deadShowCommand(), a.deadRequeueCommand(), a.deadRemoveCommand())
	return cmd
}

const aDeadCall = "a CALL_ID, as funcd dead ls shows it"

func (a *app) deadListCommand() *cobra.Command {
	var function string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List dead letters, the oldest first",
		Example: `  funcd dead ls
  funcd dead requeue $(funcd dead ls -q --function thumbnail)`,
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVarP(&function, "function", "f", "", "list only those of the function of this `name`")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the ids of the calls")
	_ = cmd.RegisterFlagCompletionFunc("function", a.completeNames(0))
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, _ []string) error {
		letters, err := c.DeadLetters(ctx, function)
		switch {
		case err != nil:
			return named(err, function)
		case a.output.JSON():
			return WriteJSON(a.Out, letters)
		case quiet:
			for _, letter := range letters {
				if _, err := fmt.Fprintln(a.Out, letter.CallID); err != nil {
					return err
				}
			}
			return nil
		}
		rows := [][]string{{"CALL ID", "FUNCTION", "ENDED", "ATTEMPTS", "SIZE", "MESSAGE"}}
		for _, l := range letters {
			rows = append(rows, []string{l.CallID, l.Function, ago(l.Ended.Time), strconv.Itoa(l.Attempts), strconv.Itoa(l.Size), l.Message})
		}
		return a.table(rows)
	})
	return cmd
}

func (a *app) deadShowCommand() *cobra.Command {
	var payload bool
	cmd := &cobra.Command{
		Use:               "show [flags] CALL_ID",
		Short:             "Show all that there is to know of a dead letter",
		Long:              `show prints a dead letter as JSON, its payload in base64; with --payload the payload alone, byte for byte.`,
		Args:              needs(callIDs(cobra.ExactArgs(1)), aDeadCall),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&payload, "payload", false, "print the payload alone")
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		letter, err := c.DeadLetter(ctx, args[0])
		switch {
		case err != nil:
			return err
		case payload:
			_, err = a.Out.Write(letter.Payload)
			return err
		}
		return WriteJSON(a.Out, letter)
	})
	return cmd
}

func (a *app) deadRequeueCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "requeue [flags] CALL_ID [CALL_ID...]",
		Short: "Call again what has failed",
		Long: `requeue makes a new call of each dead letter, with its payload and the function as it is now, and prints the new call's id. The letter is gone then.
The old call stays what it was.`,
		Args:              needs(callIDs(cobra.MinimumNArgs(1)), aDeadCall),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		ids := []string{}
		failed := a.each(ctx, args, func(id string) error {
			call, err := c.Requeue(ctx, id)
			if err != nil {
				return err
			}
			ids = append(ids, call)
			if a.output.JSON() {
				return nil
			}
			_, err = fmt.Fprintln(a.Out, call)
			return err
		})
		if a.output.JSON() {
			if err := WriteJSON(a.Out, ids); err != nil {
				return err
			}
		}
		return failed
	})
	return cmd
}

func (a *app) deadRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "rm [flags] CALL_ID [CALL_ID...]",
		Short:             "Remove dead letters",
		Args:              needs(callIDs(cobra.MinimumNArgs(1)), aDeadCall),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		return a.eachDone(ctx, args, func(id string) error { return c.RemoveDeadLetter(ctx, id) })
	})
	return cmd
}
