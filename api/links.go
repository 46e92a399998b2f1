package api

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Link is one of a function's Links.
type Link struct {
	Service string // a Consul service
	Alias   string // the host name that its instances have in the container
}

// Endpoint is where an instance of a service is reached.
type Endpoint struct {
	IP       netip.Addr
	Port     int    // 0 if the service has none
	Protocol string // tcp or udp
}

// ServiceAccount is the meta of a Consul service, of a function that publishes ports, that names the function's account.
const ServiceAccount = "funcd_account"

// ParsedLinks returns the function's Links in their order. The function must be valid.
func (f *Function) ParsedLinks() []Link {
	var links []Link
	for _, text := range f.HostConfig.Links {
		links = append(links, parseLink(text))
	}
	return links
}

func parseLink(text string) Link {
	service, alias, ok := strings.Cut(text, ":")
	if !ok {
		alias = service
	}
	return Link{service, alias}
}

func (h *HostConfig) validateLinks() error {
	var aliases []string
	for _, text := range h.Links {
		l := parseLink(text)
		if !linkNameFormat.MatchString(l.Service) || !linkNameFormat.MatchString(l.Alias) {
			return Errorf(Invalid, "HostConfig.Links: %.300q must be of the form name:alias", text)
		}
		if slices.Contains(aliases, l.Alias) {
			return Errorf(Invalid, "HostConfig.Links: %.300q is the alias of two links", l.Alias)
		}
		aliases = append(aliases, l.Alias)
	}
	return nil
}

// Hosts returns the lines of /etc/hosts for the link: one for each address, with the alias and the service's name, as Docker does.
func (l Link) Hosts(endpoints []Endpoint) []string {
	names := l.Alias
	if l.Service != l.Alias {
		names += " " + l.Service
	}
	var lines []string
	for _, e := range endpoints {
		if line := e.IP.String() + "\t" + names; !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// Env returns the variables that Docker gives a container for a link: those of each port, with the first endpoint's address that has it, and
// those of the lowest. Unlike in Docker there are none of the other side's environment, which Consul does not know. function is the name of the
// function that has the link.
func (l Link) Env(function string, endpoints []Endpoint) []string {
	prefix := strings.ReplaceAll(strings.ToUpper(l.Alias), "-", "_")
	var ports []Endpoint
	for _, e := range endpoints {
		if e.Port != 0 && !slices.ContainsFunc(ports, func(p Endpoint) bool { return p.Port == e.Port && p.Protocol == e.Protocol }) {
			ports = append(ports, e)
		}
	}
	slices.SortFunc(ports, func(a, b Endpoint) int { return cmp.Or(a.Port-b.Port, strings.Compare(a.Protocol, b.Protocol)) })
	var env []string
	set := func(name, value string) { env = append(env, prefix+name+"="+value) }
	if len(ports) > 0 {
		set("_PORT", ports[0].url())
	}
	for _, p := range ports {
		name := fmt.Sprintf("_PORT_%d_%s", p.Port, strings.ToUpper(p.Protocol))
		set(name, p.url())
		set(name+"_ADDR", p.IP.String())
		set(name+"_PORT", strconv.Itoa(p.Port))
		set(name+"_PROTO", p.Protocol)
	}
	for i := 0; i < len(ports); {
		first, last := ports[i], ports[i]
		for i++; i < len(ports) && ports[i].IP == last.IP && ports[i].Protocol == last.Protocol && ports[i].Port == last.Port+1; i++ {
			last = ports[i]
		}
		if last != first {
			name := fmt.Sprintf("_PORT_%d_%s", first.Port, strings.ToUpper(first.Protocol))
			set(name+"_START", first.url())
			set(name+"_PORT_START", strconv.Itoa(first.Port))
			set(name+"_END", last.url())
			set(name+"_PORT_END", strconv.Itoa(last.Port))
		}
	}
	set("_NAME", "/"+function+"/"+l.Alias)
	return env
}

func (e Endpoint) url() string {
	return e.Protocol + "://" + net.JoinHostPort(e.IP.String(), strconv.Itoa(e.Port))
}
