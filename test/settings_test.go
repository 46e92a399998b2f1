//go:build integration

package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestSettingTty(t *testing.T) {
	t.Parallel()
	f := program("funcd-test/probe", "tty")
	plain := dev.create(t, f)
	f.Config.Tty = true
	terminal := dev.create(t, f)

	call := plain.call(t, "one\ntwo")
	require.Equal(t, "isatty false false false\n", plain.wait(t, call).body)
	require.Equal(t, "got one\ngot two\n", last(plain.eventsOf(t, call, api.Finished)).ShortStderr)
	call = terminal.call(t, "one\ntwo")
	out := terminal.wait(t, call)
	require.Equal(t, http.StatusOK, out.status, out.body)
	// What a terminal is given it shows again, and it ends lines in its own way. All that is written to it is one stream.
	for _, line := range []string{"isatty true true true\r\n", "got one\r\n", "got two\r\n"} {
		require.Contains(t, out.body, line)
	}
	require.Empty(t, last(terminal.eventsOf(t, call, api.Finished)).ShortStderr)
}

func TestSettingLabels(t *testing.T) {
	t.Parallel()
	f := cold(program("funcd-test/probe", "hold", "600"))
	for label, value := range map[string]string{"com.example.team": "red", "empty": "", "call": "no id", "sh_hyper_noauto_volume": "true", "sh_hyper_sg_web": "yes"} {
		f.Config.Labels[label] = value
	}
	labelled := dev.create(t, f)
	shown, err := dev.Function(t.Context(), labelled.Name)
	require.NoError(t, err)
	require.Equal(t, f.Config.Labels, shown.Config.Labels, "those of the original, which have no effect, are kept and shown too")

	call := labelled.call(t, "")
	labelled.eventsOf(t, call, api.Running)
	var labels map[string]string
	container := containerOf(t, labelled.allocationOf(t, call).ID)
	require.NoError(t, json.Unmarshal([]byte(docker(t, "", "inspect", "--format", "{{json .Config.Labels}}", container)), &labels))
	for label, value := range f.Config.Labels {
		require.Equal(t, value, labels[label], label)
	}
	for _, id := range []string{labelled.job(), labelled.childOf(t, call).ID} {
		var job struct{ Meta map[string]string }
		dev.nomadGet(t, jobOf(id), &job)
		for label, value := range f.Config.Labels {
			require.Equal(t, value, job.Meta["label."+label], label)
		}
		require.Equal(t, labelled.Name, job.Meta["funcd_name"])
	}
	require.Equal(t, http.StatusNoContent, labelled.cancel(t, call).status)
	labelled.requireCancelled(t, call)
}

// Whatever the StopSignal is, the function gets it: those too that Nomad can't send, and that would stop the runner.
func TestSettingStopSignal(t *testing.T) {
	t.Parallel()
	for _, signal := range []struct {
		name   api.Signal
		number int
	}{
		{"", 15}, {"SIGQUIT", 3}, {"12", 12}, {"WINCH", 28}, {"SIGPIPE", 13}, {"SIGRTMIN+3", 37}, {"64", 64}, {"SIGCHLD", 17},
	} {
		t.Run("by "+string(signal.name), func(t *testing.T) {
			t.Parallel()
			f := cold(program("funcd-test/probe", "signal", "120"))
			f.Config.StopSignal = signal.name
			stopped := fmt.Sprintf("signal %d\n", signal.number)
			cancels := dev.create(t, f)
			call := cancels.call(t, "")
			awaitSaid(t, containerOf(t, cancels.allocationOf(t, call).ID), "ready")
			require.Equal(t, http.StatusNoContent, cancels.cancel(t, call).status)
			require.Equal(t, stopped, last(cancels.eventsOf(t, call, api.Failed)).ShortStderr)
			cancels.requireCancelled(t, call)

			f.Timeout = 5 // by when it is ready too
			ends := dev.create(t, f)
			call = ends.call(t, "")
			require.Equal(t, stopped, last(ends.eventsOf(t, call, api.Failed)).ShortStderr)
			require.Equal(t, http.StatusGatewayTimeout, ends.wait(t, call).status)
		})
	}
}

// confinement is what a function may do, as its process sees it.
func confinement(t *testing.T, f *function) map[string]string {
	t.Helper()
	out := f.sync(t, "")
	require.Equal(t, http.StatusOK, out.status, out.body)
	all := map[string]string{}
	for line := range strings.Lines(out.body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		all[name] = value
	}
	return all
}

func capabilitySet(t *testing.T, hex string) uint64 {
	t.Helper()
	set, err := strconv.ParseUint(hex, 16, 64)
	require.NoError(t, err)
	return set
}

func TestEveryContainerIsConfined(t *testing.T) {
	t.Parallel()
	const netRaw, mknod, chown = 1 << 13, 1 << 27, 1 << 0
	f := cold(program("funcd-test/probe", "confined"))
	byDocker := map[string]string{}
	for line := range strings.Lines(docker(t, "", "run", "--rm", "funcd-test/probe", "confined")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		byDocker[name] = value
	}
	is := confinement(t, dev.create(t, f))
	require.Equal(t, "1", is["NoNewPrivs"])
	require.Equal(t, "1024", is["pids.max"])
	bounding := capabilitySet(t, is["CapBnd"])
	require.Zero(t, bounding&^capabilitySet(t, byDocker["CapBnd"]), "no more than Docker gives")
	require.NotZero(t, bounding&chown)

	o := beside("confined")
	o.config += "nomad {\n  cap_drop   = [\"mknod\", \"CAP_NET_RAW\"]\n  pids_limit = 77\n}\n"
	own := startOwn(t, "confined", o)
	is = confinement(t, own.create(t, f))
	require.Equal(t, "77", is["pids.max"])
	for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
		require.Zero(t, capabilitySet(t, is[set])&(netRaw|mknod), set)
		require.NotZero(t, capabilitySet(t, is[set])&chown, set)
	}
	require.Equal(t, "1", is["NoNewPrivs"])
}

func TestPoliciesOfAccounts(t *testing.T) {
	t.Parallel()
	o := beside("policy")
	o.config += `account "*" {
  allow {
    host_networking      = false
    container_networking = false
    fixed_ports          = false
    volumes_from         = false
    stop_signal_sigkill  = false
  }
}
account "open" {
  allow {
    host_networking = true
  }
}
`
	config := filepath.Join(t.TempDir(), "funcd.hcl")
	require.NoError(t, os.WriteFile(config, []byte(o.config), 0o600))
	key, secret := newCredential(t, o, config, "open")
	own := startOwn(t, "policy", o)
	for name, body := range map[string]string{
		"host_networking":      `"HostConfig":{"NetworkMode":"host"}`,
		"container_networking": `"HostConfig":{"NetworkMode":"container:x"}`,
		"fixed_ports":          `"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"8080"}]}}`,
		"volumes_from":         `"HostConfig":{"VolumesFrom":["db"]}`,
		"stop_signal_sigkill":  `"StopSignal":9`,
	} {
		config := `"Config":{"Image":"funcd/hello"},` + body
		if name == "stop_signal_sigkill" {
			config = `"Config":{"Image":"funcd/hello",` + body + `}`
		}
		a := own.request(t, http.MethodPost, "/funcs/create", fmt.Sprintf(`{"Name":%q,%s}`, newName(t), config))
		require.Equal(t, http.StatusForbidden, a.status, a.body)
		require.Contains(t, a.body, "("+name+")")
	}
	list, err := own.Functions(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, list)
	require.Equal(t, "HelloWorld\n", own.create(t, program("funcd/hello")).sync(t, "").body, "what is not restricted goes on")

	open, err := api.NewClient(api.ClientConfig{Address: own.url, AccessKey: key, SecretKey: secret, HTTPClient: client})
	require.NoError(t, err)
	f := program("funcd/hello")
	f.Name, f.HostConfig.NetworkMode = newName(t), "host"
	_, err = open.CreateFunction(t.Context(), f)
	require.NoError(t, err, "its own block allows it")
	f.Name, f.Config.StopSignal = newName(t), "SIGKILL"
	_, err = open.CreateFunction(t.Context(), f)
	require.Equal(t, api.Forbidden, api.CodeOf(err), "the rest is as for all")
	require.ErrorContains(t, err, "(stop_signal_sigkill)")
}

// A size is what the operator makes of it: whole cores, memory beyond what is reserved. For its node pool see TestSizeWithANodePool.
func TestSettingContainerSizeIsConfigured(t *testing.T) {
	t.Parallel()
	// On a Nomad of its own: a whole core is free only where no slot of another funcd waits.
	own := startOwn(t, "sizes", options{config: `
size "s2" {
  cores  = 1
  memory = 64
}
size "s3" {
  cpu        = 100
  memory     = 32
  memory_max = 96
}
`})
	own.nomadDo(t, http.MethodPut, "/v1/operator/scheduler/configuration", map[string]any{
		"SchedulerAlgorithm": "binpack", "MemoryOversubscriptionEnabled": true, "PreemptionConfig": map[string]bool{},
	}, nil)
	sized := func(size string, cmd ...string) *function {
		f := cold(program("funcd-test/probe", cmd...))
		f.ContainerSize = size
		f.Name = newName(t)
		created, err := own.CreateFunction(t.Context(), f)
		require.NoError(t, err)
		return &function{created, own}
	}
	inspect := func(f *function, format string) string {
		call := f.call(t, "")
		f.eventsOf(t, call, api.Running)
		defer func() {
			require.Equal(t, http.StatusNoContent, f.cancel(t, call).status)
			f.requireCancelled(t, call)
		}()
		return strings.TrimSpace(docker(t, "", "inspect", "--format", format, containerOf(t, f.allocationOf(t, call).ID)))
	}
	require.Regexp(t, `^\d+$`, inspect(sized("s2", "hold", "600"), "{{.HostConfig.CpusetCpus}}"), "a core of its own")
	const megabyte = 1 << 20
	require.Equal(t, fmt.Sprintf("%d %d", (96+10)*megabyte, (32+10)*megabyte), inspect(sized("s3", "hold", "600"), "{{.HostConfig.Memory}} {{.HostConfig.MemoryReservation}}"))
	require.Equal(t, "80 MB\n", sized("s3", "eat", "80").sync(t, "").body, "more than is reserved")
	out := sized("s3", "eat", "0").sync(t, "")
	require.Equal(t, "out of memory\n", out.body)
}
