//go:build integration

package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestEndedContainersArePurged(t *testing.T) {
	t.Parallel()
	o := beside("purge")
	o.config += "nomad {\n  dead_time = \"20s\"\n  dead_jobs = 3\n}\n"
	own := startOwn(t, "purge", o)
	other := dev.create(t, cold(program("funcd/hello")))
	require.Equal(t, "HelloWorld\n", other.sync(t, "").body)

	slow := own.create(t, cold(program("funcd-test/probe", "ready"))) // it ends when it is told to
	f := own.create(t, cold(program("funcd/hello")))
	running := slow.call(t, "")
	const calls = 6
	for range calls {
		require.Equal(t, "HelloWorld\n", f.sync(t, "").body)
	}
	f.awaitChildren(t, 3)
	require.Equal(t, http.StatusOK, request(t, http.MethodGet, own.nomad+jobOf(f.job()), "").status)
	f.awaitChildren(t, 0)
	require.Equal(t, "HelloWorld\n", f.sync(t, "").body, "the function is there as before")

	require.Equal(t, http.StatusCreated, slow.output(t, running).status)
	require.Len(t, slow.children(t), 1)
	container := containerOf(t, slow.allocationOf(t, running).ID)
	awaitSaid(t, container, "ready")
	docker(t, "", "kill", "--signal", "USR1", container)
	require.Equal(t, http.StatusOK, slow.wait(t, running).status)
	slow.awaitChildren(t, 0)
	require.Len(t, other.children(t), 1, "another funcd's are its own matter")
	own.requireNoTraceOf(t, f)
}

// awaitChildren waits until no more than so many dispatches for calls are left.
func (f *function) awaitChildren(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d children", n), func() bool { return len(f.children(t)) <= n })
}

// requireNoTraceOf removes a function and wants nothing of it to be left.
func (s *stack) requireNoTraceOf(t *testing.T, f *function) {
	t.Helper()
	f.removeEnded(t)
	require.Empty(t, f.dispatches(t))
	require.Equal(t, http.StatusNotFound, request(t, http.MethodGet, s.nomad+jobOf(f.job()), "").status)
}

// nomadJob is a job with its number of changes, and all that it says.
func (f *function) nomadJob(t *testing.T) (version float64, job map[string]any) {
	t.Helper()
	f.on.nomadGet(t, jobOf(f.job()), &job)
	return job["Version"].(float64), job
}

func TestJobThatWasChangedByHandIsRegisteredAnew(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, f *function, job map[string]any){
		"changed": func(t *testing.T, f *function, job map[string]any) {
			job["Priority"] = 7
			group := job["TaskGroups"].([]any)[0].(map[string]any)
			group["Tasks"].([]any)[0].(map[string]any)["Config"].(map[string]any)["image"] = "funcd/fail"
			body, err := json.Marshal(map[string]any{"Job": job})
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, request(t, http.MethodPut, f.on.nomad+"/v1/jobs", string(body)).status)
		},
		"stopped": func(t *testing.T, f *function, _ map[string]any) {
			require.Equal(t, http.StatusOK, request(t, http.MethodDelete, f.on.nomad+jobOf(f.job()), "").status)
		},
		"purged": func(t *testing.T, f *function, _ map[string]any) {
			require.Equal(t, http.StatusOK, request(t, http.MethodDelete, f.on.nomad+jobOf(f.job())+"?purge=true", "").status)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := dev.create(t, cold(program("funcd/hello")))
			require.Equal(t, "HelloWorld\n", f.sync(t, "").body)
			_, job := f.nomadJob(t)
			change(t, f, job)
			eventually(t, "the job as it was", func() bool {
				if request(t, http.MethodGet, f.on.nomad+jobOf(f.job()), "").status != http.StatusOK {
					return false
				}
				_, now := f.nomadJob(t)
				return now["Priority"].(float64) == 50 && !now["Stop"].(bool)
			})
			require.Equal(t, "HelloWorld\n", f.sync(t, "").body)
			// What is as it should be is left alone, however often it is looked at.
			before, _ := f.nomadJob(t)
			time.Sleep(25 * time.Second)
			after, _ := f.nomadJob(t)
			require.Equal(t, before, after)
		})
	}
}

func TestWhatIsLeftOfRemovedFunctionsIsCleared(t *testing.T) {
	t.Parallel()
	g, server := nomadBehindGate(t)
	o := beside("orphans")
	o.nomad = server.URL
	o.config += "limits {\n  orphan_time = \"3s\"\n}\n"
	own := startOwn(t, "orphans", o)
	kept := own.create(t, cold(program("funcd/hello")))
	require.Equal(t, "HelloWorld\n", kept.sync(t, "").body)

	t.Run("one that was removed while Nomad was away", func(t *testing.T) {
		f := own.create(t, cold(program("funcd/hello")))
		require.Equal(t, "HelloWorld\n", f.sync(t, "").body)
		g.set(hangUp)
		server.CloseClientConnections()
		require.NoError(t, own.RemoveFunction(t.Context(), f.Name))
		g.set(nil)
		f.awaitCleared(t)
	})
	t.Run("one that was deleted in Consul while it ran", func(t *testing.T) {
		f := own.create(t, cold(program("funcd/sleep", "300")))
		id := own.definition(t, f).ID
		call := f.call(t, "")
		f.eventsOf(t, call, api.Running)
		require.NotEmpty(t, own.streamsOf(t, id))
		containers := f.allocationsOf(t, f.live(t))
		require.Len(t, containers, 1)
		deleted := request(t, http.MethodDelete, "http://"+own.consul+"/v1/kv/orphans/functions/default/"+f.Name, "")
		require.Equal(t, http.StatusOK, deleted.status)
		f.awaitCleared(t)
		require.NoError(t, noContainers(containers))
		eventually(t, "the end of its streams", func() bool { return len(own.streamsOf(t, id)) == 0 })
	})
	require.Equal(t, "HelloWorld\n", kept.sync(t, "").body)
	require.NotEmpty(t, own.streamsOf(t, own.definition(t, kept).ID))
}

// awaitCleared waits until Nomad has nothing of the function.
func (f *function) awaitCleared(t *testing.T) {
	t.Helper()
	eventually(t, "the end of a function's jobs", func() bool {
		a := request(t, http.MethodGet, f.on.nomad+jobOf(f.job()), "")
		return a.status == http.StatusNotFound && len(f.dispatches(t)) == 0
	})
}

// definition reads a function in Consul.
func (s *stack) definition(t *testing.T, f *function) api.Definition {
	t.Helper()
	var d api.Definition
	for _, key := range s.consulKeys(t, "") {
		if strings.HasSuffix(key, "/functions/default/"+f.Name) {
			a := request(t, http.MethodGet, "http://"+s.consul+"/v1/kv/"+key+"?raw", "")
			require.NoError(t, json.Unmarshal([]byte(a.body), &d))
		}
	}
	require.NotEmpty(t, d.ID)
	return d
}

// streamsOf returns what the stack's JetStream keeps of the function.
func (s *stack) streamsOf(t *testing.T, id string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(s.data(), "jetstream", "jetstream", "*", "streams", "*_"+id))
	require.NoError(t, err)
	return found
}

// TestCallsThatNobodyFetchesAreRemoved first lose their outputs, and then all that is known of them.
func TestCallsThatNobodyFetchesAreRemoved(t *testing.T) {
	t.Parallel()
	o := beside("unfetched")
	o.config += "limits {\n  output_time    = \"2s\"\n  unfetched_time = \"40s\"\n}\n"
	own := startOwn(t, "unfetched", o)
	f := own.create(t, program("funcd/hello"))
	var calls []string
	for range 5 {
		calls = append(calls, f.call(t, ""))
	}
	finished := func() int {
		status, err := own.Status(t.Context(), f.Name, f.UUID, false)
		require.NoError(t, err)
		return status.Finished
	}
	eventually(t, "the end of all calls", func() bool { return finished() == len(calls) })
	eventually(t, "the end of an output", func() bool {
		time.Sleep(time.Second)
		require.Greater(t, len(calls), 1, "each has still had its output")
		a := f.output(t, calls[0]) // whatever it is, the call is fetched
		calls = calls[1:]
		return a.status == http.StatusGone
	})
	eventually(t, "the end of what nobody has fetched", func() bool { return finished() == 0 })
	for _, call := range calls {
		require.Equal(t, http.StatusNotFound, f.output(t, call).status)
	}
	eventually(t, "a word about it", func() bool {
		return strings.Contains(readFile(t, own.logFile), "calls that nobody has fetched were removed")
	})
}
