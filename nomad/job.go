package nomad

import (
	"encoding/json"
	"strings"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// Job returns the function's job as Register sends it, and where Nomad's UI shows it. The error is of code Invalid or Internal.
func (c *Client) Job(d *api.Definition) (api.JobInspect, error) {
	job, _, err := c.render(d)
	if err != nil {
		return api.JobInspect{}, err
	}
	text, err := json.Marshal(job)
	if err != nil {
		return api.JobInspect{}, api.Wrap(api.Internal, err, "the job can't be shown")
	}
	hcl, err := jobs.HCL(job)
	if err != nil {
		return api.JobInspect{}, api.Wrap(api.Internal, err, "the job can't be shown as a job file")
	}
	ui := c.cfg.UIAddress
	if ui == "" {
		ui = c.nomad.Address()
	}
	return api.JobInspect{
		ID: *job.ID, Namespace: c.namespaceOf(*job.ID), UI: strings.TrimSuffix(ui, "/") + jobs.PagePath(job), Job: text, HCL: string(hcl),
	}, nil
}
