package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
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

// slowRemoval removes a call when its client has got the answer as a whole.
type slowRemoval struct {
	*backend
	whole <-chan struct{}
}

func (s slowRemoval) Delivered(ctx context.Context, rec api.Record) error {
	<-s.whole
	return s.backend.Delivered(ctx, rec)
}

// What a client has got must be all that it waits for when its call is being removed: the server may be killed meanwhile, and the call is gone.
func TestAnAnswerIsWholeBeforeItsCallIsRemoved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		state  api.State
		output string
		err    error
		status int
	}{
		"finished":         {api.Finished, "out", nil, 200},
		"without output":   {api.Finished, "", nil, 200},
		"failed":           {api.Failed, "", api.Errorf(api.CallFailed, "exit status 3"), 500},
		"cancelled":        {api.Failed, "", api.Errorf(api.Cancelled, "cancelled"), 500},
		"timeout":          {api.Failed, "", api.Errorf(api.CallTimeout, "too long"), 504},
		"output too large": {api.Failed, "", api.Errorf(api.OutputTooLarge, "too much"), 509},
		"output expired":   {api.Finished, "", api.Errorf(api.Expired, "dropped"), 410},
	} {
		for endpoint, path := range map[string]string{"output": outputPath, "wait": outputPath + "/wait", "sync": callPath + "/sync"} {
			for _, accept := range []string{"text/plain", "application/json"} {
				t.Run(fmt.Sprintf("%s, %s, %s", endpoint, name, accept), func(t *testing.T) {
					t.Parallel()
					b := newBackend()
					b.record.State, b.output, b.fail["Output"] = c.state, []byte(c.output), c.err
					whole := make(chan struct{})
					cfg := testConfig(b)
					cfg.Calls = slowRemoval{b, whole}
					server := httptest.NewUnstartedServer(New(cfg).Handler(false))
					server.Config.ConnContext = ConnContext
					server.Start()
					defer server.Close()
					goOn := sync.OnceFunc(func() { close(whole) })
					defer goOn()

					_, in := raw(t, server, "GET "+path+" HTTP/1.1\r\nHost: a\r\nAccept: "+accept+"\r\n\r\n")
					resp, err := http.ReadResponse(in, nil)
					require.NoError(t, err)
					defer resp.Body.Close()
					require.Equal(t, c.status, resp.StatusCode)
					body, err := io.ReadAll(resp.Body)
					require.NoError(t, err, "the answer has no end")
					require.Equal(t, int64(len(body)), resp.ContentLength)
					if c.err == nil {
						require.Equal(t, c.output, string(body))
					} else {
						require.Contains(t, string(body), c.err.Error())
					}
					goOn()
					server.Close() // a call is removed after its answer
					require.Len(t, b.delivered, 1)
				})
			}
		}
	}
}
