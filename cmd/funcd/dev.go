package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// devStack is the dev agents that --dev has started.
type devStack struct {
	log      *slog.Logger
	children []*child
	hasNomad bool // Nomad is one of them
}

// toolsVariable names a directory that nomad and consul are taken from before the PATH.
const toolsVariable = "FUNCD_TOOLS"

// devStart is how long an agent may take until it answers.
const devStart = 60 * time.Second

// startDevStack starts Consul and Nomad where their addresses do not answer, and waits until they do.
func startDevStack(ctx context.Context, s *settings, getenv func(string) string, log *slog.Logger) (*devStack, error) {
	dir, err := filepath.Abs(s.DataDir)
	if err != nil {
		return nil, err
	}
	stack := &devStack{log: log.With("component", "dev")}
	consulAddress := firstNonEmpty(s.Consul.Address, getenv("CONSUL_HTTP_ADDR"), "127.0.0.1:8500")
	nomadAddress := firstNonEmpty(s.Nomad.Address, getenv("NOMAD_ADDR"), "http://127.0.0.1:4646")
	for _, start := range []func() error{
		func() error { return stack.consul(ctx, consulAddress, dir, getenv) },
		func() error { return stack.nomad(ctx, nomadAddress, consulAddress, dir, getenv) },
	} {
		if err := start(); err != nil {
			stack.Stop()
			return nil, err
		}
	}
	if stack.hasNomad && s.Nomad.HostNetwork == "" {
		s.Nomad.HostNetwork = devHostNetwork
	}
	return stack, nil
}

func firstNonEmpty(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

func (d *devStack) consul(ctx context.Context, address, dir string, getenv func(string) string) error {
	ready := func(ctx context.Context) bool { return answers(ctx, endpoint(address)+leaderPath, isLeader) }
	if ready(ctx) {
		d.log.Info("using the Consul that answers", "address", address)
		return nil
	}
	port, err := loopbackPort("Consul", address)
	if err != nil {
		return err
	}
	free, err := freePorts(3)
	if err != nil {
		return err
	}
	return d.start(ctx, "consul", ready, dir, getenv, "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1",
		"-http-port="+port, "-server-port="+free[0], "-serf-lan-port="+free[1], "-serf-wan-port="+free[2],
		"-grpc-port=-1", "-grpc-tls-port=-1", "-dns-port=-1")
}

func (d *devStack) nomad(ctx context.Context, address, consulAddress, dir string, getenv func(string) string) error {
	if answers(ctx, endpoint(address)+leaderPath, isLeader) {
		d.log.Info("using the Nomad that answers", "address", address)
		return nil
	}
	// A call that comes before the node is ready would have to wait for a place.
	ready := func(ctx context.Context) bool { return answers(ctx, endpoint(address)+"/v1/nodes", hasReadyNode) }
	port, err := loopbackPort("Nomad", address)
	if err != nil {
		return err
	}
	free, err := freePorts(2)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "nomad-dev.hcl")
	config := fmt.Sprintf(nomadDevConfig, port, free[0], free[1], strings.TrimPrefix(endpoint(consulAddress), "http://"))
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	d.hasNomad = true
	return d.start(ctx, "nomad", ready, dir, getenv, "agent", "-dev", "-config="+file)
}

// devHostNetwork is where the dev agent's ports are published. Its default network has two addresses, each with a port of every number: a fixed
// port could be had twice.
const devHostNetwork = "ipv4"

// nomadDevConfig is a dev agent's. A second agent on the same Docker would remove the containers of the first, and any removes images that
// it does not need any more, which for one that exists only locally is for ever: both are switched off here.
const nomadDevConfig = `# Written by funcd agent --dev at each start.
bind_addr            = "127.0.0.1"
disable_update_check = true

ports {
  http = %s
  rpc  = %s
  serf = %s
}

consul {
  address = %q
}

# Six gauges for each function and each call that Nomad remembers, made every second and kept for a minute, would be most of its work and
# half of its memory where there are thousands.
telemetry {
  collection_interval                    = "10s"
  disable_dispatched_job_summary_metrics = true
  disable_hostname                       = true # which would stand before the name in the filter
  prefix_filter                          = ["-nomad.nomad.job_summary"]
}

client {
  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }
  host_network "ipv4" {
    cidr = "127.0.0.1/32"
  }
}

plugin "docker" {
  config {
    volumes {
      enabled = true
    }
    gc {
      image = false
      dangling_containers {
        enabled = false
      }
    }
  }
}
`

// start starts a program and returns when it is ready. It is started again whenever it ends by itself.
func (d *devStack) start(ctx context.Context, name string, ready func(context.Context) bool, dir string, getenv func(string) string, args ...string) error {
	program, err := findTool(name, getenv)
	if err != nil {
		return err
	}
	c := &child{
		name: name, program: program, args: args,
		logFile: filepath.Join(dir, name+".log"),
		log:     d.log.With("agent", name),
		stop:    make(chan struct{}), stopped: make(chan struct{}), ended: make(chan error, 1),
	}
	d.log.Info("starting a dev agent", "agent", name, "program", program, "log", c.logFile)
	go c.supervise()
	d.children = append(d.children, c)

	ctx, cancel := context.WithTimeout(ctx, devStart)
	defer cancel()
	for !ready(ctx) {
		select {
		case err := <-c.ended:
			return fmt.Errorf("%s has ended (%w), see %s", name, err, c.logFile)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s, see %s", name, devStart, c.logFile)
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// Stop ends what was started, the last first, and returns when it has ended.
func (d *devStack) Stop() {
	for i := len(d.children) - 1; i >= 0; i-- {
		d.children[i].Stop()
	}
	d.children = nil
}

// child is a program that is kept running.
type child struct {
	name, program string
	args          []string
	logFile       string
	log           *slog.Logger
	once          sync.Once
	stop          chan struct{} // closed to end it
	stopped       chan struct{} // closed when it has ended
	ended         chan error    // gets the reason when it ended by itself the first time
}

// childKill is how long a program may take to end after SIGTERM: a Nomad dev agent ends its containers first.
const childKill = 45 * time.Second

// supervise runs the program until Stop.
func (c *child) supervise() {
	defer close(c.stopped)
	// The kernel ends the program with the thread that has started it, so that a killed funcd leaves none behind.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const first, most = time.Second, 30 * time.Second
	for wait := first; ; wait = min(2*wait, most) {
		began := time.Now()
		err := c.run()
		select {
		case <-c.stop:
			return
		default:
		}
		if err == nil {
			err = errors.New("exit status 0")
		}
		select {
		case c.ended <- err:
		default:
		}
		if time.Since(began) > most {
			wait = first
		}
		c.log.Error("a dev agent has ended, starting it again", "error", err, "wait", wait, "log", c.logFile)
		select {
		case <-c.stop:
			return
		case <-time.After(wait):
		}
	}
}

// run runs the program once. It ends it when stop is closed.
func (c *child) run() error {
	output, err := os.OpenFile(c.logFile, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	cmd := exec.Command(c.program, c.args...)
	cmd.Stdout, cmd.Stderr = output, output
	// In a group of its own a Ctrl-C reaches funcd alone, which ends the program when it needs it no more.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case <-gone:
			return
		case <-c.stop:
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-gone:
		case <-time.After(childKill):
			c.log.Warn("a dev agent did not end in time and is killed", "after", childKill)
			_ = cmd.Process.Kill()
		}
	})
	err = cmd.Wait()
	close(gone)
	waiting.Wait()
	return err
}

// Stop ends the program and returns when it has ended.
func (c *child) Stop() {
	c.once.Do(func() { close(c.stop) })
	<-c.stopped
}

// findTool looks for nomad or consul where `make` puts them, then on the PATH.
func findTool(name string, getenv func(string) string) (string, error) {
	var dirs []string
	if dir := getenv(toolsVariable); dir != "" {
		dirs = append(dirs, dir)
	}
	if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self), filepath.Join(filepath.Dir(self), "..", ".bin"))
	}
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return filepath.Abs(path)
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("--dev needs the program %s on the PATH, or in the directory that %s names: %w", name, toolsVariable, err)
	}
	return path, nil
}

// endpoint is an address as a URL. Consul's may lack the scheme.
func endpoint(address string) string {
	if !strings.Contains(address, "://") {
		return "http://" + address
	}
	return strings.TrimSuffix(address, "/")
}

// loopbackPort is the port of an address that an agent may be started for.
func loopbackPort(name, address string) (string, error) {
	u, err := url.Parse(endpoint(address))
	if err != nil || u.Scheme != "http" || u.Port() == "" || checkLoopback(u.Host) != nil {
		return "", fmt.Errorf("%s does not answer at %s, and --dev starts one only for http on a loopback address with a port", name, address)
	}
	return u.Port(), nil
}

// leaderPath is where Nomad and Consul name the leader of their servers.
const leaderPath = "/v1/status/leader"

func isLeader(answer string) bool { return len(strings.Trim(answer, "\"\n ")) > 0 }

func hasReadyNode(answer string) bool { return strings.Contains(answer, `"Status":"ready"`) }

// answers tells whether a request for the URL is answered with what is right.
func answers(ctx context.Context, url string, right func(answer string) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return err == nil && resp.StatusCode == http.StatusOK && right(string(answer))
}

// freePorts returns ports that nothing listens on now.
func freePorts(n int) ([]string, error) {
	ports := make([]string, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // after all have been chosen, so that they differ
		ports[i] = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
