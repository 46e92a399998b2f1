//go:build integration

package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// TestBrokenDeliveryKeepsTheCall breaks off connections in the middle of an answer, after they have delivered others.
func TestBrokenDeliveryKeepsTheCall(t *testing.T) {
	t.Parallel()
	f := dev.create(t, warm(1, program("funcd/upper")))
	payload := strings.Repeat("x", 1<<20)
	want := strings.ToUpper(payload)
	for name, request := range map[string]func() (path, body string){
		"output": func() (string, string) {
			call := f.call(t, payload)
			f.eventsOf(t, call, api.Finished)
			return f.path("output", call), ""
		},
		"wait": func() (string, string) { return f.path("output", f.call(t, payload), "wait"), "" },
		"sync": func() (string, string) { return f.path("call", "sync"), payload },
	} {
		path, body := request()
		conn, err := net.Dial("tcp", strings.TrimPrefix(dev.url, "http://"))
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(64<<10))
		require.NoError(t, conn.SetDeadline(time.Now().Add(2*patience)))
		in := bufio.NewReaderSize(conn, 16)
		ask := func(path, body string) *http.Response {
			method := http.MethodGet
			if body != "" {
				method = http.MethodPost
			}
			_, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: funcd\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
			require.NoError(t, err)
			resp, err := http.ReadResponse(in, nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, resp.StatusCode, name)
			return resp
		}
		resp := ask(path, body)
		out, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, want, string(out), name)
		status := func() api.Status {
			s, err := dev.Status(t.Context(), f.Name, f.UUID, true)
			require.NoError(t, err)
			return s
		}
		eventually(t, "the call that was delivered goes", func() bool { return status().Total == 0 })

		path, body = request()
		resp = ask(path, body)
		_, err = io.ReadFull(resp.Body, make([]byte, 100_000))
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).SetLinger(0)) // with a reset
		require.NoError(t, conn.Close())
		var s api.Status
		eventually(t, "the call that stays", func() bool { // counts and the list are not of one moment
			s = status()
			return s.Finished == 1 && len(s.List) == 1
		})
		again := f.output(t, s.List[0].CallID)
		require.Equal(t, http.StatusOK, again.status, again.body)
		require.Equal(t, want, again.body, name)
		eventually(t, "the call that was delivered goes", func() bool { return status().Total == 0 })
	}
}
