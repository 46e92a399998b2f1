package api

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPolicy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config, hostConfig string
		without            func(*Policy)
		want               string // "" if a policy that allows nothing else does
	}{
		"nothing of it":            {"", `"PortBindings":{"80/tcp":[{"HostPort":""}]},"PublishAllPorts":true,"Links":["a:b"]`, nil, ""},
		"no network":               {"", `"NetworkMode":"none"`, nil, ""},
		"another signal":           {`"StopSignal":"SIGTERM"`, "", nil, ""},
		"host networking":          {"", `"NetworkMode":"host"`, func(p *Policy) { p.HostNetworking = false }, "HostConfig.NetworkMode: host is not allowed for the account team (host_networking)"},
		"container networking":     {"", `"NetworkMode":"container:x"`, func(p *Policy) { p.ContainerNetworking = false }, "HostConfig.NetworkMode: container is not allowed for the account team (container_networking)"},
		"a fixed port":             {"", `"PortBindings":{"80/tcp":[{"HostPort":""},{"HostPort":"80"}]}`, func(p *Policy) { p.FixedPorts = false }, "HostConfig.PortBindings: a fixed HostPort is not allowed for the account team (fixed_ports)"},
		"a fixed port without one": {"", `"NetworkMode":"none","PortBindings":{"80/tcp":[{"HostPort":"80"}]}`, nil, ""},
		"volumes":                  {"", `"VolumesFrom":["db:ro"]`, func(p *Policy) { p.VolumesFrom = false }, "HostConfig.VolumesFrom is not allowed for the account team (volumes_from)"},
		"a signal":                 {`"StopSignal":"SIGKILL"`, "", func(p *Policy) { p.StopSignalSIGKILL = false }, "Config.StopSignal: SIGKILL is not allowed for the account team (stop_signal_sigkill)"},
		"a signal by its number":   {`"StopSignal":9`, "", func(p *Policy) { p.StopSignalSIGKILL = false }, "Config.StopSignal: SIGKILL is not allowed for the account team (stop_signal_sigkill)"},
		"a signal by another name": {`"StopSignal":"kill"`, "", func(p *Policy) { p.StopSignalSIGKILL = false }, "Config.StopSignal: SIGKILL is not allowed for the account team (stop_signal_sigkill)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := ParseFunction([]byte(create("", c.config, c.hostConfig)))
			require.NoError(t, err)
			require.NoError(t, FullPolicy().Check(&f, "team"))
			if c.want == "" {
				require.NoError(t, Policy{}.Check(&f, "team"))
				return
			}
			p := FullPolicy()
			c.without(&p)
			err = p.Check(&f, "team")
			require.Equal(t, Forbidden, CodeOf(err))
			require.EqualError(t, err, c.want)
		})
	}
}

func TestPolicyOfKeptCalls(t *testing.T) {
	t.Parallel()
	p := FullPolicy()
	day := labelled(map[string]string{"funcd.keep": "24h"})
	require.NoError(t, p.Check(day, "team"), "without a limit")
	p.MaxKeep = 24 * time.Hour
	require.NoError(t, p.Check(day, "team"))
	err := p.Check(labelled(map[string]string{"funcd.keep": "24h1s"}), "team")
	require.Equal(t, Invalid, CodeOf(err))
	require.EqualError(t, err, `Config.Labels: funcd.keep: "24h1s" must be at most 24h0m0s`)
}
