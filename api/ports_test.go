package api

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// publishing is a function with this HostConfig and ExposedPorts, of an image that exposes ports.
func publishing(t *testing.T, hostConfig, exposed string, image ...string) *Definition {
	t.Helper()
	d := &Definition{Function: Function{Name: "f"}, Image: Image{ExposedPorts: image}}
	d.Function.HostConfig.NetworkMode = DefaultNetwork
	require.NoError(t, json.Unmarshal([]byte("{"+hostConfig+"}"), &d.Function.HostConfig))
	require.NoError(t, json.Unmarshal([]byte("{"+exposed+"}"), &d.Function.Config.ExposedPorts))
	return d
}

func TestPublishedPorts(t *testing.T) {
	t.Parallel()
	tcp, udp, both := []string{"tcp"}, []string{"udp"}, []string{"tcp", "udp"}
	for name, c := range map[string]struct {
		hostConfig, exposed string
		image               []string
		want                []Port
		fixed               bool
	}{
		"none":                       {``, `"80/tcp":{}`, []string{"81/tcp"}, nil, false},
		"a fixed one":                {`"PortBindings":{"80/tcp":[{"HostPort":"8080"}]}`, ``, nil, []Port{{80, 8080, tcp}}, true},
		"any one":                    {`"PortBindings":{"80/tcp":[{"HostPort":""}]}`, ``, nil, []Port{{80, 0, tcp}}, false},
		"udp":                        {`"PortBindings":{"53/udp":[{"HostPort":"53"}]}`, ``, nil, []Port{{53, 53, udp}}, true},
		"no protocol is tcp":         {`"PortBindings":{"80":[{}]}`, ``, nil, []Port{{80, 0, tcp}}, false},
		"both, on one port":          {`"PortBindings":{"53/udp":[{"HostPort":"53"}],"53/tcp":[{"HostPort":"53"}]}`, ``, nil, []Port{{53, 53, both}}, true},
		"both, on two ports":         {`"PortBindings":{"53/udp":[{"HostPort":"54"}],"53/tcp":[{"HostPort":"53"}]}`, ``, nil, []Port{{53, 53, tcp}, {53, 54, udp}}, true},
		"both, any":                  {`"PortBindings":{"53/udp":[{}],"53/tcp":[{}]}`, ``, nil, []Port{{53, 0, both}}, false},
		"two of one":                 {`"PortBindings":{"80/tcp":[{"HostPort":"8081"},{"HostPort":"8080"}]}`, ``, nil, []Port{{80, 8080, tcp}, {80, 8081, tcp}}, true},
		"two of one, any":            {`"PortBindings":{"80/tcp":[{},{}],"80/udp":[{},{}]}`, ``, nil, []Port{{80, 0, both}, {80, 0, both}}, false},
		"the same twice is one":      {`"PortBindings":{"80/tcp":[{"HostPort":"8080"},{"HostPort":"8080"}]}`, ``, nil, []Port{{80, 8080, tcp}}, true},
		"a fixed one and any":        {`"PortBindings":{"80/tcp":[{"HostPort":"8080"},{}]}`, ``, nil, []Port{{80, 0, tcp}, {80, 8080, tcp}}, true},
		"a port with no binding":     {`"PortBindings":{"80/tcp":[],"81/tcp":null}`, ``, nil, nil, false},
		"all that is exposed":        {`"PublishAllPorts":true`, `"80/tcp":{},"90":{}`, []string{"443/tcp", "80/tcp"}, []Port{{80, 0, tcp}, {90, 0, tcp}, {443, 0, tcp}}, false},
		"all, of both protocols":     {`"PublishAllPorts":true`, `"53/tcp":{},"53/udp":{}`, nil, []Port{{53, 0, both}}, false},
		"all, and a fixed one":       {`"PublishAllPorts":true,"PortBindings":{"80/tcp":[{"HostPort":"8080"}]}`, `"80/tcp":{},"81/tcp":{}`, nil, []Port{{80, 8080, tcp}, {81, 0, tcp}}, true},
		"all, one without a binding": {`"PublishAllPorts":true,"PortBindings":{"80/tcp":[]}`, ``, nil, []Port{{80, 0, tcp}}, false},
		"all, and nothing exposed":   {`"PublishAllPorts":true`, ``, nil, nil, false},
		"what an image may say":      {`"PublishAllPorts":true`, ``, []string{"80-90/tcp", "1/sctp", "x", "", "0/tcp", "65536/tcp", "7/tcp"}, []Port{{7, 0, tcp}}, false},
		"the host's network":         {`"NetworkMode":"host","PublishAllPorts":true,"PortBindings":{"80/tcp":[{"HostPort":"8080"}]}`, `"81/tcp":{}`, nil, nil, false},
		"no network":                 {`"NetworkMode":"none","PortBindings":{"80/tcp":[{"HostPort":"8080"}]}`, ``, nil, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := publishing(t, c.hostConfig, c.exposed, c.image...)
			require.NoError(t, d.Function.validatePorts())
			for range 20 { // whatever the order of the maps
				require.Equal(t, c.want, d.PublishedPorts())
			}
			require.Equal(t, c.fixed, d.Function.PublishesFixedPorts())
		})
	}
}

func TestPortsThatCantBePublishedAreRefused(t *testing.T) {
	t.Parallel()
	many := make([]string, MaxPorts+1)
	for i := range many {
		many[i] = `{"HostPort":""}`
	}
	for name, c := range map[string]struct {
		hostConfig string
		want       []string
	}{
		"an address of the host":      {`"PortBindings":{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]}`, []string{"HostIp", "127.0.0.1", "must be empty"}},
		"all addresses of the host":   {`"PortBindings":{"80/tcp":[{"HostIp":"0.0.0.0"}]}`, []string{"HostIp", "must be empty"}},
		"an address without a bridge": {`"NetworkMode":"host","PortBindings":{"80/tcp":[{"HostIp":"::1"}]}`, []string{"HostIp", "must be empty"}},
		"two ports on one":            {`"PortBindings":{"80/tcp":[{"HostPort":"8080"}],"81/tcp":[{"HostPort":"8080"}]}`, []string{"HostPort 8080", "80", "81"}},
		"two protocols' on one":       {`"PortBindings":{"80/tcp":[{"HostPort":"8080"}],"81/udp":[{"HostPort":"8080"}]}`, []string{"HostPort 8080", "tcp and udp"}},
		"a range":                     {`"PortBindings":{"80/tcp":[{"HostPort":"8000-8010"}]}`, []string{"HostPort", "8000-8010"}},
		"a sign":                      {`"PortBindings":{"80/tcp":[{"HostPort":"+80"}]}`, []string{"HostPort", "+80"}},
		"too many":                    {`"PortBindings":{"80/tcp":[` + strings.Join(many, ",") + `]}`, []string{"at most 64"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := publishing(t, c.hostConfig, "").Function.validatePorts()
			for _, want := range c.want {
				requireInvalid(t, err, "HostConfig.PortBindings: ", want)
			}
		})
	}
}

// A Consul service has the name of a host.
func TestNameOfAFunctionThatPublishes(t *testing.T) {
	t.Parallel()
	const ports = `"PortBindings":{"80/tcp":[{}]}`
	long := strings.Repeat("n", 59)
	for body, ok := range map[string]bool{
		`{"Name":"` + long[:58] + `","Config":{"Image":"i"},"HostConfig":{` + ports + `}}`:                 true,
		`{"Name":"` + long + `","Config":{"Image":"i"},"HostConfig":{` + ports + `}}`:                      false,
		`{"Name":"` + long + `","Config":{"Image":"i"},"HostConfig":{"PublishAllPorts":true}}`:             false,
		`{"Name":"` + long + `","Config":{"Image":"i"},"HostConfig":{"NetworkMode":"host",` + ports + `}}`: true,
		`{"Name":"` + long + `","Config":{"Image":"i","ExposedPorts":{"80/tcp":{}}}}`:                      true,
	} {
		_, err := ParseFunction([]byte(body))
		if ok {
			require.NoError(t, err, body)
			continue
		}
		requireInvalid(t, err, "Name: ", "58 characters, as its Consul service is func-<name>")
	}
}

// The service of a published port carries the id of one call, so its container can't wait for one, or serve another.
func TestFunctionThatPublishesHasAContainerForEachCall(t *testing.T) {
	t.Parallel()
	const ports = `"PortBindings":{"80/tcp":[{}]}`
	f, err := ParseFunction([]byte(create("", "", ports)))
	require.NoError(t, err)
	e, err := f.Extensions()
	require.NoError(t, err)
	require.Equal(t, Extensions{Warm: 0, ReuseMax: DefaultReuseMax}, e)
	for _, labels := range []string{`{"funcd.warm":"1"}`, `{"funcd.reuse":"true"}`} {
		_, err := ParseFunction([]byte(create("", `"Labels":`+labels, ports)))
		requireInvalid(t, err, "Config.Labels: ", "publishes ports")
		_, err = ParseFunction([]byte(create("", `"Labels":`+labels, `"NetworkMode":"host",`+ports)))
		require.NoError(t, err, "nothing is published there")
	}
	_, err = ParseFunction([]byte(create("", `"Labels":{"funcd.warm":"0","funcd.reuse":"false","funcd.idle":"1m"}`, ports)))
	require.NoError(t, err)
}

func FuzzPorts(f *testing.F) {
	f.Add("80/tcp", "8080", "", "443/tcp", true)
	f.Add("80", "", "::1", "80-90/tcp", false)
	f.Fuzz(func(t *testing.T, port, host, ip, image string, all bool) {
		d := &Definition{Function: Function{Name: "f"}, Image: Image{ExposedPorts: []string{image}}}
		d.Function.HostConfig = HostConfig{NetworkMode: DefaultNetwork, PublishAllPorts: all, PortBindings: map[string][]PortBinding{port: {{ip, host}}}}
		err := d.Function.validatePorts()
		ports := d.PublishedPorts()
		if err != nil {
			require.Equal(t, Invalid, CodeOf(err))
			return
		}
		require.NotEmpty(t, ports)
		for _, p := range ports {
			require.True(t, p.Container > 0 && p.Container < 1<<16 && p.Host >= 0 && p.Host < 1<<16, p)
			require.Subset(t, []string{"tcp", "udp"}, p.Protocols)
		}
	})
}
