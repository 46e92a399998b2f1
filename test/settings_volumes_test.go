//go:build integration

package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// nomadDo makes a request to the stack's Nomad that must succeed.
func (s *stack) nomadDo(t *testing.T, method, path string, body, v any) {
	t.Helper()
	text, err := json.Marshal(body)
	require.NoError(t, err)
	a := request(t, method, s.nomad+path, string(text))
	require.Equal(t, http.StatusOK, a.status, "%s %s: %s", method, path, a.body)
	if v != nil {
		require.NoError(t, json.Unmarshal([]byte(a.body), v), a.body)
	}
}

// hostVolume makes a volume on dev's node until the test ends.
func hostVolume(t *testing.T, name string) {
	t.Helper()
	// Tests add nodes to dev, and take them away.
	var self struct{ Stats map[string]map[string]string }
	dev.nomadGet(t, "/v1/agent/self", &self)
	var made struct{ Volume struct{ ID string } }
	dev.nomadDo(t, http.MethodPut, "/v1/volume/host/create", map[string]any{"Volume": map[string]any{
		"Name": name, "NodeID": self.Stats["client"]["node_id"], "PluginID": "mkdir", "RequestedCapabilities": []any{map[string]string{"AccessMode": "single-node-writer", "AttachmentMode": "file-system"}},
	}}, &made)
	t.Cleanup(func() {
		req, err := http.NewRequest(http.MethodDelete, dev.nomad+"/v1/volume/host/"+made.Volume.ID+"/delete", nil)
		require.NoError(t, err)
		resp, err := client.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
	})
	eventually(t, "the volume", func() bool {
		var volume struct{ State string }
		dev.nomadGet(t, "/v1/volume/host/"+made.Volume.ID, &volume)
		return volume.State == "ready"
	})
}

// mounts are volumes by where a job mounts them.
type mounts map[string]string

// volumeJob registers a job that mounts volumes until the test ends. It has count containers.
func volumeJob(t *testing.T, on *stack, name string, count int, m mounts) {
	t.Helper()
	requests, list := map[string]any{}, []any{}
	for destination, source := range m {
		requests[source] = map[string]any{"Name": source, "Type": "host", "Source": source}
		list = append(list, map[string]any{"Volume": source, "Destination": destination})
	}
	on.nomadDo(t, http.MethodPut, "/v1/jobs", map[string]any{"Job": map[string]any{
		"ID": name, "Name": name, "Type": "service", "Datacenters": []string{"*"}, "NodePool": "all", "TaskGroups": []any{map[string]any{
			"Name": "g", "Count": count, "Volumes": requests,
			"Tasks": []any{map[string]any{
				"Name": "t", "Driver": "docker", "VolumeMounts": list, "Resources": map[string]int{"CPU": 10, "MemoryMB": 32},
				"Config": map[string]any{"image": imageID(t, "funcd-test/probe"), "args": []string{"hold", "600"}},
			}},
		}},
	}}, nil)
	t.Cleanup(func() {
		req, err := http.NewRequest(http.MethodDelete, on.nomad+"/v1/job/"+name+"?purge=true", nil)
		require.NoError(t, err)
		resp, err := client.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
	})
}

// imageID is what Nomad finds an image by that is in no registry.
func imageID(t *testing.T, image string) string {
	t.Helper()
	return strings.TrimSpace(docker(t, "", "image", "inspect", "--format", "{{.Id}}", image))
}

// volumesFrom is a function that has the volumes of jobs and does with files what its calls say.
func volumesFrom(jobs ...string) api.Function {
	f := program("funcd-test/probe", "fs")
	f.HostConfig.VolumesFrom = jobs
	return f
}

// does makes a call with these lines, and returns what has come of each.
func (f *function) does(t *testing.T, lines ...string) []string {
	t.Helper()
	out := f.sync(t, strings.Join(lines, "\n"))
	require.Equal(t, http.StatusOK, out.status, out.body)
	return strings.Split(strings.TrimSuffix(out.body, "\n"), "\n")
}

func TestSettingVolumesFrom(t *testing.T) {
	t.Parallel()
	name := newName(t)
	hostVolume(t, name+"-data")
	hostVolume(t, name+"-temp")
	volumeJob(t, dev, name, 0, mounts{"/data": name + "-data", "/tmp/shared": name + "-temp"})

	writes := dev.create(t, cold(volumesFrom(name)))
	reads := dev.create(t, cold(volumesFrom(name+":ro")))
	require.Equal(t, []string{name + ":ro"}, reads.HostConfig.VolumesFrom)
	require.Equal(t, []string{"written", "written"}, writes.does(t, "write /data/a hello", "write /tmp/shared/b there"))
	const refused = "read-only file system"
	require.Equal(t, []string{"hello", "there", refused, refused}, reads.does(t, "read /data/a", "read /tmp/shared/b", "write /data/a x", "write /tmp/shared/c x"))
	require.Equal(t, []string{"hello", "a", "b"}, writes.does(t, "read /data/a", "list /data", "list /tmp/shared"), "the next container has them")

	// What is a volume's stays when a container is reused, and nothing else in /tmp.
	f := volumesFrom(name)
	f.Config.Labels = map[string]string{"funcd.reuse": "true", "funcd.warm": "1"}
	reused := dev.create(t, f)
	reused.awaitReady(t, 1)
	require.Equal(t, []string{"written", "written", "own shared"}, reused.does(t, "write /tmp/shared/c x", "write /tmp/own x", "list /tmp"))
	reused.awaitSlot(t)
	require.Equal(t, []string{"b c", "shared"}, reused.does(t, "list /tmp/shared", "list /tmp"))
	require.LessOrEqual(t, len(reused.dispatches(t)), 1+2*reused.late(t), "one container, but where one was late")

	for _, wrong := range []struct{ from, message string }{
		{"funcd-test-is-not-there", "Nomad has no job funcd-test-is-not-there"},
		{writes.job(), ""}, // a function's job is one, and has volumes by now
	} {
		f := volumesFrom(wrong.from)
		f.Name = newName(t)
		_, err := dev.CreateFunction(t.Context(), f)
		if wrong.message == "" {
			require.NoError(t, err)
			continue
		}
		require.Equal(t, api.Invalid, api.CodeOf(err))
		require.ErrorContains(t, err, wrong.message)
	}
}

// A volume that only one node has takes the call there.
func TestSettingVolumesFromPlacesTheCall(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(root, "static-volume")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("static"), 0o644))
	startNode(t, "volumes", fmt.Sprintf("host_volume \"static\" {\n    path = %q\n  }\n  host_volume \"socket\" {\n    path = \"/var/run\"\n  }", dir))
	o := beside("volumes")
	o.config += "nomad {\n  node_pool = \"all\"\n}\n"
	own := startOwn(t, "volumes", o)
	name := newName(t)
	volumeJob(t, own, name, 0, mounts{"/static": "static"})

	f := own.create(t, cold(volumesFrom(name+":ro")))
	call := f.call(t, "read /static/file\nwrite /static/file x\n")
	require.Equal(t, "static\nread-only file system\n", f.wait(t, call).body)
	var nodes []struct{ ID, Name string }
	dev.nomadGet(t, "/v1/nodes", &nodes)
	of := f.allocationOf(t, call).NodeID
	for _, node := range nodes {
		require.Equal(t, node.Name == "volumes", node.ID == of, node.Name)
	}

	// No function gets to Docker's socket, whoever else does.
	name += "-socket"
	volumeJob(t, own, name, 1, mounts{"/srv/run": "socket"})
	eventually(t, "the allocation of the job", func() bool {
		var list []allocation
		dev.nomadGet(t, jobOf(name)+"/allocations", &list)
		return len(list) > 0
	})
	refused := volumesFrom(name + ":ro")
	refused.Name = name
	_, err := own.CreateFunction(t.Context(), refused)
	require.Equal(t, api.Invalid, api.CodeOf(err))
	require.ErrorContains(t, err, "Docker's socket")
}
