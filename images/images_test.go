package images

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/funcd/funcd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testAccount = "team"

// newResolver returns a Resolver for linux/amd64 that, without a DockerHost in cfg, finds no daemon.
func newResolver(t *testing.T, cfg Config) *Resolver {
	t.Helper()
	if cfg.DockerHost == "" {
		cfg.DockerHost = "unix://" + filepath.Join(t.TempDir(), "none.sock")
	}
	if cfg.Keychain == nil {
		cfg.Keychain = authn.NewMultiKeychain() // the developer's own credentials are none of the tests' business
	}
	if cfg.Platform == "" {
		cfg.Platform = "linux/amd64"
	}
	r, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return r
}

// serve starts an HTTP server and returns its host and port.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func newRegistryServer(t *testing.T) string {
	t.Helper()
	return serve(t, registry.New(registry.Logger(log.New(io.Discard, "", 0))))
}

// closedPort returns a host and port where nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}

var testCreated = time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC)

// newImage returns an image for a platform with everything in its config that funcd looks at.
func newImage(t *testing.T, platform v1.Platform) v1.Image {
	t.Helper()
	image, err := random.Image(256, 2)
	require.NoError(t, err)
	config, err := image.ConfigFile()
	require.NoError(t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = platform.OS, platform.Architecture, v1.Time{Time: testCreated}
	config.Config = v1.Config{
		Entrypoint:   []string{"/bin/entry", "--flag"},
		Cmd:          []string{"a b", ""},
		Env:          []string{"PATH=/bin"},
		ExposedPorts: map[string]struct{}{"90/udp": {}, "443/tcp": {}, "80": {}, "80/tcp": {}},
		User:         "nobody",
		WorkingDir:   "/srv",
		Labels:       map[string]string{"a": "b"},
		StopSignal:   "SIGINT",
		Volumes:      map[string]struct{}{"/data": {}},
	}
	image, err = mutate.ConfigFile(image, config)
	require.NoError(t, err)
	return image
}

func newIndex(t *testing.T, images map[string]v1.Image) v1.ImageIndex {
	t.Helper()
	index := v1.ImageIndex(empty.Index)
	for text, image := range images {
		platform, err := v1.ParsePlatform(text)
		require.NoError(t, err)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
	}
	return index
}

func push(t *testing.T, ref string, what any, options ...remote.Option) {
	t.Helper()
	target, err := name.ParseReference(ref)
	require.NoError(t, err)
	switch what := what.(type) {
	case v1.Image:
		require.NoError(t, remote.Write(target, what, options...))
	case v1.ImageIndex:
		require.NoError(t, remote.WriteIndex(target, what, options...))
	default:
		t.Fatalf("can't push a %T", what)
	}
}

func configDigest(t *testing.T, image v1.Image) string {
	t.Helper()
	digest, err := image.ConfigName()
	require.NoError(t, err)
	return digest.String()
}

func digestOf(t *testing.T, what interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	digest, err := what.Digest()
	require.NoError(t, err)
	return digest.String()
}

// requireError checks an error's code and message, and that it is an *api.Error itself.
func requireError(t *testing.T, err error, code api.Code, message string) *api.Error {
	t.Helper()
	require.Error(t, err)
	e, ok := err.(*api.Error) // the contract is the type, not the chain
	require.True(t, ok, "%T is not *api.Error", err)
	require.Equal(t, code, e.Code)
	require.Equal(t, message, e.Message)
	return e
}

func TestResolveFindsRegistryImage(t *testing.T) {
	t.Parallel()
	host := newRegistryServer(t)
	amd64 := newImage(t, v1.Platform{OS: "linux", Architecture: "amd64"})
	arm64 := newImage(t, v1.Platform{OS: "linux", Architecture: "arm64"})
	unlabelled := newImage(t, v1.Platform{})
	index := newIndex(t, map[string]v1.Image{
		"linux/amd64": amd64, "linux/arm64/v8": arm64, "unknown/unknown": newImage(t, v1.Platform{}),
	})
	push(t, host+"/team/app:one", amd64)
	push(t, host+"/team/app:latest", arm64)
	push(t, host+"/team/app:many", index)
	push(t, host+"/team/app:unlabelled", unlabelled)

	for title, test := range map[string]struct {
		ref, platform string
		digest        string
		image         v1.Image
	}{
		"by tag":                          {":one", "", digestOf(t, amd64), amd64},
		"by digest":                       {"@" + digestOf(t, amd64), "", digestOf(t, amd64), amd64},
		"by digest, whatever the tag":     {":nope@" + digestOf(t, amd64), "", digestOf(t, amd64), amd64},
		"latest by default":               {"", "linux/arm64", digestOf(t, arm64), arm64},
		"index, its digest":               {":many", "", digestOf(t, index), amd64},
		"index, other platform":           {":many", "linux/arm64", digestOf(t, index), arm64},
		"index by digest":                 {"@" + digestOf(t, index), "linux/arm64/v8", digestOf(t, index), arm64},
		"image that names no platform":    {":unlabelled", "", digestOf(t, unlabelled), unlabelled},
		"one image of an index by digest": {"@" + digestOf(t, arm64), "linux/arm64", digestOf(t, arm64), arm64},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			r := newResolver(t, Config{Platform: test.platform})
			want := api.Image{
				Ref:          host + "/team/app@" + test.digest,
				ID:           configDigest(t, test.image),
				Entrypoint:   []string{"/bin/entry", "--flag"},
				Cmd:          []string{"a b", ""},
				ExposedPorts: []string{"443/tcp", "80/tcp", "90/udp"},
			}
			got, err := r.Resolve(t.Context(), testAccount, host+"/team/app"+test.ref)
			require.NoError(t, err)
			require.Equal(t, want, got)

			again, err := r.Resolve(t.Context(), testAccount, got.Ref)
			require.NoError(t, err)
			require.Equal(t, want, again, "what it resolved to resolves to itself")
		})
	}
}

func TestResolveTellsWhyRegistryHasNone(t *testing.T) {
	t.Parallel()
	host := newRegistryServer(t)
	arm64 := newImage(t, v1.Platform{OS: "linux", Architecture: "arm64"})
	push(t, host+"/app:arm", arm64)
	push(t, host+"/app:windows", newImage(t, v1.Platform{OS: "windows", Architecture: "amd64"}))
	push(t, host+"/app:many", newIndex(t, map[string]v1.Image{
		"linux/s390x": newImage(t, v1.Platform{OS: "linux", Architecture: "s390x"}), "linux/arm64/v8": arm64,
		"unknown/unknown": newImage(t, v1.Platform{}),
	}))
	push(t, host+"/app:empty", v1.ImageIndex(empty.Index))
	push(t, host+"/app:chart", mutate.ConfigMediaType(arm64, types.MediaType("application/vnd.cncf.helm.config.v1+json")))
	missing := "@sha256:" + strings.Repeat("ab", 32)

	answers := func(status int, header http.Header, body string) string {
		return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/v2/") && status != http.StatusUnauthorized {
				return // what a registry answers to anybody
			}
			for key, values := range header {
				w.Header()[key] = values
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
	}
	manifest := http.Header{"Content-Type": {string(types.OCIManifestSchema1)}}
	basic := answers(http.StatusUnauthorized, http.Header{"Www-Authenticate": {`Basic realm="r"`}}, "")
	bare := answers(http.StatusUnauthorized, nil, "secret of an internal service")
	forbidden := answers(http.StatusForbidden, nil, "")
	failing := answers(http.StatusServiceUnavailable, nil, "")
	rubbish := answers(http.StatusOK, manifest, "rubbish")
	endless := answers(http.StatusOK, manifest, strings.Repeat(" ", maxAnswer+1))
	noDigests := answers(http.StatusOK, manifest, "{}")
	closed := closedPort(t)
	tls := httptest.NewUnstartedServer(http.NotFoundHandler())
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	t.Cleanup(tls.Close)

	denied := func(host string) string {
		return "access to " + host + "/app denied: there is no such repository, or " + host + " wants a login that allows it"
	}
	unusable := func(host string) string {
		return "the registry " + host + " gave an answer for " + host + "/app that is not an image's"
	}
	for title, test := range map[string]struct{ ref, message string }{
		"missing tag":        {host + "/app:nope", "no such image: " + host + "/app:nope"},
		"missing repository": {host + "/nope/app", "no such image: " + host + "/nope/app"},
		"missing digest":     {host + "/app" + missing, "no such image: " + host + "/app" + missing},
		"index without the platform": {host + "/app:many",
			host + "/app:many has no image for linux/amd64 (it has linux/arm64/v8, linux/s390x)"},
		"index without images":    {host + "/app:empty", host + "/app:empty has no image for linux/amd64 (it has none)"},
		"other architecture":      {host + "/app:arm", host + "/app:arm has no image for linux/amd64 (it has linux/arm64)"},
		"other operating system":  {host + "/app:windows", host + "/app:windows has no image for linux/amd64 (it has windows/amd64)"},
		"not an image":            {host + "/app:chart", host + "/app:chart is not a container image"},
		"401 basic":               {basic + "/app", denied(basic)},
		"401 without a challenge": {bare + "/app", denied(bare)},
		"403":                     {forbidden + "/app", denied(forbidden)},
		"503":                     {failing + "/app", "the registry " + failing + " answered with status 503"},
		"not a manifest":          {rubbish + "/app", unusable(rubbish)},
		"endless manifest":        {endless + "/app", unusable(endless)},
		"manifest of nothing":     {noDigests + "/app", unusable(noDigests)},
		"closed port":             {closed + "/app", "the registry " + closed + " does not answer"},
		"untrusted certificate": {tls.Listener.Addr().String() + "/app",
			"the registry " + tls.Listener.Addr().String() + " has no certificate that is trusted here"},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			r := newResolver(t, Config{})
			_, err := r.Resolve(t.Context(), testAccount, test.ref)
			requireError(t, err, api.Invalid, test.message)
			_, err = r.ResolveFromRegistry(t.Context(), testAccount, test.ref)
			requireError(t, err, api.Invalid, test.message)
		})
	}
}

func TestResolveKeepsCauseOfUnreachableRegistry(t *testing.T) {
	t.Parallel()
	host := closedPort(t)
	_, err := newResolver(t, Config{}).Resolve(t.Context(), testAccount, host+"/app")
	e := requireError(t, err, api.Invalid, "the registry "+host+" does not answer")
	require.ErrorContains(t, e.Err, "connection refused")
}

func TestResolveGivesUpOnSilentRegistry(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	host := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released }))
	t.Cleanup(func() { close(released) }) // before the server's own, which waits for the handlers
	message := "the registry " + host + " does not answer"

	t.Run("after RegistryTimeout", func(t *testing.T) {
		t.Parallel()
		r := newResolver(t, Config{RegistryTimeout: 50 * time.Millisecond})
		_, err := r.Resolve(t.Context(), testAccount, host+"/app")
		e := requireError(t, err, api.Invalid, message)
		require.ErrorIs(t, e, context.DeadlineExceeded)
	})
	t.Run("when the caller does", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := newResolver(t, Config{}).Resolve(ctx, testAccount, host+"/app")
		e := requireError(t, err, api.Invalid, message)
		require.ErrorIs(t, e, context.Canceled)
	})
}

// keychain has one login for every registry, or fails.
type keychain struct {
	auth authn.Authenticator
	err  error
}

func (k keychain) Resolve(authn.Resource) (authn.Authenticator, error) { return k.auth, k.err }

func TestResolveLogsInWithKeychain(t *testing.T) {
	t.Parallel()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	image := newImage(t, v1.Platform{OS: "linux", Architecture: "amd64"})
	login := &authn.Basic{Username: "me", Password: "secret"}
	push(t, host+"/app:1", image, remote.WithAuth(login))

	got, err := newResolver(t, Config{Keychain: keychain{auth: login}}).Resolve(t.Context(), testAccount, host+"/app:1")
	require.NoError(t, err)
	require.Equal(t, configDigest(t, image), got.ID)

	wrong := keychain{auth: &authn.Basic{Username: "me", Password: "guess"}}
	_, err = newResolver(t, Config{Keychain: wrong}).Resolve(t.Context(), testAccount, host+"/app:1")
	requireError(t, err, api.Invalid,
		"access to "+host+"/app:1 denied: there is no such repository, or "+host+" wants a login that allows it")

	broken := keychain{err: errors.New("credential helper: exit status 1")}
	_, err = newResolver(t, Config{Keychain: broken}).Resolve(t.Context(), testAccount, host+"/app:1")
	e := requireError(t, err, api.Internal, "the credentials for "+host+" can't be read")
	require.ErrorIs(t, e, broken.err)
}

func TestInspectDescribesRegistryImage(t *testing.T) {
	t.Parallel()
	host := newRegistryServer(t)
	image := newImage(t, v1.Platform{OS: "linux", Architecture: "amd64"})
	push(t, host+"/app:1", image)
	manifest, err := image.Manifest()
	require.NoError(t, err)
	size := manifest.Config.Size
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	want := api.ImageInspect{
		ID:           configDigest(t, image),
		RepoTags:     []string{host + "/app:1"},
		RepoDigests:  []string{host + "/app@" + digestOf(t, image)},
		Created:      "2024-05-06T07:08:09.123456789Z",
		Architecture: "amd64",
		OS:           "linux",
		Size:         size,
		Config: api.ImageConfig{
			User:         "nobody",
			ExposedPorts: map[string]struct{}{"90/udp": {}, "443/tcp": {}, "80": {}, "80/tcp": {}},
			Env:          []string{"PATH=/bin"},
			Cmd:          []string{"a b", ""},
			Volumes:      map[string]struct{}{"/data": {}},
			WorkingDir:   "/srv",
			Entrypoint:   []string{"/bin/entry", "--flag"},
			Labels:       map[string]string{"a": "b"},
			StopSignal:   "SIGINT",
		},
	}
	r := newResolver(t, Config{})
	got, err := r.Inspect(t.Context(), testAccount, host+"/app:1", nil)
	require.NoError(t, err)
	require.Equal(t, want, got)

	want.RepoTags = []string{}
	got, err = r.Inspect(t.Context(), testAccount, want.RepoDigests[0], nil)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestInspectTellsUnreachableFromNotFound(t *testing.T) {
	t.Parallel()
	host, closed := newRegistryServer(t), closedPort(t)
	denied := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	r := newResolver(t, Config{})

	_, err := r.Inspect(t.Context(), testAccount, host+"/app", nil)
	requireError(t, err, api.NotFound, "No such image: "+host+"/app")
	_, err = r.Inspect(t.Context(), testAccount, denied+"/app", nil)
	requireError(t, err, api.NotFound, "No such image: "+denied+"/app")
	_, err = r.Inspect(t.Context(), testAccount, closed+"/app", nil)
	requireError(t, err, api.Unavailable, "the registry "+closed+" does not answer")
	_, err = r.Inspect(t.Context(), testAccount, "a b", nil)
	require.Equal(t, api.Invalid, api.CodeOf(err))
}

func TestResolverIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	host := newRegistryServer(t)
	image := newImage(t, v1.Platform{OS: "linux", Architecture: "amd64"})
	push(t, host+"/app:1", image)
	r := newResolver(t, Config{})
	var found atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if got, err := r.Resolve(t.Context(), testAccount, host+"/app:1"); err == nil && got.ID == configDigest(t, image) {
				found.Add(1)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 8, found.Load())
}

func TestNewChecksConfig(t *testing.T) {
	t.Parallel()
	for title, test := range map[string]struct {
		cfg     Config
		message string
	}{
		"ssh":               {Config{DockerHost: "ssh://host"}, "DockerHost"},
		"no scheme":         {Config{DockerHost: "/var/run/docker.sock"}, "DockerHost"},
		"no socket":         {Config{DockerHost: "unix://"}, "DockerHost"},
		"no host":           {Config{DockerHost: "tcp://"}, "DockerHost"},
		"no host, port":     {Config{DockerHost: "tcp://:2375"}, "DockerHost"},
		"path":              {Config{DockerHost: "tcp://host:2375/v1"}, "DockerHost"},
		"bad port":          {Config{DockerHost: "tcp://host:http"}, "DockerHost"},
		"only an OS":        {Config{Platform: "linux"}, "Platform"},
		"empty OS":          {Config{Platform: "/amd64"}, "Platform"},
		"four parts":        {Config{Platform: "linux/arm/v7/x"}, "Platform"},
		"negative timeout":  {Config{DaemonTimeout: -1}, "DaemonTimeout"},
		"negative timeout2": {Config{RegistryTimeout: -1}, "RegistryTimeout"},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			_, err := New(test.cfg)
			require.ErrorContains(t, err, test.message)
		})
	}

	r, err := New(Config{})
	require.NoError(t, err)
	require.Equal(t, "linux/"+runtime.GOARCH, r.registries.platform.String())
}

// newLog returns a logger for Config and what it has written.
func newLog() (*slog.Logger, *bytes.Buffer) {
	written := new(bytes.Buffer)
	return slog.New(slog.NewTextHandler(written, nil)), written
}
