//go:build integration

package test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// startNATS starts a NATS server for funcd servers to share, and returns its URL.
func startNATS(t *testing.T) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		ServerName: "shared", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		MaxPayload: 4 << 20, JetStream: true, StoreDir: t.TempDir(), SyncAlways: true,
	})
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	require.True(t, s.ReadyForConnections(patience))
	return s.ClientURL()
}

// servers are funcd servers on one NATS, without --dev, behind a balancer through which their containers reach them too.
type servers struct {
	name             string
	each             []options
	balance          *balancer
	key, secret, url string
}

// newServers describes two servers on dev's Nomad and Consul. It starts none.
func newServers(t *testing.T, name, config string) *servers {
	t.Helper()
	ports, err := freePorts(2)
	require.NoError(t, err)
	p := &servers{name: name, balance: newBalancer(t, "127.0.0.1:"+ports[0], "127.0.0.1:"+ports[1])}
	p.url = "http://" + p.balance.address()
	o := beside(name)
	o.noDev = true
	o.config += fmt.Sprintf("log_level = \"debug\"\nrunner {\n  mode    = \"http\"\n  address = %q\n}\nnomad {\n  address = %q\n}\nnats {\n  url = %q\n}\n%s",
		p.url, dev.nomad, startNATS(t), config)
	for _, port := range ports {
		o.http = "127.0.0.1:" + port
		p.each = append(p.each, o)
	}
	file := filepath.Join(t.TempDir(), "funcd.hcl")
	require.NoError(t, os.WriteFile(file, []byte(o.config), 0o600))
	p.key, p.secret = newCredential(t, o, file, "default")
	return p
}

// start starts one of the servers, or starts it again with its data, and returns when it and the balancer are ready.
func (p *servers) start(t *testing.T, i int) *stack {
	t.Helper()
	s := startOwn(t, fmt.Sprintf("%s-%d", p.name, i+1), p.each[i])
	var err error
	s.Client, err = api.NewClient(api.ClientConfig{Address: s.url, AccessKey: p.key, SecretKey: p.secret, HTTPClient: client})
	require.NoError(t, err)
	eventually(t, "the balancer's sight of a server", func() bool { return p.balance.isReady(p.each[i].http) })
	return s
}

// at is the function as another server knows it.
func (f *function) at(s *stack) *function { return &function{f.Function, s} }

// onHost is the function on the host's network, where its containers reach funcd on loopback.
func onHost(f api.Function) api.Function {
	f.HostConfig.NetworkMode = "host"
	return f
}

// TestTwoServersShareCalls has two servers on one NATS: what one accepts the other answers, the calls of one that is killed are the other's, and order
// and quota hold across both.
func TestTwoServersShareCalls(t *testing.T) {
	t.Parallel()
	const quota, calls = 2, 8
	p := newServers(t, "shared", fmt.Sprintf("quota = %d\n", quota))
	first := p.start(t, 0)

	// The first has the first calls alone, and is killed while they run and others wait.
	f := first.create(t, onHost(cold(program("funcd-test/probe", "ready"))))
	ids := make([]string, calls)
	for i := range quota + 1 {
		ids[i] = f.call(t, fmt.Sprintln("of call", i))
	}
	containers := make([]string, quota)
	for i := range containers {
		f.eventsOf(t, ids[i], api.Running)
		containers[i] = containerOf(t, f.allocationOf(t, ids[i]).ID)
	}
	second := p.start(t, 1)
	at := f.at(second)
	require.Equal(t, http.StatusCreated, at.output(t, ids[0]).status, "the other knows what it has not accepted")
	require.Equal(t, http.StatusAccepted, at.output(t, ids[quota]).status)
	awaitSaid(t, containers[0], "ready")
	status, err := second.Status(t.Context(), f.Name, f.UUID, false)
	require.NoError(t, err)
	require.Equal(t, []int{quota + 1, quota}, []int{status.Total, status.Running})
	killed := time.Now()
	require.NoError(t, first.kill())
	for i := quota + 1; i < calls; i++ {
		ids[i] = at.call(t, fmt.Sprintln("of call", i))
	}
	var adopted [][]string
	eventually(t, "the calls of the server that was killed are the other's", func() bool {
		adopted = regexp.MustCompile(`(?m)^time=(\S+) .*msg="a running call was adopted"`).FindAllStringSubmatch(readFile(t, second.logFile), -1)
		return len(adopted) == quota
	})
	for _, line := range adopted {
		at, err := time.Parse(time.RFC3339Nano, line[1])
		require.NoError(t, err)
		require.Less(t, at.Sub(killed), 30*time.Second, "when the lease has ended")
	}
	require.Len(t, f.at(second).children(t), quota, "without a second container")

	// Both run them to their end, and each answers what the other has.
	first = p.start(t, 0)
	both := []*function{f.at(first), at}
	var events []api.Event
	for i, id := range ids {
		one, other := both[i%2], both[(i+1)%2]
		one.eventsOf(t, id, api.Running)
		container := containerOf(t, one.allocationOf(t, id).ID)
		awaitSaid(t, container, "ready")
		docker(t, "", "kill", "--signal", "USR1", container)
		out := one.wait(t, id)
		require.Equal(t, http.StatusOK, out.status, out.body)
		require.Equal(t, fmt.Sprintf("ready\nof call %d\n", i), out.body)
		eventually(t, "it was fetched", func() bool { return other.output(t, id).status == http.StatusNotFound })
		of := other.eventsOf(t, id, api.Finished)
		require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, kinds(of))
		events = append(events, of...)
	}
	require.Len(t, f.at(second).children(t), calls, "one container for each call")

	// A call starts when fewer than the quota of those before it have not ended.
	slices.SortStableFunc(events, func(a, b api.Event) int { return a.Time.Compare(b.Time.Time) })
	ended := map[string]bool{}
	for _, e := range events {
		switch e.Event {
		case string(api.Running):
			before := 0
			for _, id := range ids[:slices.Index(ids, e.CallID)] {
				if !ended[id] {
					before++
				}
			}
			require.Less(t, before, quota, "order and quota")
		case string(api.Finished):
			ended[e.CallID] = true
		}
	}
}

// TestRollingRestartShowsClientsNoError restarts two servers one after the other, while clients call through a balancer over connections that stay.
func TestRollingRestartShowsClientsNoError(t *testing.T) {
	t.Parallel()
	p := newServers(t, "rolling", "stop {\n  drain  = \"10s\"\n  finish = \"60s\"\n}\n")
	running := []*stack{p.start(t, 0), p.start(t, 1)}
	reused := program("funcd/upper")
	reused.Config.Labels = map[string]string{"funcd.reuse": "true", "funcd.warm": "2"}
	functions := []*function{running[0].create(t, onHost(reused)), running[0].create(t, onHost(cold(program("funcd/upper"))))}

	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var answered [3]atomic.Int64
	quit := make(chan struct{})
	// ask makes a request over a client's own connections. The answer must be 200.
	ask := func(c *http.Client, method, path, body string) (string, bool) {
		req, err := http.NewRequestWithContext(ctx, method, p.url+path, strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return "", false
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", method, path, err)
			return "", false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s %s: %d %s %v", method, path, resp.StatusCode, text, err)
			return "", false
		}
		return string(text), true
	}
	for i := range answered {
		clients.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			c := &http.Client{Transport: transport}
			f := functions[i%len(functions)]
			for n := 0; ; n++ {
				select {
				case <-quit:
					return
				case <-time.After(50 * time.Millisecond):
				}
				payload, path, method := fmt.Sprintf("call %d of client %d", n, i), f.path("call", "sync"), http.MethodPost
				if i > 0 {
					body, ok := ask(c, http.MethodPost, f.path("call"), payload)
					var answer api.CallID
					if !ok || json.Unmarshal([]byte(body), &answer) != nil {
						return
					}
					payload, path, method = strings.ToUpper(payload), f.path("output", answer.CallID, "wait"), http.MethodGet
				}
				body := payload
				if method == http.MethodGet {
					body = ""
				}
				out, ok := ask(c, method, path, body)
				if !ok {
					return
				}
				if out != strings.ToUpper(payload) {
					t.Errorf("client %d got %q in place of %q", i, out, payload)
					return
				}
				answered[i].Add(1)
			}
		})
	}
	defer clients.Wait()
	defer stop()
	progress := func() {
		for i := range answered {
			seen := answered[i].Load()
			eventually(t, "calls are answered", func() bool { return t.Failed() || answered[i].Load() > seen+1 })
		}
	}
	for i := range running {
		progress()
		require.NoError(t, running[i].stop(syscall.SIGTERM))
		progress()
		running[i] = p.start(t, i)
	}
	progress()
	close(quit)
	clients.Wait()
	t.Logf("answered: %d, %d and %d calls", answered[0].Load(), answered[1].Load(), answered[2].Load())
}
