package httpapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// askedImages is what a backend was asked for of images.
type askedImages struct {
	account, ref string
	auth         *api.RegistryAuth
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

func (b *backend) Info(_ context.Context, account string) (api.Info, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.account = account
	return api.Info{Name: "here", NCPU: 6, MemTotal: 3 << 30}, b.fail["Info"]
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
	require.Equal(t, api.Info{Name: "here", NCPU: 6, MemTotal: 3 << 30}, info)
	require.Equal(t, "default", b.account)

	b.fail["Info"] = api.Errorf(api.Unavailable, "Nomad does not answer")
	resp, body := ask(t, server, "GET", "/v1.23/info", nil)
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "Nomad does not answer\n", body)
}
