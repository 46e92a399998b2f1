package consul

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	consul "github.com/hashicorp/consul/api"

	"github.com/funcd/funcd/api"
)

// A function is the JSON of its api.Definition at functions/<account>/<name>. Its UUID is a secret address, so what leads from it to the
// function is kept under its SHA-256, in addresses/<sha256>, whose value is <account>/<name>. Both are written in one transaction.
const (
	functionsPath = "functions"
	addressesPath = "addresses"
)

type functionRecord = record[api.Definition]

// functionID is a function's key without the prefix.
func functionID(account, name string) string { return account + "/" + name }

func keyOfDefinition(def *api.Definition) string { return functionID(def.Account, def.Function.Name) }

func (c *Client) functionsPrefix() string { return c.key(functionsPath) + "/" }

func (c *Client) addressKey(uuid string) string {
	sum := sha256.Sum256([]byte(uuid))
	return c.key(addressesPath, hex.EncodeToString(sum[:]))
}

func noFunction() error { return api.Errorf(api.NotFound, "no such function") }

// CreateFunction stores def as revision 1 and returns what is stored. It needs its ID, Account, Name and UUID. The error is of code
// Conflict if the account has a function of that name, Invalid, TooLarge, Unavailable or Internal.
func (c *Client) CreateFunction(ctx context.Context, def api.Definition) (api.Definition, error) {
	r, err := c.createFunction(ctx, def)
	return r.value, err
}

func (c *Client) createFunction(ctx context.Context, def api.Definition) (functionRecord, error) {
	if def.ID == "" || !api.ValidAccount(def.Account) || !segment.MatchString(def.Function.Name) || !api.ValidUUID(def.Function.UUID) {
		return functionRecord{}, api.Errorf(api.Invalid, "a function needs an ID, an account, a name and a UUID")
	}
	def.Revision = 1
	r, value, err := encodeDefinition(def)
	if err != nil {
		return functionRecord{}, err
	}
	key := c.functionsPrefix() + r.key
	conflict := api.Errorf(api.Conflict, "the name %q is already in use", def.Function.Name)
	r.index, err = c.create(ctx, key, conflict, put(key, value, 0), put(c.addressKey(def.Function.UUID), []byte(r.key), 0))
	if err != nil {
		return functionRecord{}, err
	}
	return r, nil
}

// encodeDefinition returns def as it is stored, and the record that reading it back gives, which shares nothing with def.
func encodeDefinition(def api.Definition) (functionRecord, []byte, error) {
	value, err := json.Marshal(def)
	if err != nil {
		return functionRecord{}, nil, api.Wrap(api.Internal, err, "the function can't be stored")
	}
	r, err := decode(&consul.KVPair{Key: keyOfDefinition(&def), Value: value}, "", keyOfDefinition)
	return r, value, err
}

// UpdateFunction reads the function, lets change alter it, stores it as its next revision and returns what is stored. When another one
// was faster it begins again, so change may be called several times; an error of change ends it and is returned as it is. ID, account,
// name and revision stay whatever change does to them. The error is of code NotFound, TooLarge, Unavailable or Internal.
func (c *Client) UpdateFunction(ctx context.Context, account, name string, change func(*api.Definition) error) (api.Definition, error) {
	r, err := c.updateFunction(ctx, account, name, change)
	return r.value, err
}

func (c *Client) updateFunction(ctx context.Context, account, name string, change func(*api.Definition) error) (functionRecord, error) {
	var updated functionRecord
	prepare := func(current functionRecord) ([]consul.KVTxnOp, error) {
		def := current.value
		was := def.Function.UUID
		if err := change(&def); err != nil {
			return nil, err
		}
		def.ID, def.Account, def.Function.Name, def.Revision = current.value.ID, account, name, current.value.Revision+1
		if !api.ValidUUID(def.Function.UUID) {
			return nil, api.Errorf(api.Invalid, "a function needs a UUID")
		}
		var value []byte
		var err error
		if updated, value, err = encodeDefinition(def); err != nil {
			return nil, err
		}
		ops := []consul.KVTxnOp{put(c.functionsPrefix()+current.key, value, current.index)}
		if def.Function.UUID != was {
			ops = append(ops, remove(c.addressKey(was)), put(c.addressKey(def.Function.UUID), []byte(current.key), 0))
		}
		return ops, nil
	}
	index, err := rewrite(ctx, c, func(ctx context.Context) (functionRecord, error) { return c.function(ctx, account, name) }, prepare)
	if err != nil {
		return functionRecord{}, err
	}
	updated.index = index
	return updated, nil
}

// DeleteFunction deletes the function, if it still has this ID: one that was deleted and created anew meanwhile is left alone. The error
// is of code NotFound, Unavailable or Internal.
func (c *Client) DeleteFunction(ctx context.Context, account, name, id string) error {
	_, err := c.deleteFunction(ctx, account, name, id)
	return err
}

// deleteFunction returns the index that the function had.
func (c *Client) deleteFunction(ctx context.Context, account, name, id string) (uint64, error) {
	var deleted uint64
	prepare := func(current functionRecord) ([]consul.KVTxnOp, error) {
		if current.value.ID != id {
			return nil, noFunction()
		}
		deleted = current.index
		key := c.functionsPrefix() + current.key
		return []consul.KVTxnOp{unchanged(key, current.index), remove(key), remove(c.addressKey(current.value.Function.UUID))}, nil
	}
	_, err := rewrite(ctx, c, func(ctx context.Context) (functionRecord, error) { return c.function(ctx, account, name) }, prepare)
	return deleted, err
}

// Function reads a function from Consul. The error is of code NotFound, Unavailable or Internal.
func (c *Client) Function(ctx context.Context, account, name string) (api.Definition, error) {
	r, err := c.function(ctx, account, name)
	return r.value, err
}

func (c *Client) function(ctx context.Context, account, name string) (functionRecord, error) {
	if !api.ValidAccount(account) || !segment.MatchString(name) {
		return functionRecord{}, noFunction()
	}
	pair, err := c.get(ctx, c.functionsPrefix()+functionID(account, name))
	switch {
	case err != nil:
		return functionRecord{}, err
	case pair == nil:
		return functionRecord{}, noFunction()
	}
	return decode(pair, c.functionsPrefix(), keyOfDefinition)
}

// FunctionByUUID reads the function that has this UUID from Consul. An unknown UUID costs the read of one key. The error is of code
// NotFound, Unavailable or Internal.
func (c *Client) FunctionByUUID(ctx context.Context, uuid string) (api.Definition, error) {
	r, err := c.functionByUUID(ctx, uuid)
	return r.value, err
}

func (c *Client) functionByUUID(ctx context.Context, uuid string) (functionRecord, error) {
	if !api.ValidUUID(uuid) {
		return functionRecord{}, noFunction()
	}
	address, err := c.get(ctx, c.addressKey(uuid))
	switch {
	case err != nil:
		return functionRecord{}, err
	case address == nil:
		return functionRecord{}, noFunction()
	}
	pair, err := c.get(ctx, c.functionsPrefix()+string(address.Value))
	switch {
	case err != nil:
		return functionRecord{}, err
	case pair == nil:
		return functionRecord{}, noFunction()
	}
	r, err := decode(pair, c.functionsPrefix(), keyOfDefinition)
	if err != nil {
		return functionRecord{}, err
	}
	if r.value.Function.UUID != uuid { // refreshed between the two reads
		return functionRecord{}, noFunction()
	}
	return r, nil
}

// WatchFunctions calls onChange with all functions, sorted by account and name, at first and after each change, at times also without one.
// Changes that follow closely may be told as one. It blocks until ctx ends, whose error it returns. It rides out outages of Consul. What can't be decoded is logged and left out.
func (c *Client) WatchFunctions(ctx context.Context, onChange func(all []api.Definition)) error {
	take := func(records []functionRecord, _ uint64) {
		all := make([]api.Definition, len(records))
		for i, r := range records {
			all[i] = r.value
		}
		onChange(all)
	}
	return follow(ctx, c, c.functionsPrefix(), keyOfDefinition, func() func([]functionRecord, uint64) { return take })
}
