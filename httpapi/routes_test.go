package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

const (
	statusPath = "/status/" + testName + "/" + testUUID
	callPath   = "/call/" + testName + "/" + testUUID
	outputPath = "/output/" + testName + "/" + testUUID + "/" + testCall
	logsPath   = "/logs/" + testName + "/" + testUUID
	createBody = `{"Name":"hello","Config":{"Image":"ubuntu"}}`
)

func TestRoutes(t *testing.T) {
	t.Parallel()
	failing := func(method string, code api.Code) func(*backend) {
		return func(b *backend) { b.fail[method] = api.Wrap(code, errors.New("the cause"), "the sentence") }
	}
	ended := func(state api.State, err error) func(*backend) {
		return func(b *backend) { b.record.State, b.fail["Output"] = state, err }
	}
	for name, c := range map[string]struct {
		method, path, body string
		prepare            func(*backend)
		status             int
		answer             string // part of it
	}{
		"create":                                 {"POST", "/funcs/create", createBody, nil, 201, testUUID},
		"create behind a version":                {"POST", "/v1.23/funcs/create", createBody, nil, 201, testUUID},
		"create behind an old version":           {"POST", "/v1.9/funcs/create", createBody, nil, 201, testUUID},
		"create by a newer client":               {"POST", "/v1.24/funcs/create", createBody, nil, 400, "client is newer than server"},
		"create by a much newer client":          {"POST", "/v2.0/funcs/create", createBody, nil, 400, "client is newer than server"},
		"create with a version too big to read":  {"POST", "/v99999999999999999999.1/funcs/create", createBody, nil, 400, "client is newer than server"},
		"create with a version that is none":     {"POST", "/vx/funcs/create", createBody, nil, 404, "page not found"},
		"create without a body":                  {"POST", "/funcs/create", "", nil, 400, "the body is empty"},
		"create what is not JSON":                {"POST", "/funcs/create", "{", nil, 400, "not valid JSON"},
		"create with a wrong parameter":          {"POST", "/funcs/create", `{"Name":"A","Config":{"Image":"u"}}`, nil, 400, "Name:"},
		"create with a name that is taken":       {"POST", "/funcs/create", createBody, failing("Create", api.Conflict), 409, "the sentence"},
		"create without Nomad":                   {"POST", "/funcs/create", createBody, failing("Create", api.Unavailable), 503, "the sentence"},
		"create with GET":                        {"GET", "/funcs/create", "", nil, 404, "no such function: create"},
		"a wrong method behind a version":        {"PATCH", "/v1.23/funcs/hello", "", nil, 405, "method not allowed"},
		"list":                                   {"GET", "/funcs", "", nil, 200, `[{"Name":"hello"`},
		"list with filters":                      {"GET", `/v1.0/funcs?filters={"name":{"no":true}}`, "", nil, 200, "[]"},
		"list with wrong filters":                {"GET", "/funcs?filters=x", "", nil, 400, "filters:"},
		"get":                                    {"GET", "/funcs/hello", "", nil, 200, `{"Name":"hello"`},
		"get what is not there":                  {"GET", "/funcs/other", "", nil, 404, "no such function: other"},
		"get without Consul":                     {"GET", "/funcs/hello", "", failing("Get", api.Unavailable), 503, "the sentence"},
		"get by call":                            {"GET", "/funcs/call/" + testCall, "", nil, 200, `{"Name":"hello"`},
		"get by call behind a version":           {"GET", "/v1.23/funcs/call/" + testCall, "", nil, 200, `{"Name":"hello"`},
		"get by no such call":                    {"GET", "/funcs/call/" + otherUUID, "", nil, 404, "no such call: " + otherUUID + ""},
		"get by what is no call":                 {"GET", "/funcs/call/*", "", nil, 404, "no such call: *"},
		"get by call, removed meanwhile":         {"GET", "/funcs/call/" + testCall, "", failing("ByID", api.NotFound), 404, "no such call: " + testCall + ""},
		"get by call without JetStream":          {"GET", "/funcs/call/" + testCall, "", failing("FunctionOf", api.Unavailable), 503, "the sentence"},
		"get by call without Consul":             {"GET", "/funcs/call/" + testCall, "", failing("ByID", api.Unavailable), 503, "the sentence"},
		"a function of the name call":            {"GET", "/funcs/call", "", nil, 404, "no such function: call"},
		"update":                                 {"PUT", "/funcs/hello", `{"Timeout":7}`, nil, 200, `"Timeout":7`},
		"update with a wrong parameter":          {"PUT", "/funcs/hello", `{"Timeout":0}`, nil, 400, "Timeout:"},
		"update what is not JSON":                {"PUT", "/funcs/hello", `Timeout`, nil, 400, "not valid JSON"},
		"update what is not there":               {"PUT", "/funcs/other", `{}`, nil, 404, "no such function"},
		"remove":                                 {"DELETE", "/funcs/hello", "", nil, 204, ""},
		"remove what is not there":               {"DELETE", "/funcs/other", "", nil, 404, "no such function"},
		"remove while it is called":              {"DELETE", "/funcs/hello", "", failing("Remove", api.Conflict), 409, "the sentence"},
		"remove by force while it is called":     {"DELETE", "/funcs/hello?force=1", "", failing("Remove", api.Conflict), 204, ""},
		"remove not by force while it is called": {"DELETE", "/funcs/hello?force=0", "", failing("Remove", api.Conflict), 409, "the sentence"},
		"remove by force without Consul":         {"DELETE", "/funcs/hello?force=true", "", failing("Remove by force", api.Unavailable), 503, "the sentence"},
		"version":                                {"GET", "/version", "", nil, 200, `"ApiVersion":"1.23"`},
		"call":                                   {"POST", callPath, "in", nil, 200, `{"CallId":"` + testCall + `"}`},
		"call with GET":                          {"GET", callPath, "", nil, 200, "CallId"},
		"call with PUT":                          {"PUT", callPath, "in", nil, 200, "CallId"},
		"call with DELETE":                       {"DELETE", callPath, "", nil, 200, "CallId"},
		"call with PATCH":                        {"PATCH", callPath, "", nil, 405, "method not allowed"},
		"call behind a version":                  {"POST", "/v1.23" + callPath, "", nil, 404, "page not found"},
		"call by a wrong name":                   {"POST", "/call/other/" + testUUID, "", nil, 404, "no such function"},
		"call by a wrong UUID":                   {"POST", "/call/hello/" + otherUUID, "", nil, 404, "no such function"},
		"call by what is no UUID":                {"POST", "/call/hello/x", "", nil, 404, "no such function"},
		"call without Consul":                    {"POST", callPath, "", failing("ByUUID", api.Unavailable), 503, "the sentence"},
		"cancel":                                 {"DELETE", callPath + "/" + testCall, "", nil, 204, ""},
		"cancel what has ended":                  {"DELETE", callPath + "/" + testCall, "", failing("Cancel", api.Conflict), 409, "the sentence"},
		"cancel what is not there":               {"DELETE", callPath + "/" + otherUUID, "", nil, 404, "no such call"},
		"cancel what is no UUID":                 {"DELETE", callPath + "/a.b", "", nil, 404, "no such call"},
		"cancel by a wrong UUID":                 {"DELETE", "/call/hello/" + otherUUID + "/" + testCall, "", nil, 404, "no such function"},
		"cancel with POST":                       {"POST", callPath + "/" + testCall, "", nil, 405, "method not allowed"},
		"call with a full queue":                 {"POST", callPath, "", failing("Submit", api.Unavailable), 503, "the sentence"},
		"call and wait":                          {"POST", callPath + "/sync", "", func(b *backend) { b.output = []byte("out") }, 200, "out"},
		"call and wait, failed":                  {"POST", callPath + "/sync", "", ended(api.Failed, api.Errorf(api.CallFailed, "exit status 3")), 500, "exit status 3"},
		"call and wait, timeout":                 {"POST", callPath + "/sync", "", ended(api.Failed, api.Errorf(api.CallTimeout, "too long")), 504, "too long"},
		"call and wait, too large":               {"POST", callPath + "/sync", "", ended(api.Failed, api.Errorf(api.OutputTooLarge, "too much")), 509, "too much"},
		"output":                                 {"GET", outputPath, "", func(b *backend) { b.output = []byte("out") }, 200, "out"},
		"output, empty":                          {"GET", outputPath + "/wait", "", nil, 200, ""},
		"output, running":                        {"GET", outputPath, "", ended(api.Running, nil), 201, "being executed"},
		"output, waiting":                        {"GET", outputPath, "", ended(api.Pending, nil), 202, "waiting for execution"},
		"output, waiting for a reason":           {"GET", outputPath, "", func(b *backend) { b.record.State, b.record.Message = api.Pending, "no capacity" }, 202, "execution: no capacity"},
		"output, expired":                        {"GET", outputPath, "", ended(api.Finished, api.Errorf(api.Expired, "dropped")), 410, "dropped"},
		"output that can't be read now":          {"GET", outputPath, "", ended(api.Finished, api.Errorf(api.Unavailable, "later")), 503, "later"},
		"output of no such call":                 {"GET", "/output/hello/" + testUUID + "/" + otherUUID, "", nil, 404, "no such call"},
		"output of what is no call":              {"GET", "/output/hello/" + testUUID + "/x", "", nil, 404, "no such call: x"},
		"output of a function that is not there": {"GET", "/output/hello/" + otherUUID + "/" + testCall, "", nil, 404, "no such function"},
		"output with POST":                       {"POST", outputPath, "", nil, 405, "method not allowed"},
		"logs":                                   {"GET", logsPath, "", func(b *backend) { b.events = []api.Event{{Event: "CALL", CallID: testCall}} }, 200, `"Event":"CALL"`},
		"logs of a function that is not there":   {"GET", "/logs/hello/" + otherUUID, "", nil, 404, "no such function"},
		"logs with a wrong tail":                 {"GET", logsPath + "?tail=-1", "", nil, 400, "tail:"},
		"logs with a wrong call":                 {"GET", logsPath + "?callid=x", "", nil, 400, "callid:"},
		"status":                                 {"GET", statusPath, "", func(b *backend) { b.status = api.Status{Total: 3, Failed: 3} }, 200, `{"Total":3,"Pending":0,"Running":0,"Finished":0,"Failed":3}` + "\n"},
		"status with a list":                     {"GET", statusPath + "?list=1", "", nil, 200, `"Failed":0,"List":[]}`},
		"status of a function that is not there": {"GET", "/status/hello/" + otherUUID, "", nil, 404, "no such function"},
		"status with POST":                       {"POST", statusPath, "", nil, 405, "method not allowed"},
		"status without JetStream":               {"GET", statusPath, "", failing("Status", api.Unavailable), 503, "the sentence"},
		"list without JetStream":                 {"GET", statusPath + "?list=true", "", failing("Calls", api.Unavailable), 503, "the sentence"},
		"healthz":                                {"GET", "/healthz", "", nil, 200, "ok"},
		"readyz":                                 {"GET", "/readyz", "", nil, 200, "ready"},
		"nothing there":                          {"GET", "/", "", nil, 404, "page not found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBackend()
			if c.prepare != nil {
				c.prepare(b)
			}
			server := serve(t, testConfig(b))
			resp, body := ask(t, server, c.method, c.path, strings.NewReader(c.body))
			require.Equal(t, c.status, resp.StatusCode, body)
			require.Contains(t, body, c.answer)
			require.NotContains(t, body, "the cause")
			if c.status < 400 {
				require.Empty(t, resp.Header.Get(api.ErrorHeader))
				return
			}
			require.Equal(t, c.status, api.Code(resp.Header.Get(api.ErrorHeader)).Status())
			require.Equal(t, "text/plain; charset=utf-8", resp.Header.Get("Content-Type"))
			require.Equal(t, c.status == 503, resp.Header.Get("Retry-After") != "")

			resp, body = ask(t, server, c.method, c.path, strings.NewReader(c.body), "Accept", "application/json")
			require.Equal(t, c.status, resp.StatusCode)
			require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
			require.JSONEq(t, `{"message":`+jsonOf(t, messageOf(t, body))+`}`, body)
			require.Contains(t, messageOf(t, body), c.answer)
		})
	}
}

func TestOneAnswerForWrongNameAndWrongUUID(t *testing.T) {
	t.Parallel()
	server := serve(t, testConfig(newBackend()))
	answers := map[string]bool{}
	for _, path := range []string{"/call/other/" + testUUID, "/call/hello/" + otherUUID, "/call/hello/no-uuid", "/logs/other/" + testUUID} {
		resp, body := ask(t, server, "GET", path, nil)
		answers[resp.Status+resp.Header.Get(api.ErrorHeader)+body] = true
	}
	require.Len(t, answers, 1, answers)
}

// Every code has the same meaning on both sides of the wire.
func TestCodesReachTheClient(t *testing.T) {
	t.Parallel()
	for _, code := range []api.Code{
		api.Internal, api.Invalid, api.Unauthorized, api.Forbidden, api.NotFound, api.NotAllowed, api.Conflict, api.Expired,
		api.TooLarge, api.Unavailable, api.CallFailed, api.CallTimeout, api.OutputTooLarge,
	} {
		t.Run(string(code), func(t *testing.T) {
			t.Parallel()
			b := newBackend()
			b.fail["Get"] = api.Wrap(code, errors.New("10.0.0.7 refused the token hunter2"), "the sentence")
			server := serve(t, testConfig(b))
			client, err := api.NewClient(api.ClientConfig{Address: server.URL})
			require.NoError(t, err)
			_, err = client.Function(t.Context(), testName)
			require.Equal(t, code, api.CodeOf(err))
			require.Equal(t, "the sentence", err.Error())
		})
	}
}

func TestWhatIsNoAPIErrorIsNotShown(t *testing.T) {
	t.Parallel()
	b := newBackend()
	b.fail["Get"] = errors.New("10.0.0.7 refused the token hunter2")
	server := serve(t, testConfig(b))
	for _, accept := range []string{"*/*", "application/json"} {
		resp, body := ask(t, server, "GET", "/funcs/hello", nil, "Accept", accept)
		require.Equal(t, 500, resp.StatusCode)
		require.Contains(t, body, "internal error")
		require.NotContains(t, body, "hunter2")
		require.Equal(t, string(api.Internal), resp.Header.Get(api.ErrorHeader))
	}
}

func TestReadyNamesThePartsThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	cfg := testConfig(newBackend())
	cfg.Ready = map[string]func(context.Context) error{
		"consul":    func(context.Context) error { return nil },
		"jetstream": func(context.Context) error { return errors.New("dial tcp 10.0.0.7: refused") },
		"nomad": func(context.Context) error {
			return api.Wrap(api.Unavailable, errors.New("10.0.0.7"), "Nomad does not answer")
		},
	}
	resp, body := ask(t, serve(t, cfg), "GET", "/readyz", nil)
	require.Equal(t, 503, resp.StatusCode)
	require.Contains(t, body, "nomad: Nomad does not answer")
	require.Contains(t, body, "jetstream: internal error")
	require.NotContains(t, body, "consul")
	require.NotContains(t, body, "10.0.0.7")
}

// A load balancer looks at what calls need, and not at parts that all servers miss at once.
func TestReadyWithoutParts(t *testing.T) {
	t.Parallel()
	away := api.Errorf(api.Unavailable, "away")
	for name, c := range map[string]struct {
		query  string
		away   []string
		status int
		text   string
		asked  string // the parts that were
	}{
		"all, and all answer":            {"", nil, 200, "ready", "consul jetstream nomad"},
		"all, and one is away":           {"", []string{"nomad"}, 503, "not ready; nomad: away", "consul jetstream nomad"},
		"without the one that is away":   {"?exclude=nomad", []string{"nomad"}, 200, "ready", "consul jetstream"},
		"without those that are away":    {"?exclude=consul&exclude=nomad", []string{"consul", "nomad"}, 200, "ready", "jetstream"},
		"without one of those":           {"?exclude=consul", []string{"consul", "nomad"}, 503, "not ready; nomad: away", "jetstream nomad"},
		"without one, twice":             {"?exclude=consul&exclude=consul", []string{"consul"}, 200, "ready", "jetstream nomad"},
		"without all":                    {"?exclude=consul&exclude=nomad&exclude=jetstream", []string{"consul"}, 200, "ready", ""},
		"with another parameter":         {"?verbose&exclude=nomad", []string{"nomad"}, 200, "ready", "consul jetstream"},
		"without a part that is none":    {"?exclude=nomad&exclude=etcd", nil, 400, `exclude: "etcd" must be one of consul, jetstream, nomad`, ""},
		"without a part that is away":    {"?exclude=etcd", []string{"nomad"}, 400, `exclude: "etcd" must be one of consul, jetstream, nomad`, ""},
		"with a list, which is no part":  {"?exclude=consul,nomad", nil, 400, `exclude: "consul,nomad" must be one of`, ""},
		"with nothing, which is no part": {"?exclude=", nil, 400, `exclude: "" must be one of`, ""},
		"with capitals":                  {"?exclude=Nomad", nil, 400, `exclude: "Nomad" must be one of`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var asked []string
			cfg := testConfig(newBackend())
			cfg.Ready = map[string]func(context.Context) error{}
			for _, part := range []string{"nomad", "consul", "jetstream"} {
				cfg.Ready[part] = func(context.Context) error {
					mu.Lock()
					defer mu.Unlock()
					asked = append(asked, part)
					if slices.Contains(c.away, part) {
						return away
					}
					return nil
				}
			}
			s := New(cfg)
			server := httptest.NewServer(s.Handler(false))
			t.Cleanup(server.Close)
			resp, body := ask(t, server, "GET", "/readyz"+c.query, nil)
			require.Equal(t, c.status, resp.StatusCode, body)
			require.Contains(t, body, c.text)
			slices.Sort(asked)
			require.Equal(t, c.asked, strings.Join(asked, " "))
			s.Announce()
			resp, _ = ask(t, server, "GET", "/readyz"+c.query, nil)
			require.Equal(t, 503, resp.StatusCode, "whatever is left out, a server that stops is not ready")
		})
	}
}

// A function's UUID is the secret that its callers know, and a payload is theirs: neither is for the log, at any level.
func TestSecretsAreNotLogged(t *testing.T) {
	t.Parallel()
	const payload, header = "the-payload-of-a-call", "the-header-of-a-call"
	for name, fail := range map[string]error{
		"answered":  nil,
		"failed":    api.Errorf(api.CallFailed, "exit status 1"),
		"not found": api.Errorf(api.NotFound, "no such thing"),
		"broken":    errors.New("a fault"),
		"away":      api.Wrap(api.Unavailable, errors.New("a cause"), "away"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log lockedBuffer
			b := newBackend()
			for _, method := range []string{"Create", "Update", "Remove", "Get", "ByUUID", "Submit", "Output", "Delivered", "Events", "Status", "Next", "Report"} {
				if fail != nil {
					b.fail[method] = fail
				}
			}
			b.output = []byte(payload)
			cfg := testConfig(b)
			cfg.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			server := serve(t, cfg)
			requests := 0
			for _, path := range []string{
				callPath, callPath + "/sync", outputPath, outputPath + "/wait", statusPath, logsPath, logsPath + "?tail=x", "/call/other/" + testUUID,
				"/" + testUUID, "//call/hello/" + testUUID, callPath + "/", callPath + "?" + payload, "/funcs/create", "/funcs", "/funcs/hello",
				"/v1.99/funcs/hello", nextPath, "/runner/v1/result",
			} {
				for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH"} {
					resp, _ := ask(t, server, method, path, strings.NewReader(payload), "X-Secret", header, "Cookie", header)
					require.NotZero(t, resp.StatusCode)
					requests++
				}
			}
			written := log.String()
			require.NotContains(t, written, testUUID)
			require.NotContains(t, written, payload)
			require.NotContains(t, written, header)
			require.NotContains(t, written, testSecret)
			require.GreaterOrEqual(t, strings.Count(written, `"msg":"request"`), requests/2, "requests are logged")
			if name == "broken" || name == "away" {
				require.Contains(t, written, `"level":"ERROR"`)
			} else {
				require.NotContains(t, written, `"level":"ERROR"`)
			}
		})
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// recorder is a connection as a handler sees it. Its write and its flush may fail.
type recorder struct {
	header               http.Header
	status               int
	body                 bytes.Buffer
	failWrite, failFlush bool
	flushed              bool
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if r.failWrite {
		return 0, io.ErrClosedPipe
	}
	return r.body.Write(b)
}

func (r *recorder) FlushError() error {
	r.WriteHeader(http.StatusOK)
	r.flushed = true
	if r.failFlush {
		return io.ErrClosedPipe
	}
	return nil
}
