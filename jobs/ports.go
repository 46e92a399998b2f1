package jobs

import (
	"fmt"
	"slices"
	"strings"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
)

// MetaPort is the port in the container, such as 80/tcp, in the meta of a call's Consul service. MetaFunction and MetaAccount are there too.
const MetaPort = "port"

// publish gives the job the function's ports: the group reserves them on the node, docker maps them to its bridge, and each is in Consul as an
// instance of the service func-<name> for as long as the call's container runs.
func publish(d *api.Definition, group *nomad.TaskGroup, task *nomad.Task, o Options) error {
	ports := d.PublishedPorts()
	if len(ports) == 0 {
		return nil
	}
	if len(ports) > api.MaxPorts { // those that an image exposes are known only here
		return api.Errorf(api.Invalid, "HostConfig.PublishAllPorts: a function may publish at most %d ports, %s exposes more", api.MaxPorts, d.Function.Config.Image)
	}
	network := &nomad.NetworkResource{Mode: "host"} // the node's address; docker's own bridge is behind it
	var labels []string
	for _, p := range ports {
		label := fmt.Sprintf("p%d", p.Container)
		if p.Host != 0 {
			label += fmt.Sprintf("_%d", p.Host)
		}
		for n := 2; slices.Contains(labels, label); n++ { // any port, and more than one
			label = fmt.Sprintf("p%d_any%d", p.Container, n)
		}
		labels = append(labels, label)
		port := nomad.Port{Label: label, Value: p.Host, To: p.Container, HostNetwork: o.HostNetwork}
		if p.Host != 0 {
			network.ReservedPorts = append(network.ReservedPorts, port)
		} else {
			network.DynamicPorts = append(network.DynamicPorts, port)
		}
		task.Services = append(task.Services, &nomad.Service{
			Name:        api.ServicePrefix + d.Function.Name,
			PortLabel:   label,
			AddressMode: "host",
			Provider:    nomad.ServiceProviderConsul,
			Tags:        append([]string{"${NOMAD_META_" + MetaCall + "}"}, p.Protocols...),
			Meta: map[string]string{
				MetaPort:     fmt.Sprintf("%d/%s", p.Container, strings.Join(p.Protocols, "+")),
				MetaFunction: d.ID,
				MetaAccount:  d.Account,
			},
		})
	}
	group.Networks = []*nomad.NetworkResource{network}
	task.Config["ports"] = labels
	return nil
}
