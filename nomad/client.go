// Package nomad is the Nomad backend: it registers functions as jobs, dispatches calls, watches what becomes of them, stops and purges
// them, and checks the identities that Nomad gives to allocations. Apart from package jobs, which renders, it is the only importer of Nomad's API client.
//
// What a call's state means for the call is left to the scheduler.
package nomad

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru"
	nomad "github.com/hashicorp/nomad/api"
	"golang.org/x/time/rate"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// Config says which Nomad to use. Address, token and TLS come from Nomad's own environment variables (NOMAD_ADDR, NOMAD_TOKEN,
// NOMAD_CACERT, …) where they are empty here.
type Config struct {
	Address string
	Token   string
	// UIAddress is where people reach Nomad's UI. Default: Address.
	UIAddress string
	Options   jobs.Options
	// Variables says that logins for registries may be given to the clients of the cluster, in Nomad Variables.
	Variables bool
	// Logins returns the registry of an image and the login that an account has for it, nil if it has none. With Variables, those for functions' images
	// are given to the clients. Nil: there are none.
	Logins func(account, image string) (registry string, login *api.RegistryAuth, err error)
	// Timeout bounds every request that does not wait for a change. Default 10 s.
	Timeout time.Duration
	// PurgeRate is how many jobs are purged in a second at most. Default 50.
	PurgeRate int
	Logger    *slog.Logger
}

// Defaults of Config.
const (
	DefaultTimeout   = 10 * time.Second
	DefaultPurgeRate = 50
)

// Client is a connection to Nomad. Run must run for Watch to be told anything after its first status.
type Client struct {
	cfg      Config
	log      *slog.Logger
	nomad    *nomad.Client
	identity identities
	renewal  time.Duration          // renewTime
	upkeep   *rate.Limiter          // of what is done to jobs without anyone waiting for it
	cluster  atomic.Pointer[string] // see SetCluster

	logins logins

	mu      sync.Mutex
	watches map[string]map[*watch]struct{} // by job
}

// New checks the options and returns a client. It does not connect.
func New(cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.PurgeRate == 0 {
		cfg.PurgeRate = DefaultPurgeRate
	}
	if err := cfg.Options.Validate(); err != nil {
		return nil, err
	}
	c := nomad.DefaultConfig()
	if cfg.Address != "" {
		c.Address = cfg.Address
	}
	if cfg.Token != "" {
		c.SecretID = cfg.Token
	}
	// Every request says its namespace.
	cfg.Options = withNamespaces(cfg.Options, cmp.Or(c.Namespace, nomad.DefaultNamespace))
	client, err := nomad.NewClient(c)
	if err != nil {
		return nil, fmt.Errorf("the Nomad client: %w", err)
	}
	seen, err := lru.New(seenTokens)
	if err != nil {
		return nil, err
	}
	return &Client{
		cfg:      cfg,
		log:      cfg.Logger.With("component", "nomad"),
		nomad:    client,
		watches:  map[string]map[*watch]struct{}{},
		identity: identities{seen: seen},
		renewal:  renewTime,
		upkeep:   rate.NewLimiter(rate.Limit(cfg.PurgeRate), cfg.PurgeRate),
	}, nil
}

func (c *Client) query(ctx context.Context, namespace string) (*nomad.QueryOptions, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	return (&nomad.QueryOptions{Namespace: namespace}).WithContext(ctx), cancel
}

func (c *Client) write(ctx context.Context, namespace string) (*nomad.WriteOptions, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	return (&nomad.WriteOptions{Namespace: namespace}).WithContext(ctx), cancel
}

// nonexistent is how Nomad names what a job is to be in and is not there.
var nonexistent = regexp.MustCompile(`is in nonexistent ((?:node pool|namespace) "[^"]*")`)

// translate makes an *api.Error of an error of Nomad's client: NotFound or Invalid where Nomad said so, else Unavailable.
func translate(err error, doing string) error {
	if err == nil {
		return nil
	}
	var answer nomad.UnexpectedResponseError
	if errors.As(err, &answer) && answer.HasStatusCode() {
		switch status := answer.StatusCode(); {
		case status == http.StatusNotFound, strings.Contains(answer.Body(), "parameterized job not found"):
			return api.Wrap(api.NotFound, err, doing+": Nomad does not know the job")
		case status == http.StatusForbidden:
			return api.Wrap(api.Unavailable, err, doing+": Nomad refuses funcd's token")
		case nonexistent.MatchString(answer.Body()): // with a status of 500
			return api.Wrap(api.Invalid, err, doing+": Nomad has no "+nonexistent.FindStringSubmatch(answer.Body())[1])
		case status == http.StatusBadRequest:
			return api.Wrap(api.Invalid, err, doing+": "+strings.TrimSpace(answer.Body()))
		}
	}
	return api.Wrap(api.Unavailable, err, "Nomad does not answer")
}

// Ping tells whether a Nomad server with a leader answers. The error is of code Unavailable.
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	q := (&nomad.QueryOptions{Namespace: c.cfg.Options.Namespace}).WithContext(ctx)
	var leader string
	if _, err := c.nomad.Raw().Query("/v1/status/leader", &leader, q); err != nil {
		return api.Wrap(api.Unavailable, err, "Nomad does not answer")
	}
	if leader == "" {
		return api.Errorf(api.Unavailable, "Nomad has no leader")
	}
	return nil
}

// Register registers the function's job, or updates it. Dispatches from then on are of this revision.
func (c *Client) Register(ctx context.Context, d *api.Definition) error {
	job, login, err := c.render(d)
	if err != nil {
		return err
	}
	w, cancel := c.write(ctx, c.namespaceOf(*job.ID))
	defer cancel()
	if _, _, err = c.nomad.Jobs().Register(job, w); err != nil {
		return translate(err, "registering the function")
	}
	return c.giveLogin(ctx, *job.ID, login)
}

// DispatchSlot starts a container of the function ahead of any call and returns the name of its job. The error is of code NotFound if the
// function's job is not registered.
func (c *Client) DispatchSlot(ctx context.Context, account, name string) (job string, err error) {
	id := uuid.NewString()
	return c.dispatch(ctx, account, name, jobs.MetaSlot, id, id, "slot-")
}

// Dispatch starts a container for the call and returns the name of its job. start is the number of the call's container, from 0. Nomad starts
// none for what it has a job of: it returns that one. The error is of code NotFound if the function's job is not registered.
func (c *Client) Dispatch(ctx context.Context, account, name, call string, start int) (job string, err error) {
	token := call
	if start > 0 {
		token += "-" + strconv.Itoa(start)
	}
	return c.dispatch(ctx, account, name, jobs.MetaCall, call, token, "")
}

// dispatch starts a container. The token makes a repetition harmless. id is what the container is told under the key of meta, and part of the
// job's name.
func (c *Client) dispatch(ctx context.Context, account, name, meta, id, token, prefix string) (job string, err error) {
	w, cancel := c.write(ctx, c.namespaceOf(jobs.ID(account, name)))
	defer cancel()
	w.IdempotencyToken = token
	resp, _, err := c.nomad.Jobs().DispatchOpts(&nomad.DispatchOptions{
		JobID:            jobs.ID(account, name),
		Meta:             map[string]string{meta: id},
		IdPrefixTemplate: prefix + token,
	}, w)
	if err != nil {
		return "", translate(err, "dispatching a container")
	}
	return resp.DispatchedJobID, nil
}

// Stop stops the job of a call: its function gets the StopSignal and, after the kill_timeout, SIGKILL. It is no error if it is gone.
func (c *Client) Stop(ctx context.Context, job string) error {
	w, cancel := c.write(ctx, c.namespaceOf(job))
	defer cancel()
	_, _, err := c.nomad.Jobs().Deregister(job, false, w)
	if err := translate(err, "stopping a call"); api.CodeOf(err) != api.NotFound {
		return err
	}
	return nil
}

// Evaluate has Nomad look for a place for a job that waits for one, once more. The error is of code Unavailable, also if the job is gone.
func (c *Client) Evaluate(ctx context.Context, job string) error {
	w, cancel := c.write(ctx, c.namespaceOf(job))
	defer cancel()
	_, _, err := c.nomad.Jobs().ForceEvaluate(job, w)
	return translate(err, "asking for a place")
}

// StopAll stops the containers of all functions and returns when they have ended, or with ctx's error. It is for a Nomad that is about to be
// ended with them, as a dev agent: one that ends while it starts a container may leave that behind.
func (c *Client) StopAll(ctx context.Context) error {
	const pause = 200 * time.Millisecond
	for {
		running, err := c.running(ctx)
		if err != nil {
			return err
		}
		if len(running) == 0 {
			return nil
		}
		for _, job := range running {
			if err := c.Stop(ctx, job); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// running returns the jobs of all allocations that have not ended, of functions and of pulls.
func (c *Client) running(ctx context.Context) ([]string, error) {
	var running []string
	for _, namespace := range c.namespaces() {
		q, cancel := c.query(ctx, namespace)
		q.Filter = `ClientStatus == "pending" or ClientStatus == "running"`
		allocations, _, err := c.nomad.Allocations().List(q)
		cancel()
		if err != nil {
			return nil, translate(err, "listing the containers")
		}
		for _, a := range allocations {
			if (strings.HasPrefix(a.JobID, jobs.Prefix) || strings.HasPrefix(a.JobID, jobs.PullPrefix)) && c.namespaceOf(a.JobID) == namespace {
				running = append(running, a.JobID)
			}
		}
	}
	return running, nil
}

// Slots returns the containers that were started ahead of a call and have not ended, those that serve one among them.
func (c *Client) Slots(ctx context.Context) ([]api.Slot, error) {
	list, err := c.list(ctx, jobs.Prefix, `ParentID != "" and Status != "dead"`, "listing the waiting containers")
	if err != nil {
		return nil, err
	}
	var slots []api.Slot
	for _, job := range list {
		revision, err := strconv.ParseUint(job.Meta[jobs.MetaRevision], 10, 64)
		if job.Meta[jobs.MetaSlot] == "" || err != nil || job.Stop {
			continue
		}
		slots = append(slots, api.Slot{
			Account:  job.Meta[jobs.MetaAccount],
			Name:     job.Meta[jobs.MetaName],
			Function: job.Meta[jobs.MetaFunction],
			Revision: revision,
			Job:      job.ID,
		})
	}
	return slots, nil
}

// listed is what is read of a job in a list. Of the many jobs that there may be, Nomad's own client would read everything.
type listed struct {
	ID         string
	Namespace  string
	Status     string
	Stop       bool
	SubmitTime int64 // in nanoseconds
	Meta       map[string]string

	ModifyIndex, JobModifyIndex uint64
}

// list lists the jobs of functions or pulls by the prefix of their id and a filter expression, with their meta, in all namespaces that they may be in.
func (c *Client) list(ctx context.Context, prefix, filter, doing string) ([]listed, error) {
	var all []listed
	for _, namespace := range c.namespaces() {
		list, err := c.listIn(ctx, namespace, prefix, filter, doing)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// listIn is list in one namespace.
func (c *Client) listIn(ctx context.Context, namespace, prefix, filter, doing string) ([]listed, error) {
	list, err := c.listAny(ctx, namespace, prefix, filter, doing)
	return slices.DeleteFunc(list, func(job listed) bool { return c.namespaceOf(job.ID) != namespace }), err
}

// listAny is listIn with those jobs too that are not to be in the namespace. It may be that of all.
func (c *Client) listAny(ctx context.Context, namespace, prefix, filter, doing string) ([]listed, error) {
	q, cancel := c.query(ctx, namespace)
	defer cancel()
	q.Prefix, q.Filter, q.Params = prefix, filter, map[string]string{"meta": "true"}
	var list []listed
	_, err := c.nomad.Raw().Query("/v1/jobs", &list, q)
	return list, translate(err, doing)
}
