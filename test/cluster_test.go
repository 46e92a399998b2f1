//go:build integration

package test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// nodeConfig is a Nomad client beside dev's own, in a node pool of its own so that no other test's call comes to it.
const nodeConfig = `
name                 = %[1]q
data_dir             = %[2]q
bind_addr            = "127.0.0.1"
disable_update_check = true

ports {
  http = %[3]s
  rpc  = %[4]s
  serf = %[5]s
}

advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

consul {
  address          = %[6]q
  auto_advertise   = false
  client_auto_join = false
}

client {
  enabled   = true
  node_pool = %[9]q
  servers   = [%[7]q]
  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }
  %[8]s
}

plugin "docker" {
  config {
    extra_labels = ["node_name"]
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

// startNode starts a Nomad client of dev's Nomad, in the node pool of its name, and returns when a job can run on it. kill ends it with
// SIGKILL, as a machine that loses its power ends, and what it had running beside the containers. more goes into the client's configuration.
func startNode(t *testing.T, name string, more ...string) (kill func()) {
	t.Helper()
	return startNodeIn(t, name, name, more...)
}

// startNodeIn is startNode in another node pool.
func startNodeIn(t *testing.T, pool, name string, more ...string) (kill func()) {
	t.Helper()
	owns(t, "node", name)
	rpc := regexp.MustCompile(`(?m)^\s*rpc\s*=\s*([0-9]+)`).FindStringSubmatch(readFile(t, filepath.Join(dev.data(), "nomad-dev.hcl")))
	require.NotNil(t, rpc, "the port of Nomad's servers")
	free, err := freePorts(3)
	require.NoError(t, err)
	dir := filepath.Join(root, name+"-node")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	file := filepath.Join(dir, "nomad.hcl")
	config := fmt.Sprintf(nodeConfig, name, filepath.Join(dir, "data"), free[0], free[1], free[2], dev.consul, "127.0.0.1:"+rpc[1],
		strings.Join(more, "\n  "), pool)
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	output, err := os.Create(filepath.Join(dir, "nomad.log"))
	require.NoError(t, err)
	defer output.Close()
	program, err := tool("nomad")
	require.NoError(t, err)
	cmd := exec.Command(program, "agent", "-config", file)
	mark := "FUNCD_TEST_NODE=" + name
	cmd.Env = append(funcd(dev.options).Env, mark)
	cmd.Stdout, cmd.Stderr = output, output
	require.NoError(t, cmd.Start())
	kill = func() {
		if cmd.ProcessState != nil {
			return
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
		// What it has started, one that was about to begin among them, is known by its environment.
		eventually(t, "the end of what the node had running", func() bool {
			left, err := processes(mark)
			if err != nil {
				t.Error(err)
			}
			for pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return len(left) == 0
		})
	}
	t.Cleanup(func() {
		kill()
		if err := removeContainersOf(name); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(readFile(t, output.Name()))
		}
		unmount(t, func(at string) bool { return strings.HasPrefix(at, dir+"/") })
	})
	eventually(t, "the second node", func() bool {
		var nodes []struct {
			Name, Status string
			Drivers      map[string]struct{ Healthy bool }
		}
		dev.nomadGet(t, "/v1/nodes", &nodes)
		for _, node := range nodes {
			if node.Name == name && node.Status == "ready" && node.Drivers["docker"].Healthy {
				return true
			}
		}
		return false
	})
	return kill
}

// removeContainersOf removes what a node can't any more, and returns when it is gone.
func removeContainersOf(node string) error {
	return removeContainers("label=com.hashicorp.nomad.node_name=" + node)
}

// removeContainers removes the containers that a filter of docker ps names, and returns when they are gone. Docker may be removing one already, or be
// about to, and then says that it can't.
func removeContainers(filter string) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(pollPause) {
		out, err := exec.Command("docker", "ps", "--all", "--quiet", "--filter", filter).Output()
		ids := strings.Fields(string(out))
		if err != nil || len(ids) == 0 {
			return err
		}
		said, _ := exec.Command("docker", append([]string{"rm", "--force"}, ids...)...).CombinedOutput()
		if time.Now().After(deadline) {
			return fmt.Errorf("containers of %s are left: %s", filter, said)
		}
	}
}

func TestCallOfALostNodeFails(t *testing.T) {
	t.Parallel()
	kill := startNode(t, "lost")
	o := beside("lost")
	o.config += "log_level = \"debug\"\nnomad {\n  node_pool = \"lost\"\n}\n"
	own := startOwn(t, "lost", o)
	f := own.create(t, cold(program("funcd/sleep", "600"))) // or its slots would run on too
	call := f.call(t, "")
	f.eventsOf(t, call, api.Running)
	container := containerOf(t, f.allocationOf(t, call).ID) // it goes with its node, at the end
	kill()
	failed := last(f.eventsOf(t, call, api.Failed))
	require.Contains(t, failed.Message, "node lost")

	// The container runs on, as one on a node that is only cut off does. What it reports comes too late.
	refused := regexp.MustCompile(`route=/runner/v1/result .*code=expired`)
	require.NotRegexp(t, refused, readFile(t, own.logFile))
	docker(t, "", "kill", "--signal", "TERM", container)
	require.Equal(t, "143\n", docker(t, "", "wait", container))
	eventually(t, "a word of what came too late", func() bool { return refused.MatchString(readFile(t, own.logFile)) })
	out := f.wait(t, call)
	require.Equal(t, http.StatusInternalServerError, out.status)
	require.Equal(t, failed.Message+"\n", out.body)
	require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FAILED"}, kinds(f.events(t, "?callid="+call)))
}

// TestRunnerIsDownloaded runs funcd as on a cluster: of a configuration file only, with signed requests, and with containers that reach it
// over the network.
func TestRunnerIsDownloaded(t *testing.T) {
	t.Parallel()
	free, err := freePorts(1)
	require.NoError(t, err)
	address := "127.0.0.1:" + free[0]
	o := beside("download")
	o.http, o.noDev = address, true
	o.config += fmt.Sprintf("runner {\n  mode    = \"http\"\n  address = %q\n}\nnomad {\n  address = %q\n}\n", "http://"+address, dev.nomad)
	config := filepath.Join(t.TempDir(), "funcd.hcl")
	require.NoError(t, os.WriteFile(config, []byte(o.config), 0o600))
	key, secret := newCredential(t, o, config, "team")

	own := startOwn(t, "download", o)
	require.Equal(t, http.StatusUnauthorized, own.request(t, http.MethodGet, "/funcs", "").status, "nothing is accepted unsigned")
	_, err = own.Functions(t.Context(), nil)
	require.Equal(t, api.Unauthorized, api.CodeOf(err))
	for _, wrong := range []api.ClientConfig{{AccessKey: key, SecretKey: "another"}, {AccessKey: "AKNONE", SecretKey: secret}} {
		wrong.Address, wrong.HTTPClient = own.url, client
		c, err := api.NewClient(wrong)
		require.NoError(t, err)
		_, err = c.Functions(t.Context(), nil)
		require.Equal(t, api.Unauthorized, api.CodeOf(err), wrong.AccessKey)
	}
	own.Client, err = api.NewClient(api.ClientConfig{Address: own.url, AccessKey: key, SecretKey: secret, HTTPClient: client})
	require.NoError(t, err)

	// A container on the host's network reaches funcd where all do here, on loopback.
	onHost := func(image string) api.Function {
		f := program(image)
		f.HostConfig.NetworkMode = "host"
		return f
	}
	f := own.create(t, onHost("funcd/upper"))
	out := f.sync(t, "through the network")
	require.Equal(t, http.StatusOK, out.status, out.body)
	require.Equal(t, "THROUGH THE NETWORK", out.body)
	alone := program("funcd/upper")
	alone.Name, alone.HostConfig.NetworkMode = newName(t), "none"
	_, err = own.CreateFunction(t.Context(), alone)
	require.Equal(t, api.Invalid, api.CodeOf(err), "it would not reach funcd")
	require.ErrorContains(t, err, "HostConfig.NetworkMode: none")
	e := environmentOf(t, own.create(t, onHost("funcd/env")).sync(t, ""))
	require.Equal(t, "/srv", e.Dir)
	require.Equal(t, []int{1000, 1000}, []int{e.UID, e.GID}, "the runner can be executed by any user")

	var registered job
	dev.nomadGet(t, jobOf("func-team-"+f.Name), &registered)
	require.NotContains(t, readFile(t, own.logFile), secret)
	f.removeEnded(t)
	functions, err := own.Functions(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, functions, 1)

	out2, err := funcd(o, "credential", "--config", config, "ls").CombinedOutput()
	require.NoError(t, err, "%s", out2)
	require.Contains(t, string(out2), key)
	require.NotContains(t, string(out2), secret)
	out2, err = funcd(o, "credential", "--config", config, "rm", key).CombinedOutput()
	require.NoError(t, err, "%s", out2)
	eventually(t, "the removed key is refused", func() bool {
		_, err := own.Functions(t.Context(), nil)
		return api.CodeOf(err) == api.Unauthorized
	})
	require.Error(t, funcd(o, "credential", "--config", config, "rm", key).Run(), "it is gone")
}

// newCredential makes an access key with the command, as before the first start of a server with this configuration file.
func newCredential(t *testing.T, o options, config, account string, more ...string) (key, secret string) {
	t.Helper()
	output, err := funcd(o, append([]string{"credential", "--config", config, "create", "--account", account}, more...)...).CombinedOutput()
	require.NoError(t, err, "%s", output)
	match := regexp.MustCompile(`Access key: (\S+)\nSecret key: (\S+)\n`).FindStringSubmatch(string(output))
	require.Len(t, match, 3, "%s", output)
	return match[1], match[2]
}

// unmount unmounts what is mounted there: a node that was not stopped leaves its tasks' secrets mounted.
func unmount(t *testing.T, there func(at string) bool) {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/proc/self/mounts")) {
		if at := strings.Fields(line)[1]; there(at) {
			if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
				t.Errorf("unmounting %s: %v", at, err)
			}
		}
	}
}
