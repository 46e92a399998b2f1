package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/funcd/funcd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testUUID     = "e62c014e-386c-42ea-8d07-41d44e98cc3d"
	testFunction = "0123456789abcdef0123456789abcdef"
	testCall     = "0b9c8a52-6a0b-4a52-9f6f-0d3f1c1e7a10"
	otherUUID    = "f0b1c2d3-0000-4000-8000-000000000001"
	testName     = "hello"
	testSecret   = "a secret of thirty-two characters"
	goodToken    = "the token of an allocation"
)

// backend is all that a Server asks for. It fails where fail has an error under the method's name.
type backend struct {
	mu         sync.Mutex
	fail       map[string]error
	definition api.Definition
	others     []api.Definition // that List returns too
	record     api.Record
	output     []byte
	events     []api.Event
	status     api.Status // with its List
	next       func(ctx context.Context) (*api.Assignment, []byte, error)

	// what was asked for
	account   string
	created   api.Function
	update    api.FunctionUpdate
	payload   []byte
	env       []string
	waited    bool
	query     api.EventQuery
	delivered []api.Record
	cancelled int
	released  int
	asks      api.Allocation
	result    *api.Result
	reported  []byte
	images    askedImages
	once      []api.Once
	did       []string // with dead letters
	deadOf    string   // the function whose dead letters were listed
	answered  bool
	pulled    chan error // gets the end of a pull that hangs
}

func newBackend() *backend {
	return &backend{
		fail: map[string]error{},
		definition: api.Definition{ID: testFunction, Account: "default", Revision: 1, Function: api.Function{
			Name: testName, UUID: testUUID, ContainerSize: "s4", Timeout: 5,
			Config:     api.Config{Image: "ubuntu", StopSignal: "SIGTERM", Env: []string{}, Labels: map[string]string{"a": "b"}},
			HostConfig: api.HostConfig{NetworkMode: "bridge"},
		}},
		record: api.Record{CallID: testCall, State: api.Finished},
	}
}

func (b *backend) Create(_ context.Context, account string, f api.Function) (api.Function, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.account, b.created = account, f
	f.UUID = testUUID
	return f, b.fail["Create"]
}

func (b *backend) Update(_ context.Context, account, name string, update api.FunctionUpdate) (api.Function, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.account, b.update = account, update
	if err := b.fail["Update"]; err != nil {
		return api.Function{}, err
	}
	if name != testName {
		return api.Function{}, api.Errorf(api.NotFound, "no such function: %s", name)
	}
	return update.Apply(b.definition.Function)
}

func (b *backend) Remove(_ context.Context, account, name string, force bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.account = account
	if force {
		return b.fail["Remove by force"]
	}
	if name != testName {
		return api.Errorf(api.NotFound, "no such function: %s", name)
	}
	return b.fail["Remove"]
}

func (b *backend) Submit(_ context.Context, _ *api.Definition, env []string, payload []byte) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.env, b.payload = env, payload
	return testCall, b.fail["Submit"]
}

func (b *backend) SubmitSync(ctx context.Context, d *api.Definition, env []string, payload []byte) (string, func(), error) {
	call, err := b.Submit(ctx, d, env, payload)
	return call, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.released++
	}, err
}

func (b *backend) SubmitOnce(ctx context.Context, d *api.Definition, once api.Once, env []string, payload []byte) (string, bool, error) {
	call, err := b.Submit(ctx, d, env, payload)
	b.mu.Lock()
	defer b.mu.Unlock()
	again := slices.ContainsFunc(b.once, func(o api.Once) bool { return o.Key == once.Key })
	b.once = append(b.once, once)
	return call, again, err
}

func (b *backend) Output(_ context.Context, _ *api.Definition, call string, wait bool) (api.Record, []byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waited = wait
	if call != testCall {
		return api.Record{}, nil, api.Errorf(api.NotFound, "no such call: %s", call)
	}
	return b.record, b.output, b.fail["Output"]
}

func (b *backend) Cancel(_ context.Context, _ *api.Definition, call string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if call != testCall {
		return api.Errorf(api.NotFound, "no such call: %s", call)
	}
	b.cancelled++
	return b.fail["Cancel"]
}

func (b *backend) Delivered(_ context.Context, rec api.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.delivered = append(b.delivered, rec)
	return b.fail["Delivered"]
}

func (b *backend) Events(ctx context.Context, _ string, q api.EventQuery, yield func([]byte) error) error {
	b.mu.Lock()
	b.query = q
	events, err := b.events, b.fail["Events"]
	b.mu.Unlock()
	for _, e := range events {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if err := yield(line); err != nil {
			return err
		}
	}
	if q.Follow {
		if err := yield(nil); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (b *backend) Status(context.Context, string) (api.Status, error) {
	status := b.status
	status.List = nil
	return status, b.fail["Status"]
}

func (b *backend) FunctionOf(_ context.Context, account, call string) (function, name string, err error) {
	if call != testCall || account == "owner" { // whose it is not
		return "", "", api.Errorf(api.NotFound, "no such call: %s", call)
	}
	return testFunction, testName, b.fail["FunctionOf"]
}

func (b *backend) Calls(_ context.Context, _, _ string, yield func(api.CallStatus) error) error {
	for _, call := range b.status.List {
		if err := yield(call); err != nil {
			return err
		}
	}
	return b.fail["Calls"]
}

func (b *backend) NextSlot(ctx context.Context, allocation api.Allocation, slot api.Slot) (*api.Assignment, []byte, error) {
	return b.Next(ctx, allocation, slot.Function, "")
}

func (b *backend) Begin(context.Context, api.Allocation, string, string) error {
	return b.fail["Begin"]
}

func (b *backend) SlotCounts(context.Context, string) (api.SlotCounts, error) {
	return api.SlotCounts{}, api.Errorf(api.NotFound, "no server keeps slots now")
}

func (b *backend) Next(ctx context.Context, allocation api.Allocation, _, _ string) (*api.Assignment, []byte, error) {
	b.mu.Lock()
	b.asks = allocation
	b.mu.Unlock()
	if b.next != nil {
		return b.next(ctx)
	}
	return &api.Assignment{CallID: testCall, Function: b.definition.ID, Command: []string{"cat"}}, []byte("payload"), b.fail["Next"]
}

func (b *backend) Report(_ context.Context, _ api.Allocation, result *api.Result, output []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.result, b.reported = result, output
	return b.fail["Report"]
}

func (b *backend) Identify(_ context.Context, token string) (api.Allocation, error) {
	if err := b.fail["Identify"]; err != nil {
		return api.Allocation{}, err
	}
	if token != goodToken {
		return api.Allocation{}, api.Errorf(api.Unauthorized, "the token is not a Nomad identity")
	}
	return api.Allocation{ID: "alloc", Job: "func-default-hello"}, nil
}

type directory struct{ *backend }

func (d directory) Get(_ context.Context, account, name string) (api.Definition, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.account = account
	if err := d.fail["Get"]; err != nil {
		return api.Definition{}, err
	}
	if name != testName {
		return api.Definition{}, api.Errorf(api.NotFound, "no such function: %s", name)
	}
	return d.definition, nil
}

func (d directory) ByUUID(_ context.Context, uuid string) (api.Definition, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fail["ByUUID"]; err != nil {
		return api.Definition{}, err
	}
	if uuid != testUUID {
		return api.Definition{}, api.Errorf(api.NotFound, "nobody has this UUID")
	}
	return d.definition, nil
}

func (d directory) ByID(_ context.Context, account, name, id string) (api.Definition, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.account = account
	if err := d.fail["ByID"]; err != nil {
		return api.Definition{}, err
	}
	if name != testName || id != testFunction {
		return api.Definition{}, api.Errorf(api.NotFound, "no such function: %s", name)
	}
	return d.definition, nil
}

func (d directory) List(string) []api.Definition {
	return append([]api.Definition{d.definition}, d.others...)
}

type credentials struct{ *backend }

func (c credentials) Get(_ context.Context, key string) (api.Credential, error) {
	if err := c.fail["Credential"]; err != nil {
		return api.Credential{}, err
	}
	switch key {
	case "AKOWNER":
		return api.Credential{AccessKey: key, Secret: testSecret, Account: "owner"}, nil
	case "AKOTHER":
		return api.Credential{AccessKey: key, Secret: testSecret, Account: "other"}, nil
	case "AKCALLER":
		return api.Credential{AccessKey: key, Secret: testSecret, Account: "owner", CallOnly: true}, nil
	}
	return api.Credential{}, api.Errorf(api.NotFound, "no such access key")
}

func testConfig(b *backend) Config {
	return Config{
		Functions: b, Directory: directory{b}, Calls: b, Logs: b, States: b, Dead: dead{b}, Runners: b, Credentials: credentials{b}, Identities: b, Images: b, Puller: b, Cluster: b,
		UnsignedAccount: "default",
		MaxBody:         1 << 20, MaxOutput: 1 << 20, BodyTime: time.Minute, PollTime: time.Minute,
		Version: api.VersionInfo{Version: "1", APIVersion: api.Version},
		Logger:  slog.New(slog.DiscardHandler),
	}
}

// serve answers on a real connection, as bodies, deadlines and upgrades are those of one.
func serve(t *testing.T, cfg Config) *httptest.Server {
	server := httptest.NewServer(New(cfg).Handler(true))
	t.Cleanup(server.Close)
	return server
}

// ask makes a request and returns its answer with the body read.
func ask(t *testing.T, server *httptest.Server, method, path string, body io.Reader, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, body)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	client := *server.Client()
	client.Transport = document.Transport(client.Transport, func(req *http.Request) bool { return !strings.HasPrefix(req.URL.Path, "/runner/") },
		func(err error) { t.Errorf("the answer is not in the document: %v", err) })
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(text)
}

func frame(t *testing.T, head any, body string) io.Reader {
	var b bytes.Buffer
	require.NoError(t, api.WriteFrame(&b, head, []byte(body)))
	return &b
}

func jsonOf(t *testing.T, v any) string {
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

// unsized hides a reader's length, so that it is sent in chunks.
func unsized(text string) io.Reader { return io.MultiReader(strings.NewReader(text)) }
