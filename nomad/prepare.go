package nomad

import (
	"context"
	"maps"
	"slices"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// Prepare notes in d the volumes that its VolumesFrom stands for, and checks that the function can have a job. The error is of code Invalid or
// Unavailable.
func (c *Client) Prepare(ctx context.Context, d *api.Definition) error {
	d.Volumes = nil
	for _, text := range d.Function.HostConfig.VolumesFrom {
		name, readOnly, _ := api.ParseVolumesFrom(text)
		volumes, err := c.volumesOf(ctx, c.namespaceOf(jobs.ID(d.Account, d.Function.Name)), name, readOnly)
		if err != nil {
			return err
		}
		d.Volumes = append(d.Volumes, volumes...)
	}
	_, err := jobs.Render(d, c.cfg.Options)
	return err
}

// volumesOf returns the volumes that a job of the namespace mounts.
func (c *Client) volumesOf(ctx context.Context, namespace, name string, readOnly bool) ([]api.Volume, error) {
	q, cancel := c.query(ctx, namespace)
	defer cancel()
	job, _, err := c.nomad.Jobs().Info(name, q)
	if err := translate(err, "asking for a job's volumes"); api.CodeOf(err) == api.NotFound {
		return nil, api.Wrap(api.Invalid, err, "HostConfig.VolumesFrom: Nomad has no job "+name)
	} else if err != nil {
		return nil, err
	}
	volumes, err := jobs.VolumesOf(job, readOnly)
	if err != nil {
		return nil, err
	}
	return volumes, c.checkHostPaths(ctx, namespace, name, volumes)
}

// nodesAsked is how many nodes are asked for what is behind a volume: a job may run on all of a large cluster, where they will be alike.
const nodesAsked = 10

// checkHostPaths refuses host volumes that hold Docker's socket, on nodes that the job runs on. A token that may not read nodes sees none of it.
func (c *Client) checkHostPaths(ctx context.Context, namespace, job string, volumes []api.Volume) error {
	if !slices.ContainsFunc(volumes, func(v api.Volume) bool { return v.Type == "host" }) {
		return nil
	}
	q, cancel := c.query(ctx, namespace)
	defer cancel()
	allocations, _, err := c.nomad.Jobs().Allocations(job, false, q)
	if err != nil {
		return translate(err, "asking for a job's allocations")
	}
	nodes := map[string]bool{}
	for _, a := range allocations {
		nodes[a.NodeID] = true
	}
	for i, id := range slices.Sorted(maps.Keys(nodes)) {
		if i == nodesAsked {
			break
		}
		node, _, err := c.nomad.Nodes().Info(id, q)
		if err != nil {
			c.log.Debug("the host volumes of a node are not known", "node", id, "error", err)
			continue
		}
		if err := checkNode(node, volumes); err != nil {
			return err
		}
	}
	return nil
}

func checkNode(node *nomad.Node, volumes []api.Volume) error {
	for _, v := range volumes {
		if host := node.HostVolumes[v.Source]; v.Type == "host" && host != nil && jobs.HoldsDockerSocket(host.Path) {
			return api.Errorf(api.Invalid, "HostConfig.VolumesFrom: the volume %.300q holds Docker's socket, which no function may have", v.Source)
		}
	}
	return nil
}
