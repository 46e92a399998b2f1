//go:build integration

package test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// nomadProgram runs the nomad program against dev's Nomad. It must succeed.
func nomadProgram(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	program, err := tool("nomad")
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = []string{"NOMAD_ADDR=" + dev.nomad, "HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "nomad %v: %s\n%s", args, out, stdin)
	return string(out)
}

// namespaceOn and nodePoolOn make what Nomad is to have. They are left to the end of the stack.
func namespaceOn(t *testing.T, on *stack, name string) {
	t.Helper()
	on.nomadDo(t, http.MethodPut, "/v1/namespace", map[string]string{"Name": name}, nil)
}

func nodePoolOn(t *testing.T, on *stack, name string) {
	t.Helper()
	on.nomadDo(t, http.MethodPut, "/v1/node/pool/"+name, map[string]string{"Name": name}, nil)
}

// requireValid holds what funcd job prints to Nomad's own program: both forms are valid, and the same job.
func requireValid(t *testing.T, jobJSON, jobHCL string) {
	t.Helper()
	require.Contains(t, nomadProgram(t, jobJSON, "job", "validate", "-json", "-"), "Job validation successful")
	require.Contains(t, nomadProgram(t, jobHCL, "job", "validate", "-"), "Job validation successful")
	var inJSON struct{ Job *nomad.Job }
	require.NoError(t, json.Unmarshal([]byte(jobJSON), &inJSON))
	var inHCL nomad.Job
	dev.nomadDo(t, http.MethodPost, "/v1/jobs/parse", map[string]any{"JobHCL": jobHCL, "Canonicalize": true}, &inHCL)
	inJSON.Job.Canonicalize()
	want, err := json.MarshalIndent(inJSON.Job, "", " ")
	require.NoError(t, err)
	got, err := json.MarshalIndent(&inHCL, "", " ")
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), jobHCL)
}

// Whatever a function's settings are, Nomad's own program takes the job that funcd job prints.
func TestJobIsValidForNomad(t *testing.T) {
	t.Parallel()
	c := dev.cli(t)
	volume := newName(t)
	hostVolume(t, volume)
	volumeJob(t, dev, volume, 0, mounts{"/data": volume})
	all := api.Function{
		ContainerSize: "s2", Timeout: 7,
		Config: api.Config{
			Image: "funcd-test/probe", Tty: true, Env: []string{"A=b"}, Entrypoint: api.StrSlice{"/probe"}, Cmd: api.StrSlice{"it's", `a "b" ${c} %{d}`, "`"}, WorkingDir: "/tmp",
			Labels: map[string]string{"com.example/team": "x \"y\"\n", "plain": "1", "sh_hyper_sg_web": "yes"}, StopSignal: "SIGRTMIN+3",
			ExposedPorts: map[string]struct{}{"9000/tcp": {}},
		},
		HostConfig: api.HostConfig{
			PublishAllPorts: true, Links: []string{"db:cache"}, VolumesFrom: []string{volume + ":ro"},
			PortBindings: map[string][]api.PortBinding{"80/tcp": {{HostPort: "18080"}, {}}, "53/udp": {{}}},
		},
	}
	host, none := program("funcd/hello"), program("funcd/hello")
	host.HostConfig.NetworkMode, none.HostConfig.NetworkMode = "host", "none"
	none.Config.StopSignal = "SIGKILL"
	for _, f := range []api.Function{all, host, none, program("funcd/hello")} {
		created := dev.create(t, f)
		requireValid(t, c.prints(t, "", "job", created.Name), c.prints(t, "", "job", "--hcl", created.Name))
	}
	// What operators set, too.
	goldens, err := filepath.Glob("../jobs/testdata/*.golden")
	require.NoError(t, err)
	require.NotEmpty(t, goldens)
	for _, file := range goldens {
		var job nomad.Job
		text := readFile(t, file)
		require.NoError(t, json.NewDecoder(strings.NewReader(text)).Decode(&job), file)
		if job.Namespace != nil {
			namespaceOn(t, dev, *job.Namespace)
		}
		if job.NodePool != nil {
			nodePoolOn(t, dev, *job.NodePool)
		}
		hcl, err := jobs.HCL(&job)
		require.NoError(t, err, file)
		wrapped := &bytes.Buffer{}
		require.NoError(t, json.NewEncoder(wrapped).Encode(map[string]json.RawMessage{"Job": json.RawMessage(text)}))
		requireValid(t, wrapped.String(), string(hcl))
	}
}
