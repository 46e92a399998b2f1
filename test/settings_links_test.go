//go:build integration

package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// announce registers an instance of a service in dev's Consul until the test ends, or withdraw is called.
func announce(t *testing.T, id, service, address string, port int, status string) (withdraw func()) {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"ID": id, "Name": service, "Address": address, "Port": port, "Check": map[string]string{"TTL": "1h", "Status": status},
	})
	require.NoError(t, err)
	a := request(t, http.MethodPut, "http://"+dev.consul+"/v1/agent/service/register", string(body))
	require.Equal(t, http.StatusOK, a.status, a.body)
	var once sync.Once
	withdraw = func() {
		once.Do(func() {
			req, err := http.NewRequest(http.MethodPut, "http://"+dev.consul+"/v1/agent/service/deregister/"+id, nil)
			require.NoError(t, err)
			resp, err := client.Do(req)
			require.NoError(t, err)
			resp.Body.Close()
		})
	}
	t.Cleanup(withdraw)
	return withdraw
}

// withUser is the probe's image with another user than root.
func withUser(t *testing.T) string {
	t.Helper()
	const image = "funcd-test/probe-user"
	docker(t, "FROM funcd-test/probe\nUSER 1000:1000\n", "build", "--quiet", "--tag", image, "-")
	return image
}

// linked is a function with these links.
func linked(f api.Function, links ...string) api.Function {
	f.HostConfig.Links = links
	return f
}

func TestSettingLinks(t *testing.T) {
	t.Parallel()
	service := newName(t)
	other := newName(t)
	_, address := container(t, other, "--expose", "7", "funcd-test/probe", "listen", "7")
	listening(t, instance{Address: address, Port: 7})
	announce(t, service+"-1", service, address, 7, "passing")
	announce(t, service+"-2", service, address, 7700, "passing")
	announce(t, service+"-3", service, "10.9.9.9", 7, "critical")

	image := withUser(t)
	for name, c := range map[string]struct {
		image string
		f     func(api.Function) api.Function
	}{
		"root":                                 {"funcd-test/probe", cold},
		"another user":                         {image, cold},
		"another user, a container that waits": {image, func(f api.Function) api.Function { return warm(1, f) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := dev.create(t, linked(c.f(program(c.image, "hosts")), service+":my-db", service))
			if f.Config.Labels["funcd.warm"] != "0" {
				f.awaitReady(t, 1)
			}
			out := f.sync(t, "")
			require.Equal(t, http.StatusOK, out.status, out.body)
			lines := strings.Split(strings.TrimSpace(out.body), "\n")
			require.Contains(t, lines, "127.0.0.1\tlocalhost")
			require.Contains(t, lines, address+"\tmy-db "+service)
			require.Contains(t, lines, address+"\t"+service)
			require.NotContains(t, out.body, "10.9.9.9", "it is not healthy")
		})
	}
	answers := dev.create(t, linked(program(image, "dial", "7"), service+":my-db")).sync(t, "my-db")
	require.Equal(t, http.StatusOK, answers.status, answers.body)
	require.Regexp(t, "^tcp [0-9a-f]{12}\n$", answers.body)

	// Docker itself gives the same variables, and more: it knows the other container's environment.
	f := dev.create(t, linked(program("funcd/env"), service+":my-db"))
	var byDocker environment
	text := docker(t, "", "run", "--rm", "--name", f.Name, "--link", other+":my-db", "funcd/env")
	require.NoError(t, json.Unmarshal([]byte(text), &byDocker))
	ofLink := func(env []string) []string {
		return slices.DeleteFunc(slices.Clone(env), func(v string) bool { return !strings.HasPrefix(v, "MY_DB_") || strings.HasPrefix(v, "MY_DB_ENV_") })
	}
	want := ofLink(byDocker.Env)
	require.Contains(t, want, "MY_DB_PORT_7_TCP_ADDR="+address)
	require.ElementsMatch(t, want, ofLink(environmentOf(t, f.sync(t, "")).Env))
}

// A container that is reused learns where a service has gone.
func TestSettingLinksAreResolvedForEachCall(t *testing.T) {
	t.Parallel()
	service := newName(t)
	f := linked(program(withUser(t), "hosts"), service+":db")
	f.Config.Labels = map[string]string{"funcd.reuse": "true", "funcd.warm": "1"}
	reused := dev.create(t, f)
	call := func() answer {
		reused.awaitSlot(t)
		return reused.sync(t, "")
	}

	missing := call()
	require.Equal(t, http.StatusInternalServerError, missing.status)
	require.Equal(t, fmt.Sprintf("link %s: Consul has no service %s\n", service, service), missing.body)
	announce(t, service+"-1", service, "10.9.9.1", 7, "critical")
	eventually(t, "the service in Consul", func() bool {
		missing = call()
		return missing.body == fmt.Sprintf("link %s: no instance of the service %s is healthy\n", service, service)
	})
	withdraw := func() {}
	for i, address := range []string{"10.9.9.2", "10.9.9.3"} {
		withdraw()
		withdraw = announce(t, fmt.Sprintf("%s-%d", service, i+2), service, address, 7, "passing")
		eventually(t, "the service at "+address, func() bool {
			out := call()
			return out.status == http.StatusOK && strings.Contains(out.body, "\n"+address+"\tdb "+service+"\n")
		})
	}
	eventually(t, "the end of the one before", func() bool { return !strings.Contains(call().body, "10.9.9.2\t") })
	late := reused.late(t)
	require.LessOrEqual(t, len(reused.children(t)), late, "no call had to start a container")
	require.LessOrEqual(t, len(reused.dispatches(t)), 1+2*late, "one served them all, but where it was late")
}
