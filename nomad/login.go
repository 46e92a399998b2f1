package nomad

import (
	"context"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// writeLogin puts the login where the job's tasks alone may read it.
func (c *Client) writeLogin(ctx context.Context, job string, login *api.RegistryAuth) error {
	path, err := jobs.LoginPath(job)
	if err != nil {
		return err
	}
	v := nomad.NewVariable(path)
	v.Items[jobs.LoginUsername], v.Items[jobs.LoginPassword] = login.Username, login.Password
	w, cancel := c.write(ctx)
	defer cancel()
	_, _, err = c.nomad.Variables().Create(v, w)
	if err != nil {
		return asked(err, "writing a login for a registry")
	}
	return nil
}

func (c *Client) removeLogin(ctx context.Context, job string) error {
	path, err := jobs.LoginPath(job)
	if err != nil {
		return err
	}
	return c.removeVariable(ctx, path)
}

// removeVariable removes a Nomad Variable. It is no error if it is gone.
func (c *Client) removeVariable(ctx context.Context, path string) error {
	w, cancel := c.write(ctx)
	defer cancel()
	_, err := c.nomad.Variables().Delete(path, w)
	if err := translate(err, "removing a login for a registry"); api.CodeOf(err) != api.NotFound {
		return err
	}
	return nil
}

// removeLogins removes the logins of jobs whose id has the prefix, if old says so.
func (c *Client) removeLogins(ctx context.Context, prefix string, old func(*nomad.VariableMetadata) bool) error {
	path, err := jobs.LoginPath(prefix)
	if err != nil {
		return err
	}
	q, cancel := c.query(ctx)
	defer cancel()
	variables, _, err := c.nomad.Variables().PrefixList(path, q)
	if err != nil {
		return asked(err, "listing the logins for registries")
	}
	for _, v := range variables {
		if old(v) {
			if err := c.removeVariable(ctx, v.Path); err != nil {
				return err
			}
		}
	}
	return nil
}
