package main

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// balancer passes connections on to whichever server takes them, in turn, as a load balancer before funcd servers does.
type balancer struct {
	listener net.Listener
	ports    []string
	next     atomic.Int64
	running  sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	conns   map[net.Conn]struct{}
}

func newBalancer(ports []string) (*balancer, error) {
	own, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+own[0])
	if err != nil {
		return nil, err
	}
	b := &balancer{listener: l, ports: ports, conns: map[net.Conn]struct{}{}}
	b.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b.running.Go(func() { b.pass(conn) })
		}
	})
	return b, nil
}

func (b *balancer) address() string { return b.listener.Addr().String() }

func (b *balancer) pass(from net.Conn) {
	defer from.Close()
	for range b.ports {
		port := b.ports[int(b.next.Add(1))%len(b.ports)]
		to, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		defer to.Close()
		b.keep(from, to)
		defer b.drop(from, to)
		var copying sync.WaitGroup
		copying.Go(func() { copyHalf(to, from) })
		copyHalf(from, to)
		copying.Wait()
		return
	}
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

func (b *balancer) keep(conns ...net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range conns {
		b.conns[c] = struct{}{}
		if b.stopped {
			c.Close()
		}
	}
}

func (b *balancer) drop(conns ...net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range conns {
		delete(b.conns, c)
	}
}

func (b *balancer) stop() {
	b.listener.Close()
	b.mu.Lock()
	b.stopped = true
	for c := range b.conns {
		c.Close()
	}
	b.mu.Unlock()
	b.running.Wait()
}
