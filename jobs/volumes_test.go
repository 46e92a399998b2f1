package jobs

import (
	"encoding/json"
	"testing"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// withVolumes is a job that mounts volumes, as Nomad's API gives it.
func withVolumes(t *testing.T, groups string) *nomad.Job {
	t.Helper()
	var job nomad.Job
	require.NoError(t, json.Unmarshal([]byte(`{"ID":"db","TaskGroups":`+groups+`}`), &job))
	return &job
}

func TestVolumesOf(t *testing.T) {
	t.Parallel()
	const host = `"Volumes":{"data":{"Name":"data","Type":"host","Source":"pgdata"},"ro":{"Name":"ro","Type":"host","Source":"certs","ReadOnly":true}}`
	writer := api.VolumeRequest{}
	for name, c := range map[string]struct {
		groups   string
		readOnly bool
		want     []api.Volume
	}{
		"a host volume": {
			`[{` + host + `,"Tasks":[{"VolumeMounts":[{"Volume":"data","Destination":"/var/lib/pg/"}]}]}]`, false,
			[]api.Volume{{Type: "host", Source: "pgdata", Destination: "/var/lib/pg", Request: writer}},
		},
		"read-only, claimed as the job claims it": {
			`[{` + host + `,"Tasks":[{"VolumeMounts":[{"Volume":"data","Destination":"/data"}]}]}]`, true,
			[]api.Volume{{Type: "host", Source: "pgdata", Destination: "/data", ReadOnly: true, Request: writer}},
		},
		"as the job has it": {
			`[{` + host + `,"Tasks":[{"VolumeMounts":[{"Volume":"data","Destination":"/b","ReadOnly":true},{"Volume":"ro","Destination":"/a"}]}]}]`, false,
			[]api.Volume{
				{Type: "host", Source: "certs", Destination: "/a", ReadOnly: true, Request: api.VolumeRequest{ReadOnly: true}},
				{Type: "host", Source: "pgdata", Destination: "/b", ReadOnly: true, Request: writer},
			},
		},
		"of several tasks and groups": {
			`[{` + host + `,"Tasks":[{"VolumeMounts":[{"Volume":"data","Destination":"/data","ReadOnly":true}]},{"VolumeMounts":null}]},
			  {"Volumes":{"x":{"Type":"host","Source":"pgdata"}},"Tasks":[{"VolumeMounts":[{"Volume":"x","Destination":"data"},{"Volume":"x","Destination":"/backup"}]}]}]`, false,
			[]api.Volume{
				{Type: "host", Source: "pgdata", Destination: "/backup", Request: writer},
				{Type: "host", Source: "pgdata", Destination: "/data", Request: writer},
			},
		},
		"a CSI volume": {
			`[{"Volumes":{"v":{"Type":"csi","Source":"disk","PerAlloc":true,"AccessMode":"multi-node-multi-writer","AttachmentMode":"file-system",
				"MountOptions":{"FSType":"ext4","MountFlags":["noatime"]}}},"Tasks":[{"VolumeMounts":[{"Volume":"v","Destination":"/data","SELinuxLabel":"Z"}]}]}]`, true,
			[]api.Volume{{Type: "csi", Source: "disk", Destination: "/data", ReadOnly: true, Request: api.VolumeRequest{
				ReadOnly: true, PerAlloc: true, AccessMode: "multi-node-multi-writer", AttachmentMode: "file-system", FSType: "ext4", MountFlags: []string{"noatime"}, SELinuxLabel: "Z",
			}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			volumes, err := VolumesOf(withVolumes(t, c.groups), c.readOnly)
			require.NoError(t, err)
			require.Equal(t, c.want, volumes)
			require.NoError(t, CheckVolumes(volumes))
			stored, err := json.Marshal(volumes)
			require.NoError(t, err)
			var again []api.Volume
			require.NoError(t, json.Unmarshal(stored, &again))
			require.Equal(t, volumes, again, "they are stored with the function")
		})
	}
}

func TestVolumesThatCantBeHad(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ groups, want string }{
		"none":          {`[{"Tasks":[{}]}]`, "job db mounts no host or CSI volume"},
		"not mounted":   {`[{"Volumes":{"v":{"Type":"host","Source":"s"}},"Tasks":[{}]}]`, "mounts no host or CSI volume"},
		"another kind":  {`[{"Volumes":{"v":{"Type":"new","Source":"s"}},"Tasks":[{"VolumeMounts":[{"Volume":"v","Destination":"/d"}]}]}]`, "neither host nor csi"},
		"two at a path": {`[{"Volumes":{"v":{"Type":"host","Source":"s"},"w":{"Type":"host","Source":"x"}},"Tasks":[{"VolumeMounts":[{"Volume":"v","Destination":"/d"},{"Volume":"w","Destination":"/d/"}]}]}]`, `two volumes at "/d"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := VolumesOf(withVolumes(t, c.groups), false)
			require.Equal(t, api.Invalid, api.CodeOf(err))
			require.ErrorContains(t, err, "HostConfig.VolumesFrom: job db mounts ")
			require.ErrorContains(t, err, c.want)
		})
	}
	at := func(destinations ...string) (volumes []api.Volume) {
		for _, d := range destinations {
			volumes = append(volumes, api.Volume{Type: "host", Source: "s", Destination: d})
		}
		return volumes
	}
	for _, good := range [][]api.Volume{at("/data"), at("/tmp"), at("/dev/shm"), at("/var/run"), at("/funcdx", "/locals"), at("/data", "/data/x")} {
		require.NoError(t, CheckVolumes(good), good)
	}
	for _, wrong := range [][]api.Volume{
		at("/"), at("/funcd"), at("/funcd/x"), at("/local"), at("/alloc/data"), at("/secrets"), at("/proc"), at("/proc/1"), at("/sys"), at("/dev"), at("/dev/shm/x"), at("/etc"),
		at("/etc/hosts"), at("/var/run/docker.sock"), at("/run/docker.sock"), at("/docker.sock"), at("/${NOMAD_ALLOC_ID}"), at("/data", "/data"),
		{{Type: "host", Source: "s-${NOMAD_ALLOC_INDEX}", Destination: "/d"}},
	} {
		err := CheckVolumes(wrong)
		require.Equal(t, api.Invalid, api.CodeOf(err), wrong)
		require.ErrorContains(t, err, "HostConfig.VolumesFrom: ")
	}
}

func TestHoldsDockerSocket(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"/": true, "": true, "/run": true, "/run/": true, "/var": true, "/var/run": true, "//var//run/.": true, "/run/docker.sock": true, "/var/run/docker.sock": true,
		"/srv": false, "/runner": false, "/var/lib": false, "/run/docker.sock.bak": false, "/var/run/docker": false,
	} {
		require.Equal(t, want, HoldsDockerSocket(path), path)
	}
}

// A volume is claimed once, however often it is mounted, and by whoever writes to it.
func TestVolumeIsClaimedOnce(t *testing.T) {
	t.Parallel()
	d := definition(t, `{"Name":"a","Config":{"Image":"ubuntu"}}`)
	d.Volumes = []api.Volume{
		{Type: "csi", Source: "s", Destination: "/a", ReadOnly: true, Request: api.VolumeRequest{ReadOnly: true, AccessMode: "m"}},
		{Type: "csi", Source: "s", Destination: "/b", Request: api.VolumeRequest{AccessMode: "m"}},
		{Type: "csi", Source: "s", Destination: "/c", ReadOnly: true, Request: api.VolumeRequest{ReadOnly: true, AccessMode: "m"}},
		{Type: "host", Source: "s", Destination: "/d"},
	}
	job, err := Render(d, testOptions())
	require.NoError(t, err)
	group := job.TaskGroups[0]
	require.Equal(t, map[string]*nomad.VolumeRequest{
		"v1": {Name: "v1", Type: "csi", Source: "s", AccessMode: "m"},
		"v4": {Name: "v4", Type: "host", Source: "s"},
	}, group.Volumes)
	var mounts []string
	for _, m := range group.Tasks[0].VolumeMounts {
		mounts = append(mounts, *m.Volume+" "+*m.Destination+map[bool]string{true: " ro", false: ""}[*m.ReadOnly])
	}
	require.Equal(t, []string{"v1 /a ro", "v1 /b", "v1 /c ro", "v4 /d"}, mounts)
	require.Equal(t, `["/a","/b","/c","/d"]`, group.Tasks[0].Env[KeepVariable])

	d.Volumes[3].Destination = "/funcd"
	_, err = Render(d, testOptions())
	require.Equal(t, api.Invalid, api.CodeOf(err))
}
