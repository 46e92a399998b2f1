package images

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/funcd/funcd/api"
)

// registries asks registries. HTTPS is tried first; plain HTTP is the fallback for those on this host and at private addresses.
type registries struct {
	platform  v1.Platform
	timeout   time.Duration
	transport *http.Transport
}

func newRegistries(platform v1.Platform, timeout time.Duration) *registries {
	return &registries{
		platform: platform, timeout: timeout,
		// A transport of its own, so that Close has no effect on others that use the library.
		transport: remote.DefaultTransport.(*http.Transport).Clone(),
	}
}

// inspect returns what the registry says of an image. The errors are *api.Error: NotFound, Forbidden if access is denied, Unavailable if
// the registry gives no usable answer, Invalid if it is not an image or not for the platform.
//
// The messages hold nothing of the registry's answer: users choose the host, which may be one that only this server can reach.
func (r *registries) inspect(ctx context.Context, ref imageRef, auth authn.Authenticator) (api.ImageInspect, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()

	descriptor, err := remote.Get(ref.remote,
		remote.WithContext(ctx),
		remote.WithAuth(auth),
		remote.WithPlatform(r.platform),
		remote.WithTransport(boundedTransport{r.transport}),
		remote.WithUserAgent("funcd"),
		// Somebody waits for the answer.
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}))
	if err != nil {
		return api.ImageInspect{}, explain(err, ref)
	}
	if err := r.checkIndex(descriptor, ref); err != nil {
		return api.ImageInspect{}, err
	}
	image, err := descriptor.Image()
	if err != nil {
		return api.ImageInspect{}, explain(err, ref)
	}
	manifest, err := image.Manifest()
	if err != nil {
		return api.ImageInspect{}, explain(err, ref)
	}
	// A registry also holds charts, signatures and other artifacts, which have configs of their own kind.
	if kind := manifest.Config.MediaType; kind != "" && !kind.IsConfig() {
		return api.ImageInspect{}, api.Errorf(api.Invalid, "%s is not a container image", ref)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return api.ImageInspect{}, explain(err, ref)
	}
	// Docker runs an image that has only one platform, and the wrong one, with a warning. Its process can't start without an emulator, so
	// a function made of it would fail at every call; who has the emulator also has the image locally, where this is not checked.
	if has := (v1.Platform{OS: config.OS, Architecture: config.Architecture}); !r.runs(has) {
		return api.ImageInspect{}, r.wrongPlatform(ref, has.String())
	}
	return r.describe(ref, descriptor.Digest, manifest, config), nil
}

// describe puts an image into the words of Docker's inspect.
func (r *registries) describe(ref imageRef, digest v1.Hash, manifest *v1.Manifest, config *v1.ConfigFile) api.ImageInspect {
	found := api.ImageInspect{
		ID:       manifest.Config.Digest.String(),
		RepoTags: []string{},
		// The digest of what was asked for: of an index, if it is one, so that nodes of every architecture find theirs.
		RepoDigests:  []string{ref.pinned(digest)},
		Architecture: config.Architecture,
		OS:           config.OS,
		Size:         manifest.Config.Size,
		Config: api.ImageConfig{
			User:         config.Config.User,
			ExposedPorts: config.Config.ExposedPorts,
			Env:          config.Config.Env,
			Cmd:          config.Config.Cmd,
			Volumes:      config.Config.Volumes,
			WorkingDir:   config.Config.WorkingDir,
			Entrypoint:   config.Config.Entrypoint,
			Labels:       config.Config.Labels,
			StopSignal:   config.Config.StopSignal,
		},
	}
	if _, ok := ref.named.(reference.Tagged); ok {
		found.RepoTags = append(found.RepoTags, reference.FamiliarString(ref.named))
	}
	if !config.Created.IsZero() {
		found.Created = config.Created.UTC().Format(time.RFC3339Nano)
	}
	for _, layer := range manifest.Layers {
		found.Size += layer.Size
	}
	return found
}

// checkIndex checks that an index has an image for the platform, which the library can only say in words. Anything else passes.
func (r *registries) checkIndex(descriptor *remote.Descriptor, ref imageRef) error {
	if !descriptor.MediaType.IsIndex() {
		return nil
	}
	index, err := descriptor.ImageIndex()
	if err != nil {
		return explain(err, ref)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return explain(err, ref)
	}
	var has []string
	for _, image := range manifest.Manifests {
		platform := v1.Platform{OS: "linux", Architecture: "amd64"} // what the library takes an image for that does not say
		if image.Platform != nil {
			platform = *image.Platform
		}
		if platform.Satisfies(r.platform) {
			return nil
		}
		// BuildKit files its attestations as images for unknown/unknown.
		if platform.OS != "unknown" {
			has = append(has, platform.String())
		}
	}
	slices.Sort(has)
	return r.wrongPlatform(ref, slices.Compact(has)...)
}

// runs tells whether an image of this platform runs on the nodes, as far as the image says what it is for.
func (r *registries) runs(has v1.Platform) bool {
	return (has.OS == "" || has.OS == r.platform.OS) && (has.Architecture == "" || has.Architecture == r.platform.Architecture)
}

func (r *registries) wrongPlatform(ref imageRef, has ...string) *api.Error {
	list := "none"
	if len(has) > 0 {
		list = fmt.Sprintf("%.300s", strings.Join(has, ", "))
	}
	return api.Errorf(api.Invalid, "%s has no image for %s (it has %s)", ref, r.platform, list)
}

// explain tells the caller why a registry has not given an image.
func explain(err error, ref imageRef) *api.Error {
	host := ref.registryHost()
	var answer *transport.Error
	var certificate *tls.CertificateVerificationError
	var network *url.Error
	switch {
	// First, as plain HTTP may have been tried next, and been answered by a server that only speaks TLS.
	case errors.As(err, &certificate):
		return api.Wrap(api.Unavailable, err, fmt.Sprintf("the registry %s has no certificate that is trusted here", host))
	case errors.As(err, &answer):
		switch answer.StatusCode {
		case http.StatusNotFound:
			return noSuchImage(ref, err)
		case http.StatusUnauthorized, http.StatusForbidden:
			// Docker Hub says so of a repository that does not exist, too.
			return api.Wrap(api.Forbidden, err,
				fmt.Sprintf("access to %s denied: there is no such repository, or %s wants a login that allows it", ref, host))
		}
		return api.Wrap(api.Unavailable, err, fmt.Sprintf("the registry %s answered with status %d", host, answer.StatusCode))
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return api.Wrap(api.Unavailable, err, fmt.Sprintf("the registry %s does not answer", host))
	}
	return api.Wrap(api.Unavailable, err, fmt.Sprintf("the registry %s gave an answer for %s that is not an image's", host, ref))
}

// boundedTransport bounds the length of every answer, as a manifest's and a config's are read into memory.
type boundedTransport struct{ http.RoundTripper }

func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	}
	return resp, err
}
