package cli

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/docker/cli/pkg/kvfile"
	"github.com/docker/go-connections/nat"
	"github.com/spf13/cobra"

	"github.com/funcd/funcd/api"
)

// createFlags are the flags of create, as they were given.
type createFlags struct {
	name          string
	size          string
	timeout       int
	env           []string
	envFiles      []string
	labels        []string
	labelFiles    []string
	entrypoint    given
	workdir       string
	stopSignal    string
	tty           bool
	links         []string
	volumesFrom   []string
	publish       []string
	publishAll    bool
	expose        []string
	groups        []string
	noAutoVolumes bool
}

func (a *app) createCommand() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create [flags] --name NAME IMAGE [COMMAND] [ARG...]",
		Short: "Create a function",
		Long: `create makes a function of an image, and prints the address that it is called at. Whoever knows the address may call the function.

What follows IMAGE is the command and its arguments, flags too.`,
		Example: `  funcd create --name helloworld ubuntu echo HelloWorld
  funcd create --name thumbnail --size m1 --timeout 30 -e QUALITY=80 -l funcd.warm=2 team/thumbnail:1.4`,
		Args:              needs(cobra.MinimumNArgs(1), "an IMAGE"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.StringArrayVarP(&f.env, "env", "e", nil, "set an environment `variable`; a name alone takes the value that it has here")
	flags.StringArrayVar(&f.envFiles, "env-file", nil, "read a `file` of environment variables")
	flags.Var(&f.entrypoint, "entrypoint", "the `program`, in place of the image's ENTRYPOINT and its CMD; \"\" for none")
	flags.StringArrayVar(&f.expose, "expose", nil, "expose a `port` or a range of ports")
	flags.StringArrayVarP(&f.labels, "label", "l", nil, "set a `label`, key=value; those that begin with funcd. change how calls run")
	flags.StringArrayVar(&f.labelFiles, "label-file", nil, "read a `file` of labels, one a line")
	flags.StringArrayVar(&f.links, "link", nil, "link to a `service`, name:alias")
	flags.StringVar(&f.name, "name", "", "the function's `name`: a-z, 0-9 and -")
	flags.BoolVar(&f.noAutoVolumes, "noauto-volume", false, "kept for the original's scripts, without effect")
	flags.BoolVarP(&f.publishAll, "publish-all", "P", false, "publish all exposed ports")
	flags.StringArrayVarP(&f.publish, "publish", "p", nil, "publish a container's `port`, [host:]container[/protocol]")
	flags.StringArrayVar(&f.groups, "sg", nil, "a security `group`, kept for the original's scripts, without effect")
	flags.StringVar(&f.size, "size", api.DefaultSize, "the `size` of its containers: "+strings.Join(api.Sizes, ", "))
	flags.StringVar(&f.stopSignal, "stop-signal", api.DefaultStopSignal, "the `signal` that asks a call to end")
	flags.BoolVarP(&f.tty, "tty", "t", false, "give it a pseudo-terminal")
	flags.IntVar(&f.timeout, "timeout", api.DefaultTimeout, fmt.Sprintf("`seconds` that a call may take, up to %d", api.MaxTimeout))
	flags.StringArrayVar(&f.volumesFrom, "volumes-from", nil, "mount the volumes of a Nomad `job`, name[:ro|rw]")
	flags.StringVarP(&f.workdir, "workdir", "w", "", "the `directory` that the command starts in")
	completeSizes(cmd)
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		function, err := f.function(args, a.LookupEnv)
		if err != nil {
			return err
		}
		created, err := c.CreateFunction(ctx, function)
		if api.CodeOf(err) == api.Conflict {
			return api.Wrap(api.Conflict, err, api.MessageOf(err)+"; funcd update changes a function, funcd rm removes it")
		}
		if err != nil {
			return err
		}
		if a.output.JSON() {
			return WriteJSON(a.Out, created)
		}
		_, err = fmt.Fprintf(a.Out, "%s is created with the address of %s/call/%s/%s\n",
			created.Name, strings.TrimSuffix(a.settings.Addr, "/"), created.Name, created.UUID)
		return err
	})
	return cmd
}

// given is the value of a flag that means something else when it is empty than when it is not there.
type given struct {
	text  string
	given bool
}

func (g *given) String() string { return g.text }
func (g *given) Type() string   { return "string" }

func (g *given) Set(text string) error {
	g.text, g.given = text, true
	return nil
}

// function returns what the flags and arguments say, in the way that Docker's client reads them. What the values may be is for the server to
// say. The error is of status ExitUsage.
func (f *createFlags) function(args []string, lookupEnv func(string) (string, bool)) (api.Function, error) {
	fn := api.Function{
		Name:          f.name,
		ContainerSize: f.size,
		Timeout:       f.timeout,
		Config: api.Config{
			Tty:        f.tty,
			Cmd:        args[1:],
			Image:      args[0],
			WorkingDir: f.workdir,
			StopSignal: api.Signal(f.stopSignal),
		},
		HostConfig: api.HostConfig{Links: f.links, PublishAllPorts: f.publishAll, VolumesFrom: f.volumesFrom},
	}
	switch {
	case f.name == "":
		return fn, usageErrorf("create needs --name NAME")
	case f.timeout < 1: // 0 is the default on the wire
		return fn, usageErrorf("--timeout: %d must be a number of seconds from 1 to %d", f.timeout, api.MaxTimeout)
	}
	if f.entrypoint.given {
		fn.Config.Entrypoint = api.StrSlice{f.entrypoint.text}
	}
	var err error
	if fn.Config.Env, err = environment(f.env, f.envFiles, lookupEnv); err != nil {
		return fn, err
	}
	if fn.Config.Labels, err = labels(f.labels, f.labelFiles); err != nil {
		return fn, err
	}
	for _, group := range f.groups {
		if group != "" {
			fn.Config.Labels["sh_hyper_sg_"+group] = "yes"
		}
	}
	if f.noAutoVolumes {
		fn.Config.Labels["sh_hyper_noauto_volume"] = "true"
	}
	fn.Config.ExposedPorts, fn.HostConfig.PortBindings, err = ports(f.publish, f.expose)
	return fn, err
}

// environment returns the variables of the files and then those of the flags, by Docker's rules: a name without a value has that of this
// process, and is left out if there is none.
func environment(variables, files []string, lookupEnv func(string) (string, bool)) ([]string, error) {
	env, err := readFiles("--env-file", files, lookupEnv)
	if err != nil {
		return nil, err
	}
	for _, variable := range variables {
		name, _, hasValue := strings.Cut(variable, "=")
		if name == "" {
			return nil, usageErrorf("--env: %q must be of the form NAME=value or NAME", variable)
		}
		if hasValue {
			env = append(env, variable)
		} else if value, found := lookupEnv(name); found {
			env = append(env, name+"="+value)
		}
	}
	return env, nil
}

// labels returns the labels of the files and then those of the flags. One without a value has an empty one.
func labels(flags, files []string) (map[string]string, error) {
	lines, err := readFiles("--label-file", files, func(string) (string, bool) { return "", true })
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, label := range append(lines, flags...) {
		key, value, _ := strings.Cut(label, "=")
		if key == "" {
			return nil, usageErrorf("--label: %q must be of the form key=value or key", label)
		}
		all[key] = value
	}
	return all, nil
}

// readFiles reads files of lines "key=value" and comments, by Docker's rules.
func readFiles(flag string, files []string, lookup func(string) (string, bool)) ([]string, error) {
	all := []string{}
	for _, path := range files {
		file, err := os.Open(path)
		if err != nil {
			return nil, usageErrorf("%s: %s", flag, err)
		}
		lines, err := kvfile.ParseFromReader(file, lookup)
		file.Close()
		if err != nil {
			return nil, usageErrorf("%s: %s: %s", flag, path, err)
		}
		all = append(all, lines...)
	}
	return all, nil
}

// ports returns the exposed ports, of which those to publish are a part, and the bindings, in all forms that Docker's -p and --expose take.
func ports(publish, expose []string) (map[string]struct{}, map[string][]api.PortBinding, error) {
	published, bindings, err := nat.ParsePortSpecs(publish)
	if err != nil {
		return nil, nil, usageErrorf("--publish: %s", err)
	}
	exposed := map[string]struct{}{}
	for port := range maps.Keys(published) {
		exposed[string(port)] = struct{}{}
	}
	for _, spec := range expose {
		protocol, numbers := nat.SplitProtoPort(spec)
		from, to, err := nat.ParsePortRangeToInt(numbers)
		if err != nil || numbers == "" || strings.Contains(spec, ":") {
			return nil, nil, usageErrorf("--expose: %q must be of the form port[-port][/protocol]", spec)
		}
		for port := from; port <= to; port++ {
			exposed[fmt.Sprintf("%d/%s", port, strings.ToLower(protocol))] = struct{}{}
		}
	}
	bound := map[string][]api.PortBinding{}
	for port, of := range bindings {
		for _, binding := range of {
			bound[string(port)] = append(bound[string(port)], api.PortBinding{HostIP: binding.HostIP, HostPort: binding.HostPort})
		}
	}
	return exposed, bound, nil
}

// updateFlags are the flags of update, as they were given.
type updateFlags struct {
	env      []string
	envFiles []string
	pull     bool
	refresh  bool
	size     string
	timeout  int
}

func (a *app) updateCommand() *cobra.Command {
	var f updateFlags
	cmd := &cobra.Command{
		Use:   "update [flags] NAME",
		Short: "Update a function",
		Long: `update changes a function. What is not named stays as it is; calls that are running finish as they began.

The variables that are given replace all that the function had: --env "" clears them.`,
		Example: `  funcd update --size m1 --timeout 60 helloworld
  funcd update --refresh helloworld`,
		Args:              needs(cobra.ExactArgs(1), "one NAME"),
		ValidArgsFunction: a.completeNames(1),
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.env, "env", "e", nil, "set an environment `variable`, in place of all that there are; \"\" clears them")
	flags.StringArrayVar(&f.envFiles, "env-file", nil, "read a `file` of environment variables")
	flags.BoolVar(&f.pull, "pull", false, "take what the image's tag stands for now")
	flags.BoolVar(&f.refresh, "refresh", false, "make a new address; the old one is unknown from then on")
	flags.StringVar(&f.size, "size", "", "the `size` of its containers: "+strings.Join(api.Sizes, ", "))
	flags.IntVar(&f.timeout, "timeout", 0, fmt.Sprintf("`seconds` that a call may take, up to %d", api.MaxTimeout))
	completeSizes(cmd)
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		update, err := f.update(flags.Changed, a.LookupEnv)
		if err != nil {
			return err
		}
		updated, err := c.UpdateFunction(ctx, args[0], update)
		if err != nil {
			return named(err, args[0])
		}
		if a.output.JSON() {
			return WriteJSON(a.Out, updated)
		}
		_, err = fmt.Fprintln(a.Out, updated.Name)
		return err
	})
	return cmd
}

// update returns what the flags that were given say.
func (f *updateFlags) update(given func(flag string) bool, lookupEnv func(string) (string, bool)) (api.FunctionUpdate, error) {
	u := api.FunctionUpdate{Pull: f.pull, Refresh: f.refresh}
	if given("size") {
		u.ContainerSize = &f.size
	}
	if given("timeout") {
		u.Timeout = &f.timeout
	}
	if given("env") || given("env-file") {
		env := []string{}
		if !slices.Contains(f.env, "") {
			var err error
			if env, err = environment(f.env, f.envFiles, lookupEnv); err != nil {
				return u, err
			}
		}
		u.Config = &api.ConfigUpdate{Env: &env}
	}
	if u == (api.FunctionUpdate{}) {
		return u, usageErrorf("update needs something to change: --env, --env-file, --pull, --refresh, --size or --timeout")
	}
	return u, nil
}
