//go:build integration

package test

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// balancer passes connections on to servers in turn, of those that were ready at the last look, as a load balancer before funcd does. It knows nothing of
// what is said on them.
type balancer struct {
	listener net.Listener
	servers  []string // host:port
	running  sync.WaitGroup
	quit     chan struct{}

	mu    sync.Mutex
	next  int
	ready map[string]bool
	conns map[net.Conn]struct{}
}

// checkPath is what the balancer looks at: a server whose Consul or Nomad is away, or slow, takes calls all the same.
const checkPath = "/readyz?exclude=consul&exclude=nomad"

// checkPeriod is how often it looks at each server.
const checkPeriod = 200 * time.Millisecond

func newBalancer(t *testing.T, servers ...string) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &balancer{listener: listener, servers: servers, quit: make(chan struct{}), ready: map[string]bool{}, conns: map[net.Conn]struct{}{}}
	b.running.Go(b.accept)
	for _, server := range servers {
		b.running.Go(func() { b.check(server) })
	}
	t.Cleanup(func() {
		close(b.quit)
		listener.Close()
		b.mu.Lock()
		for conn := range b.conns {
			conn.Close()
		}
		b.mu.Unlock()
		b.running.Wait()
	})
	return b
}

func (b *balancer) address() string { return b.listener.Addr().String() }

// check looks at a server until quit. One that takes its time is what it was until it has answered, and the others are not looked at later for that.
func (b *balancer) check(server string) {
	looks := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.running.Go(func() {
		<-b.quit
		cancel()
	})
	for {
		ready := false
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+server+checkPath, nil)
		if err == nil {
			var resp *http.Response
			if resp, err = looks.Do(req); err == nil {
				resp.Body.Close()
				ready = resp.StatusCode == http.StatusOK
			}
		}
		b.mu.Lock()
		b.ready[server] = ready
		b.mu.Unlock()
		select {
		case <-b.quit:
			return
		case <-time.After(checkPeriod):
		}
	}
}

// isReady tells whether connections go to the server.
func (b *balancer) isReady(server string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ready[server]
}

func (b *balancer) accept() {
	for {
		conn, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.running.Go(func() { b.pass(conn) })
	}
}

// choose returns the next server's address, or none.
func (b *balancer) choose() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range b.servers {
		b.next++
		if server := b.servers[b.next%len(b.servers)]; b.ready[server] {
			return server
		}
	}
	return ""
}

func (b *balancer) pass(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", b.choose())
	if err != nil {
		return
	}
	defer to.Close()
	if !b.keep(from, to) {
		return
	}
	defer b.drop(from, to)
	var copying sync.WaitGroup
	copying.Go(func() { copyHalf(to, from) })
	copyHalf(from, to)
	copying.Wait()
}

// copyHalf copies one direction. A side that is gone takes the other with it.
func copyHalf(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
		return
	}
	_ = to.(*net.TCPConn).CloseWrite()
}

func (b *balancer) keep(conns ...net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.quit:
		return false
	default:
	}
	for _, conn := range conns {
		b.conns[conn] = struct{}{}
	}
	return true
}

func (b *balancer) drop(conns ...net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, conn := range conns {
		delete(b.conns, conn)
	}
}
