//go:build integration

package test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// TestNomadIsNeverFlooded queues many calls, and looks at how many jobs Nomad is given meanwhile.
func TestNomadIsNeverFlooded(t *testing.T) {
	t.Parallel()
	const quota, slots, calls, enough = 3, 2, 200, 25
	o := beside("flood")
	o.config += fmt.Sprintf("quota = %d\nslots {\n  total = %d\n}\n", quota, slots)
	own := startOwn(t, "flood", o)
	f := own.create(t, warm(slots, program("funcd/hello")))
	for range calls {
		f.call(t, "")
	}
	most := 0
	for ended := 0; ended < enough; {
		// Each call that has ended had one container. What has ended is counted last.
		dispatched := len(f.dispatches(t))
		ended = 0
		for _, e := range f.events(t, "") {
			if api.State(e.Event).Ended() {
				ended++
			}
		}
		require.LessOrEqual(t, dispatched, ended+quota+slots+f.late(t))
		most = max(most, dispatched-ended)
	}
	require.GreaterOrEqual(t, most, quota, "the quota is used")
	a := own.request(t, http.MethodDelete, "/funcs/"+f.Name+"?force=1", "")
	require.Equal(t, http.StatusNoContent, a.status, a.body)
}

// TestCallsGoOnWithoutConsul cuts funcd off from Consul, in the two ways in which that can happen.
func TestCallsGoOnWithoutConsul(t *testing.T) {
	t.Parallel()
	g, server := behindGate(t, "http://"+dev.consul)
	o := beside("noconsul")
	o.consul = strings.TrimPrefix(server.URL, "http://")
	own := startOwn(t, "noconsul", o)
	f := own.create(t, program("funcd/upper"))
	silent := func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body) // else the server would not see the client go, and never end
		<-r.Context().Done()
		return true
	}
	managed := func() answer {
		began := time.Now()
		a := own.request(t, http.MethodPost, "/funcs/create", fmt.Sprintf(`{"Name":%q,"Config":{"Image":"funcd/hello"}}`, newName(t)))
		require.Less(t, time.Since(began), 30*time.Second, "an answer comes in a bounded time")
		return a
	}
	for name, refuse := range map[string]func(http.ResponseWriter, *http.Request) bool{"hangs up": hangUp, "is silent": silent} {
		g.set(refuse)
		server.CloseClientConnections()
		out := f.sync(t, "known")
		require.Equal(t, http.StatusOK, out.status, "%s: %s", name, out.body)
		require.Equal(t, "KNOWN", out.body)
		call := f.call(t, "queued")
		require.Equal(t, "QUEUED", f.wait(t, call).body, name)
		a := managed()
		require.Equal(t, http.StatusServiceUnavailable, a.status, "%s: %s", name, a.body)
		require.Contains(t, a.body, "Consul does not answer")
		g.set(nil)
		server.CloseClientConnections()
		eventually(t, "changes are taken again", func() bool { return managed().status == http.StatusCreated })
	}
}
