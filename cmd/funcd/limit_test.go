package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/httpapi"
)

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	const most = 3
	listener, err := listenTCP("127.0.0.1:0")
	require.NoError(t, err)
	a := serving(t, "")
	s := a.serve(bounded{limit(listener, most), time.Minute}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hijack" {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\n\r\n")
				conn.Close()
				conn.Close() // counts once
			}
		}
	}), nil)
	dial := func(path string) net.Conn {
		conn, err := net.Dial("tcp", s.address)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		_, err = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: funcd\r\n\r\n")
		require.NoError(t, err)
		return conn
	}
	answered := func(conn net.Conn) {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.Less(t, resp.StatusCode, 300)
	}
	waits := func(conn net.Conn) {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		_, err := conn.Read(make([]byte, 1))
		timeout, ok := err.(net.Error)
		require.True(t, ok && timeout.Timeout(), "%v", err)
	}
	for range 2 * most { // closed by the server
		answered(dial("/hijack"))
	}
	var open []net.Conn
	for range most {
		open = append(open, dial("/"))
		answered(open[len(open)-1])
	}
	fourth := dial("/")
	waits(fourth)
	open[1].Close()
	answered(fourth)
	fifth := dial("/")
	waits(fifth)

	stopped := make(chan struct{})
	go func() { s.stop(a.log, 0); a.running.Wait(); close(stopped) }()
	select {
	case <-stopped: // although it waits for room
	case <-time.After(time.Minute):
		require.FailNow(t, "it does not stop")
	}
	require.Empty(t, a.failed)
}

// newFunctions notes the function that is created.
type newFunctions struct {
	httpapi.Functions
	created chan api.Function
}

func (n newFunctions) Create(_ context.Context, _ string, f api.Function) (api.Function, error) {
	n.created <- f
	return f, nil
}

func TestSlowBodies(t *testing.T) {
	t.Parallel()
	const size = 512 << 10
	body := `{"Name":"slow","Config":{"Image":"i","Cmd":["` + strings.Repeat("x", size) + `"]}}`
	for name, c := range map[string]struct {
		chunked bool
		part    int // bytes that are sent at once, with a pause after each
		pause   time.Duration
		sent    int // bytes that are sent in all
		status  int
		took    time.Duration
	}{
		"as fast as may be asked": {false, 4 << 10, 3 * time.Second, len(body), 201, 387 * time.Second},
		"and with no length":      {true, 4 << 10, 3 * time.Second, len(body), 201, 387 * time.Second},
		"one that stalls":         {false, 4 << 10, 3 * time.Second, 80 << 10, 408, 48*time.Second + time.Minute},
		"one that sends nothing":  {false, 1, 0, 0, 408, time.Minute},
		"nothing, in chunks":      {true, 1, 0, 0, 408, time.Minute},
		"a byte now and then":     {false, 1, 50 * time.Second, 10, 408, time.Minute},
		"a byte, in chunks":       {true, 1, 50 * time.Second, 10, 408, time.Minute},
		"a little too slow":       {false, 16 << 10, 25 * time.Second, len(body), 408, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				created := newFunctions{created: make(chan api.Function, 1)}
				server := httpapi.New(httpapi.Config{
					Functions: created, UnsignedAccount: "default", MaxBody: mebibyte, BodyTime: time.Minute, Logger: slog.New(slog.DiscardHandler),
				})
				conn := bubble(t, server.Handler(false).ServeHTTP).dial()
				begun, sent := time.Now(), make(chan struct{})
				defer func() {
					conn.Close()
					<-sent
				}()
				go func() { // ends with the connection
					defer close(sent)
					var out io.WriteCloser = httputil.NewChunkedWriter(conn)
					announced := "Transfer-Encoding: chunked"
					if !c.chunked {
						out, announced = conn, fmt.Sprint("Content-Length: ", len(body))
					}
					_, err := io.WriteString(conn, "POST /funcs/create HTTP/1.1\r\nHost: 127.0.0.1\r\n"+announced+"\r\n\r\n")
					for at := 0; at < c.sent && err == nil; at += c.part {
						_, err = io.WriteString(out, body[at:min(at+c.part, c.sent)])
						time.Sleep(c.pause)
					}
					if c.chunked && c.sent == len(body) && err == nil {
						_, _ = io.WriteString(conn, "0\r\n\r\n")
					}
				}()
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
				text, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.Equal(t, c.status, resp.StatusCode, string(text))
				require.InDelta(t, c.took, time.Since(begun), float64(4*time.Second))
				if c.status == http.StatusCreated {
					f := <-created.created
					require.Len(t, f.Config.Cmd[0], size)
					return
				}
				require.Equal(t, "the body did not come in time: each 65536 bytes of it may take 1m0s\n", string(text))
				require.Empty(t, created.created)
				_, err = io.Copy(io.Discard, conn)
				require.NoError(t, err, "the connection is closed")
			})
		})
	}
}
