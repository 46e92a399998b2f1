package nomad

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// namespaceOf returns the namespace of a job of funcd's, which is its account's.
func (c *Client) namespaceOf(job string) string {
	account, _ := jobs.AccountOf(job)
	return c.cfg.Options.For(account).Namespace
}

// namespaces returns all that jobs of funcd's may be in, each once.
func (c *Client) namespaces() []string {
	all := []string{c.cfg.Options.Namespace}
	for _, placement := range c.cfg.Options.Accounts {
		all = append(all, placement.Namespace)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// withNamespaces gives each placement of the options a namespace, where it has none the one given. The options passed in stay as they are.
func withNamespaces(o jobs.Options, namespace string) jobs.Options {
	o.Namespace = cmp.Or(o.Namespace, namespace)
	accounts := make(map[string]jobs.Placement, len(o.Accounts))
	for account, placement := range o.Accounts {
		placement.Namespace = cmp.Or(placement.Namespace, o.Namespace)
		accounts[account] = placement
	}
	o.Accounts = accounts
	return o
}

// CheckPlacement asks Nomad whether it takes the jobs of all accounts and sizes where they are to be. The error is of code Invalid and names what Nomad
// has not, or refuses; Unavailable if Nomad can't be asked.
func (c *Client) CheckPlacement(ctx context.Context) error {
	datacenters, err := c.datacenters(ctx)
	if err != nil {
		return err
	}
	accounts := slices.Sorted(maps.Keys(c.cfg.Options.Accounts))
	for _, account := range append([]string{""}, accounts...) {
		err := c.checkPlacement(ctx, account, datacenters)
		if api.CodeOf(err) == api.Invalid && account != "" {
			return api.Wrap(api.Invalid, err, fmt.Sprintf("account %q: %s", account, api.MessageOf(err)))
		} else if err != nil {
			return err
		}
	}
	return nil
}

// checkPlacement checks the placement of an account, or with an empty one that of those without their own.
func (c *Client) checkPlacement(ctx context.Context, account string, datacenters []string) error {
	options := c.cfg.Options
	if account == "" {
		options.Accounts, account = nil, "none"
	}
	for _, wanted := range options.For(account).Datacenters {
		if len(datacenters) > 0 && !slices.ContainsFunc(datacenters, func(has string) bool { return matches(wanted, has) }) {
			return api.Errorf(api.Invalid, "Nomad has no node in the datacenter %q", wanted)
		}
	}
	pools := map[string]string{} // each with a size that runs there
	for _, size := range api.Sizes {
		pools[options.Sizes[size].NodePool] = size
	}
	for _, pool := range slices.Sorted(maps.Keys(pools)) {
		// Of a function that asks for nothing.
		job, err := jobs.Render(&api.Definition{
			Account: account, Image: api.Image{Ref: "none"},
			Function: api.Function{Name: "none", ContainerSize: pools[pool], Timeout: 1, HostConfig: api.HostConfig{NetworkMode: api.DefaultNetwork}},
		}, options)
		if err != nil {
			return err
		}
		err = c.validate(ctx, job)
		if api.CodeOf(err) == api.Invalid && pool != "" {
			return api.Wrap(api.Invalid, err, fmt.Sprintf("size %q: %s", pools[pool], api.MessageOf(err)))
		} else if err != nil {
			return err
		}
	}
	return nil
}

// validate asks Nomad whether it would take a job.
func (c *Client) validate(ctx context.Context, job *nomad.Job) error {
	w, cancel := c.write(ctx, *job.Namespace)
	defer cancel()
	answer, _, err := c.nomad.Jobs().Validate(job, w)
	if forbidden(err) {
		return api.Wrap(api.Invalid, err, fmt.Sprintf("Nomad has no namespace %q, or refuses funcd's token there", *job.Namespace))
	} else if err != nil {
		return asked(err, "checking where jobs are to be")
	}
	text := strings.Join(answer.ValidationErrors, "\n")
	if missing := nonexistent.FindStringSubmatch(text); missing != nil {
		return api.Errorf(api.Invalid, "Nomad has no %s", missing[1])
	}
	if text != "" {
		var reasons []string // without the list that they are in
		for line := range strings.Lines(text) {
			if line = strings.TrimPrefix(strings.TrimSpace(line), "* "); line != "" && !strings.HasSuffix(line, ":") {
				reasons = append(reasons, line)
			}
		}
		return api.Errorf(api.Invalid, "Nomad refuses its jobs: %s", strings.Join(reasons, "; "))
	}
	return nil
}

// forbidden tells whether Nomad refuses the token.
func forbidden(err error) bool {
	answer, ok := errors.AsType[nomad.UnexpectedResponseError](err)
	return ok && answer.HasStatusCode() && answer.StatusCode() == http.StatusForbidden
}

// datacenters returns those that nodes are in, each once; none if the token may not read nodes.
func (c *Client) datacenters(ctx context.Context) ([]string, error) {
	q, cancel := c.query(ctx, c.cfg.Options.Namespace)
	defer cancel()
	q.AllowStale = true
	nodes, _, err := c.nomad.Nodes().List(q)
	if forbidden(err) {
		c.log.Debug("the datacenters are not checked: the token may not read nodes")
		return nil, nil
	} else if err != nil {
		return nil, asked(err, "listing the nodes")
	}
	var all []string
	for _, node := range nodes {
		all = append(all, node.Datacenter)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// matches tells whether a datacenter is one that a job asks for, as Nomad tells it: * stands for anything.
func matches(wanted, has string) bool {
	parts := strings.Split(wanted, "*")
	for i, part := range parts {
		parts[i] = regexp.QuoteMeta(part)
	}
	return regexp.MustCompile("^(?:" + strings.Join(parts, ".*") + ")$").MatchString(has)
}

// RemoveMisplaced removes the jobs of this funcd cluster's functions that are in a namespace which is not their account's any more, once all containers of
// theirs have ended. What the token may not list stays. The error is of code Unavailable.
func (c *Client) RemoveMisplaced(ctx context.Context) error {
	ours, err := c.own()
	if err != nil {
		return err
	}
	const doing = "listing the functions' jobs of all namespaces"
	all, err := c.listAny(ctx, nomad.AllNamespacesNamespace, jobs.Prefix, `ParentID == ""`, doing)
	if err != nil {
		return err
	}
	for _, job := range all {
		if job.Namespace == c.namespaceOf(job.ID) || !ours(job.Meta) || job.ID != jobs.ID(job.Meta[jobs.MetaAccount], job.Meta[jobs.MetaName]) {
			continue
		}
		children, err := c.listAny(ctx, job.Namespace, job.ID+"/dispatch-", "", doing)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(children, func(child listed) bool { return child.Status != "dead" }) {
			continue
		}
		for _, old := range append(children, job) {
			if err := c.upkeep.Wait(ctx); err != nil {
				return err
			}
			if err := c.purgeIn(ctx, job.Namespace, old.ID); err != nil {
				return err
			}
		}
		c.log.Info("a function's job was removed from a namespace that is not its account's any more", "job", job.ID, "namespace", job.Namespace)
	}
	return nil
}
