//go:build integration

package test

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete}

func TestPayloadIsStdinAndStdoutTheAnswer(t *testing.T) {
	t.Parallel()
	f := dev.create(t, program("funcd-test/probe", "cat"))
	big := make([]byte, 1<<20)
	_, _ = rand.Read(big)
	for name, payload := range map[string]string{
		"nothing, which is a closed stdin": "",
		"bytes that are no text":           "\x00\xff\r\n\x00",
		"1 MiB":                            string(big),
	} {
		out := f.sync(t, payload)
		require.Equal(t, http.StatusOK, out.status, name)
		require.True(t, payload == out.body, "%s: %d bytes came back of %d, byte for byte", name, len(out.body), len(payload))
		require.Equal(t, "text/plain; charset=utf-8", out.header.Get("Content-Type"))
	}
	for _, method := range methods {
		out := dev.request(t, method, f.path("call", "sync"), "by "+method)
		require.Equal(t, http.StatusOK, out.status, method)
		require.Equal(t, "by "+method, out.body)
	}
}

func TestAsynchronousCallIsFetchedOnce(t *testing.T) {
	t.Parallel()
	slow, broken := dev.create(t, program("funcd/sleep", "2")), dev.create(t, program("funcd/fail"))
	endless := dev.create(t, program("funcd/sleep", "300"))
	for _, method := range methods {
		f := endless
		if method == http.MethodGet {
			f = slow
		}
		a := dev.request(t, method, f.path("call"), "")
		require.Equal(t, http.StatusOK, a.status, a.body)
		var answered map[string]string
		require.NoError(t, json.Unmarshal([]byte(a.body), &answered))
		call := answered["CallId"]
		require.Equal(t, map[string]string{"CallId": call}, answered)
		require.True(t, api.ValidUUID(call), call)

		if f == endless {
			early := f.output(t, call)
			require.Contains(t, []int{http.StatusCreated, http.StatusAccepted}, early.status, early.body)
			f.eventsOf(t, call, api.Running)
			require.Equal(t, http.StatusCreated, f.output(t, call).status)
			require.Equal(t, http.StatusNoContent, dev.request(t, http.MethodDelete, f.path("call", call), "").status)
			continue
		}
		out := slow.wait(t, call)
		require.Equal(t, http.StatusOK, out.status, out.body)
		require.Equal(t, "slept for 2 seconds\n", out.body)
		slow.awaitGone(t, call)
		require.Equal(t, http.StatusNotFound, slow.output(t, call).status, "it is there once")
		require.Equal(t, http.StatusNotFound, slow.wait(t, call).status)
	}

	call := broken.call(t, "")
	out := broken.wait(t, call)
	require.Equal(t, http.StatusInternalServerError, out.status)
	require.Equal(t, "exit status 3\n", out.body)
	broken.awaitGone(t, call)
	require.Equal(t, http.StatusNotFound, broken.output(t, call).status)
	call = broken.call(t, "")
	broken.eventsOf(t, call, api.Failed)
	require.Equal(t, http.StatusInternalServerError, broken.output(t, call).status, "without waiting too")
	broken.awaitGone(t, call)
	require.Equal(t, http.StatusNotFound, broken.output(t, call).status)
	failed := broken.sync(t, "")
	require.Equal(t, http.StatusInternalServerError, failed.status)
	require.Equal(t, "exit status 3\n", failed.body)
	asJSON := dev.request(t, http.MethodPost, broken.path("call", "sync"), "", "Accept", "application/json")
	require.Equal(t, http.StatusInternalServerError, asJSON.status)
	require.JSONEq(t, `{"message":"exit status 3"}`, asJSON.body)
}

func TestStderrIsNotInTheOutput(t *testing.T) {
	t.Parallel()
	f := dev.create(t, program("funcd-test/probe", "streams", "0"))
	call := f.call(t, "")
	require.Equal(t, "this is standard output\n", f.wait(t, call).body)
	ended := last(f.eventsOf(t, call, api.Finished))
	require.Equal(t, "this is standard output\n", ended.ShortStdout)
	require.Equal(t, "this is standard error\n", ended.ShortStderr)
}

// environment is what the image funcd/env prints.
type environment struct {
	Args, Env []string
	Dir       string
	UID, GID  int
}

func environmentOf(t *testing.T, a answer) environment {
	t.Helper()
	require.Equal(t, http.StatusOK, a.status, a.body)
	var e environment
	require.NoError(t, json.Unmarshal([]byte(a.body), &e), a.body)
	return e
}

func TestRequestIsTheEnvironmentByCGI(t *testing.T) {
	t.Parallel()
	f := dev.create(t, program("funcd/env"))
	a := dev.request(t, http.MethodPut, f.path("call", "sync")+"?a=b%20c&d", "twelve bytes",
		"X-Foo", "bar", "X-Foo", "baz", "Content-Type", "text/x-test", "Proxy", "http://127.0.0.1:1", "X_Foo", "forged")
	e := environmentOf(t, a)
	for _, variable := range []string{
		"HTTP_X_FOO=bar, baz", "CONTENT_TYPE=text/x-test", "CONTENT_LENGTH=12", "REQUEST_METHOD=PUT", "QUERY_STRING=a=b%20c&d",
	} {
		require.Contains(t, e.Env, variable)
	}
	for _, variable := range e.Env {
		name, value, _ := strings.Cut(variable, "=")
		require.NotEqual(t, "HTTP_PROXY", name, "Proxy is dropped")
		require.NotRegexp(t, "^(NOMAD|FUNCD|HTTP_CONTENT)_", name)
		require.NotContains(t, value, "eyJ", "no token is passed on")
		require.NotEqual(t, "forged", value)
	}
	require.NotContains(t, a.body, f.UUID)

	own := program("funcd/env")
	own.Config.Env = []string{"HTTP_X_FOO=mine", "REQUEST_METHOD=MINE", "GREETING=of the function", "EMPTY=", "TEXT=${NOMAD_ALLOC_ID} ${env[\"PATH\"]} $HOME"}
	f = dev.create(t, own)
	e = environmentOf(t, f.sync(t, "", "X-Foo", "theirs"))
	for _, variable := range own.Config.Env {
		require.Contains(t, e.Env, variable, "the function's own wins over a header and the image's, and comes as it was written")
		name, _, _ := strings.Cut(variable, "=")
		require.Equal(t, 1, strings.Count("\n"+strings.Join(e.Env, "\n"), "\n"+name+"="), name)
	}
}

func TestImageIsHonoured(t *testing.T) {
	t.Parallel()
	e := environmentOf(t, dev.create(t, program("funcd/env")).sync(t, ""))
	require.Equal(t, "/srv", e.Dir, "the image's WORKDIR")
	require.Equal(t, []int{1000, 1000}, []int{e.UID, e.GID}, "the image's USER")
	require.Contains(t, e.Env, "GREETING=from the image", "the image's ENV")
	require.Equal(t, []string{"/bin/env"}, e.Args, "the image's ENTRYPOINT")

	for name, c := range map[string]struct {
		config api.Config
		dir    string
		args   []string
	}{
		"Cmd follows the image's entrypoint":       {api.Config{Cmd: []string{"a b", "", "$HOME"}}, "/srv", []string{"/bin/env", "a b", "", "$HOME"}},
		"Entrypoint takes its place":               {api.Config{Entrypoint: []string{"/bin/env", "x"}, Cmd: []string{"y"}}, "/srv", []string{"/bin/env", "x", "y"}},
		"Entrypoint of an empty word is none":      {api.Config{Entrypoint: []string{""}, Cmd: []string{"/bin/env", "z"}}, "/srv", []string{"/bin/env", "z"}},
		"WorkingDir takes the image's place":       {api.Config{WorkingDir: "/bin"}, "/bin", []string{"/bin/env"}},
		"a WorkingDir that does not exist is made": {api.Config{WorkingDir: "/made/anew"}, "/made/anew", []string{"/bin/env"}},
	} {
		c.config.Image = "funcd/env"
		e := environmentOf(t, dev.create(t, api.Function{Config: c.config}).sync(t, ""))
		require.Equal(t, c.dir, e.Dir, name)
		require.Equal(t, c.args, e.Args, name)
	}

	// funcd/sleep has the ENTRYPOINT /bin/sleep and the CMD 1, without which it exits with 2.
	require.Equal(t, "slept for 1 seconds\n", dev.create(t, program("funcd/sleep")).sync(t, "").body)
	bare := dev.create(t, api.Function{Config: api.Config{Image: "funcd/sleep", Entrypoint: []string{"/bin/sleep"}}})
	require.Equal(t, "exit status 2\n", bare.sync(t, "").body, "a function's entrypoint drops the image's command")
	none := dev.create(t, api.Function{Config: api.Config{Image: "funcd/sleep", Entrypoint: []string{}}})
	require.Equal(t, "entrypoint not found: exec: \"1\": executable file not found in $PATH\n", none.sync(t, "").body, "without an entrypoint the image's command is what is run")
	a := dev.request(t, http.MethodPost, "/funcs/create", `{"Name":"`+newName(t)+`","Config":{"Image":"funcd/sleep","Entrypoint":""}}`)
	require.Equal(t, http.StatusBadRequest, a.status, "as docker run --entrypoint '' without a command")
	require.Contains(t, a.body, "Config.Entrypoint leaves out the image's own command")
	// funcd/hello has no ENTRYPOINT, and its program is found on its own PATH.
	require.Equal(t, "Hello World\n", dev.create(t, program("funcd/hello", "echo", "Hello", "World")).sync(t, "").body)
	require.Equal(t, "HelloWorld\n", dev.create(t, program("funcd/hello")).sync(t, "").body)
}

// TestProcessIsAsWithDockerRun compares what a function's process finds with what it finds without funcd.
func TestProcessIsAsWithDockerRun(t *testing.T) {
	t.Parallel()
	var plain environment
	require.NoError(t, json.Unmarshal([]byte(docker(t, "", "run", "--rm", "funcd/env")), &plain))
	called := environmentOf(t, dev.create(t, program("funcd/env")).sync(t, ""))
	ours := regexp.MustCompile(`^(HTTP_|CONTENT_|REQUEST_METHOD=|QUERY_STRING=|HOSTNAME=)`)
	normal := func(e environment) environment {
		e.Env = slices.DeleteFunc(e.Env, ours.MatchString)
		slices.Sort(e.Env)
		return e
	}
	require.Equal(t, normal(plain), normal(called))

	numbers := regexp.MustCompile(`\[[0-9]+\]|/proc/[0-9]+/`)
	files := func(text string) string { return numbers.ReplaceAllString(text, "") }
	open := dev.create(t, program("funcd-test/probe", "files")).sync(t, "payload")
	require.Equal(t, files(docker(t, "payload", "run", "--rm", "--interactive", "funcd-test/probe", "files")), files(open.body))
}

func TestEventsTellTheLifeOfACall(t *testing.T) {
	t.Parallel()
	f := dev.create(t, program("funcd/upper"))
	begin := time.Now().Truncate(time.Millisecond)
	first := f.call(t, strings.Repeat("é", 200))
	require.Equal(t, http.StatusOK, f.wait(t, first).status)
	events := f.eventsOf(t, first, api.Finished)
	require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, kinds(events))
	require.True(t, slices.IsSortedFunc(events, func(a, b api.Event) int { return a.Time.Compare(b.Time.Time) }))
	require.False(t, events[0].Time.Before(begin))
	require.Equal(t, strings.Repeat("é", 127), events[0].ShortStdin, "255 bytes, cut at a character")
	require.Equal(t, strings.Repeat("É", 127), last(events).ShortStdout)
	for _, e := range events {
		require.Equal(t, first, e.CallID)
	}

	second := f.call(t, "quiet")
	require.Equal(t, "QUIET", f.wait(t, second).body)
	require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, kinds(f.eventsOf(t, second, api.Finished)))
	all := f.events(t, "")
	require.Equal(t, all, f.events(t, "?tail=all"))
	require.Equal(t, all[len(all)-1:], f.events(t, "?tail=1"))
	require.Equal(t, all[len(all)-3:], f.events(t, "?tail=3"))
	require.Equal(t, all, f.events(t, "?tail=1000"))
	require.Empty(t, f.events(t, "?tail=0"))
	require.Equal(t, last(f.events(t, "?callid="+first)), f.events(t, "?tail=1&callid="+first)[0], "the last of this call's")
	require.Len(t, f.events(t, "?tail=1&callid="+first), 1)

	require.Equal(t, http.StatusBadRequest, dev.request(t, http.MethodGet, f.path("logs")+"?tail=x", "").status)
	require.Equal(t, http.StatusBadRequest, dev.request(t, http.MethodGet, f.path("logs")+"?callid=x", "").status)
	require.Equal(t, http.StatusNotFound, dev.request(t, http.MethodGet, "/logs/"+f.Name+"/"+first, "").status)

	broken := dev.create(t, program("funcd/fail", "42"))
	call := broken.call(t, "input")
	events = broken.eventsOf(t, call, api.Failed)
	require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FAILED"}, kinds(events))
	require.Equal(t, "input", events[0].ShortStdin)
	require.Equal(t, "exit status 42", last(events).Message)
	require.Equal(t, "failing with exit status 42\n", last(events).ShortStderr)
}

// readEvents reads events from an open connection up to one that ends a call.
func readEvents(t *testing.T, lines *bufio.Reader) []api.Event {
	t.Helper()
	var events []api.Event
	for {
		line, err := lines.ReadBytes('\n')
		require.NoError(t, err)
		var e api.Event
		require.NoError(t, json.Unmarshal(line, &e), string(line))
		events = append(events, e)
		if api.State(e.Event).Ended() {
			return events
		}
	}
}

func TestEventsAreFollowed(t *testing.T) {
	t.Parallel()
	f := dev.create(t, program("funcd/hello"))
	before := f.call(t, "")
	f.eventsOf(t, before, api.Finished) // or its end might be what the follower hears first

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, dev.url+f.path("logs")+"?follow=1&tail=0", nil)
	require.NoError(t, err)
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)

	conn, err := net.Dial("tcp", strings.TrimPrefix(dev.url, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = fmt.Fprintf(conn, "GET %s?follow=true HTTP/1.1\r\nHost: funcd\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", f.path("logs"))
	require.NoError(t, err)
	raw := bufio.NewReader(conn)
	upgraded, err := http.ReadResponse(raw, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, upgraded.StatusCode)
	_, err = document.Check(http.MethodGet, f.path("logs"), upgraded)
	require.NoError(t, err)
	require.Equal(t, "tcp", upgraded.Header.Get("Upgrade"))
	require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, kinds(readEvents(t, raw)), "the call before")

	call := f.call(t, "")
	for name, lines := range map[string]*bufio.Reader{"the body": bufio.NewReader(resp.Body), "the raw connection": raw} {
		events := readEvents(t, lines)
		require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, kinds(events), name)
		require.Equal(t, call, last(events).CallID, name)
		require.Equal(t, "HelloWorld\n", last(events).ShortStdout, name)
	}
}

// TestEndedCallIsKeptUntilItIsFetched: a caller that hangs up has not fetched it.
func TestEndedCallIsKeptUntilItIsFetched(t *testing.T) {
	t.Parallel()
	f := dev.create(t, program("funcd/hello"))
	call := f.call(t, "")
	conn, err := net.Dial("tcp", strings.TrimPrefix(dev.url, "http://"))
	require.NoError(t, err)
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: funcd\r\n\r\n", f.path("output", call, "wait"))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	f.eventsOf(t, call, api.Finished)
	out := f.output(t, call)
	require.Equal(t, http.StatusOK, out.status, out.body)
	require.Equal(t, "HelloWorld\n", out.body)
}

// TestContainersGoWithTheirCalls: every call has a container of its own, which is gone after it.
func TestContainersGoWithTheirCalls(t *testing.T) {
	t.Parallel()
	f := dev.create(t, cold(program("funcd/env")))
	hosts, allocations := map[string]bool{}, []string{}
	for range 2 {
		call := f.call(t, "")
		e := environmentOf(t, f.wait(t, call))
		at := slices.IndexFunc(e.Env, func(v string) bool { return strings.HasPrefix(v, "HOSTNAME=") })
		require.GreaterOrEqual(t, at, 0)
		hosts[e.Env[at]] = true
		allocations = append(allocations, f.allocationOf(t, call).ID)
	}
	require.Len(t, hosts, 2, "two calls, two containers")
	require.NoError(t, noContainers(allocations))
	for _, child := range f.children(t) {
		eventually(t, "the end of the call in Nomad", func() bool {
			var j job
			dev.nomadGet(t, jobOf(child.ID), &j)
			return j.Status == "dead"
		})
	}
}
