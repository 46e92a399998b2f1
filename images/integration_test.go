//go:build integration

package images

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// dockerClient calls the Docker daemon of DOCKER_HOST for what the package itself never does: making, pushing and removing images.
type dockerClient struct {
	host   string
	client *http.Client
}

func newDockerClient(t *testing.T) dockerClient {
	t.Helper()
	host := cmp.Or(os.Getenv("DOCKER_HOST"), DefaultDockerHost)
	network, address, err := parseDockerHost(host)
	require.NoError(t, err)
	return dockerClient{host: host, client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		DisableKeepAlives: true,
	}}}
}

// call returns the body of a successful answer. Docker reports a failure that it meets later as a line of the body.
func (d dockerClient) call(t *testing.T, method, path string, query url.Values, body io.Reader) string {
	t.Helper()
	target := url.URL{Scheme: "http", Host: "docker", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequest(method, target.String(), body)
	require.NoError(t, err)
	req.Header.Set("X-Registry-Auth", base64.URLEncoding.EncodeToString([]byte("{}")))
	resp, err := d.client.Do(req)
	require.NoError(t, err, "this test needs a Docker daemon at %s", d.host)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, 2, resp.StatusCode/100, "%s: %s", resp.Status, answer)
	require.NotContains(t, string(answer), `"error"`)
	return string(answer)
}

// importImage makes an image of one small file, unlike any other, and removes it at the test's end.
func (d dockerClient) importImage(t *testing.T, repository, tag string) {
	t.Helper()
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	content := uuid.NewString()
	require.NoError(t, archive.WriteHeader(&tar.Header{Name: "app", Mode: 0o755, Size: int64(len(content))}))
	_, err := io.WriteString(archive, content)
	require.NoError(t, err)
	require.NoError(t, archive.Close())
	d.call(t, http.MethodPost, "/images/create", url.Values{
		"fromSrc": {"-"}, "repo": {repository}, "tag": {tag},
		"changes": {`ENTRYPOINT ["/app", "-v"]`, `CMD ["a b"]`, `EXPOSE 90/udp 80`, `ENV A=b`, `USER nobody`, `WORKDIR /srv`,
			`LABEL c=d`, `VOLUME /data`},
	}, &layer)
	d.removeAfter(t, repository+":"+tag)
}

func (d dockerClient) removeAfter(t *testing.T, ref string) {
	t.Cleanup(func() { d.call(t, http.MethodDelete, "/images/"+ref, url.Values{"force": {"1"}}, nil) })
}

func TestDockerDaemon(t *testing.T) {
	t.Parallel()
	docker := newDockerClient(t)
	registry := newRegistryServer(t)
	unique := "funcd-test-" + uuid.NewString()
	local, pushed := unique+":latest", registry+"/"+unique+":v1"
	docker.importImage(t, unique, "latest")
	r := newResolver(t, Config{DockerHost: docker.host})

	inspected, err := r.Inspect(t.Context(), testAccount, local, nil)
	require.NoError(t, err)
	require.Regexp(t, "^sha256:[0-9a-f]{64}$", inspected.ID)
	require.Equal(t, []string{local}, inspected.RepoTags)
	require.Empty(t, inspected.RepoDigests)
	require.Equal(t, "linux", inspected.OS)
	require.NotEmpty(t, inspected.Architecture)
	require.Positive(t, inspected.Size)
	_, err = time.Parse(time.RFC3339Nano, inspected.Created)
	require.NoError(t, err)
	require.Equal(t, api.ImageConfig{
		User: "nobody", ExposedPorts: map[string]struct{}{"90/udp": {}, "80/tcp": {}}, Env: []string{"A=b"}, Cmd: []string{"a b"},
		Volumes: map[string]struct{}{"/data": {}}, WorkingDir: "/srv", Entrypoint: []string{"/app", "-v"},
		Labels: map[string]string{"c": "d"},
	}, inspected.Config)

	want := api.Image{
		Ref: inspected.ID, ID: inspected.ID, Local: true,
		Entrypoint: []string{"/app", "-v"}, Cmd: []string{"a b"}, ExposedPorts: []string{"80/tcp", "90/udp"},
	}
	hex := strings.TrimPrefix(inspected.ID, "sha256:")
	for _, ref := range []string{unique, local, "docker.io/library/" + local, inspected.ID, hex, hex[:12]} {
		got, err := r.Resolve(t.Context(), testAccount, ref)
		require.NoError(t, err, ref)
		require.Equal(t, want, got, ref)
	}

	// Once a registry has it, it is what any node can pull, by every name that the daemon knows it by.
	docker.call(t, http.MethodPost, "/images/"+local+"/tag", url.Values{"repo": {registry + "/" + unique}, "tag": {"v1"}}, nil)
	docker.removeAfter(t, pushed)
	docker.call(t, http.MethodPost, "/images/"+registry+"/"+unique+"/push", url.Values{"tag": {"v1"}}, nil)
	target, err := name.ParseReference(pushed)
	require.NoError(t, err)
	descriptor, err := remote.Head(target)
	require.NoError(t, err)
	want.Ref, want.Local = registry+"/"+unique+"@"+descriptor.Digest.String(), false
	for _, ref := range []string{pushed, want.Ref, registry + "/" + unique + ":v1@" + descriptor.Digest.String(), local, inspected.ID} {
		got, err := r.Resolve(t.Context(), testAccount, ref)
		require.NoError(t, err, ref)
		require.Equal(t, want, got, ref)
	}

	// The daemon and the registry agree on what they both say.
	fromDaemon, err := r.Inspect(t.Context(), testAccount, pushed, nil)
	require.NoError(t, err)
	parsed, err := parse(pushed)
	require.NoError(t, err)
	fromRegistry, err := r.registries.inspect(t.Context(), parsed, authn.Anonymous)
	require.NoError(t, err)
	fromDaemon.RepoTags, fromDaemon.Size = fromRegistry.RepoTags, fromRegistry.Size
	require.Equal(t, fromDaemon, fromRegistry)
	got, err := r.ResolveFromRegistry(t.Context(), testAccount, pushed)
	require.NoError(t, err)
	require.Equal(t, want, got)

	_, err = r.Resolve(t.Context(), testAccount, registry+"/"+unique+":nope")
	requireError(t, err, api.Invalid, "no such image: "+registry+"/"+unique+":nope")
	closed := closedPort(t) + "/" + unique
	_, err = r.Resolve(t.Context(), testAccount, closed)
	host, _, _ := strings.Cut(closed, "/")
	requireError(t, err, api.Invalid, "the registry "+host+" does not answer, and the local Docker daemon does not know "+closed)
}
