package nomad

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// clusterWithVolumes answers for a job with a host volume that runs on some nodes, on which the volume is at hostPath.
func clusterWithVolumes(nodes int, hostPath string, nodeStatus int, asked *atomic.Int64) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/job/db", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"ID":"db","TaskGroups":[{"Volumes":{"data":{"Type":"host","Source":"pgdata"}},
			"Tasks":[{"VolumeMounts":[{"Volume":"data","Destination":"/data"}]}]}]}`)
	})
	mux.HandleFunc("GET /v1/job/db/allocations", func(w http.ResponseWriter, _ *http.Request) {
		var list []string
		for i := range 2 * nodes {
			list = append(list, fmt.Sprintf(`{"ID":"a%d","NodeID":"n%d"}`, i, i%nodes))
		}
		fmt.Fprint(w, "["+strings.Join(list, ",")+"]")
	})
	mux.HandleFunc("GET /v1/node/{id}", func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if nodeStatus != http.StatusOK {
			w.WriteHeader(nodeStatus)
			return
		}
		fmt.Fprintf(w, `{"ID":%q,"HostVolumes":{"pgdata":{"Path":%q},"docker":{"Path":"/var/run/docker.sock"}}}`, r.PathValue("id"), hostPath)
	})
	mux.HandleFunc("GET /v1/job/bare", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"ID":"bare","TaskGroups":[{"Tasks":[{}]}]}`)
	})
	mux.HandleFunc("GET /v1/job/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	return mux
}

func prepared(t *testing.T, cluster http.Handler) *Client {
	server := httptest.NewServer(cluster)
	t.Cleanup(server.Close)
	return newClient(t, server.URL)
}

func TestPrepareFindsVolumes(t *testing.T) {
	t.Parallel()
	volume := api.Volume{Type: "host", Source: "pgdata", Destination: "/data"}
	for name, c := range map[string]struct {
		from     []string
		hostPath string
		status   int
		nodes    int
		want     []api.Volume
		code     api.Code
		message  string
		asked    int64
	}{
		"none":                       {nil, "/srv", 200, 1, nil, "", "", 0},
		"those of a job":             {[]string{"db"}, "/srv/pg", 200, 2, []api.Volume{volume}, "", "", 2},
		"of many nodes some":         {[]string{"db"}, "/srv/pg", 200, 50, []api.Volume{volume}, "", "", nodesAsked},
		"nodes that may not be read": {[]string{"db"}, "", 403, 2, []api.Volume{volume}, "", "", 2},
		"no such job":                {[]string{"none"}, "/srv", 200, 1, nil, api.Invalid, "HostConfig.VolumesFrom: Nomad has no job none", 0},
		"a job without any":          {[]string{"bare"}, "/srv", 200, 1, nil, api.Invalid, "job bare mounts no host or CSI volume", 0},
		"twice":                      {[]string{"db", "db:ro"}, "/srv", 200, 1, nil, api.Invalid, `two volumes are to be at "/data"`, 2},
		"Docker's socket":            {[]string{"db"}, "/run/docker.sock", 200, 1, nil, api.Invalid, "holds Docker's socket", 1},
		"a folder with it":           {[]string{"db:ro"}, "/run", 200, 1, nil, api.Invalid, "holds Docker's socket", 1},
		"Nomad is away":              {[]string{"broken"}, "/srv", 200, 1, nil, api.Unavailable, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			client := prepared(t, clusterWithVolumes(c.nodes, c.hostPath, c.status, &asked))
			d := &api.Definition{Account: "default", Function: api.Function{Name: "f", ContainerSize: "s1", Timeout: 1,
				HostConfig: api.HostConfig{NetworkMode: "bridge", VolumesFrom: c.from}}}
			err := client.Prepare(t.Context(), d)
			require.Equal(t, c.code, api.CodeOf(err), err)
			require.Equal(t, c.asked, asked.Load())
			if c.code != "" {
				require.ErrorContains(t, err, c.message)
				return
			}
			require.Equal(t, c.want, d.Volumes)
		})
	}
}

func TestPrepareRefusesWhatHasNoJob(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	client := prepared(t, clusterWithVolumes(1, "/srv", 200, &asked))
	err := client.Prepare(t.Context(), &api.Definition{Function: api.Function{ContainerSize: "xl"}})
	require.Equal(t, api.Invalid, api.CodeOf(err))
	require.ErrorContains(t, err, "ContainerSize")
}
