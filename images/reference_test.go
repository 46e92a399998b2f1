package images

import (
	"net/url"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestParseReadsReferencesAsDocker(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("0a", 32)
	for ref, want := range map[string]struct{ local, remote, scheme string }{
		"busybox":                           {"busybox", "index.docker.io/library/busybox:latest", "https"},
		"me/app:1":                          {"me/app:1", "index.docker.io/me/app:1", "https"},
		"docker.io/me/app":                  {"docker.io/me/app", "index.docker.io/me/app:latest", "https"},
		"index.docker.io/me/app":            {"index.docker.io/me/app", "index.docker.io/me/app:latest", "https"},
		"registry.example/a/b/c:v1":         {"registry.example/a/b/c:v1", "registry.example/a/b/c:v1", "https"},
		"registry.example:5000/app":         {"registry.example:5000/app", "registry.example:5000/app:latest", "https"},
		"busybox@sha256:" + hex:             {"docker.io/library/busybox@sha256:" + hex, "index.docker.io/library/busybox@sha256:" + hex, "https"},
		"r.example/app:1@sha256:" + hex:     {"r.example/app@sha256:" + hex, "r.example/app@sha256:" + hex, "https"},
		"r.example/app@sha512:" + hex + hex: {"r.example/app@sha512:" + hex + hex, "r.example/app@sha512:" + hex + hex, "https"},
		"localhost/app":                     {"localhost/app", "localhost/app:latest", "http"},
		"localhost:5000/app":                {"localhost:5000/app", "localhost:5000/app:latest", "http"},
		"127.0.0.1/app":                     {"127.0.0.1/app", "127.0.0.1/app:latest", "http"},
		"127.1.2.3:5000/app":                {"127.1.2.3:5000/app", "127.1.2.3:5000/app:latest", "http"},
		"[::1]:5000/app":                    {"[::1]:5000/app", "[::1]:5000/app:latest", "http"},
		"127.0.0.1.example/app":             {"127.0.0.1.example/app", "127.0.0.1.example/app:latest", "https"},
		"128.0.0.1:5000/app":                {"128.0.0.1:5000/app", "128.0.0.1:5000/app:latest", "https"},
		"sha256:" + hex:                     {"sha256:" + hex, "", ""},
		hex:                                 {"sha256:" + hex, "", ""},
		"Registry/app":                      {"Registry/app", "Registry/app:latest", "https"},
		"r.example/" + hex + "@sha256:" + hex: {
			"r.example/" + hex + "@sha256:" + hex, "r.example/" + hex + "@sha256:" + hex, "https",
		},
	} {
		t.Run(ref, func(t *testing.T) {
			t.Parallel()
			got, err := parse(ref)
			require.NoError(t, err)
			require.Equal(t, ref, got.String())
			require.Equal(t, want.local, got.local)
			if want.remote == "" {
				require.Nil(t, got.named)
				require.Nil(t, got.remote)
				return
			}
			require.Equal(t, want.remote, got.remote.Name())
			require.Equal(t, want.scheme, got.remote.Context().Scheme())
		})
	}
}

func TestParseRejectsMalformed(t *testing.T) {
	t.Parallel()
	for _, ref := range []string{
		"", " ", "a b", "App", "app:", "app@", "/app", "app/", "https://registry.example/app", "../etc", "app?x=y", "app#1", "app\x00",
		"app@sha256:abc", "app@md5:" + strings.Repeat("0", 32), "app@sha384:" + strings.Repeat("0", 96), "app:" + strings.Repeat("t", 129),
		strings.Repeat("a", 256), "registry.example:port/app", "a@b@c",
	} {
		t.Run(ref, func(t *testing.T) {
			t.Parallel()
			r := newResolver(t, Config{})
			_, err := r.Resolve(t.Context(), testAccount, ref)
			require.Equal(t, api.Invalid, api.CodeOf(err))
			require.ErrorContains(t, err, "is not an image reference")
			_, err = r.Inspect(t.Context(), testAccount, ref, nil)
			require.Equal(t, api.Invalid, api.CodeOf(err))
		})
	}
}

func FuzzParseReference(f *testing.F) {
	for _, seed := range []string{
		"busybox", "me/app:1", "127.0.0.1:5000/app", "[::1]:5000/app", "localhost/app", "Registry/app", "a:1@sha256:" + strings.Repeat("0a", 32),
		strings.Repeat("0a", 32), "sha256:" + strings.Repeat("0a", 32), "x@sha512:" + strings.Repeat("0a", 64), "", "https://a/b", "a..b/c", "é",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		got, err := parse(ref)
		if err != nil {
			e, ok := err.(*api.Error) // the contract is the type, not the chain
			require.True(t, ok)
			require.Equal(t, api.Invalid, e.Code)
			require.LessOrEqual(t, len(e.Message), 2048)
			return
		}
		// Whatever passes is asked for at the endpoint meant for it, and at no other.
		target, err := url.Parse("http://docker/images/" + got.local + "/json")
		require.NoError(t, err)
		require.Equal(t, "/images/"+got.local+"/json", target.Path)
		require.NotContains(t, "/"+got.local+"/", "/../")
		if got.named == nil {
			return
		}
		again, err := reference.ParseNormalizedNamed(got.named.String())
		require.NoError(t, err)
		require.Equal(t, got.named.String(), again.String())
		require.True(t, strings.HasSuffix(got.remote.Name(), "/"+reference.Path(got.named)+suffix(got.named)), got.remote.Name())
		target, err = url.Parse("https://" + got.remote.Context().RegistryStr() + "/v2/")
		require.NoError(t, err)
		require.Equal(t, "/v2/", target.Path)
	})
}

func suffix(named reference.Named) string { return strings.TrimPrefix(named.String(), named.Name()) }
