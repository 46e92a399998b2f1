// Package images resolves image references: it finds out what an image reference stands for at this moment, from the local Docker daemon
// or a registry, so that a function keeps a reference that never changes its meaning, and a call never asks a registry.
//
// It only reads manifests and configs. Pulling images is left to Nomad's docker driver, and keeping what was found to the callers.
package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/funcd/funcd/api"
)

// Defaults of Config.
const (
	DefaultDockerHost      = "unix:///var/run/docker.sock"
	DefaultDaemonTimeout   = 10 * time.Second
	DefaultRegistryTimeout = 30 * time.Second
)

// maxAnswer is the most that is read of one answer of a daemon or a registry, in bytes. Registries take manifests of up to 4 MiB
// (distribution-spec, "Pushing Manifests"), and an image's config is of the same order.
const maxAnswer = 8 << 20

// Config configures a Resolver. The zero value is valid.
type Config struct {
	// DockerHost is where the local Docker daemon listens, in the form of the variable DOCKER_HOST: unix://<path> or tcp://<host>[:<port>],
	// without TLS. Default DefaultDockerHost. It need not exist.
	DockerHost string

	// Platform is what the cluster's nodes run, as <os>/<architecture>[/<variant>]. Default linux/ and the architecture of this program.
	Platform string

	// Logins are for registries, by account. At most one for each registry and account.
	Logins []Login

	// Keychain has the credentials for registries that Logins has none for. Default authn.DefaultKeychain, which reads Docker's
	// configuration file. All accounts use them.
	Keychain authn.Keychain

	DaemonTimeout   time.Duration // of one question to the daemon; default DefaultDaemonTimeout
	RegistryTimeout time.Duration // of all requests to a registry for one image; default DefaultRegistryTimeout

	Logger *slog.Logger // default: no log
}

// Resolver resolves image references. Its methods may be called concurrently.
type Resolver struct {
	daemon     *daemon
	registries *registries
	logins     logins
	keychain   authn.Keychain
	log        *slog.Logger
}

// New returns a Resolver. It connects to nothing yet. The errors name the wrong field.
func New(cfg Config) (*Resolver, error) {
	network, address, err := parseDockerHost(cmp.Or(cfg.DockerHost, DefaultDockerHost))
	if err != nil {
		return nil, err
	}
	platform, err := v1.ParsePlatform(cmp.Or(cfg.Platform, "linux/"+runtime.GOARCH))
	if err != nil || platform.OS == "" || platform.Architecture == "" {
		return nil, fmt.Errorf("images.Config: Platform %q must be of the form <os>/<architecture>[/<variant>]", cfg.Platform)
	}
	if cfg.DaemonTimeout < 0 || cfg.RegistryTimeout < 0 {
		return nil, errors.New("images.Config: DaemonTimeout and RegistryTimeout can't be negative")
	}
	logins, err := newLogins(cfg.Logins)
	if err != nil {
		return nil, err
	}
	if cfg.Keychain == nil {
		cfg.Keychain = authn.DefaultKeychain
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Resolver{
		daemon:     newDaemon(network, address, cmp.Or(cfg.DaemonTimeout, DefaultDaemonTimeout)),
		registries: newRegistries(*platform, cmp.Or(cfg.RegistryTimeout, DefaultRegistryTimeout)),
		logins:     logins,
		keychain:   cfg.Keychain,
		log:        cfg.Logger.With("component", "images"),
	}, nil
}

// Close closes the connections that are kept for the next request. The Resolver stays usable.
func (r *Resolver) Close() { r.registries.transport.CloseIdleConnections() }

// Resolve returns what ref stands for, in the order of docker run: the local daemon's image if it knows one, else the registry's, asked with
// the account's login.
//
// The errors are *api.Error of code Invalid, as ref is a parameter of the caller's, with a sentence of its own for each cause: malformed,
// no such image, access denied, no image for the platform, and a registry that does not answer. Credentials that can't be read are the
// operator's fault, and of code Internal.
func (r *Resolver) Resolve(ctx context.Context, account, ref string) (api.Image, error) {
	return r.resolve(ctx, account, ref, r.lookup)
}

// ResolveFromRegistry is Resolve as docker run --pull=always has it: the local daemon is not asked, so that a tag that moved is seen.
func (r *Resolver) ResolveFromRegistry(ctx context.Context, account, ref string) (api.Image, error) {
	return r.resolve(ctx, account, ref, r.ask)
}

// Inspect returns what is known of the image that ref stands for, from where Resolve would take it. auth, if not nil, is used in place of the
// account's login.
//
// The errors are *api.Error: NotFound if neither the daemon nor a registry shows such an image (a registry that denies access may do so
// because it has none), Unavailable if one that may know it does not answer, Invalid if ref is malformed or has nothing for the platform,
// Internal as with Resolve.
func (r *Resolver) Inspect(ctx context.Context, account, ref string, auth *api.RegistryAuth) (api.ImageInspect, error) {
	parsed, err := parse(ref)
	if err != nil {
		return api.ImageInspect{}, err
	}
	found, err := r.lookup(ctx, account, parsed, auth)
	switch api.CodeOf(err) {
	case api.NotFound, api.Forbidden:
		return api.ImageInspect{}, api.Wrap(api.NotFound, err, "No such image: "+ref)
	}
	return found, err
}

// Count returns how many images the local Docker daemon has: none where there is no daemon, or it does not answer.
func (r *Resolver) Count(ctx context.Context) int {
	n, err := r.daemon.count(ctx)
	if err != nil {
		r.log.DebugContext(ctx, "the local images are not counted", "error", err)
	}
	return n
}

// lookup asks for an image with the login, if it is not nil, in place of the account's.
type lookup func(ctx context.Context, account string, ref imageRef, auth *api.RegistryAuth) (api.ImageInspect, error)

func (r *Resolver) resolve(ctx context.Context, account, ref string, lookup lookup) (api.Image, error) {
	parsed, err := parse(ref)
	if err != nil {
		return api.Image{}, err
	}
	found, err := lookup(ctx, account, parsed, nil)
	if err != nil {
		var failure *api.Error
		if errors.As(err, &failure) && failure.Code != api.Internal {
			err = api.Wrap(api.Invalid, failure.Err, failure.Message)
		}
		return api.Image{}, err
	}
	image := imageOf(found, parsed)
	r.log.DebugContext(ctx, "image resolved", "image", ref, "ref", image.Ref, "id", image.ID, "local", image.Local)
	return image, nil
}

// ask asks the registry. Its errors are those of registries.inspect.
func (r *Resolver) ask(ctx context.Context, account string, ref imageRef, auth *api.RegistryAuth) (api.ImageInspect, error) {
	if ref.named == nil {
		return api.ImageInspect{}, api.Errorf(api.Invalid, "%s is an image id, which no registry can be asked for", ref)
	}
	shown, err := r.authenticator(ctx, account, ref, auth)
	if err != nil {
		return api.ImageInspect{}, err
	}
	return r.registries.inspect(ctx, ref, shown)
}

// lookup asks the local daemon, then the registry. Its errors are those of ask, and tell of the daemon where it matters.
func (r *Resolver) lookup(ctx context.Context, account string, ref imageRef, auth *api.RegistryAuth) (api.ImageInspect, error) {
	found, daemonErr := r.daemon.inspect(ctx, ref)
	switch {
	case daemonErr == nil:
		return found, nil
	case ref.named == nil && errors.Is(daemonErr, errUnknown):
		return api.ImageInspect{}, noSuchImage(ref, nil)
	case ref.named == nil:
		return api.ImageInspect{}, api.Wrap(api.Unavailable, daemonErr,
			fmt.Sprintf("%s is an image id, which only the local Docker daemon can know, and it does not answer", ref))
	}

	found, err := r.ask(ctx, account, ref, auth)
	daemonFailed := !errors.Is(daemonErr, errUnknown) && !errors.Is(daemonErr, errNoDaemon)
	switch api.CodeOf(err) {
	case "":
		if daemonFailed {
			r.log.WarnContext(ctx, "the Docker daemon gave no answer, took the registry's image", "image", ref.text, "error", daemonErr)
		}
	case api.Unavailable:
		if errors.Is(daemonErr, errUnknown) {
			return api.ImageInspect{}, api.Wrap(api.Unavailable, errors.Unwrap(err),
				fmt.Sprintf("%s, and the local Docker daemon does not know %s", api.MessageOf(err), ref))
		}
	case api.NotFound:
		// A daemon that is there but fails may have the image.
		if daemonFailed {
			return api.ImageInspect{}, api.Wrap(api.Unavailable, errors.Join(daemonErr, err),
				fmt.Sprintf("%s in its registry, and the local Docker daemon does not answer", api.MessageOf(err)))
		}
	}
	return found, err
}

func noSuchImage(ref imageRef, cause error) *api.Error {
	return api.Wrap(api.NotFound, cause, fmt.Sprintf("no such image: %s", ref))
}

func imageOf(found api.ImageInspect, ref imageRef) api.Image {
	image := api.Image{
		Ref:        pullRef(found.RepoDigests, ref.named),
		ID:         found.ID,
		Entrypoint: found.Config.Entrypoint,
		Cmd:        found.Config.Cmd,
	}
	if image.Ref == "" {
		// Nomad's docker driver reads sha256:<hex> as the tag <hex> of a repository sha256. It looks that up locally, where the daemon
		// takes it for the id that it is, and pulls nothing once found. The image's own name would not do: the driver always pulls a
		// tag "latest", which fails for an image that no registry has, and any tag may be moved to another image.
		image.Ref, image.Local = found.ID, true
	}
	for port := range maps.Keys(found.Config.ExposedPorts) {
		if !strings.Contains(port, "/") {
			port += "/tcp" // the default of the OCI image specification, config, ExposedPorts
		}
		image.ExposedPorts = append(image.ExposedPorts, port)
	}
	slices.Sort(image.ExposedPorts)
	image.ExposedPorts = slices.Compact(image.ExposedPorts)
	return image
}

// pullRef returns the one of repoDigests that any node can pull the image by, in its familiar form, or "" if there is none. The repository
// and digest that were asked for come first, then the repository. Any other is the next best: its digest stands for the same content, as
// with an image that was found by its id, or one of a registry that was given a second name with docker tag.
//
// A daemon on the containerd image store, other than one on the classic store, also lists a digest for an image that was only built there.
// Such an image passes for one that any node can pull.
func pullRef(repoDigests []string, asked reference.Named) string {
	best, bestRank := "", 0
	for _, text := range slices.Sorted(slices.Values(repoDigests)) {
		named, err := reference.ParseNormalizedNamed(text)
		if err != nil {
			continue
		}
		canonical, ok := named.(reference.Canonical)
		if !ok {
			continue
		}
		rank := 1
		if asked != nil && asked.Name() == named.Name() {
			rank = 2
			if digested, ok := asked.(reference.Digested); ok && digested.Digest() == canonical.Digest() {
				rank = 3
			}
		}
		if rank > bestRank {
			best, bestRank = reference.FamiliarString(canonical), rank
		}
	}
	return best
}
