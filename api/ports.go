package api

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Port is a port of a function's container that is published on the node that runs it.
type Port struct {
	Container int      // in the container
	Host      int      // on the node; 0 for any that is free
	Protocols []string // tcp, udp: those that the function names, sorted. Nomad publishes every port for both.
}

const (
	// MaxPorts is how many ports a function may publish. Each of them is a port of the node and a service for each call.
	MaxPorts = 64
	// ServicePrefix begins the name of the Consul service of a function that publishes ports.
	ServicePrefix = "func-"
	// maxServiceName is the longest name of a service that Nomad takes (RFC 1123: one label of a host's name).
	maxServiceName = 63
)

// PublishesPorts tells whether the function's containers have ports of their nodes. As in Docker only those on the bridge do: there is
// nothing to publish on the host's network, or without one.
func (f *Function) PublishesPorts() bool {
	bound := slices.ContainsFunc(slices.Collect(maps.Values(f.HostConfig.PortBindings)), func(b []PortBinding) bool { return len(b) > 0 })
	return f.HostConfig.NetworkMode == DefaultNetwork && (bound || f.HostConfig.PublishAllPorts)
}

// PublishesFixedPorts tells whether one of them is a port that the function chooses: only one of its containers can have it on a node.
func (f *Function) PublishesFixedPorts() bool {
	return f.PublishesPorts() && slices.ContainsFunc(f.bindings(), func(p Port) bool { return p.Host != 0 })
}

// PublishedPorts returns the ports that the function's containers publish, in a fixed order: those of PortBindings, and with PublishAllPorts all
// that it or its image exposes. A port of both protocols is one, with the same port of the node for both.
func (d *Definition) PublishedPorts() []Port {
	f := &d.Function
	if !f.PublishesPorts() {
		return nil
	}
	ports := f.bindings()
	if f.HostConfig.PublishAllPorts {
		exposed := slices.Concat(slices.Collect(maps.Keys(f.Config.ExposedPorts)), slices.Collect(maps.Keys(f.HostConfig.PortBindings)), d.Image.ExposedPorts)
		slices.Sort(exposed)
		for _, port := range slices.Compact(exposed) {
			// What an image says may be anything: a range, or another protocol.
			if number, protocol, err := parsePort(port); err == nil && !publishes(ports, number, protocol) {
				ports = merge(ports, Port{Container: number, Protocols: []string{protocol}}, 0)
			}
		}
	}
	slices.SortStableFunc(ports, func(a, b Port) int { return cmp.Or(a.Container-b.Container, a.Host-b.Host) })
	return ports
}

// bindings returns the ports of PortBindings.
func (f *Function) bindings() []Port {
	var ports []Port
	for _, name := range slices.Sorted(maps.Keys(f.HostConfig.PortBindings)) {
		number, protocol, err := parsePort(name)
		if err != nil {
			continue
		}
		nth := 0 // of those of this protocol for which any port will do
		for _, binding := range f.HostConfig.PortBindings[name] {
			port := Port{Container: number, Protocols: []string{protocol}}
			if binding.HostPort == "" {
				ports = merge(ports, port, nth)
				nth++
				continue
			}
			if port.Host, err = strconv.Atoi(binding.HostPort); err == nil {
				ports = merge(ports, port, 0)
			}
		}
	}
	return ports
}

// merge adds a port of one protocol, to the nth entry with its numbers if that is there.
func merge(ports []Port, port Port, nth int) []Port {
	for i := range ports {
		if ports[i].Container != port.Container || ports[i].Host != port.Host {
			continue
		}
		if nth == 0 {
			ports[i].Protocols = slices.Compact(slices.Sorted(slices.Values(append(ports[i].Protocols, port.Protocols...))))
			return ports
		}
		nth--
	}
	return append(ports, port)
}

func publishes(ports []Port, number int, protocol string) bool {
	return slices.ContainsFunc(ports, func(p Port) bool { return p.Container == number && slices.Contains(p.Protocols, protocol) })
}

// parsePort reads "80/tcp", "80/udp" or "80".
func parsePort(port string) (number int, protocol string, err error) {
	text, protocol, ok := strings.Cut(port, "/")
	if !ok {
		protocol = "tcp"
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || protocol != "tcp" && protocol != "udp" {
		return 0, "", Errorf(Invalid, "%.100q must be of the form <port>/<tcp|udp> with a port from 1 to 65535", port)
	}
	return int(n), protocol, nil
}

// validatePorts checks what is published, for the whole function.
func (f *Function) validatePorts() error {
	for _, port := range slices.Sorted(maps.Keys(f.Config.ExposedPorts)) {
		if _, _, err := parsePort(port); err != nil {
			return Errorf(Invalid, "Config.ExposedPorts: %s", MessageOf(err))
		}
	}
	for _, port := range slices.Sorted(maps.Keys(f.HostConfig.PortBindings)) {
		if _, _, err := parsePort(port); err != nil {
			return Errorf(Invalid, "HostConfig.PortBindings: %s", MessageOf(err))
		}
		for _, b := range f.HostConfig.PortBindings[port] {
			switch n, err := strconv.ParseUint(b.HostPort, 10, 16); {
			case b.HostIP != "":
				return Errorf(Invalid, "HostConfig.PortBindings: HostIp %.100q must be empty: a port is published on the address of the node that runs the call", b.HostIP)
			case b.HostPort != "" && (err != nil || n == 0):
				return Errorf(Invalid, "HostConfig.PortBindings: HostPort %.100q must be a port from 1 to 65535, or empty for any", b.HostPort)
			}
		}
	}
	if !f.PublishesPorts() {
		return nil
	}
	ports, of := f.bindings(), map[int]int{}
	for _, p := range ports {
		if other, ok := of[p.Host]; ok && p.Host != 0 {
			return Errorf(Invalid, "HostConfig.PortBindings: HostPort %d is bound to %d and to %d, and a node has it once, for tcp and udp", p.Host, other, p.Container)
		}
		of[p.Host] = p.Container
	}
	switch {
	case len(ports)+len(f.Config.ExposedPorts) > MaxPorts:
		return Errorf(Invalid, "HostConfig.PortBindings: a function may publish at most %d ports", MaxPorts)
	case len(ServicePrefix+f.Name) > maxServiceName:
		return Errorf(Invalid, "Name: that of a function that publishes ports must be at most %d characters, as its Consul service is %s<name>",
			maxServiceName-len(ServicePrefix), ServicePrefix)
	}
	return nil
}
