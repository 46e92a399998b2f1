package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/funcd/funcd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testUUID = "e62c014e-386c-42ea-8d07-41d44e98cc3d"
	testCall = "218b7b10-e7f1-4c48-ac3c-66792f8ffc06"
)

// result is what a command has left behind.
type result struct {
	status   int
	out, err string
}

// environ is the environment of a command.
type environ map[string]string

func (e environ) lookup(name string) (string, bool) {
	value, found := e[name]
	return value, found
}

// execute runs a command line as the program does.
func execute(ctx context.Context, a *app, args ...string) int {
	root := &cobra.Command{Use: "funcd", SilenceErrors: true, SilenceUsage: true}
	root.SetArgs(args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetFlagErrorFunc(FlagError)
	root.AddCommand(a.commands()...)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Report(a.Err)
	}
	io.WriteString(a.Err, err.Error()+"\n")
	return ExitUsage
}

// at runs a command line with a server, which may be nil.
func at(t *testing.T, server *httptest.Server, stdin string, args ...string) result {
	t.Helper()
	env := environ{"HOME": t.TempDir()}
	if server != nil {
		env["FUNCD_ADDR"] = server.URL
	}
	return in(t, env, stdin, args...)
}

// in runs a command line in an environment.
func in(t *testing.T, env environ, stdin string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	status := execute(t.Context(), newApp(Config{In: strings.NewReader(stdin), Out: &out, Err: &errs, LookupEnv: env.lookup}), args...)
	return result{status, out.String(), errs.String()}
}

// routes answers requests by their method and path. Others are 404.
type routes map[string]http.HandlerFunc

func (r routes) serve(t *testing.T) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if handler, ok := r[req.Method+" "+req.URL.Path]; ok {
			handler(w, req)
			return
		}
		refuse(api.NotFound, "no such thing")(w, req)
	}))
	t.Cleanup(server.Close)
	return server
}

// reply answers with a status and a body.
func reply(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// refuse answers with an error.
func refuse(code api.Code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(api.ErrorHeader, string(code))
		w.WriteHeader(code.Status())
		_, _ = io.WriteString(w, message+"\n")
	}
}

// A function as a server shows it.
const hello = `{"Name":"hello","ContainerSize":"s1","Timeout":300,"UUID":"` + testUUID + `","Created":"2017-03-16T07:05:24.473Z",` +
	`"Config":{"Env":["A=b"],"Cmd":["echo","Hello\nWorld"],"Image":"ubuntu","Labels":{"team":"web"},"StopSignal":"SIGTERM"},` +
	`"HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]},"NetworkMode":"bridge"},"NetworkingConfig":{"EndpointsConfig":null}}`

func requireUsage(t *testing.T, r result, message string) {
	t.Helper()
	require.Equal(t, ExitUsage, r.status, r.err)
	require.Empty(t, r.out)
	require.Contains(t, r.err, message)
	require.Equal(t, 1, strings.Count(r.err, "\n"), "one sentence: %s", r.err)
}
