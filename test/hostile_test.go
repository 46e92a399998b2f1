//go:build integration

package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// crowd is connections to a server that do not go before the test ends.
type crowd struct {
	address string

	mu    sync.Mutex
	conns []net.Conn
}

// dial adds a connection.
func (c *crowd) dial() (net.Conn, error) {
	conn, err := net.Dial("tcp", c.address)
	if err == nil {
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
	}
	return conn, err
}

func (c *crowd) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.(*net.TCPConn).SetLinger(0) // or its port would be taken for a minute
		conn.Close()
	}
}

// memoryOf is what a server's process has of the machine's memory, in bytes.
func memoryOf(t *testing.T, s *stack) int {
	t.Helper()
	status := readFile(t, fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	found := regexp.MustCompile(`(?m)^VmRSS:\s*([0-9]+) kB$`).FindStringSubmatch(status)
	require.NotNil(t, found, status)
	kilobytes, err := strconv.Atoi(found[1])
	require.NoError(t, err)
	return kilobytes << 10
}

// TestHostileClientsCostBoundedMemory has all kinds of clients at once that are idle, stuck, slow or without end, and a call that is answered in their midst.
func TestHostileClientsCostBoundedMemory(t *testing.T) {
	t.Parallel()
	const idle, of, bound = 10_000, 100, 1 << 30
	o := beside("hostile")
	o.program = "funcd-as-it-is" // the race detector would take several times the memory
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(root, o.program), "./cmd/funcd")
	build.Dir = ".."
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	own := startOwn(t, "hostile", o)
	f := own.create(t, program("funcd/upper"))
	all := &crowd{address: strings.TrimPrefix(own.url, "http://")}
	var running sync.WaitGroup
	defer running.Wait()
	defer all.leave()
	before := memoryOf(t, own)

	// answered sends a request's beginning and returns the status of its answer, and whether the connection can be used again.
	answered := func(conn net.Conn, text string) (status int, again bool, err error) {
		if _, err := io.WriteString(conn, text); err != nil {
			return 0, false, err
		}
		resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
		if err != nil {
			return 0, false, err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, !resp.Close, err
	}
	const host = " HTTP/1.1\r\nHost: funcd\r\n"

	// Ten thousand have asked for something, and keep their connections.
	var opening sync.WaitGroup
	for range of {
		opening.Go(func() {
			for range idle / of {
				conn, err := all.dial()
				if err != nil {
					t.Error(err)
					return
				}
				if status, again, err := answered(conn, "GET /healthz"+host+"\r\n"); err != nil || status != http.StatusOK || !again {
					t.Errorf("an idle connection: %d %t %v", status, again, err)
					return
				}
			}
		})
	}
	opening.Wait()
	require.False(t, t.Failed())
	t.Logf("%d idle connections take %d MiB", idle, (memoryOf(t, own)-before)>>20)

	// endless sends the beginning and then the same again and again, until the server has hung up. It reads nothing.
	endless := func(begin, again string) {
		conn, err := all.dial()
		if err != nil {
			t.Error(err)
			return
		}
		running.Go(func() {
			_, err := io.WriteString(conn, begin)
			for part := strings.Repeat(again, 1+(64<<10)/len(again)); err == nil; {
				_, err = io.WriteString(conn, part)
			}
		})
	}
	for i := range of {
		for begin, again := range map[string]string{
			// Bodies, of calls and of functions.
			"POST " + f.path("call") + host + "Transfer-Encoding: chunked\r\n\r\n": "400\r\n" + strings.Repeat("x", 1<<10) + "\r\n",
			"POST /funcs/create" + host + "Content-Length: 1099511627776\r\n\r\n":  strings.Repeat("[", 1<<10),
			// A header without an end, and headers.
			"GET /healthz" + host + "X: ": "x",
			"GET /funcs" + host:           fmt.Sprintf("X-%d: y\r\n", i),
			// Requests whose answers nobody reads.
			"": "GET /openapi.json" + host + "\r\n",
		} {
			endless(begin, again)
		}
		for _, stuck := range []string{
			"GET /healthz HTTP/1.1\r\nHos", "POST " + f.path("call") + host + "Content-Length: 1048576\r\n\r\nhalf",
			"GET " + f.path("logs") + "?follow=1" + host + "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
		} {
			conn, err := all.dial()
			require.NoError(t, err)
			_, err = io.WriteString(conn, stuck)
			require.NoError(t, err)
		}
	}
	most := 0
	for i := range 20 {
		require.Equal(t, fmt.Sprint("CALL ", i), f.sync(t, fmt.Sprint("call ", i)).body)
		most = max(most, memoryOf(t, own)-before)
	}
	t.Logf("with all the others they take up to %d MiB", most>>20)
	require.Less(t, most, bound)
	conn, err := all.dial()
	require.NoError(t, err)
	status, again, err := answered(conn, "POST "+f.path("call")+host+"Content-Length: 1048577\r\n\r\n")
	require.NoError(t, err)
	require.Equal(t, http.StatusRequestEntityTooLarge, status)
	require.False(t, again)
}
