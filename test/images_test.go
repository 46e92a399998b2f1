//go:build integration

package test

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// ownRegistry is a registry on a free port of 127.0.0.1, with a login if login is not nil.
type ownRegistry struct {
	host  string
	login atomic.Pointer[authn.Basic]
	held  atomic.Pointer[chan struct{}]
}

// newRegistry starts a registry that ends with the test.
func newOwnRegistry(t *testing.T, login *authn.Basic) *ownRegistry {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	made := &ownRegistry{}
	made.login.Store(login)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if held := made.held.Load(); held != nil && strings.HasPrefix(r.UserAgent(), "docker/") {
			select {
			case <-*held:
			case <-r.Context().Done():
			}
		}
		if login := made.login.Load(); login != nil {
			if user, password, _ := r.BasicAuth(); user != login.Username || password != login.Password {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections() // Docker keeps some
		server.Close()
	})
	made.host = strings.TrimPrefix(server.URL, "http://")
	return made
}

// hold lets Docker's requests wait until release is called, which the test's end does too.
func (r *ownRegistry) hold(t *testing.T) (release func()) {
	t.Helper()
	held := make(chan struct{})
	r.held.Store(&held)
	release = sync.OnceFunc(func() {
		r.held.Store(nil)
		close(held)
	})
	t.Cleanup(release)
	return release
}

// push pushes funcd/env, with these variables in its environment, as pushAs does.
func (r *ownRegistry) push(t *testing.T, ref string, env ...string) (digest string) {
	t.Helper()
	return r.pushAs(t, "funcd/env", ref, func(c *v1.ConfigFile) { c.Config.Env = append(c.Config.Env, env...) })
}

// pushAs pushes one of the tests' images, unlike any before, and returns its digest. ref is what comes after the host. Docker forgets what it has
// pulled of it when the test ends.
func (r *ownRegistry) pushAs(t *testing.T, image, ref string, change func(*v1.ConfigFile)) (digest string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	docker(t, "", "save", "--output", file, image)
	base, err := tarball.ImageFromPath(file, nil)
	require.NoError(t, err)
	config, err := base.ConfigFile()
	require.NoError(t, err)
	config = config.DeepCopy()
	config.Config.Labels = map[string]string{"test": uuid.NewString()}
	change(config)
	made, err := mutate.ConfigFile(base, config)
	require.NoError(t, err)
	target, err := name.ParseReference(r.host + "/" + ref)
	require.NoError(t, err)
	auth := authn.Anonymous
	if login := r.login.Load(); login != nil {
		auth = login
	}
	require.NoError(t, remote.Write(target, made, remote.WithAuth(auth)))
	hash, err := made.Digest()
	require.NoError(t, err)
	id, err := made.ConfigName()
	require.NoError(t, err)
	t.Cleanup(func() { _ = removeImage(id.String()) })
	return hash.String()
}

// removeImage removes an image from Docker, under all its names.
func removeImage(id string) error {
	return exec.Command("docker", "image", "rm", "--force", id).Run()
}

func (r *ownRegistry) auth(t *testing.T) string {
	t.Helper()
	login := r.login.Load()
	header, err := api.RegistryAuth{Username: login.Username, Password: login.Password}.Header()
	require.NoError(t, err)
	return header
}

// inspectImage asks the stack for an image that it is to know.
func (s *stack) inspectImage(t *testing.T, path string, headers ...string) api.ImageInspect {
	t.Helper()
	a := s.request(t, http.MethodGet, path, "", headers...)
	require.Equal(t, http.StatusOK, a.status, a.body)
	var found api.ImageInspect
	require.NoError(t, json.Unmarshal([]byte(a.body), &found), a.body)
	return found
}

func TestImagesAreInspected(t *testing.T) {
	t.Parallel()
	public, private := newOwnRegistry(t, nil), newOwnRegistry(t, &authn.Basic{Username: "me", Password: "secret"})
	digest := public.push(t, "team/app:1", "A=b")
	pinned := public.host + "/team/app@" + digest
	for _, path := range []string{
		"/images/" + public.host + "/team/app:1/json", "/v1.23/images/" + public.host + "/team/app:1/json",
		"/images/" + url.PathEscape(public.host+"/team/app:1") + "/json", "/v1.23/images/" + url.PathEscape(public.host+"/team/app:1") + "/json",
	} {
		found := dev.inspectImage(t, path)
		require.Equal(t, []string{public.host + "/team/app:1"}, found.RepoTags, path)
		require.Equal(t, []string{pinned}, found.RepoDigests, path)
		require.Equal(t, "linux", found.OS)
		require.Contains(t, found.Config.Env, "A=b")
		require.Positive(t, found.Size)
	}
	require.Equal(t, []string{pinned}, dev.inspectImage(t, "/images/"+pinned+"/json").RepoDigests)

	local := dev.inspectImage(t, "/images/funcd/fail/json") // other tests give funcd/hello other names
	require.Equal(t, strings.TrimSpace(docker(t, "", "image", "inspect", "--format", "{{.Id}}", "funcd/fail")), local.ID)
	require.Contains(t, local.RepoTags, "funcd/fail:latest")
	require.Equal(t, local, dev.inspectImage(t, "/images/"+local.ID+"/json"))

	private.push(t, "app:1")
	ref := private.host + "/app:1"
	found := dev.inspectImage(t, "/images/"+ref+"/json", api.RegistryAuthHeader, private.auth(t))
	require.Equal(t, []string{ref}, found.RepoTags)
	other, err := api.RegistryAuth{Username: "me", Password: "guess"}.Header()
	require.NoError(t, err)
	for _, headers := range [][]string{nil, {api.RegistryAuthHeader, other}} {
		a := dev.request(t, http.MethodGet, "/images/"+ref+"/json", "", headers...)
		require.Equal(t, answer{http.StatusNotFound, a.header, "No such image: " + ref + "\n"}, a)
	}

	missing := public.host + "/team/app:none"
	a := dev.request(t, http.MethodGet, "/images/"+missing+"/json", "")
	require.Equal(t, answer{http.StatusNotFound, a.header, "No such image: " + missing + "\n"}, a)
	require.Equal(t, http.StatusBadRequest, dev.request(t, http.MethodGet, "/images/Wrong/json", "").status)
	free, err := freePorts(1)
	require.NoError(t, err)
	a = dev.request(t, http.MethodGet, "/images/127.0.0.1:"+free[0]+"/app/json", "")
	require.Equal(t, http.StatusServiceUnavailable, a.status)
	require.NotContains(t, readFile(t, dev.logFile), "guess", "no login is logged")
}

// Each has its own sentence, and nothing of the function is left.
func TestCreateTellsWhyAnImageCannotBeUsed(t *testing.T) {
	t.Parallel()
	public, private := newOwnRegistry(t, nil), newOwnRegistry(t, &authn.Basic{Username: "me", Password: "secret"})
	private.push(t, "app:1")
	public.pushAs(t, "funcd/env", "app:arm", func(c *v1.ConfigFile) { c.Architecture = "arm64" })
	arm := public.host + "/app:arm"
	free, err := freePorts(1)
	require.NoError(t, err)
	away := "127.0.0.1:" + free[0]
	for title, c := range map[string]struct{ image, message string }{
		"not found":      {public.host + "/app:none", "no such image: " + public.host + "/app:none"},
		"unreachable":    {away + "/app", "the registry " + away + " does not answer, and the local Docker daemon does not know " + away + "/app"},
		"denied":         {private.host + "/app:1", "access to " + private.host + "/app:1 denied: there is no such repository, or " + private.host + " wants a login that allows it"},
		"wrong platform": {arm, arm + " has no image for linux/amd64 (it has linux/arm64)"},
		"malformed":      {"Wrong", `Config.Image: "Wrong"`},
	} {
		f := program(c.image, "env")
		f.Name = newName(t)
		_, err := dev.CreateFunction(t.Context(), f)
		require.Equal(t, api.Invalid, api.CodeOf(err), title)
		require.Contains(t, api.MessageOf(err), c.message, title)
		_, err = dev.Function(t.Context(), f.Name)
		require.Equal(t, api.NotFound, api.CodeOf(err), title)
		require.NotContains(t, dev.consulKeys(t, "funcd/functions/default/"), "funcd/functions/default/"+f.Name, title)
		require.Equal(t, http.StatusNotFound, request(t, http.MethodGet, dev.nomad+jobOf("func-default-"+f.Name), "").status, title)
	}
}

// A tag that is pushed again changes nothing of a function until it is told to pull, or is created anew.
func TestFunctionsKeepTheirImageUntilTheyPull(t *testing.T) {
	t.Parallel()
	r := newOwnRegistry(t, nil)
	ref := r.host + "/app:latest"
	first := r.push(t, "app:latest", "VERSION=one")
	f := dev.create(t, cold(program(ref)))
	require.Contains(t, f.sync(t, "").body, `"VERSION=one"`)

	second := r.push(t, "app:latest", "VERSION=two")
	require.Contains(t, f.sync(t, "").body, `"VERSION=one"`)
	timeout := 60
	_, err := dev.UpdateFunction(t.Context(), f.Name, api.FunctionUpdate{Timeout: &timeout})
	require.NoError(t, err)
	require.Contains(t, f.sync(t, "").body, `"VERSION=one"`, "another update does not pull")
	require.Contains(t, dev.create(t, cold(program(ref))).sync(t, "").body, `"VERSION=two"`)

	a := dev.request(t, http.MethodPut, "/funcs/"+f.Name, `{"Pull":true}`)
	require.Equal(t, http.StatusOK, a.status, a.body)
	var updated api.Function
	require.NoError(t, json.Unmarshal([]byte(a.body), &updated))
	require.Equal(t, f.UUID, updated.UUID)
	require.Equal(t, ref, updated.Config.Image)
	require.Contains(t, f.sync(t, "").body, `"VERSION=two"`)
	require.Equal(t, r.host+"/app@"+second, imageOf(t, dev, f))
	require.NotEqual(t, first, second)
}

func TestInfo(t *testing.T) {
	t.Parallel()
	f := dev.create(t, warm(1, program("funcd/hello")))
	f.awaitReady(t, 1)
	var info api.Info
	eventually(t, "a container that Nomad says is running, and the images", func() bool { // that Docker names, if it does so in time
		var err error
		info, err = dev.Info(t.Context())
		require.NoError(t, err)
		return info.ContainersRunning > 0 && info.Images >= len(images)
	})
	// Tests add nodes, and take them away.
	eventually(t, "what Nomad says of its ready nodes", func() bool {
		var nodes []struct {
			Status, SchedulingEligibility string
			Drivers                       map[string]struct{ Healthy bool }
			NodeResources                 struct {
				Cpu    struct{ TotalCpuCores int }
				Memory struct{ MemoryMB int64 }
			}
		}
		dev.nomadGet(t, "/v1/nodes?resources=true", &nodes)
		var want api.Info
		for _, n := range nodes {
			if n.Status == "ready" && n.SchedulingEligibility == "eligible" && n.Drivers["docker"].Healthy {
				want.Nodes++
				want.NCPU += n.NodeResources.Cpu.TotalCpuCores
				want.MemTotal += n.NodeResources.Memory.MemoryMB << 20
			}
		}
		now, err := dev.Info(t.Context())
		require.NoError(t, err)
		return want.Nodes > 0 && now.Nodes == want.Nodes && now.NCPU == want.NCPU && now.MemTotal == want.MemTotal
	})
	require.GreaterOrEqual(t, info.Containers, info.ContainersRunning)
	require.Positive(t, info.Functions)
	host, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, host, info.Name)

	g, server := nomadBehindGate(t)
	o := beside("info")
	o.nomad = server.URL
	own := startOwn(t, "info", o)
	info, err = own.Info(t.Context())
	require.NoError(t, err)
	require.Zero(t, info.Functions, "those of the other funcd are not its own")
	g.set(hangUp)
	server.CloseClientConnections()
	a := own.request(t, http.MethodGet, "/info", "")
	require.Equal(t, answer{http.StatusServiceUnavailable, a.header, "Nomad does not answer\n"}, a)
}
