//go:build integration

package test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// drain drains a node of the stack's Nomad. What is on it has so long to end by itself.
func (s *stack) drain(t *testing.T, node string, deadline time.Duration) {
	t.Helper()
	s.nomadDo(t, http.MethodPut, "/v1/node/"+node+"/drain", map[string]any{"DrainSpec": map[string]any{"Deadline": deadline}}, nil)
}

// nodesOf returns the nodes of the function's containers that have not ended, each once.
func (f *function) nodesOf(t *testing.T, jobs []string) (nodes []string) {
	t.Helper()
	for _, id := range jobs {
		var list []allocation
		f.on.nomadGet(t, jobOf(id)+"/allocations", &list)
		for _, a := range list {
			if a.ClientStatus == "running" || a.ClientStatus == "pending" {
				nodes = append(nodes, a.NodeID)
			}
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// A node that is drained gets rid of its waiting containers at once and of its calls at the deadline, which see their StopSignal.
func TestDrainedNode(t *testing.T) {
	t.Parallel()
	startNodeIn(t, "drained", "drained-one")
	o := beside("drained")
	o.config += "nomad {\n  node_pool = \"drained\"\n}\n"
	own := startOwn(t, "drained", o)
	stopped := cold(program("funcd-test/probe", "signal", "600"))
	stopped.Config.StopSignal = "SIGUSR2"
	f := own.create(t, stopped)
	call := f.call(t, "")
	f.eventsOf(t, call, api.Running)
	awaitSaid(t, containerOf(t, f.allocationOf(t, call).ID), "ready")
	waits := own.create(t, warm(2, program("funcd/hello")))
	waits.awaitReady(t, 2)
	one := dev.node(t, "drained-one").ID
	require.Equal(t, []string{one}, waits.nodesOf(t, waits.live(t)))
	startNodeIn(t, "drained", "drained-two")
	two := dev.node(t, "drained-two").ID

	// Long before the deadline the containers that wait have moved, and calls go there.
	own.drain(t, one, time.Hour)
	eventually(t, "containers that wait on the other node alone", func() bool {
		nodes := waits.nodesOf(t, waits.live(t))
		return slices.Equal(nodes, []string{two}) && waits.slots(t).Ready == 2
	})
	require.Equal(t, "HelloWorld\n", waits.sync(t, "").body)
	require.Equal(t, http.StatusCreated, f.output(t, call).status, "the call runs on")
	require.Equal(t, []string{one}, f.nodesOf(t, f.live(t)))

	own.drain(t, one, time.Second)
	failed := last(f.eventsOf(t, call, api.Failed))
	require.Equal(t, "signal 12\n", failed.ShortStderr, "the function has seen its StopSignal")
	require.Equal(t, "node lost: it is being drained", failed.Message)
	require.Equal(t, http.StatusInternalServerError, f.wait(t, call).status)
	require.Len(t, f.children(t), 1, "it is not started again")
	again := f.call(t, "")
	f.eventsOf(t, again, api.Running)
	require.Equal(t, two, f.allocationOf(t, again).NodeID)
	require.Equal(t, http.StatusNoContent, f.cancel(t, again).status)
	f.requireCancelled(t, again)
}
