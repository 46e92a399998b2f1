package consul

import (
	"context"

	"github.com/google/uuid"

	"github.com/funcd/funcd/api"
)

// ClusterID returns the id of the funcd cluster whose keys are under the client's prefix. It is made by the first server that asks, and tells
// the cluster's jobs in Nomad from those of others. The error is of code Unavailable or Internal.
func (c *Client) ClusterID(ctx context.Context) (string, error) {
	key := c.key("cluster")
	for {
		pair, err := c.get(ctx, key)
		if err != nil {
			return "", err
		}
		if pair != nil {
			return string(pair.Value), nil
		}
		id := uuid.NewString()
		_, err = c.create(ctx, key, api.Errorf(api.Conflict, "another server has made it"), put(key, []byte(id), 0))
		if api.CodeOf(err) == api.Conflict {
			continue
		}
		if err != nil {
			return "", err
		}
		return id, nil
	}
}

// Stored returns all functions as Consul has them now. The error is of code Unavailable, or Internal if one of them can't be read: what would
// be missing is not gone.
func (f *Functions) Stored(ctx context.Context) ([]api.Definition, error) {
	prefix := f.client.functionsPrefix()
	pairs, _, err := f.client.list(ctx, prefix, 0, 0)
	if err != nil {
		return nil, err
	}
	all := make([]api.Definition, 0, len(pairs))
	for _, pair := range pairs {
		r, err := decode(pair, prefix, keyOfDefinition)
		if err != nil {
			return nil, err
		}
		all = append(all, r.value)
	}
	return all, nil
}
