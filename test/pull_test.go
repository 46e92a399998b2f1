//go:build integration

package test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// pull asks the stack for POST /images/create and returns its lines.
func (s *stack) pull(t *testing.T, image, tag string, headers ...string) []api.PullMessage {
	t.Helper()
	a := s.request(t, http.MethodPost, pullPath(image, tag), "", headers...)
	require.Equal(t, http.StatusOK, a.status, a.body)
	require.Equal(t, "application/json", a.header.Get("Content-Type"))
	var messages []api.PullMessage
	for line := range strings.Lines(a.body) {
		messages = append(messages, pullMessage(t, line))
	}
	return messages
}

func pullPath(image, tag string) string {
	return "/v1.23/images/create?" + url.Values{"fromImage": {image}, "tag": {tag}}.Encode()
}

func pullMessage(t *testing.T, line string) api.PullMessage {
	t.Helper()
	var m api.PullMessage
	require.NoError(t, json.Unmarshal([]byte(line), &m), line)
	return m
}

// beginPull asks for a pull that the registry holds, and returns its lines as they come once a node has begun.
func (s *stack) beginPull(t *testing.T, ctx context.Context, image, tag string, headers ...string) *bufio.Scanner {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+pullPath(image, tag), nil)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	require.Equal(t, http.StatusOK, resp.StatusCode)
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if pullMessage(t, lines.Text()).Status == "Pulling" {
			return lines
		}
	}
	require.Fail(t, "no node has begun", lines.Err())
	return nil
}

// pullJobs returns the ids of the jobs of pulls of an image in the stack's Nomad.
func (s *stack) pullJobs(t *testing.T, image string) []string {
	t.Helper()
	var list []job
	s.nomadGet(t, "/v1/jobs?prefix=funcd-pull-", &list)
	var ids []string
	for _, j := range list {
		a := request(t, http.MethodGet, s.nomad+jobOf(j.ID), "")
		if strings.Contains(a.body, `"image":"`+image+`"`) {
			ids = append(ids, j.ID)
		}
	}
	return ids
}

// variables returns the paths of the Nomad Variables under a prefix.
func (s *stack) variables(t *testing.T, prefix string) []string {
	t.Helper()
	var list []struct{ Path string }
	s.nomadGet(t, "/v1/vars?prefix="+prefix, &list)
	var paths []string
	for _, v := range list {
		paths = append(paths, v.Path)
	}
	return paths
}

// hasImage tells whether Docker has the image.
func hasImage(ref string) bool { return exec.Command("docker", "image", "inspect", ref).Run() == nil }

func TestPull(t *testing.T) {
	t.Parallel()
	r := newOwnRegistry(t, nil)
	digest := r.push(t, "team/app:1", "VERSION=one")
	image := r.host + "/team/app"
	require.False(t, hasImage(image+":1"))
	messages := dev.pull(t, image, "1")
	require.True(t, hasImage(image+":1"))
	require.True(t, hasImage(image+"@"+digest))
	require.Equal(t, api.PullMessage{Status: "Pulling from team/app", ID: "1"}, messages[0])
	node := messages[len(messages)-3]
	require.Equal(t, "Pull complete", node.Status)
	require.NotEmpty(t, node.ID)
	require.Equal(t, &api.PullProgress{Current: 1, Total: 1, Units: "nodes"}, node.ProgressDetail)
	require.Equal(t, "Digest: "+digest, messages[len(messages)-2].Status)
	require.Equal(t, "Status: Pull complete for "+image+":1 on 1 node", last(messages).Status)
	require.Empty(t, dev.pullJobs(t, image+":1"))
	f := dev.create(t, cold(program(image+":1")))
	require.Contains(t, f.sync(t, "").body, `"VERSION=one"`)

	// A tag that is on the node is pulled again, and what is created then is of it.
	second := r.push(t, "team/app:1", "VERSION=two")
	messages = dev.pull(t, image, "1")
	require.Equal(t, "Digest: "+second, messages[len(messages)-2].Status)
	require.Contains(t, dev.create(t, cold(program(image+":1"))).sync(t, "").body, `"VERSION=two"`)
	require.Contains(t, f.sync(t, "").body, `"VERSION=one"`)

	// By digest, and with the tag in the name.
	require.Equal(t, "Status: Pull complete for "+image+"@"+digest+" on 1 node", last(dev.pull(t, image, digest)).Status)
	require.Equal(t, "Status: Pull complete for "+image+":1 on 1 node", last(dev.pull(t, image+":1", "")).Status)
}

func TestPullFails(t *testing.T) {
	t.Parallel()
	public, private := newOwnRegistry(t, nil), newOwnRegistry(t, &authn.Basic{Username: "me", Password: "secret"})
	private.push(t, "app:1")
	public.pushAs(t, "funcd/env", "app:arm", func(c *v1.ConfigFile) { c.Architecture = "arm64" })
	arm := public.host + "/app:arm"
	local := newImage(t, public.host+"/local")
	free, err := freePorts(1)
	require.NoError(t, err)
	away := "127.0.0.1:" + free[0] + "/app"
	wrong, err := api.RegistryAuth{Username: "me", Password: "guess"}.Header()
	require.NoError(t, err)
	for title, c := range map[string]struct {
		image   string
		headers []string
		code    int
		message string
	}{
		"not found":                    {public.host + "/app:none", nil, 404, "no such image: " + public.host + "/app:none"},
		"only in the Docker daemon":    {local, nil, 404, "the local Docker daemon has it, from which nothing can be pulled"},
		"wrong platform":               {arm, nil, 400, arm + " has no image for linux/amd64"},
		"denied, with a login":         {private.host + "/app:1", []string{api.RegistryAuthHeader, wrong}, 403, "access to " + private.host + "/app:1 denied"},
		"denied on the nodes, without": {private.host + "/app:1", nil, 403, "could not pull " + private.host + "/app:1: access to " + private.host + "/app:1 denied"},
		"unreachable for the nodes":    {away + ":1", nil, 503, "could not pull " + away + ":1: "},
	} {
		m := last(dev.pull(t, c.image, "", c.headers...))
		require.Contains(t, m.Error, c.message, title)
		require.Equal(t, &api.PullError{Code: c.code, Message: m.Error}, m.ErrorDetail, title)
		require.Empty(t, dev.pullJobs(t, c.image), title)
	}
	for title, c := range map[string]struct{ path, message string }{
		"no image":        {"/images/create", "fromImage: is required"},
		"a malformed one": {"/images/create?fromImage=Wrong", `"Wrong" is not an image reference`},
		"a malformed tag": {"/images/create?fromImage=app&tag=a%20b", `tag: "a b" is neither a tag nor a digest`},
		"an id":           {"/images/create?fromImage=sha256&tag=" + strings.Repeat("0", 64), "is an image id"},
		"an import":       {"/images/create?fromSrc=-&repo=app", "fromSrc:"},
	} {
		a := dev.request(t, http.MethodPost, c.path, "")
		require.Equal(t, http.StatusBadRequest, a.status, "%s: %s", title, a.body)
		require.Contains(t, a.body, c.message, title)
	}
	require.NotContains(t, readFile(t, dev.logFile), "guess", "no login is logged")
}

// A login reaches the node, and nobody who reads Nomad's jobs.
func TestPullWithALogin(t *testing.T) {
	t.Parallel()
	// All that a template, an environment file and Nomad's interpolation could stumble over.
	const user, password = `me$USER`, `se"c$r{e}t'${HOME} $(id) \ <&>%#=ü`
	r := newOwnRegistry(t, &authn.Basic{Username: user, Password: password})
	r.push(t, "app:1")
	image := r.host + "/app:1"
	release := r.hold(t)
	lines := dev.beginPull(t, t.Context(), r.host+"/app", "1", api.RegistryAuthHeader, r.auth(t))
	ids := dev.pullJobs(t, image)
	require.Len(t, ids, 1)
	variable := "nomad/jobs/" + ids[0]
	require.Contains(t, dev.variables(t, variable), variable)

	spec := request(t, http.MethodGet, dev.nomad+jobOf(ids[0]), "")
	require.Equal(t, http.StatusOK, spec.status)
	var pulling struct {
		Type string
		Meta map[string]string
	}
	require.NoError(t, json.Unmarshal([]byte(spec.body), &pulling))
	require.Equal(t, "sysbatch", pulling.Type)
	require.Equal(t, map[string]string{"funcd_account": "default"}, pulling.Meta)
	var allocations []allocation
	dev.nomadGet(t, jobOf(ids[0])+"/allocations", &allocations)
	require.Len(t, allocations, 1)
	alloc := request(t, http.MethodGet, dev.nomad+"/v1/allocation/"+allocations[0].ID, "")
	files := request(t, http.MethodGet, dev.nomad+"/v1/client/fs/ls/"+allocations[0].ID+"?path=image", "")
	require.Equal(t, http.StatusOK, files.status, files.body)
	file := request(t, http.MethodGet, dev.nomad+"/v1/client/fs/cat/"+allocations[0].ID+"?path=image/private/registry.env", "")
	require.Contains(t, file.body, "Reading private file prohibited")
	quoted, err := json.Marshal(password)
	require.NoError(t, err)
	for _, text := range []string{spec.body, alloc.body, file.body} {
		require.NotContains(t, text, "se\\\"c$r")
		require.NotContains(t, text, string(quoted))
		require.NotContains(t, text, user)
	}

	release()
	var m api.PullMessage
	for lines.Scan() {
		m = pullMessage(t, lines.Text())
	}
	require.Equal(t, "Status: Pull complete for "+image+" on 1 node", m.Status, m.Error)
	require.True(t, hasImage(image))
	require.Empty(t, dev.pullJobs(t, image))
	require.NotContains(t, dev.variables(t, "nomad/jobs/funcd-pull-"), variable)
	logs := readFile(t, dev.logFile) + readFile(t, filepath.Join(dev.data(), "nomad.log"))
	require.NotContains(t, logs, "se\"c$r")
	require.NotContains(t, logs, "se\\\"c$r")
}

func TestPullEndsWithItsClient(t *testing.T) {
	t.Parallel()
	r := newOwnRegistry(t, &authn.Basic{Username: "me", Password: "secret"})
	r.push(t, "app:1")
	image := r.host + "/app:1"
	r.hold(t)
	ctx, hangUp := context.WithCancel(t.Context())
	dev.beginPull(t, ctx, r.host+"/app", "1", api.RegistryAuthHeader, r.auth(t))
	ids := dev.pullJobs(t, image)
	require.Len(t, ids, 1)
	hangUp()
	eventually(t, "no job of the pull", func() bool { return len(dev.pullJobs(t, image)) == 0 })
	eventually(t, "no login of the pull", func() bool { return len(dev.variables(t, "nomad/jobs/"+ids[0])) == 0 })
}

func TestPullWithoutNomad(t *testing.T) {
	t.Parallel()
	g, server := nomadBehindGate(t)
	o := beside("pullaway")
	o.nomad = server.URL
	own := startOwn(t, "pullaway", o)
	g.set(hangUp)
	server.CloseClientConnections()
	a := own.request(t, http.MethodPost, pullPath("busybox", "1"), "")
	require.Equal(t, answer{http.StatusServiceUnavailable, a.header, "Nomad does not answer\n"}, a)
}

// join starts another client of the stack's Nomad, which ends with the test, and returns when it is ready. more is what its client block has too.
func (s *stack) join(t *testing.T, node, more string) {
	t.Helper()
	var leader string
	s.nomadGet(t, "/v1/status/leader", &leader)
	free, err := freePorts(1)
	require.NoError(t, err)
	dir := filepath.Join(s.dir, node)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	file := filepath.Join(dir, "client.hcl")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
name                 = %q
data_dir             = %q
bind_addr            = "127.0.0.1"
disable_update_check = true
ports {
  http = %s
}
advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}
client {
  enabled = true
  servers = [%q]
  %s
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
`, node, filepath.Join(dir, "data"), free[0], leader, more), 0o600))
	program, err := tool("nomad")
	require.NoError(t, err)
	log, err := os.Create(filepath.Join(dir, "nomad.log"))
	require.NoError(t, err)
	defer log.Close()
	cmd := exec.Command(program, "agent", "-config="+file)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), mark())
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		killed := time.AfterFunc(stopTime, func() { _ = cmd.Process.Kill() })
		defer killed.Stop()
		_ = cmd.Wait()
		if t.Failed() {
			text := readFile(t, log.Name())
			t.Logf("the end of %s:\n%s", log.Name(), text[max(0, len(text)-4096):])
		}
	})
	eventually(t, "the node "+node, func() bool { return s.node(t, node).Status == "ready" })
}

type clusterNode struct {
	ID     string
	Name   string
	Status string
}

// node returns a node of the stack's Nomad, by its name.
func (s *stack) node(t *testing.T, name string) clusterNode {
	t.Helper()
	var list []clusterNode
	s.nomadGet(t, "/v1/nodes", &list)
	for _, n := range list {
		if n.Name == name {
			return n
		}
	}
	return clusterNode{}
}

func TestPullOnEveryReadyNode(t *testing.T) {
	t.Parallel()
	const options = `options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
    "driver.denylist"      = %q
  }`
	free, err := freePorts(1)
	require.NoError(t, err)
	o := beside("nodes")
	o.nomad = "http://127.0.0.1:" + free[0]
	own := startOwn(t, "nodes", o)
	host, err := os.Hostname()
	require.NoError(t, err)
	own.join(t, "second", fmt.Sprintf(options, "raw_exec"))
	own.join(t, "bare", fmt.Sprintf(options, "docker"))
	own.join(t, "ineligible", fmt.Sprintf(options, "raw_exec"))
	eligibility := func(node, eligibility string) {
		t.Helper()
		a := request(t, http.MethodPost, own.nomad+"/v1/node/"+own.node(t, node).ID+"/eligibility", fmt.Sprintf(`{"Eligibility":%q}`, eligibility))
		require.Equal(t, http.StatusOK, a.status, a.body)
	}
	eligibility("ineligible", "ineligible")
	eventually(t, "all nodes but the one without Docker", func() bool { // each finds its Docker a moment after it is ready
		info, err := own.Info(t.Context())
		require.NoError(t, err)
		require.LessOrEqual(t, info.Nodes, 3)
		return info.Nodes == 3
	})

	r := newOwnRegistry(t, nil)
	r.push(t, "app:1")
	messages := own.pull(t, r.host+"/app", "1")
	require.Equal(t, "Status: Pull complete for "+r.host+"/app:1 on 2 nodes", last(messages).Status, last(messages).Error)
	var complete []string
	for _, m := range messages {
		if m.Status == "Pull complete" {
			complete = append(complete, m.ID)
			require.EqualValues(t, 2, m.ProgressDetail.Total)
		}
	}
	require.ElementsMatch(t, []string{host, "second"}, complete)

	eligibility(host, "ineligible")
	eligibility("second", "ineligible")
	m := last(own.pull(t, r.host+"/app", "1"))
	require.Equal(t, "no node of the cluster is ready to pull images", m.Error)
	require.Equal(t, http.StatusServiceUnavailable, m.ErrorDetail.Code)
}

// An account's functions are of images that its login shows, on nodes that have none themselves. Neither Nomad's jobs nor the function see it.
func TestLoginsOfAccounts(t *testing.T) {
	t.Parallel()
	const first, second = "the-first-password", "the-second-password"
	r := newOwnRegistry(t, &authn.Basic{Username: "the-user", Password: first})
	r.pushAs(t, "funcd-test/probe", "probe:1", func(*v1.ConfigFile) {})
	r.push(t, "env:1")
	passwordFile := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(passwordFile, []byte(first+"\n"), 0o600))
	o := beside("logins")
	o.config += fmt.Sprintf("registry %q {\n  account = \"default\"\n  username = \"the-user\"\n  password_file = %q\n}\n", r.host, passwordFile)
	config := filepath.Join(t.TempDir(), "funcd.hcl")
	require.NoError(t, os.WriteFile(config, []byte(o.config), 0o600))
	key, secret := newCredential(t, o, config, "other")
	own := startOwn(t, "logins", o)

	f := own.create(t, cold(program(r.host+"/probe:1", "find")))
	require.Equal(t, "", f.sync(t, first).body, "the function finds it nowhere")
	require.Equal(t, "/funcd/funcd-runner\n", f.sync(t, "funcd-runner is started by funcd").body, "where it would have found it")
	env := environmentOf(t, own.create(t, cold(program(r.host+"/env:1"))).sync(t, ""))
	require.NotContains(t, strings.Join(env.Env, "\n"), "REGISTRY")
	spec := request(t, http.MethodGet, own.nomad+jobOf(f.job()), "").body
	require.NotContains(t, spec, "the-user")
	require.NotContains(t, spec, first)
	variable := "nomad/jobs/" + f.job()
	require.Equal(t, []string{variable}, own.variables(t, variable))
	require.Equal(t, "Status: Pull complete for "+r.host+"/env:1 on 1 node", last(own.pull(t, r.host+"/env", "1")).Status)

	other, err := api.NewClient(api.ClientConfig{Address: own.url, AccessKey: key, SecretKey: secret, HTTPClient: client})
	require.NoError(t, err)
	refused := program(r.host+"/probe:1", "cat")
	refused.Name = newName(t)
	_, err = other.CreateFunction(t.Context(), refused)
	require.Equal(t, api.Invalid, api.CodeOf(err))
	require.ErrorContains(t, err, "access to "+r.host+"/probe:1 denied")

	// The password is changed in the file, and soon on its way to the nodes.
	id := strings.TrimSpace(docker(t, "", "image", "inspect", "--format", "{{.Id}}", imageOf(t, own, f)))
	require.NoError(t, os.WriteFile(passwordFile, []byte(second), 0o600))
	r.login.Store(&authn.Basic{Username: "the-user", Password: second})
	eventually(t, "the new password in Nomad", func() bool {
		var v struct{ Items map[string]string }
		own.nomadGet(t, "/v1/var/"+variable, &v)
		return v.Items["password"] == second
	})
	eventually(t, "the end of the image, with the containers that it had", func() bool { return removeImage(id) == nil })
	require.Equal(t, "", f.sync(t, second).body, "it is pulled again")

	f.removeEnded(t)
	require.Empty(t, own.variables(t, variable), "the login goes with the function")
	require.NotRegexp(t, first+"|"+second, readFile(t, own.logFile))
}

// imageOf returns what a function's containers are started from.
func imageOf(t *testing.T, s *stack, f *function) string {
	t.Helper()
	var registered struct {
		TaskGroups []struct {
			Tasks []struct{ Config struct{ Image string } }
		}
	}
	s.nomadGet(t, jobOf(f.job()), &registered)
	return registered.TaskGroups[0].Tasks[0].Config.Image
}
