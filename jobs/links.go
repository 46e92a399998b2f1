package jobs

import (
	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
)

// hostsFile is a container's /etc/hosts, in the allocation's directory on the client.
const hostsFile = "local/hosts"

// link gives a function with Links an /etc/hosts that its runner may write, whatever user it is: what links lead to is known only when the
// container is given its call. Docker's own is root's.
func link(d *api.Definition, task *nomad.Task) {
	if len(d.Function.HostConfig.Links) == 0 {
		return
	}
	task.Templates = append(task.Templates, &nomad.Template{
		EmbeddedTmpl: new("127.0.0.1\tlocalhost\n"),
		DestPath:     new(hostsFile),
		Perms:        new("0666"),
		ChangeMode:   new("noop"),
	})
	addMount(task, map[string]any{"type": "bind", "source": hostsFile, "target": "/etc/hosts"})
}
