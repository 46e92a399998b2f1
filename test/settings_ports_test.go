//go:build integration

package test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// instance is an instance of a Consul service.
type instance struct {
	Address string
	Port    int
	Tags    []string
	Meta    map[string]string
}

func (i instance) String() string { return fmt.Sprintf("%s:%d", i.Address, i.Port) }

// instancesOf are those of a service in dev's Consul that are healthy.
func instancesOf(t *testing.T, service string) []instance {
	t.Helper()
	a := request(t, http.MethodGet, "http://"+dev.consul+"/v1/health/service/"+service+"?passing", "")
	require.Equal(t, http.StatusOK, a.status, a.body)
	var entries []struct{ Service instance }
	require.NoError(t, json.Unmarshal([]byte(a.body), &entries))
	instances := make([]instance, len(entries))
	for i, entry := range entries {
		instances[i] = entry.Service
	}
	return instances
}

// publishedBy waits until a call has n ports in Consul, and returns them in the order of its container's ports.
func (f *function) publishedBy(t *testing.T, call string, n int) []instance {
	t.Helper()
	var of []instance
	eventually(t, fmt.Sprintf("%d ports of the call in Consul", n), func() bool {
		of = slices.DeleteFunc(instancesOf(t, "func-"+f.Name), func(i instance) bool { return !slices.Contains(i.Tags, call) })
		return len(of) == n
	})
	slices.SortFunc(of, func(a, b instance) int { return strings.Compare(a.Meta["port"], b.Meta["port"]) })
	return of
}

// ask sends a line to the probe that listens, and returns its answer.
func ask(t *testing.T, network string, i instance, line string) string {
	t.Helper()
	conn, err := net.DialTimeout(network, i.String(), patience)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = fmt.Fprintln(conn, line)
	require.NoError(t, err)
	answer, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(answer)
}

// listening waits until the probe answers there: a call is in Consul as soon as its container runs.
func listening(t *testing.T, i instance) {
	t.Helper()
	eventually(t, "an answer from "+i.String(), func() bool {
		conn, err := net.DialTimeout("tcp", i.String(), time.Second)
		if err != nil {
			return false
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprintln(conn, "hello")
		line, err := bufio.NewReader(conn).ReadString('\n') // docker's proxy takes a connection that nobody listens to
		return err == nil && strings.HasPrefix(line, "tcp ")
	})
}

func bindings(ports map[string]string) map[string][]api.PortBinding {
	all := map[string][]api.PortBinding{}
	for port, host := range ports {
		all[port] = []api.PortBinding{{HostPort: host}}
	}
	return all
}

func TestSettingPortBindings(t *testing.T) {
	t.Parallel()
	free, err := freePorts(1)
	require.NoError(t, err)
	f := program("funcd-test/probe", "listen", "7")
	f.HostConfig.PortBindings = bindings(map[string]string{"7/tcp": free[0], "7/udp": free[0]})
	publishes := dev.create(t, f)
	require.Equal(t, f.HostConfig.PortBindings, publishes.HostConfig.PortBindings)

	first := publishes.call(t, "")
	at := publishes.publishedBy(t, first, 1)[0]
	require.Equal(t, "127.0.0.1:"+free[0], at.String(), "the address of the node, and the port that was asked for")
	require.Equal(t, []string{first, "tcp", "udp"}, at.Tags)
	require.Equal(t, map[string]string{"port": "7/tcp+udp", "funcd_account": "default"}, without(at.Meta, "funcd_function", "external-source"))
	listening(t, at)
	host := docker(t, "", "inspect", "--format", "{{.Config.Hostname}}", containerOf(t, publishes.allocationOf(t, first).ID))
	require.Equal(t, "tcp "+strings.TrimSpace(host), ask(t, "tcp", at, "hello"))
	require.Equal(t, "udp "+strings.TrimSpace(host), ask(t, "udp", at, "hello"))

	// The port can't be had twice on one node.
	second := publishes.call(t, "")
	publishes.awaitMessage(t, second, "port "+free[0]+" is taken on 1 node")
	require.Equal(t, "udp "+strings.TrimSpace(host), ask(t, "udp", at, "end"))
	require.Equal(t, "ended\n", publishes.wait(t, first).body)
	at = publishes.publishedBy(t, second, 1)[0]
	listening(t, at)
	eventually(t, "the end of that of the first", func() bool { return len(instancesOf(t, "func-"+publishes.Name)) == 1 })
	ask(t, "tcp", at, "end")
	require.Equal(t, "ended\n", publishes.wait(t, second).body)
	eventually(t, "the service is gone with its calls", func() bool { return len(instancesOf(t, "func-"+publishes.Name)) == 0 })

	for _, job := range publishes.dispatches(t) {
		require.NotContains(t, job.ID, "dispatch-slot-", "no container waits with its port")
	}
}

func TestSettingPortBindingsOfAnyPort(t *testing.T) {
	t.Parallel()
	f := program("funcd-test/probe", "listen", "7")
	f.HostConfig.PortBindings = bindings(map[string]string{"7/tcp": "", "9/udp": ""})
	publishes := dev.create(t, f)
	calls := []string{publishes.call(t, ""), publishes.call(t, "")}
	seen := map[int]bool{}
	for _, call := range calls {
		ports := publishes.publishedBy(t, call, 2)
		require.Equal(t, "7/tcp", ports[0].Meta["port"])
		require.Equal(t, "9/udp", ports[1].Meta["port"])
		for _, p := range ports {
			require.False(t, seen[p.Port], "each has its own")
			seen[p.Port] = true
		}
		listening(t, ports[0])
	}
	for _, call := range calls {
		ask(t, "tcp", publishes.publishedBy(t, call, 2)[0], "end")
		require.Equal(t, "ended\n", publishes.wait(t, call).body)
	}
}

func TestSettingPublishAllPorts(t *testing.T) {
	t.Parallel()
	f := program("funcd-test/probe", "listen", "7")
	f.Config.ExposedPorts = map[string]struct{}{"7/tcp": {}}
	quiet := dev.create(t, f)
	f.HostConfig.PublishAllPorts = true
	publishes := dev.create(t, f)

	call := publishes.call(t, "")
	ports := publishes.publishedBy(t, call, 2)
	require.Equal(t, "7/tcp", ports[0].Meta["port"], "that of the function")
	require.Equal(t, "7700/tcp", ports[1].Meta["port"], "that of its image")
	listening(t, ports[0])
	ask(t, "tcp", ports[0], "end")
	require.Equal(t, "ended\n", publishes.wait(t, call).body)

	call = quiet.call(t, "")
	quiet.eventsOf(t, call, api.Running)
	container := containerOf(t, quiet.allocationOf(t, call).ID)
	require.Equal(t, "map[]\n", docker(t, "", "inspect", "--format", "{{.HostConfig.PortBindings}}", container), "to expose is not to publish")
	require.Empty(t, instancesOf(t, "func-"+quiet.Name))
	docker(t, "", "kill", container)
	require.Equal(t, http.StatusInternalServerError, quiet.wait(t, call).status)
}

// without is the map without some of its keys.
func without(m map[string]string, keys ...string) map[string]string {
	rest := map[string]string{}
	for key, value := range m {
		if !slices.Contains(keys, key) {
			rest[key] = value
		}
	}
	return rest
}
