package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/funcd/funcd/api"
)

// stack is a funcd with a Nomad and a Consul of its own.
type stack struct {
	dir     string
	nomad   string // URL
	client  *api.Client
	version string
	cmd     *exec.Cmd
	ended   chan error

	funcd, nomadAgent, consulAgent process
}

// quota is how many calls are executed at once, and how many raw dispatches.
const quota = 16

// configuration is the stack's, apart from addresses. No machine has room for a function of the size l3: its calls wait.
const configuration = `
quota = %[1]d
slots {
  function = %[1]d
  account  = 50
}
size "l3" {
  cpu    = 1000
  memory = 1000000000
}
`

// startStack starts bin/funcd and waits until all of it answers.
func startStack(ctx context.Context) (s *stack, err error) {
	addresses, err := freeAddresses(3)
	if err != nil {
		return nil, err
	}
	s = &stack{nomad: "http://" + addresses[1], ended: make(chan error, 1)}
	if s.dir, err = os.MkdirTemp("", "funcd-bench-"); err != nil {
		return nil, err
	}
	if s.client, err = api.NewClient(api.ClientConfig{Address: "http://" + addresses[0]}); err != nil {
		return nil, err
	}
	version, err := exec.CommandContext(ctx, "bin/funcd", "version").Output()
	if err != nil {
		return nil, fmt.Errorf("bin/funcd (make build makes it): %w", err)
	}
	if _, err := fmt.Sscanf(string(version), "funcd %s", &s.version); err != nil {
		return nil, err
	}
	s.version = string(bytes.TrimRight([]byte(s.version), ","))

	log, err := os.Create(filepath.Join(s.dir, "funcd.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	config := filepath.Join(s.dir, "funcd.hcl")
	if err := os.WriteFile(config, fmt.Appendf(nil, configuration, quota), 0o600); err != nil {
		return nil, err
	}
	s.cmd = exec.Command("bin/funcd", "agent", "--dev", "--config", config, "--http", addresses[0], "--data-dir", s.dir)
	s.cmd.Env = append(os.Environ(), "NOMAD_ADDR="+s.nomad, "CONSUL_HTTP_ADDR="+addresses[2])
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// A Ctrl-C ends this program, which then ends the stack.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.ended <- s.cmd.Wait() }()
	if err := s.waitReady(ctx, "http://"+addresses[0]+"/readyz"); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	if err := s.findProcesses(); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *stack) findProcesses() (err error) {
	s.funcd = process(s.cmd.Process.Pid)
	if s.nomadAgent, err = child(s.funcd, "nomad"); err != nil {
		return err
	}
	s.consulAgent, err = child(s.funcd, "consul")
	return err
}

func (s *stack) waitReady(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if s.get(ctx, url, nil) == nil {
			return nil
		}
		select {
		case err := <-s.ended:
			s.ended <- err
			return fmt.Errorf("funcd has ended (%v), see %s", err, s.dir)
		case <-ctx.Done():
			return fmt.Errorf("funcd is not ready, see %s", s.dir)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Stop ends the stack, and removes its files if it ended well.
func (s *stack) Stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := <-s.ended; err != nil {
		return fmt.Errorf("funcd: %w, see %s", err, s.dir)
	}
	return os.RemoveAll(s.dir)
}

// get requests a URL and decodes the JSON answer into v, unless it is nil.
func (s *stack) get(ctx context.Context, url string, v any) error {
	return s.request(ctx, http.MethodGet, url, nil, v)
}

func (s *stack) request(ctx context.Context, method, url string, in, out any) error {
	_, err := s.requestIndex(ctx, method, url, in, out)
	return err
}

// requestIndex is request, and returns the index that Nomad's next answer may be waited for with.
func (s *stack) requestIndex(ctx context.Context, method, url string, in, out any) (index string, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, answer)
	}
	if out == nil {
		return "", nil
	}
	return resp.Header.Get("X-Nomad-Index"), json.Unmarshal(answer, out)
}

// freeAddresses returns loopback addresses that nothing listens on now.
func freeAddresses(n int) ([]string, error) {
	addresses := make([]string, n)
	for i := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // after all have been chosen, so that they differ
		addresses[i] = l.Addr().String()
	}
	return addresses, nil
}
