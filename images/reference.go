package images

import (
	"net"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/funcd/funcd/api"
)

// imageRef is an image reference as Docker reads it.
type imageRef struct {
	text   string          // as the user wrote it
	named  reference.Named // with a tag or a digest, never both; nil for an image id
	local  string          // what to ask a Docker daemon for
	remote name.Reference  // what to ask a registry for; nil for an image id
}

func (r imageRef) String() string { return r.text }

// registryHost returns the registry's host as users know it, docker.io for Docker's.
func (r imageRef) registryHost() string { return reference.Domain(r.named) }

// pinned returns the reference that stands for this digest of the repository, in its familiar form.
func (r imageRef) pinned(digest v1.Hash) string {
	return reference.FamiliarName(r.named) + "@" + digest.String()
}

// parse reads an image reference: a name with a tag, a digest, both (the tag then means nothing, as with Docker) or none, or an image id.
// The errors are *api.Error of code Invalid.
func parse(ref string) (imageRef, error) {
	parsed, err := reference.ParseAnyReference(ref)
	if err != nil {
		return imageRef{}, malformed(ref, err)
	}
	named, ok := parsed.(reference.Named)
	if !ok {
		return imageRef{text: ref, local: parsed.String()}, nil
	}

	var options []name.Option
	if loopback(reference.Domain(named)) {
		options = append(options, name.Insecure)
	}
	registry, err := name.NewRegistry(reference.Domain(named), options...)
	if err != nil {
		return imageRef{}, malformed(ref, err)
	}
	repository := registry.Repo(reference.Path(named))

	if digested, ok := named.(reference.Digested); ok {
		digest, err := v1.NewHash(digested.Digest().String())
		if err != nil {
			return imageRef{}, malformed(ref, err)
		}
		canonical, err := reference.WithDigest(reference.TrimNamed(named), digested.Digest())
		if err != nil {
			return imageRef{}, malformed(ref, err)
		}
		return imageRef{
			text: ref, named: canonical, local: canonical.String(), remote: repository.Digest(digest.String()),
		}, nil
	}
	tagged := reference.TagNameOnly(named).(reference.NamedTagged)
	// The daemon is given the user's own words, as they may also be the beginning of an image id.
	return imageRef{text: ref, named: tagged, local: ref, remote: repository.Tag(tagged.Tag())}, nil
}

func malformed(ref string, err error) *api.Error {
	return api.Errorf(api.Invalid, "%.300q is not an image reference: %.300s", ref, err)
}

// loopback tells whether a registry is on this host. Docker takes plain HTTP from all of 127.0.0.0/8, ::1 and localhost, where the library
// knows 127.0.0.1, ::1 and localhost with a port only.
func loopback(domain string) bool {
	host, _, err := net.SplitHostPort(domain)
	if err != nil {
		host = strings.Trim(domain, "[]")
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
