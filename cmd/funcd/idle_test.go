package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTenThousandIdleConnectionsAreCheap has ten thousand connections stay open after a request.
func TestTenThousandIdleConnectionsAreCheap(t *testing.T) {
	const connections, bound = 10_000, 400 << 20
	p := newPipes()
	a := serving(t, "")
	server := a.serve(a.bound(p), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }), nil)
	defer a.running.Wait()
	defer server.stop(a.log, 0)
	ask := func(conn net.Conn) {
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: funcd\r\n\r\n")
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "ok", string(body))
	}
	before := inUse()
	var idle []net.Conn
	for range connections {
		conn := p.dial()
		defer conn.Close()
		ask(conn)
		idle = append(idle, conn)
	}
	taken := int64(inUse()) - int64(before)
	t.Logf("%d idle connections take %.1f MiB, with their clients", connections, float64(taken)/(1<<20))
	require.Less(t, taken, int64(bound))
	ask(idle[connections-1])
}
