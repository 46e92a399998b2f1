//go:build integration

package test

import (
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// balancer passes connections on to servers in turn, of those whose /readyz was well at the last look, as a load balancer before funcd does. It knows
// nothing of what is said on them.
type balancer struct {
	listener net.Listener
	servers  []string // host:port
	running  sync.WaitGroup
	quit     chan struct{}

	mu    sync.Mutex
	next  int
	ready []string
	conns map[net.Conn]struct{}
}

// checkPeriod is how often the balancer looks at /readyz.
const checkPeriod = 200 * time.Millisecond

func newBalancer(t *testing.T, servers ...string) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &balancer{listener: listener, servers: servers, quit: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	b.running.Go(b.accept)
	b.running.Go(b.check)
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

// check looks at all servers until quit.
func (b *balancer) check() {
	looks := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		var ready []string
		for _, server := range b.servers {
			resp, err := looks.Get("http://" + server + "/readyz")
			if err != nil {
				continue
			}
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				ready = append(ready, server)
			}
		}
		b.mu.Lock()
		b.ready = ready
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
	return slices.Contains(b.ready, server)
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
	if len(b.ready) == 0 {
		return ""
	}
	b.next++
	return b.ready[b.next%len(b.ready)]
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
