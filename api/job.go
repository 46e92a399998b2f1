package api

import (
	"context"
	"encoding/json"
	"net/http"
)

// JobInspect is the answer to GET /funcs/$name/job: a function as the cluster has it.
type JobInspect struct {
	ID        string // of the Nomad job
	Namespace string
	UI        string          // the address of the job's page in Nomad's UI
	Job       json.RawMessage // as Nomad's API takes it
	HCL       string          // the same as a job file
}

// InspectJob returns a function as the cluster has it. Errors: NotFound.
func (c *Client) InspectJob(ctx context.Context, name string) (JobInspect, error) {
	var job JobInspect
	err := c.manage(ctx, http.MethodGet, []string{"funcs", name, "job"}, nil, nil, &job)
	return job, err
}
