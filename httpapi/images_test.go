package httpapi

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// askedImages is what a backend was asked for of images.
type askedImages struct {
	account, ref string
	auth         *api.RegistryAuth
	tag          string
}

const (
	testDigest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	noImage    = "none"
)

func (b *backend) Inspect(_ context.Context, account, ref string, auth *api.RegistryAuth) (api.ImageInspect, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.images = askedImages{account: account, ref: ref, auth: auth}
	if ref == noImage {
		return api.ImageInspect{}, api.Errorf(api.NotFound, "No such image: %s", ref)
	}
	return api.ImageInspect{ID: testDigest, RepoTags: []string{ref}, RepoDigests: []string{}, OS: "linux"}, b.fail["Inspect"]
}

// Pull tells of two nodes and fails as Pull, or before as Parameters. It hangs after its first message while Hang has an error.
func (b *backend) Pull(ctx context.Context, account, image, tag string, auth *api.RegistryAuth, yield func(api.PullMessage) error) error {
	b.mu.Lock()
	b.images = askedImages{account: account, ref: image, tag: tag, auth: auth}
	fail := maps.Clone(b.fail)
	b.mu.Unlock()
	if err := fail["Parameters"]; err != nil {
		return err
	}
	if err := yield(api.PullMessage{Status: "Pulling from library/" + image, ID: tag}); err != nil {
		return err
	}
	if fail["Hang"] != nil {
		<-ctx.Done()
		b.pulled <- ctx.Err()
		return ctx.Err()
	}
	for i, node := range []string{"a", "b"} {
		m := api.PullMessage{ID: node, Status: "Pull complete", ProgressDetail: &api.PullProgress{Current: int64(i + 1), Total: 2, Units: "nodes"}}
		if err := yield(m); err != nil {
			return err
		}
	}
	return fail["Pull"]
}

func (b *backend) Info(_ context.Context, account string) (api.Info, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.account = account
	return api.Info{Name: "here", NCPU: 6, MemTotal: 3 << 30, SystemTime: "2026-01-02T03:04:05.000000006Z"}, b.fail["Info"]
}

func TestInspectImage(t *testing.T) {
	t.Parallel()
	for path, ref := range map[string]string{
		"busybox":                         "busybox",
		"busybox:1.36":                    "busybox:1.36",
		"busybox%3A1.36":                  "busybox:1.36",
		"team/app":                        "team/app",
		"team%2Fapp":                      "team/app",
		"team%2fapp:1":                    "team/app:1",
		"r.example:5000/a/b/c:1":          "r.example:5000/a/b/c:1",
		"r.example%3A5000%2Fa/b%2Fc:1":    "r.example:5000/a/b/c:1",
		"[::1]:5000/app":                  "[::1]:5000/app",
		"%5B::1%5D:5000/app":              "[::1]:5000/app",
		"app@" + testDigest:               "app@" + testDigest,
		"app:1%40" + testDigest:           "app:1@" + testDigest,
		testDigest:                        testDigest,
		"r.example/json":                  "r.example/json",
		"r.example/json/json":             "r.example/json/json",
		"create":                          "create",
		"a%20b":                           "a b", // what is no reference is for the resolver to say
		"a%252Fb":                         "a%2Fb",
		"127.0.0.1:5000/team/app@x%3Fy=z": "127.0.0.1:5000/team/app@x?y=z",
	} {
		for _, prefix := range []string{"", "/v1.23", "/v1.0"} {
			b := newBackend()
			cfg := testConfig(b)
			cfg.UnsignedAccount = ""
			key := api.SigningKey{AccessKey: "AKOWNER", Secret: testSecret, Region: "local"}
			resp, body := signed(t, serve(t, cfg), "GET", prefix+"/images/"+path+"/json", "", key, time.Now(), nil)
			require.Equal(t, 200, resp.StatusCode, "%s: %s", path, body)
			require.Equal(t, askedImages{account: "owner", ref: ref}, b.images, path)
			require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
			var got api.ImageInspect
			require.NoError(t, json.Unmarshal([]byte(body), &got))
			require.Equal(t, []string{ref}, got.RepoTags)
		}
	}
}

func TestInspectImageErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path   string
		header []string
		fail   error
		status int
		answer string
	}{
		"no such image":       {"/images/" + noImage + "/json", nil, nil, 404, "No such image: none\n"},
		"no reference":        {"/images/busybox/json", nil, api.Errorf(api.Invalid, "is not an image reference"), 400, "is not an image reference\n"},
		"no registry":         {"/images/busybox/json", nil, api.Errorf(api.Unavailable, "the registry r does not answer"), 503, "the registry r does not answer\n"},
		"no credentials":      {"/images/busybox/json", []string{"X-Registry-Auth", "secret!"}, nil, 400, "X-Registry-Auth: must be base64 of a JSON object\n"},
		"a newer client":      {"/v1.24/images/busybox/json", nil, nil, 400, "client is newer than server (client API version: 1.24, server API version: 1.23)\n"},
		"no image at all":     {"/images/json", nil, nil, 404, "page not found\n"},
		"another path":        {"/images/busybox/history", nil, nil, 404, "page not found\n"},
		"an encoded last one": {"/images/busybox%2Fjson", nil, nil, 404, "page not found\n"},
	} {
		b := newBackend()
		b.fail["Inspect"] = c.fail
		resp, body := ask(t, serve(t, testConfig(b)), "GET", c.path, nil, c.header...)
		require.Equal(t, c.status, resp.StatusCode, "%s: %s", name, body)
		require.Equal(t, c.answer, body, name)
	}
	resp, _ := ask(t, serve(t, testConfig(newBackend())), "DELETE", "/images/busybox/json", nil)
	require.Equal(t, 405, resp.StatusCode)
}

func TestInspectImageWithALogin(t *testing.T) {
	t.Parallel()
	b := newBackend()
	auth := base64.URLEncoding.EncodeToString([]byte(`{"username":"me","password":"secret","serveraddress":"r.example"}`))
	resp, _ := ask(t, serve(t, testConfig(b)), "GET", "/images/r.example/app/json", nil, "X-Registry-Auth", auth)
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, &api.RegistryAuth{Username: "me", Password: "secret", ServerAddress: "r.example"}, b.images.auth)
}

func TestInfo(t *testing.T) {
	t.Parallel()
	b := newBackend()
	server := serve(t, testConfig(b))
	client, err := api.NewClient(api.ClientConfig{Address: server.URL})
	require.NoError(t, err)
	info, err := client.Info(t.Context())
	require.NoError(t, err)
	require.Equal(t, api.Info{Name: "here", NCPU: 6, MemTotal: 3 << 30, SystemTime: "2026-01-02T03:04:05.000000006Z"}, info)
	require.Equal(t, "default", b.account)

	b.fail["Info"] = api.Errorf(api.Unavailable, "Nomad does not answer")
	resp, body := ask(t, server, "GET", "/v1.23/info", nil)
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "Nomad does not answer\n", body)
}

func TestPullImage(t *testing.T) {
	t.Parallel()
	b := newBackend()
	server := serve(t, testConfig(b))
	for _, prefix := range []string{"", "/v1.23"} {
		resp, body := ask(t, server, "POST", prefix+"/images/create?fromImage=busybox&tag=1", nil,
			"X-Registry-Auth", "eyJ1c2VybmFtZSI6Im1lIiwicGFzc3dvcmQiOiJzZWNyZXQifQ==")
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
		require.Equal(t, `{"id":"1","status":"Pulling from library/busybox"}
{"id":"a","status":"Pull complete","progressDetail":{"current":1,"total":2,"units":"nodes"}}
{"id":"b","status":"Pull complete","progressDetail":{"current":2,"total":2,"units":"nodes"}}
`, body)
		require.Equal(t, askedImages{"default", "busybox", &api.RegistryAuth{Username: "me", Password: "secret"}, "1"}, b.images)
	}
	b.fail["Pull"] = api.Errorf(api.NotFound, "no such image: busybox")
	resp, body := ask(t, server, "POST", "/images/create?fromImage=busybox&tag=1", nil)
	require.Equal(t, 200, resp.StatusCode)
	lines := strings.Split(strings.TrimSpace(body), "\n")
	require.Len(t, lines, 4)
	require.Equal(t, `{"error":"no such image: busybox","errorDetail":{"code":404,"message":"no such image: busybox"}}`, lines[3])

	b.fail["Pull"] = errors.New("a secret of the inside")
	_, body = ask(t, server, "POST", "/images/create?fromImage=busybox&tag=1", nil)
	require.Contains(t, body, `{"error":"internal error","errorDetail":{"code":500,"message":"internal error"}}`)
	require.NotContains(t, body, "secret")
}

// The Go client's own words for it.
func TestPullImageWithTheClient(t *testing.T) {
	t.Parallel()
	b := newBackend()
	client, err := api.NewClient(api.ClientConfig{Address: serve(t, testConfig(b)).URL})
	require.NoError(t, err)
	var got []string
	yield := func(m api.PullMessage) error {
		got = append(got, m.ID+" "+m.Status)
		return nil
	}
	auth := &api.RegistryAuth{Username: "me", Password: "secret"}
	require.NoError(t, client.PullImage(t.Context(), "r.example:5000/app", auth, yield))
	require.Equal(t, []string{"latest Pulling from library/r.example:5000/app", "a Pull complete", "b Pull complete"}, got)
	require.Equal(t, askedImages{"default", "r.example:5000/app", auth, "latest"}, b.images)
	b.fail["Pull"] = api.Errorf(api.Forbidden, "access denied")
	err = client.PullImage(t.Context(), "app", nil, yield)
	require.Equal(t, api.Forbidden, api.CodeOf(err))
	require.Equal(t, "access denied", api.MessageOf(err))
}

func TestPullImageErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		query  string
		header []string
		fail   error
		status int
		answer string
	}{
		"a wrong parameter": {"?fromImage=A", nil, api.Errorf(api.Invalid, "fromImage:"), 400, "fromImage:\n"},
		"without Nomad":     {"?fromImage=a", nil, api.Errorf(api.Unavailable, "Nomad does not answer"), 503, "Nomad does not answer\n"},
		"no credentials":    {"?fromImage=a", []string{"X-Registry-Auth", "secret!"}, nil, 400, "X-Registry-Auth: must be base64 of a JSON object\n"},
		"an import":         {"?fromSrc=-&repo=a", nil, nil, 400, "fromSrc: images can't be imported, only pulled with fromImage\n"},
	} {
		b := newBackend()
		b.fail["Parameters"] = c.fail
		resp, body := ask(t, serve(t, testConfig(b)), "POST", "/images/create"+c.query, nil, c.header...)
		require.Equal(t, c.status, resp.StatusCode, "%s: %s", name, body)
		require.Equal(t, c.answer, body, name)
	}
	resp, _ := ask(t, serve(t, testConfig(newBackend())), "GET", "/images/create", nil)
	require.Equal(t, 405, resp.StatusCode)
}

func TestPullEndsWithItsClient(t *testing.T) {
	t.Parallel()
	b := newBackend()
	b.fail["Hang"], b.pulled = errors.New("hang"), make(chan error, 1)
	server := serve(t, testConfig(b))
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/images/create?fromImage=a", nil)
	require.NoError(t, err)
	resp, err := server.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "Pulling", "the first line comes at once")
	cancel()
	require.ErrorIs(t, <-b.pulled, context.Canceled)
}

// A client that waits is told why its pull ends.
func TestPullEndsWithTheServer(t *testing.T) {
	t.Parallel()
	b := newBackend()
	b.fail["Hang"], b.pulled = errors.New("hang"), make(chan error, 1)
	base, stop := context.WithCancelCause(t.Context())
	server := httptest.NewUnstartedServer(New(testConfig(b)).Handler(true))
	server.Config.BaseContext = func(net.Listener) context.Context { return base }
	server.Start()
	t.Cleanup(server.Close)
	answered := make(chan string, 1)
	go func() {
		_, body := ask(t, server, "POST", "/images/create?fromImage=a", nil)
		answered <- body
	}()
	stop(api.Errorf(api.Unavailable, "the server is stopping"))
	require.ErrorIs(t, <-b.pulled, context.Canceled)
	require.Contains(t, <-answered, `{"error":"the server is stopping","errorDetail":{"code":503,"message":"the server is stopping"}}`)
}
