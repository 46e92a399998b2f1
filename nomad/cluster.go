package nomad

import (
	"context"
	"fmt"
	"regexp"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// dockerDriver is the task driver that containers run with.
const dockerDriver = "docker"

// Resources returns what functions can run on and what the account has running on it. Any server may answer, with what it last heard of the
// others. The error is of code Unavailable.
func (c *Client) Resources(ctx context.Context, account string) (api.ClusterResources, error) {
	q, cancel := c.query(ctx, c.namespaceOf(jobs.ID(account, "")))
	defer cancel()
	q.AllowStale = true
	q.Filter = fmt.Sprintf(`Status == %q`, nomad.NodeStatusReady)
	q.Params = map[string]string{"resources": "true"}
	nodes, _, err := c.nomad.Nodes().List(q)
	if err != nil {
		return api.ClusterResources{}, asked(err, "listing the nodes")
	}
	var r api.ClusterResources
	for _, node := range nodes {
		driver := node.Drivers[dockerDriver]
		if driver == nil || !driver.Healthy || node.NodeResources == nil {
			continue
		}
		r.Nodes++
		r.Cores += int(node.NodeResources.Cpu.TotalCpuCores)
		r.Memory += node.NodeResources.Memory.MemoryMB << 20
	}

	q.Params = map[string]string{"task_states": "false"}
	q.Filter = fmt.Sprintf(`(ClientStatus == %q or ClientStatus == %q) and JobID matches %q`,
		nomad.AllocClientStatusPending, nomad.AllocClientStatusRunning, "^"+regexp.QuoteMeta(jobs.ID(account, "")))
	allocations, _, err := c.nomad.Allocations().List(q)
	if err != nil {
		return api.ClusterResources{}, asked(err, "listing the containers")
	}
	for _, a := range allocations {
		r.Containers++
		if a.ClientStatus == nomad.AllocClientStatusRunning {
			r.Running++
		}
	}
	return r, nil
}

// asked is translate for a question that no parameter of a caller's is part of: any error is of code Unavailable.
func asked(err error, doing string) error {
	err = translate(err, doing)
	return api.Wrap(api.Unavailable, err, api.MessageOf(err))
}
