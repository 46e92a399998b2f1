package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/funcd/funcd/api"
)

var (
	errUnknown  = errors.New("the Docker daemon does not know the image")
	errNoDaemon = errors.New("no Docker daemon")
)

// daemon asks a Docker daemon over its Engine API, of which two unversioned endpoints are all that is needed.
type daemon struct {
	client  *http.Client
	timeout time.Duration
}

// parseDockerHost reads what DOCKER_HOST may hold into a network and an address to dial.
func parseDockerHost(host string) (network, address string, err error) {
	network, address, _ = strings.Cut(host, "://")
	switch {
	case network == "unix" && address != "":
		return network, address, nil
	case network == "tcp" && address != "":
		u, err := url.Parse(host)
		if err == nil && u.Hostname() != "" && u.Path == "" && u.User == nil && u.RawQuery == "" && u.Fragment == "" {
			port := u.Port()
			if port == "" {
				port = "2375" // Docker's default port without TLS
			}
			return network, net.JoinHostPort(u.Hostname(), port), nil
		}
	}
	return "", "", fmt.Errorf("images.Config: DockerHost %q must be of the form unix://<path> or tcp://<host>[:<port>]", host)
}

func newDaemon(network, address string, timeout time.Duration) *daemon {
	return &daemon{
		timeout: timeout,
		client: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			},
			DisableKeepAlives: true, // images are resolved now and then, not by the second
		}},
	}
}

// inspect returns what the daemon knows of an image. The errors are errUnknown, errNoDaemon if none listens or this process may not speak
// to it, and others if one is there but gave no usable answer.
func (d *daemon) inspect(ctx context.Context, ref imageRef) (api.ImageInspect, error) {
	body, err := d.get(ctx, "/images/"+ref.local+"/json")
	if err != nil {
		return api.ImageInspect{}, err
	}
	var found api.ImageInspect
	if err := json.Unmarshal(body, &found); err != nil {
		return api.ImageInspect{}, fmt.Errorf("the Docker daemon's answer: %w", err)
	}
	if found.ID == "" {
		return api.ImageInspect{}, errors.New("the Docker daemon's answer has no Id")
	}
	if found.RepoTags == nil {
		found.RepoTags = []string{}
	}
	if found.RepoDigests == nil {
		found.RepoDigests = []string{}
	}
	return found, nil
}

// count returns how many images the daemon has. The errors are those of inspect.
func (d *daemon) count(ctx context.Context) (int, error) {
	body, err := d.get(ctx, "/info")
	if err != nil {
		return 0, err
	}
	var info struct{ Images int }
	if err := json.Unmarshal(body, &info); err != nil {
		return 0, fmt.Errorf("the Docker daemon's answer: %w", err)
	}
	return info.Images, nil
}

// get returns the body of a successful answer. The errors are those of inspect.
func (d *daemon) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()

	target := url.URL{Scheme: "http", Host: "docker", Path: path}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := d.client.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: %w", errNoDaemon, err)
	case err != nil:
		return nil, err
	}
	defer resp.Body.Close()

	body, err := io.ReadAll(http.MaxBytesReader(nil, resp.Body, maxAnswer))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the Docker daemon's answer: %w", err)
	case resp.StatusCode == http.StatusNotFound:
		return nil, errUnknown
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the Docker daemon answered %s: %.300q", resp.Status, body)
	}
	return body, nil
}
