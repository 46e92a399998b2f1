package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestJournal(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	lines := make(chan string, 2)
	go func() {
		defer close(lines)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for in := bufio.NewScanner(conn); in.Scan(); fmt.Fprintln(conn, "ok") {
			lines <- in.Text()
		}
	}()
	var stdout bytes.Buffer
	require.NoError(t, run("tcp:"+l.Addr().String(), strings.NewReader("7 1"), &stdout))
	require.Equal(t, "start 7", <-lines)
	require.Equal(t, "wrote 7 "+stdout.String(), <-lines+"\n")
	require.Greater(t, stdout.Len(), 20)
	_, more := <-lines
	require.False(t, more)
}

func TestJournalWithoutAListenerDoesNothing(t *testing.T) {
	t.Parallel()
	var stdout bytes.Buffer
	require.Error(t, run("unix:"+t.TempDir()+"/none", strings.NewReader("7 1"), &stdout))
	require.Error(t, run("unix:/none", strings.NewReader("seven"), &stdout))
	require.Empty(t, stdout.String())
}
