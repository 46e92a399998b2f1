package nomad

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// pullNomad is what a pull asks of Nomad.
type pullNomad struct {
	mu     sync.Mutex
	eval   []nomad.Evaluation // the answers, the last again and again
	states [][]*nomad.AllocationListStub
	queued []int
	fail   map[string]int // statuses by method and the beginning of a path
	hang   bool           // once the states are told

	jobs      map[string]string // bodies of those that are registered
	variables map[string]string // bodies of those that are written
	index     uint64            // of the last that was written
	requests  []string
	before    func(request string) // called ahead of each answer, if set
}

func (f *pullNomad) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	hold := false
	defer func() {
		f.mu.Unlock()
		if hold {
			<-r.Context().Done()
		}
	}()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	if f.before != nil {
		f.before(r.Method + " " + r.URL.Path)
	}
	for request, status := range f.fail {
		if strings.HasPrefix(r.Method+" "+r.URL.Path, request) {
			http.Error(w, "no", status)
			return
		}
	}
	answer := func(v any) {
		w.Header().Set("X-Nomad-Index", "7")
		_ = json.NewEncoder(w).Encode(v)
	}
	id, ok := strings.CutPrefix(r.URL.Path, "/v1/job/")
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/var/"):
		path := strings.TrimPrefix(r.URL.Path, "/v1/var/")
		if r.Method == http.MethodPut {
			f.write(path, string(body))
			answer(struct{}{})
			return
		}
		if cas := r.URL.Query().Get("cas"); cas != "" && cas != strconv.FormatUint(f.index, 10) {
			w.WriteHeader(http.StatusConflict)
			answer(nomad.Variable{Path: path})
			return
		}
		delete(f.variables, path)
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == "/v1/vars":
		var list []nomad.VariableMetadata
		for path := range f.variables {
			if strings.HasPrefix(path, r.URL.Query().Get("prefix")) {
				list = append(list, nomad.VariableMetadata{Path: path, CreateTime: age(path).UnixNano(), ModifyIndex: f.index})
			}
		}
		answer(list)
	case r.URL.Path == "/v1/jobs" && r.Method == http.MethodGet:
		var list []nomad.JobListStub
		for id, body := range f.jobs {
			if !strings.HasPrefix(id, r.URL.Query().Get("prefix")) {
				continue
			}
			stub := nomad.JobListStub{ID: id, SubmitTime: age(id).UnixNano()}
			var sent nomad.JobRegisterRequest
			if json.Unmarshal([]byte(body), &sent) == nil {
				stub.Meta = sent.Job.Meta
			}
			list = append(list, stub)
		}
		answer(list)
	case r.URL.Path == "/v1/jobs":
		var sent nomad.JobRegisterRequest
		_ = json.Unmarshal(body, &sent)
		f.jobs[*sent.Job.ID] = string(body)
		answer(nomad.JobRegisterResponse{EvalID: "e"})
	case r.URL.Path == "/v1/evaluation/e":
		answer(f.eval[0])
		f.eval = f.eval[min(1, len(f.eval)-1):]
	case ok && strings.HasSuffix(id, "/allocations"):
		if len(f.states) == 0 {
			hold = f.hang
			return
		}
		answer(f.states[0])
		f.states = f.states[1:]
	case ok && strings.HasSuffix(id, "/summary"):
		answer(nomad.JobSummary{Summary: map[string]nomad.TaskGroupSummary{jobs.PullGroup: {Queued: f.queued[0]}}})
		f.queued = f.queued[1:]
	case ok && r.Method == http.MethodGet:
		var sent nomad.JobRegisterRequest
		if json.Unmarshal([]byte(f.jobs[id]), &sent) != nil {
			http.Error(w, "job not found", http.StatusNotFound)
			return
		}
		answer(sent.Job)
	case ok && r.Method == http.MethodDelete:
		delete(f.jobs, id)
		answer(nomad.JobDeregisterResponse{})
	}
}

// write writes a Variable. The lock is held.
func (f *pullNomad) write(path, body string) {
	f.index++
	f.variables[path] = body
}

// age is when a thing of the fake was made: an hour ago if it is called old.
func age(name string) time.Time {
	if strings.Contains(name, "old") {
		return time.Now().Add(-time.Hour)
	}
	return time.Now()
}

func newPullNomad(t *testing.T) (*pullNomad, *Client) {
	f := &pullNomad{
		jobs: map[string]string{}, variables: map[string]string{}, fail: map[string]int{},
		eval: []nomad.Evaluation{{Status: nomad.EvalStatusPending}, {Status: nomad.EvalStatusComplete}},
	}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return f, newClient(t, server.URL)
}

func message(text string) *nomad.TaskEvent {
	return &nomad.TaskEvent{Type: nomad.TaskDriverMessage, DriverMessage: text, DisplayMessage: text}
}

// pulling is an allocation of a pull with these events after the first ones.
func pulling(node, status string, events ...*nomad.TaskEvent) *nomad.AllocationListStub {
	return &nomad.AllocationListStub{
		NodeID: "id of " + node, NodeName: node, ClientStatus: status,
		TaskStates: map[string]*nomad.TaskState{jobs.PullTask: before(events...)},
	}
}

var (
	downloading = message("Downloading image")
	startedTask = &nomad.TaskEvent{Type: nomad.TaskStarted, DisplayMessage: "Task started by client"}
)

func TestPullImage(t *testing.T) {
	t.Parallel()
	f, client := newPullNomad(t)
	f.states = [][]*nomad.AllocationListStub{
		{pulling("b", nomad.AllocClientStatusPending), pulling("a", nomad.AllocClientStatusPending)},
		{pulling("b", nomad.AllocClientStatusPending), pulling("a", nomad.AllocClientStatusPending)}, // nothing new
		{pulling("b", nomad.AllocClientStatusPending, downloading), pulling("a", nomad.AllocClientStatusRunning, downloading, startedTask)},
		{pulling("b", nomad.AllocClientStatusFailed, driverFailure("Failed to pull `x`: no such image: x").Events...), pulling("a", nomad.AllocClientStatusComplete, startedTask)},
	}
	var got []api.PullState
	pull := api.ImagePull{Account: "team", Ref: "busybox:1", Login: &api.RegistryAuth{Username: "me", Password: "secret"}}
	err := client.PullImage(t.Context(), pull, func(s api.PullState) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		require.Len(t, f.jobs, 1)
		for id, body := range f.jobs {
			require.True(t, strings.HasPrefix(id, "funcd-pull-"), id)
			require.NotContains(t, body, "secret")
			require.Contains(t, f.variables["nomad/jobs/"+id], `"Items":{"password":"secret","username":"me"}`)
		}
		got = append(got, s)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []api.PullState{
		{Nodes: []api.NodePull{{ID: "id of a", Node: "a", Status: "Waiting"}, {ID: "id of b", Node: "b", Status: "Waiting"}}},
		{Nodes: []api.NodePull{{ID: "id of a", Node: "a", Status: "Pull complete", Ended: true}, {ID: "id of b", Node: "b", Status: "Pulling"}}},
		{Nodes: []api.NodePull{
			{ID: "id of a", Node: "a", Status: "Pull complete", Ended: true},
			{ID: "id of b", Node: "b", Status: "Failed", Ended: true, Code: api.NotFound, Message: "no such image: busybox:1"},
		}},
	}, got)
	require.Empty(t, f.jobs, "nothing is left")
	require.Empty(t, f.variables, "nothing is left")
}

func TestPullImageWaitsForRoom(t *testing.T) {
	t.Parallel()
	f, client := newPullNomad(t)
	f.eval = []nomad.Evaluation{{
		Status: nomad.EvalStatusComplete, QueuedAllocations: map[string]int{jobs.PullGroup: 1},
		FailedTGAllocs: map[string]*nomad.AllocationMetric{jobs.PullGroup: {NodesEvaluated: 1, NodesExhausted: 1, DimensionExhausted: map[string]int{"memory": 1}}},
	}}
	done := pulling("a", nomad.AllocClientStatusComplete, startedTask)
	f.states = [][]*nomad.AllocationListStub{{}, {done}, {done}}
	f.queued = []int{1, 1, 0}
	var got []api.PullState
	require.NoError(t, client.PullImage(t.Context(), api.ImagePull{Ref: "busybox:1"}, func(s api.PullState) error {
		got = append(got, s)
		return nil
	}))
	const reason = "no capacity in the cluster: memory exhausted on 1 node"
	require.Equal(t, []api.PullState{
		{Nodes: []api.NodePull{}, Waiting: 1, Reason: reason},
		{Nodes: []api.NodePull{{ID: "id of a", Node: "a", Status: "Pull complete", Ended: true}}, Waiting: 1, Reason: reason},
		{Nodes: []api.NodePull{{ID: "id of a", Node: "a", Status: "Pull complete", Ended: true}}},
	}, got)
	for _, request := range f.requests {
		require.NotContains(t, request, "/v1/var", "without a login no Variable is asked for")
	}
}

func TestPullImageFails(t *testing.T) {
	t.Parallel()
	gone := errors.New("gone")
	for name, c := range map[string]struct {
		prepare func(f *pullNomad)
		tell    error
		want    string
	}{
		"the job is refused":   {func(f *pullNomad) { f.fail["PUT /v1/jobs"] = 400 }, nil, "starting a pull: no"},
		"the token is refused": {func(f *pullNomad) { f.fail["PUT /v1/var"] = 403 }, nil, "writing a login for a registry: Nomad refuses funcd's token"},
		"Nomad is away":        {func(f *pullNomad) { f.fail["GET /v1/job"] = 500 }, nil, "Nomad does not answer"},
		"no evaluation":        {func(f *pullNomad) { f.fail["GET /v1/eval"] = 404 }, nil, "asking for a pull's evaluation: Nomad does not know the job"},
		"a failed evaluation": {func(f *pullNomad) {
			f.eval = []nomad.Evaluation{{Status: nomad.EvalStatusFailed, StatusDescription: "why"}}
		}, nil, "Nomad did not place the pull: why"},
		"no node": {func(f *pullNomad) { f.states = [][]*nomad.AllocationListStub{{}} }, nil, "no node of the cluster is ready to pull images"},
		"nobody who is to know": {func(f *pullNomad) {
			f.states = [][]*nomad.AllocationListStub{{pulling("a", nomad.AllocClientStatusPending)}}
		}, gone, "gone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, client := newPullNomad(t)
			c.prepare(f)
			pull := api.ImagePull{Ref: "busybox:1", Login: &api.RegistryAuth{Username: "me", Password: "secret"}}
			err := client.PullImage(t.Context(), pull, func(api.PullState) error { return c.tell })
			require.ErrorContains(t, err, c.want)
			if c.tell == nil {
				require.Equal(t, api.Unavailable, api.CodeOf(err))
			}
			require.Empty(t, f.jobs, "nothing is left")
			require.Empty(t, f.variables, "nothing is left")
		})
	}
}

func TestPullImageEndsWithItsContext(t *testing.T) {
	t.Parallel()
	f, client := newPullNomad(t)
	f.hang = true
	f.states = [][]*nomad.AllocationListStub{{pulling("a", nomad.AllocClientStatusPending)}}
	ctx, cancel := context.WithCancel(t.Context())
	err := client.PullImage(ctx, api.ImagePull{Ref: "busybox:1", Login: &api.RegistryAuth{Username: "me", Password: "secret"}}, func(api.PullState) error {
		cancel()
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, f.jobs, "nothing is left")
	require.Empty(t, f.variables, "nothing is left")
}

func TestForgetPulls(t *testing.T) {
	t.Parallel()
	for _, logins := range []bool{true, false} {
		f, client := newPullNomad(t)
		client.cfg.Variables = logins
		for _, id := range []string{"funcd-pull-old", "funcd-pull-new"} {
			f.jobs[id], f.variables["nomad/jobs/"+id] = "", ""
		}
		f.variables["nomad/jobs/func-team-old"], f.variables["nomad/jobs/funcd-pull-old2"] = "", ""
		require.NoError(t, client.ForgetPulls(t.Context(), time.Now().Add(-time.Minute)))
		require.Equal(t, map[string]string{"funcd-pull-new": ""}, f.jobs)
		if !logins {
			require.Len(t, f.variables, 4, "funcd writes none, and its token may read none")
			continue
		}
		require.Equal(t, map[string]string{"nomad/jobs/funcd-pull-new": "", "nomad/jobs/func-team-old": ""}, f.variables)
	}
	f, client := newPullNomad(t)
	f.fail["GET /v1/jobs"] = 500
	require.Equal(t, api.Unavailable, api.CodeOf(client.ForgetPulls(t.Context(), time.Now())))
}

func TestNodePull(t *testing.T) {
	t.Parallel()
	const failed, pending = nomad.AllocClientStatusFailed, nomad.AllocClientStatusPending
	fails := func(text string) []*nomad.TaskEvent { return driverFailure(text).Events }
	waiting := func(status string) api.NodePull { return api.NodePull{ID: "id of n", Node: "n", Status: status} }
	complete := api.NodePull{ID: "id of n", Node: "n", Status: "Pull complete", Ended: true}
	not := func(code api.Code, message string) api.NodePull {
		return api.NodePull{ID: "id of n", Node: "n", Status: "Failed", Ended: true, Code: code, Message: message}
	}
	const away = "Failed to pull `x`: Error response from daemon: Get \"http://r/v2/\": dial tcp: connect: connection refused"
	for name, c := range map[string]struct {
		status string
		events []*nomad.TaskEvent
		want   api.NodePull
	}{
		"placed":                          {pending, nil, waiting("Waiting")},
		"downloading":                     {pending, []*nomad.TaskEvent{downloading}, waiting("Pulling")},
		"downloading for minutes":         {pending, []*nomad.TaskEvent{downloading, message("Docker image pull progress: Pulled 2/3 (1MiB/2MiB) layers")}, waiting("Pulled 2/3 (1MiB/2MiB) layers")},
		"started":                         {nomad.AllocClientStatusRunning, []*nomad.TaskEvent{downloading, startedTask}, complete},
		"ended":                           {nomad.AllocClientStatusComplete, []*nomad.TaskEvent{downloading, startedTask, terminated(0, 0, nil)}, complete},
		"ended with a status":             {failed, []*nomad.TaskEvent{downloading, startedTask, terminated(1, 0, nil)}, complete},
		"ended, the first events gone":    {failed, []*nomad.TaskEvent{terminated(1, 0, nil)}, complete},
		"not created":                     {failed, fails("failed to create container: Error response from daemon: Conflict"), complete},
		"not configured":                  {failed, fails("Failed to create container configuration for image \"x\" (\"sha256:0\"): volumes are not enabled"), complete},
		"not started":                     {failed, fails("Failed to start container 0: API error: exec: \"/funcd/funcd-runner\": stat: no such file or directory"), complete},
		"not started, no such user":       {failed, fails("Failed to start container 0: unable to find user x: no matching entries in passwd file"), complete},
		"removed before it was created":   {failed, fails("failed to create container: No such image: x"), not(api.NotFound, "no such image: x")},
		"no such image":                   {failed, fails("Failed to pull `x`: Error response from daemon: manifest for x not found: manifest unknown"), not(api.NotFound, "no such image: x")},
		"no such image on Docker Hub":     {failed, fails("Failed to pull `x`: Error response from daemon: pull access denied for x, repository does not exist or may require 'docker login': denied"), not(api.NotFound, "no such image: x")},
		"no login":                        {failed, fails("Failed to pull `x`: Error response from daemon: Get \"http://r/v2/x/manifests/1\": no basic auth credentials"), not(api.Forbidden, "access to x denied")},
		"a wrong login":                   {failed, fails("Failed to pull `x`: Error response from daemon: Head \"http://r/v2/x/manifests/1\": unauthorized: authentication required"), not(api.Forbidden, "access to x denied")},
		"away":                            {failed, fails(away), not(api.Unavailable, away)},
		"no Docker":                       {failed, fails("failed to fetch docker daemon info: Cannot connect to the Docker daemon"), not(api.Unavailable, "failed to fetch docker daemon info: Cannot connect to the Docker daemon")},
		"a login that can't be read":      {failed, fails("Failed to find docker auth for repo \"x\": no such helper"), not(api.Unavailable, "Failed to find docker auth for repo \"x\": no such helper")},
		"no runner to download":           {failed, []*nomad.TaskEvent{{Type: nomad.TaskArtifactDownloadFailed, DownloadError: "404"}}, not(api.Unavailable, "404")},
		"stopped":                         {nomad.AllocClientStatusComplete, []*nomad.TaskEvent{downloading, {Type: nomad.TaskKilling}, {Type: nomad.TaskKilled}}, not(api.Unavailable, "the pull was stopped in Nomad")},
		"lost":                            {nomad.AllocClientStatusLost, []*nomad.TaskEvent{downloading}, not(api.Unavailable, "the node is down or can't be reached")},
		"lost when it had it":             {nomad.AllocClientStatusLost, []*nomad.TaskEvent{downloading, startedTask}, complete},
		"disconnected":                    {nomad.AllocClientStatusUnknown, nil, not(api.Unavailable, "the node is down or can't be reached")},
		"a failure that is not ended":     {pending, fails(away), waiting("Pulling")},
		"a failure of the second attempt": {failed, append(fails("failed to create container: Conflict"), fails(away)...), not(api.Unavailable, away)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, nodePull(pulling("n", c.status, c.events...), "x"))
		})
	}
	require.Equal(t, waiting("Waiting"), nodePull(&nomad.AllocationListStub{NodeID: "id of n", NodeName: "n", ClientStatus: pending}, "x"))
	running := &nomad.AllocationListStub{NodeID: "id of n", NodeName: "n", ClientStatus: nomad.AllocClientStatusRunning, TaskStates: map[string]*nomad.TaskState{
		jobs.PullTask: {StartedAt: time.Now()},
	}}
	require.Equal(t, complete, nodePull(running, "x"))
}

func TestPullStateTakesTheLatestOfANode(t *testing.T) {
	t.Parallel()
	first, second := pulling("a", nomad.AllocClientStatusLost), pulling("a", nomad.AllocClientStatusPending)
	first.CreateIndex, second.CreateIndex = 1, 2
	other := pulling("a", nomad.AllocClientStatusPending)
	other.NodeID = "of the same name"
	state := pullState([]*nomad.AllocationListStub{second, first, other}, "x")
	require.Equal(t, []api.NodePull{{ID: "id of a", Node: "a", Status: "Waiting"}, {ID: "of the same name", Node: "a", Status: "Waiting"}}, state.Nodes)
}
