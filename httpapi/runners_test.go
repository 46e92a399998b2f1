package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

const (
	nextPath   = api.RunnerNextPath + "?function=" + testFunction + "&call=" + testCall + "&revision=7&job=func-acme-hello%2Fdispatch-1"
	resultPath = api.RunnerResultPath
)

func TestRunnerToken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header []string
		fail   error
		status int
	}{
		"good":                {[]string{"Authorization", "Bearer " + goodToken}, nil, 200},
		"missing":             {nil, nil, 401},
		"of another kind":     {[]string{"Authorization", "Basic " + goodToken}, nil, 401},
		"without its kind":    {[]string{"Authorization", goodToken}, nil, 401},
		"empty":               {[]string{"Authorization", "Bearer "}, nil, 401},
		"wrong":               {[]string{"Authorization", "Bearer x"}, nil, 401},
		"that can't be asked": {[]string{"Authorization", "Bearer " + goodToken}, api.Errorf(api.Unavailable, "away"), 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBackend()
			if c.fail != nil {
				b.fail["Identify"] = c.fail
			}
			server := serve(t, testConfig(b))
			resp, _ := ask(t, server, "POST", nextPath, nil, c.header...)
			require.Equal(t, c.status, resp.StatusCode)
			resp, _ = ask(t, server, "POST", resultPath, frame(t, api.Result{CallID: testCall, Function: testFunction}, "out"), c.header...)
			if c.status == 200 {
				require.Equal(t, 204, resp.StatusCode)
				require.Equal(t, "out", string(b.reported))
				return
			}
			require.Equal(t, c.status, resp.StatusCode)
			require.Equal(t, c.status == 401, resp.Close, "who has no token keeps no connection")
			require.Nil(t, b.result)
		})
	}
}

func TestRunnerNext(t *testing.T) {
	t.Parallel()
	auth := []string{"Authorization", "Bearer " + goodToken}
	for name, c := range map[string]struct {
		path   string
		fail   error
		status int
	}{
		"a call":                 {nextPath, nil, 200},
		"none any more":          {nextPath, api.Errorf(api.Expired, "there is no call for this container"), 410},
		"a store that is away":   {nextPath, api.Errorf(api.Unavailable, "away"), 503},
		"without a call":         {api.RunnerNextPath, nil, 410},
		"a call that is no UUID": {api.RunnerNextPath + "?function=" + testFunction + "&revision=7&call=*.>", nil, 410},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBackend()
			if c.fail != nil {
				b.fail["Next"] = c.fail
			}
			resp, body := ask(t, serve(t, testConfig(b)), "POST", c.path, nil, auth...)
			require.Equal(t, c.status, resp.StatusCode, body)
			if c.status != 200 {
				return
			}
			require.Equal(t, uint64(7), b.asks.Revision)
			require.Equal(t, "func-acme-hello/dispatch-1", b.asks.Dispatch)
			var a api.Assignment
			payload, err := api.ReadFrame(strings.NewReader(body), &a, 100)
			require.NoError(t, err)
			require.Equal(t, "payload", string(payload))
			require.Equal(t, []string{"cat"}, a.Command)
		})
	}
}

func TestRunnerPollEnds(t *testing.T) {
	t.Parallel()
	b := newBackend()
	b.next = func(ctx context.Context) (*api.Assignment, []byte, error) {
		<-ctx.Done()
		return nil, nil, api.Errorf(api.NotFound, "not offered")
	}
	cfg := testConfig(b)
	cfg.PollTime = 20 * time.Millisecond
	resp, body := ask(t, serve(t, cfg), "POST", nextPath, nil, "Authorization", "Bearer "+goodToken)
	require.Equal(t, 204, resp.StatusCode)
	require.Empty(t, body)
}

func TestRunnerResult(t *testing.T) {
	t.Parallel()
	good := api.Result{CallID: testCall, Function: testFunction, Outcome: api.Exited, Stderr: []byte("e")}
	with := func(change func(*api.Result)) api.Result {
		r := good
		change(&r)
		return r
	}
	over := strings.Repeat("x", 101)
	for name, c := range map[string]struct {
		body   io.Reader
		fail   error
		status int
	}{
		"a result":                    {frame(t, good, "out"), nil, 204},
		"an output of its limit":      {frame(t, good, over[:100]), nil, 204},
		"an output over its limit":    {frame(t, good, over), nil, 413},
		"the same in chunks":          {io.MultiReader(frame(t, good, over)), nil, 413},
		"a head over its limit":       {frame(t, with(func(r *api.Result) { r.Message = strings.Repeat("x", api.MaxFrameHead) }), ""), nil, 413},
		"nothing":                     {nil, nil, 400},
		"what is not a frame":         {strings.NewReader("x\ny"), nil, 400},
		"half a head":                 {strings.NewReader(`{"CallID":`), nil, 400},
		"no call":                     {frame(t, with(func(r *api.Result) { r.CallID = "" }), ""), nil, 400},
		"a call that is no UUID":      {frame(t, with(func(r *api.Result) { r.CallID = "a.b" }), ""), nil, 400},
		"no function":                 {frame(t, with(func(r *api.Result) { r.Function = "" }), ""), nil, 400},
		"a function of two subjects":  {frame(t, with(func(r *api.Result) { r.Function = "a.b" }), ""), nil, 400},
		"a function of all subjects":  {frame(t, with(func(r *api.Result) { r.Function = ">" }), ""), nil, 400},
		"a function of any subject":   {frame(t, with(func(r *api.Result) { r.Function = "*" }), ""), nil, 400},
		"a function with a space":     {frame(t, with(func(r *api.Result) { r.Function = "a b" }), ""), nil, 400},
		"a function of another line":  {frame(t, with(func(r *api.Result) { r.Function = "a\r\nPUB x" }), ""), nil, 400},
		"a function with a NUL":       {frame(t, with(func(r *api.Result) { r.Function = "a\x00" }), ""), nil, 400},
		"a function with a slash":     {frame(t, with(func(r *api.Result) { r.Function = "a/b" }), ""), nil, 400},
		"a call that was cancelled":   {frame(t, good, ""), api.Errorf(api.Cancelled, "cancelled"), 205},
		"a call that is over":         {frame(t, good, ""), api.Errorf(api.Expired, "over"), 410},
		"a store that is away":        {frame(t, good, ""), api.Errorf(api.Unavailable, "away"), 503},
		"a fault":                     {frame(t, good, ""), errors.New("fault"), 500},
		"a function whose id is long": {frame(t, with(func(r *api.Result) { r.Function = strings.Repeat("a", 1000) }), ""), nil, 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBackend()
			if c.fail != nil {
				b.fail["Report"] = c.fail
			}
			cfg := testConfig(b)
			cfg.MaxOutput = 100
			resp, body := ask(t, serve(t, cfg), "POST", resultPath, c.body, "Authorization", "Bearer "+goodToken)
			require.Equal(t, c.status, resp.StatusCode, body)
			require.Equal(t, c.status == 204 || c.fail != nil, b.result != nil, "it was reported")
			if c.status == 204 {
				require.Equal(t, &good, b.result)
			}
		})
	}
}

func TestRunnerBinary(t *testing.T) {
	t.Parallel()
	b := newBackend()
	cfg := testConfig(b)
	resp, _ := ask(t, serve(t, cfg), "GET", api.RunnerBinaryPath, nil)
	require.Equal(t, 404, resp.StatusCode)

	cfg.RunnerArchive = []byte("\x1f\x8barchive")
	server := serve(t, cfg)
	resp, body := ask(t, server, "GET", api.RunnerBinaryPath+"?archive=tar.gz", nil)
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "application/gzip", resp.Header.Get("Content-Type"))
	require.Equal(t, string(cfg.RunnerArchive), body)
	resp, body = ask(t, server, "HEAD", api.RunnerBinaryPath, nil)
	require.Equal(t, int64(len(cfg.RunnerArchive)), resp.ContentLength)
	require.Empty(t, body)
}

// The socket that is mounted into containers serves the runner's endpoints and nothing else.
func TestRunnerHandlerServesRunnersOnly(t *testing.T) {
	t.Parallel()
	paths := []string{"/funcs", "/funcs/hello", "/version", callPath, callPath + "/sync", outputPath, logsPath, "/healthz", "/readyz"}
	server := New(testConfig(newBackend()))
	for handler, runners := range map[http.Handler]bool{server.RunnerHandler(): true, server.Handler(false): false} {
		for _, path := range paths {
			w := &recorder{header: http.Header{}}
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://127.0.0.1"+path, nil)
			require.NoError(t, err)
			handler.ServeHTTP(w, req)
			require.Equal(t, runners, w.status == 404, path)
		}
		w := &recorder{header: http.Header{}}
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://127.0.0.1"+nextPath, nil)
		require.NoError(t, err)
		handler.ServeHTTP(w, req)
		require.Equal(t, runners, w.status == 401)
	}
}

func TestRunnersName(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		name   string
		status int
	}{
		"none":        {"", 200},
		"the longest": {strings.Repeat("x", api.MaxRunner), 200},
		"too long":    {strings.Repeat("x", api.MaxRunner+1), 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &slotBackend{backend: newBackend()}
			resp, body := ask(t, serve(t, slotConfig(b)), "POST", slotNextPath, nil, "Authorization", "Bearer "+goodToken, api.RunnerHeader, c.name)
			require.Equal(t, c.status, resp.StatusCode, body)
			if c.status == 200 {
				require.Equal(t, c.name, b.allocation.Runner)
			}
		})
	}
}
