//go:build integration

package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// credential is what the command prints of an access key.
type credential struct {
	AccessKey, SecretKey, Account, Description string
	CallOnly                                   bool
	Quota                                      int
}

// TestCredentials gives keys to two accounts on a server that demands them for calls, and changes a quota while calls wait for it.
func TestCredentials(t *testing.T) {
	t.Parallel()
	o := beside("credentials")
	o.noDev = true
	o.config += fmt.Sprintf("nomad {\n  address = %q\n}\naccount \"locked\" {\n  signed_calls = true\n}\n", dev.nomad)
	config := filepath.Join(t.TempDir(), "funcd.hcl")
	require.NoError(t, os.WriteFile(config, []byte(o.config), 0o600))
	command := func(args ...string) string {
		t.Helper()
		out, err := funcd(o, append([]string{"credential", "--config", config}, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	create := func(args ...string) (c credential) {
		t.Helper()
		require.NoError(t, json.Unmarshal([]byte(command(append([]string{"create", "--output", "json"}, args...)...)), &c))
		return c
	}
	owner := create("--account", "locked", "--quota", "1", "--description", "the owner's")
	require.Equal(t, credential{owner.AccessKey, owner.SecretKey, "locked", "the owner's", false, 1}, owner)
	caller := create("--account", "locked", "--call-only")
	require.True(t, caller.CallOnly)
	other := create("--account", "other")
	listed := command("ls")
	for _, c := range []credential{owner, caller, other} {
		require.Contains(t, listed, c.AccessKey)
		require.NotContains(t, listed, c.SecretKey, "it was shown, once")
	}
	require.Contains(t, listed, "the owner's")

	own := startOwn(t, "credentials", o)
	client := func(c credential) *api.Client {
		made, err := api.NewClient(api.ClientConfig{Address: own.url, AccessKey: c.AccessKey, SecretKey: c.SecretKey, SignCalls: true, HTTPClient: client})
		require.NoError(t, err)
		return made
	}
	own.Client = client(owner)
	f := own.create(t, cold(program("funcd/sleep", "600")))

	// Calls need a key of the account.
	for _, path := range []string{f.path("call"), f.path("status"), f.path("logs"), f.path("output", "0b9c8a52-6a0b-4a52-9f6f-0d3f1c1e7a10")} {
		a := own.request(t, http.MethodGet, path, "")
		require.Equal(t, http.StatusUnauthorized, a.status, path)
		require.Equal(t, "the request is not signed by a valid access key\n", a.body)
	}
	_, err := client(other).Status(t.Context(), f.Name, f.UUID, false)
	require.Equal(t, api.NotFound, api.CodeOf(err), "what it asks for is another account's: %v", err)
	_, err = client(caller).Functions(t.Context(), nil)
	require.Equal(t, api.Forbidden, api.CodeOf(err))
	require.Equal(t, api.Forbidden, api.CodeOf(client(caller).RemoveFunction(t.Context(), f.Name)))

	// One call runs, as the owner's key says, until it says more.
	var calls []string
	for range 3 {
		call, err := client(caller).Call(t.Context(), f.Name, f.UUID, strings.NewReader("in"), nil)
		require.NoError(t, err)
		calls = append(calls, call)
	}
	status := func() api.Status {
		s, err := client(caller).Status(t.Context(), f.Name, f.UUID, false)
		require.NoError(t, err)
		return s
	}
	running := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d calls at once", n), func() bool { return status().Running == n })
	}
	running(1)
	_, state, err := own.Output(t.Context(), f.Name, f.UUID, calls[1], false)
	require.NoError(t, err)
	require.Equal(t, api.Pending, state)
	require.Equal(t, owner.AccessKey+"\n", command("update", owner.AccessKey, "--quota", "2"))
	running(2)
	require.Equal(t, api.Status{Total: 3, Pending: 1, Running: 2}, status())
	command("create", "--account", "locked", "--quota", "3") // the largest counts
	running(3)
	out, err := funcd(o, "credential", "--config", config, "update", owner.AccessKey, "--quota", "-1").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "--quota: -1 must be at least 1")

	// The command line signs its calls too.
	c := own.cli(t, "FUNCD_ACCESS_KEY="+owner.AccessKey, "FUNCD_SECRET_KEY="+owner.SecretKey)
	require.Contains(t, c.prints(t, "", "status", f.Name), "3")
	// With a key that may only call it takes functions and calls by their address.
	only := own.cli(t, "FUNCD_ACCESS_KEY="+caller.AccessKey, "FUNCD_SECRET_KEY="+caller.SecretKey)
	require.Equal(t, 6, only.run(t, "", "status", f.Name).status, "it may not ask for the function")
	require.Contains(t, only.prints(t, "", "status", f.Name+"/"+f.UUID), "3")
	require.Equal(t, 8, only.run(t, "", "get", f.Name+"/"+f.UUID+"/"+calls[0]).status)
	for _, call := range calls {
		require.NoError(t, client(caller).Cancel(t.Context(), f.Name, f.UUID, call))
		_, _, err := client(caller).Output(t.Context(), f.Name, f.UUID, call, true)
		require.Equal(t, api.Cancelled, api.CodeOf(err))
	}
	e := own.create(t, cold(program("funcd/env")))
	env := c.prints(t, "", "call", "--sync", e.Name)
	require.NotContains(t, env, "HTTP_AUTHORIZATION")
	require.NotContains(t, env, "HTTP_X_HYPER")
	require.Contains(t, env, "HTTP_USER_AGENT")

	command("rm", caller.AccessKey)
	eventually(t, "the removed key is refused", func() bool {
		_, err := client(caller).Status(t.Context(), f.Name, f.UUID, false)
		return api.CodeOf(err) == api.Unauthorized
	})
	for _, c := range []credential{owner, caller, other} {
		require.NotContains(t, readFile(t, own.logFile), c.SecretKey)
	}
}
