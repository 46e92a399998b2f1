package nomad

import (
	"context"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	lru "github.com/hashicorp/golang-lru"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// identities checks workload identities with the keys that Nomad publishes.
type identities struct {
	mu   sync.Mutex // guards keys alone: who has a known key never waits for Nomad
	keys jose.JSONWebKeySet

	// seen are tokens that were found good a moment ago, by their text: a runner shows its own with every request, and a signature takes
	// ten times as long to check as all else of the request.
	seen *lru.Cache // of seenToken

	asking sync.Mutex // held while Nomad is asked
	asked  time.Time
	failed error // the last answer, if it was none
}

// How many tokens are remembered as good, and for how long.
const (
	seenTokens = 10_000
	seenTime   = 10 * time.Second
)

// keysInterval is how often the keys are asked for at most. Nomad publishes a new key before it signs with it; this bounds what tokens
// with made-up key ids can cost.
const keysInterval = time.Second

// Identify returns the allocation that the token was given to. The error is of code Unauthorized if it is not a token that Nomad has made
// for funcd's runner in funcd's namespace, and Unavailable if Nomad can't be asked for its keys.
func (c *Client) Identify(ctx context.Context, token string) (api.Allocation, error) {
	if seen, ok := c.identity.seen.Get(token); ok && time.Now().Before(seen.(seenToken).until) {
		return seen.(seenToken).allocation, nil
	}
	allocation, err := c.identify(ctx, token)
	if err == nil {
		c.identity.seen.Add(token, seenToken{allocation, time.Now().Add(seenTime)})
	}
	return allocation, err
}

type seenToken struct {
	allocation api.Allocation
	until      time.Time
}

func (c *Client) identify(ctx context.Context, token string) (api.Allocation, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.EdDSA})
	if err != nil {
		return api.Allocation{}, api.Wrap(api.Unauthorized, err, "the token is not a Nomad identity")
	}
	keys, err := c.keysFor(ctx, parsed.Headers[0].KeyID)
	if err != nil {
		return api.Allocation{}, err
	}
	var claims jwt.Claims
	var ours struct {
		Allocation string `json:"nomad_allocation_id"`
		Job        string `json:"nomad_job_id"`
		Namespace  string `json:"nomad_namespace"`
		Task       string `json:"nomad_task"`
	}
	if err := parsed.Claims(keys, &claims, &ours); err != nil {
		return api.Allocation{}, api.Wrap(api.Unauthorized, err, "the token is not a Nomad identity")
	}
	if err := claims.Validate(jwt.Expected{AnyAudience: jwt.Audience{api.RunnerIdentity}, Time: time.Now()}); err != nil {
		return api.Allocation{}, api.Wrap(api.Unauthorized, err, "the token is not for funcd")
	}
	account, name, ok := jobs.ParseID(ours.Job)
	// Whoever may submit jobs in another namespace may give one any name.
	if !ok || ours.Allocation == "" || ours.Task != jobs.TaskName || ours.Namespace != c.namespaceOf(ours.Job) {
		return api.Allocation{}, api.Errorf(api.Unauthorized, "the token is not of a function's container")
	}
	return api.Allocation{ID: ours.Allocation, Job: ours.Job, Account: account, Name: name}, nil
}

// keysFor returns the keys with this id among them, if Nomad has it.
func (c *Client) keysFor(ctx context.Context, id string) (*jose.JSONWebKeySet, error) {
	i := &c.identity
	if keys := i.known(); len(keys.Key(id)) > 0 {
		return keys, nil
	}
	i.asking.Lock()
	defer i.asking.Unlock()
	keys := i.known()
	if len(keys.Key(id)) > 0 {
		return keys, nil
	}
	if time.Since(i.asked) < keysInterval {
		return keys, i.failed
	}
	q, cancel := c.query(ctx, c.cfg.Options.Namespace)
	defer cancel()
	var latest jose.JSONWebKeySet
	_, err := c.nomad.Raw().Query("/.well-known/jwks.json", &latest, q)
	if err != nil {
		err = api.Wrap(api.Unavailable, err, "Nomad does not answer")
	}
	if ctx.Err() != nil {
		return nil, err // it says nothing about Nomad
	}
	// Those who waited meanwhile get the same answer, good or bad, in place of each waiting for its own.
	i.asked, i.failed = time.Now(), err
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	i.keys = latest
	i.mu.Unlock()
	return &latest, nil
}

func (i *identities) known() *jose.JSONWebKeySet {
	i.mu.Lock()
	defer i.mu.Unlock()
	return &jose.JSONWebKeySet{Keys: i.keys.Keys}
}
