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

// ownAgent returns the arguments that start an agent with a configuration, on the data of a stack that has ended.
func ownAgent(t *testing.T, s *stack, config string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "funcd.hcl")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	return []string{"agent", "--config", file, "--http", "127.0.0.1:0", "--data-dir", s.data()}
}

// An account's functions are where the configuration says, and all that funcd does with them goes on there.
func TestPlacementOfAnAccount(t *testing.T) {
	t.Parallel()
	startNode(t, "placed", "meta {\n    rack = \"r7\"\n  }")
	namespaceOn(t, dev, "placed")
	o := beside("placed")
	o.namespace = "placed"
	o.config += `
nomad {
  dead_time = "15s"
  dead_jobs = 2
}
account "default" {
  nomad {
    namespace   = "placed"
    node_pool   = "placed"
    datacenters = ["dc*"]
    priority    = 41
    constraint {
      attribute = "meta.rack"
      operator  = "regexp"
      value     = "^r[78]$"
    }
    spread {
      attribute = "node.datacenter"
      target "dc1" {
        percent = 100
      }
    }
    docker = {
      ulimit      = { nofile = "1234:2345" }
      dns_servers = ["192.0.2.53"]
    }
  }
}
`
	own := startOwn(t, "placed", o)
	node := dev.node(t, "placed").ID
	require.NotEmpty(t, node)

	// The job, and the container.
	f := own.create(t, cold(program("funcd-test/probe", "hold", "600")))
	call := f.call(t, "")
	f.eventsOf(t, call, api.Running)
	var registered struct {
		Namespace, NodePool string
		Datacenters         []string
		Priority            int
		Constraints         []struct{ LTarget, Operand, RTarget string }
		Spreads             []struct{ Attribute string }
	}
	own.nomadGet(t, jobOf(f.job()), &registered)
	require.Equal(t, "placed placed [dc*] 41", fmt.Sprint(registered.Namespace, " ", registered.NodePool, " ", registered.Datacenters, " ", registered.Priority))
	require.Equal(t, "[{${meta.rack} regexp ^r[78]$}]", fmt.Sprint(registered.Constraints))
	require.Equal(t, "[{${node.datacenter}}]", fmt.Sprint(registered.Spreads))
	require.Equal(t, http.StatusNotFound, request(t, http.MethodGet, dev.nomad+jobOf(f.job()), "").status, "it is in its namespace alone")
	allocation := f.allocationOf(t, call)
	require.Equal(t, node, allocation.NodeID)
	var host struct {
		Ulimits []struct {
			Name       string
			Soft, Hard int
		}
		Dns []string //nolint:revive // Docker's name
	}
	container := containerOf(t, allocation.ID)
	require.NoError(t, json.Unmarshal([]byte(docker(t, "", "inspect", "--format", "{{json .HostConfig}}", container)), &host))
	require.Equal(t, "[{nofile 1234 2345}] [192.0.2.53]", fmt.Sprint(host.Ulimits, " ", host.Dns))

	// The pages.
	c := own.cli(t)
	require.Equal(t, dev.nomad+"/ui/jobs/"+f.job()+"@placed\n", c.prints(t, "", "open", f.Name))
	requireValid(t, c.prints(t, "", "job", f.Name), c.prints(t, "", "job", "--hcl", f.Name))
	require.Contains(t, c.prints(t, "", "job", f.Name), `"Namespace": "placed"`)

	// A call's life: it is cancelled, stopped by hand, answered by a slot, logged.
	require.Equal(t, http.StatusNoContent, f.cancel(t, call).status)
	f.requireCancelled(t, call)
	stopped := f.call(t, "")
	f.eventsOf(t, stopped, api.Running)
	require.Equal(t, http.StatusOK, request(t, http.MethodDelete, own.nomad+own.inNamespace(jobOf(f.childOf(t, stopped).ID)), "").status)
	require.Contains(t, last(f.eventsOf(t, stopped, api.Failed)).Message, "stopped")
	f.wait(t, stopped)
	w := own.create(t, warm(1, program("funcd/hello")))
	w.awaitReady(t, 1)
	require.Equal(t, "HelloWorld\n", w.sync(t, "").body)
	eventually(t, "its end among the events", func() bool { return last(w.events(t, "")).ShortStdout == "HelloWorld\n" })

	// Images are pulled by the node that functions may run on.
	r := newOwnRegistry(t, nil)
	r.push(t, "placed/app:1")
	messages := own.pull(t, r.host+"/placed/app", "1")
	require.Equal(t, "Status: Pull complete for "+r.host+"/placed/app:1 on 1 node", last(messages).Status, last(messages).Error)
	text, err := json.Marshal(messages)
	require.NoError(t, err)
	require.Contains(t, string(text), `"id":"placed"`, "the node's name")

	// The upkeep: what is purged by hand is registered anew, what has ended is purged, what is removed is gone.
	require.Equal(t, http.StatusOK, request(t, http.MethodDelete, own.nomad+own.inNamespace(jobOf(w.job())+"?purge=true"), "").status)
	eventually(t, "the job as it was", func() bool {
		return request(t, http.MethodGet, own.nomad+own.inNamespace(jobOf(w.job())), "").status == http.StatusOK
	})
	f.awaitChildren(t, 0)
	for _, f := range []*function{f, w} {
		f.removeEnded(t)
		eventually(t, "the end of all that the function had", func() bool {
			return len(f.dispatches(t)) == 0 && request(t, http.MethodGet, own.nomad+own.inNamespace(jobOf(f.job())), "").status == http.StatusNotFound
		})
	}
	own.requireFollowed(t)
}

// requireFollowed wants the stack to follow Nomad's events. Nomad hangs up on who falls behind, as a busy machine does, and lets him come back; whom it
// refuses does not.
func (s *stack) requireFollowed(t *testing.T) {
	t.Helper()
	eventually(t, "Nomad's events", func() bool {
		log := readFile(t, s.logFile)
		return strings.Count(log, "events are not followed") == strings.Count(log, "Nomad answers again")
	})
}

// What Nomad has not is an error at the start, in one sentence that names it.
func TestPlacementThatNomadHasNotIsAnErrorAtTheStart(t *testing.T) {
	t.Parallel()
	ofAccount := func(setting string) string { return "account \"team\" {\nnomad {\n" + setting + "\n}\n}\n" }
	for config, want := range map[string]string{
		"size \"s2\" {\ncpu = 100\nmemory = 64\nnode_pool = \"nowhere\"\n}\n":                                     `size "s2": Nomad has no node pool "nowhere"`,
		ofAccount(`namespace = "nowhere"`):                                                                        `account "team": Nomad has no namespace "nowhere"`,
		ofAccount(`node_pool = "nowhere"`):                                                                        `account "team": Nomad has no node pool "nowhere"`,
		ofAccount(`datacenters = ["dc1", "moon"]`):                                                                `account "team": Nomad has no node in the datacenter "moon"`,
		ofAccount("constraint {\nattribute = \"attr.nomad.version\"\noperator = \"semver\"\nvalue = \"much\"\n}"): `account "team": Nomad refuses its jobs:`,
		ofAccount("constraint {\nattribute = \"attr.nomad.version\"\noperator = \"like\"\nvalue = \"1\"\n}"):      `account "team": nomad.constraint: attr.nomad.version: "like" is not an operator of Nomad's`,
	} {
		s := &stack{options: options{dir: t.TempDir()}}
		status, stderr := runFuncd(t, ownAgent(t, s, config)...)
		require.Equal(t, 2, status, stderr)
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		require.Contains(t, last(lines), want)
		require.True(t, strings.HasPrefix(last(lines), "funcd: "), stderr)
	}
}

// A size's calls run in the size's node pool, the others in the account's.
func TestSizeWithANodePool(t *testing.T) {
	t.Parallel()
	startNode(t, "tier")
	o := beside("tier")
	o.config += "size \"s2\" {\n  cpu       = 100\n  memory    = 64\n  node_pool = \"tier\"\n}\n"
	own := startOwn(t, "tier", o)
	for size, there := range map[string]bool{"s1": false, "s2": true} {
		f := cold(program("funcd/hello"))
		f.ContainerSize = size
		created := own.create(t, f)
		call := created.call(t, "")
		require.Equal(t, "HelloWorld\n", created.wait(t, call).body)
		require.Equal(t, there, created.allocationOf(t, call).NodeID == dev.node(t, "tier").ID, size)
	}
}
