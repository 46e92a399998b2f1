// Package consul keeps in Consul what changes rarely, functions and credentials, and answers for them from memory. It also registers
// funcd as a service and elects the server that does the chores that only one may do.
//
// A Client is the plain access to Consul: every read is a consistent one. Functions and Credentials are what a server works with: they
// follow Consul with blocking queries, answer from memory, and ask Consul before they say that something does not exist. While Consul is
// unreachable they go on answering for what they know.
//
// What a function means, who may change it, and what has to happen in Nomad when it changes is left to the other packages. This is the
// only package that imports Consul's API.
package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"time"

	consul "github.com/hashicorp/consul/api"

	"github.com/funcd/funcd/api"
)

// Defaults of Config.
const (
	DefaultPrefix  = "funcd"
	DefaultTimeout = 10 * time.Second
)

// Config says which Consul to use. Where a field is empty, its standard environment variable counts.
type Config struct {
	Address string // host:port, or a URL with http, https or unix; CONSUL_HTTP_ADDR, then localhost:8500
	Token   string // ACL token; CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE
	TLS     TLS

	// Prefix is where all of funcd's keys are. Slashes around it are dropped. Default: DefaultPrefix.
	Prefix string
	// Timeout bounds every request but blocking queries. Default: DefaultTimeout.
	Timeout time.Duration
	// Logger is told of outages. Default: none of it is logged.
	Logger *slog.Logger
}

// TLS says how to speak to a Consul that has an https address. The files are PEM.
type TLS struct {
	CAFile     string // CONSUL_CACERT
	CertFile   string // CONSUL_CLIENT_CERT
	KeyFile    string // CONSUL_CLIENT_KEY
	ServerName string // CONSUL_TLS_SERVER_NAME
}

// Client is access to Consul. It is safe for concurrent use.
type Client struct {
	api       *consul.Client
	transport *http.Transport
	prefix    string
	timeout   time.Duration
	lockDelay time.Duration // see lockDelay; tests shorten it
	log       *slog.Logger
}

// segment is what a name or an access key must look like to be a part of a Consul key. It keeps a caller's slashes and dots from
// reaching other keys.
var segment = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$`)

// New returns a client. It does not connect; an error means that cfg or the environment is wrong.
func New(cfg Config) (*Client, error) {
	prefix := strings.Trim(cmp.Or(cfg.Prefix, DefaultPrefix), "/")
	for part := range strings.SplitSeq(prefix, "/") {
		if !segment.MatchString(part) {
			return nil, fmt.Errorf("consul: prefix %q: each part must be letters, digits, '.', '_' and '-'", cfg.Prefix)
		}
	}
	if cfg.Timeout < 0 {
		return nil, fmt.Errorf("consul: timeout %s is negative", cfg.Timeout)
	}

	settings := consul.DefaultConfig() // reads the environment
	settings.Address = cmp.Or(cfg.Address, settings.Address)
	settings.Token = cmp.Or(cfg.Token, settings.Token)
	settings.TLSConfig.CAFile = cmp.Or(cfg.TLS.CAFile, settings.TLSConfig.CAFile)
	settings.TLSConfig.CertFile = cmp.Or(cfg.TLS.CertFile, settings.TLSConfig.CertFile)
	settings.TLSConfig.KeyFile = cmp.Or(cfg.TLS.KeyFile, settings.TLSConfig.KeyFile)
	settings.TLSConfig.Address = cmp.Or(cfg.TLS.ServerName, settings.TLSConfig.Address)
	transport := settings.Transport
	client, err := consul.NewClient(settings)
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}

	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Client{
		api:       client,
		transport: transport,
		prefix:    prefix,
		timeout:   cmp.Or(cfg.Timeout, DefaultTimeout),
		lockDelay: lockDelay,
		log:       log.With("component", "consul"),
	}, nil
}

// Close drops idle connections. The client stays usable.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Ping tells whether Consul has a leader and lets funcd read its keys. The error is of code Unavailable or Internal.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.get(ctx, c.key("ping"))
	return err
}

// key joins the prefix and parts, which the caller has checked.
func (c *Client) key(parts ...string) string {
	return c.prefix + "/" + strings.Join(parts, "/")
}

// get reads one key consistently. A key that does not exist is a nil pair.
func (c *Client) get(ctx context.Context, key string) (*consul.KVPair, error) {
	pair, _, err := c.getAfter(ctx, key, 0, 0)
	return pair, err
}

// getAfter reads one key as get does, and the index to wait for the next change with. An index other than 0 waits for a change after it,
// for at most wait.
func (c *Client) getAfter(ctx context.Context, key string, index uint64, wait time.Duration) (*consul.KVPair, uint64, error) {
	query, cancel := c.query(ctx, index, wait)
	defer cancel()
	pair, meta, err := c.api.KV().Get(key, query)
	if err != nil {
		return nil, 0, translate(ctx, err)
	}
	return pair, nextIndex(index, meta.LastIndex), nil
}

// list reads all keys under prefix as getAfter reads one.
func (c *Client) list(ctx context.Context, prefix string, index uint64, wait time.Duration) (consul.KVPairs, *consul.QueryMeta, error) {
	query, cancel := c.query(ctx, index, wait)
	defer cancel()
	pairs, meta, err := c.api.KV().List(prefix, query)
	if err != nil {
		return nil, nil, translate(ctx, err)
	}
	// Consul leaves out what the token may not read, and does not even say so to a request without a token; only the read of a single key
	// is refused. Taken as it is, functions would seem to be deleted.
	if len(pairs) == 0 {
		if _, err := c.get(ctx, prefix); err != nil {
			return nil, nil, err
		}
	}
	if meta.ResultsFilteredByACLs {
		return nil, nil, api.Wrap(api.Internal, fmt.Errorf("the ACL token may not read all of %q", prefix), "Consul refuses access")
	}
	return pairs, meta, nil
}

// query is a consistent read that is bounded in time. An index other than 0 makes it a blocking query.
func (c *Client) query(ctx context.Context, index uint64, wait time.Duration) (*consul.QueryOptions, context.CancelFunc) {
	bound := c.timeout
	if index != 0 {
		bound += wait + wait/16 // Consul adds up to a sixteenth, to spread its clients
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	return (&consul.QueryOptions{RequireConsistent: true, WaitIndex: index, WaitTime: wait}).WithContext(ctx), cancel
}

// nextIndex returns what to wait for after an answer. By Consul's documentation of blocking queries, an index that goes backwards means to
// begin anew, and one of 0, which would not block, is a fault of Consul's.
func nextIndex(last, answered uint64) uint64 {
	if answered < last {
		return 0
	}
	return max(answered, 1)
}

// rejected is a transaction that Consul has rolled back, as what it was made for has changed or the token may not write.
type rejected struct{ errors consul.TxnErrors }

func (r *rejected) Error() string {
	texts := make([]string, len(r.errors))
	for i, e := range r.errors {
		texts[i] = e.What
	}
	return "consul has rolled back: " + strings.Join(texts, "; ")
}

// maxValue is the size of the largest value that Consul takes in a transaction: its limit for a transaction's body is 512 KiB
// (txn_max_req_len), in which a value is base64. The rest is for the other operations.
const maxValue = 380 << 10

// write makes all of ops or none, and returns the index of the first. The error is a *rejected or as of translate. After one of code
// Unavailable it is not known whether they were made.
func (c *Client) write(ctx context.Context, ops ...consul.KVTxnOp) (uint64, error) {
	txn := make(consul.TxnOps, len(ops))
	for i := range ops {
		if len(ops[i].Value) > maxValue {
			return 0, api.Errorf(api.TooLarge, "the definition is over %d KiB", maxValue>>10)
		}
		txn[i] = &consul.TxnOp{KV: &ops[i]}
	}
	bounded, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	ok, answer, _, err := c.api.Txn().Txn(txn, new(consul.QueryOptions).WithContext(bounded))
	switch {
	case err != nil:
		return 0, translate(ctx, err)
	case !ok:
		return 0, &rejected{answer.Errors}
	case len(answer.Results) == 0 || answer.Results[0].KV == nil:
		return 0, nil // nothing but deletions
	}
	return answer.Results[0].KV.ModifyIndex, nil
}

// translate turns what Consul's client returns into an *api.Error. If the caller has gone, its own error is returned.
func translate(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	var status consul.StatusError
	if errors.As(err, &status) && status.Code < 500 && status.Code != http.StatusTooManyRequests {
		message := "Consul refuses the request"
		if status.Code == http.StatusForbidden {
			message = "Consul refuses access"
		}
		return api.Wrap(api.Internal, err, message)
	}
	return api.Wrap(api.Unavailable, err, "Consul does not answer")
}

// backoff is the wait between attempts: doubled each time up to a cap, and half of it random, so that servers don't come in step.
type backoff struct{ attempts int }

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 10 * time.Second
)

// wait blocks until it is time for the next attempt or ctx ends.
func (b *backoff) wait(ctx context.Context) {
	pause := maxPause
	if b.attempts < 7 { // 100 ms doubled 7 times is over the cap
		pause = firstPause << b.attempts
		b.attempts++
	}
	sleep(ctx, pause/2+rand.N(pause/2))
}

func (b *backoff) reset() { b.attempts = 0 }

// sleep blocks for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
