package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/images"
	"github.com/funcd/funcd/jobs"
)

// load reads a configuration whose runner is there.
func load(t *testing.T, text string) (*settings, error) {
	path := filepath.Join(t.TempDir(), "funcd.hcl")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	c, err := loadConfig(path)
	if err != nil {
		return nil, err
	}
	if c.Runner.Path == "" {
		c.Runner.Path = path
	}
	return c.check()
}

func TestExampleConfigs(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../configs/funcd*.hcl")
	require.NoError(t, err)
	parsed := 0
	for _, file := range files {
		if filepath.Base(file) == "funcd.nomad.hcl" { // a job of Nomad's
			continue
		}
		c, err := loadConfig(file)
		require.NoError(t, err)
		c.Runner.Path = file
		_, err = c.check()
		require.NoError(t, err, file)
		parsed++
	}
	require.Positive(t, parsed)
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "limits {}\nrunner {}\nconsul {}\nnomad {}\nnats {}\ndocker {}\n"} {
		s, err := load(t, text)
		require.NoError(t, err)
		require.Equal(t, "127.0.0.1:3862", s.HTTP)
		require.Equal(t, "./funcd-data", s.DataDir)
		require.Equal(t, 10, s.Quota)
		require.Equal(t, 1<<20, s.Limits.Payload)
		require.Equal(t, 1<<20, s.Limits.Output)
		require.Equal(t, 50<<20, s.Limits.StoredOutputs)
		require.Equal(t, 50<<20, s.Limits.StoredLogs)
		require.Equal(t, time.Minute, s.bodyTime)
		require.Equal(t, 10*time.Second, s.headerTime)
		require.Equal(t, 2*time.Minute, s.idleTime)
		require.Equal(t, 64<<10, s.Limits.Headers)
		require.Equal(t, 30*time.Second, s.maxKillTimeout)
		require.Equal(t, []string{"*"}, s.Nomad.Datacenters)
		require.Equal(t, 50, s.Nomad.Priority)
		require.Equal(t, 1, s.NATS.Replicas)
		require.Equal(t, runnerSocket, s.Runner.Mode)
		require.Equal(t, filepath.Join("funcd-data", "runner"), s.Runner.SocketDir)
		require.Equal(t, "funcd", s.Consul.Prefix)
		require.Equal(t, jobs.DefaultSizes(), s.sizes)
	}
	c, err := loadConfig("")
	require.NoError(t, err)
	require.Equal(t, defaultConfig(), c)
}

func TestSettings(t *testing.T) {
	t.Parallel()
	s, err := load(t, `
		http      = "10.0.0.5:80"
		log_level = "debug"
		limits {
			payload = 10000
		}
		nomad {
			namespace   = "funcd"
			datacenters = ["dc1", "dc2"]
			cap_drop    = ["CAP_NET_RAW", "mknod"]
		}
		size "s1" {
			cores      = 2
			memory     = 100
			memory_max = 200
			node_pool  = "small"
		}
	`)
	require.NoError(t, err)
	require.Equal(t, "10.0.0.5:80", s.HTTP)
	require.Equal(t, 10000, s.Limits.Payload)
	require.Equal(t, 1<<20, s.Limits.Output, "what a block does not set keeps its default")
	require.Equal(t, "funcd", s.Nomad.Namespace)
	require.Equal(t, []string{"dc1", "dc2"}, s.Nomad.Datacenters)
	require.Equal(t, 50, s.Nomad.Priority)
	require.Equal(t, []string{"net_raw", "mknod"}, s.Nomad.CapDrop)
	require.Equal(t, jobs.Size{Cores: 2, Memory: 100, MemoryMax: 200, NodePool: "small"}, s.sizes["s1"])
	require.Equal(t, jobs.DefaultSizes()["s2"], s.sizes["s2"])
}

// What is next to the wrong ones.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for name, addresses := range map[string][]string{
		"consul.address":   {"127.0.0.1:8500", "consul:8500", "localhost", "[::1]:8500", "http://127.0.0.1:8500", "https://consul.example", "unix:///run/consul.sock", ""},
		"nomad.address":    {"http://127.0.0.1:4646", "https://nomad.example:4646", "unix:///run/nomad.sock", ""},
		"nomad.ui_address": {"https://nomad.example/ui", ""},
	} {
		for _, address := range addresses {
			_, err := load(t, setting(name, fmt.Sprintf("%q", address), ""))
			require.NoError(t, err, "%s = %q", name, address)
		}
	}
	_, err := load(t, "api_address = \"https://funcd.example:8443/\"\n")
	require.NoError(t, err)
	_, err = load(t, "runner {\n mode = \"http\"\n address = \"http://[fd00::5]:3862\"\n}\n")
	require.NoError(t, err)
}

func TestWrongConfigs(t *testing.T) {
	t.Parallel()
	place := regexp.MustCompile(`funcd\.hcl:\d+,\d+-\d+`)
	for name, c := range map[string]struct {
		text, want string
		place      bool // the error names file and line
	}{
		"an unknown key":             {"\nhttps = true\n", `funcd.hcl:2,1-6: Unsupported argument`, true},
		"an unknown key of a block":  {"limits {\n  body = 1\n}\n", `funcd.hcl:2,3-7: Unsupported argument`, true},
		"an unknown block":           {"tls {}\n", "Unsupported block type", true},
		"a block twice":              {"limits {}\nlimits {}\n", "Duplicate limits block", true},
		"text for a number":          {"quota = \"many\"\n", "a number is required", true},
		"half a number":              {"quota = 1.5\n", "whole number", true},
		"a number too big":           {"quota = 99999999999999999999999\n", "must be", true},
		"a list for text":            {"http = [\"a\"]\n", "string required", true},
		"text for a list":            {"nomad {\n datacenters = \"dc1\"\n}\n", "list of string required", true},
		"a variable":                 {"http = address\n", "Variables not allowed", true},
		"a function":                 {"http = env(\"X\")\n", "Function calls not allowed", true},
		"what is not HCL":            {"http = \n", "Invalid expression", true},
		"a size without its name":    {"size {\n memory = 1\n}\n", "Missing name for size", true},
		"a size without memory":      {"size \"s1\" {\n cpu = 1\n}\n", "The argument \"memory\" is required", true},
		"an unknown size":            {"size \"xl\" {\n memory = 1\n}\n", `size "xl": must be one of s1, s2`, false},
		"a most under the memory":    {"size \"s1\" {\n cpu = 1\n memory = 2\n memory_max = 1\n}\n", "size s1: memory_max", false},
		"an unknown capability":      {"nomad {\n cap_drop = [\"root\"]\n}\n", `nomad.cap_drop: "root" is not a capability`, false},
		"an unknown level":           {"log_level = \"loud\"\n", "log_level:", false},
		"an address without a port":  {"http = \"127.0.0.1\"\n", "http:", false},
		"a drain that is negative":   {"stop {\n drain = \"-1s\"\n}\n", "stop.drain:", false},
		"a finish that is no time":   {"stop {\n finish = \"soon\"\n}\n", "stop.finish:", false},
		"metrics without a port":     {"metrics = \"127.0.0.1\"\n", "metrics:", false},
		"no quota":                   {"quota = 0\n", "quota: must be at least 1", false},
		"less than no quota":         {"quota = -1\n", "quota: must be at least 1", false},
		"no payload":                 {"limits {\n payload = 0\n}\n", "limits.payload: must be at least 4096", false},
		"too big a payload":          {"limits {\n payload = 1048577\n}\n", "limits.payload: must be at most 1048576", false},
		"too big an output":          {"limits {\n output = 1048577\n}\n", "limits.output: must be at most 1048576", false},
		"no queue":                   {"limits {\n queued_calls = 0\n}\n", "limits.queued_calls:", false},
		"no replicas":                {"nats {\n replicas = 0\n}\n", "nats.replicas:", false},
		"no priority":                {"nomad {\n priority = 0\n}\n", "nomad.priority:", false},
		"a time that is none":        {"limits {\n body_time = \"soon\"\n}\n", "limits.body_time:", false},
		"a time without its unit":    {"limits {\n call_lease = \"30\"\n}\n", "limits.call_lease:", false},
		"a time of less than none":   {"nomad {\n max_kill_timeout = \"-1s\"\n}\n", "nomad.max_kill_timeout:", false},
		"nowhere for data":           {"data_dir = \"\"\n", "data_dir: must name a directory", false},
		"no service":                 {"consul {\n service = \"\"\n}\n", "consul.service: must be a name", false},
		"a Consul by something":      {"consul {\n address = \"ftp://127.0.0.1:8500\"\n}\n", `consul.address: "ftp://127.0.0.1:8500" must be`, false},
		"a Consul nowhere":           {"consul {\n address = \"http://\"\n}\n", `consul.address: "http://" must be`, false},
		"a Consul that is none":      {"consul {\n address = \"a b\"\n}\n", `consul.address: "a b" must be`, false},
		"a Nomad without its scheme": {"nomad {\n address = \"127.0.0.1:4646\"\n}\n", `nomad.address: "127.0.0.1:4646" must be`, false},
		"a Nomad by a host's name":   {"nomad {\n address = \"localhost:4646\"\n}\n", `nomad.address: "localhost:4646" must be`, false},
		"a UI without its scheme":    {"nomad {\n ui_address = \"nomad.example\"\n}\n", `nomad.ui_address: "nomad.example" must be`, false},
		"an API without its scheme":  {"api_address = \"funcd.example\"\n", `api_address: "funcd.example" must be`, false},
		"a runner's host is missing": {"runner {\n mode = \"http\"\n address = \"http://:3862\"\n}\n", `runner.address: "http://:3862" must be`, false},
		"an unknown mode":            {"runner {\n mode = \"pipe\"\n}\n", "runner.mode:", false},
		"http without an address":    {"runner {\n mode = \"http\"\n}\n", "runner.address: is required", false},
		"http without its scheme":    {"runner {\n mode = \"http\"\n address = \"10.0.0.5:3862\"\n}\n", "runner.address:", false},
		"a runner that is not there": {"runner {\n path = \"/does/not/exist\"\n}\n", "runner.path:", false},
		"a registry's address":       {registryBlock("https://r.example", "password = \"p\""), `registry "https://r.example": "https://r.example" must be`, false},
		"a registry without a login": {"registry \"r.example\" {}\n", "The argument \"username\" is required", true},
		"a registry's two passwords": {registryBlock("r.example", "password = \"p\"\npassword_file = \"f\""), `registry "r.example": exactly one of`, false},
		"an account that is none":    {registryBlock("r.example", "password = \"p\"\naccount = \"A\""), `registry "r.example": account "A" is not`, false},
		"a registry twice": {registryBlock("r.example", "password = \"p\"") + registryBlock("r.example", "password = \"q\""),
			`registry "r.example": there is another one`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, c.text)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, c.place, place.MatchString(err.Error()), err.Error())
		})
	}
	_, err := loadConfig(filepath.Join(t.TempDir(), "none.hcl"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func registryBlock(host, settings string) string {
	return fmt.Sprintf("registry %q {\nusername = \"me\"\n%s\n}\n", host, settings)
}

func TestRegistries(t *testing.T) {
	t.Parallel()
	s, err := load(t, registryBlock("r.example", "account = \"team\"\npassword_file = \"f\"")+registryBlock("r.example", "password = \"p\""))
	require.NoError(t, err)
	require.Equal(t, []images.Login{
		{Registry: "r.example", Account: "team", Username: "me", PasswordFile: "f"}, {Registry: "r.example", Username: "me", Password: "p"},
	}, s.logins)
}

// No file makes the server panic, or start with what it could not use.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{
		"", "http = \"127.0.0.1:1\"\n", "limits {\n payload = 1\n body_time = \"1s\"\n}\n", "size \"s1\" {\n memory = 64\n cpu = 1\n}\n",
		"runner {\n mode = \"http\"\n address = \"http://x\"\n}\n", "nomad = null\n", "quota = null\n", "nomad {\n datacenters = null\n}\n",
		"quota = 1 + 2\n", "http = \"${1}:2\"\n", "limits {\n payload = 1e3\n}\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, diagnostics := hclparse.NewParser().ParseHCL(text, "funcd.hcl")
		if diagnostics.HasErrors() {
			return
		}
		c := defaultConfig()
		if gohcl.DecodeBody(file.Body, nil, &c).HasErrors() {
			return
		}
		s, err := c.check()
		if s == nil {
			if err == nil {
				t.Fatal("neither settings nor an error")
			}
			return
		}
		if s.Quota < 1 || s.Limits.Payload < 1 || s.Limits.Payload > 1<<20 || s.bodyTime <= 0 || s.lease <= 0 || len(s.sizes) != 10 {
			t.Fatalf("%+v", s)
		}
	})
}
