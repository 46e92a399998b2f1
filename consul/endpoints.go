package consul

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"

	consul "github.com/hashicorp/consul/api"

	"github.com/funcd/funcd/api"
)

// MaxEndpoints is how many instances of a service Endpoints returns at most. Those of a larger service are chosen anew each time.
const MaxEndpoints = 100

// Endpoints returns where the healthy instances of a service are reached, in an order that is another each time. Those of a function that
// publishes ports are left out unless the function is of this account. An instance's address is its own or else its node's; one that is a name is
// looked up. The error is of code NotFound, with a message that names the service, if there is none such or none that is healthy; else
// Unavailable or Internal.
func (c *Client) Endpoints(ctx context.Context, account, service string) ([]api.Endpoint, error) {
	query, cancel := c.query(ctx, 0, 0)
	defer cancel()
	query.RequireConsistent = false // health is never newer than the last check
	entries, meta, err := c.api.Health().Service(service, "", false, query)
	if err != nil {
		return nil, translate(ctx, err)
	}
	if len(entries) == 0 && meta.ResultsFilteredByACLs {
		return nil, api.Wrap(api.Internal, fmt.Errorf("the ACL token may not read the service %q", service), "Consul refuses access")
	}
	entries = slices.DeleteFunc(entries, func(e *consul.ServiceEntry) bool {
		owner, ok := e.Service.Meta[api.ServiceAccount]
		return ok && owner != account
	})
	if len(entries) == 0 {
		return nil, api.Errorf(api.NotFound, "Consul has no service %s", service)
	}
	rand.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	var endpoints []api.Endpoint
	var unresolved error
	for _, e := range entries {
		if e.Checks.AggregatedStatus() != consul.HealthPassing {
			continue
		}
		address := e.Service.Address
		if address == "" {
			address = e.Node.Address
		}
		ip, err := lookup(query.Context(), address)
		if err != nil {
			unresolved = err
			continue
		}
		endpoints = append(endpoints, api.Endpoint{IP: ip, Port: e.Service.Port, Protocol: protocol(e.Service.Tags)})
		if len(endpoints) == MaxEndpoints {
			break
		}
	}
	switch {
	case len(endpoints) > 0:
		return endpoints, nil
	case unresolved != nil:
		return nil, api.Wrap(api.NotFound, unresolved, "the addresses of the service "+service+" can't be looked up")
	}
	return nil, api.Errorf(api.NotFound, "no instance of the service %s is healthy", service)
}

// lookup returns the address that text is, or is a name of.
func lookup(ctx context.Context, text string) (netip.Addr, error) {
	if ip, err := netip.ParseAddr(text); err == nil {
		return ip.WithZone(""), nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", text)
	if err != nil {
		return netip.Addr{}, err
	}
	return ips[0].Unmap(), nil
}

// protocol is what the tags say. Consul itself does not know, and most services are tcp.
func protocol(tags []string) string {
	if slices.Contains(tags, "udp") && !slices.Contains(tags, "tcp") {
		return "udp"
	}
	return "tcp"
}
