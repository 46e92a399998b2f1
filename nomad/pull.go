package nomad

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// PullImage has every ready node pull the image, by a job that is gone when this returns, and gives tell how far they are, now and after each
// change. It returns when each has the image or has failed, as the last state says; with ctx's error when that ends first; with tell's. Other
// errors are of code Unavailable, also where no node can pull.
func (c *Client) PullImage(ctx context.Context, p api.ImagePull, tell func(api.PullState) error) error {
	id := jobs.PullID(p.Account, strings.ReplaceAll(uuid.NewString(), "-", ""))
	namespace := c.namespaceOf(id)
	job, err := jobs.RenderPull(id, &p, c.cfg.Options)
	if err != nil {
		return err
	}
	defer c.forgetPull(context.WithoutCancel(ctx), id, p.Login != nil)
	if p.Login != nil {
		if err := c.writeLogin(ctx, id, p.Login); err != nil {
			return err
		}
	}
	w, cancel := c.write(ctx, namespace)
	registered, _, err := c.nomad.Jobs().Register(job, w)
	cancel()
	if err != nil {
		return asked(err, "starting a pull")
	}
	placed, err := c.placed(ctx, namespace, registered.EvalID)
	if err != nil {
		return err
	}
	return c.followPull(ctx, id, &p, placed, tell)
}

// pollTime is how long Nomad holds a question for a change.
const pollTime = 5 * time.Second

// poll returns the options of a question that is held until something is newer than index.
func (c *Client) poll(ctx context.Context, namespace string, index uint64) (*nomad.QueryOptions, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, pollTime+c.cfg.Timeout)
	return (&nomad.QueryOptions{Namespace: namespace, WaitIndex: index, WaitTime: pollTime}).WithContext(ctx), cancel
}

// placed returns an evaluation when Nomad is done with it.
func (c *Client) placed(ctx context.Context, namespace, id string) (*nomad.Evaluation, error) {
	for index := uint64(0); ; {
		q, cancel := c.poll(ctx, namespace, index)
		eval, meta, err := c.nomad.Evaluations().Info(id, q)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, asked(err, "asking for a pull's evaluation")
		}
		switch eval.Status {
		case nomad.EvalStatusComplete:
			return eval, nil
		case nomad.EvalStatusFailed, nomad.EvalStatusCancelled:
			return nil, api.Errorf(api.Unavailable, "Nomad did not place the pull: %s", cmp.Or(eval.StatusDescription, eval.Status))
		}
		index = meta.LastIndex
	}
}

// followPull tells of the job's allocations until all have ended.
func (c *Client) followPull(ctx context.Context, id string, p *api.ImagePull, placed *nomad.Evaluation, tell func(api.PullState) error) error {
	waiting, reason := placed.QueuedAllocations[jobs.PullGroup], ""
	if metric := placed.FailedTGAllocs[jobs.PullGroup]; metric != nil {
		reason, _ = noPlace(metric)
	}
	var told *api.PullState
	for index := uint64(0); ; {
		q, cancel := c.poll(ctx, c.namespaceOf(id), index)
		allocations, meta, err := c.nomad.Jobs().Allocations(id, true, q)
		cancel()
		if err == nil && waiting > 0 {
			waiting, err = c.waiting(ctx, id)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return asked(err, "following a pull")
		}
		index = meta.LastIndex
		state := pullState(allocations, p.Ref)
		if state.Waiting = waiting; waiting > 0 {
			state.Reason = reason
		}
		if len(state.Nodes) == 0 && waiting == 0 {
			return api.Errorf(api.Unavailable, "no node of the cluster is ready to pull images")
		}
		if told == nil || !equal(*told, state) {
			if err := tell(state); err != nil {
				return err
			}
			told = &state
		}
		if waiting == 0 && !slices.ContainsFunc(state.Nodes, func(n api.NodePull) bool { return !n.Ended }) {
			return nil
		}
	}
}

func equal(a, b api.PullState) bool {
	return a.Waiting == b.Waiting && a.Reason == b.Reason && slices.Equal(a.Nodes, b.Nodes)
}

// waiting returns how many nodes have no room for the job.
func (c *Client) waiting(ctx context.Context, id string) (int, error) {
	q, cancel := c.query(ctx, c.namespaceOf(id))
	defer cancel()
	summary, _, err := c.nomad.Jobs().Summary(id, q)
	if err != nil {
		return 0, err
	}
	return summary.Summary[jobs.PullGroup].Queued, nil
}

// pullState makes a state of a pull's allocations. A node that has more than one has its latest.
func pullState(allocations []*nomad.AllocationListStub, image string) api.PullState {
	latest := map[string]*nomad.AllocationListStub{}
	for _, a := range allocations {
		if other := latest[a.NodeID]; other == nil || a.CreateIndex > other.CreateIndex {
			latest[a.NodeID] = a
		}
	}
	state := api.PullState{Nodes: []api.NodePull{}}
	for _, a := range latest {
		state.Nodes = append(state.Nodes, nodePull(a, image))
	}
	slices.SortFunc(state.Nodes, func(a, b api.NodePull) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID)) })
	return state
}

// The states of a node, in Docker's words: clients look for them.
const (
	pullWaiting  = "Waiting"
	pullPulling  = "Pulling"
	pullComplete = "Pull complete"
	pullFailure  = "Failed"
)

var (
	// A container that can't be created or started is of an image that is there.
	containerFailed = regexp.MustCompile(`(?i)failed to (create|start) container|failed to inspect started container`)
	pullDenied      = regexp.MustCompile(`(?i)unauthorized|authentication required|no basic auth credentials|access denied|denied:|forbidden`)
)

// pullProgress begins the events of Nomad's docker driver about a pull that takes minutes.
const pullProgress = "Docker image pull progress: "

// nodePull tells how far the node of an allocation is. What the container does does not matter: that it was made tells that the image is there.
func nodePull(a *nomad.AllocationListStub, image string) api.NodePull {
	n := api.NodePull{ID: a.NodeID, Node: a.NodeName, Status: pullWaiting}
	task := a.TaskStates[jobs.PullTask]
	if task == nil {
		task = &nomad.TaskState{}
	}
	done := !task.StartedAt.IsZero()
	for _, e := range task.Events {
		switch e.Type {
		case nomad.TaskDriverMessage:
			if progress, ok := strings.CutPrefix(e.DriverMessage, pullProgress); ok {
				n.Status = progress
			} else {
				n.Status = pullPulling
			}
		case nomad.TaskStarted, nomad.TaskTerminated:
			done = true
		case nomad.TaskDriverFailure:
			text := firstOf(e.DriverError, e.DisplayMessage, e.Message)
			done = containerFailed.MatchString(text) && !imageMissing.MatchString(text)
		}
	}
	if done {
		return api.NodePull{ID: a.NodeID, Node: a.NodeName, Status: pullComplete, Ended: true}
	}
	switch a.ClientStatus {
	case nomad.AllocClientStatusLost, nomad.AllocClientStatusUnknown:
		n.Code, n.Message = api.Unavailable, "the node is down or can't be reached"
	case nomad.AllocClientStatusFailed, nomad.AllocClientStatusComplete:
		n.Code, n.Message = pullEnding(task, image)
	default:
		return n
	}
	n.Status, n.Ended = pullFailure, true
	return n
}

// pullEnding tells why a container was not made.
func pullEnding(task *nomad.TaskState, image string) (api.Code, string) {
	for _, e := range slices.Backward(task.Events) {
		text := firstOf(e.DriverError, e.SetupError, e.DownloadError, e.ValidationError, e.DisplayMessage, e.Message)
		switch e.Type {
		case nomad.TaskDriverFailure:
			switch {
			case pullDenied.MatchString(text) && !strings.Contains(text, "repository does not exist"):
				return api.Forbidden, "access to " + image + " denied"
			case imageMissing.MatchString(text):
				return api.NotFound, "no such image: " + image
			}
			return api.Unavailable, text
		case nomad.TaskSetupFailure, nomad.TaskFailedValidation, nomad.TaskArtifactDownloadFailed:
			return api.Unavailable, text
		}
	}
	return api.Unavailable, "the pull was stopped in Nomad"
}

// forgetPull removes what a pull has left in Nomad. What can't be removed now is by ForgetPulls.
func (c *Client) forgetPull(ctx context.Context, id string, login bool) {
	err := c.purge(ctx, id)
	if login && err == nil {
		err = c.removeLogin(ctx, id)
	}
	if err != nil {
		c.log.Warn("what a pull needed is left behind in Nomad for now", "job", id, "error", err)
	}
}

// ForgetPulls removes the jobs and logins of pulls that have begun before the time: those of servers that have died.
func (c *Client) ForgetPulls(ctx context.Context, before time.Time) error {
	list, err := c.list(ctx, jobs.PullPrefix, "", "listing the pulls")
	if err != nil {
		return err
	}
	for _, job := range list {
		if time.Unix(0, job.SubmitTime).Before(before) {
			if err := c.purge(ctx, job.ID); err != nil {
				return err
			}
			c.log.Info("a pull that was left behind was removed", "job", job.ID)
		}
	}
	if !c.cfg.Variables {
		return nil
	}
	for _, namespace := range c.namespaces() {
		found, err := c.listLogins(ctx, namespace, jobs.PullPrefix)
		if err != nil {
			return err
		}
		for _, v := range found {
			if time.Unix(0, v.CreateTime).Before(before) {
				if err := c.removeVariable(ctx, namespace, v.Path); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
