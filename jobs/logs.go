package jobs

import (
	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
)

// hideLogs covers /alloc/logs in a container that serves several calls: what they write to stdout and stderr goes to files there, and is not for the calls
// after them. Nomad collects it outside of the container all the same.
func hideLogs(d *api.Definition, task *nomad.Task) {
	if extensions, err := d.Function.Extensions(); err != nil || !extensions.Reuse {
		return
	}
	addMount(task, map[string]any{
		"type":          "tmpfs",
		"target":        "/alloc/logs",
		"readonly":      true,
		"tmpfs_options": []map[string]any{{"size": 4096}},
	})
}

// addMount adds a mount block of the docker driver.
func addMount(task *nomad.Task, mount map[string]any) {
	mounts, _ := task.Config["mount"].([]map[string]any)
	task.Config["mount"] = append(mounts, mount)
}
