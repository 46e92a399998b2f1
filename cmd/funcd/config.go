package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/calls"
	"github.com/funcd/funcd/images"
	"github.com/funcd/funcd/jobs"
	"github.com/funcd/funcd/nomad"
	"github.com/funcd/funcd/scheduler"
)

// config is the configuration file. configs/funcd.hcl shows and explains every setting; the defaults are in defaultConfig.
type config struct {
	HTTP     string `hcl:"http,optional"`
	Address  string `hcl:"api_address,optional"`
	Metrics  string `hcl:"metrics,optional"`
	DataDir  string `hcl:"data_dir,optional"`
	LogLevel string `hcl:"log_level,optional"`
	Quota    int    `hcl:"quota,optional"`

	HTTPS  *httpsConfig  `hcl:"https,block"`
	Limits *limitsConfig `hcl:"limits,block"`
	Runner *runnerConfig `hcl:"runner,block"`
	Consul *consulConfig `hcl:"consul,block"`
	Nomad  *nomadConfig  `hcl:"nomad,block"`
	NATS   *natsConfig   `hcl:"nats,block"`
	Docker *dockerConfig `hcl:"docker,block"`
	Slots  *slotsConfig  `hcl:"slots,block"`
	Stop   *stopConfig   `hcl:"stop,block"`
	Sizes  []sizeConfig  `hcl:"size,block"`

	Idempotency *idempotencyConfig `hcl:"idempotency,block"`
	Dead        *deadConfig        `hcl:"dead,block"`
	Callbacks   *callbacksConfig   `hcl:"callbacks,block"`

	Registries []registryConfig `hcl:"registry,block"`
	Accounts   []accountConfig  `hcl:"account,block"`
}

type httpsConfig struct {
	Address  string `hcl:"address"`
	CertFile string `hcl:"cert_file"`
	KeyFile  string `hcl:"key_file"`
}

type limitsConfig struct {
	Payload       int    `hcl:"payload,optional"`
	Output        int    `hcl:"output,optional"`
	QueuedCalls   int    `hcl:"queued_calls,optional"`
	QueuedBytes   int    `hcl:"queued_bytes,optional"`
	Starts        int    `hcl:"starts,optional"`
	Connections   int    `hcl:"connections,optional"`
	DiskFree      int    `hcl:"disk_free,optional"`
	StoredOutputs int    `hcl:"stored_outputs,optional"`
	StoredLogs    int    `hcl:"stored_logs,optional"`
	KeptCalls     int    `hcl:"kept_calls,optional"`
	KeptTime      string `hcl:"kept_time,optional"`
	BodyTime      string `hcl:"body_time,optional"`
	WriteTime     string `hcl:"write_time,optional"`
	CallLease     string `hcl:"call_lease,optional"`
	Pulls         int    `hcl:"pulls,optional"`
	PullTime      string `hcl:"pull_time,optional"`
	OrphanTime    string `hcl:"orphan_time,optional"`
	RetryPause    string `hcl:"retry_pause,optional"`
	RetryPauseMax string `hcl:"retry_pause_max,optional"`

	OutputTime     string `hcl:"output_time,optional"`
	UnfetchedTime  string `hcl:"unfetched_time,optional"`
	UnfetchedCalls int    `hcl:"unfetched_calls,optional"`
}

type runnerConfig struct {
	Mode      string `hcl:"mode,optional"`
	Path      string `hcl:"path,optional"`
	SocketDir string `hcl:"socket_dir,optional"`
	Address   string `hcl:"address,optional"`
	CAFile    string `hcl:"ca_file,optional"`
	Patience  string `hcl:"patience,optional"`
}

type consulConfig struct {
	Address string `hcl:"address,optional"`
	Token   string `hcl:"token,optional"`
	Prefix  string `hcl:"prefix,optional"`
	Service string `hcl:"service,optional"`
}

type nomadConfig struct {
	Address        string   `hcl:"address,optional"`
	Token          string   `hcl:"token,optional"`
	Region         string   `hcl:"region,optional"`
	Namespace      string   `hcl:"namespace,optional"`
	Datacenters    []string `hcl:"datacenters,optional"`
	NodePool       string   `hcl:"node_pool,optional"`
	Priority       int      `hcl:"priority,optional"`
	MaxKillTimeout string   `hcl:"max_kill_timeout,optional"`
	PidsLimit      int      `hcl:"pids_limit,optional"`
	Variables      bool     `hcl:"variables,optional"`
	HostNetwork    string   `hcl:"host_network,optional"`
	UIAddress      string   `hcl:"ui_address,optional"`
	DeadTime       string   `hcl:"dead_time,optional"`
	DeadJobs       int      `hcl:"dead_jobs,optional"`
	PurgeRate      int      `hcl:"purge_rate,optional"`
	CapDrop        []string `hcl:"cap_drop,optional"`
}

type natsConfig struct {
	URL      string `hcl:"url,optional"`
	Replicas int    `hcl:"replicas,optional"`
}

type dockerConfig struct {
	Host string `hcl:"host,optional"`
}

type registryConfig struct {
	Host         string `hcl:"host,label"`
	Account      string `hcl:"account,optional"`
	Username     string `hcl:"username"`
	Password     string `hcl:"password,optional"`
	PasswordFile string `hcl:"password_file,optional"`
}

type slotsConfig struct {
	Function int    `hcl:"function,optional"`
	Account  int    `hcl:"account,optional"`
	Total    int    `hcl:"total,optional"`
	Idle     string `hcl:"idle,optional"`
}

type stopConfig struct {
	Drain  string `hcl:"drain,optional"`
	Finish string `hcl:"finish,optional"`
}

type sizeConfig struct {
	Name      string `hcl:"name,label"`
	CPU       int    `hcl:"cpu,optional"`
	Cores     int    `hcl:"cores,optional"`
	Memory    int    `hcl:"memory"`
	MemoryMax int    `hcl:"memory_max,optional"`
	NodePool  string `hcl:"node_pool,optional"`
}

const mebibyte = 1 << 20

// The ways in which a container gets its runner.
const (
	runnerSocket = "socket"
	runnerHTTP   = "http"
)

func defaultConfig() config {
	return config{
		HTTP:     "127.0.0.1:3862",
		DataDir:  "./funcd-data",
		LogLevel: "info",
		Quota:    10,
		Limits: &limitsConfig{
			Payload:       mebibyte,
			Output:        mebibyte,
			QueuedCalls:   calls.DefaultQueueCalls,
			QueuedBytes:   calls.DefaultQueueBytes,
			Connections:   20_000,
			DiskFree:      calls.DefaultDiskFree,
			Starts:        6,
			StoredOutputs: calls.DefaultOutputBytes,
			StoredLogs:    calls.DefaultLogBytes,
			KeptCalls:     calls.DefaultKeptCalls,

			OutputTime:     "72h",
			UnfetchedTime:  "168h",
			UnfetchedCalls: calls.DefaultUnfetchedCalls,

			KeptTime:      "720h",
			BodyTime:      "1m",
			WriteTime:     "1m",
			CallLease:     calls.DefaultLease.String(),
			Pulls:         images.DefaultPulls,
			PullTime:      images.DefaultPullTime.String(),
			OrphanTime:    "1h",
			RetryPause:    "1s",
			RetryPauseMax: "5m",
		},
		Runner: &runnerConfig{Mode: runnerSocket, Patience: "10m"},
		Consul: &consulConfig{Prefix: "funcd", Service: "funcd"},
		Nomad: &nomadConfig{
			Datacenters: []string{"*"}, Priority: 50, MaxKillTimeout: "30s", PidsLimit: 1024, Variables: true,
			DeadTime: "1h", DeadJobs: 500, PurgeRate: nomad.DefaultPurgeRate,
		},
		NATS:   &natsConfig{Replicas: 1},
		Docker: &dockerConfig{Host: "unix:///var/run/docker.sock"},
		Slots:  &slotsConfig{Function: 10, Account: 20, Total: 100, Idle: "5m"},
		Stop:   &stopConfig{Drain: "5s", Finish: "15s"},

		Idempotency: &idempotencyConfig{Time: calls.DefaultKeyTime.String(), Keys: calls.DefaultKeys},
		Dead:        &deadConfig{Calls: calls.DefaultDeadCalls, Bytes: calls.DefaultDeadBytes, Time: calls.DefaultDeadTime.String()},
		Callbacks:   defaultCallbacks(),
	}
}

// loadConfig reads a configuration file over the defaults. An unknown key, a wrong type or value is an error with the file and the line.
func loadConfig(path string) (config, error) {
	c := defaultConfig()
	if path == "" {
		return c, nil
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return config{}, err
	}
	file, diagnostics := hclparse.NewParser().ParseHCL(source, path)
	if !diagnostics.HasErrors() {
		diagnostics = append(diagnostics, gohcl.DecodeBody(file.Body, nil, &c)...)
	}
	if diagnostics.HasErrors() {
		return config{}, errors.New(describe(diagnostics))
	}
	return c, nil
}

// describe puts each error on a line of its own that an editor can jump to.
func describe(diagnostics hcl.Diagnostics) string {
	var lines []string
	for _, err := range diagnostics.Errs() {
		lines = append(lines, err.Error())
	}
	return strings.Join(lines, "\n")
}

// settings is a config that was found to make sense.
type settings struct {
	config
	level          slog.Level
	bodyTime       time.Duration
	writeTime      time.Duration
	outputTime     time.Duration
	unfetchedTime  time.Duration
	lease          time.Duration
	pullTime       time.Duration
	maxKillTimeout time.Duration
	patience       time.Duration
	idle           time.Duration
	drain, finish  time.Duration
	orphanTime     time.Duration
	keptTime       time.Duration
	keyTime        time.Duration
	deadLetterTime time.Duration
	callbacks      callbackSettings
	retry          scheduler.Retry
	deadTime       time.Duration
	sizes          map[string]jobs.Size
	logins         []images.Login
	placement      jobs.Placement            // of accounts without a block of their own
	placements     map[string]jobs.Placement // of the others
}

// functionPolicy is what the account's new functions may ask for.
func (s *settings) functionPolicy(account string) api.Policy {
	p := s.policy(account)
	p.MaxKeep = s.keptTime
	return p
}

// check makes settings of a config. The error names the setting.
func (c config) check() (*settings, error) {
	s := &settings{config: c, sizes: jobs.DefaultSizes()}
	if err := s.level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return nil, fmt.Errorf("log_level: %q must be debug, info, warn or error", c.LogLevel)
	}
	if _, _, err := net.SplitHostPort(c.HTTP); err != nil && c.HTTP != "" {
		return nil, fmt.Errorf("http: %q must be of the form host:port", c.HTTP)
	}
	if err := c.checkHTTPS(); err != nil {
		return nil, err
	}
	if _, _, err := net.SplitHostPort(c.Metrics); err != nil && c.Metrics != "" {
		return nil, fmt.Errorf("metrics: %q must be of the form host:port", c.Metrics)
	}
	for name, d := range map[string]struct {
		text string
		to   *time.Duration
	}{
		"limits.body_time":       {c.Limits.BodyTime, &s.bodyTime},
		"limits.write_time":      {c.Limits.WriteTime, &s.writeTime},
		"limits.output_time":     {c.Limits.OutputTime, &s.outputTime},
		"limits.unfetched_time":  {c.Limits.UnfetchedTime, &s.unfetchedTime},
		"limits.call_lease":      {c.Limits.CallLease, &s.lease},
		"limits.pull_time":       {c.Limits.PullTime, &s.pullTime},
		"limits.orphan_time":     {c.Limits.OrphanTime, &s.orphanTime},
		"limits.kept_time":       {c.Limits.KeptTime, &s.keptTime},
		"limits.retry_pause":     {c.Limits.RetryPause, &s.retry.First},
		"limits.retry_pause_max": {c.Limits.RetryPauseMax, &s.retry.Most},
		"nomad.dead_time":        {c.Nomad.DeadTime, &s.deadTime},
		"runner.patience":        {c.Runner.Patience, &s.patience},
		"slots.idle":             {c.Slots.Idle, &s.idle},
		"nomad.max_kill_timeout": {c.Nomad.MaxKillTimeout, &s.maxKillTimeout},
	} {
		value, err := time.ParseDuration(d.text)
		if err != nil || value <= 0 {
			return nil, fmt.Errorf(`%s: %q must be a duration such as "30s"`, name, d.text)
		}
		*d.to = value
	}
	for name, d := range map[string]struct {
		text string
		to   *time.Duration
	}{"stop.drain": {c.Stop.Drain, &s.drain}, "stop.finish": {c.Stop.Finish, &s.finish}} {
		value, err := time.ParseDuration(d.text)
		if err != nil || value < 0 {
			return nil, fmt.Errorf(`%s: %q must be a duration such as "5s", or "0s"`, name, d.text)
		}
		*d.to = value
	}
	positive := map[string]int{
		"nomad.purge_rate": c.Nomad.PurgeRate,
		"quota":            c.Quota, "nats.replicas": c.NATS.Replicas, "nomad.priority": c.Nomad.Priority,
		"limits.queued_calls": c.Limits.QueuedCalls, "limits.queued_bytes": c.Limits.QueuedBytes,
		"limits.starts": c.Limits.Starts, "limits.pulls": c.Limits.Pulls,
		"limits.payload": c.Limits.Payload, "limits.output": c.Limits.Output,
		"limits.stored_outputs": c.Limits.StoredOutputs, "limits.stored_logs": c.Limits.StoredLogs,
		"limits.kept_calls": c.Limits.KeptCalls, "limits.connections": c.Limits.Connections,
		"limits.unfetched_calls": c.Limits.UnfetchedCalls,
	}
	for _, name := range slices.Sorted(maps.Keys(positive)) {
		if positive[name] < 1 {
			return nil, fmt.Errorf("%s: must be at least 1", name)
		}
	}
	for name, value := range map[string]int{"limits.payload": c.Limits.Payload, "limits.output": c.Limits.Output} {
		if value > mebibyte {
			return nil, fmt.Errorf("%s: must be at most %d: a call travels as one message", name, mebibyte)
		}
	}
	for name, value := range map[string]int{"slots.function": c.Slots.Function, "slots.account": c.Slots.Account, "slots.total": c.Slots.Total,
		"nomad.dead_jobs": c.Nomad.DeadJobs, "limits.disk_free": c.Limits.DiskFree} {
		if value < 0 {
			return nil, fmt.Errorf("%s: must not be negative", name)
		}
	}
	if err := errors.Join(s.checkIdempotency(), s.checkDead(), s.checkCallbacks()); err != nil {
		return nil, err
	}
	for _, size := range c.Sizes {
		if !slices.Contains(api.Sizes, size.Name) {
			return nil, fmt.Errorf("size %q: must be one of %s", size.Name, strings.Join(api.Sizes, ", "))
		}
		s.sizes[size.Name] = jobs.Size{CPU: size.CPU, Cores: size.Cores, Memory: size.Memory, MemoryMax: size.MemoryMax, NodePool: size.NodePool}
	}
	if err := (&jobs.Options{Sizes: s.sizes}).ValidateSizes(); err != nil {
		return nil, err
	}
	for i, name := range c.Nomad.CapDrop {
		var err error
		if s.Nomad.CapDrop[i], err = jobs.Capability(name); err != nil {
			return nil, fmt.Errorf("nomad.cap_drop: %w", err)
		}
	}
	if err := c.checkAccounts(); err != nil {
		return nil, err
	}
	if err := s.place(); err != nil {
		return nil, err
	}
	for _, r := range c.Registries {
		login := r.login()
		if err := login.Validate(); err != nil {
			return nil, fmt.Errorf("registry %q: %w", r.Host, err)
		}
		if r.Account != "" && !api.ValidAccount(r.Account) {
			return nil, fmt.Errorf("registry %q: account %q is not an account's name", r.Host, r.Account)
		}
		if slices.ContainsFunc(s.logins, func(l images.Login) bool { return l.Registry == r.Host && l.Account == r.Account }) {
			return nil, fmt.Errorf("registry %q: there is another one for the account %q", r.Host, r.Account)
		}
		s.logins = append(s.logins, login)
	}
	if c.Limits.StoredOutputs < c.Limits.Output {
		return nil, fmt.Errorf("limits.stored_outputs: must be at least limits.output, %d", c.Limits.Output)
	}
	return s, s.checkRunner()
}

func (r registryConfig) login() images.Login {
	return images.Login{Registry: r.Host, Account: r.Account, Username: r.Username, Password: r.Password, PasswordFile: r.PasswordFile}
}

func (c config) checkHTTPS() error {
	if c.HTTPS == nil {
		if c.HTTP == "" {
			return errors.New("http: the server needs an address here, or an https block")
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(c.HTTPS.Address); err != nil {
		return fmt.Errorf("https.address: %q must be of the form host:port", c.HTTPS.Address)
	}
	return nil
}

func (s *settings) checkRunner() error {
	r := s.Runner
	switch r.Mode {
	case runnerSocket:
		if r.SocketDir == "" {
			r.SocketDir = filepath.Join(s.DataDir, "runner")
		}
	case runnerHTTP:
		if r.Address == "" {
			return errors.New(`runner.address: is required with mode "http": where containers reach this server, such as "http://10.0.0.5:3862"`)
		}
		if !strings.HasPrefix(r.Address, "http://") && !strings.HasPrefix(r.Address, "https://") {
			return fmt.Errorf("runner.address: %q must begin with http:// or https://", r.Address)
		}
		// Few images have certificates of their own.
		if strings.HasPrefix(r.Address, "https://") && r.CAFile == "" {
			return errors.New("runner.ca_file: is required with an address that begins with https://")
		}
	default:
		return fmt.Errorf("runner.mode: %q must be socket or http", r.Mode)
	}
	if r.Path == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("runner.path: %w", err)
		}
		r.Path = filepath.Join(filepath.Dir(self), jobs.RunnerFile)
	}
	if _, err := os.Stat(r.Path); err != nil {
		return fmt.Errorf("runner.path: the program that goes into containers is not there: %w", err)
	}
	return nil
}
