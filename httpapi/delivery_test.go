package httpapi

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// caller is the client's end of a connection, which it can break off as it likes.
type caller struct {
	t    *testing.T
	tcp  *net.TCPConn
	conn net.Conn // over TLS, or tcp
	in   *bufio.Reader
}

// dialed connects with a window so small that the kernel takes little of an answer that is not read.
func dialed(t *testing.T, server *httptest.Server) *caller {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	c := &caller{t: t, tcp: conn.(*net.TCPConn), conn: conn}
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, c.tcp.SetReadBuffer(64<<10))
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	if server.TLS != nil {
		pool := x509.NewCertPool()
		pool.AddCert(server.Certificate())
		c.conn = tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "example.com"})
	}
	c.in = bufio.NewReaderSize(c.conn, 16)
	return c
}

// ask sends a request and returns the answer with its body to be read.
func (c *caller) ask(path string) *http.Response {
	c.t.Helper()
	_, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: funcd\r\n\r\n", path)
	require.NoError(c.t, err)
	resp, err := http.ReadResponse(c.in, nil)
	require.NoError(c.t, err)
	return resp
}

// TestACallStaysUntilItsAnswerHasArrived breaks off the delivery of a large output at different moments, over a connection that has delivered others.
func TestACallStaysUntilItsAnswerHasArrived(t *testing.T) {
	t.Parallel()
	for name, breaks := range map[string]func(c *caller, resp *http.Response){
		"after a part, with a reset": func(c *caller, resp *http.Response) {
			_, err := io.ReadFull(resp.Body, make([]byte, 100_000))
			require.NoError(c.t, err)
			require.NoError(c.t, c.tcp.SetLinger(0))
			require.NoError(c.t, c.tcp.Close())
		},
		"after a part, by hanging up": func(c *caller, resp *http.Response) {
			_, err := io.ReadFull(resp.Body, make([]byte, 100_000))
			require.NoError(c.t, err)
			require.NoError(c.t, c.tcp.Close())
		},
		"at once": func(c *caller, _ *http.Response) { require.NoError(c.t, c.tcp.Close()) },
	} {
		for endpoint, path := range map[string]string{"output": outputPath, "wait": outputPath + "/wait", "sync": callPath + "/sync"} {
			for _, secure := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, TLS %t", endpoint, name, secure), func(t *testing.T) {
					t.Parallel()
					b := newBackend()
					b.record.State, b.output = api.Finished, bytes.Repeat([]byte("x"), 1<<20)
					server := httptest.NewUnstartedServer(New(testConfig(b)).Handler(false))
					server.Config.ConnContext = ConnContext
					if secure {
						server.StartTLS()
					} else {
						server.Start()
					}
					defer server.Close()
					c := dialed(t, server)
					delivered := func() int {
						b.mu.Lock()
						defer b.mu.Unlock()
						return len(b.delivered)
					}
					for i := range 2 {
						resp := c.ask(path)
						body, err := io.ReadAll(resp.Body)
						require.NoError(t, err)
						require.Equal(t, b.output, body)
						require.Eventually(t, func() bool { return delivered() == i+1 }, time.Minute, time.Millisecond)
					}
					breaks(c, c.ask(path))
					server.Close() // returns when the handler has
					require.Equal(t, 2, delivered(), "nobody has got the third")
				})
			}
		}
	}
}

// A client that has read all may close its side, or all of it.
func TestACallGoesWithAClientThatHasReadItsAnswer(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]func(c *caller) error{
		"closes its side": func(c *caller) error { return c.tcp.CloseWrite() },
		"hangs up":        func(c *caller) error { return c.tcp.Close() },
		"waits":           func(*caller) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBackend()
			b.record.State, b.output = api.Finished, bytes.Repeat([]byte("x"), 200_000)
			server := httptest.NewUnstartedServer(New(testConfig(b)).Handler(false))
			server.Config.ConnContext = ConnContext
			server.Start()
			defer server.Close()
			c := dialed(t, server)
			resp := c.ask(outputPath)
			_, err := io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
			require.NoError(t, ends(c))
			server.Close()
			require.Len(t, b.delivered, 1)
		})
	}
}
