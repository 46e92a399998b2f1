package nomad

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

func allocationStub(id string, index uint64, status string) *nomad.AllocationListStub {
	return &nomad.AllocationListStub{ID: id, JobID: testJob, CreateIndex: 10, ModifyIndex: index, ClientStatus: status, NodeName: "n1"}
}

// event is a line of the stream, with the members that Nomad sends and funcd reads.
func event(t *testing.T, topic nomad.Topic, index uint64, payload any) string {
	var m map[string]any
	text, err := json.Marshal(map[string]any{string(topic): payload})
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &m))
	line, err := json.Marshal(nomad.Events{Index: index, Events: []nomad.Event{{Topic: topic, Type: "x", Index: index, Payload: m}}})
	require.NoError(t, err)
	return string(line)
}

func allocationEvent(t *testing.T, index uint64, status string) string {
	return event(t, nomad.TopicAllocation, index, &nomad.Allocation{
		ID: "a1", JobID: testJob, NodeName: "n1", ClientStatus: status, CreateIndex: 10, ModifyIndex: index,
		TaskStates: map[string]*nomad.TaskState{jobs.TaskName: {State: "running", StartedAt: time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)}},
	})
}

func evaluationEvent(t *testing.T, index uint64, failed bool) string {
	eval := &nomad.Evaluation{ID: "e1", JobID: testJob, ModifyIndex: index}
	if failed {
		eval.FailedTGAllocs = map[string]*nomad.AllocationMetric{jobs.GroupName: {NodesEvaluated: 1, DimensionExhausted: map[string]int{"memory": 1}}}
	}
	return event(t, nomad.TopicEvaluation, index, eval)
}

// follow runs the client, and returns its first stream.
func follow(t *testing.T, f *fakeNomad, c *Client) *stream {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return nextStream(t, f)
}

func nextStream(t *testing.T, f *fakeNomad) *stream {
	t.Helper()
	select {
	case s := <-f.streams:
		return s
	case <-time.After(20 * time.Second):
		t.Fatal("the events are not followed")
		panic("unreachable")
	}
}

func read(t *testing.T, updates <-chan api.JobStatus) api.JobStatus {
	t.Helper()
	select {
	case s := <-updates:
		return s
	case <-time.After(20 * time.Second):
		t.Fatal("no status")
		panic("unreachable")
	}
}

func TestWatchTellsWhatIs(t *testing.T) {
	t.Parallel()
	f, c := newFake(t)
	older := allocationStub("a0", 12, "failed")
	older.CreateIndex = 5
	f.allocations = []*nomad.AllocationListStub{older, allocationStub("a1", 11, "running")}
	updates, stop := c.Watch(t.Context(), testDefinition(), testJob)
	defer stop()
	require.Equal(t, api.JobStatus{Job: testJob, Allocation: "a1", Node: "n1"}, read(t, updates), "the latest allocation counts")

	f, c = newFake(t)
	f.evaluations = []*nomad.Evaluation{
		{ModifyIndex: 8, FailedTGAllocs: map[string]*nomad.AllocationMetric{jobs.GroupName: {NodesEvaluated: 2}}},
		{ModifyIndex: 7, FailedTGAllocs: map[string]*nomad.AllocationMetric{jobs.GroupName: {}}},
	}
	updates, stop = c.Watch(t.Context(), testDefinition(), testJob)
	defer stop()
	require.Contains(t, read(t, updates).Waiting, "none of 2 nodes", "the latest evaluation counts")
}

func TestWatchFollows(t *testing.T) {
	t.Parallel()
	f, c := newFake(t)
	s := follow(t, f, c)
	updates, stop := c.Watch(t.Context(), testDefinition(), testJob)
	defer stop()
	other, stopOther := c.Watch(t.Context(), testDefinition(), "func-default-hello/dispatch-2")
	defer stopOther()

	s.lines <- evaluationEvent(t, 9, true)
	require.Equal(t, "no capacity in the cluster: memory exhausted on 1 node", read(t, updates).Waiting)
	s.lines <- "{}" // a heartbeat
	s.lines <- allocationEvent(t, 11, "running")
	require.Equal(t, api.JobStatus{Job: testJob, Allocation: "a1", Node: "n1", Running: true}, read(t, updates))
	s.lines <- allocationEvent(t, 12, "lost")
	status := read(t, updates)
	require.True(t, status.Ended)
	require.Equal(t, api.CallFailed, status.Code)
	require.Empty(t, other, "it is not its job")
}

// A server that is frozen says nothing, and does not end the connection.
func TestWatchHearsOfWhatASilentServerKeeps(t *testing.T) {
	t.Parallel()
	f, c := newFake(t)
	c.renewal = 100 * time.Millisecond
	follow(t, f, c)
	updates, stop := c.Watch(t.Context(), testDefinition(), testJob)
	defer stop()
	f.set(func() { f.allocations = []*nomad.AllocationListStub{allocationStub("a1", 11, "lost")} })
	require.True(t, read(t, updates).Ended)
	nextStream(t, f)
	nextStream(t, f)
}

// It may take a connection and answer nothing, too.
func TestWatchIsNotHeldUpByAServerThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	f, c := newFake(t)
	c.cfg.Timeout = 100 * time.Millisecond
	f.set(func() { f.mute = 1 })
	follow(t, f, c)
}

func TestWatchIgnoresWhatIsOlder(t *testing.T) {
	t.Parallel()
	_, c := newFake(t)
	updates, stop := c.Watch(t.Context(), testDefinition(), testJob)
	defer stop()
	c.updateAllocation(testJob, allocationStub("a1", 12, "failed"))
	require.True(t, read(t, updates).Ended)
	c.updateAllocation(testJob, allocationStub("a0", 11, "running"))
	require.Empty(t, updates)
	c.updateAllocation(testJob, allocationStub("a1", 12, "failed"))
	require.Empty(t, updates, "nothing new")

	// An evaluation is updated after the allocation that it has made.
	updates, stop = c.Watch(t.Context(), testDefinition(), testJob)
	defer stop()
	c.updateEvaluation(testJob, &nomad.Evaluation{ModifyIndex: 13})
	c.updateAllocation(testJob, allocationStub("a1", 12, "running"))
	require.Equal(t, "a1", read(t, updates).Allocation)
	c.updateEvaluation(testJob, &nomad.Evaluation{ModifyIndex: 14, FailedTGAllocs: map[string]*nomad.AllocationMetric{jobs.GroupName: {}}})
	require.Empty(t, updates)
}

func TestSlowReaderGetsTheLatest(t *testing.T) {
	t.Parallel()
	_, c := newFake(t)
	updates, stop := c.Watch(t.Context(), testDefinition(), testJob)
	defer stop()
	c.updateEvaluation(testJob, &nomad.Evaluation{ModifyIndex: 9, FailedTGAllocs: map[string]*nomad.AllocationMetric{jobs.GroupName: {}}})
	c.updateAllocation(testJob, allocationStub("a1", 11, "running"))
	c.updateAllocation(testJob, allocationStub("a1", 12, "failed"))
	require.True(t, read(t, updates).Ended)
	require.Empty(t, updates)
}

// What happened while the stream was down is asked for.
func TestReconnectListsFirst(t *testing.T) {
	t.Parallel()
	f, c := newFake(t)
	s := follow(t, f, c)
	updates, stop := c.Watch(t.Context(), testDefinition(), testJob)
	defer stop()
	f.set(func() { f.allocations = []*nomad.AllocationListStub{allocationStub("a1", 20, "lost")} })
	close(s.end)
	s = nextStream(t, f)
	require.True(t, read(t, updates).Ended)
	s.lines <- allocationEvent(t, 19, "running") // was on its way
	s.lines <- allocationEvent(t, 21, "running") // the node is back
	require.True(t, read(t, updates).Running)
}

func TestRunGoesOnAfterAFault(t *testing.T) {
	t.Parallel()
	f, c := newFake(t)
	f.status, f.body = 500, "No cluster leader"
	updates, stop := c.Watch(t.Context(), testDefinition(), testJob)
	defer stop()
	require.Empty(t, updates, "it is not known")
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	defer func() { cancel(); running.Wait() }()
	f.set(func() { f.status = 0; f.allocations = []*nomad.AllocationListStub{allocationStub("a1", 11, "running")} })
	s := nextStream(t, f)
	require.Equal(t, "a1", read(t, updates).Allocation)

	s.lines <- "this is not JSON"
	s = nextStream(t, f)
	s.lines <- event(t, nomad.TopicAllocation, 30, "not an allocation")
	s.lines <- allocationEvent(t, 31, "failed")
	require.True(t, read(t, updates).Ended)
}

func TestStoppedWatchIsForgotten(t *testing.T) {
	t.Parallel()
	_, c := newFake(t)
	updates, stop := c.Watch(t.Context(), testDefinition(), testJob)
	second, stopSecond := c.Watch(t.Context(), testDefinition(), testJob)
	stop()
	stop()
	c.updateAllocation(testJob, allocationStub("a1", 11, "running"))
	require.Empty(t, updates)
	require.Equal(t, "a1", read(t, second).Allocation)
	stopSecond()
	require.Empty(t, c.watches)
}

func TestStatusOfAReplacedAllocation(t *testing.T) {
	t.Parallel()
	_, c := newFake(t)
	updates, stop := c.Watch(t.Context(), testDefinition(), testJob)
	defer stop()
	of := func(id string, created, modified uint64, status string) {
		c.updateAllocation(testJob, &nomad.AllocationListStub{
			ID: id, JobID: testJob, CreateIndex: created, ModifyIndex: modified, ClientStatus: status, NodeName: "n1",
		})
	}
	of("a1", 10, 11, nomad.AllocClientStatusLost)
	require.True(t, read(t, updates).Ended)
	of("a2", 12, 12, nomad.AllocClientStatusPending)
	require.Equal(t, api.JobStatus{Job: testJob, Allocation: "a2", Node: "n1"}, read(t, updates), "what was said of the first is not said of the second")
	of("a1", 10, 13, nomad.AllocClientStatusComplete)
	require.Empty(t, updates, "the first is not spoken of any more")
	of("a2", 12, 14, nomad.AllocClientStatusFailed)
	require.Equal(t, "a2", read(t, updates).Allocation)
}
