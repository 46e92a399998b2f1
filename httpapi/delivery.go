package httpapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// connKey is the key of a request's connection in its context.
type connKey struct{}

// ConnContext is to be that of each http.Server that serves a Server: it lets that see whether an answer has arrived. Without it an answer that was
// written counts as one that has.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// How often it is looked whether an answer has arrived of which the client says nothing, and how long it may take without any more of it arriving.
const (
	firstLook   = time.Millisecond
	lastLook    = 10 * time.Millisecond
	arrivalTime = time.Minute
)

// hearing is a connection that tells when something was read from it: what comes from a client acknowledges what it has got, and its next request must not
// wait for a look.
type hearing interface {
	net.Conn
	// Heard has a value once something was read, or reading has ended.
	Heard() <-chan struct{}
}

// arrived tells whether all that was written to the request's connection has reached the other side. A write has succeeded when the kernel has it,
// which takes a megabyte for a client that is not there any more: what counts is that the other side's kernel has acknowledged all of it, and has not
// reset the connection, as it does for a process that ends, or hangs up, without having read what came. It blocks until that is known. The other side is a
// proxy, where there is one.
func arrived(r *http.Request) bool {
	conn, ok := r.Context().Value(connKey{}).(net.Conn)
	if !ok {
		return true
	}
	var heard <-chan struct{}
	for {
		if c, ok := conn.(hearing); ok {
			heard = c.Heard()
		}
		outer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = outer.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return true
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	least, since := -1, time.Now()
	var look *time.Timer
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		left, alive := unacknowledged(raw)
		if left == 0 || !alive {
			return alive
		}
		if least < 0 || left < least {
			least, since = left, time.Now()
		}
		// The end of the request's context alone says little: a client may end its side and read on.
		stopping := r.Context().Err() != nil && !errors.Is(context.Cause(r.Context()), context.Canceled)
		if stopping || time.Since(since) > arrivalTime {
			return false
		}
		if look == nil {
			look = time.NewTimer(pause)
			defer look.Stop()
		} else {
			look.Reset(pause)
		}
		select {
		case <-heard:
		case <-look.C:
		}
	}
}

// tcpClose is TCP_CLOSE of Linux's net/tcp_states.h: what a connection is that was reset.
const tcpClose = 7

// unacknowledged returns how many bytes the other side has not acknowledged, and whether the connection is there to send them.
func unacknowledged(raw syscall.RawConn) (left int, alive bool) {
	err := raw.Control(func(fd uintptr) {
		var err error
		if left, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err != nil {
			return
		}
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		alive = err == nil && info.State != tcpClose
	})
	return left, alive && err == nil
}
