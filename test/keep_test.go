//go:build integration

package test

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestFetchedCallsStayVisible(t *testing.T) {
	t.Parallel()
	o := beside("keep")
	own := startOwn(t, "keep", o)
	f := own.create(t, label(program("funcd/fail", "3"), "funcd.keep", "1h"))
	call := f.call(t, "")
	require.Equal(t, http.StatusInternalServerError, f.wait(t, call).status)
	require.Equal(t, http.StatusInternalServerError, f.sync(t, "").status)
	var gone answer
	eventually(t, "the end of a call that was fetched", func() bool {
		gone = f.output(t, call)
		return gone.status == http.StatusNotFound
	})
	require.Equal(t, "no such call: "+call+" has ended and its answer was fetched\n", gone.body)
	check := func() {
		f.awaitStatus(t, api.Status{Total: 2, Failed: 2})
		var list []api.CallStatus
		eventually(t, "both with the time at which they were fetched", func() bool { // they are counted from their ends on
			list = f.status(t, "?list=1").List
			return len(list) == 2 && !slices.ContainsFunc(list, func(c api.CallStatus) bool { return c.Fetched == nil })
		})
		for _, c := range list {
			require.Equal(t, api.Failed, c.Status)
			require.Equal(t, "exit status 3", c.Message)
			require.Equal(t, 3, *c.ExitCode)
			require.False(t, c.Started.Before(c.Created.Time))
			require.False(t, c.Ended.Before(c.Started.Time))
			require.False(t, c.Fetched.Before(c.Ended.Time))
		}
		require.NotEmpty(t, f.eventsOf(t, call, api.Failed))
		owner, err := own.FunctionOfCall(t.Context(), call)
		require.NoError(t, err)
		require.Equal(t, f.UUID, owner.UUID)
	}
	check()
	require.NoError(t, own.kill())
	o.http = strings.TrimPrefix(own.url, "http://")
	startOwn(t, "keep", o)
	check()
	require.Equal(t, http.StatusNotFound, f.output(t, call).status)
	said, err := exec.Command(filepath.Join(root, "funcd"), "status", "--addr", own.url, "--list", f.Name).Output()
	require.NoError(t, err)
	require.Regexp(t, call+` +FAILED +\S+Z +\S+Z +3 +exit status 3`, string(said))

	short := own.create(t, label(program("funcd/hello"), "funcd.keep", "2s"))
	require.Equal(t, "HelloWorld\n", short.sync(t, "").body)
	short.awaitStatus(t, api.Status{})
	_, err = own.CreateFunction(t.Context(), label(api.Function{Name: "long", Config: api.Config{Image: "funcd/hello"}}, "funcd.keep", "10000h"))
	require.EqualError(t, err, `Config.Labels: funcd.keep: "10000h" must be at most `+(720*time.Hour).String())
}
