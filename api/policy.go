package api

import (
	"strings"
	"time"
)

// Policy is what an account's functions may ask for. Operators decide it.
type Policy struct {
	HostNetworking      bool // NetworkMode host: whatever listens on the nodes' loopback is within reach
	ContainerNetworking bool // NetworkMode container:…, any container's of the node
	FixedPorts          bool // PortBindings with a HostPort, any port's of the node
	VolumesFrom         bool // the volumes of any job of Nomad's
	StopSignalSIGKILL   bool // StopSignal SIGKILL, which leaves a function no time to end

	MaxKeep time.Duration // funcd.keep, at most; 0: any
}

// FullPolicy allows all.
func FullPolicy() Policy {
	return Policy{HostNetworking: true, ContainerNetworking: true, FixedPorts: true, VolumesFrom: true, StopSignalSIGKILL: true}
}

// Check refuses what the policy does not allow, as of an account. The error is of code Forbidden and names the switch, as it is in the configuration,
// or Invalid for a label over its limit.
func (p Policy) Check(f *Function, account string) error {
	h := &f.HostConfig
	for _, rule := range []struct {
		asked, allowed bool
		what, name     string
	}{
		{h.NetworkMode == "host", p.HostNetworking, "HostConfig.NetworkMode: host", "host_networking"},
		{strings.HasPrefix(h.NetworkMode, "container:"), p.ContainerNetworking, "HostConfig.NetworkMode: container", "container_networking"},
		{f.PublishesFixedPorts(), p.FixedPorts, "HostConfig.PortBindings: a fixed HostPort", "fixed_ports"},
		{len(h.VolumesFrom) > 0, p.VolumesFrom, "HostConfig.VolumesFrom", "volumes_from"},
		{f.Config.StopSignal.Name() == "SIGKILL", p.StopSignalSIGKILL, "Config.StopSignal: SIGKILL", "stop_signal_sigkill"},
	} {
		if rule.asked && !rule.allowed {
			return Errorf(Forbidden, "%s is not allowed for the account %s (%s)", rule.what, account, rule.name)
		}
	}
	if e, err := f.Extensions(); err == nil && p.MaxKeep > 0 && e.Calls.Keep > p.MaxKeep {
		return Errorf(Invalid, "Config.Labels: funcd.keep: %q must be at most %s", f.Config.Labels["funcd.keep"], p.MaxKeep)
	}
	return nil
}
