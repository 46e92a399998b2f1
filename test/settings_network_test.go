//go:build integration

package test

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// interfacesOf are the IPv4 addresses of a container's network interfaces, by their names, as its process sees them.
func interfacesOf(t *testing.T, a answer) map[string]string {
	t.Helper()
	require.Equal(t, http.StatusOK, a.status, a.body)
	all := map[string]string{}
	for line := range strings.Lines(a.body) {
		name, addresses, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[name] = addresses
	}
	return all
}

// inNetwork is a function in this network, with a new container for each call.
func inNetwork(t *testing.T, mode string) *function {
	t.Helper()
	f := cold(program("funcd-test/probe", "interfaces"))
	f.HostConfig.NetworkMode = mode
	return dev.create(t, f)
}

// container starts a container beside Nomad's, removed with the test, and returns its id and its address on docker's bridge.
func container(t *testing.T, name string, args ...string) (id, address string) {
	t.Helper()
	id = strings.TrimSpace(docker(t, "", append([]string{"run", "--detach", "--name", name}, args...)...))
	t.Cleanup(func() {
		if err := removeContainers("id=" + id); err != nil {
			t.Error(err)
		}
	})
	return id, strings.TrimSpace(docker(t, "", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", id))
}

func TestSettingNetworkMode(t *testing.T) {
	t.Parallel()
	id, address := container(t, newName(t), "funcd-test/probe", "hold", "600")
	require.NotEmpty(t, address)

	bridge := interfacesOf(t, inNetwork(t, "bridge").sync(t, ""))
	require.Len(t, bridge, 2)
	require.Equal(t, "127.0.0.1", bridge["lo"])
	require.NotEmpty(t, bridge["eth0"])
	require.NotEqual(t, address, bridge["eth0"], "each container has its own address")
	_, subnet, err := net.ParseCIDR(strings.TrimSpace(docker(t, "", "network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", "bridge")))
	require.NoError(t, err)
	require.True(t, subnet.Contains(net.ParseIP(bridge["eth0"])), bridge["eth0"])
	unnamed := inNetwork(t, "")
	require.Equal(t, "bridge", unnamed.HostConfig.NetworkMode, "the default")

	host := interfacesOf(t, inNetwork(t, "host").sync(t, ""))
	require.Contains(t, host, "docker0", "it sees what the node has")
	require.Equal(t, map[string]string{"lo": "127.0.0.1"}, interfacesOf(t, inNetwork(t, "none").sync(t, "")))
	for _, another := range []string{id, id[:12], strings.TrimPrefix(strings.TrimSpace(docker(t, "", "inspect", "--format", "{{.Name}}", id)), "/")} {
		shared := interfacesOf(t, inNetwork(t, "container:"+another).sync(t, ""))
		require.Equal(t, map[string]string{"lo": "127.0.0.1", "eth0": address}, shared, another)
	}

	gone := inNetwork(t, "container:funcd-test-is-not-there").sync(t, "")
	require.Equal(t, http.StatusInternalServerError, gone.status)
	require.Contains(t, gone.body, "No such container: funcd-test-is-not-there")
	f := program("funcd-test/probe")
	f.Name, f.HostConfig.NetworkMode = newName(t), "mine"
	_, err = dev.CreateFunction(t.Context(), f)
	require.Equal(t, api.Invalid, api.CodeOf(err))
	require.ErrorContains(t, err, "NetworkMode")
}
