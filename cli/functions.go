package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/docker/cli/templates"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/funcd/funcd/api"
)

// maxCommand is how many characters of a command a list on a terminal shows.
const maxCommand = 40

// function returns the function of this name.
func (a *app) function(ctx context.Context, c *api.Client, name string) (api.Function, error) {
	f, err := c.Function(ctx, name)
	return f, named(err, name)
}

// named says in a NotFound which function there is not.
func named(err error, name string) error {
	if api.CodeOf(err) == api.NotFound {
		return api.Wrap(api.NotFound, err, fmt.Sprintf("no such function: %s; funcd ls lists those that there are", name))
	}
	return err
}

func (a *app) listCommand() *cobra.Command {
	var filters []string
	var quiet, whole bool
	cmd := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List functions, the newest first",
		Long: `ls lists functions, the newest first. Its filters are name=PART, label=KEY or label=KEY=VALUE, size=SIZE and image=IMAGE; of the same kind one
must match, of different kinds all.`,
		Example: `  funcd ls -f name=hello -f label=team=web
  funcd rm $(funcd ls -q -f label=temporary)`,
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "list only what matches `key=value`")
	cmd.Flags().BoolVar(&whole, "no-trunc", false, "show whole commands on a terminal too")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the names")
	_ = cmd.RegisterFlagCompletionFunc("filter", cobra.FixedCompletions([]string{"name=", "label=", "size=", "image="},
		cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, _ []string) error {
		parsed, err := parseFilters(filters)
		if err != nil {
			return err
		}
		functions, err := c.Functions(ctx, parsed)
		if err != nil {
			return err
		}
		switch {
		case a.output.JSON():
			return WriteJSON(a.Out, functions)
		case quiet:
			for _, f := range functions {
				if _, err := fmt.Fprintln(a.Out, f.Name); err != nil {
					return err
				}
			}
			return nil
		}
		rows := [][]string{{"NAME", "SIZE", "IMAGE", "COMMAND", "CREATED", "UUID"}}
		for _, f := range functions {
			command := printable(strings.Join(f.Config.Cmd, " "))
			if isTerminal(a.Out) && !whole {
				command = cut(command, maxCommand)
			}
			rows = append(rows, []string{f.Name, f.ContainerSize, f.Config.Image, command, ago(f.Created.Time), f.UUID})
		}
		return a.table(rows)
	})
	return cmd
}

// parseFilters reads the filters as Docker's client does.
func parseFilters(filters []string) (api.Filters, error) {
	parsed := api.Filters{}
	for _, filter := range filters {
		key, value, ok := strings.Cut(filter, "=")
		if !ok {
			return nil, usageErrorf("--filter: %q must be of the form key=value", filter)
		}
		key = strings.ToLower(strings.TrimSpace(key))
		parsed[key] = append(parsed[key], strings.TrimSpace(value))
	}
	return parsed, nil
}

// ago says how long ago t was, as Docker's client does.
func ago(t time.Time) string { return units.HumanDuration(time.Since(t)) + " ago" }

// table prints rows with their columns aligned. The first is the heading.
func (a *app) table(rows [][]string) error {
	w := tabwriter.NewWriter(a.Out, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = printable(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

func (a *app) inspectCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [flags] NAME [NAME...]",
		Short: "Show all that there is to know of functions",
		Long: `inspect prints functions as a JSON array, or each by a Go template. The template has the functions that Docker's have: json, join, split, lower,
upper, title, pad, truncate and println.`,
		Example: `  funcd inspect helloworld
  funcd inspect -f '{{.UUID}}' helloworld
  funcd inspect -f '{{json .Config.Labels}}' helloworld`,
		Args:              needs(cobra.MinimumNArgs(1), "a NAME"),
		ValidArgsFunction: a.completeNames(0),
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "print each by this Go `template`")
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		if format != "" && a.output.JSON() {
			return usageErrorf("--format and --output json exclude each other: {{json .}} is a template for JSON")
		}
		byTemplate, err := templates.Parse(format)
		if err != nil {
			return usageErrorf("--format: %s", err)
		}
		functions := []api.Function{}
		failed := a.each(ctx, args, func(name string) error {
			f, err := a.function(ctx, c, name)
			if err != nil {
				return err
			}
			if format == "" {
				functions = append(functions, f)
				return nil
			}
			text, err := render(byTemplate, f)
			if err != nil {
				return usageErrorf("--format: %s", err)
			}
			_, err = fmt.Fprintln(a.Out, text)
			return err
		})
		if format == "" {
			if err := WriteJSON(a.Out, functions); err != nil {
				return err
			}
		}
		return failed
	})
	return cmd
}

// render returns the function by the template. As with Docker's inspect, its fields are those of the Go type, or else those of its JSON.
func render(t *template.Template, f api.Function) (string, error) {
	var text bytes.Buffer
	if t.Execute(&text, f) == nil {
		return text.String(), nil
	}
	var fields map[string]any
	encoded, err := json.Marshal(f)
	if err != nil {
		return "", err
	}
	dec := json.NewDecoder(bytes.NewReader(encoded))
	dec.UseNumber()
	if err := dec.Decode(&fields); err != nil {
		return "", err
	}
	text.Reset()
	err = t.Option("missingkey=error").Execute(&text, fields)
	return text.String(), err
}

func (a *app) removeCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm [flags] NAME [NAME...]",
		Short: "Remove functions",
		Long:  `rm removes functions with their calls, logs and outputs. A function of which a call waits or is running stays, unless it is forced.`,
		Example: `  funcd rm helloworld
  funcd rm --force helloworld`,
		Args:              needs(cobra.MinimumNArgs(1), "a NAME"),
		ValidArgsFunction: a.completeNames(0),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "cancel the calls that have not ended")
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		return a.eachDone(ctx, args, func(name string) error {
			if force {
				return named(c.ForceRemoveFunction(ctx, name), name)
			}
			return named(c.RemoveFunction(ctx, name), name)
		})
	})
	return cmd
}
