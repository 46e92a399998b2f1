package jobs

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/funcd/funcd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write the golden files anew")

// goldenCase is a file in testdata: a function as its owner sends it, and what an operator has set differently from the defaults.
type goldenCase struct {
	Create  json.RawMessage // the body of POST /funcs/create
	Image   []string        // the ports that the image exposes
	Volumes []api.Volume    // what VolumesFrom stands for
	Options struct {
		URL            string
		CACert         string
		Patience       time.Duration
		Namespace      string
		NodePool       string
		PidsLimit      int
		HostNetwork    string
		Cluster        string
		Login          string
		CapDrop        []string
		MaxKillTimeout string
		Sizes          map[string]Size
		Accounts       map[string]Placement
	}
}

const (
	testUUID = "e62c014e-386c-42ea-8d07-41d44e98cc3d"
	testSum  = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
)

func testOptions() Options {
	return Options{
		Region: "global", Placement: Placement{Datacenters: []string{"*"}, Priority: 50}, Sizes: DefaultSizes(), MaxKillTimeout: DefaultMaxKillTimeout,
		PidsLimit: 1024, Runner: Runner{SocketDir: "/var/lib/funcd/runner"},
	}
}

func definition(t *testing.T, create string) *api.Definition {
	f, err := api.ParseFunction([]byte(create))
	require.NoError(t, err)
	f.UUID = testUUID
	return &api.Definition{
		ID: "0123456789abcdef0123456789abcdef", Account: "default", Revision: 3, Function: f,
		Image: api.Image{Ref: "docker.io/library/ubuntu@sha256:" + testSum, Cmd: []string{"/bin/bash"}},
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			var c goldenCase
			require.NoError(t, json.Unmarshal(text, &c))
			o := testOptions()
			if c.Options.URL != "" {
				o.Runner = Runner{URL: c.Options.URL, ArchiveSHA256: testSum, CACert: c.Options.CACert}
			}
			o.Runner.Patience = c.Options.Patience
			o.Namespace, o.NodePool = c.Options.Namespace, c.Options.NodePool
			o.HostNetwork, o.Cluster, o.Login = c.Options.HostNetwork, c.Options.Cluster, c.Options.Login
			o.CapDrop, o.Accounts = c.Options.CapDrop, c.Options.Accounts
			if c.Options.PidsLimit != 0 {
				o.PidsLimit = c.Options.PidsLimit
			}
			if c.Options.MaxKillTimeout != "" {
				o.MaxKillTimeout, err = time.ParseDuration(c.Options.MaxKillTimeout)
				require.NoError(t, err)
			}
			for name, size := range c.Options.Sizes {
				o.Sizes[name] = size
			}
			require.NoError(t, o.Validate())
			d := definition(t, string(c.Create))
			d.Image.ExposedPorts, d.Volumes = c.Image, c.Volumes
			job, err := Render(d, o)
			require.NoError(t, err)
			got, err := json.MarshalIndent(job, "", "  ")
			require.NoError(t, err)
			got = append(got, '\n')
			checkSecrets(t, d, string(got))
			golden := strings.TrimSuffix(file, ".json") + ".golden"
			if *update {
				require.NoError(t, os.WriteFile(golden, got, 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err, "write it with -update")
			require.Equal(t, string(want), string(got))
		})
	}
}

// checkSecrets holds for every job: whoever may read jobs learns nothing that lets them call the function, nor its environment.
func checkSecrets(t *testing.T, d *api.Definition, job string) {
	t.Helper()
	require.NotContains(t, job, d.Function.UUID)
	var secrets []string
	for _, env := range d.Function.Config.Env {
		_, value, _ := strings.Cut(env, "=")
		secrets = append(secrets, env, value)
	}
	for _, secret := range secrets {
		if len(secret) > 4 { // a shorter one may be anywhere by chance
			require.NotContains(t, job, secret)
		}
	}
}

func TestJobIsRunOnce(t *testing.T) {
	t.Parallel()
	job, err := Render(definition(t, `{"Name":"a","Config":{"Image":"ubuntu"}}`), testOptions())
	require.NoError(t, err)
	job.Canonicalize()
	require.Len(t, job.TaskGroups, 1)
	group := job.TaskGroups[0]
	require.Equal(t, 1, *group.Count)
	require.Zero(t, *group.RestartPolicy.Attempts)
	require.Equal(t, nomad.RestartPolicyModeFail, *group.RestartPolicy.Mode)
	require.Zero(t, *group.ReschedulePolicy.Attempts)
	require.False(t, *group.ReschedulePolicy.Unlimited)
	require.Len(t, group.Tasks, 1)
	require.Equal(t, "batch", *job.Type)
	require.True(t, job.IsParameterized())
	require.Equal(t, "func-default-a", *job.ID)
}

// An empty region is one that Nomad misses; where there is none, it gives its own.
func TestRegionIsLeftToNomad(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Region = ""
	job, err := Render(definition(t, `{"Name":"a","Config":{"Image":"ubuntu"}}`), o)
	require.NoError(t, err)
	require.Nil(t, job.Region)
	pull, err := RenderPull("funcd-pull-1", &api.ImagePull{Account: "default", Ref: "a"}, o)
	require.NoError(t, err)
	require.Nil(t, pull.Region)
}

func TestRenderIsPure(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Namespace = "funcd"
	d := definition(t, `{"Name":"a","Config":{"Image":"ubuntu","Labels":{"a":"b","c":"d"}}}`)
	first, err := Render(d, o)
	require.NoError(t, err)
	before, err := json.Marshal(first)
	require.NoError(t, err)
	first.Datacenters[0], *first.Namespace = "changed", "changed"
	first.TaskGroups[0].Tasks[0].Config["labels"].([]map[string]string)[0]["a"] = "changed"
	*first.TaskGroups[0].Tasks[0].Resources.CPU = 1
	second, err := Render(d, o)
	require.NoError(t, err)
	after, err := json.Marshal(second)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
	require.Equal(t, "b", d.Function.Config.Labels["a"])
}

func TestSizes(t *testing.T) {
	t.Parallel()
	memory := map[string]int{ // of the Func API, in MB
		"s1": 64, "s2": 128, "s3": 256, "s4": 512, "m1": 1024, "m2": 2048, "m3": 4096, "l1": 4096, "l2": 8192, "l3": 16384,
	}
	require.Len(t, api.Sizes, len(memory))
	for _, size := range api.Sizes {
		job, err := Render(definition(t, `{"Name":"a","ContainerSize":"`+size+`","Config":{"Image":"ubuntu"}}`), testOptions())
		require.NoError(t, err)
		resources := job.TaskGroups[0].Tasks[0].Resources
		require.Equal(t, memory[size]+RunnerMemory, *resources.MemoryMB, "the function has all of it")
		require.Positive(t, *resources.CPU)
		require.Nil(t, resources.Cores)
	}
	d := definition(t, `{"Name":"a","Config":{"Image":"ubuntu"}}`)
	d.Function.ContainerSize = "xl"
	_, err := Render(d, testOptions())
	require.Equal(t, api.Invalid, api.CodeOf(err))
	require.ErrorContains(t, err, "ContainerSize")
}

func TestKillTimeout(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		signal  api.Signal
		timeout int
		want    time.Duration
	}{
		"the Timeout":        {"SIGTERM", 5, 5 * time.Second},
		"at most the most":   {"SIGTERM", 300, 30 * time.Second},
		"the most":           {"SIGTERM", 30, 30 * time.Second},
		"SIGKILL":            {"SIGKILL", 300, 0},
		"SIGKILL, short":     {"KILL", 300, 0},
		"SIGKILL's number":   {"9", 300, 0},
		"another's number":   {"15", 7, 7 * time.Second},
		"a real-time signal": {"SIGRTMIN+3", 7, 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &api.Function{Timeout: c.timeout, Config: api.Config{StopSignal: c.signal}}
			require.Equal(t, c.want, KillTimeout(f, 30*time.Second))
		})
	}
}

func TestContainerWithoutANetworkReachesFuncdByItsSocketOnly(t *testing.T) {
	t.Parallel()
	d, o := definition(t, `{"Name":"a","Config":{"Image":"ubuntu"},"HostConfig":{"NetworkMode":"none"}}`), testOptions()
	_, err := Render(d, o)
	require.NoError(t, err)
	o.Runner = Runner{URL: "http://10.0.0.5:3862", ArchiveSHA256: testSum}
	_, err = Render(d, o)
	require.Equal(t, api.Invalid, api.CodeOf(err))
	require.ErrorContains(t, err, "HostConfig.NetworkMode: none")
}

func TestCapability(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"net_raw", "NET_RAW", "CAP_NET_RAW", "cap_net_raw"} {
		got, err := Capability(name)
		require.NoError(t, err)
		require.Equal(t, "net_raw", got)
	}
	for _, name := range []string{"", "cap_", "net-raw", "root", "CAP_CAP_NET_RAW"} {
		_, err := Capability(name)
		require.ErrorContains(t, err, "not a capability", name)
	}
}

// Nomad places a job nowhere whose signal its clients don't know.
func TestKillSignal(t *testing.T) {
	t.Parallel()
	for number := 1; number <= 64; number++ {
		f := &api.Function{Config: api.Config{StopSignal: api.Signal(strconv.Itoa(number))}}
		name, variable := killSignal(f)
		require.Contains(t, sendable, name)
		sent, err := api.Signal(name).Parse()
		require.NoError(t, err)
		if number == 15 || number == 9 {
			require.Empty(t, variable)
			require.EqualValues(t, number, sent)
			continue
		}
		require.Equal(t, fmt.Sprintf("%d=%d", sent, number), variable)
		require.True(t, int(sent) == number || name == "SIGTERM", "%d is sent as %s", number, name)
	}
}

// Two functions never have one job, and no function's job looks like another's call.
func TestID(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, account := range []string{"a", "a_b", "b", "func", "0"} {
		for _, name := range []string{"a", "b", "b-a", "a-b", "func-a", "dispatch-1"} {
			require.True(t, api.ValidAccount(account))
			id := ID(account, name)
			require.Empty(t, seen[id], "%s is of %s/%s too", id, account, name)
			seen[id] = account + "/" + name
			require.NotContains(t, id, "/")
		}
	}
	require.False(t, api.ValidAccount("a-b"), "an account with a hyphen would make them ambiguous")
}

func TestDescriptionFitsNomad(t *testing.T) {
	t.Parallel()
	d := definition(t, `{"Name":"`+strings.Repeat("n", 255)+`","Config":{"Image":"`+strings.Repeat("i", 200)+`"}}`)
	d.Account = strings.Repeat("a", 63)
	d.Image.Ref = "registry.example/" + strings.Repeat("i", 500) + "@sha256:" + testSum
	job, err := Render(d, testOptions())
	require.NoError(t, err)
	require.LessOrEqual(t, len(job.UI.Description), maxDescription)
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Options)
		want   string // in the error, "" for none
	}{
		"the defaults":             {func(*Options) {}, ""},
		"a URL":                    {func(o *Options) { o.Runner = Runner{URL: "http://x", ArchiveSHA256: testSum} }, ""},
		"whole cores":              {func(o *Options) { o.Sizes["s1"] = Size{Cores: 1, Memory: 64} }, ""},
		"a size that is not there": {func(o *Options) { delete(o.Sizes, "m1") }, "size m1"},
		"a size without memory":    {func(o *Options) { o.Sizes["s1"] = Size{CPU: 1} }, "size s1: memory"},
		"a size of less than none": {func(o *Options) { o.Sizes["s1"] = Size{CPU: 1, Memory: -1} }, "size s1: memory"},
		"a size without CPU":       {func(o *Options) { o.Sizes["s1"] = Size{Memory: 1} }, "size s1: one of cpu and cores"},
		"a size's most memory":     {func(o *Options) { o.Sizes["s1"] = Size{CPU: 1, Memory: 64, MemoryMax: 64} }, ""},
		"a most under the memory":  {func(o *Options) { o.Sizes["s1"] = Size{CPU: 1, Memory: 64, MemoryMax: 63} }, "size s1: memory_max"},
		"a size with both":         {func(o *Options) { o.Sizes["s1"] = Size{CPU: 1, Cores: 1, Memory: 1} }, "size s1: cpu and cores"},
		"no runner":                {func(o *Options) { o.Runner = Runner{} }, "runner"},
		"two runners":              {func(o *Options) { o.Runner.URL = "http://x" }, "runner"},
		"a runner without its sum": {func(o *Options) { o.Runner = Runner{URL: "http://x"} }, "checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := testOptions()
			c.change(&o)
			err := o.Validate()
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}
