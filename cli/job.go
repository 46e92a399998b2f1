package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/funcd/funcd/api"
)

func (a *app) jobCommand() *cobra.Command {
	var hcl bool
	cmd := &cobra.Command{
		Use:   "job [flags] NAME",
		Short: "Show the Nomad job of a function",
		Long: `job prints the Nomad job that calls of a function are dispatches of: as JSON, as nomad job inspect does, or as a job file. It holds neither the
function's UUID nor its environment.`,
		Example: `  funcd job helloworld
  funcd job helloworld | nomad job validate -json -
  funcd job --hcl helloworld | nomad job validate -`,
		Args:              needs(cobra.ExactArgs(1), "one NAME"),
		ValidArgsFunction: a.completeNames(1),
	}
	cmd.Flags().BoolVar(&hcl, "hcl", false, "print a job file")
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		if hcl && a.output.JSON() {
			return usageErrorf("--hcl and --output json exclude each other")
		}
		job, err := c.InspectJob(ctx, args[0])
		if err != nil {
			return named(err, args[0])
		}
		if hcl {
			_, err := io.WriteString(a.Out, job.HCL)
			return err
		}
		return WriteJSON(a.Out, map[string]json.RawMessage{"Job": job.Job})
	})
	return cmd
}

func (a *app) openCommand() *cobra.Command {
	var browser bool
	cmd := &cobra.Command{
		Use:   "open [flags] NAME",
		Short: "Print the address of a function's page in Nomad's UI",
		Long:  `open prints the address of the page that Nomad's UI has of a function, with its calls and their logs, and with --browser opens it too.`,
		Example: `  funcd open helloworld
  funcd open --browser helloworld`,
		Args:              needs(cobra.ExactArgs(1), "one NAME"),
		ValidArgsFunction: a.completeNames(1),
	}
	cmd.Flags().BoolVar(&browser, "browser", false, "open it in the desktop's browser")
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		job, err := c.InspectJob(ctx, args[0])
		if err != nil {
			return named(err, args[0])
		}
		if a.output.JSON() {
			err = WriteJSON(a.Out, map[string]string{"UI": job.UI})
		} else {
			_, err = fmt.Fprintln(a.Out, job.UI)
		}
		if err != nil || !browser {
			return err
		}
		program := "xdg-open"
		if runtime.GOOS == "darwin" {
			program = "open"
		}
		if out, err := exec.CommandContext(ctx, program, job.UI).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", program, err, out)
		}
		return nil
	})
	return cmd
}
