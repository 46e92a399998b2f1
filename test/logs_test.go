//go:build integration

package test

import (
	"bufio"
	"encoding/json"
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

// openLogs asks for events, over a connection that is upgraded or as a body, and returns what carries them.
func (f *function) openLogs(t *testing.T, query string, upgrade bool) *bufio.Reader {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.on.url, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(2*patience)))
	headers, status := "Connection: close\r\n", http.StatusOK
	if upgrade {
		headers, status = "Connection: Upgrade\r\nUpgrade: tcp\r\n", http.StatusSwitchingProtocols
	}
	_, err = fmt.Fprintf(conn, "GET %s%s HTTP/1.1\r\nHost: funcd\r\n%s\r\n", f.path("logs"), query, headers)
	require.NoError(t, err)
	raw := bufio.NewReader(conn)
	resp, err := http.ReadResponse(raw, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		conn.Close() // before the body, whose closing reads it to its end, which one that is followed has not
		resp.Body.Close()
	})
	require.Equal(t, status, resp.StatusCode, query)
	_, err = document.Check(http.MethodGet, f.path("logs"), resp)
	require.NoError(t, err)
	if upgrade {
		return raw
	}
	return bufio.NewReader(resp.Body)
}

// nextEvent reads an event. There is none at the end of the connection.
func nextEvent(t *testing.T, from *bufio.Reader) (e api.Event, ok bool) {
	t.Helper()
	line, err := from.ReadBytes('\n')
	if err == io.EOF && len(line) == 0 {
		return e, false
	}
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(line, &e), string(line))
	return e, true
}

// TestLogsOverBothConnections: a connection that is upgraded carries to the byte what a body does, whatever is asked for.
func TestLogsOverBothConnections(t *testing.T) {
	t.Parallel()
	f := dev.create(t, program("funcd-test/probe", "tty"))
	payload := strings.Repeat("é", 400) + "\n"
	first := f.call(t, payload)
	events := f.eventsOf(t, first, api.Finished)
	require.Equal(t, strings.Repeat("é", 127), events[0].ShortStdin, "254 bytes: the next character would not fit")
	require.Equal(t, "got "+strings.Repeat("é", 125), last(events).ShortStderr)
	second := f.call(t, "\xff\xc3")
	require.Equal(t, "\uFFFD", f.eventsOf(t, second, api.Finished)[0].ShortStdin, "what is no text is replaced")
	all := f.events(t, "")
	require.Len(t, kinds(all), 8)

	for _, query := range []string{
		"", "?tail=all", "?tail=0", "?tail=1", "?tail=3", "?tail=1000", "?follow=0", "?callid=" + first, "?callid=" + second + "&tail=2", "?tail=1&callid=" + first,
		"?callid=218b7b10-e7f1-4c48-ac3c-66792f8ffc06",
	} {
		var of [2]string
		for i, upgrade := range []bool{false, true} {
			text, err := io.ReadAll(f.openLogs(t, query, upgrade))
			require.NoError(t, err, "it ends after the last: %s", query)
			of[i] = string(text)
		}
		require.Equal(t, of[0], of[1], query)
		require.Equal(t, f.on.request(t, http.MethodGet, f.path("logs")+query, "").body, of[1], query)
	}
	for _, query := range []string{"?tail=x", "?tail=-1", "?callid=x"} {
		a := f.on.request(t, http.MethodGet, f.path("logs")+query, "", "Connection", "Upgrade", "Upgrade", "tcp")
		require.Equal(t, http.StatusBadRequest, a.status, "what is wrong is told before the upgrade: %s", query)
	}
	a := f.on.request(t, http.MethodGet, "/logs/"+f.Name+"/"+first, "", "Connection", "Upgrade", "Upgrade", "tcp")
	require.Equal(t, http.StatusNotFound, a.status)
}

// TestOneCallIsFollowed: a follower of one call hears of no other, from where it wants to begin, over both kinds of connection.
func TestOneCallIsFollowed(t *testing.T) {
	t.Parallel()
	f := dev.create(t, cold(program("funcd/sleep", "600")))
	call := f.call(t, "input")
	f.eventsOf(t, call, api.Running)
	followers := map[string]*bufio.Reader{}
	for _, query := range []string{"?follow=1&callid=" + call, "?follow=true&tail=1&callid=" + call, "?follow=True&tail=0&callid=" + call} {
		for _, upgrade := range []bool{false, true} {
			followers[fmt.Sprintf("%s upgrade=%t", query, upgrade)] = f.openLogs(t, query, upgrade)
		}
	}
	other := f.call(t, "other")
	f.eventsOf(t, other, api.Running)
	for _, id := range []string{other, call} {
		require.Equal(t, http.StatusNoContent, f.on.request(t, http.MethodDelete, f.path("call", id), "").status)
		f.eventsOf(t, id, api.Failed)
	}
	for of, lines := range followers {
		var seen []api.Event
		for {
			e, ok := nextEvent(t, lines)
			require.True(t, ok, of)
			seen = append(seen, e)
			require.Equal(t, call, e.CallID, of)
			if api.State(e.Event).Ended() {
				break
			}
		}
		want := []string{"CALL", "PENDING", "RUNNING", "FAILED"}
		switch {
		case strings.Contains(of, "tail=1"):
			want = want[2:]
		case strings.Contains(of, "tail=0"):
			want = want[3:]
		}
		require.Equal(t, want, kinds(seen), of)
		require.Equal(t, "cancelled", last(seen).Message, of)
	}
}
