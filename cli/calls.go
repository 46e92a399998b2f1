package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/funcd/funcd/api"
)

// outage is how long a call is waited for while funcd does not answer, as in a restart, and how often it is asked meanwhile.
type outage struct{ time, pause time.Duration }

// outcome is what --output json shows of a call. Its members are those of /status, and the output as a text, or in base64 if it is none.
type outcome struct {
	CallID       string    `json:"CallId"`
	Status       api.State `json:",omitempty"`
	Message      string    `json:",omitempty"`
	Output       *string   `json:",omitempty"`
	OutputBase64 []byte    `json:",omitempty"`
}

func (a *app) callCommand() *cobra.Command {
	var sync bool
	var key string
	cmd := &cobra.Command{
		Use:   "call [flags] NAME",
		Short: "Call a function",
		Long: `call calls a function, with what is piped to it or redirected from a file as the payload, and prints the call's id. With --sync it waits for the
call's end, prints what the function wrote to stdout, byte for byte, and nothing else there.

A call goes on when whoever waits for it is interrupted. With --idempotency-key a command that is repeated, as after a lost connection, makes no
second call: for 24 hours the same key and payload give the same call.` + byAddress,
		Example: `  funcd call helloworld
  convert photo.jpg - | funcd call --sync thumbnail > thumbnail.jpg`,
		Args:              needs(cobra.ExactArgs(1), "one NAME"),
		ValidArgsFunction: a.completeNames(1),
	}
	cmd.Flags().StringVar(&key, "idempotency-key", "", "call at most once for all commands with this key")
	cmd.Flags().BoolVar(&sync, "sync", false, "wait for the call's end and print what it returns")
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		f, err := a.callable(ctx, c, args[0])
		if err != nil {
			return err
		}
		payload, err := a.payload(ctx)
		if err != nil {
			return err
		}
		header := http.Header{}
		if key != "" {
			header.Set(api.KeyHeader, key)
		}
		id, err := c.Call(ctx, f.Name, f.UUID, payload, header)
		if ctx.Err() != nil {
			return &Error{Status: ExitInterrupted, Err: err,
				Message: fmt.Sprintf("interrupted before the call's id was known; funcd status --list %s shows whether there is one", f.Name)}
		}
		switch {
		case err != nil:
			return named(err, f.Name)
		case sync:
			return a.deliver(ctx, c, f, id, true)
		case a.output.JSON():
			return WriteJSON(a.Out, outcome{CallID: id})
		}
		_, err = fmt.Fprintln(a.Out, "CallId:", id)
		return err
	})
	return cmd
}

// payload returns what is piped or redirected to the command, with its length known. A terminal is not read, nor is anything else that has
// no end of its own, such as /dev/null's relatives.
func (a *app) payload(ctx context.Context) (io.Reader, error) {
	if file, ok := a.In.(interface{ Stat() (fs.FileInfo, error) }); ok {
		info, err := file.Stat()
		if err != nil || info.Mode()&fs.ModeCharDevice != 0 {
			return nil, nil
		}
	}
	type result struct {
		payload []byte
		err     error
	}
	// Reading can't be interrupted: if it goes on after an interrupt, it ends with the process.
	read := make(chan result, 1)
	go func() {
		payload, err := io.ReadAll(io.LimitReader(a.In, api.MaxPayload+1))
		read <- result{payload, err}
	}()
	select {
	case <-ctx.Done():
		return nil, &Error{Status: ExitInterrupted, Message: "interrupted while reading the payload; nothing was called", Err: ctx.Err()}
	case r := <-read:
		switch {
		case r.err != nil:
			return nil, fmt.Errorf("reading the payload: %w", r.err)
		case len(r.payload) > api.MaxPayload:
			return nil, api.Errorf(api.TooLarge, "the payload is over %d bytes", api.MaxPayload)
		}
		return bytes.NewReader(r.payload), nil
	}
}

func (a *app) getCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "get [flags] CALL_ID",
		Short: "Get what a call has returned",
		Long: `get prints what a call has written to stdout, byte for byte, and nothing else there. A call that was got is removed: it can be got once.

The exit status says how it ended; without --wait, 8 says that it has not.` + byAddress,
		Example:           `  funcd get --wait 218b7b10-e7f1-4c48-ac3c-66792f8ffc06`,
		Args:              needs(callIDs(cobra.ExactArgs(1)), "one CALL_ID, as funcd call prints it and funcd status --list NAME shows it"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the call's end")
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		f, id, err := a.called(ctx, c, args[0])
		if err != nil {
			return err
		}
		return a.deliver(ctx, c, f, id, wait)
	})
	return cmd
}

// callIDs is a check that also wants the arguments to be ids of calls.
func callIDs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		for _, arg := range args {
			if _, id := splitCall(arg); !api.ValidUUID(id) {
				return usageErrorf("%q is not the id of a call", id)
			}
		}
		return check(cmd, args)
	}
}

func noCall(err error, id string) error {
	if api.CodeOf(err) == api.NotFound {
		return api.Wrap(api.NotFound, err, fmt.Sprintf("no such call: %s; one that was got is gone", id))
	}
	return err
}

// deliver prints a call's output, or says why there is none.
func (a *app) deliver(ctx context.Context, c *api.Client, f api.Function, id string, wait bool) error {
	out, state, err := a.await(ctx, c, f, id, wait)
	switch {
	case ctx.Err() != nil:
		return &Error{Status: ExitInterrupted, Err: err,
			Message: fmt.Sprintf("interrupted; the call goes on: funcd get --wait %s waits for it, funcd cancel %[1]s ends it", callName(f, id))}
	case errors.Is(err, api.ErrNoAnswer):
		return &Error{Status: ExitUnavailable, Err: err,
			Message: fmt.Sprintf("%s; funcd get --wait %s gets the call when it is back", a.noAnswer(err), callName(f, id))}
	case err != nil && state == "":
		return noCall(err, id)
	}
	if state == api.Pending || state == api.Running {
		err = &Error{Status: ExitNotEnded, Message: a.standing(ctx, c, f, id, state)}
	}
	if a.output.JSON() {
		o := outcome{CallID: id, Status: state}
		if err != nil {
			o.Message = messageOf(err)
		} else if utf8.Valid(out) {
			text := string(out)
			o.Output = &text
		} else {
			o.OutputBase64 = out
		}
		return errors.Join(WriteJSON(a.Out, o), err)
	}
	if err != nil {
		return err
	}
	_, err = a.Out.Write(out)
	return err
}

// await is Output, that waits through an outage of funcd: the call is on disk, and its end can be asked for again.
func (a *app) await(ctx context.Context, c *api.Client, f api.Function, id string, wait bool) (out []byte, state api.State, err error) {
	var since time.Time
	for {
		asked := time.Now()
		out, state, err = c.Output(ctx, f.Name, f.UUID, id, wait)
		if !wait || api.CodeOf(err) != api.Unavailable || ctx.Err() != nil {
			return out, state, err
		}
		if since.IsZero() || time.Since(asked) > a.outage.time { // it was there until now
			since = time.Now()
			say(a.Err, fmt.Sprintf("%s; waiting for it to come back", messageOf(a.explain(ctx, err))))
		}
		if time.Since(since) > a.outage.time {
			return nil, "", err
		}
		select {
		case <-ctx.Done():
		case <-time.After(a.outage.pause):
		}
	}
}

// standing says where a call stands that has not ended, and if the log tells it, why.
func (a *app) standing(ctx context.Context, c *api.Client, f api.Function, id string, state api.State) string {
	message := "the call is being executed"
	if state == api.Pending {
		message = "the call is waiting for execution"
		_ = c.Logs(ctx, f.Name, f.UUID, api.EventQuery{Call: id, Tail: 1}, func(e api.Event) error {
			if e.Event == string(api.Pending) && e.Message != "" {
				message += ": " + e.Message
			}
			return nil
		})
	}
	return message + "; funcd get --wait " + callName(f, id) + " waits for its end"
}

func (a *app) cancelCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "cancel [flags] CALL_ID [CALL_ID...]",
		Short:             "End calls that wait or are running",
		Long:              "cancel ends calls: one that waits never starts, and one that runs gets its function's StopSignal, and then SIGKILL." + byAddress,
		Args:              needs(callIDs(cobra.MinimumNArgs(1)), "a CALL_ID, as funcd call prints it and funcd status --list NAME shows it"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		return a.eachDone(ctx, args, func(arg string) error {
			f, id, err := a.called(ctx, c, arg)
			if err != nil {
				return err
			}
			return noCall(c.Cancel(ctx, f.Name, f.UUID, id), id)
		})
	})
	return cmd
}

func (a *app) statusCommand() *cobra.Command {
	var list bool
	cmd := &cobra.Command{
		Use:   "status [flags] NAME",
		Short: "Show how many calls of a function wait, run and have ended",
		Long: `status counts a function's calls by their state, and with --list shows each. A call that was got counts no more,
unless the function keeps it for a time (label funcd.keep).` + byAddress,
		Example: `  funcd status helloworld
  funcd status --list helloworld`,
		Args:              needs(cobra.ExactArgs(1), "one NAME"),
		ValidArgsFunction: a.completeNames(1),
	}
	cmd.Flags().BoolVarP(&list, "list", "l", false, "list the calls, the oldest first")
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		f, err := a.callable(ctx, c, args[0])
		if err != nil {
			return err
		}
		status, err := c.Status(ctx, f.Name, f.UUID, list)
		switch {
		case err != nil:
			return named(err, f.Name)
		case a.output.JSON():
			return WriteJSON(a.Out, status)
		case list:
			rows := [][]string{{"CALL ID", "STATUS", "CREATED", "ENDED", "EXIT", "MESSAGE"}}
			for _, call := range status.List {
				ended, exit := "", ""
				if call.Ended != nil {
					ended = call.Ended.UTC().Format(time.RFC3339)
				}
				if call.ExitCode != nil {
					exit = strconv.Itoa(*call.ExitCode)
				}
				rows = append(rows, []string{call.CallID, string(call.Status), call.Created.UTC().Format(time.RFC3339), ended, exit, call.Message})
			}
			return a.table(rows)
		}
		row := []string{}
		for _, count := range []int{status.Total, status.Pending, status.Running, status.Finished, status.Failed} {
			row = append(row, strconv.Itoa(count))
		}
		return a.table([][]string{{"TOTAL", "PENDING", "RUNNING", "FINISHED", "FAILED"}, row})
	})
	return cmd
}
