package cli

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// creator is a server that creates what it is told to, as a real one reads it, and keeps it in created.
func creator(t *testing.T, created *api.Function) routes {
	return routes{"POST /v1.23/funcs/create": func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		f, err := api.ParseFunction(body)
		if err != nil {
			refuse(api.CodeOf(err), api.MessageOf(err))(w, r)
			return
		}
		*created = f
		f.UUID = testUUID
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(f)
	}}
}

func TestCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	envFile := file("env", "\uFEFF# a comment\n\n  FROM_FILE=1 \nHOME_HERE\nNOT_HERE\nEMPTY=\nQUOTED=\"a b\"\nA=file\n")
	env2 := file("env2", "SECOND=2\r\n")
	labelFile := file("labels", "# a comment\nteam=web\nflag\nspaced=a b\n")

	type config = api.Config
	type host = api.HostConfig
	least := func(change func(*api.Function)) api.Function {
		f := api.Function{
			Name: "f", ContainerSize: "s4", Timeout: 300,
			Config:     config{Env: []string{}, Image: "ubuntu", StopSignal: "SIGTERM"},
			HostConfig: host{NetworkMode: "bridge"},
		}
		if change != nil {
			change(&f)
		}
		return f
	}
	for name, c := range map[string]struct {
		args string
		want api.Function
	}{
		"the least":              {"ubuntu", least(nil)},
		"a command":              {"ubuntu echo a b", least(func(f *api.Function) { f.Config.Cmd = []string{"echo", "a", "b"} })},
		"flags after the image":  {"ubuntu ls -l --size s1", least(func(f *api.Function) { f.Config.Cmd = []string{"ls", "-l", "--size", "s1"} })},
		"-- before the image":    {"-- ubuntu ls", least(func(f *api.Function) { f.Config.Cmd = []string{"ls"} })},
		"-- after the image":     {"ubuntu -- ls", least(func(f *api.Function) { f.Config.Cmd = []string{"--", "ls"} })},
		"help after the image":   {"ubuntu --help", least(func(f *api.Function) { f.Config.Cmd = []string{"--help"} })},
		"an entrypoint":          {"--entrypoint /bin/sh ubuntu -c true", least(func(f *api.Function) { f.Config.Entrypoint, f.Config.Cmd = []string{"/bin/sh"}, []string{"-c", "true"} })},
		"no entrypoint":          {"--entrypoint= ubuntu ls", least(func(f *api.Function) { f.Config.Entrypoint, f.Config.Cmd = []string{""}, []string{"ls"} })},
		"a size":                 {"--size l3 ubuntu", least(func(f *api.Function) { f.ContainerSize = "l3" })},
		"a timeout":              {"--timeout=5 ubuntu", least(func(f *api.Function) { f.Timeout = 5 })},
		"a directory":            {"-w /srv ubuntu", least(func(f *api.Function) { f.Config.WorkingDir = "/srv" })},
		"a directory, in full":   {"--workdir /srv ubuntu", least(func(f *api.Function) { f.Config.WorkingDir = "/srv" })},
		"a stop signal":          {"--stop-signal KILL ubuntu", least(func(f *api.Function) { f.Config.StopSignal = "KILL" })},
		"a stop signal's number": {"--stop-signal 9 ubuntu", least(func(f *api.Function) { f.Config.StopSignal = "9" })},
		"a terminal":             {"-t ubuntu", least(func(f *api.Function) { f.Config.Tty = true })},
		"variables": {
			"-e A=b=c --env B= -e HOME_HERE -e NOT_HERE -e EMPTY_HERE -e A=again,too ubuntu",
			least(func(f *api.Function) {
				f.Config.Env = []string{"A=b=c", "B=", "HOME_HERE=/h", "EMPTY_HERE=", "A=again,too"}
			}),
		},
		"variables of files, then those of flags": {
			"-e A=flag --env-file " + envFile + " --env-file " + env2 + " ubuntu",
			least(func(f *api.Function) {
				f.Config.Env = []string{"FROM_FILE=1 ", "HOME_HERE=/h", "EMPTY=", `QUOTED="a b"`, "A=file", "SECOND=2", "A=flag"}
			}),
		},
		"labels": {
			"-l a=b=c --label b -l c= -l a=last ubuntu",
			least(func(f *api.Function) { f.Config.Labels = map[string]string{"a": "last", "b": "", "c": ""} }),
		},
		"labels of a file, then those of flags": {
			"-l team=ops --label-file " + labelFile + " ubuntu",
			least(func(f *api.Function) { f.Config.Labels = map[string]string{"team": "ops", "flag": "", "spaced": "a b"} }),
		},
		"security groups and volumes, as the original's client": {
			"--sg web --sg db --sg= --noauto-volume ubuntu",
			least(func(f *api.Function) {
				f.Config.Labels = map[string]string{"sh_hyper_sg_web": "yes", "sh_hyper_sg_db": "yes", "sh_hyper_noauto_volume": "true"}
			}),
		},
		"links and volumes": {
			"--link mysql:db --link cache --volumes-from data:ro ubuntu",
			least(func(f *api.Function) {
				f.HostConfig.Links, f.HostConfig.VolumesFrom = []string{"mysql:db", "cache"}, []string{"data:ro"}
			}),
		},
		"ports": {
			"-p 80 -p 8080:81 --publish 53:53/udp -p :82/TCP -p 90-91:90-91 -P ubuntu",
			least(func(f *api.Function) {
				f.Config.ExposedPorts = map[string]struct{}{"80/tcp": {}, "81/tcp": {}, "53/udp": {}, "82/tcp": {}, "90/tcp": {}, "91/tcp": {}}
				f.HostConfig.PublishAllPorts = true
				f.HostConfig.PortBindings = map[string][]api.PortBinding{
					"80/tcp": {{}}, "81/tcp": {{HostPort: "8080"}}, "53/udp": {{HostPort: "53"}},
					"82/tcp": {{}}, "90/tcp": {{HostPort: "90"}}, "91/tcp": {{HostPort: "91"}},
				}
			}),
		},
		"ports that are only exposed": {
			"--expose 80 --expose 53/udp --expose 7000-7002/tcp -p 80:80 ubuntu",
			least(func(f *api.Function) {
				f.Config.ExposedPorts = map[string]struct{}{"80/tcp": {}, "53/udp": {}, "7000/tcp": {}, "7001/tcp": {}, "7002/tcp": {}}
				f.HostConfig.PortBindings = map[string][]api.PortBinding{"80/tcp": {{HostPort: "80"}}}
			}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var created api.Function
			server := creator(t, &created).serve(t)
			env := environ{"HOME": dir, "FUNCD_ADDR": server.URL, "HOME_HERE": "/h", "EMPTY_HERE": ""}
			r := in(t, env, "", append([]string{"create", "--name", "f"}, strings.Fields(c.args)...)...)
			require.Equal(t, result{out: "f is created with the address of " + server.URL + "/call/f/" + testUUID + "\n"}, r)
			require.Equal(t, c.want, created)
		})
	}
}

func TestCreateShowsTheFunctionAsJSON(t *testing.T) {
	t.Parallel()
	var created api.Function
	r := at(t, creator(t, &created).serve(t), "", "create", "-o", "json", "--name", "f", "ubuntu")
	require.Zero(t, r.status)
	var shown api.Function
	require.NoError(t, json.Unmarshal([]byte(r.out), &shown))
	created.UUID = testUUID
	require.Equal(t, created, shown)
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	var created api.Function
	server := creator(t, &created).serve(t)
	for name, c := range map[string]struct{ args, message string }{
		"no image":                {"--name f", "create needs an IMAGE: funcd create --help shows how"},
		"no name":                 {"ubuntu", "create needs --name NAME"},
		"an unknown flag":         {"--bogus ubuntu", "unknown flag: --bogus: funcd create --help shows the flags"},
		"a size that is none":     {"--name f --size xl ubuntu", `ContainerSize: "xl" must be one of s1`},
		"a timeout of 0":          {"--name f --timeout 0 ubuntu", "--timeout: 0 must be a number of seconds from 1 to 86400"},
		"a timeout that is none":  {"--name f --timeout 5m ubuntu", `--timeout: "5m" must be a whole number`},
		"a tty that is none":      {"--name f --tty=x ubuntu", `--tty: "x" must be true or false`},
		"a flag without a value":  {"--name", "flag needs an argument: --name: funcd create --help shows the flags"},
		"a name that is none":     {"--name F ubuntu", `Name: "F" must be`},
		"a variable without name": {"--name f -e =b ubuntu", `--env: "=b" must be of the form NAME=value or NAME`},
		"an empty variable":       {"--name f --env= ubuntu", `--env: "" must be`},
		"no such file":            {"--name f --env-file " + dir + "/none ubuntu", "--env-file: open " + dir + "/none: no such file"},
		"a directory":             {"--name f --env-file " + dir + " ubuntu", "--env-file: " + dir + ": read " + dir + ": is a directory"},
		"a file with a space":     {"--name f --env-file " + file("space", "A B=c\n") + " ubuntu", "space: variable 'A B' contains whitespaces"},
		"a file without a name":   {"--name f --env-file " + file("nameless", "=c\n") + " ubuntu", "nameless: no variable name on line"},
		"a file that is no text":  {"--name f --label-file " + file("binary", "A=\xff\n") + " ubuntu", "binary: invalid utf8 bytes at line 1"},
		"a label without name":    {"--name f -l =b ubuntu", `--label: "=b" must be of the form key=value or key`},
		"a port that is none":     {"--name f -p http ubuntu", "--publish: invalid containerPort: http"},
		"a host port of a range":  {"--name f -p 80-81:80-82 ubuntu", "--publish: invalid ranges"},
		"a host's address":        {"--name f -p 127.0.0.1:80:80 ubuntu", `HostIp "127.0.0.1" must be empty`},
		"a protocol that is none": {"--name f -p 80/xyz ubuntu", "--publish: invalid proto: xyz"},
		"an exposed host port":    {"--name f --expose 80:80 ubuntu", `--expose: "80:80" must be of the form port[-port][/protocol]`},
		"an exposed nothing":      {"--name f --expose /tcp ubuntu", `--expose: "/tcp" must be`},
		"an output that is none":  {"--name f -o yaml ubuntu", "must be text or json"},
	} {
		t.Run(name, func(t *testing.T) {
			requireUsage(t, at(t, server, "", append([]string{"create"}, strings.Fields(c.args)...)...), c.message)
			require.Zero(t, created)
		})
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	envFile := filepath.Join(dir, "env")
	require.NoError(t, os.WriteFile(envFile, []byte("B=file\n"), 0o600))
	for args, want := range map[string]string{
		"--size m1":                             `{"ContainerSize":"m1"}`,
		"--timeout 60":                          `{"Timeout":60}`,
		"--refresh":                             `{"Refresh":true}`,
		"--pull":                                `{"Pull":true}`,
		"-e A=b -e HOME_HERE -e NOT_HERE":       `{"Config":{"Env":["A=b","HOME_HERE=/h"]}}`,
		"--env-file " + envFile + " --env A=b":  `{"Config":{"Env":["B=file","A=b"]}}`,
		"--env=":                                `{"Config":{"Env":[]}}`,
		"--env= -e A=b":                         `{"Config":{"Env":[]}}`,
		"--size s1 --refresh --timeout 1 -e A=": `{"ContainerSize":"s1","Timeout":1,"Config":{"Env":["A="]},"Refresh":true}`,
	} {
		var got string
		server := routes{"PUT /v1.23/funcs/hello": func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got = string(body)
			reply(200, hello)(w, r)
		}}.serve(t)
		env := environ{"HOME": dir, "FUNCD_ADDR": server.URL, "HOME_HERE": "/h"}
		require.Equal(t, result{out: "hello\n"}, in(t, env, "", append([]string{"update", "hello"}, strings.Fields(args)...)...), args)
		require.JSONEq(t, want, got, args)

		r := in(t, env, "", append([]string{"update", "-o", "json"}, append(strings.Fields(args), "hello")...)...)
		require.Zero(t, r.status)
		require.JSONEq(t, hello, r.out)
	}
	server := routes{}.serve(t)
	requireUsage(t, at(t, server, "", "update", "hello"), "update needs something to change: --env, --env-file, --pull, --refresh, --size or --timeout")
	requireUsage(t, at(t, server, "", "update", "--refresh"), "update needs one NAME")
	requireUsage(t, at(t, server, "", "update", "--refresh", "a", "b"), "update needs one NAME")
	requireUsage(t, at(t, server, "", "update", "-e", "=", "a"), "--env:")
	require.Equal(t, result{status: ExitNotFound, err: "funcd: no such function: a; funcd ls lists those that there are\n"},
		at(t, server, "", "update", "--refresh", "a"))
}

// Whatever the flags and files hold, the command ends in a function or in a sentence.
func FuzzCreate(f *testing.F) {
	f.Add("A=b", "A\n# x\nB=c", "80:80/udp", "7000-7002", "key=value")
	f.Add("=", "\xef\xbb\xbfA=\xff", "[::1]:80:80", "1-0", "")
	f.Add("\x00", "A B", "0-65535", "65536/x", "=")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, variable, file, publish, expose, label string) {
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		flags := createFlags{
			name: "f", size: "s1", timeout: 1, env: []string{variable}, envFiles: []string{path}, labels: []string{label},
			labelFiles: []string{path}, publish: []string{publish}, expose: []string{expose},
		}
		fn, err := flags.function([]string{"image"}, func(string) (string, bool) { return "here", true })
		if err != nil {
			e, ok := err.(*Error)
			if !ok || e.Status != ExitUsage || e.Message == "" {
				t.Fatalf("%#v", err)
			}
			return
		}
		for _, variable := range fn.Config.Env {
			if name, _, ok := strings.Cut(variable, "="); !ok || name == "" {
				t.Fatalf("%q is no variable", variable)
			}
		}
		for port := range fn.HostConfig.PortBindings {
			if _, ok := fn.Config.ExposedPorts[port]; !ok {
				t.Fatalf("%q is published and not exposed", port)
			}
		}
		if _, ok := fn.Config.Labels[""]; ok {
			t.Fatal("a label without a name")
		}
	})
}
