package main

import (
	"net"
	"sync"
)

// limited is a listener with a bound on its open connections. More wait to be accepted until others are closed.
type limited struct {
	net.Listener
	open   chan struct{} // holds a value for each open connection, and for one that may be accepted
	closed chan struct{}
	once   sync.Once
}

func limit(listener net.Listener, connections int) net.Listener {
	return &limited{Listener: listener, open: make(chan struct{}, connections), closed: make(chan struct{})}
}

// Accept waits for the next connection, and for room for it.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.open <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.open
		return nil, err
	}
	return &limitedConn{Conn: conn, open: l.open}, nil
}

// Close accepts no more. Open connections stay.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	open chan struct{}
	once sync.Once
}

// NetConn is the connection below, as with a tls.Conn.
func (c *limitedConn) NetConn() net.Conn { return c.Conn }

// Close makes room for another connection.
func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.open })
	return err
}
