package nomad

import (
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// before is the events that come before the one that counts.
func before(events ...*nomad.TaskEvent) *nomad.TaskState {
	return &nomad.TaskState{Events: append([]*nomad.TaskEvent{
		{Type: nomad.TaskReceived, DisplayMessage: "Task received by client"},
		{Type: nomad.TaskSetup, DisplayMessage: "Building Task Directory", Message: "Building Task Directory"},
	}, events...)}
}

func driverFailure(text string) *nomad.TaskState {
	return before(
		&nomad.TaskEvent{Type: nomad.TaskDriverMessage, DisplayMessage: "Downloading image", DriverMessage: "Downloading image"},
		&nomad.TaskEvent{Type: nomad.TaskDriverFailure, DriverError: text, DisplayMessage: text, Details: map[string]string{"driver_error": text}},
		&nomad.TaskEvent{Type: nomad.TaskNotRestarting, DisplayMessage: "Error was unrecoverable", FailsTask: true},
	)
}

func terminated(status, signal int, details map[string]string) *nomad.TaskEvent {
	return &nomad.TaskEvent{
		Type: nomad.TaskTerminated, ExitCode: status, Signal: signal, Details: details,
		DisplayMessage: "Exit Code: 137, Exit Message: \"Docker container exited with non-zero exit code: 137\"",
	}
}

func TestEnding(t *testing.T) {
	t.Parallel()
	started := &nomad.TaskEvent{Type: nomad.TaskStarted, DisplayMessage: "Task started by client"}
	noRestart := &nomad.TaskEvent{Type: nomad.TaskNotRestarting, DisplayMessage: "Policy allows no restarts", FailsTask: true}
	killing := &nomad.TaskEvent{Type: nomad.TaskKilling, DisplayMessage: "Sent interrupt. Waiting 5s before force killing"}
	killed := &nomad.TaskEvent{Type: nomad.TaskKilled, DisplayMessage: "Task successfully killed"}
	for name, c := range map[string]struct {
		task    *nomad.TaskState
		want    string
		another bool
	}{
		"never started":                     {nil, "the container was never started", true},
		"no such image on Docker Hub":       {driverFailure("Failed to pull `nope`: Error response from daemon: pull access denied for nope, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"), "no such image: busybox", false},
		"no such tag":                       {driverFailure("Failed to pull `busybox:nope`: Error response from daemon: manifest for busybox:nope not found: manifest unknown: manifest unknown"), "no such image: busybox", false},
		"no such tag, of a registry of v2":  {driverFailure("Failed to pull `127.0.0.1:5000/x:y`: Error response from daemon: manifest unknown"), "no such image: busybox", false},
		"no such repository":                {driverFailure("Failed to pull `127.0.0.1:5000/x`: Error response from daemon: repository 127.0.0.1:5000/x not found: name unknown: repository name not known to registry"), "no such image: busybox", false},
		"a Docker that is away":             {driverFailure("Failed to pull `sha256:0`: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"), "the container can't be started: Failed to pull `sha256:0`: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", true},
		"no such blob":                      {driverFailure("Failed to pull `127.0.0.1:5000/x@sha256:0`: error pulling image configuration: download failed after attempts=1: unknown blob"), "no such image: busybox", false},
		"no such local image":               {driverFailure("Failed to find docker image \"sha256:0\": No such image: sha256:0"), "no such image: busybox", false},
		"an image that was removed":         {driverFailure("failed to create container: no such image"), "no such image: busybox", false},
		"a registry that is away":           {driverFailure("Failed to pull `127.0.0.1:5000/x`: Error response from daemon: Get \"http://127.0.0.1:5000/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused"), "image busybox can't be pulled: Failed to pull `127.0.0.1:5000/x`: Error response from daemon: Get \"http://127.0.0.1:5000/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused", true},
		"a registry that has no name":       {driverFailure("Failed to pull `r.example/x`: Error response from daemon: Get \"https://r.example/v2/\": dial tcp: lookup r.example: no such host"), "image busybox can't be pulled: Failed to pull `r.example/x`: Error response from daemon: Get \"https://r.example/v2/\": dial tcp: lookup r.example: no such host", true},
		"a container that is not created":   {driverFailure("Failed to create container: API error (409): Conflict"), "the container can't be started: Failed to create container: API error (409): Conflict", true},
		"a failure without a text":          {driverFailure(""), "the container can't be started: no reason given", true},
		"a runner that is not downloaded":   {before(&nomad.TaskEvent{Type: nomad.TaskArtifactDownloadFailed, DownloadError: "failed to download artifact: 404"}), "the container can't be started: failed to download artifact: 404", true},
		"a setup that fails":                {before(&nomad.TaskEvent{Type: nomad.TaskSetupFailure, SetupError: "failed to set up"}), "the container can't be started: failed to set up", true},
		"a task that is not valid":          {before(&nomad.TaskEvent{Type: nomad.TaskFailedValidation, ValidationError: "wrong"}), "the container can't be started: wrong", false},
		"out of memory":                     {before(started, terminated(137, 0, map[string]string{"oom_killed": "true"}), noRestart), "out of memory", true},
		"out of memory while it is stopped": {before(started, killing, terminated(137, 0, map[string]string{"oom_killed": "true"}), killed), "out of memory", true},
		"a status":                          {before(started, terminated(3, 0, nil), noRestart), "the container ended with status 3 before its result was known", true},
		"a runner without a server":         {before(started, terminated(api.RunnerGaveUp, 0, nil), noRestart), "the container has given up: it found no funcd server for longer than it waits", true},
		"a signal":                          {before(started, terminated(0, 9, nil), noRestart), "the container was killed by signal 9", true},
		"stopped":                           {before(started, killing, terminated(143, 0, nil), killed), "the container was stopped in Nomad before its result was known", false},
		"stopped and killed":                {before(started, killing, terminated(137, 0, nil), killed), "the container was stopped in Nomad before its result was known", false},
		"stopped before it was started":     {before(killing, killed), "the container was stopped in Nomad before its result was known", false},
		"stopped when it had ended":         {before(started, terminated(137, 0, nil), killing, killed), "the container ended with status 137 before its result was known", true},
		"stopped, and started again before": {before(started, terminated(137, 0, nil), started, killing, terminated(143, 0, nil)), "the container was stopped in Nomad before its result was known", false},
		"a Docker that was killed":          {before(started, &nomad.TaskEvent{Type: nomad.TaskTerminated, Message: "unexpected EOF", DisplayMessage: "Exit Code: 0"}), "the container is lost: Docker did not tell of its end: unexpected EOF", true},
		"ended well":                        {before(started, terminated(0, 0, nil)), "the container ended without a result", true},
		"no events":                         {&nomad.TaskState{}, "the container ended without a result", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, text, another := ending(c.task, "busybox", false)
			require.Equal(t, api.CallFailed, code)
			require.Equal(t, c.want, text)
			require.Equal(t, c.another, another)
		})
	}
}

func TestContainerOfADrainedNode(t *testing.T) {
	t.Parallel()
	killing := &nomad.TaskEvent{Type: nomad.TaskKilling, DisplayMessage: "Sent interrupt"}
	_, text, another := ending(before(killing, terminated(143, 0, nil)), "busybox", true)
	require.Equal(t, "node lost: it is being drained", text)
	require.True(t, another, "Nomad stopped it by itself")
}

func TestApplyAllocation(t *testing.T) {
	t.Parallel()
	running := &nomad.TaskState{StartedAt: time.Now()}
	killing := &nomad.TaskEvent{Type: nomad.TaskKilling, DisplayMessage: "Sent interrupt"}
	for name, c := range map[string]struct {
		status string
		task   *nomad.TaskState
		want   api.JobStatus
	}{
		"pending":            {nomad.AllocClientStatusPending, nil, api.JobStatus{}},
		"received":           {nomad.AllocClientStatusPending, before(), api.JobStatus{}},
		"running":            {nomad.AllocClientStatusRunning, running, api.JobStatus{Running: true}},
		"complete":           {nomad.AllocClientStatusComplete, running, api.JobStatus{Running: true, Ended: true, Code: api.CallFailed, Message: "the container ended without a result", Another: true}},
		"stopped":            {nomad.AllocClientStatusComplete, before(killing, terminated(143, 0, nil)), api.JobStatus{Ended: true, Stopped: true, Code: api.CallFailed, Message: "the container was stopped in Nomad before its result was known"}},
		"failed":             {nomad.AllocClientStatusFailed, before(terminated(2, 0, nil)), api.JobStatus{Ended: true, Code: api.CallFailed, Message: "the container ended with status 2 before its result was known", Another: true}},
		"lost":               {nomad.AllocClientStatusLost, running, api.JobStatus{Running: true, Ended: true, Code: api.CallFailed, Message: "node lost: n1 is down or can't be reached", Another: true}},
		"lost before it ran": {nomad.AllocClientStatusLost, nil, api.JobStatus{Ended: true, Code: api.CallFailed, Message: "node lost: n1 is down or can't be reached", Another: true}},
		"unknown":            {nomad.AllocClientStatusUnknown, running, api.JobStatus{Running: true, Ended: true, Code: api.CallFailed, Message: "node lost: n1 is down or can't be reached", Another: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := api.JobStatus{Job: testJob, Waiting: "no capacity"}
			a := &nomad.AllocationListStub{ID: "a1", NodeName: "n1", ClientStatus: c.status}
			if c.task != nil {
				a.TaskStates = map[string]*nomad.TaskState{jobs.TaskName: c.task}
			}
			applyAllocation(&s, a, "busybox")
			c.want.Job, c.want.Allocation, c.want.Node = testJob, "a1", "n1"
			require.Equal(t, c.want, s)
		})
	}
}

func TestApplyEvaluation(t *testing.T) {
	t.Parallel()
	blocked := &nomad.Evaluation{FailedTGAllocs: map[string]*nomad.AllocationMetric{jobs.GroupName: {}}}
	s := api.JobStatus{}
	applyEvaluation(&s, &nomad.Evaluation{})
	require.Empty(t, s.Waiting)
	applyEvaluation(&s, blocked)
	require.NotEmpty(t, s.Waiting)
	s = api.JobStatus{Allocation: "a1"}
	applyEvaluation(&s, blocked)
	require.Empty(t, s.Waiting, "it has its place")
}

func TestNoPlace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		metric nomad.AllocationMetric
		want   string
		port   bool
	}{
		"no nodes": {nomad.AllocationMetric{}, "no node is ready for it", false},
		"memory":   {nomad.AllocationMetric{NodesEvaluated: 1, NodesExhausted: 1, DimensionExhausted: map[string]int{"memory": 1}}, "memory exhausted on 1 node", false},
		"two dimensions": {
			nomad.AllocationMetric{NodesEvaluated: 3, DimensionExhausted: map[string]int{"memory": 1, "cpu": 2}}, "cpu exhausted on 2 nodes, memory exhausted on 1 node", false,
		},
		"a constraint": {
			nomad.AllocationMetric{NodesEvaluated: 2, ConstraintFiltered: map[string]int{"missing drivers": 2}}, "missing drivers excluded 2 nodes", false,
		},
		"both": {
			nomad.AllocationMetric{NodesEvaluated: 2, DimensionExhausted: map[string]int{"memory": 1}, ConstraintFiltered: map[string]int{"missing drivers": 1}},
			"memory exhausted on 1 node, missing drivers excluded 1 node", false,
		},
		"no reason": {nomad.AllocationMetric{NodesEvaluated: 2}, "none of 2 nodes has room for it", false},
		"a port": {
			nomad.AllocationMetric{NodesEvaluated: 1, DimensionExhausted: map[string]int{"network: reserved port collision p80_8080=8080": 1}},
			"port 8080 is taken on 1 node", true,
		},
		"a port and memory": {
			nomad.AllocationMetric{NodesEvaluated: 3, DimensionExhausted: map[string]int{"network: reserved port collision p80_8080=8080": 2, "memory": 1}},
			"memory exhausted on 1 node, port 8080 is taken on 2 nodes", false,
		},
		"no port is free": {
			nomad.AllocationMetric{NodesEvaluated: 1, DimensionExhausted: map[string]int{"network: dynamic port selection failed": 1}},
			"network: dynamic port selection failed exhausted on 1 node", false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reason, port := noPlace(&c.metric)
			require.Equal(t, "no capacity in the cluster: "+c.want, reason)
			require.Equal(t, c.port, port)
		})
	}
}
