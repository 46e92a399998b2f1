package scheduler

import (
	"context"
	"time"

	"github.com/funcd/funcd/api"
)

// Services finds what functions link to.
type Services interface {
	// Endpoints returns where the healthy instances of a service are, as the account may see them. The error is of code NotFound, with a message that
	// names the service, if there is none; else Unavailable or Internal.
	Endpoints(ctx context.Context, account, service string) ([]api.Endpoint, error)
}

// links are a function's links as a call's process sees them.
type links struct {
	env   []string
	hosts []string
}

// resolve finds where the function's links lead to now. The errors are those of Services.
func (r *run) resolve(ctx context.Context, function *api.Definition) (links, error) {
	var resolved links
	f := &function.Function
	for _, link := range f.ParsedLinks() {
		endpoints, err := r.s.cfg.Services.Endpoints(ctx, function.Account, link.Service)
		if err != nil {
			return links{}, api.Wrap(api.CodeOf(err), err, "link "+link.Service+": "+api.MessageOf(err))
		}
		resolved.env = append(resolved.env, link.Env(f.Name, endpoints)...)
		resolved.hosts = append(resolved.hosts, link.Hosts(endpoints)...)
	}
	return resolved, nil
}

// link resolves the links ahead of a container, so that a call that lacks a service ends before one is started. While Consul does not answer
// the call stays pending and says so. The error is of code Invalid if a service is missing.
func (r *run) link(ctx context.Context) error {
	const first, most = 200 * time.Millisecond, 5 * time.Second
	for wait := first; ; wait = min(2*wait, most) {
		resolved, err := r.resolve(ctx, r.definition())
		switch {
		case err == nil:
			r.mu.Lock()
			defer r.mu.Unlock()
			r.links = resolved
			return nil
		case api.CodeOf(err) == api.NotFound:
			return api.Wrap(api.Invalid, err, api.MessageOf(err))
		case ctx.Err() != nil:
			return ctx.Err()
		}
		if err := r.pendingBecause(ctx, api.MessageOf(err)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// relink resolves the links once more for a container that was started for the call: its start may have taken long. A slot has them already. If a service is gone by
// then, the call ends, and the error is of code Conflict. r.mu is held.
func (r *run) relink(ctx context.Context) error {
	if r.slot {
		return nil
	}
	resolved, err := r.resolve(ctx, r.function)
	if api.CodeOf(err) == api.NotFound {
		select {
		case r.unlinked <- err:
		default:
		}
		return api.Wrap(api.Conflict, err, "the call lacks a service")
	}
	if err == nil {
		r.links = resolved
	}
	return err
}
