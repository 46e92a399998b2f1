package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestInfo(t *testing.T) {
	t.Parallel()
	i := &info{
		fixed: api.Info{Name: "here", ServerVersion: "1"},
		resources: func(_ context.Context, account string) (api.ClusterResources, error) {
			require.Equal(t, "team", account)
			return api.ClusterResources{Nodes: 2, Cores: 6, Memory: 7, Containers: 5, Running: 4}, nil
		},
		images:    func(context.Context) int { return 3 },
		functions: func(string) []api.Definition { return make([]api.Definition, 8) },
	}
	got, err := i.Info(t.Context(), "team")
	require.NoError(t, err)
	_, err = time.Parse(time.RFC3339Nano, got.SystemTime)
	require.NoError(t, err)
	require.Equal(t, api.Info{
		Name: "here", ServerVersion: "1", NCPU: 6, MemTotal: 7, Nodes: 2, Containers: 5, ContainersRunning: 4, Images: 3, Functions: 8,
		SystemTime: got.SystemTime,
	}, got)
}

// A Docker daemon that hangs does not keep what Nomad has failed with.
func TestInfoWithoutNomad(t *testing.T) {
	t.Parallel()
	i := &info{
		resources: func(context.Context, string) (api.ClusterResources, error) {
			return api.ClusterResources{}, api.Errorf(api.Unavailable, "Nomad does not answer")
		},
		images: func(ctx context.Context) int {
			<-ctx.Done()
			return 0
		},
	}
	_, err := i.Info(t.Context(), "team")
	require.Equal(t, api.Unavailable, api.CodeOf(err))
}

func TestOperatingSystem(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "os-release")
	require.Equal(t, "Linux", operatingSystem(file))
	require.NoError(t, os.WriteFile(file, []byte("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"), 0o600))
	require.Equal(t, "Debian GNU/Linux 12 (bookworm)", operatingSystem(file))
	require.NoError(t, os.WriteFile(file, []byte("NAME=x\n"), 0o600))
	require.Equal(t, "Linux", operatingSystem(file))
}
