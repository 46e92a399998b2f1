package images

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// fakeCluster tells of its states.
type fakeCluster struct {
	mu     sync.Mutex
	ping   error
	states []api.PullState
	err    error
	hang   bool // after the states, until the context ends
	pulled []api.ImagePull
}

func (c *fakeCluster) Ping(context.Context) error { return c.ping }

func (c *fakeCluster) PullImage(ctx context.Context, p api.ImagePull, tell func(api.PullState) error) error {
	c.mu.Lock()
	c.pulled = append(c.pulled, p)
	c.mu.Unlock()
	for _, state := range c.states {
		if err := tell(state); err != nil {
			return err
		}
	}
	if c.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return c.err
}

func node(name, status string) api.NodePull {
	return api.NodePull{ID: "id of " + name, Node: name, Status: status, Ended: status == "Pull complete"}
}

func failed(name string, code api.Code, message string) api.NodePull {
	return api.NodePull{ID: "id of " + name, Node: name, Status: "Failed", Ended: true, Code: code, Message: message}
}

func twoNodes() []api.PullState {
	return []api.PullState{
		{Nodes: []api.NodePull{node("a", "Waiting")}, Waiting: 1, Reason: "no memory"},
		{Nodes: []api.NodePull{node("a", "Pulling")}, Waiting: 1, Reason: "no memory"},
		{Nodes: []api.NodePull{node("a", "Pulling"), node("b", "Waiting")}},
		{Nodes: []api.NodePull{node("a", "Pull complete"), node("b", "Pulling")}},
		{Nodes: []api.NodePull{node("a", "Pull complete"), node("b", "Pull complete")}},
	}
}

func newPuller(r *Resolver, c *fakeCluster) *Puller {
	return NewPuller(PullerConfig{Resolver: r, Cluster: c, ShareLogins: true, Logger: slog.New(slog.DiscardHandler)})
}

// collect is a yield that keeps what it is given.
func collect(messages *[]api.PullMessage) func(api.PullMessage) error {
	return func(m api.PullMessage) error {
		*messages = append(*messages, m)
		return nil
	}
}

func TestPull(t *testing.T) {
	t.Parallel()
	host := newRegistryServer(t)
	image := newImage(t, v1.Platform{OS: "linux", Architecture: "amd64"})
	push(t, host+"/team/app:1", image)
	cluster := &fakeCluster{states: twoNodes()}
	var got []api.PullMessage
	require.NoError(t, newPuller(newResolver(t, Config{}), cluster).Pull(t.Context(), testAccount, host+"/team/app", "1", nil, collect(&got)))
	none, one, two := &api.PullProgress{Total: 2, Units: "nodes"}, &api.PullProgress{Current: 1, Total: 2, Units: "nodes"},
		&api.PullProgress{Current: 2, Total: 2, Units: "nodes"}
	require.Equal(t, []api.PullMessage{
		{ID: "1", Status: "Pulling from team/app"},
		{ID: "a", Status: "Waiting", ProgressDetail: none},
		{Status: "Waiting for 1 node: no memory", ProgressDetail: none},
		{ID: "a", Status: "Pulling", ProgressDetail: none},
		{ID: "b", Status: "Waiting", ProgressDetail: none},
		{ID: "a", Status: "Pull complete", ProgressDetail: one},
		{ID: "b", Status: "Pulling", ProgressDetail: one},
		{ID: "b", Status: "Pull complete", ProgressDetail: two},
		{Status: "Digest: " + digestOf(t, image)},
		{Status: "Status: Pull complete for " + host + "/team/app:1 on 2 nodes"},
	}, got)
	require.Equal(t, []api.ImagePull{{Account: testAccount, Ref: host + "/team/app:1"}}, cluster.pulled)
}

func TestPullParameters(t *testing.T) {
	t.Parallel()
	const host = "127.0.0.1:1"
	digest := "sha256:" + digestHex
	for name, c := range map[string]struct{ image, tag, ref, id string }{
		"a name and a tag":           {host + "/app", "1", host + "/app:1", "1"},
		"a name alone":               {host + "/app", "", host + "/app:latest", "latest"},
		"a tag in the name":          {host + "/app:1", "", host + "/app:1", "1"},
		"a tag for the one in it":    {host + "/app:1", "2", host + "/app:2", "2"},
		"a digest for a tag":         {host + "/app", digest, host + "/app@" + digest, digest},
		"a digest for the tag in it": {host + "/app:1", digest, host + "/app@" + digest, digest},
		"a digest in the name":       {host + "/app@" + digest, "", host + "/app@" + digest, digest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := &fakeCluster{states: twoNodes()}
			var got []api.PullMessage
			require.NoError(t, newPuller(newQuietResolver(t), cluster).Pull(t.Context(), testAccount, c.image, c.tag, nil, collect(&got)))
			require.Equal(t, c.ref, cluster.pulled[0].Ref)
			require.Equal(t, c.id, got[0].ID)
		})
	}
	for name, c := range map[string]struct {
		image, tag string
		auth       *api.RegistryAuth
		message    string
	}{
		"no image":           {"", "1", nil, "fromImage: is required"},
		"a malformed image":  {"A b", "1", nil, "is not an image reference"},
		"a malformed tag":    {"app", "a b", nil, `tag: "a b" is neither`},
		"a malformed digest": {"app", "sha256:x", nil, `tag: "sha256:x" is neither`},
		"half a digest":      {"app", "sha256:", nil, "is neither"},
		"an id":              {digestHex, "", nil, "is not an image reference"},
		"an id, written out": {digest, "", nil, "is an image id"},
		"an id for a tag":    {"sha256", digestHex, nil, "is an image id"},
		"a slash for a tag":  {"app", "1/2", nil, "is neither"},
		"an identity token":  {"app", "1", &api.RegistryAuth{Username: "me", IdentityToken: "secret"}, "with a username and a password only"},
		"a registry's token": {"app", "1", &api.RegistryAuth{RegistryToken: "secret"}, "with a username and a password only"},
	} {
		cluster := &fakeCluster{}
		err := newPuller(newQuietResolver(t), cluster).Pull(t.Context(), testAccount, c.image, c.tag, c.auth, func(api.PullMessage) error {
			return errors.New("a message: " + name)
		})
		require.Equal(t, api.Invalid, api.CodeOf(err), "%s: %v", name, err)
		require.ErrorContains(t, err, c.message, name)
		require.Empty(t, cluster.pulled)
	}
}

// What the registry says for certain is said before any node is asked; what nodes may know better is left to them.
func TestPullAsksTheRegistryFirst(t *testing.T) {
	t.Parallel()
	host := newRegistryServer(t)
	push(t, host+"/arm:1", newImage(t, v1.Platform{OS: "linux", Architecture: "arm64"}))
	private := newPrivateRegistry(t, map[string]string{"me": "secret"})
	push(t, private+"/app:1", newImage(t, v1.Platform{OS: "linux", Architecture: "amd64"}), remote.WithAuth(&authn.Basic{Username: "me", Password: "secret"}))
	closed := closedPort(t)
	dockerHost := serveUnix(t, dockerd{host + "/local:1": {ID: localID}})
	good, wrong := &api.RegistryAuth{Username: "me", Password: "secret"}, &api.RegistryAuth{Username: "me", Password: "guess"}
	file := t.TempDir() + "/password"
	require.NoError(t, os.WriteFile(file, []byte("guess"), 0o600))
	for name, c := range map[string]struct {
		ref     string
		auth    *api.RegistryAuth
		logins  []Login
		code    api.Code // empty: the nodes are asked
		message string
		login   *api.RegistryAuth // that they are given
	}{
		"no such image":                {host + "/none:1", nil, nil, api.NotFound, "no such image: " + host + "/none:1", nil},
		"in the Docker daemon only":    {host + "/local:1", nil, nil, api.NotFound, "in its registry; the local Docker daemon has it, from which nothing", nil},
		"wrong platform":               {host + "/arm:1", nil, nil, api.Invalid, "has no image for linux/amd64", nil},
		"denied, nodes may have more":  {private + "/app:1", nil, nil, "", "", nil},
		"denied with what was sent":    {private + "/app:1", wrong, nil, api.Forbidden, "access to", nil},
		"denied with what is set":      {private + "/app:1", nil, []Login{{Registry: private, Account: testAccount, Username: "me", PasswordFile: file}}, api.Forbidden, "access to", nil},
		"what is set can't be read":    {private + "/app:1", nil, []Login{{Registry: private, Username: "me", PasswordFile: file + "s"}}, api.Internal, "can't be read", nil},
		"allowed with what was sent":   {private + "/app:1", good, []Login{{Registry: private, Username: "me", Password: "guess"}}, "", "", good},
		"allowed with what is set":     {private + "/app:1", nil, []Login{{Registry: private, Username: "me", Password: "secret"}}, "", "", good},
		"away, nodes may have mirrors": {closed + "/app:1", nil, nil, "", "", nil},
		"away, with what was sent":     {closed + "/app:1", wrong, nil, "", "", wrong},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, share := range []bool{true, false} {
				cluster := &fakeCluster{states: twoNodes()}
				p := newPuller(newResolver(t, Config{DockerHost: dockerHost, Logins: c.logins}), cluster)
				p.cfg.ShareLogins = share
				var got []api.PullMessage
				err := p.Pull(t.Context(), testAccount, c.ref, "", c.auth, collect(&got))
				require.True(t, strings.HasPrefix(got[0].Status, "Pulling from "), "%v", got)
				if c.code == "" {
					require.NoError(t, err)
					want := api.ImagePull{Account: testAccount, Ref: c.ref}
					if share {
						want.Login = c.login
					}
					require.Equal(t, []api.ImagePull{want}, cluster.pulled)
					continue
				}
				require.Equal(t, c.code, api.CodeOf(err), "%v", err)
				require.Contains(t, api.MessageOf(err), c.message)
				require.Empty(t, cluster.pulled)
				require.Len(t, got, 1)
			}
		})
	}
}

func TestPullFailsOnNodes(t *testing.T) {
	t.Parallel()
	const host = "127.0.0.1:1"
	const ref = host + "/app:1"
	for name, c := range map[string]struct {
		nodes   []api.NodePull
		err     error
		code    api.Code
		message string
	}{
		"the only one": {[]api.NodePull{failed("a", api.NotFound, "no such image: x")}, nil, api.NotFound, "a could not pull " + ref + ": no such image: x"},
		"one of three": {[]api.NodePull{node("a", "Pull complete"), failed("b", api.Forbidden, "denied"), node("c", "Pull complete")}, nil, api.Forbidden,
			"1 of 3 nodes could not pull " + ref + ": b: denied"},
		"two of two": {[]api.NodePull{failed("a", api.Unavailable, "away"), failed("b", api.Forbidden, "denied")}, nil, api.Unavailable,
			"2 of 2 nodes could not pull " + ref + ": a: away"},
		"Nomad":   {[]api.NodePull{node("a", "Pulling")}, api.Errorf(api.Unavailable, "Nomad does not answer"), api.Unavailable, "Nomad does not answer"},
		"no node": {nil, api.Errorf(api.Unavailable, "no node"), api.Unavailable, "no node"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := &fakeCluster{err: c.err}
			if c.nodes != nil {
				cluster.states = []api.PullState{{Nodes: c.nodes}}
			}
			var got []api.PullMessage
			err := newPuller(newQuietResolver(t), cluster).Pull(t.Context(), testAccount, ref, "", nil, collect(&got))
			requireError(t, err, c.code, c.message)
			for i, n := range c.nodes {
				if n.Code != "" {
					require.Equal(t, "Failed: "+n.Message, got[1+i].Status)
				}
			}
			require.NotContains(t, got[len(got)-1].Status, "Status:", "nothing says that it went well")
		})
	}
}

func TestPullWithoutACluster(t *testing.T) {
	t.Parallel()
	cluster := &fakeCluster{ping: api.Errorf(api.Unavailable, "Nomad does not answer")}
	err := newPuller(newQuietResolver(t), cluster).Pull(t.Context(), testAccount, "app", "", nil, func(api.PullMessage) error {
		return errors.New("a message")
	})
	requireError(t, err, api.Unavailable, "Nomad does not answer")
}

func TestPullEndsWithItsReader(t *testing.T) {
	t.Parallel()
	gone := errors.New("gone")
	for at := range 6 {
		cluster := &fakeCluster{states: twoNodes(), hang: true}
		p := newPuller(newQuietResolver(t), cluster)
		read := 0
		err := p.Pull(t.Context(), testAccount, "127.0.0.1:1/app", "", nil, func(api.PullMessage) error {
			if read++; read > at {
				return gone
			}
			return nil
		})
		require.ErrorIs(t, err, gone)
		require.Empty(t, p.pulling)
	}
}

// newQuietResolver is one whose registries do not answer, and take no time for it.
func newQuietResolver(t *testing.T) *Resolver {
	t.Helper()
	return newResolver(t, Config{RegistryTimeout: time.Nanosecond})
}

func TestPullHasItsTime(t *testing.T) {
	t.Parallel()
	resolver := newQuietResolver(t)
	synctest.Test(t, func(t *testing.T) {
		cluster := &fakeCluster{states: []api.PullState{{Nodes: []api.NodePull{node("a", "Pulling")}}}, hang: true}
		p := newPuller(resolver, cluster)
		p.cfg.Time = time.Hour
		begin := time.Now()
		err := p.Pull(t.Context(), testAccount, "127.0.0.1:1/app", "", nil, func(api.PullMessage) error { return nil })
		requireError(t, err, api.Unavailable, "not all nodes have 127.0.0.1:1/app:latest after 1h0m0s")
		require.Equal(t, time.Hour, time.Since(begin))
	})
}

func TestPullsAtOnce(t *testing.T) {
	t.Parallel()
	resolver := newQuietResolver(t)
	synctest.Test(t, func(t *testing.T) {
		cluster := &fakeCluster{hang: true}
		p := newPuller(resolver, cluster)
		ctx, cancel := context.WithCancel(t.Context())
		pull := func(account string) error {
			return p.Pull(ctx, account, "127.0.0.1:1/app", "", nil, func(api.PullMessage) error { return nil })
		}
		var pulls sync.WaitGroup
		for range DefaultPulls {
			pulls.Go(func() { _ = pull(testAccount) })
		}
		synctest.Wait()
		requireError(t, pull(testAccount), api.Unavailable, "the account is pulling 3 images already, which is the most at once")
		pulls.Go(func() { _ = pull("other") })
		synctest.Wait()
		cluster.mu.Lock()
		require.Len(t, cluster.pulled, DefaultPulls+1)
		cluster.mu.Unlock()
		cancel()
		pulls.Wait()
		require.Empty(t, p.pulling)
	})
}

// FuzzPullReference: what is pulled has a tag or a digest, and is of the registry and the repository that fromImage names.
func FuzzPullReference(f *testing.F) {
	for _, seed := range [][2]string{
		{"busybox", ""}, {"busybox", "1"}, {"busybox:1", ""}, {"busybox:1", "2"}, {"127.0.0.1:5000/a", "1"}, {"a", "sha256:" + strings.Repeat("0a", 32)},
		{"a@sha256:" + strings.Repeat("0a", 32), ""}, {"a@sha256:" + strings.Repeat("0a", 32), "1"}, {"sha256", strings.Repeat("0a", 32)}, {"", "1"},
		{"a", "b/c"}, {"a", "1@sha256:" + strings.Repeat("0a", 32)}, {"r.example", "5000/a"}, {"A", "1"}, {"a ", " 1"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, image, tag string) {
		got, err := pullReference(image, tag)
		if err != nil {
			e, ok := errors.AsType[*api.Error](err)
			if !ok || e.Code != api.Invalid || len(e.Message) > 2048 {
				t.Fatalf("%#v", err)
			}
			return
		}
		if _, tagged := got.named.(reference.Tagged); !tagged {
			if _, digested := got.named.(reference.Digested); !digested {
				t.Fatalf("%q %q: %s is neither a tag nor a digest", image, tag, got.named)
			}
		}
		named, err := parse(image)
		if err != nil {
			t.Fatalf("%q %q is %s, but the image is none", image, tag, got.named)
		}
		if got.named.Name() != named.named.Name() {
			t.Fatalf("%q %q: %s is not of %s", image, tag, got.named, named.named.Name())
		}
	})
}
