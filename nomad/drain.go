package nomad

import (
	"context"
	"fmt"

	nomad "github.com/hashicorp/nomad/api"
)

// Draining returns the ids of the allocations that are on nodes that are being drained and have not ended. Nomad leaves those of batch jobs alone
// until the drain's deadline. Any server may answer. The error is of code Unavailable.
func (c *Client) Draining(ctx context.Context) (map[string]bool, error) {
	q, cancel := c.query(ctx, c.cfg.Options.Namespace)
	defer cancel()
	q.AllowStale = true
	q.Filter = fmt.Sprintf("SchedulingEligibility == %q", nomad.NodeSchedulingIneligible) // as all are that are being drained
	nodes, _, err := c.nomad.Nodes().List(q)
	if err != nil {
		return nil, asked(err, "listing the nodes that are being drained")
	}
	draining := map[string]bool{}
	for _, node := range nodes {
		if !node.Drain {
			continue
		}
		q.Filter = fmt.Sprintf(`NodeID == %q and (ClientStatus == %q or ClientStatus == %q)`,
			node.ID, nomad.AllocClientStatusPending, nomad.AllocClientStatusRunning)
		q.Params = map[string]string{"task_states": "false"}
		for _, q.Namespace = range c.namespaces() {
			allocations, _, err := c.nomad.Allocations().List(q)
			if err != nil {
				return nil, asked(err, "listing the containers of a node that is being drained")
			}
			for _, a := range allocations {
				draining[a.ID] = true
			}
		}
	}
	return draining, nil
}
