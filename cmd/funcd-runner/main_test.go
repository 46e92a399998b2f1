package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/funcd/funcd/api"
)

func TestMain(m *testing.M) {
	switch os.Getenv("HELPER") {
	case "function":
		_, _ = os.Stdout.WriteString("out")
		os.Exit(0)
	case "runner":
		os.Exit(run())
	}
	goleak.VerifyTestMain(m)
}

// A container whose log nobody reads any more still hands in its result.
func TestBrokenLog(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	results := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == api.RunnerNextPath {
			_ = api.WriteFrame(w, api.Assignment{
				CallID: "c", Function: "f", Command: []string{self}, Env: []string{"HELPER=function"}, Timeout: time.Minute, MaxOutput: 100,
			}, nil)
			return
		}
		var result api.Result
		stdout, _ := api.ReadFrame(r.Body, &result, 100)
		results <- string(result.Outcome) + " " + string(stdout)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	unread, log, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, unread.Close())
	defer log.Close()
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = []string{"HELPER=runner", "FUNCD_ADDRESS=" + server.URL, "NOMAD_TOKEN_funcd=token"}
	cmd.Stdout = log
	require.NoError(t, cmd.Run())
	require.Equal(t, "exited out", <-results)
}

func TestNothing(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	for argument, status := range map[string]int{api.RunnerNothing: 0, "--something": 1} {
		cmd := exec.CommandContext(t.Context(), self, argument)
		cmd.Env = []string{"HELPER=runner"} // none of what a call needs
		out, _ := cmd.CombinedOutput()
		require.Equal(t, status, cmd.ProcessState.ExitCode(), "%s: %s", argument, out)
	}
}
