package images

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

const (
	localID = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// dockerd answers as a Docker daemon does: the images it knows by any of the names that they are asked for, 404 for others.
type dockerd map[string]api.ImageInspect

func (d dockerd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ref, ok := strings.CutPrefix(r.URL.Path, "/images/")
	ref, isJSON := strings.CutSuffix(ref, "/json")
	found, known := d[ref]
	switch {
	case r.Method != http.MethodGet || !ok || !isJSON:
		http.Error(w, `{"message":"page not found"}`, http.StatusNotFound)
	case !known:
		http.Error(w, `{"message":"No such image: `+ref+`"}`, http.StatusNotFound)
	default:
		_ = json.NewEncoder(w).Encode(found)
	}
}

// serveUnix starts an HTTP server on a Unix socket and returns its DOCKER_HOST.
func serveUnix(t *testing.T, handler http.Handler) string {
	t.Helper()
	// Not t.TempDir: its path holds the test's name, and a socket's path can't be longer than 107 bytes.
	dir, err := os.MkdirTemp("", "images")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "docker.sock"))
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(handler)
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return "unix://" + listener.Addr().String()
}

func TestResolvePrefersLocalImage(t *testing.T) {
	t.Parallel()
	config := api.ImageConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}, ExposedPorts: map[string]struct{}{"9/tcp": {}, "10/tcp": {}},
	}
	image := func(repoDigests ...string) api.ImageInspect {
		return api.ImageInspect{ID: localID, RepoDigests: repoDigests, Config: config}
	}
	id := strings.TrimPrefix(localID, "sha256:")

	for title, test := range map[string]struct {
		ref   string
		known dockerd
		want  string
		local bool
	}{
		"pulled from Docker Hub": {"ubuntu", dockerd{"ubuntu": image("ubuntu@" + digestA)}, "ubuntu@" + digestA, false},
		"pulled, asked for by its full name": {"docker.io/library/ubuntu:22.04",
			dockerd{"docker.io/library/ubuntu:22.04": image("ubuntu@" + digestA)}, "ubuntu@" + digestA, false},
		"pulled from another registry": {"127.0.0.1:5000/team/app:1",
			dockerd{"127.0.0.1:5000/team/app:1": image("127.0.0.1:5000/team/app@" + digestA)},
			"127.0.0.1:5000/team/app@" + digestA, false},
		"in two repositories": {"team/app", dockerd{"team/app": image("app@"+digestA, "team/app@"+digestB)}, "team/app@" + digestB, false},
		"tagged anew from a registry's": {"mine", dockerd{"mine": image("ubuntu@"+digestB, "127.0.0.1:5000/ubuntu@"+digestA)},
			"127.0.0.1:5000/ubuntu@" + digestA, false},
		"by digest": {"app:1@" + digestB, dockerd{"docker.io/library/app@" + digestB: image("app@"+digestA, "app@"+digestB)},
			"app@" + digestB, false},
		"built here":                      {"app:latest", dockerd{"app:latest": image()}, localID, true},
		"built here, unreadable digests":  {"app", dockerd{"app": image("<none>@<none>", "app", "app:1")}, localID, true},
		"by id":                           {localID, dockerd{localID: image()}, localID, true},
		"by id without its algorithm":     {id, dockerd{localID: image()}, localID, true},
		"by id, of a registry":            {localID, dockerd{localID: image("app@" + digestA)}, "app@" + digestA, false},
		"by the beginning of its id":      {id[:12], dockerd{id[:12]: image()}, localID, true},
		"of another platform than nodes'": {"app", dockerd{"app": {ID: localID, Architecture: "s390x", Config: config}}, localID, true},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			for _, host := range []string{serveUnix(t, test.known), "tcp://" + serve(t, test.known)} {
				got, err := newResolver(t, Config{DockerHost: host}).Resolve(t.Context(), testAccount, test.ref)
				require.NoError(t, err)
				require.Equal(t, api.Image{
					Ref: test.want, ID: localID, Local: test.local,
					Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}, ExposedPorts: []string{"10/tcp", "9/tcp"},
				}, got)
			}
		})
	}
}

func TestResolveAsksRegistryForWhatDaemonDoesNotKnow(t *testing.T) {
	t.Parallel()
	registry := newRegistryServer(t)
	image := newImage(t, v1.Platform{OS: "linux", Architecture: "amd64"})
	push(t, registry+"/app:1", image)
	closed := closedPort(t)
	released := make(chan struct{})
	hanging := serveUnix(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released }))
	t.Cleanup(func() { close(released) })
	answers := func(status int, body string) string {
		return serveUnix(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
	}
	notAsked := []string{
		"no such image: " + registry + "/app:2 in its registry, and the local Docker daemon does not answer",
		"the registry " + closed + " does not answer",
		localID + " is an image id, which only the local Docker daemon can know, and it does not answer",
	}
	notAskedCodes := []api.Code{api.Unavailable, api.Unavailable, api.Unavailable}
	absentCodes := []api.Code{api.NotFound, api.Unavailable, api.Unavailable}
	absent := append([]string{"no such image: " + registry + "/app:2"}, notAsked[1:]...)

	for title, test := range map[string]struct {
		host     string
		messages []string // for an image unknown to its registry, one of an unreachable registry, and an id
		codes    []api.Code
		warned   bool
		timeout  time.Duration
	}{
		"unknown image": {
			host: serveUnix(t, dockerd{}),
			messages: []string{
				"no such image: " + registry + "/app:2",
				"the registry " + closed + " does not answer, and the local Docker daemon does not know " + closed + "/app",
				"no such image: " + localID,
			},
			codes: []api.Code{api.NotFound, api.Unavailable, api.NotFound},
		},
		"no socket":    {host: "unix:///nowhere/docker.sock", messages: absent, codes: absentCodes},
		"closed port":  {host: "tcp://" + closedPort(t), messages: absent, codes: absentCodes},
		"hangs":        {host: hanging, messages: notAsked, codes: notAskedCodes, warned: true, timeout: 50 * time.Millisecond},
		"fails":        {host: answers(500, `{"message":"no"}`), messages: notAsked, codes: notAskedCodes, warned: true},
		"rubbish":      {host: answers(200, "rubbish"), messages: notAsked, codes: notAskedCodes, warned: true},
		"without Id":   {host: answers(200, "{}"), messages: notAsked, codes: notAskedCodes, warned: true},
		"endless":      {host: answers(200, strings.Repeat(" ", maxAnswer+1)), messages: notAsked, codes: notAskedCodes, warned: true},
		"endless, 404": {host: answers(404, strings.Repeat(" ", maxAnswer+1)), messages: notAsked, codes: notAskedCodes, warned: true},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			logger, written := newLog()
			r := newResolver(t, Config{DockerHost: test.host, DaemonTimeout: test.timeout, Logger: logger})

			got, err := r.Resolve(t.Context(), testAccount, registry+"/app:1")
			require.NoError(t, err)
			require.Equal(t, configDigest(t, image), got.ID)
			require.Equal(t, test.warned, strings.Contains(written.String(), "level=WARN"), written)

			for i, ref := range []string{registry + "/app:2", closed + "/app", localID} {
				_, err := r.Resolve(t.Context(), testAccount, ref)
				requireError(t, err, api.Invalid, test.messages[i])

				message := test.messages[i]
				if test.codes[i] == api.NotFound {
					message = "No such image: " + ref
				}
				_, err = r.Inspect(t.Context(), testAccount, ref, nil)
				requireError(t, err, test.codes[i], message)
			}
		})
	}
}

func TestResolveFromRegistryLeavesDaemonOut(t *testing.T) {
	t.Parallel()
	registry := newRegistryServer(t)
	moved := newImage(t, v1.Platform{OS: "linux", Architecture: "amd64"})
	push(t, registry+"/app:1", moved)
	ref := registry + "/app:1"
	r := newResolver(t, Config{DockerHost: serveUnix(t, dockerd{
		ref:     {ID: localID, RepoDigests: []string{registry + "/app@" + digestA}},
		localID: {ID: localID},
	})})

	got, err := r.Resolve(t.Context(), testAccount, ref)
	require.NoError(t, err)
	require.Equal(t, registry+"/app@"+digestA, got.Ref)

	got, err = r.ResolveFromRegistry(t.Context(), testAccount, ref)
	require.NoError(t, err)
	require.Equal(t, registry+"/app@"+digestOf(t, moved), got.Ref)

	_, err = r.ResolveFromRegistry(t.Context(), testAccount, localID)
	requireError(t, err, api.Invalid, localID+" is an image id, which no registry can be asked for")
}

// The answer is one of Docker 20.10, shortened where nothing of it is read.
func TestInspectReadsDockersAnswer(t *testing.T) {
	t.Parallel()
	const answer = `{
		"Id": "` + localID + `", "RepoTags": ["app:1"], "RepoDigests": null, "Parent": "", "Comment": "Imported from -",
		"Created": "2026-02-03T04:05:06.789012345Z", "Container": "", "DockerVersion": "20.10.24+dfsg1", "Author": "",
		"Config": {"Hostname": "", "User": "1000:1000", "AttachStdin": false, "ExposedPorts": {"80/tcp": {}}, "Tty": false,
			"Env": ["PATH=/bin"], "Cmd": null, "Image": "", "Volumes": {"/data": {}}, "WorkingDir": "/srv", "Entrypoint": ["/app"],
			"OnBuild": null, "Labels": null, "StopSignal": "SIGINT"},
		"Architecture": "amd64", "Os": "linux", "Size": 123456, "VirtualSize": 123456,
		"GraphDriver": {"Data": {"UpperDir": "/x"}, "Name": "overlay2"}, "RootFS": {"Type": "layers", "Layers": ["` + digestA + `"]},
		"Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"}
	}`
	r := newResolver(t, Config{DockerHost: serveUnix(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, answer)
	}))})
	got, err := r.Inspect(t.Context(), testAccount, "app:1", nil)
	require.NoError(t, err)

	encoded, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, `{
		"Id": "`+localID+`", "RepoTags": ["app:1"], "RepoDigests": [], "Created": "2026-02-03T04:05:06.789012345Z",
		"Config": {"User": "1000:1000", "ExposedPorts": {"80/tcp": {}}, "Env": ["PATH=/bin"], "Cmd": null, "Volumes": {"/data": {}},
			"WorkingDir": "/srv", "Entrypoint": ["/app"], "Labels": null, "StopSignal": "SIGINT"},
		"Architecture": "amd64", "Os": "linux", "Size": 123456
	}`, string(encoded))
}

func TestParseDockerHost(t *testing.T) {
	t.Parallel()
	for host, want := range map[string][2]string{
		"unix:///var/run/docker.sock": {"unix", "/var/run/docker.sock"},
		"tcp://127.0.0.1:2376":        {"tcp", "127.0.0.1:2376"},
		"tcp://docker":                {"tcp", "docker:2375"},
		"tcp://[::1]:1":               {"tcp", "[::1]:1"},
	} {
		network, address, err := parseDockerHost(host)
		require.NoError(t, err, host)
		require.Equal(t, want, [2]string{network, address}, host)
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	answer := func(status int, body string) string {
		return serveUnix(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/info" {
				status = http.StatusNotFound
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
	}
	require.Equal(t, 7, newResolver(t, Config{DockerHost: answer(http.StatusOK, `{"Images":7,"NCPU":2}`)}).Count(t.Context()))
	require.Zero(t, newResolver(t, Config{DockerHost: answer(http.StatusInternalServerError, "{}")}).Count(t.Context()))
	require.Zero(t, newResolver(t, Config{DockerHost: answer(http.StatusOK, "rubbish")}).Count(t.Context()))
	require.Zero(t, newResolver(t, Config{}).Count(t.Context()), "no daemon")
}
