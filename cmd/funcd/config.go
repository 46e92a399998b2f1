package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
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
	Headers       int    `hcl:"headers,optional"`
	HeaderTime    string `hcl:"header_time,optional"`
	IdleTime      string `hcl:"idle_time,optional"`
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

			Headers:    maxHeaders,
			HeaderTime: "10s",
			IdleTime:   "2m",

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
	headerTime     time.Duration
	idleTime       time.Duration
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
	if err := c.checkAddresses(); err != nil {
		return nil, err
	}
	if err := s.checkBounds(); err != nil {
		return nil, err
	}
	if err := s.checkCallbacks(); err != nil {
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

// checkAddresses refuses what is no address, or no name, of a part that the server would wait for in vain.
func (c config) checkAddresses() error {
	switch {
	case c.DataDir == "":
		return errors.New("data_dir: must name a directory")
	case c.Consul.Service == "":
		return errors.New("consul.service: must be a name")
	}
	for _, a := range []struct {
		name, text, url string
		schemes         []string
	}{
		{"api_address", c.Address, c.Address, []string{"http", "https"}},
		{"consul.address", c.Consul.Address, endpoint(c.Consul.Address), []string{"http", "https", "unix"}},
		{"nomad.address", c.Nomad.Address, c.Nomad.Address, []string{"http", "https", "unix"}},
		{"nomad.ui_address", c.Nomad.UIAddress, c.Nomad.UIAddress, []string{"http", "https"}},
	} {
		if a.text != "" && !isURL(a.url, a.schemes...) {
			return fmt.Errorf(`%s: %q must be an address such as "http://127.0.0.1:80", with one of %s`, a.name, a.text, strings.Join(a.schemes, ", "))
		}
	}
	return nil
}

// isURL tells whether the text is a URL of one of these schemes that somebody could answer at.
func isURL(text string, schemes ...string) bool {
	u, err := url.Parse(text)
	return err == nil && slices.Contains(schemes, u.Scheme) && (u.Hostname() != "" || u.Scheme == "unix" && u.Path != "")
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
		if !isURL(r.Address, "http", "https") {
			return fmt.Errorf("runner.address: %q must begin with http:// or https:// and name a host", r.Address)
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
