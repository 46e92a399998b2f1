package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/funcd/funcd/api"
)

// pullTick is how often a bar is drawn anew while nothing happens.
const pullTick = 200 * time.Millisecond

func (a *app) pullCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pull [flags] IMAGE",
		Short: "Have all nodes of the cluster pull an image",
		Long: `pull has every ready node of the cluster pull an image, so that no call waits for it, and prints the image's full name when all have it.
Credentials for a private registry come from Docker's configuration file, where docker login has put them.`,
		Example:           `  funcd pull registry.example.com/team/thumbnail:1.4`,
		Args:              needs(cobra.ExactArgs(1), "one IMAGE"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		named, err := reference.ParseNormalizedNamed(args[0])
		if err != nil {
			return usageErrorf("%q is not an image: %s", args[0], err)
		}
		auth, err := registryAuth(ctx, named)
		if err != nil {
			return err
		}
		show, done := a.pullProgress(args[0])
		err = c.PullImage(ctx, args[0], auth, show)
		done()
		if err != nil || a.output.JSON() {
			return err
		}
		_, err = fmt.Fprintln(a.Out, reference.TagNameOnly(named))
		return err
	})
	return cmd
}

// registryAuth returns the credentials that Docker's configuration file has for the image's registry, or nil.
func registryAuth(ctx context.Context, image reference.Named) (*api.RegistryAuth, error) {
	registry, err := name.NewRegistry(reference.Domain(image))
	if err != nil {
		return nil, usageErrorf("%q is not a registry: %s", reference.Domain(image), err)
	}
	found, err := authn.Resolve(ctx, authn.DefaultKeychain, registry)
	if err != nil {
		return nil, &Error{Status: ExitUsage, Message: fmt.Sprintf("the credentials for %s can't be had: %s", registry, err), Err: err}
	}
	if found == authn.Anonymous {
		return nil, nil
	}
	config, err := authn.Authorization(ctx, found)
	if err != nil {
		return nil, &Error{Status: ExitUsage, Message: fmt.Sprintf("the credentials for %s can't be had: %s", registry, err), Err: err}
	}
	return &api.RegistryAuth{
		Username: config.Username, Password: config.Password, IdentityToken: config.IdentityToken, RegistryToken: config.RegistryToken,
		ServerAddress: registry.Name(),
	}, nil
}

// pullProgress returns what shows the messages of a pull, and what ends it: as JSON lines on stdout, as a bar on a terminal, as lines elsewhere.
func (a *app) pullProgress(image string) (show func(api.PullMessage) error, done func()) {
	switch {
	case a.output.JSON():
		lines := json.NewEncoder(a.Out)
		return func(m api.PullMessage) error { return lines.Encode(m) }, func() {}
	case isTerminal(a.Err):
		return a.pullBar(image)
	}
	last := map[string]string{}
	return func(m api.PullMessage) error {
		line := pullLine(m)
		if line == "" || last[m.ID] == line {
			return nil
		}
		last[m.ID] = line
		_, err := fmt.Fprintln(a.Err, line)
		return err
	}, func() {}
}

// pullLine is a message as Docker's client writes it to what is no terminal.
func pullLine(m api.PullMessage) string {
	switch {
	case m.Status == "":
		return ""
	case m.ID == "":
		return printable(m.Status)
	}
	return printable(m.ID + ": " + m.Status)
}

// pullBar shows how many nodes have the image, and that time goes by.
func (a *app) pullBar(image string) (show func(api.PullMessage) error, done func()) {
	bar := progressbar.NewOptions64(-1,
		progressbar.OptionSetWriter(a.Err),
		progressbar.OptionSetDescription("Pulling "+printable(image)),
		progressbar.OptionSetItsString("nodes"),
		progressbar.OptionSetWidth(30),
		progressbar.OptionShowCount(),
		progressbar.OptionSetElapsedTime(true),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionSpinnerType(14),
		progressbar.OptionSetSpinnerChangeInterval(0), // its goroutine could not be waited for
		progressbar.OptionUseANSICodes(true),
	)
	_ = bar.RenderBlank()
	end := make(chan struct{})
	var ticking sync.WaitGroup
	ticking.Go(func() {
		ticker := time.NewTicker(pullTick)
		defer ticker.Stop()
		for {
			select {
			case <-end:
				return
			case <-ticker.C:
				_ = bar.Add(0)
			}
		}
	})
	show = func(m api.PullMessage) error {
		if p := m.ProgressDetail; p != nil && p.Total > 0 {
			bar.ChangeMax64(p.Total)
			return bar.Set64(min(p.Current, p.Total))
		}
		return nil
	}
	return show, func() {
		close(end)
		ticking.Wait()
		_ = bar.Clear()
	}
}
