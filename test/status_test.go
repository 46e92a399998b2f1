//go:build integration

package test

import (
	"encoding/json"
	"net/http"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// status returns the answer of /status.
func (f *function) status(t *testing.T, query string) api.Status {
	t.Helper()
	a := f.on.request(t, http.MethodGet, f.path("status")+query, "")
	require.Equal(t, http.StatusOK, a.status, a.body)
	var status api.Status
	require.NoError(t, json.Unmarshal([]byte(a.body), &status), a.body)
	return status
}

// awaitStatus waits until the calls stand as wanted: a call leaves the queue some time after its end is told.
func (f *function) awaitStatus(t *testing.T, want api.Status) {
	t.Helper()
	var got api.Status
	eventually(t, "the status of a function", func() bool {
		got = f.status(t, "")
		return reflect.DeepEqual(want, got)
	})
}

// functionOf is the function that a call belongs to, by the call's id alone.
func functionOf(t *testing.T, call string) api.Function {
	t.Helper()
	f, err := dev.FunctionOfCall(t.Context(), call)
	require.NoError(t, err)
	return f
}

func TestStatusCountsAndListsCalls(t *testing.T) {
	t.Parallel()
	f, broken := dev.create(t, program("funcd/sleep", "2")), dev.create(t, program("funcd/fail"))
	require.Equal(t, api.Status{}, f.status(t, ""))
	require.Empty(t, f.status(t, "?list=1").List)

	first, second := f.call(t, ""), f.call(t, "")
	failing := broken.call(t, "")
	require.Equal(t, 2, f.status(t, "").Total, "an accepted call is counted")
	require.Equal(t, f.Name, functionOf(t, second).Name, "however it stands")
	f.eventsOf(t, first, api.Running)
	eventually(t, "a list of both", func() bool { // one that changes while it is read may be left out
		list := f.status(t, "?list=1")
		require.Equal(t, 2, list.Total)
		return len(list.List) == 2
	})
	f.awaitStatus(t, api.Status{Total: 2, Finished: 2})
	for _, call := range f.status(t, "?list=1").List {
		require.Contains(t, []string{first, second}, call.CallID)
		require.Equal(t, api.Finished, call.Status)
		called := f.eventsOf(t, call.CallID, api.Finished)[0]
		require.InDelta(t, called.Time.UnixMilli(), call.Created.UnixMilli(), 1000)
	}
	broken.awaitStatus(t, api.Status{Total: 1, Failed: 1})
	require.Equal(t, failing, broken.status(t, "?list=1").List[0].CallID)
	require.Equal(t, "exit status 3", broken.status(t, "?list=1").List[0].Message)

	require.Equal(t, f.UUID, functionOf(t, first).UUID)
	require.Equal(t, broken.Name, functionOf(t, failing).Name)

	// What was fetched counts no more, however it was.
	require.Equal(t, http.StatusOK, f.output(t, first).status)
	f.awaitStatus(t, api.Status{Total: 1, Finished: 1})
	_, err := dev.FunctionOfCall(t.Context(), first)
	require.EqualError(t, err, "no such call: "+first)
	require.Equal(t, http.StatusOK, f.wait(t, second).status)
	require.Equal(t, http.StatusOK, f.sync(t, "").status)
	require.Equal(t, http.StatusInternalServerError, broken.output(t, failing).status)
	f.awaitStatus(t, api.Status{})
	broken.awaitStatus(t, api.Status{})

	require.Equal(t, http.StatusNotFound, dev.request(t, http.MethodGet, "/status/"+f.Name+"/"+first, "").status)
	require.Equal(t, http.StatusNotFound, dev.request(t, http.MethodGet, "/status/x/"+f.UUID, "").status)
}
