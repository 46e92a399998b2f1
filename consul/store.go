package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	consul "github.com/hashicorp/consul/api"

	"github.com/funcd/funcd/api"
)

// create makes ops, the first of which creates key, which the error conflict says if it exists. It returns the index of the change.
func (c *Client) create(ctx context.Context, key string, conflict error, ops ...consul.KVTxnOp) (uint64, error) {
	index, err := c.write(ctx, ops...)
	var refused *rejected
	if !errors.As(err, &refused) {
		return index, err
	}
	// Consul's reasons are texts only, so look.
	pair, err := c.get(ctx, key)
	switch {
	case err != nil:
		return 0, err
	case pair != nil:
		return 0, conflict
	}
	return 0, api.Wrap(api.Internal, refused, "Consul refuses the change")
}

// rewrite reads a record, lets prepare say what to write in its place, and writes that, all over again when another one was faster.
// prepare must make its operations depend on the record's index. It returns the index of the change.
func rewrite[V any](ctx context.Context, c *Client, read func(context.Context) (record[V], error),
	prepare func(record[V]) ([]consul.KVTxnOp, error)) (uint64, error) {
	var (
		pause   backoff
		refused *rejected
		tried   uint64
	)
	for {
		current, err := read(ctx)
		if err != nil {
			return 0, err
		}
		if refused != nil && current.index == tried { // nobody was faster: it is refused for another reason
			return 0, api.Wrap(api.Internal, refused, "Consul refuses the change")
		}
		ops, err := prepare(current)
		if err != nil {
			return 0, err
		}
		index, err := c.write(ctx, ops...)
		if !errors.As(err, &refused) {
			return index, err
		}
		tried = current.index
		pause.wait(ctx)
		if ctx.Err() != nil {
			return 0, translate(ctx, ctx.Err())
		}
	}
}

// put is the operation that writes value, if key still has this index. Index 0: if the key does not exist.
func put(key string, value []byte, index uint64) consul.KVTxnOp {
	return consul.KVTxnOp{Verb: consul.KVCAS, Key: key, Value: value, Index: index}
}

// unchanged is the operation that fails the others unless key exists and has this index. Consul's own check-and-set deletion would also
// succeed where there is nothing to delete.
func unchanged(key string, index uint64) consul.KVTxnOp {
	return consul.KVTxnOp{Verb: consul.KVCheckIndex, Key: key, Index: index}
}

func remove(key string) consul.KVTxnOp {
	return consul.KVTxnOp{Verb: consul.KVDelete, Key: key}
}

// decode reads the record of pair, whose key begins with prefix. keyOf returns the key that a value belongs to, as one that was put
// elsewhere by hand must not act for another account. The error does not show the value.
func decode[V any](pair *consul.KVPair, prefix string, keyOf func(*V) string) (record[V], error) {
	r := record[V]{key: strings.TrimPrefix(pair.Key, prefix), index: pair.ModifyIndex}
	if json.Unmarshal(pair.Value, &r.value) != nil || keyOf(&r.value) != r.key {
		return record[V]{}, api.Wrap(api.Internal, fmt.Errorf("the value of %q can't be read", pair.Key), "a stored value can't be read")
	}
	return r, nil
}

// follow watches all records under prefix until ctx ends, whose error it returns. ask and what it returns are as for watch. What can't be
// decoded is logged, once for each of its changes, and left out.
func follow[V any](ctx context.Context, c *Client, prefix string, keyOf func(*V) string, ask func() func([]record[V], uint64)) error {
	logged := map[string]uint64{}
	last := map[string]record[V]{} // of the latest answer: what has not changed since is not decoded again
	return c.watch(ctx, prefix, func() func(consul.KVPairs, uint64) {
		take := ask()
		return func(pairs consul.KVPairs, index uint64) {
			records := make([]record[V], 0, len(pairs))
			before := last
			last = make(map[string]record[V], len(pairs))
			for _, pair := range pairs {
				r, known := before[pair.Key]
				var err error
				if !known || r.index != pair.ModifyIndex {
					r, err = decode(pair, prefix, keyOf)
				}
				if err == nil {
					records = append(records, r)
					last[pair.Key] = r
				} else if logged[pair.Key] != pair.ModifyIndex {
					logged[pair.Key] = pair.ModifyIndex
					c.log.Error("stored value can't be read", "key", pair.Key)
				}
			}
			take(records, index)
		}
	})
}
