package nomad

import (
	"context"
	"strconv"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// SetCluster tells the client the id of its funcd cluster. Jobs that are registered from then on bear it. Until then they bear none, and
// FunctionJobs and EndedJobs fail: whose jobs there are is not known.
func (c *Client) SetCluster(id string) { c.cluster.Store(&id) }

// own returns what tells whether a job with this meta is of this funcd cluster.
func (c *Client) own() (func(meta map[string]string) bool, error) {
	cluster := c.cluster.Load()
	if cluster == nil {
		return nil, api.Errorf(api.Unavailable, "Consul has not answered yet")
	}
	return func(meta map[string]string) bool { return meta[jobs.MetaCluster] == *cluster }, nil
}

// render returns the function's job, and the login for its image's registry that it is to have, nil for none.
func (c *Client) render(d *api.Definition) (*nomad.Job, *api.RegistryAuth, error) {
	options := c.cfg.Options
	if cluster := c.cluster.Load(); cluster != nil {
		options.Cluster = *cluster
	}
	registry, login, err := c.loginFor(d.Account, d.Image.Ref)
	if err != nil {
		return nil, nil, err
	}
	if login != nil {
		options.Login = registry
	}
	job, err := jobs.Render(d, options)
	return job, login, err
}

// FunctionJobs returns the jobs of all functions of this funcd cluster. The error is of code Unavailable.
func (c *Client) FunctionJobs(ctx context.Context) ([]api.FunctionJob, error) {
	ours, err := c.own()
	if err != nil {
		return nil, err
	}
	// Dispatches have a parent; the meta of thousands of them need not travel.
	list, err := c.list(ctx, jobs.Prefix, `ParentID == ""`, "listing the functions' jobs")
	if err != nil {
		return nil, err
	}
	var all []api.FunctionJob
	for _, job := range list {
		account, name := job.Meta[jobs.MetaAccount], job.Meta[jobs.MetaName]
		if !ours(job.Meta) || job.ID != jobs.ID(account, name) {
			continue
		}
		revision, _ := strconv.ParseUint(job.Meta[jobs.MetaRevision], 10, 64) // 0 is no function's: the job is made anew
		if !c.hasLogin(job.ID, account, job.Meta[jobs.MetaLogin]) {
			revision = 0
		}
		all = append(all, api.FunctionJob{
			Account: account, Name: name, Function: job.Meta[jobs.MetaFunction],
			Revision: revision, Index: job.JobModifyIndex, Stopped: job.Stop,
		})
	}
	return all, nil
}

// Drifted tells whether the function's job is another than it would be registered as now: it was changed by hand, or the options have changed.
// Nomad compares them. The error is of code Unavailable or Invalid.
func (c *Client) Drifted(ctx context.Context, d *api.Definition) (bool, error) {
	job, _, err := c.render(d)
	if err != nil {
		return false, err
	}
	if err := c.upkeep.Wait(ctx); err != nil {
		return false, err
	}
	w, cancel := c.write(ctx, c.namespaceOf(*job.ID))
	defer cancel()
	plan, _, err := c.nomad.Jobs().Plan(job, true, w)
	if err != nil {
		return false, translate(err, "comparing the function's job")
	}
	return plan.Diff != nil && plan.Diff.Type != "None", nil
}

// Remove purges the job of the function with this id and before it the jobs of its calls, which Nomad would otherwise leave without a parent
// (hashicorp/nomad#6970). It is no error if they are gone. Those of another function that has the name now are left alone.
func (c *Client) Remove(ctx context.Context, account, name, function string) error {
	id := jobs.ID(account, name)
	children, err := c.listIn(ctx, c.namespaceOf(id), id+"/dispatch-", "", "listing the function's calls")
	if err != nil {
		return err
	}
	for _, child := range children {
		if child.Meta[jobs.MetaFunction] != function {
			continue
		}
		if err := c.Purge(ctx, child.ID); err != nil {
			return err
		}
	}
	removeLogin, err := c.loginToRemove(ctx, id)
	if err != nil {
		return err
	}
	q, cancel := c.query(ctx, c.namespaceOf(id))
	defer cancel()
	job, _, err := c.nomad.Jobs().Info(id, q)
	if err := translate(err, "asking for the function's job"); api.CodeOf(err) == api.NotFound {
		return nil
	} else if err != nil {
		return err
	}
	if job.Meta[jobs.MetaFunction] != function {
		return nil
	}
	if err := c.Purge(ctx, id); err != nil {
		return err
	}
	return removeLogin(ctx)
}

// Purge removes a job, as soon as the rate of purges allows. One that has not ended is stopped. It is no error if it is gone.
func (c *Client) Purge(ctx context.Context, job string) error {
	if err := c.upkeep.Wait(ctx); err != nil {
		return err
	}
	return c.purge(ctx, job)
}

// purge is Purge at once.
func (c *Client) purge(ctx context.Context, job string) error {
	return c.purgeIn(ctx, c.namespaceOf(job), job)
}

func (c *Client) purgeIn(ctx context.Context, namespace, job string) error {
	w, cancel := c.write(ctx, namespace)
	defer cancel()
	_, _, err := c.nomad.Jobs().Deregister(job, true, w)
	if err := translate(err, "purging a job"); api.CodeOf(err) != api.NotFound {
		return err
	}
	return nil
}

// endedPage is how many jobs are listed at a time.
const endedPage = 500

// EndedJobs returns the jobs of single containers of this funcd cluster that Nomad says are dead. The error is of code Unavailable.
func (c *Client) EndedJobs(ctx context.Context) ([]api.EndedJob, error) {
	ours, err := c.own()
	if err != nil {
		return nil, err
	}
	var ended []api.EndedJob
	for _, namespace := range c.namespaces() {
		for token, more := "", true; more; more = token != "" {
			var list []listed
			if list, token, err = c.endedPage(ctx, namespace, token); err != nil {
				return nil, err
			}
			for _, job := range list {
				if !ours(job.Meta) || c.namespaceOf(job.ID) != namespace {
					continue
				}
				ended = append(ended, api.EndedJob{
					Account: job.Meta[jobs.MetaAccount], Name: job.Meta[jobs.MetaName], Function: job.Meta[jobs.MetaFunction],
					Job: job.ID, Call: job.Meta[jobs.MetaCall], Submitted: time.Unix(0, job.SubmitTime), Order: job.ModifyIndex,
				})
			}
		}
	}
	return ended, nil
}

func (c *Client) endedPage(ctx context.Context, namespace, token string) (list []listed, next string, err error) {
	q, cancel := c.query(ctx, namespace)
	defer cancel()
	q.Prefix, q.Filter = jobs.Prefix, `ParentID != "" and Status == "dead"`
	q.PerPage, q.NextToken = endedPage, token
	q.Params = map[string]string{"meta": "true"}
	q.AllowStale = true // any server will do: what has ended stays so
	meta, err := c.nomad.Raw().Query("/v1/jobs", &list, q)
	if err != nil {
		return nil, "", translate(err, "listing containers that have ended")
	}
	return list, meta.NextToken, nil
}

// Ended returns when the last container of a job ended. ok is false while one of them has not: Nomad calls a job dead as soon as all are told to
// stop. The time is the zero one for a job that never had a container, or whose containers Nomad has forgotten. The error is of code
// Unavailable.
func (c *Client) Ended(ctx context.Context, job string) (end time.Time, ok bool, err error) {
	q, cancel := c.query(ctx, c.namespaceOf(job))
	defer cancel()
	allocations, _, err := c.nomad.Jobs().Allocations(job, true, q)
	if err := translate(err, "asking for a container's end"); err != nil && api.CodeOf(err) != api.NotFound {
		return time.Time{}, false, err
	}
	for _, alloc := range allocations {
		switch alloc.ClientStatus {
		case nomad.AllocClientStatusComplete, nomad.AllocClientStatusFailed, nomad.AllocClientStatusLost:
		default:
			return time.Time{}, false, nil
		}
		at := time.Unix(0, alloc.ModifyTime)
		if task := alloc.TaskStates[jobs.TaskName]; task != nil && !task.FinishedAt.IsZero() {
			at = task.FinishedAt
		}
		if at.After(end) {
			end = at
		}
	}
	return end, true, nil
}
