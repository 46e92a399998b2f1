//go:build integration

package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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

// shownJob is what Nomad's UI shows on the page of a job.
type shownJob struct {
	ID, Name, Status string
	Meta             map[string]string
	UI               struct {
		Description string
		Links       []struct{ Label, URL string }
	}
}

// Someone who has Nomad's UI alone sees what a function is, and whose.
func TestNomadShowsWhatAFunctionIs(t *testing.T) {
	t.Parallel()
	free, err := freePorts(1)
	require.NoError(t, err)
	o := beside("page")
	o.http = "127.0.0.1:" + free[0]
	own := startOwn(t, "page", o)
	sized := program("funcd/fail", "5", "two words")
	sized.ContainerSize, sized.Timeout = "s1", 77
	f := own.create(t, sized)
	require.Equal(t, "func-default-"+f.Name, f.job())
	var shown shownJob
	dev.nomadGet(t, jobOf(f.job()), &shown)
	require.Equal(t, f.job(), shown.Name)
	require.Equal(t, "Function **"+f.Name+"** of account **default**, run by funcd.\n\nCommand `/bin/fail 5 \"two words\"`\n\nImage `funcd/fail` (`"+
		imageID(t, "funcd/fail")+"`), size s1, timeout 77 s.", shown.UI.Description)
	require.Len(t, shown.UI.Links, 1)
	require.Equal(t, own.url+"/funcs/"+f.Name, shown.UI.Links[0].URL, "the address of the API")
	require.Equal(t, http.StatusOK, request(t, http.MethodGet, shown.UI.Links[0].URL, "").status)
	require.Equal(t, "default", shown.Meta["funcd_account"], "the owner")
	require.Equal(t, f.Name, shown.Meta["funcd_name"])
	require.Equal(t, "1", shown.Meta["funcd_revision"])
	require.NotEmpty(t, shown.Meta["funcd_function"])

	size := "s2"
	_, err = own.UpdateFunction(t.Context(), f.Name, api.FunctionUpdate{ContainerSize: &size})
	require.NoError(t, err)
	before := shown.Meta["funcd_function"]
	dev.nomadGet(t, jobOf(f.job()), &shown)
	require.Contains(t, shown.UI.Description, "size s2, timeout 77 s.")
	require.Equal(t, "2", shown.Meta["funcd_revision"])
	require.Equal(t, before, shown.Meta["funcd_function"], "the identity stays")
	require.Equal(t, dev.nomad+"/ui/jobs/"+f.job()+"@default\n", own.cli(t).prints(t, "", "open", f.Name))
}

// nomadLog is what Nomad has of the output of an allocation's container.
func (s *stack) nomadLog(t *testing.T, allocation, stream string) string {
	t.Helper()
	return request(t, http.MethodGet, s.nomad+s.inNamespace("/v1/client/fs/logs/"+allocation+"?task=function&plain=true&type="+stream), "").body // it has none before it runs
}

// lingers is a function that ends some time after it has written. Nomad's client collects no more of a container's output once that has ended, and may have
// collected nothing by then: https://github.com/hashicorp/nomad/issues/6931.
func lingers(cmd ...string) api.Function {
	f := program("funcd-test/probe", cmd...)
	f.Config.Env = []string{"LINGER=10s"}
	return f
}

// Each call is a child by its id, with the function's own output as its logs, and the function's own end as its end.
func TestNomadShowsEachCall(t *testing.T) {
	t.Parallel()
	// What is not UTF-8 does not get through Docker's own log, where Nomad reads it, and a line without an end comes when the container ends.
	const noise = "line one\n\x00 ünicode\n"
	for name, c := range map[string]struct {
		function       api.Function
		payload        string
		stdout, stderr string
		status         string // Nomad's of the child's allocation
		ended          string // what Nomad says of its end
	}{
		"one that succeeds":           {lingers("cat"), noise, noise, "", "complete", "0 0"},
		"one that writes to both":     {lingers("streams", "3"), "", "this is standard output\n", "this is standard error\n", "failed", "3 0"},
		"one that is killed":          {program("funcd-test/probe", "kill", "9"), "", "", "", "failed", "137 0"},
		"one that is out of memory":   {program("funcd-test/probe", "eat", "0"), "", "", "", "failed", "137 0"},
		"one whose entrypoint is not": {program("funcd/hello", "/bin/none"), "", "", "", "failed", "127 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := dev.create(t, cold(c.function))
			call := f.call(t, c.payload)
			allocation := f.allocationOf(t, call).ID
			for stream, want := range map[string]string{"stdout": c.stdout, "stderr": c.stderr} {
				if want != "" { // while it lingers: when it has ended a client that has many may remove it
					eventually(t, "its "+stream, func() bool { return dev.nomadLog(t, allocation, stream) == want })
				}
			}
			f.wait(t, call)
			child := f.childOf(t, call)
			require.Contains(t, child.ID, f.job()+"/dispatch-"+call+"-", "the call's id")
			var shown shownJob
			dev.nomadGet(t, jobOf(child.ID), &shown)
			require.Equal(t, call, shown.Meta["call"])
			var state struct {
				ClientStatus string
				TaskStates   map[string]struct {
					Events []struct {
						Type             string
						ExitCode, Signal int
					}
				}
			}
			eventually(t, "the end of the allocation", func() bool {
				dev.nomadGet(t, "/v1/allocation/"+allocation, &state)
				return state.ClientStatus == "complete" || state.ClientStatus == "failed"
			})
			require.Equal(t, c.status, state.ClientStatus)
			var ends []string
			for _, e := range state.TaskStates["function"].Events {
				if e.Type == "Terminated" {
					ends = append(ends, fmt.Sprint(e.ExitCode, " ", e.Signal))
				}
			}
			require.Equal(t, []string{c.ended}, ends)
		})
	}
}

// What a function's owner keeps to itself is in none of Nomad's answers: the UUID, the environment, and what calls bring and get.
func TestSecretsAreInNoneOfNomadsAnswers(t *testing.T) {
	t.Parallel()
	const secret, payload = "hunter4-of-the-function", "hunter5-of-the-caller"
	// All that happens from now on, with its payloads, of all topics.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, dev.nomad+"/v1/event/stream?namespace=*", nil)
	require.NoError(t, err)
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	events := make(chan string, 1)

	quiet := program("funcd-test/probe", "streams", "0")
	quiet.Config.Env = []string{"PASSWORD=" + secret}
	quiet.Config.Labels = map[string]string{"funcd.warm": "1"}
	f := dev.create(t, quiet)
	talks := cold(program("funcd-test/probe", "signal", "600")) // runs until it is cancelled
	talks.Config.Env = quiet.Config.Env
	g := dev.create(t, talks)
	go func() {
		var all strings.Builder
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			if strings.Contains(lines.Text(), f.Name) || strings.Contains(lines.Text(), g.Name) {
				all.WriteString(lines.Text() + "\n")
			}
		}
		events <- all.String()
	}()
	f.awaitSlot(t)
	uuids := []string{f.UUID, g.UUID}
	for range 2 { // by a slot, and cold
		out := f.sync(t, payload, "X-Token", secret)
		require.Equal(t, http.StatusOK, out.status, out.body)
	}
	call := f.call(t, payload)
	require.Equal(t, http.StatusOK, f.wait(t, call).status)
	refreshed, err := dev.UpdateFunction(t.Context(), f.Name, api.FunctionUpdate{Refresh: true})
	require.NoError(t, err)
	uuids = append(uuids, refreshed.UUID)
	f.UUID = refreshed.UUID
	out := f.sync(t, payload)
	require.Equal(t, http.StatusOK, out.status, out.body)
	running := g.call(t, payload)
	// Of a container that has ended Nomad may have collected nothing, or have removed it: this one runs.
	talking := g.allocationOf(t, running).ID
	eventually(t, "the log of a call", func() bool { return dev.nomadLog(t, talking, "stdout") == "ready\n" })

	answers := map[string]string{}
	get := func(path string) {
		a := request(t, http.MethodGet, dev.nomad+path, "")
		require.Equal(t, http.StatusOK, a.status, path)
		answers[path] = a.body
	}
	for _, of := range []*function{f, g} {
		get("/v1/jobs?meta=true&prefix=" + of.job())
		get(jobOf(of.job()))
		get(jobOf(of.job()) + "/versions")
		get(jobOf(of.job()) + "/summary")
	}
	for _, child := range append(f.dispatches(t), g.dispatches(t)...) {
		for _, more := range []string{"", "/versions", "/evaluations", "/allocations", "/deployments"} {
			get(jobOf(child.ID) + more)
		}
		var list []allocation
		dev.nomadGet(t, jobOf(child.ID)+"/allocations", &list)
		for _, a := range list {
			get("/v1/allocation/" + a.ID)
			for _, stream := range []string{"stdout", "stderr"} {
				// A container that starts has no log yet.
				answers[stream+" of "+a.ID] = request(t, http.MethodGet, dev.nomad+"/v1/client/fs/logs/"+a.ID+"?task=function&plain=true&type="+stream, "").body
			}
		}
	}
	require.Equal(t, "ready\n", answers["stdout of "+talking], "they hold logs")
	require.Equal(t, http.StatusNoContent, g.cancel(t, running).status)
	g.requireCancelled(t, running)
	stop()
	answers["the events"] = <-events
	require.Contains(t, answers["the events"], "funcd_name", "they hold jobs")
	for what, text := range answers {
		for _, hidden := range append(uuids, secret, payload) {
			require.NotContains(t, text, hidden, what)
		}
	}
}
