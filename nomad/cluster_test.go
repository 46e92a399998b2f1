package nomad

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func node(cores uint16, memory int64, drivers map[string]*nomad.DriverInfo) *nomad.NodeListStub {
	n := &nomad.NodeListStub{Status: nomad.NodeStatusReady, Drivers: drivers, NodeResources: &nomad.NodeResources{}}
	n.NodeResources.Cpu.TotalCpuCores, n.NodeResources.Memory.MemoryMB = cores, memory
	return n
}

func TestResources(t *testing.T) {
	t.Parallel()
	docker := map[string]*nomad.DriverInfo{"docker": {Detected: true, Healthy: true}}
	nodes := []*nomad.NodeListStub{
		node(4, 1024, docker), node(2, 512, docker),
		node(8, 1024, map[string]*nomad.DriverInfo{"docker": {Detected: true}}), node(8, 1024, nil),
	}
	allocations := []*nomad.AllocationListStub{
		{ClientStatus: nomad.AllocClientStatusRunning}, {ClientStatus: nomad.AllocClientStatusRunning}, {ClientStatus: nomad.AllocClientStatusPending},
	}
	queries := make(chan string, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		queries <- r.URL.Path + " " + q.Get("filter") + " " + q.Get("resources")
		var answer any = nodes
		if r.URL.Path == "/v1/allocations" {
			answer = allocations
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	got, err := newClient(t, server.URL).Resources(t.Context(), "team_1")
	require.NoError(t, err)
	require.Equal(t, api.ClusterResources{Nodes: 2, Cores: 6, Memory: 1536 << 20, Containers: 3, Running: 2}, got)
	require.Equal(t, `/v1/nodes Status == "ready" true`, <-queries)
	require.Equal(t, `/v1/allocations (ClientStatus == "pending" or ClientStatus == "running") and JobID matches "^func-team_1-" `, <-queries)
}

func TestResourcesFail(t *testing.T) {
	t.Parallel()
	f, client := newFake(t)
	for _, status := range []int{400, 403, 404, 500} {
		f.set(func() { f.status = status })
		_, err := client.Resources(t.Context(), "team")
		require.Equal(t, api.Unavailable, api.CodeOf(err), "%d: %v", status, err)
	}
}
