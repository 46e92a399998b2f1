//go:build integration

package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// nomadWithACLs starts a Nomad dev agent that asks for tokens, which ends with the test, and returns its address and the token of its operator.
func nomadWithACLs(t *testing.T) (address, token string) {
	t.Helper()
	free, err := freePorts(3)
	require.NoError(t, err)
	dir := t.TempDir()
	file := filepath.Join(dir, "nomad.hcl")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
bind_addr            = "127.0.0.1"
disable_update_check = true
ports {
  http = %s
  rpc  = %s
  serf = %s
}
acl {
  enabled = true
}
client {
  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }
}
plugin "docker" {
  config {
    volumes {
      enabled = true
    }
    gc {
      image = false
      dangling_containers {
        enabled = false
      }
    }
  }
}
`, free[0], free[1], free[2]), 0o600))
	program, err := tool("nomad")
	require.NoError(t, err)
	log, err := os.Create(filepath.Join(dir, "nomad.log"))
	require.NoError(t, err)
	t.Cleanup(func() { log.Close() })
	cmd := exec.Command(program, "agent", "-dev", "-config="+file)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), mark())
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		killed := time.AfterFunc(stopTime, func() { _ = cmd.Process.Kill() })
		defer killed.Stop()
		_ = cmd.Wait()
	})
	address = "http://127.0.0.1:" + free[0]
	var made struct{ SecretID string }
	eventually(t, "Nomad's first token", func() bool {
		resp, err := client.Post(address+"/v1/acl/bootstrap", "application/json", nil)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return json.NewDecoder(resp.Body).Decode(&made) == nil && made.SecretID != ""
	})
	eventually(t, "Nomad's node", func() bool {
		a := request(t, http.MethodGet, address+"/v1/nodes", "", "X-Nomad-Token", made.SecretID)
		var nodes []clusterNode
		return json.Unmarshal([]byte(a.body), &nodes) == nil && len(nodes) == 1 && nodes[0].Status == "ready"
	})
	return address, made.SecretID
}

// What configs/nomad-policy.hcl allows is enough for all that funcd does, and tasks may read the logins that they need.
func TestNomadPolicyIsEnough(t *testing.T) {
	t.Parallel()
	address, operator := nomadWithACLs(t)
	asOperator := func(method, path string, body any) answer {
		t.Helper()
		text, err := json.Marshal(body)
		require.NoError(t, err)
		a := request(t, method, address+path, string(text), "X-Nomad-Token", operator)
		require.Equal(t, http.StatusOK, a.status, a.body)
		return a
	}
	asOperator(http.MethodPut, "/v1/namespace", map[string]string{"Name": "theirs"})
	asOperator(http.MethodPut, "/v1/namespace", map[string]string{"Name": "others"})
	rules := readFile(t, "../configs/nomad-policy.hcl")
	theirs := regexp.MustCompile(`(?ms)^namespace "default" \{$.*?^\}$`).FindString(rules)
	require.NotEmpty(t, theirs)
	rules += strings.Replace(theirs, `"default"`, `"theirs"`, 1)
	asOperator(http.MethodPut, "/v1/acl/policy/funcd", map[string]string{"Name": "funcd", "Rules": rules})
	var token struct{ SecretID string }
	made := asOperator(http.MethodPut, "/v1/acl/token", map[string]any{"Name": "funcd", "Type": "client", "Policies": []string{"funcd"}})
	require.NoError(t, json.Unmarshal([]byte(made.body), &token))

	r := newOwnRegistry(t, &authn.Basic{Username: "me", Password: "secret"})
	r.push(t, "env:1")
	r.push(t, "env:2")
	o := beside("acl")
	o.nomad = address
	o.config += fmt.Sprintf("limits {\n  orphan_time = \"100s\"\n}\nnomad {\n  address = %q\n  token   = %q\n}\nregistry %q {\n  username = \"me\"\n  password = \"secret\"\n}\n", address, token.SecretID, r.host)
	own := startOwn(t, "acl", o)
	requireAll := func() {
		t.Helper()
		requireThatAllWorks(t, own, r)
		require.NotContains(t, readFile(t, own.logFile), "refuses funcd's token")
		own.requireFollowed(t)
		left := asOperator(http.MethodGet, "/v1/vars?prefix=nomad/jobs/&namespace=*", nil)
		require.Equal(t, "[]", left.body, "no login is left")
	}
	requireAll()

	// So it is where an account has a namespace of its own, and funcd's token sees nothing of a third.
	require.NoError(t, own.stop(syscall.SIGTERM))
	o.config += "account \"default\" {\n  nomad {\n    namespace = \"theirs\"\n  }\n}\n"
	own = startOwn(t, "acl", o)
	requireAll()
	eventually(t, "the end of all that was in the account's old namespace", func() bool {
		var list []struct{ Namespace string }
		require.NoError(t, json.Unmarshal([]byte(asOperator(http.MethodGet, "/v1/jobs?namespace=*&prefix=func-", nil).body), &list))
		require.NotEmpty(t, list)
		return !slices.ContainsFunc(list, func(job struct{ Namespace string }) bool { return job.Namespace != "theirs" })
	})
	require.NoError(t, own.stop(syscall.SIGTERM))
	status, stderr := runFuncd(t, ownAgent(t, own, strings.Replace(o.config, `"theirs"`, `"others"`, 1))...)
	require.Equal(t, 2, status, stderr)
	require.Contains(t, stderr, `account "default": Nomad has no namespace "others", or refuses funcd's token there`)
}

// requireThatAllWorks does what a funcd does with Nomad.
func requireThatAllWorks(t *testing.T, own *stack, r *ownRegistry) {
	t.Helper()
	f := own.create(t, cold(program(r.host+"/env:1")))
	out := f.sync(t, "")
	require.Equal(t, http.StatusOK, out.status, out.body)
	messages := own.pull(t, r.host+"/env", "2", api.RegistryAuthHeader, r.auth(t))
	require.Equal(t, "Status: Pull complete for "+r.host+"/env:2 on 1 node", last(messages).Status, last(messages).Error)
	info, err := own.Info(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, info.Nodes)
	waits := own.create(t, warm(1, program("funcd/hello")))
	waits.awaitReady(t, 1)
	require.Equal(t, "HelloWorld\n", waits.sync(t, "").body)
	f.removeEnded(t)
}
