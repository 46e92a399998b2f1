package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"

	"github.com/funcd/funcd/api"
)

// Defaults of PullerConfig.
const (
	DefaultPullTime = 10 * time.Minute
	DefaultPulls    = 3
)

// Cluster has its nodes pull images.
type Cluster interface {
	// Ping tells whether the cluster answers. The error is of code Unavailable.
	Ping(ctx context.Context) error
	// PullImage has every ready node pull the image and gives tell how far they are, now and after each change. It returns when each has the image
	// or has failed, with ctx's error if that ends first, with tell's, or with one of code Unavailable or Invalid.
	PullImage(ctx context.Context, p api.ImagePull, tell func(api.PullState) error) error
}

// PullerConfig is what a Puller works with. Resolver, Cluster and Logger are required.
type PullerConfig struct {
	Resolver *Resolver
	Cluster  Cluster
	// ShareLogins gives the nodes the login that came with the request or is configured for the account. Without, they use what they have.
	ShareLogins bool
	Time        time.Duration // of a pull, at most; default DefaultPullTime
	AtOnce      int           // pulls of one account; default DefaultPulls
	Logger      *slog.Logger
}

// Puller has the nodes of a cluster pull images. Its methods may be called concurrently.
type Puller struct {
	cfg PullerConfig
	log *slog.Logger

	mu      sync.Mutex
	pulling map[string]int // pulls that have not ended, by account
}

// NewPuller returns a Puller.
func NewPuller(cfg PullerConfig) *Puller {
	cfg.Time, cfg.AtOnce = cmp.Or(cfg.Time, DefaultPullTime), cmp.Or(cfg.AtOnce, DefaultPulls)
	return &Puller{cfg: cfg, log: cfg.Logger.With("component", "images"), pulling: map[string]int{}}
}

// Pull has every ready node of the cluster pull an image and tells yield how far they are, in the words of docker pull. image and tag are the
// parameters of Docker's API: the tag may be a digest, goes before one in image, and is latest where neither has one. auth may be nil.
//
// It returns when all nodes have the image, or one has not got it. An error before the first message is of code Invalid for wrong parameters, and
// Unavailable if the cluster does not answer or the account pulls too many images; later ones are of any code. An error of yield ends the pull and
// is returned as it is.
func (p *Puller) Pull(ctx context.Context, account, image, tag string, auth *api.RegistryAuth, yield func(api.PullMessage) error) error {
	ref, err := pullReference(image, tag)
	if err != nil {
		return err
	}
	if auth != nil && (auth.IdentityToken != "" || auth.RegistryToken != "") {
		return api.Errorf(api.Invalid, "%s: the nodes can log in with a username and a password only, not with a token", api.RegistryAuthHeader)
	}
	if err := p.begin(account); err != nil {
		return err
	}
	defer p.end(account)
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.Time, errPullTime)
	defer cancel()
	if err := p.cfg.Cluster.Ping(ctx); err != nil {
		return err
	}
	err = p.pull(ctx, account, ref, auth, yield)
	if context.Cause(ctx) == errPullTime && errors.Is(err, context.DeadlineExceeded) {
		return api.Wrap(api.Unavailable, err, fmt.Sprintf("not all nodes have %s after %s", ref, p.cfg.Time))
	}
	return err
}

var errPullTime = errors.New("the time for a pull has passed")

// pullReference joins the parameters of Docker's API.
func pullReference(image, tag string) (imageRef, error) {
	if image == "" {
		return imageRef{}, api.Errorf(api.Invalid, "fromImage: is required")
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return imageRef{}, malformed(image, err)
	}
	switch {
	case tag == "":
		image = reference.FamiliarString(reference.TagNameOnly(named))
	case strings.Contains(tag, ":"):
		image = reference.FamiliarName(named) + "@" + tag
	default:
		image = reference.FamiliarName(named) + ":" + tag
	}
	// A tag with a slash makes another name.
	if full, err := reference.ParseNormalizedNamed(image); err != nil || full.Name() != named.Name() {
		return imageRef{}, api.Errorf(api.Invalid, "tag: %.300q is neither a tag nor a digest", tag)
	}
	ref, err := parse(image)
	if err == nil && ref.named == nil {
		return imageRef{}, api.Errorf(api.Invalid, "fromImage: %s is an image id, which no registry can be asked for", ref)
	}
	return ref, err
}

func (p *Puller) begin(account string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pulling[account] >= p.cfg.AtOnce {
		return api.Errorf(api.Unavailable, "the account is pulling %d images already, which is the most at once", p.pulling[account])
	}
	p.pulling[account]++
	return nil
}

func (p *Puller) end(account string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pulling[account]--; p.pulling[account] == 0 {
		delete(p.pulling, account)
	}
}

func (p *Puller) pull(ctx context.Context, account string, ref imageRef, auth *api.RegistryAuth, yield func(api.PullMessage) error) error {
	if err := yield(api.PullMessage{Status: "Pulling from " + reference.Path(ref.named), ID: tagOf(ref)}); err != nil {
		return err
	}
	login := auth
	if login == nil {
		var err error
		if login, err = p.cfg.Resolver.login(account, ref); err != nil {
			return err
		}
	}
	sum, err := p.check(ctx, account, ref, login)
	if err != nil {
		return err
	}
	order := api.ImagePull{Account: account, Ref: ref.text}
	if p.cfg.ShareLogins {
		order.Login = login
	}
	progress := progress{yield: yield, said: map[string]api.NodePull{}}
	if err := p.cfg.Cluster.PullImage(ctx, order, progress.tell); err != nil {
		return err
	}
	if err := progress.failure(ref.text); err != nil {
		return err
	}
	if sum != "" {
		if err := yield(api.PullMessage{Status: "Digest: " + sum}); err != nil {
			return err
		}
	}
	p.log.InfoContext(ctx, "an image was pulled", "image", ref.text, "account", account, "nodes", progress.state.Nodes)
	return yield(api.PullMessage{Status: fmt.Sprintf("Status: Pull complete for %s on %s", ref, nodes(len(progress.state.Nodes)))})
}

// check asks the registry before the nodes do, which can say better why there is no such image, and returns the digest of the image. It is empty where
// the nodes may know better: they may have a login of their own, or a mirror.
func (p *Puller) check(ctx context.Context, account string, ref imageRef, login *api.RegistryAuth) (digest string, err error) {
	found, err := p.cfg.Resolver.ask(ctx, account, ref, login)
	switch api.CodeOf(err) {
	case "":
		_, digest, _ = strings.Cut(found.RepoDigests[0], "@")
		return digest, nil
	case api.Unavailable:
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", nil
	case api.Forbidden:
		if login == nil {
			return "", nil
		}
	case api.NotFound:
		if _, localErr := p.cfg.Resolver.daemon.inspect(ctx, ref); localErr == nil {
			return "", api.Wrap(api.NotFound, err, api.MessageOf(err)+" in its registry; the local Docker daemon has it, from which nothing can be pulled")
		}
	}
	return "", err
}

// tagOf returns the tag or the digest of a reference.
func tagOf(ref imageRef) string {
	switch named := ref.named.(type) {
	case reference.Digested:
		return named.Digest().String()
	case reference.Tagged:
		return named.Tag()
	}
	return ""
}

// progress makes messages of the changes between states.
type progress struct {
	yield  func(api.PullMessage) error
	said   map[string]api.NodePull // by the node's id, what was told of it last
	reason string                  // for nodes to wait, that was told last
	state  api.PullState
}

func (p *progress) tell(state api.PullState) error {
	p.state = state
	detail := &api.PullProgress{Total: int64(len(state.Nodes) + state.Waiting), Units: "nodes"}
	for _, n := range state.Nodes {
		if n.Ended && n.Code == "" {
			detail.Current++
		}
	}
	for _, n := range state.Nodes {
		if p.said[n.ID] == n {
			continue
		}
		p.said[n.ID] = n
		status := n.Status
		if n.Code != "" {
			status += ": " + n.Message
		}
		if err := p.yield(api.PullMessage{ID: n.Node, Status: status, ProgressDetail: detail}); err != nil {
			return err
		}
	}
	reason := ""
	if state.Waiting > 0 {
		reason = fmt.Sprintf("Waiting for %s: %s", nodes(state.Waiting), state.Reason)
	}
	if reason != "" && reason != p.reason {
		if err := p.yield(api.PullMessage{Status: reason, ProgressDetail: detail}); err != nil {
			return err
		}
	}
	p.reason = reason
	return nil
}

// failure says which nodes have not got the image, with the code and the reason of the first.
func (p *progress) failure(image string) error {
	var failed []api.NodePull
	for _, n := range p.state.Nodes {
		if n.Code != "" {
			failed = append(failed, n)
		}
	}
	switch {
	case len(failed) == 0:
		return nil
	case len(p.state.Nodes) == 1:
		return api.Errorf(failed[0].Code, "%s could not pull %s: %s", failed[0].Node, image, failed[0].Message)
	}
	return api.Errorf(failed[0].Code, "%d of %d nodes could not pull %s: %s: %s", len(failed), len(p.state.Nodes), image, failed[0].Node, failed[0].Message)
}

func nodes(n int) string {
	if n == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", n)
}
