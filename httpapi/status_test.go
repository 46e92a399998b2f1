package httpapi

import (
	"encoding/json"
	"io"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// many is a status with a list that does not fit into one write.
func many() api.Status {
	status := api.Status{Total: 1000, Pending: 200, Running: 300, Finished: 400, Failed: 100}
	for i := range status.Total {
		status.List = append(status.List, api.CallStatus{
			CallID: testCall, Created: api.Timestamp{Time: time.UnixMilli(int64(i)).UTC()}, Status: api.Failed, Message: "exit status " + strconv.Itoa(i),
		})
	}
	return status
}

func TestListIsOneJSONObject(t *testing.T) {
	t.Parallel()
	b := newBackend()
	b.status = many()
	resp, body := ask(t, serve(t, testConfig(b)), "GET", statusPath+"?list=1", nil)
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	var got api.Status
	require.NoError(t, json.Unmarshal([]byte(body), &got))
	require.Equal(t, b.status, got)
	require.Contains(t, body, `{"CallId":"`+testCall+`","Created":"1970-01-01T00:00:00.007Z","Status":"FAILED","Message":"exit status 7"}`)
}

// A list that breaks off must not look like a whole one.
func TestListThatBreaksOffIsNoAnswer(t *testing.T) {
	t.Parallel()
	b := newBackend()
	b.status = many()
	b.fail["Calls"] = api.Errorf(api.Unavailable, "later")
	server := serve(t, testConfig(b))
	resp, err := server.Client().Get(server.URL + statusPath + "?list=1")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode, "it had begun")
	_, err = io.ReadAll(resp.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}
