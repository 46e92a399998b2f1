package cli

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestList(t *testing.T) {
	t.Parallel()
	created := time.Now().Add(-3*time.Hour - time.Minute).UTC().Format(time.RFC3339)
	list := "[" + strings.ReplaceAll(hello, "2017-03-16T07:05:24.473Z", created) + "," +
		`{"Name":"a-longer-name","ContainerSize":"s4","UUID":"x","Created":"` + created + `","Config":{"Image":"ubuntu\u001b[31m"}}]`
	server := routes{"GET /v1.23/funcs": reply(200, list)}.serve(t)
	require.Equal(t, result{out: `NAME            SIZE   IMAGE            COMMAND             CREATED       UUID
hello           s1     ubuntu           echo Hello\nWorld   3 hours ago   e62c014e-386c-42ea-8d07-41d44e98cc3d
a-longer-name   s4     ubuntu\x1b[31m                       3 hours ago   x
`}, at(t, server, "", "ls"))
	require.Equal(t, result{out: "hello\na-longer-name\n"}, at(t, server, "", "ls", "-q"))
	r := at(t, server, "", "ls", "--output=json")
	require.Zero(t, r.status)
	require.Contains(t, r.out, `"Name": "hello"`)
	requireUsage(t, at(t, server, "", "ls", "hello"), "ls takes no arguments")

	server = routes{"GET /v1.23/funcs": reply(200, "[]")}.serve(t)
	require.Equal(t, result{out: "NAME   SIZE   IMAGE   COMMAND   CREATED   UUID\n"}, at(t, server, "", "ls"))
	require.Equal(t, result{out: "[]\n"}, at(t, server, "", "ls", "-o", "json"))
	require.Equal(t, result{}, at(t, server, "", "ls", "-q"))
}

func TestListFilters(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"":                           "",
		"-f name=a":                  `{"name":{"a":true}}`,
		"-f Name=a --filter name=b":  `{"name":{"a":true,"b":true}}`,
		"-f label=a=b -f size=s1":    `{"label":{"a=b":true},"size":{"s1":true}}`,
		"-f label=a --filter=image=": `{"image":{"":true},"label":{"a":true}}`,
	} {
		var got url.Values
		server := routes{"GET /v1.23/funcs": func(w http.ResponseWriter, r *http.Request) {
			got = r.URL.Query()
			reply(200, "[]")(w, r)
		}}.serve(t)
		require.Zero(t, at(t, server, "", append([]string{"ls"}, strings.Fields(args)...)...).status)
		require.Equal(t, want, got.Get("filters"))
	}
	requireUsage(t, at(t, nil, "", "ls", "-f", "name"), `--filter: "name" must be of the form key=value`)
	server := routes{"GET /v1.23/funcs": refuse(api.Invalid, `filters: "bogus" must be one of name, label, size, image`)}.serve(t)
	requireUsage(t, at(t, server, "", "ls", "-f", "bogus=1"), `"bogus" must be one of`)
}

func TestInspect(t *testing.T) {
	t.Parallel()
	server := routes{"GET /v1.23/funcs/hello": reply(200, hello)}.serve(t)
	r := at(t, server, "", "inspect", "hello", "hello")
	require.Zero(t, r.status)
	require.JSONEq(t, "["+hello+","+hello+"]", r.out)
	require.True(t, strings.HasPrefix(r.out, "[\n    {\n        \"Name\": \"hello\",\n"), r.out)
	require.Equal(t, r, at(t, server, "", "inspect", "-o", "json", "hello", "hello"))

	for format, want := range map[string]string{
		"{{.Name}} {{.Timeout}}":             "hello 300",
		"{{.UUID}}":                          testUUID,
		"{{json .Config.Labels}}":            `{"team":"web"}`,
		"{{join .Config.Cmd \" \" | upper}}": "ECHO HELLO\nWORLD",
		"{{index .Config.Labels \"team\"}}":  "web",
		"{{range $port, $to := .HostConfig.PortBindings}}{{$port}} {{(index $to 0).HostIp}}{{end}}": "80/tcp 127.0.0.1",
		"{{range $port, $to := .HostConfig.PortBindings}}{{$port}} {{(index $to 0).HostIP}}{{end}}": "80/tcp 127.0.0.1",
		"{{.Created.Year}}": "2017",
		"plain":             "plain",
	} {
		require.Equal(t, result{out: want + "\n"}, at(t, server, "", "inspect", "-f", format, "hello"), format)
	}
	requireUsage(t, at(t, server, "", "inspect", "-f", "{{.Name", "hello"), "--format: template: ")
	requireUsage(t, at(t, server, "", "inspect", "-f", "{{.Bogus}}", "hello"), `map has no entry for key "Bogus"`)
	requireUsage(t, at(t, server, "", "inspect", "-f", "{{.Name}}", "-o", "json", "hello"), "exclude each other")
	requireUsage(t, at(t, server, "", "inspect"), "inspect needs a NAME")

	// Those that there are, are shown.
	require.Equal(t, result{ExitNotFound, "hello\n", "funcd: no such function: none; funcd ls lists those that there are\n"},
		at(t, server, "", "inspect", "-f", "{{.Name}}", "none", "hello"))
	r = at(t, server, "", "inspect", "none")
	require.Equal(t, result{ExitNotFound, "[]\n", "funcd: no such function: none; funcd ls lists those that there are\n"}, r)
}

func TestRemove(t *testing.T) {
	t.Parallel()
	var forced string
	server := routes{
		"DELETE /v1.23/funcs/a": func(w http.ResponseWriter, r *http.Request) {
			forced = r.URL.RawQuery
			w.WriteHeader(http.StatusNoContent)
		},
		"DELETE /v1.23/funcs/b":    reply(204, ""),
		"DELETE /v1.23/funcs/busy": refuse(api.Conflict, "a call of the function is being executed"),
	}.serve(t)
	require.Equal(t, result{out: "a\nb\n"}, at(t, server, "", "rm", "a", "b"))
	require.Empty(t, forced)
	require.Equal(t, result{out: "a\n"}, at(t, server, "", "rm", "--force", "a"))
	require.Equal(t, "force=1", forced)
	require.Equal(t, result{ExitRefused, "a\nb\n",
		"funcd: a call of the function is being executed\nfuncd: no such function: none; funcd ls lists those that there are\n"},
		at(t, server, "", "rm", "busy", "a", "none", "b"), "the status is that of the first")
	require.Equal(t, result{ExitRefused, "[\n    \"a\"\n]\n", "funcd: a call of the function is being executed\n"},
		at(t, server, "", "rm", "-o", "json", "a", "busy"))
	requireUsage(t, at(t, server, "", "rm"), "rm needs a NAME")
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	list := `[{"Name":"hello","Config":{"Image":"ubuntu"}},{"Name":"help","Config":{"Image":"a\tb"}},{"Name":"other","Config":{}}]`
	server := routes{"GET /v1.23/funcs": reply(200, list)}.serve(t)
	for args, want := range map[string][]string{
		"rm hel":            {"hello\tubuntu", "help\ta\\tb"},
		"rm hello hel":      {"help\ta\\tb"},
		"call o":            {"other"},
		"call other ":       {},
		"inspect -f x hell": {"hello\tubuntu"},
		"logs -f x":         {},
		"create --size s":   {"s1", "s2", "s3", "s4", "m1", "m2", "m3", "l1", "l2", "l3"},
		"ls -f ":            {"name=", "label=", "size=", "image="},
		"ls -o ":            {"text", "json"},
		"create ":           {},
		"get ":              {},
	} {
		r := at(t, server, "", append([]string{"__complete"}, strings.Split(args, " ")...)...)
		require.Zero(t, r.status, args)
		lines := strings.Split(strings.TrimSpace(r.out), "\n")
		require.ElementsMatch(t, want, lines[:len(lines)-1], args)
		require.NotEqual(t, ":1", lines[len(lines)-1], args)
	}
	server.Close()
	require.Equal(t, ":1\n", at(t, server, "", "__complete", "rm", "").out, "a shell is told that there is an error, not the user")
}
