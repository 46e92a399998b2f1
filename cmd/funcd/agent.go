package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/callbacks"
	"github.com/funcd/funcd/calls"
	"github.com/funcd/funcd/consul"
	"github.com/funcd/funcd/functions"
	"github.com/funcd/funcd/httpapi"
	"github.com/funcd/funcd/images"
	"github.com/funcd/funcd/jobs"
	"github.com/funcd/funcd/nomad"
	"github.com/funcd/funcd/scheduler"
)

func agentCommand(std stdio, getenv func(string) string) *cobra.Command {
	var configFile, httpAddress, dataDir string
	var dev bool
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the server",
		Long: `agent runs the server until SIGTERM or SIGINT.

With --config it uses the Nomad and Consul of the file, or of their own environment variables (NOMAD_ADDR, NOMAD_TOKEN,
CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, …). configs/funcd.hcl explains every setting.

With --dev it starts a Nomad and a Consul dev agent where none answers, ends them with itself, and takes management
requests without a signature as those of the account "default". It listens on a loopback address only.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !dev && configFile == "" {
				return usageError{errors.New("agent needs --config FILE, or --dev")}
			}
			c, err := loadConfig(configFile)
			if err != nil {
				return usageError{err}
			}
			if cmd.Flags().Changed("http") {
				c.HTTP = httpAddress
			}
			if cmd.Flags().Changed("data-dir") {
				c.DataDir = dataDir
			}
			settings, err := c.check()
			if err != nil {
				return usageError{err}
			}
			log := slog.New(slog.NewTextHandler(std.err, &slog.HandlerOptions{Level: settings.level}))
			return serve(cmd.Context(), settings, dev, getenv, log)
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "", "configuration file, in HCL")
	cmd.Flags().BoolVar(&dev, "dev", false, "start what is missing of Nomad and Consul, accept unsigned requests on loopback")
	cmd.Flags().StringVar(&httpAddress, "http", "127.0.0.1:3862", "address of the API, host:port, or nothing for HTTPS alone")
	cmd.Flags().StringVar(&dataDir, "data-dir", "./funcd-data", "where funcd keeps its files")
	return cmd
}

// serve runs an agent until ctx ends.
func serve(ctx context.Context, s *settings, dev bool, getenv func(string) string, log *slog.Logger) error {
	if dev {
		if err := s.checkLoopback(); err != nil {
			return usageError{err}
		}
	}
	release, err := lockDataDir(s.DataDir)
	if err != nil {
		return err
	}
	defer release()
	var stack *devStack
	if dev {
		if stack, err = startDevStack(ctx, s, getenv, log); err != nil {
			return err
		}
		defer stack.Stop()
	}
	a, err := newAgent(s, dev, log)
	if err != nil {
		return err
	}
	defer a.Stop()
	if dev {
		// A dev Nomad ends the containers with itself, and those that run a call can still say so.
		a.beforeRunners = func() {
			if stack.hasNomad && a.nomad != nil {
				a.stopContainers()
			}
			stack.Stop()
		}
	}
	if err := a.Start(ctx); err != nil {
		return err
	}
	log.Info("funcd is serving", append(a.addresses(), "version", version)...)
	select {
	case <-ctx.Done():
		log.Info("funcd is stopping")
		return nil
	case err := <-a.failed:
		return err
	}
}

// The account that --dev takes unsigned requests for.
const devAccount = "default"

// agent is the server: all parts joined.
type agent struct {
	settings  *settings
	dev       bool
	log       *slog.Logger
	consul    *consul.Client
	functions *consul.Functions
	keys      *consul.Credentials
	nomad     *nomad.Client
	images    *images.Resolver

	store     *calls.Store
	scheduler *scheduler.Scheduler
	service   *functions.Service

	background context.Context // of what follows Consul and Nomad
	cancel     context.CancelFunc
	unregister context.CancelFunc // takes the server out of Consul's catalog
	running    sync.WaitGroup
	handlers   *httpapi.Server
	// The listeners of the API, either of which may be nil.
	http, https *server
	certificate *certificate // of https
	runners     *server      // nil where containers reach the API's listener
	metrics     *server      // nil where nobody wants them
	// beforeRunners is called by Stop before the containers' socket is closed.
	beforeRunners func()
	failed        chan error // a server that ended by itself
	stopping      sync.Once
}

// newAgent joins the parts. It starts nothing.
func newAgent(s *settings, dev bool, log *slog.Logger) (*agent, error) {
	a := &agent{settings: s, dev: dev, log: log, failed: make(chan error, 4)}
	var err error
	if s.HTTPS != nil {
		if a.certificate, err = loadCertificate(s.HTTPS.CertFile, s.HTTPS.KeyFile, log); err != nil {
			return nil, err
		}
	}
	a.consul, err = consul.New(consul.Config{Address: s.Consul.Address, Token: s.Consul.Token, Prefix: s.Consul.Prefix, Logger: log})
	if err != nil {
		return nil, err
	}
	a.functions = consul.NewFunctions(a.consul)
	a.keys = consul.NewCredentials(a.consul)
	if a.images, err = images.New(images.Config{DockerHost: s.Docker.Host, Logins: s.logins, Logger: log}); err != nil {
		return nil, cannot("docker.host", s.Docker.Host, err)
	}
	a.background, a.cancel = context.WithCancel(context.Background())
	return a, nil
}

// Start opens the store and the listeners. Consul and Nomad need not answer yet. After an error Stop ends what was started.
func (a *agent) Start(ctx context.Context) error {
	s := a.settings
	runner, err := prepareRunner(s)
	if err != nil {
		return err
	}
	options := jobs.Options{
		Region:         s.Nomad.Region,
		Placement:      s.placement,
		Accounts:       s.placements,
		Sizes:          s.sizes,
		MaxKillTimeout: s.maxKillTimeout,
		PidsLimit:      s.Nomad.PidsLimit,
		HostNetwork:    s.Nomad.HostNetwork,
		APIAddress:     s.apiAddress(),
		CapDrop:        s.Nomad.CapDrop,
		PullTime:       s.pullTime,
		Runner:         runner.job,
	}
	a.nomad, err = nomad.New(nomad.Config{
		Address: s.Nomad.Address, Token: s.Nomad.Token, UIAddress: s.Nomad.UIAddress, Options: options,
		PurgeRate: s.Nomad.PurgeRate, Variables: s.Nomad.Variables, Logins: a.images.Login, Logger: a.log,
	})
	if err != nil {
		return fmt.Errorf("nomad: %w", err)
	}
	if err := a.checkPlacement(ctx); err != nil {
		return err
	}
	a.store, err = calls.Open(ctx, calls.Config{
		Dir:         filepath.Join(s.DataDir, "jetstream"),
		URL:         s.NATS.URL,
		Replicas:    s.NATS.Replicas,
		QueueCalls:  int64(s.Limits.QueuedCalls),
		QueueBytes:  int64(s.Limits.QueuedBytes),
		OutputBytes: int64(s.Limits.StoredOutputs),
		LogBytes:    int64(s.Limits.StoredLogs),
		KeptCalls:   s.Limits.KeptCalls,
		Keys:        int64(s.Idempotency.Keys),
		KeyTime:     s.keyTime,
		DeadCalls:   int64(s.Dead.Calls),
		DeadBytes:   int64(s.Dead.Bytes),
		DeadTime:    s.deadLetterTime,

		OutputTime:     s.outputTime,
		UnfetchedTime:  s.unfetchedTime,
		UnfetchedCalls: s.Limits.UnfetchedCalls,

		CallbackCalls: int64(s.Callbacks.Calls),
		CallbackBytes: int64(s.Callbacks.Bytes),

		DiskFree: int64(s.Limits.DiskFree),

		Lease:  s.lease,
		Logger: a.log,
	})
	if err != nil {
		return s.cannotOpen(err)
	}
	delivery := a.newCallbacks()
	a.scheduler = scheduler.New(scheduler.Config{
		Queue:          queue{a.store},
		Records:        a.store,
		Keys:           a.store,
		Dead:           a.store,
		Callbacks:      delivery,
		Messages:       a.store,
		Slots:          a.store,
		Cluster:        a.nomad,
		Functions:      a.functions,
		Services:       a.consul,
		Room:           a.store.Room,
		ResultRoom:     a.store.ResultRoom,
		Quotas:         a.keys.Quotas,
		Quota:          s.Quota,
		Lease:          s.lease,
		MaxKillTimeout: s.maxKillTimeout,
		MaxOutput:      s.Limits.Output,
		Starts:         s.Limits.Starts,
		Retry:          s.retry,
		Keep:           scheduler.Keep{Time: s.deadTime, Jobs: s.Nomad.DeadJobs},
		Warm:           scheduler.Warm{Function: s.Slots.Function, Account: s.Slots.Account, Total: s.Slots.Total, Idle: s.idle},
		Logger:         a.log,
	})
	a.service = functions.New(functions.Config{
		Store:      a.functions,
		Cluster:    a.nomad,
		Images:     a.images,
		Calls:      a.store,
		Cancel:     a.scheduler,
		Policy:     s.functionPolicy,
		Callback:   func(target string) error { return callbacks.Check(target, s.callbacks.allow) },
		StopTime:   s.maxKillTimeout,
		OrphanTime: s.orphanTime,
		Logger:     a.log,
	})

	// A stopped watch has nothing to say but that it was told to.
	a.running.Go(func() { _ = a.functions.Run(a.background) })
	a.running.Go(func() { _ = a.keys.Run(a.background) })
	a.running.Go(func() { a.nomad.Run(a.background) })
	a.running.Go(func() { a.learnCluster(a.background) })
	a.running.Go(func() { delivery.Run(a.background) })
	if err := a.scheduler.ServeAll(ctx); err != nil {
		return fmt.Errorf("the calls that wait can't be taken up: %w", err)
	}
	a.running.Go(func() { a.keepServing(a.background) })
	a.running.Go(func() { a.keepQuotas(a.background) })
	a.running.Go(func() {
		if err := a.consul.WhileLeader(a.background, upkeepLock, a.upkeep); err != nil && a.background.Err() == nil {
			a.log.Error("this server does no upkeep", "error", err)
		}
	})
	registered, unregister := context.WithCancel(a.background)
	a.unregister = unregister // before there is a listener, as Stop calls it where there is one
	if err := a.listen(runner); err != nil {
		return err
	}
	for _, service := range a.registrations() {
		a.running.Go(func() { a.consul.KeepRegistered(registered, service) })
	}
	return nil
}

// listen opens the API's listeners and, where containers have it mounted, the runner's socket, and serves them. After an error none is open.
func (a *agent) listen(runner *preparedRunner) error {
	s := a.settings
	cfg := httpapi.Config{
		Functions:     a.service,
		Directory:     a.functions,
		Calls:         a.scheduler,
		Logs:          a.store,
		States:        a.store,
		Dead:          deadLetters{a.store, a.scheduler},
		Runners:       a.scheduler,
		Credentials:   a.keys,
		Identities:    a.nomad,
		Images:        a.images,
		Puller:        a.newPuller(),
		Cluster:       a.newInfo(),
		Jobs:          a.nomad,
		Ready:         map[string]func(context.Context) error{"consul": a.consul.Ping, "nomad": a.nomad.Ping, "jetstream": a.store.Ping},
		SignedCalls:   s.signedCalls,
		RunnerArchive: runner.archive,
		MaxBody:       s.Limits.Payload,
		MaxOutput:     s.Limits.Output,
		BodyTime:      s.bodyTime,
		PollTime:      pollTime,
		Version:       versionInfo(),
		Logger:        a.log,
	}
	if a.dev {
		cfg.UnsignedAccount = devAccount
	}
	handlers := httpapi.New(cfg)
	a.handlers = handlers
	opened, err := a.openListeners(runner)
	if err != nil {
		return err
	}
	if opened.http != nil {
		a.http = a.serve(a.bound(opened.http), handlers.Handler(s.Runner.Mode == runnerHTTP), nil)
	}
	if opened.https != nil {
		a.https = a.serve(a.bound(opened.https), handlers.Handler(s.Runner.Mode == runnerHTTP), a.certificate.config())
		a.running.Go(func() { every(a.background, certificatePeriod, a.certificate.look) })
	}
	if opened.metrics != nil {
		a.metrics = a.serve(a.bound(opened.metrics), metricsHandler(a.store.Totals), nil)
	}
	if opened.runners != nil {
		a.runners = a.serve(a.bound(opened.runners), handlers.RunnerHandler(), nil)
	}
	return nil
}

// errStopping is why requests end that were still being answered.
var errStopping = api.Errorf(api.Unavailable, "the server is stopping")

// Stop takes no more requests, answers those that have begun within stopTime, hands its calls back and ends all that it has started. It
// returns when that is done, and may be called more than once.
func (a *agent) Stop() {
	a.stopping.Do(func() {
		a.drain()
		if a.scheduler != nil {
			a.scheduler.Stop()
		}
		a.cancel()
		if a.beforeRunners != nil {
			a.beforeRunners()
		}
		a.runners.stop(a.log, 0)
		a.metrics.stop(a.log, 0)
		if a.handlers != nil {
			a.handlers.Wait()
		}
		a.running.Wait()
		if a.store != nil {
			a.store.Close()
		}
		a.images.Close()
		a.consul.Close()
	})
}

// drain takes no more requests and answers those that have begun. Before, so that none comes here that could be answered elsewhere, it tells
// load balancers and Consul that it is about to stop.
func (a *agent) drain() {
	if a.http == nil && a.https == nil {
		return
	}
	finish := a.settings.finish
	if a.dev {
		finish = 0 // whoever has started it waits for its end
	} else if a.settings.drain > 0 {
		a.handlers.Announce()
		a.unregister()
		a.log.Info("the server takes requests until those who send them have heard that it stops", "drain", a.settings.drain)
		time.Sleep(a.settings.drain)
	}
	if a.runners == nil {
		// Containers come to another server once the listener is closed. Where they have a socket of their own, there is no other.
		polls := time.AfterFunc(pollGrace, a.handlers.EndPolls)
		defer polls.Stop()
	}
	var stopped sync.WaitGroup
	for _, listener := range []*server{a.http, a.https} {
		stopped.Go(func() { listener.stop(a.log, finish) })
	}
	stopped.Wait()
}

// pollGrace is how long after a server has begun to close its listener the containers that wait for a call are told to ask again.
const pollGrace = 100 * time.Millisecond

// stopContainers ends the containers of all functions, within stopTime.
func (a *agent) stopContainers() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if err := a.nomad.StopAll(ctx); err != nil {
		a.log.Warn("containers may still run", "error", err)
	}
}

// queue gives the scheduler its own interface for what the store delivers.
type queue struct{ *calls.Store }

var _ scheduler.Queue = queue{}

func (q queue) Consume(ctx context.Context, account string, quota int, deliver func(scheduler.Delivery)) (stop func(), err error) {
	return q.Store.Consume(ctx, account, quota, func(d *calls.Delivery) { deliver(d) })
}
