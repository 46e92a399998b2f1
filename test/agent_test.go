//go:build integration

package test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// TestAgentEndsWithAllThatItStarted starts a whole stack twice with the same data and ends it in two ways, while a call runs.
func TestAgentEndsWithAllThatItStarted(t *testing.T) {
	t.Parallel()
	free, err := freePorts(2)
	require.NoError(t, err)
	o := options{nomad: "http://127.0.0.1:" + free[0], consul: "127.0.0.1:" + free[1]}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		own := startOwn(t, "agent", o)
		require.GreaterOrEqual(t, len(childrenOf(own.cmd.Process.Pid)), 2, "its Nomad and its Consul")
		require.Equal(t, "HelloWorld\n", own.create(t, cold(program("funcd/hello"))).sync(t, "").body)
		waits := own.create(t, warm(1, program("funcd/hello")))
		waits.awaitReady(t, 1)
		slow := own.create(t, cold(program("funcd/sleep", "600")))
		slow.eventsOf(t, slow.call(t, ""), api.Running)
		children := childrenOf(own.cmd.Process.Pid)
		allocations, err := own.allocations()
		require.NoError(t, err)
		require.Len(t, allocations, 3, "a call that has ended, one that runs, and a container that waits for one")

		begin := time.Now()
		require.NoError(t, own.stop(signal), signal)
		require.Less(t, time.Since(begin), 2*time.Minute, "whatever its calls would take")
		require.Contains(t, readFile(t, own.logFile), "funcd is stopping")
		left, err := processes(mark())
		require.NoError(t, err)
		for _, pid := range children {
			require.NotContains(t, left, pid, "what it has started ends before it")
		}
		require.NoError(t, noContainers(allocations), signal)
	}
}

// runFuncd runs a command that is to end by itself.
func runFuncd(t *testing.T, args ...string) (status int, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	made := funcd(options{nomad: dev.nomad, consul: dev.consul}, args...)
	cmd := exec.CommandContext(ctx, made.Path, args...)
	cmd.Env = made.Env
	var out bytes.Buffer
	cmd.Stderr = &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil {
		require.True(t, errors.As(err, &exit), "%v", err)
	}
	require.NoError(t, ctx.Err(), "it did not end: %s", &out)
	return cmd.ProcessState.ExitCode(), out.String()
}

func TestWrongCommandLinesAndConfigurationsAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, c := range map[string]struct {
		args   []string
		config string
		want   string
	}{
		"no flags":              {[]string{"agent"}, "", "agent needs --config FILE, or --dev"},
		"an unknown flag":       {[]string{"agent", "--none"}, "", "unknown flag: --none"},
		"an open --dev":         {[]string{"agent", "--dev", "--http", "0.0.0.0:0"}, "", "must be a loopback address"},
		"an open --dev by IPv6": {[]string{"agent", "--dev", "--http", "[::]:0"}, "", "must be a loopback address"},
		"no such file":          {[]string{"agent", "--config", dir + "/none.hcl"}, "", "none.hcl: no such file"},
		"an unknown key":        {nil, "quota = 1\nquotas = 2\n", "FILE:2,1-7: Unsupported argument"},
		"an unknown block":      {nil, "\nlimit {\n}\n", "FILE:2,1-6: Unsupported block type"},
		"a wrong type":          {nil, "limits {\n  payload = \"much\"\n}\n", "FILE:2,14-18: Unsuitable value type"},
		"no HCL":                {nil, "quota = \n", "FILE:1,"},
		"a value":               {nil, "quota = 0\n", "quota: must be at least 1"},
		"a size":                {nil, "size \"xl\" {\n  memory = 1\n}\n", "size \"xl\": must be one of s1"},
		"a runner":              {nil, "runner {\n  mode = \"http\"\n}\n", "runner.address: is required"},
	} {
		if c.config != "" {
			file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".hcl")
			require.NoError(t, os.WriteFile(file, []byte(c.config), 0o600))
			c.args = []string{"agent", "--config", file, "--http", "127.0.0.1:0", "--data-dir", dir}
			c.want = strings.ReplaceAll(c.want, "FILE", file)
		}
		status, stderr := runFuncd(t, c.args...)
		require.Equal(t, 2, status, "%s: %s", name, stderr)
		require.True(t, strings.HasPrefix(stderr, "funcd: "), "%s: %s", name, stderr)
		require.Contains(t, stderr, c.want, name)
	}
}

func TestSecondFuncdOnTheSameDataIsRefused(t *testing.T) {
	t.Parallel()
	status, stderr := runFuncd(t, "agent", "--dev", "--http", "127.0.0.1:0", "--data-dir", dev.data())
	require.Equal(t, 1, status, stderr)
	require.Contains(t, stderr, "funcd: ")
	require.Equal(t, "HelloWorld\n", dev.create(t, program("funcd/hello")).sync(t, "").body, "the first goes on")
}
