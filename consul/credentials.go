package consul

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	consul "github.com/hashicorp/consul/api"
	lru "github.com/hashicorp/golang-lru"

	"github.com/funcd/funcd/api"
)

// A credential is the JSON of its api.Credential at credentials/<access key>.
const credentialsPath = "credentials"

type credentialRecord = record[api.Credential]

func keyOfCredential(cred *api.Credential) string { return cred.AccessKey }

func (c *Client) credentialsPrefix() string { return c.key(credentialsPath) + "/" }

func noCredential() error { return api.Errorf(api.NotFound, "no such access key") }

// CreateCredential stores cred. The error is of code Conflict if the access key exists, Invalid, Unavailable or Internal.
func (c *Client) CreateCredential(ctx context.Context, cred api.Credential) error {
	_, err := c.createCredential(ctx, cred)
	return err
}

func (c *Client) createCredential(ctx context.Context, cred api.Credential) (credentialRecord, error) {
	switch {
	case !segment.MatchString(cred.AccessKey):
		return credentialRecord{}, api.Errorf(api.Invalid, "the access key must be letters, digits, '.', '_' and '-', and begin with one of the first two")
	case cred.Secret == "":
		return credentialRecord{}, api.Errorf(api.Invalid, "a credential needs a secret")
	}
	if err := cred.Validate(); err != nil {
		return credentialRecord{}, err
	}
	value, err := json.Marshal(cred)
	if err != nil {
		return credentialRecord{}, api.Wrap(api.Internal, err, "the credential can't be stored")
	}
	key := c.credentialsPrefix() + cred.AccessKey
	conflict := api.Errorf(api.Conflict, "the access key %q is already in use", cred.AccessKey)
	index, err := c.create(ctx, key, conflict, put(key, value, 0))
	if err != nil {
		return credentialRecord{}, err
	}
	return credentialRecord{key: cred.AccessKey, index: index, value: cred}, nil
}

// Credential reads a credential from Consul. The error is of code NotFound, Unavailable or Internal.
func (c *Client) Credential(ctx context.Context, key string) (api.Credential, error) {
	r, err := c.credential(ctx, key)
	return r.value, err
}

func (c *Client) credential(ctx context.Context, key string) (credentialRecord, error) {
	if !segment.MatchString(key) {
		return credentialRecord{}, noCredential()
	}
	pair, err := c.get(ctx, c.credentialsPrefix()+key)
	switch {
	case err != nil:
		return credentialRecord{}, err
	case pair == nil:
		return credentialRecord{}, noCredential()
	}
	return decode(pair, c.credentialsPrefix(), keyOfCredential)
}

// Credentials reads all credentials from Consul, oldest first. The error is of code Unavailable or Internal.
func (c *Client) Credentials(ctx context.Context) ([]api.Credential, error) {
	pairs, _, err := c.list(ctx, c.credentialsPrefix(), 0, 0)
	if err != nil {
		return nil, err
	}
	all := make([]api.Credential, len(pairs))
	for i, pair := range pairs {
		r, err := decode(pair, c.credentialsPrefix(), keyOfCredential)
		if err != nil {
			return nil, err
		}
		all[i] = r.value
	}
	slices.SortFunc(all, func(a, b api.Credential) int { return oldestFirst(&a, &b) })
	return all, nil
}

func oldestFirst(a, b *api.Credential) int {
	return cmp.Or(a.Created.Compare(b.Created.Time), cmp.Compare(a.AccessKey, b.AccessKey))
}

// UpdateCredential reads a credential, lets change alter its Quota and Description, and returns what is stored. When another one was faster it begins
// again. The error is of code NotFound, Invalid, Unavailable or Internal.
func (c *Client) UpdateCredential(ctx context.Context, key string, change func(*api.Credential)) (api.Credential, error) {
	var updated api.Credential
	read := func(ctx context.Context) (credentialRecord, error) { return c.credential(ctx, key) }
	_, err := rewrite(ctx, c, read, func(current credentialRecord) ([]consul.KVTxnOp, error) {
		wanted := current.value
		change(&wanted)
		updated = current.value
		updated.Quota, updated.Description = wanted.Quota, wanted.Description
		if err := updated.Validate(); err != nil {
			return nil, err
		}
		value, err := json.Marshal(updated)
		if err != nil {
			return nil, api.Wrap(api.Internal, err, "the credential can't be stored")
		}
		return []consul.KVTxnOp{put(c.credentialsPrefix()+key, value, current.index)}, nil
	})
	return updated, err
}

// DeleteCredential deletes a credential. The error is of code NotFound, Unavailable or Internal.
func (c *Client) DeleteCredential(ctx context.Context, key string) error {
	_, err := c.deleteCredential(ctx, key)
	return err
}

// deleteCredential returns the index that the credential had.
func (c *Client) deleteCredential(ctx context.Context, key string) (uint64, error) {
	var deleted uint64
	read := func(ctx context.Context) (credentialRecord, error) { return c.credential(ctx, key) }
	_, err := rewrite(ctx, c, read, func(current credentialRecord) ([]consul.KVTxnOp, error) {
		deleted = current.index
		path := c.credentialsPrefix() + key
		return []consul.KVTxnOp{unchanged(path, current.index), remove(path)}, nil
	})
	return deleted, err
}

// What is known not to exist. A server that creates a credential knows it at once and the others hear of it through their watch, so this
// only delays a key that was tried before it existed, on a server whose watch is interrupted.
const (
	unknownKeys = 4096
	unknownFor  = 5 * time.Second
)

// Credentials answers for all credentials from memory, and makes changes that are seen here at once. It is safe for concurrent use.
type Credentials struct {
	cache[api.Credential]
	client  *Client
	unknown *lru.Cache // access key → time.Time until which it is taken to be unknown
}

// NewCredentials returns a cache that is empty, and asks Consul for everything, until Run is called.
func NewCredentials(client *Client) *Credentials {
	unknown, err := lru.New(unknownKeys)
	if err != nil {
		panic(err) // only for a size below 1
	}
	c := &Credentials{client: client, unknown: unknown}
	c.init(client)
	return c
}

// Run follows Consul's credentials. It blocks until ctx ends, whose error it returns, and rides out outages of Consul. It is called once.
func (c *Credentials) Run(ctx context.Context) error {
	return c.run(ctx, c.client, c.client.credentialsPrefix(), keyOfCredential)
}

// Get returns a credential. The error is of code NotFound, which Consul has confirmed in the last seconds, Unavailable or Internal.
func (c *Credentials) Get(ctx context.Context, key string) (api.Credential, error) {
	if cred, ok := c.get(key); ok {
		return cred, nil
	}
	if !segment.MatchString(key) {
		return api.Credential{}, noCredential()
	}
	if until, ok := c.unknown.Get(key); ok && time.Now().Before(until.(time.Time)) {
		return api.Credential{}, noCredential()
	}
	cred, err := c.miss(ctx, key, func(ctx context.Context) (credentialRecord, error) { return c.client.credential(ctx, key) })
	if api.CodeOf(err) == api.NotFound {
		c.unknown.Add(key, time.Now().Add(unknownFor))
	}
	return cred, err
}

// List returns all credentials, oldest first. It is complete once WaitReady has returned.
func (c *Credentials) List() []api.Credential {
	return c.all(func(*api.Credential) bool { return true }, oldestFirst)
}

// Quotas returns the quotas of the accounts whose credentials state one. known is false until all have been read for the first time.
func (c *Credentials) Quotas() (byAccount map[string]int, known bool) {
	select {
	case <-c.ready:
	default:
		return nil, false
	}
	byAccount = map[string]int{}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, row := range c.rows.rows {
		if cred := row.value; cred.Quota > 0 {
			byAccount[cred.Account] = max(byAccount[cred.Account], cred.Quota)
		}
	}
	return byAccount, true
}

// Create is Client.CreateCredential.
func (c *Credentials) Create(ctx context.Context, cred api.Credential) error {
	r, err := c.client.createCredential(ctx, cred)
	if err != nil {
		return err
	}
	c.put(r)
	return nil
}

// Delete is Client.DeleteCredential.
func (c *Credentials) Delete(ctx context.Context, key string) error {
	index, err := c.client.deleteCredential(ctx, key)
	if err != nil {
		return err
	}
	c.remove(key, index)
	return nil
}
