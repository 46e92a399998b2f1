package api

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func endpoint(ip string, port int, protocol string) Endpoint {
	return Endpoint{netip.MustParseAddr(ip), port, protocol}
}

// What Docker 20.10 gives to a container with --link db:my-db.x, of a container that exposes 53/tcp, 53/udp, 80 to 82 and 7700.
const dockerLink = `MY_DB.X_PORT=tcp://172.17.0.22:53
MY_DB.X_PORT_80_TCP_START=tcp://172.17.0.22:80
MY_DB.X_PORT_80_TCP_ADDR=172.17.0.22
MY_DB.X_PORT_80_TCP_PROTO=tcp
MY_DB.X_PORT_80_TCP_PORT_START=80
MY_DB.X_PORT_80_TCP_END=tcp://172.17.0.22:82
MY_DB.X_PORT_80_TCP_PORT_END=82
MY_DB.X_PORT_53_TCP=tcp://172.17.0.22:53
MY_DB.X_PORT_53_TCP_ADDR=172.17.0.22
MY_DB.X_PORT_53_TCP_PORT=53
MY_DB.X_PORT_53_TCP_PROTO=tcp
MY_DB.X_PORT_53_UDP=udp://172.17.0.22:53
MY_DB.X_PORT_53_UDP_ADDR=172.17.0.22
MY_DB.X_PORT_53_UDP_PORT=53
MY_DB.X_PORT_53_UDP_PROTO=udp
MY_DB.X_PORT_80_TCP=tcp://172.17.0.22:80
MY_DB.X_PORT_80_TCP_PORT=80
MY_DB.X_PORT_81_TCP=tcp://172.17.0.22:81
MY_DB.X_PORT_81_TCP_ADDR=172.17.0.22
MY_DB.X_PORT_81_TCP_PORT=81
MY_DB.X_PORT_81_TCP_PROTO=tcp
MY_DB.X_PORT_82_TCP=tcp://172.17.0.22:82
MY_DB.X_PORT_82_TCP_ADDR=172.17.0.22
MY_DB.X_PORT_82_TCP_PORT=82
MY_DB.X_PORT_82_TCP_PROTO=tcp
MY_DB.X_PORT_7700_TCP=tcp://172.17.0.22:7700
MY_DB.X_PORT_7700_TCP_ADDR=172.17.0.22
MY_DB.X_PORT_7700_TCP_PORT=7700
MY_DB.X_PORT_7700_TCP_PROTO=tcp
MY_DB.X_NAME=/f/my-db.x`

func TestLinkVariablesAreDockers(t *testing.T) {
	t.Parallel()
	var endpoints []Endpoint
	for _, port := range []int{7700, 82, 81, 53, 80} {
		endpoints = append(endpoints, endpoint("172.17.0.22", port, "tcp"))
	}
	endpoints = append(endpoints, endpoint("172.17.0.22", 53, "udp"))
	require.ElementsMatch(t, strings.Split(dockerLink, "\n"), Link{"db", "my-db.x"}.Env("f", endpoints))
}

func TestLinkToSeveralInstances(t *testing.T) {
	t.Parallel()
	link := Link{"redis", "cache"}
	for name, c := range map[string]struct {
		endpoints []Endpoint
		env       []string
		hosts     []string
	}{
		"of one port": {
			[]Endpoint{endpoint("10.0.0.2", 6379, "tcp"), endpoint("10.0.0.1", 6379, "tcp")},
			[]string{"CACHE_PORT=tcp://10.0.0.2:6379", "CACHE_PORT_6379_TCP=tcp://10.0.0.2:6379", "CACHE_PORT_6379_TCP_ADDR=10.0.0.2",
				"CACHE_PORT_6379_TCP_PORT=6379", "CACHE_PORT_6379_TCP_PROTO=tcp", "CACHE_NAME=/f/cache"},
			[]string{"10.0.0.2\tcache redis", "10.0.0.1\tcache redis"},
		},
		"of two ports, one after the other, on two machines": {
			[]Endpoint{endpoint("10.0.0.2", 21, "tcp"), endpoint("10.0.0.1", 20, "tcp")},
			[]string{"CACHE_PORT=tcp://10.0.0.1:20", "CACHE_PORT_20_TCP=tcp://10.0.0.1:20", "CACHE_PORT_20_TCP_ADDR=10.0.0.1",
				"CACHE_PORT_20_TCP_PORT=20", "CACHE_PORT_20_TCP_PROTO=tcp", "CACHE_PORT_21_TCP=tcp://10.0.0.2:21", "CACHE_PORT_21_TCP_ADDR=10.0.0.2",
				"CACHE_PORT_21_TCP_PORT=21", "CACHE_PORT_21_TCP_PROTO=tcp", "CACHE_NAME=/f/cache"},
			[]string{"10.0.0.2\tcache redis", "10.0.0.1\tcache redis"},
		},
		"on one machine": {
			[]Endpoint{endpoint("10.0.0.1", 8, "udp"), endpoint("10.0.0.1", 6, "udp")},
			[]string{"CACHE_PORT=udp://10.0.0.1:6", "CACHE_PORT_6_UDP=udp://10.0.0.1:6", "CACHE_PORT_6_UDP_ADDR=10.0.0.1", "CACHE_PORT_6_UDP_PORT=6",
				"CACHE_PORT_6_UDP_PROTO=udp", "CACHE_PORT_8_UDP=udp://10.0.0.1:8", "CACHE_PORT_8_UDP_ADDR=10.0.0.1", "CACHE_PORT_8_UDP_PORT=8",
				"CACHE_PORT_8_UDP_PROTO=udp", "CACHE_NAME=/f/cache"},
			[]string{"10.0.0.1\tcache redis"},
		},
		"without a port": {[]Endpoint{endpoint("10.0.0.1", 0, "tcp")}, []string{"CACHE_NAME=/f/cache"}, []string{"10.0.0.1\tcache redis"}},
		"of IPv6": {
			[]Endpoint{endpoint("fd00::1", 1, "tcp")},
			[]string{"CACHE_PORT=tcp://[fd00::1]:1", "CACHE_PORT_1_TCP=tcp://[fd00::1]:1", "CACHE_PORT_1_TCP_ADDR=fd00::1", "CACHE_PORT_1_TCP_PORT=1",
				"CACHE_PORT_1_TCP_PROTO=tcp", "CACHE_NAME=/f/cache"},
			[]string{"fd00::1\tcache redis"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := slices.Clone(c.endpoints)
			require.Equal(t, c.env, link.Env("f", c.endpoints))
			require.Equal(t, c.hosts, link.Hosts(c.endpoints))
			require.Equal(t, before, c.endpoints)
		})
	}
	require.Equal(t, []string{"10.0.0.1\tredis"}, Link{"redis", "redis"}.Hosts([]Endpoint{endpoint("10.0.0.1", 1, "tcp")}))
}

func TestParsedLinks(t *testing.T) {
	t.Parallel()
	f, err := ParseFunction([]byte(create("", "", `"Links":["redis:cache","db"]`)))
	require.NoError(t, err)
	require.Equal(t, []Link{{"redis", "cache"}, {"db", "db"}}, f.ParsedLinks())
	_, err = ParseFunction([]byte(create("", "", `"Links":["redis:a","db:a"]`)))
	requireInvalid(t, err, "HostConfig.Links:", `"a" is the alias of two`)
}
