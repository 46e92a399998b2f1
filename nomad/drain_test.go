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

func TestDraining(t *testing.T) {
	t.Parallel()
	var filters []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		filters = append(filters, r.URL.Query().Get("filter"))
		var answer any
		switch r.URL.Path {
		case "/v1/nodes":
			answer = []*nomad.NodeListStub{{ID: "n1", Drain: true}, {ID: "n2", Drain: true}, {ID: "ineligible"}}
		case "/v1/allocations":
			answer = []*nomad.AllocationListStub{{ID: "a-" + filters[len(filters)-1][11:13]}}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	draining, err := newClient(t, server.URL).Draining(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"a-n1": true, "a-n2": true}, draining)
	require.Equal(t, []string{`SchedulingEligibility == "ineligible"`, `NodeID == "n1" and (ClientStatus == "pending" or ClientStatus == "running")`}, filters[:2])

	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	_, err = newClient(t, gone.URL).Draining(t.Context())
	require.Equal(t, api.Unavailable, api.CodeOf(err))
}
