package consul

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	consul "github.com/hashicorp/consul/api"
)

const (
	// DefaultCheckInterval is how often Consul's agent looks whether a service is healthy.
	DefaultCheckInterval = 10 * time.Second
	// DeregisterAfter is how long a service may fail its check until Consul drops it: the registration of a server that has died and
	// will not come back under its ID. A server that is only slow to come back registers itself again.
	DeregisterAfter = 10 * time.Minute
	// registeredInterval is how often KeepRegistered looks whether the agent still knows the service.
	registeredInterval = 30 * time.Second
)

// Service is a service that the local agent announces.
type Service struct {
	ID      string // unique on the agent
	Name    string
	Address string // where the service is reached; empty: the agent's own
	Port    int
	Tags    []string
	// CheckURL is what the agent requests; a status of 2xx is healthy. Until its first check a service is not.
	CheckURL      string
	CheckInsecure bool          // any certificate is trusted
	CheckInterval time.Duration // default: DefaultCheckInterval
}

// Register registers s with the local agent, in place of what has the same ID. Its error is of code Unavailable or Internal.
func (c *Client) Register(ctx context.Context, s Service) error {
	registration := &consul.AgentServiceRegistration{
		ID:      s.ID,
		Name:    s.Name,
		Address: s.Address,
		Port:    s.Port,
		Tags:    s.Tags,
		Check: &consul.AgentServiceCheck{
			HTTP:                           s.CheckURL,
			TLSSkipVerify:                  s.CheckInsecure,
			Interval:                       cmp.Or(s.CheckInterval, DefaultCheckInterval).String(),
			DeregisterCriticalServiceAfter: DeregisterAfter.String(),
		},
	}
	bounded, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	options := consul.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(bounded)
	return translate(ctx, c.api.Agent().ServiceRegisterOpts(registration, options))
}

// Deregister drops a service from the local agent. One that the agent does not know is no error. Its error is of code Unavailable or
// Internal.
func (c *Client) Deregister(ctx context.Context, id string) error {
	bounded, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	err := c.api.Agent().ServiceDeregisterOpts(id, new(consul.QueryOptions).WithContext(bounded))
	if isStatus(err, http.StatusNotFound) {
		return nil
	}
	return translate(ctx, err)
}

// registered tells whether the local agent knows the service.
func (c *Client) registered(ctx context.Context, id string) (bool, error) {
	bounded, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	_, _, err := c.api.Agent().Service(id, new(consul.QueryOptions).WithContext(bounded))
	if isStatus(err, http.StatusNotFound) {
		return false, nil
	}
	return err == nil, translate(ctx, err)
}

func isStatus(err error, code int) bool {
	var status consul.StatusError
	return errors.As(err, &status) && status.Code == code
}

// KeepRegistered registers s, and again whenever the agent has forgotten it, as one that was restarted may have. It blocks until ctx ends,
// then deregisters s and returns. Outages are ridden out and logged once.
func (c *Client) KeepRegistered(ctx context.Context, s Service) {
	c.keepRegistered(ctx, s, registeredInterval)
}

func (c *Client) keepRegistered(ctx context.Context, s Service, interval time.Duration) {
	log := c.log.With("service", s.ID)
	var pause backoff
	// It replaces what an earlier process with this ID may have left, so the first time it does not look.
	known, down := false, false
	for ctx.Err() == nil {
		var err error
		if known {
			known, err = c.registered(ctx, s.ID)
		}
		if !known && err == nil {
			err = c.Register(ctx, s)
			known = err == nil
		}
		switch {
		case ctx.Err() != nil:
		case err != nil:
			if !down {
				log.Warn("service registration interrupted", "err", err)
			}
			// Look before registering again: an agent that was only unreachable still has it, and its check's state.
			known, down = true, true
			pause.wait(ctx)
		default:
			if down {
				log.Info("service registration resumed")
			}
			down = false
			pause.reset()
			sleep(ctx, interval)
		}
	}
	if err := c.Deregister(context.WithoutCancel(ctx), s.ID); err != nil {
		log.Warn("service is not deregistered", "err", err)
	}
}
