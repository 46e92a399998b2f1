package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestWriteHosts(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "hosts")
	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("9.9.9.9 of-the-call-before\n", 100)), 0o600))
	require.NoError(t, writeHosts(file, &api.Assignment{}))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(text), "of-the-call-before", "without links it is not touched")

	require.NoError(t, writeHosts(file, &api.Assignment{Hosts: []string{"10.0.0.1\tcache redis", "10.0.0.2\tcache redis"}}))
	text, err = os.ReadFile(file)
	require.NoError(t, err)
	host, err := os.Hostname()
	require.NoError(t, err)
	require.Contains(t, string(text), "127.0.0.1\tlocalhost\n")
	require.Contains(t, string(text), "\n10.0.0.1\tcache redis\n10.0.0.2\tcache redis\n")
	if ip := ownAddress(); ip != nil {
		require.Contains(t, string(text), "\n"+ip.String()+"\t"+host+"\n", "a container finds itself")
	}
	require.NotContains(t, string(text), "before")

	err = writeHosts(filepath.Join(t.TempDir(), "none", "hosts"), &api.Assignment{Hosts: []string{"10.0.0.1\tcache"}})
	outcome, message := startFailure(err)
	require.Equal(t, api.NotStartable, outcome, "a file that is not there is not the command's")
	require.Contains(t, message, "links")
}

// The variables of links give way to all others, as in Docker.
func TestLinkVariables(t *testing.T) {
	t.Parallel()
	f := newFuncd(t, "env")
	f.assignment.LinkEnv = []string{"DB_PORT=tcp://10.0.0.1:1", "DB_NAME=/f/db", "OF_IMAGE=link", "OF_FUNCTION=link"}
	f.assignment.Env = append(f.assignment.Env, "OF_FUNCTION=function")
	got := f.start(func(c *Config) { c.Environ = append(c.Environ, "OF_IMAGE=image", "DB_NAME=image") }).wait(t)
	require.NoError(t, got.err)
	env := strings.Split(string(got.stdout), "\x00")
	require.Subset(t, env, []string{"DB_PORT=tcp://10.0.0.1:1", "DB_NAME=image", "OF_IMAGE=image", "OF_FUNCTION=function"})
	require.NotContains(t, env, "DB_NAME=/f/db")
}
