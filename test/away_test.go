//go:build integration

package test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// child returns the process of a program that the stack has started.
func (s *stack) child(t *testing.T, program string) *os.Process {
	t.Helper()
	var found *os.Process
	eventually(t, "a process of "+program, func() bool {
		for _, pid := range childrenOf(s.cmd.Process.Pid) {
			words, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			name, rest, _ := strings.Cut(string(words), "\x00")
			if err == nil && strings.HasSuffix(name, "/"+program) && strings.HasPrefix(rest, "agent\x00") {
				found, err = os.FindProcess(pid)
				return err == nil
			}
		}
		return false
	})
	return found
}

// TestManagementWithoutNomadOrConsul stops the processes themselves: connections are accepted then, and nothing is ever answered. And it kills Nomad,
// which has lost its data when it is back.
func TestManagementWithoutNomadOrConsul(t *testing.T) {
	t.Parallel()
	own := startOwn(t, "frozen", options{})
	hello := func() api.Function { return cold(program("funcd/hello")) }
	// A request that is not answered fails by the harness's own time.
	create := func() answer {
		return own.request(t, http.MethodPost, "/funcs/create", fmt.Sprintf(`{"Name":%q,"ContainerSize":"s1","Config":{"Image":"funcd/hello","Labels":{"funcd.warm":"0"}}}`, newName(t)))
	}
	backAgain := func() {
		t.Helper()
		eventually(t, "functions are created again", func() bool { return create().status == http.StatusCreated })
	}
	for _, c := range []struct{ program, says string }{{"nomad", "Nomad does not answer"}, {"consul", "Consul does not answer"}} {
		f, other := own.create(t, hello()), own.create(t, hello())
		process := own.child(t, c.program)
		require.NoError(t, process.Signal(syscall.SIGSTOP))
		t.Cleanup(func() { _ = process.Signal(syscall.SIGCONT) }) // before the stack is stopped
		refused := map[string]answer{
			"create": create(),
			"update": own.request(t, http.MethodPut, "/funcs/"+other.Name, `{"Timeout":7}`),
		}
		removed := own.request(t, http.MethodDelete, "/funcs/"+other.Name, "")
		if c.program == "nomad" {
			require.Equal(t, http.StatusNoContent, removed.status, "what Nomad has of it is removed later: %s", removed.body)
		} else {
			refused["remove"] = removed
		}
		for what, a := range refused {
			require.Equal(t, http.StatusServiceUnavailable, a.status, "%s without %s: %s", what, c.program, a.body)
			require.Contains(t, a.body, c.says, what)
			require.Equal(t, "2", a.header.Get("Retry-After"), what)
		}
		require.Equal(t, http.StatusOK, own.request(t, http.MethodGet, "/funcs/"+f.Name, "").status, "what is known is told")
		call := f.call(t, "")
		require.NoError(t, process.Signal(syscall.SIGCONT))
		out := f.wait(t, call)
		require.Equal(t, "HelloWorld\n", out.body, "a call that came without %s: %d", c.program, out.status)
		backAgain()
	}

	f := own.create(t, hello())
	process := own.child(t, "nomad")
	// What it runs for containers would be left behind by its kill.
	eventually(t, "Nomad runs nothing", func() bool { return len(childrenOf(process.Pid)) == 0 })
	var before []allocation
	own.nomadGet(t, "/v1/allocations", &before)
	t.Cleanup(func() { removeAllocations(t, before) })
	require.NoError(t, process.Signal(syscall.SIGKILL))
	call := f.call(t, "")
	out := f.wait(t, call)
	require.Equal(t, "HelloWorld\n", out.body, "%d", out.status)
	backAgain()
	require.NotEqual(t, process.Pid, own.child(t, "nomad").Pid)
}

// removeAllocations removes the directory of a dev agent that was killed and did not do so itself. Nomad makes a new one at each start.
func removeAllocations(t *testing.T, allocations []allocation) {
	t.Helper()
	directory := ""
	unmount(t, func(at string) bool {
		for _, a := range allocations {
			if above, _, ok := strings.Cut(at, "/"+a.ID+"/"); ok {
				directory = above
				return true
			}
		}
		return false
	})
	if directory != "" {
		require.Contains(t, directory, "/NomadClient")
		require.NoError(t, os.RemoveAll(directory))
	}
}

// TestStartWithoutConsul starts a server that can know no function yet.
func TestStartWithoutConsul(t *testing.T) {
	t.Parallel()
	g, server := behindGate(t, "http://"+dev.consul)
	o := beside("early")
	o.consul = strings.TrimPrefix(server.URL, "http://")
	own := startOwn(t, "early", o)
	f := own.create(t, cold(program("funcd/upper")))
	require.NoError(t, own.kill())

	g.set(hangUp)
	o.http, o.noDev = strings.TrimPrefix(own.url, "http://"), true
	type reply struct {
		status int
		after  string
		err    error
	}
	first := make(chan reply, 1)
	go func() {
		var r reply
		for deadline := time.Now().Add(startTime); time.Now().Before(deadline); time.Sleep(pollPause) {
			resp, err := client.Post(own.url+f.path("call"), "", strings.NewReader("x"))
			if r.err = err; err == nil {
				r.status, r.after = resp.StatusCode, resp.Header.Get("Retry-After")
				resp.Body.Close()
				break
			}
		}
		g.set(nil) // only now is the server ready
		first <- r
	}()
	f.on = startOwn(t, "early", o)
	require.Equal(t, reply{status: http.StatusServiceUnavailable, after: "2"}, <-first)
	require.Equal(t, "KNOWN", f.sync(t, "known").body)
}
