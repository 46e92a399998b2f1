package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/cli"
	"github.com/funcd/funcd/jobs"
)

func TestMain(m *testing.M) {
	// Started by a library of Consul's client when it is imported.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}

func TestRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	for name, c := range map[string]struct {
		args   string
		status int
		out    string // part of stdout
		err    string // part of stderr
	}{
		"nothing":                        {"", cli.ExitOK, "agent", ""},
		"help":                           {"--help", cli.ExitOK, "agent", ""},
		"version":                        {"version", cli.ExitOK, "Func API " + api.Version, ""},
		"version as JSON":                {"version -o json", cli.ExitOK, `"ApiVersion": "` + api.Version + `"`, ""},
		"a command of clients":           {"ls --addr http://127.0.0.1:1", cli.ExitUnavailable, "", "funcd at http://127.0.0.1:1 does not answer"},
		"a command's usage":              {"get x", cli.ExitUsage, "", "get needs one CALL_ID"},
		"a command's unknown flag":       {"ls --bogus", cli.ExitUsage, "", "unknown flag: --bogus"},
		"a command's unknown value":      {"ls -o yaml", cli.ExitUsage, "", "must be text or json"},
		"a command's help":               {"create --help", cli.ExitOK, "funcd create [flags] --name NAME IMAGE", ""},
		"completion":                     {"completion bash", cli.ExitOK, "__complete", ""},
		"version with an argument":       {"version x", cli.ExitUsage, "", "unknown command"},
		"an unknown command":             {"bogus", cli.ExitUsage, "", `unknown command "bogus": did you mean logs?` + "\n"},
		"an unknown command unlike any":  {"frobnicate", cli.ExitUsage, "", `unknown command "frobnicate": funcd --help lists those that there are` + "\n"},
		"an unknown subcommand":          {"credential bogus", cli.ExitUsage, "", `unknown command "bogus" for "funcd credential"` + "\n"},
		"a command with an argument":     {"ls x", cli.ExitUsage, "", "ls takes no arguments: funcd ls --help shows how\n"},
		"an unknown flag":                {"--bogus", cli.ExitUsage, "", "unknown flag: --bogus"},
		"agent":                          {"agent", cli.ExitUsage, "", "agent needs --config FILE, or --dev"},
		"agent with an argument":         {"agent x", cli.ExitUsage, "", "unknown command"},
		"agent with an unknown flag":     {"agent --bogus", cli.ExitUsage, "", "unknown flag"},
		"agent with a flag half":         {"agent --config", cli.ExitUsage, "", "flag needs an argument"},
		"agent without its file":         {"agent --config " + filepath.Join(dir, "none.hcl"), cli.ExitUsage, "", "none.hcl"},
		"agent with a wrong file":        {"agent --config " + file("wrong.hcl", "nonsense = 1\n"), cli.ExitUsage, "", "wrong.hcl:1,1-9: Unsupported argument"},
		"agent with a wrong value":       {"agent --config " + file("value.hcl", "quota = 0\n"), cli.ExitUsage, "", "quota: must be at least 1"},
		"agent --dev for everybody":      {"agent --dev --http 0.0.0.0:0 --config " + file("all.hcl", "runner { path = \"/dev/null\" }\n"), cli.ExitUsage, "", "must be a loopback address"},
		"agent with a wrong address":     {"agent --dev --http nowhere", cli.ExitUsage, "", "http: \"nowhere\" must be of the form host:port"},
		"agent --dev for any IPv6 there": {"agent --dev --http [::]:0 --config " + file("all6.hcl", "runner { path = \"/dev/null\" }\n"), cli.ExitUsage, "", "must be a loopback address"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, errs bytes.Buffer
			status := run(context.Background(), strings.Fields(c.args), stdio{strings.NewReader(""), &out, &errs}, func(string) (string, bool) { return "", false })
			require.Equal(t, c.status, status, errs.String())
			require.Contains(t, out.String(), c.out)
			require.Contains(t, errs.String(), c.err)
			if c.status == cli.ExitOK {
				require.Empty(t, errs.String())
			} else {
				require.Empty(t, out.String())
				require.True(t, strings.HasPrefix(errs.String(), "funcd: "))
			}
		})
	}
}

func TestCheckLoopback(t *testing.T) {
	t.Parallel()
	for address, ok := range map[string]bool{
		"127.0.0.1:3862": true, "127.1.2.3:0": true, "localhost:80": true, "[::1]:80": true,
		":3862": false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "example.com:1": false, "localhost.example:1": false,
		"127.0.0.1": false, "": false, "[::ffff:10.0.0.1]:1": false,
	} {
		require.Equal(t, ok, checkLoopback(address) == nil, address)
	}
}

func TestPack(t *testing.T) {
	t.Parallel()
	program := bytes.Repeat([]byte("a program"), 10000)
	archive, err := pack(program)
	require.NoError(t, err)
	again, err := pack(program)
	require.NoError(t, err)
	require.Equal(t, archive, again, "its checksum is in every function's job")

	gz, err := gzip.NewReader(bytes.NewReader(archive))
	require.NoError(t, err)
	tr := tar.NewReader(gz)
	header, err := tr.Next()
	require.NoError(t, err)
	require.Equal(t, jobs.RunnerFile, header.Name)
	require.Equal(t, os.FileMode(0o755), header.FileInfo().Mode())
	content, err := io.ReadAll(tr)
	require.NoError(t, err)
	require.Equal(t, program, content)
	_, err = tr.Next()
	require.ErrorIs(t, err, io.EOF)
}

func TestPrepareRunner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "program")
	require.NoError(t, os.WriteFile(path, []byte("first"), 0o700))
	c := defaultConfig()
	c.Runner.Path, c.DataDir = path, filepath.Join(dir, "data")
	s, err := c.check()
	require.NoError(t, err)
	for _, program := range []string{"first", "second"} {
		require.NoError(t, os.WriteFile(path, []byte(program), 0o700))
		r, err := prepareRunner(s)
		require.NoError(t, err)
		require.Equal(t, jobs.Runner{SocketDir: filepath.Join(dir, "data", "runner"), Patience: 10 * time.Minute}, r.job)
		require.Empty(t, r.archive)
		installed := filepath.Join(r.job.SocketDir, jobs.RunnerFile)
		content, err := os.ReadFile(installed)
		require.NoError(t, err)
		require.Equal(t, program, string(content))
		info, err := os.Stat(installed)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o755), info.Mode(), "a container's user may be any")
	}
	before, err := os.Stat(filepath.Join(s.Runner.SocketDir, jobs.RunnerFile))
	require.NoError(t, err)
	_, err = prepareRunner(s)
	require.NoError(t, err)
	after, err := os.Stat(filepath.Join(s.Runner.SocketDir, jobs.RunnerFile))
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after), "one that is the same is not written again, where the disk may be full")
	left, err := os.ReadDir(s.Runner.SocketDir)
	require.NoError(t, err)
	require.Len(t, left, 1, "nothing temporary is left")

	c.Runner = &runnerConfig{Mode: runnerHTTP, Address: "http://10.0.0.5:3862", Path: path, Patience: "3s"}
	s, err = c.check()
	require.NoError(t, err)
	r, err := prepareRunner(s)
	require.NoError(t, err)
	require.Equal(t, "http://10.0.0.5:3862", r.job.URL)
	require.Equal(t, 3*time.Second, r.job.Patience)
	require.Len(t, r.job.ArchiveSHA256, 64)
	require.NotEmpty(t, r.archive)
}

func TestRunnerSocket(t *testing.T) {
	t.Parallel()
	r := &preparedRunner{job: jobs.Runner{SocketDir: t.TempDir()}}
	path := filepath.Join(r.job.SocketDir, jobs.SocketFile)
	require.NoError(t, os.WriteFile(path, nil, 0o600), "an earlier server's")
	listener, err := r.listen()
	require.NoError(t, err)
	defer listener.Close()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o666), info.Mode().Perm(), "a container's user may be any")
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	conn.Close()
}

func TestFreePorts(t *testing.T) {
	t.Parallel()
	ports, err := freePorts(5)
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, port := range ports {
		require.NotEqual(t, "0", port)
		seen[port] = true
	}
	require.Len(t, seen, 5)
}

func TestEndpoint(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"127.0.0.1:8500": "http://127.0.0.1:8500", "http://127.0.0.1:4646": "http://127.0.0.1:4646",
		"https://n:4646/": "https://n:4646", "localhost:1": "http://localhost:1",
	} {
		require.Equal(t, want, endpoint(address))
	}
}

func TestLoopbackPort(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{ // "" for an error
		"127.0.0.1:8500": "8500", "http://127.0.0.1:4646": "4646", "http://localhost:4646/": "4646", "http://[::1]:1": "1",
		"https://127.0.0.1:4646": "", "10.0.0.1:8500": "", "http://127.0.0.1": "", "http://example.com:80": "", "unix:///x": "",
		"127.0.0.1:8500 -x": "", "http://127.0.0.1:x": "",
	} {
		port, err := loopbackPort("Consul", address)
		require.Equal(t, want, port, address)
		require.Equal(t, want == "", err != nil, address)
	}
}

func TestHasLeader(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		want   bool
	}{
		"a leader":        {200, "\"127.0.0.1:8300\"\n", true},
		"no leader":       {200, "\"\"\n", false},
		"nothing":         {200, "", false},
		"a fault":         {500, "No cluster leader", false},
		"something else":  {404, "page not found", false},
		"one that writes": {200, "127.0.0.1:4647", true},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		}))
		require.Equal(t, c.want, answers(t.Context(), server.URL, isLeader), name)
		server.Close()
		require.False(t, answers(t.Context(), server.URL, isLeader), "nobody is there")
	}
	require.False(t, answers(t.Context(), "::", isLeader))
}

func TestFindTool(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tool := filepath.Join(dir, "a-tool-of-funcd")
	getenv := func(string) string { return dir }
	_, err := findTool("a-tool-of-funcd", getenv)
	require.ErrorContains(t, err, toolsVariable)
	require.NoError(t, os.WriteFile(tool, []byte("x"), 0o600))
	_, err = findTool("a-tool-of-funcd", getenv)
	require.Error(t, err, "it can't be executed")
	require.NoError(t, os.Chmod(tool, 0o700))
	found, err := findTool("a-tool-of-funcd", getenv)
	require.NoError(t, err)
	require.Equal(t, tool, found)
}
