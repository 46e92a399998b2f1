package consul

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func testClusterID(t *testing.T, connect func(*testing.T, string) *Client) {
	prefix := newPrefix()
	ids := make([]string, 8)
	var asking sync.WaitGroup
	for i := range ids {
		asking.Go(func() {
			id, err := connect(t, prefix).ClusterID(t.Context())
			if err != nil {
				t.Error(err)
			}
			ids[i] = id
		})
	}
	asking.Wait()
	require.True(t, api.ValidUUID(ids[0]), ids[0])
	for _, id := range ids {
		require.Equal(t, ids[0], id, "all servers get the same")
	}
	other, err := connect(t, newPrefix()).ClusterID(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, ids[0], other)
}

func testStored(t *testing.T, connect func(*testing.T, string) *Client) {
	ctx, c := t.Context(), connect(t, newPrefix())
	f := NewFunctions(c) // it need not follow Consul
	all, err := f.Stored(ctx)
	require.NoError(t, err)
	require.Empty(t, all)
	var want []string
	for _, name := range []string{"a", "b"} {
		def, err := c.CreateFunction(ctx, newDefinition("alice", name))
		require.NoError(t, err)
		want = append(want, def.ID)
	}
	all, err = f.Stored(ctx)
	require.NoError(t, err)
	var got []string
	for _, def := range all {
		got = append(got, def.ID)
	}
	require.ElementsMatch(t, want, got)
	_, err = c.write(ctx, put(c.functionsPrefix()+"alice/c", []byte("{"), 0))
	require.NoError(t, err)
	_, err = f.Stored(ctx)
	require.Equal(t, api.Internal, api.CodeOf(err), "what can't be read is not gone")
}
