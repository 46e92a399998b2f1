package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// sgr are the sequences that change a terminal's colours.
var sgr = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// onTerminal runs a command line with a pseudo-terminal as its standard streams, and returns what it has shown.
func onTerminal(t *testing.T, env environ, args ...string) (status int, shown string) {
	t.Helper()
	terminal, tty, err := pty.Open()
	require.NoError(t, err)
	require.NoError(t, pty.Setsize(tty, &pty.Winsize{Rows: 24, Cols: 100}))
	var text strings.Builder
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(&text, terminal) }) // ends with an error when all of the other side is closed
	status = execute(t.Context(), newApp(Config{In: tty, Out: tty, Err: tty, LookupEnv: env.lookup}), args...)
	require.NoError(t, tty.Close())
	reading.Wait()
	require.NoError(t, terminal.Close())
	return status, strings.ReplaceAll(text.String(), "\r\n", "\n")
}

func TestColoursAreForTerminals(t *testing.T) {
	t.Parallel()
	var query string
	server := logsServer(t, &query).serve(t)
	for name, c := range map[string]struct {
		env     environ
		colours bool
	}{
		"a terminal":        {environ{"TERM": "xterm"}, true},
		"NO_COLOR is empty": {environ{"TERM": "xterm", "NO_COLOR": ""}, true},
		"NO_COLOR":          {environ{"TERM": "xterm", "NO_COLOR": "1"}, false},
		"a dumb terminal":   {environ{"TERM": "dumb"}, false},
	} {
		c.env["FUNCD_ADDR"] = server.URL
		status, shown := onTerminal(t, c.env, "logs", "hello")
		require.Zero(t, status, name)
		require.Contains(t, sgr.ReplaceAllString(shown, ""), "  218b7b10  FINISHED  stdout  a    b\n", name)
		require.Equal(t, c.colours, sgr.MatchString(shown), "%s: %q", name, shown)
	}
}

func TestTerminalIsNotReadAsAPayload(t *testing.T) {
	t.Parallel()
	server := caller(reply(200, "out")).serve(t)
	status, shown := onTerminal(t, environ{"FUNCD_ADDR": server.URL}, "call", "--sync", "hello")
	require.Zero(t, status, shown)
	require.Equal(t, "out", shown)
}

func TestListCutsCommandsOnATerminal(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 100)
	list := `[{"Name":"a","ContainerSize":"s4","Created":"2017-03-16T07:05:24.473Z","Config":{"Image":"ubuntu","Cmd":["` + long + `"]}}]`
	server := routes{"GET /v1.23/funcs": reply(200, list)}.serve(t)
	env := environ{"FUNCD_ADDR": server.URL}
	_, shown := onTerminal(t, env, "ls")
	require.Contains(t, shown, "   "+strings.Repeat("ü", maxCommand-1)+"…   ")
	_, shown = onTerminal(t, env, "ls", "--no-trunc")
	require.Contains(t, shown, "   "+long+"   ")
	require.Contains(t, at(t, server, "", "ls").out, "   "+long+"   ")
}

func TestPull(t *testing.T) {
	t.Parallel()
	lines := []string{
		`{"status":"Pulling from library/ubuntu","id":"22.04"}`,
		`{"status":"Pulling","id":"node-1","progressDetail":{"current":0,"total":2}}`,
		`{"status":"Pulling","id":"node-1"}`,
		`{"status":"Pull complete","id":"node-1","progressDetail":{"current":1,"total":2}}`,
		`{"status":"Pull complete","id":"node-2","progressDetail":{"current":2,"total":2}}`,
		`{"status":"2 nodes have the image"}`,
	}
	var query, auth string
	server := routes{"POST /v1.23/images/create": func(w http.ResponseWriter, r *http.Request) {
		query, auth = r.URL.RawQuery, r.Header.Get(api.RegistryAuthHeader)
		_, _ = io.WriteString(w, strings.Join(lines, "\r\n")+"\r\n")
	}}.serve(t)
	const whole = "docker.io/library/ubuntu:22.04\n"
	require.Equal(t, result{out: whole, err: `22.04: Pulling from library/ubuntu
node-1: Pulling
node-1: Pull complete
node-2: Pull complete
2 nodes have the image
`}, at(t, server, "", "pull", "ubuntu:22.04"))
	require.Equal(t, "fromImage=ubuntu&tag=22.04", query)
	require.Empty(t, auth, "there are no credentials for it")

	r := at(t, server, "", "pull", "-o", "json", "ubuntu:22.04")
	require.Zero(t, r.status)
	require.Equal(t, len(lines), strings.Count(r.out, "\n"), "each message")
	require.Empty(t, r.err)

	status, shown := onTerminal(t, environ{"FUNCD_ADDR": server.URL}, "pull", "ubuntu:22.04")
	require.Zero(t, status, shown)
	require.Contains(t, shown, "Pulling ubuntu:22.04")
	require.Contains(t, shown, "1/2")
	require.True(t, strings.HasSuffix(shown, whole), "%q", shown)

	for line, want := range map[string]result{
		`{"error":"No such image: ubuntu:0","errorDetail":{"code":404,"message":"x"}}`: {status: ExitNotFound, err: "funcd: No such image: ubuntu:0\n"},
		`{"error":"node lost"}`: {status: ExitError, err: "funcd: node lost\n"},
	} {
		server := routes{"POST /v1.23/images/create": reply(200, line)}.serve(t)
		require.Equal(t, want, at(t, server, "", "pull", "ubuntu:0"))
		status, shown := onTerminal(t, environ{"FUNCD_ADDR": server.URL}, "pull", "ubuntu:0")
		require.Equal(t, want.status, status)
		require.True(t, strings.HasSuffix(shown, want.err), "%q", shown)
	}
	requireUsage(t, at(t, nil, "", "pull", "No Image"), `"No Image" is not an image`)
	requireUsage(t, at(t, nil, "", "pull"), "pull needs one IMAGE")
}

// The credentials are those that docker login has left. The environment is read by the library, so this test is not parallel.
func TestPullSendsCredentials(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	require.NoError(t, os.WriteFile(dir+"/config.json", []byte(`{"auths":{"127.0.0.1:5000":{"auth":"bWU6aHVudGVyMg=="}}}`), 0o600))
	for image, want := range map[string]string{
		"127.0.0.1:5000/team/image": "eyJ1c2VybmFtZSI6Im1lIiwicGFzc3dvcmQiOiJodW50ZXIyIiwic2VydmVyYWRkcmVzcyI6IjEyNy4wLjAuMTo1MDAwIn0=",
		"127.0.0.1:5001/team/image": "",
	} {
		var got string
		server := routes{"POST /v1.23/images/create": func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Get(api.RegistryAuthHeader) }}.serve(t)
		require.Zero(t, at(t, server, "", "pull", image).status)
		require.Equal(t, want, got, image)
	}
	require.NoError(t, os.WriteFile(dir+"/config.json", []byte("no JSON"), 0o600))
	requireUsage(t, at(t, nil, "", "pull", "127.0.0.1:5000/image"), "the credentials for 127.0.0.1:5000 can't be had: ")
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                  "",
		"Grüße, 世界 \u00a0🙂": "Grüße, 世界 \u00a0🙂",
		"a\nb\r\tc":         `a\nb\r\tc`,
		"\x1b]0;title\x07":  `\x1b]0;title\a`,
		"\u009b31m":         `\u009b31m`,
		"\u202e\u200b":      `\u202e\u200b`,
		"a\xffb":            "a\uFFFDb",
		`back\slash "q" '`:  `back\slash "q" '`,
	} {
		require.Equal(t, want, printable(text))
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31m\u202e\xff")
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range printable(text) {
			if !unicode.IsGraphic(r) {
				t.Fatalf("%q has %q", text, r)
			}
		}
	})
}

// What others have written does not reach the terminal as it came, in errors neither.
func TestErrorsAreOneLine(t *testing.T) {
	t.Parallel()
	server := routes{"GET /v1.23/funcs": refuse(api.Internal, "a\nb\x1b[2J")}.serve(t)
	require.Equal(t, result{status: ExitError, err: `funcd: a\nb\x1b[2J` + "\n"}, at(t, server, "", "ls"))
}

// Whoever reads stdout may go away.
func TestOutputThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	server := caller(reply(200, "out")).serve(t)
	for _, args := range [][]string{{"get", testCall}, {"call", "hello"}, {"inspect", "hello"}} {
		var errs strings.Builder
		env := environ{"FUNCD_ADDR": server.URL}
		status := execute(context.Background(), newApp(Config{In: strings.NewReader(""), Out: full{}, Err: &errs, LookupEnv: env.lookup}), args...)
		require.Equal(t, ExitError, status, args)
		require.Equal(t, "funcd: no space left on device\n", errs.String())
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, fmt.Errorf("no space left on device") }
