//go:build integration

package consul

import (
	"os"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
)

// TestConsul runs the suite on the Consul of CONSUL_HTTP_ADDR. Each test has a prefix of its own, which is deleted after it.
func TestConsul(t *testing.T) {
	t.Parallel()
	require.NotEmpty(t, os.Getenv("CONSUL_HTTP_ADDR"), "CONSUL_HTTP_ADDR names the Consul to test with")
	c, err := New(Config{})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	require.NoError(t, c.Ping(t.Context()))

	testBackend(t, func(t *testing.T, prefix string) *Client {
		c, err := New(Config{Prefix: prefix})
		require.NoError(t, err)
		c.lockDelay = time.Millisecond
		t.Cleanup(func() {
			_, err := c.api.KV().DeleteTree(prefix+"/", new(consul.WriteOptions))
			require.NoError(t, err)
			c.Close()
		})
		return c
	})
}
