package consul

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"
	consul "github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// announce registers an instance of a service until the test ends. status is that of its check, if it has one.
func announce(t *testing.T, c *Client, s consul.AgentServiceRegistration, status string) {
	s.ID = s.Name + "-" + uuid.NewString()
	if status != "" {
		s.Check = &consul.AgentServiceCheck{TTL: time.Hour.String(), Status: status}
	}
	options := consul.ServiceRegisterOpts{}.WithContext(t.Context())
	require.NoError(t, c.api.Agent().ServiceRegisterOpts(&s, options))
	t.Cleanup(func() {
		require.NoError(t, c.api.Agent().ServiceDeregisterOpts(s.ID, new(consul.QueryOptions)))
	})
}

func testEndpoints(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, c := t.Context(), connect(t, newPrefix())
	name := "link-" + uuid.NewString()
	_, err := c.Endpoints(ctx, "team", name)
	require.Equal(t, api.NotFound, api.CodeOf(err))
	require.EqualError(t, err, "Consul has no service "+name)

	announce(t, c, consul.AgentServiceRegistration{Name: name, Address: "10.1.1.9", Port: 1}, consul.HealthCritical)
	announce(t, c, consul.AgentServiceRegistration{Name: name, Address: "10.1.1.8", Port: 1}, consul.HealthWarning)
	known := func(want ...api.Endpoint) {
		t.Helper()
		require.EventuallyWithT(t, func(t *assertions) {
			got, err := c.Endpoints(ctx, "team", name)
			require.NoError(t, err)
			require.ElementsMatch(t, want, got)
		}, patience, 5*time.Millisecond)
	}
	require.EventuallyWithT(t, func(t *assertions) {
		_, err := c.Endpoints(ctx, "team", name)
		require.Equal(t, api.NotFound, api.CodeOf(err))
		require.EqualError(t, err, "no instance of the service "+name+" is healthy")
	}, patience, 5*time.Millisecond)

	at := func(ip string, port int, protocol string) api.Endpoint {
		return api.Endpoint{IP: netip.MustParseAddr(ip), Port: port, Protocol: protocol}
	}
	announce(t, c, consul.AgentServiceRegistration{Name: name, Address: "10.1.1.1", Port: 6379}, consul.HealthPassing)
	announce(t, c, consul.AgentServiceRegistration{Name: name, Port: 53, Tags: []string{"dns", "udp"}}, "")
	announce(t, c, consul.AgentServiceRegistration{Name: name, Address: "fd00::1", Port: 53, Tags: []string{"udp", "tcp"}}, "")
	known(at("10.1.1.1", 6379, "tcp"), at("127.0.0.1", 53, "udp"), at("fd00::1", 53, "tcp"))

	// What a function publishes is its account's.
	for owner, ip := range map[string]string{"team": "10.1.1.2", "other": "10.1.1.3"} {
		announce(t, c, consul.AgentServiceRegistration{Name: name, Address: ip, Port: 80, Meta: map[string]string{api.ServiceAccount: owner}}, "")
	}
	known(at("10.1.1.1", 6379, "tcp"), at("127.0.0.1", 53, "udp"), at("fd00::1", 53, "tcp"), at("10.1.1.2", 80, "tcp"))
	foreign := "link-" + uuid.NewString()
	announce(t, c, consul.AgentServiceRegistration{Name: foreign, Address: "10.1.1.3", Meta: map[string]string{api.ServiceAccount: "other"}}, "")
	require.EventuallyWithT(t, func(t *assertions) {
		_, err := c.Endpoints(ctx, "other", foreign)
		require.NoError(t, err)
	}, patience, 5*time.Millisecond)
	_, err = c.Endpoints(ctx, "team", foreign)
	require.Equal(t, api.NotFound, api.CodeOf(err))
	require.EqualError(t, err, "Consul has no service "+foreign)

	named := "link-" + uuid.NewString()
	announce(t, c, consul.AgentServiceRegistration{Name: named, Address: "localhost", Port: 1}, "")
	require.EventuallyWithT(t, func(t *assertions) {
		got, err := c.Endpoints(ctx, "team", named)
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.True(t, got[0].IP.IsLoopback())
	}, patience, 5*time.Millisecond)
}

func TestEndpointsOfALargeServiceAreSome(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := connectFake(t, f, Config{})
	for i := range MaxEndpoints + 5 {
		f.services[uuid.NewString()] = &consul.AgentServiceRegistration{Name: "large", Address: "10.0.0.1", Port: i + 1}
	}
	seen := map[int]bool{}
	for range 50 {
		endpoints, err := c.Endpoints(t.Context(), "team", "large")
		require.NoError(t, err)
		require.Len(t, endpoints, MaxEndpoints)
		for _, e := range endpoints {
			seen[e.Port] = true
		}
	}
	require.Len(t, seen, MaxEndpoints+5, "others each time")
}

func TestEndpointsFail(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := connectFake(t, f, Config{})
	f.answering(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("X-Consul-LastContact", "0")
		w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
		_ = json.NewEncoder(w).Encode([]*consul.ServiceEntry{})
		return true
	})
	_, err := c.Endpoints(t.Context(), "team", "db")
	require.Equal(t, api.Internal, api.CodeOf(err), "what may not be read is not said to be missing")
	f.answering(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	_, err = c.Endpoints(t.Context(), "team", "db")
	require.Equal(t, api.Unavailable, api.CodeOf(err))
}
