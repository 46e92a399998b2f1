package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// RegistryAuthHeader carries a RegistryAuth.
const RegistryAuthHeader = "X-Registry-Auth"

// RegistryAuth is who pulls an image from a private registry: Docker's AuthConfig. Its text and log forms never show the secrets.
type RegistryAuth struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	ServerAddress string `json:"serveraddress,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"` // in place of the password
	RegistryToken string `json:"registrytoken,omitempty"` // a bearer token for the registry
}

// String returns what may be shown.
func (a RegistryAuth) String() string { return "credentials of " + a.Username }

// GoString is String, so that %#v shows no secret either.
func (a RegistryAuth) GoString() string { return a.String() }

// Header returns the value of RegistryAuthHeader: JSON in URL-safe base64, as Docker's clients send it.
func (a RegistryAuth) Header() (string, error) {
	text, err := json.Marshal(a)
	if err != nil {
		return "", Errorf(Invalid, "encoding the credentials: %w", err)
	}
	return base64.URLEncoding.EncodeToString(text), nil
}

// Version returns the versions of the server and of its API.
func (c *Client) Version(ctx context.Context) (VersionInfo, error) {
	var v VersionInfo
	err := c.manage(ctx, http.MethodGet, []string{"version"}, nil, nil, &v)
	return v, err
}

// Info returns what the server says of itself and of its cluster.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var info Info
	err := c.manage(ctx, http.MethodGet, []string{"info"}, nil, nil, &info)
	return info, err
}

// Image returns what is known of an image, such as "ubuntu", "host:5000/team/image:tag" or "image@sha256:…". Errors: NotFound, Invalid.
func (c *Client) Image(ctx context.Context, ref string) (ImageInspect, error) {
	var image ImageInspect
	segments := append(append([]string{"images"}, strings.Split(ref, "/")...), "json")
	err := c.manage(ctx, http.MethodGet, segments, nil, nil, &image)
	return image, err
}

// PullImage has every ready node of the cluster pull the image, and gives yield what they say meanwhile. It returns when all have it, or one
// can't. auth may be nil: then the server uses what it is configured with. An error of yield ends it, and the pull with it, and is returned as it is.
// Errors: Invalid, NotFound.
func (c *Client) PullImage(ctx context.Context, ref string, auth *RegistryAuth, yield func(PullMessage) error) error {
	header := http.Header{}
	if auth != nil {
		value, err := auth.Header()
		if err != nil {
			return err
		}
		header.Set(RegistryAuthHeader, value)
	}
	req, err := c.managementRequest(ctx, http.MethodPost, []string{"images", "create"}, pullQuery(ref), header, nil)
	if err != nil {
		return err
	}
	return c.stream(req, func(line []byte) error {
		var m PullMessage
		if err := c.decode(line, &m); err != nil {
			return err
		}
		if m.Error == "" && m.ErrorDetail == nil {
			return yield(m)
		}
		code, message := Internal, m.Error
		if m.ErrorDetail != nil {
			if m.ErrorDetail.Code != 0 {
				code = codeOf(m.ErrorDetail.Code, "")
			}
			if message == "" {
				message = m.ErrorDetail.Message
			}
		}
		return Errorf(code, "%s", message)
	})
}

// pullQuery returns fromImage and tag for an image as a user writes it: without a tag or a digest it is the latest one. Whether it is an image
// reference is for the server to say.
func pullQuery(ref string) url.Values {
	name, digest, _ := strings.Cut(ref, "@")
	tag := "latest"
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name, tag = name[:colon], name[colon+1:]
	}
	switch {
	case digest != "":
		tag = digest // a tag beside it means nothing, as with Docker
	case tag == "" || strings.HasSuffix(ref, "@"):
		return url.Values{"fromImage": {ref}} // it is none
	}
	return url.Values{"fromImage": {name}, "tag": {tag}}
}
