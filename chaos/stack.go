package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/funcd/funcd/api"
)

// stack is all that the workload needs, each part a process of its own that can be killed.
type stack struct {
	cfg     config
	dir     string
	balance *balancer // where containers reach any funcd, with more than one

	consul, nomadServer, nomadClient, dockerd *process
	natsServers, funcd                        []*process
	natsURL, consulAddress, nomadURL, docker  string
	urls, metrics                             []string // of the funcd servers
	client                                    *api.Client

	mu    sync.Mutex
	wrong error // the first fault that could not be ended
}

// image is what the functions run, from the Docker that the tests use.
const image = "funcd-test/journal"

// The quota and the slots that the workload has. What Nomad runs for funcd may not exceed them.
const (
	quota     = 8
	slotTotal = 6
)

func (s *stack) process(name string, args []string, env ...string) *process {
	clean := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "NOMAD_") || strings.HasPrefix(v, "CONSUL_") || strings.HasPrefix(v, "DOCKER_")
	})
	// What they start has the directory in its environment too, so that it is found when they were killed.
	return &process{name: name, args: args, env: append(clean, append(env, "FUNCD_CHAOS="+s.dir+"/")...), log: logOf(s.dir, name)}
}

// of returns the processes of a part.
func (s *stack) of(part string) []*process {
	switch part {
	case "funcd":
		return s.funcd
	case "nats":
		return s.natsServers
	case "consul":
		return []*process{s.consul}
	case "nomad server":
		return []*process{s.nomadServer}
	case "nomad client":
		return []*process{s.nomadClient}
	case "dockerd":
		return []*process{s.dockerd}
	}
	return nil
}

// all returns the processes in the order of their start.
func (s *stack) all() []*process {
	var all []*process
	for _, part := range []string{"dockerd", "consul", "nomad server", "nomad client", "nats", "funcd"} {
		for _, p := range s.of(part) {
			if p != nil {
				all = append(all, p)
			}
		}
	}
	return all
}

func (s *stack) named(name string) *process {
	for _, p := range s.all() {
		if p.name == name {
			return p
		}
	}
	return nil
}

// startStack starts everything and returns when it is ready. stop it also after an error.
func startStack(ctx context.Context, cfg config, dir string) (*stack, error) {
	s := &stack{cfg: cfg, dir: dir}
	steps := []func(context.Context) error{s.describe, s.startDocker, s.startCluster, s.startFuncd, s.recovered}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return s, err
		}
	}
	return s, nil
}

// describe chooses addresses and writes configurations. It starts nothing but what is this program's own.
func (s *stack) describe(ctx context.Context) error {
	ports, err := freePorts(9 + 2*s.cfg.servers)
	if err != nil {
		return err
	}
	path := func(name string) string { return filepath.Join(s.dir, name) }
	nomad, err := exec.LookPath("nomad")
	if err != nil {
		return err
	}
	consul, err := exec.LookPath("consul")
	if err != nil {
		return err
	}
	s.docker = "unix://" + path("docker.sock")
	// With --bridge none it would remove the bridge docker0 of the machine's own Docker. Like this it leaves that as it is, and needs none.
	s.dockerd = s.process("dockerd", []string{"dockerd", "--data-root", path("docker"), "--exec-root", path("dx"), "--host", s.docker,
		"--pidfile", path("docker.pid"), "--iptables=false", "--ip6tables=false"})
	s.dockerd.prepare = func() {
		// A pid in a file of the daemon before may be another process's by now, or one that nobody has waited for.
		_ = os.Remove(path("docker.pid"))
		_ = os.Remove(path("dx/containerd/containerd.pid"))
	}
	s.consulAddress = "127.0.0.1:" + ports[0]
	s.consul = s.process("consul", []string{consul, "agent", "-server", "-bootstrap-expect=1", "-node=chaos", "-data-dir=" + path("consul"),
		"-bind=127.0.0.1", "-client=127.0.0.1", "-http-port=" + ports[0], "-server-port=" + ports[1], "-serf-lan-port=" + ports[2],
		"-serf-wan-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-dns-port=-1",
		"-hcl=performance { raft_multiplier = 1 }", "-hcl=disable_update_check = true", "-hcl=leave_on_terminate = false"})
	s.nomadURL = "http://127.0.0.1:" + ports[3]
	for name, text := range map[string]string{
		"nomad-server.hcl": fmt.Sprintf(nomadServerConfig, path("nomad-server"), ports[3], ports[4], ports[5], s.consulAddress),
		"nomad-client.hcl": fmt.Sprintf(nomadClientConfig, path("nomad-client"), ports[6], ports[7], ports[8], s.consulAddress, ports[4], volumeName, s.volume(), s.docker),
	} {
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	s.nomadServer = s.process("nomad-server", []string{nomad, "agent", "-config", path("nomad-server.hcl")})
	s.nomadClient = s.process("nomad-client", []string{nomad, "agent", "-config", path("nomad-client.hcl")})

	// Functions may run as any user.
	if err := errors.Join(os.Mkdir(s.volume(), 0o777), os.Chmod(s.volume(), 0o777)); err != nil {
		return err
	}
	if s.cfg.servers > 1 {
		if s.natsServers, err = s.nats(s.dir); err != nil {
			return err
		}
	}
	return s.describeFuncd(ports[9:])
}

// describeFuncd writes the configuration of the funcd servers.
func (s *stack) describeFuncd(ports []string) error {
	ports, metrics := ports[:s.cfg.servers], ports[s.cfg.servers:]
	runner := fmt.Sprintf("mode = \"socket\"\n  socket_dir = %q", filepath.Join(s.dir, "runner"))
	nats, level, limits := "", "debug", ""
	if s.cfg.soak > 0 {
		level, limits = "info", soakLimits
	}
	for _, port := range ports {
		s.urls = append(s.urls, "http://127.0.0.1:"+port)
	}
	if s.cfg.servers > 1 {
		var err error
		if s.balance, err = newBalancer(ports); err != nil {
			return err
		}
		runner = fmt.Sprintf("mode = \"http\"\n  address = %q", "http://"+s.balance.address())
		nats = fmt.Sprintf("nats {\n  url = %q\n  replicas = 3\n}\n", s.natsURL)
	}
	for i, port := range ports {
		name := fmt.Sprintf("funcd-%d", i+1)
		file := filepath.Join(s.dir, name+".hcl")
		s.metrics = append(s.metrics, "http://127.0.0.1:"+metrics[i]+"/metrics")
		text := fmt.Sprintf(funcdConfig, port, metrics[i], filepath.Join(s.dir, name), level, quota, slotTotal, runner, s.consulAddress, s.nomadURL, nats, limits, s.docker)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
		s.funcd = append(s.funcd, s.process(name, []string{filepath.Join(s.cfg.programs, "funcd"), "agent", "--config", file}))
	}
	return nil
}

func (s *stack) startDocker(ctx context.Context) error {
	if err := s.dockerd.start(); err != nil {
		return err
	}
	if err := s.until(ctx, "Docker", func() error { return exec.CommandContext(ctx, "docker", "--host", s.docker, "version").Run() }); err != nil {
		return err
	}
	load := exec.CommandContext(ctx, "sh", "-c", `docker save "$1" | docker --host "$2" load`, "sh", image, s.docker)
	if out, err := load.CombinedOutput(); err != nil {
		return fmt.Errorf("the image %s (scripts/examples test/journal makes it): %s", image, out)
	}
	return nil
}

func (s *stack) startCluster(ctx context.Context) error {
	for _, p := range append([]*process{s.consul, s.nomadServer, s.nomadClient}, s.natsServers...) {
		if err := p.start(); err != nil {
			return err
		}
	}
	if err := s.until(ctx, "the cluster", s.clusterReady); err != nil {
		return err
	}
	return s.registerVolume()
}

// clusterReady tells whether Consul has a leader and Nomad a node that runs containers.
func (s *stack) clusterReady() error {
	if leader, err := get("http://" + s.consulAddress + "/v1/status/leader"); err != nil || len(leader) < 4 {
		return fmt.Errorf("no leader of Consul: %w", err)
	}
	nodes, err := get(s.nomadURL + "/v1/nodes?filter=" + `Status+%3D%3D+"ready"`)
	if err == nil && !strings.Contains(nodes, `"Healthy":true`) {
		err = fmt.Errorf("no node is ready: %.200s", nodes)
	}
	return err
}

var newKey = regexp.MustCompile(`Access key: (\S+)\nSecret key: (\S+)\n`)

func (s *stack) startFuncd(ctx context.Context) error {
	make := exec.CommandContext(ctx, s.funcd[0].args[0], "credential", "--config", s.funcd[0].args[3], "create", "--account", "chaos")
	make.Env = s.funcd[0].env
	out, err := make.CombinedOutput()
	key := newKey.FindSubmatch(out)
	if err != nil || key == nil {
		return fmt.Errorf("no access key: %w: %s", err, out)
	}
	if s.client, err = api.NewClient(api.ClientConfig{Address: s.urls[0], AccessKey: string(key[1]), SecretKey: string(key[2])}); err != nil {
		return err
	}
	for _, p := range s.funcd {
		if err := p.start(); err != nil {
			return err
		}
	}
	return nil
}

// recovered waits until all parts run and answer.
func (s *stack) recovered(ctx context.Context) error {
	s.mu.Lock()
	wrong := s.wrong
	s.mu.Unlock()
	if wrong != nil {
		return wrong
	}
	return s.until(ctx, "the stack", func() error {
		if err := s.clusterReady(); err != nil {
			return err
		}
		for _, url := range s.urls {
			if _, err := get(url + "/readyz"); err != nil {
				return err
			}
		}
		return nil
	})
}

// startPatience is how long everything may take to be ready, on a busy machine.
const startPatience = 3 * time.Minute

func (s *stack) until(ctx context.Context, what string, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// stop ends everything, and what may be left of containers and mounts.
func (s *stack) stop() error {
	var errs []error
	all := s.all()
	for _, p := range slices.Backward(all) {
		if p == s.dockerd {
			continue
		}
		// What they leave behind is this stack's own, and goes with it.
		if err := p.end(syscall.SIGTERM, stopPatience); err != nil && strings.HasPrefix(p.name, "funcd") {
			errs = append(errs, err)
		}
	}
	if s.dockerd != nil {
		if out, err := exec.Command("docker", "--host", s.docker, "ps", "--all", "--quiet").Output(); err == nil && len(out) > 0 {
			_ = exec.Command("docker", append([]string{"--host", s.docker, "rm", "--force"}, strings.Fields(string(out))...)...).Run()
		}
		_ = s.dockerd.end(syscall.SIGTERM, stopPatience)
	}
	// What a killed Nomad client has started beside containers: it collects their logs.
	for _, pid := range s.orphans() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if s.balance != nil {
		s.balance.stop()
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[1]; strings.HasPrefix(at, s.dir+"/") {
			if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
				errs = append(errs, fmt.Errorf("unmounting %s: %w", at, err))
			}
		}
	}
	return errors.Join(errs...)
}

// orphans returns processes that were started for this stack's directory by those that were killed.
func (s *stack) orphans() []int {
	var all []int
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/cmdline", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(file)
		environ, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "environ"))
		if bytes.Contains(cmdline, []byte(s.dir+"/")) || bytes.Contains(environ, []byte(s.dir+"/")) {
			all = append(all, pid)
		}
	}
	return all
}

// crashes returns what the logs of the funcd servers say of panics and data races, by the servers' names.
func (s *stack) crashes() map[string]string {
	found := map[string]string{}
	for _, p := range s.funcd {
		log, err := os.ReadFile(p.log)
		if err != nil {
			found[p.name] = err.Error()
			continue
		}
		for _, sign := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: ", "a call has panicked"} {
			if _, report, ok := bytes.Cut(log, []byte(sign)); ok {
				found[p.name] = fmt.Sprintf("%s%.2000s", sign, report)
			}
		}
	}
	return found
}

// fault notes that a part could not be brought back.
func (s *stack) fault(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wrong == nil {
		s.wrong = err
	}
}

func (s *stack) note(format string, v ...any) { fmt.Fprintf(s.cfg.out, format+"\n", v...) }

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true}}

// get returns the body of an answer 200.
func get(url string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", url, resp.Status, body)
	}
	return string(body), err
}
