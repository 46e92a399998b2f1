package nomad

import (
	"context"
	"errors"
	"sync"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// logins remembers the logins that this server has given to the jobs of functions.
type logins struct {
	mu    sync.Mutex
	given map[string]api.RegistryAuth // by job
}

func (l *logins) note(job string, login api.RegistryAuth) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.given == nil {
		l.given = map[string]api.RegistryAuth{}
	}
	l.given[job] = login
}

func (l *logins) forget(job string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.given, job)
}

func (l *logins) of(job string) (api.RegistryAuth, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	login, ok := l.given[job]
	return login, ok
}

// loginFor returns the registry of an image, and the login that the clients are to be given for it, nil for none.
func (c *Client) loginFor(account, image string) (registry string, login *api.RegistryAuth, err error) {
	if !c.cfg.Variables || c.cfg.Logins == nil {
		return "", nil, nil
	}
	return c.cfg.Logins(account, image)
}

// hasLogin tells whether a function's job has the login that it is to have, as far as this server knows: one that it has not given itself it gives
// again. A job that is to have one and has none is another job than it would be now, which is for Drifted to find.
func (c *Client) hasLogin(job, account, registry string) bool {
	if registry == "" {
		return true
	}
	_, login, err := c.loginFor(account, registry+"/any")
	if err != nil {
		return true // the file with the password can't be read now; what was given stays
	}
	given, ok := c.logins.of(job)
	return login != nil && ok && given == *login
}

// giveLogin gives the login to the function's job, which is registered: what there is for a job that is being removed is not what a new one of its
// name is given. Containers of the job wait for it. A nil login is none.
func (c *Client) giveLogin(ctx context.Context, job string, login *api.RegistryAuth) error {
	if login == nil {
		c.logins.forget(job)
		return nil
	}
	if err := c.writeLogin(ctx, job, login); err != nil {
		return err
	}
	c.logins.note(job, *login)
	return nil
}

// loginToRemove looks for the login of a function's job that is to be removed, and returns what removes it then, if no other was given meanwhile.
func (c *Client) loginToRemove(ctx context.Context, job string) (remove func(context.Context) error, err error) {
	none := func(context.Context) error { return nil }
	path, err := jobs.LoginPath(job)
	if err != nil || !c.cfg.Variables {
		return none, nil // there can be none
	}
	namespace := c.namespaceOf(job)
	found, err := c.listLogins(ctx, namespace, job)
	if err != nil {
		return nil, err
	}
	for _, v := range found {
		if v.Path == path {
			return func(ctx context.Context) error {
				c.logins.forget(job)
				w, cancel := c.write(ctx, namespace)
				defer cancel()
				_, err := c.nomad.Variables().CheckedDelete(path, v.ModifyIndex, w)
				if _, ok := errors.AsType[nomad.ErrCASConflict](err); ok {
					return nil
				}
				return gone(err)
			}, nil
		}
	}
	return none, nil
}

// writeLogin puts the login where the job's tasks alone may read it.
func (c *Client) writeLogin(ctx context.Context, job string, login *api.RegistryAuth) error {
	path, err := jobs.LoginPath(job)
	if err != nil {
		return err
	}
	v := nomad.NewVariable(path)
	v.Items[jobs.LoginUsername], v.Items[jobs.LoginPassword] = login.Username, login.Password
	w, cancel := c.write(ctx, c.namespaceOf(job))
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
		return nil // it never had one
	}
	return c.removeVariable(ctx, c.namespaceOf(job), path)
}

// removeVariable removes a Nomad Variable. It is no error if it is gone.
func (c *Client) removeVariable(ctx context.Context, namespace, path string) error {
	w, cancel := c.write(ctx, namespace)
	defer cancel()
	_, err := c.nomad.Variables().Delete(path, w)
	return gone(err)
}

// gone is the error of removing a login, nil if there was none.
func gone(err error) error {
	if err := translate(err, "removing a login for a registry"); api.CodeOf(err) != api.NotFound {
		return err
	}
	return nil
}

// listLogins lists the logins in a namespace of jobs whose id has the prefix.
func (c *Client) listLogins(ctx context.Context, namespace, prefix string) ([]*nomad.VariableMetadata, error) {
	path, err := jobs.LoginPath(prefix)
	if err != nil {
		return nil, err
	}
	q, cancel := c.query(ctx, namespace)
	defer cancel()
	list, _, err := c.nomad.Variables().PrefixList(path, q)
	if err != nil {
		return nil, asked(err, "listing the logins for registries")
	}
	return list, nil
}
