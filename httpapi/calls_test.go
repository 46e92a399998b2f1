package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func messageOf(t *testing.T, body string) string {
	var answer struct{ Message string }
	require.NoError(t, json.Unmarshal([]byte(body), &answer))
	require.NotEmpty(t, answer.Message)
	return answer.Message
}

func TestPayloadArrivesAsItWasSent(t *testing.T) {
	t.Parallel()
	binary := make([]byte, 1<<20)
	for i := range binary {
		binary[i] = byte(i * 7)
	}
	for name, c := range map[string]struct {
		payload string
		body    io.Reader
	}{
		"nothing":            {"", nil},
		"text":               {"hello\n", strings.NewReader("hello\n")},
		"in chunks":          {"hello", unsized("hello")},
		"no bytes in chunks": {"", unsized("")},
		"1 MiB":              {string(binary), strings.NewReader(string(binary))},
		"1 MiB in chunks":    {string(binary), unsized(string(binary))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBackend()
			resp, body := ask(t, serve(t, testConfig(b)), "POST", callPath+"?a=b", c.body, "X-Foo", "bar")
			require.Equal(t, 200, resp.StatusCode)
			require.JSONEq(t, `{"CallId":"`+testCall+`"}`, body)
			require.True(t, string(b.payload) == c.payload, "%d bytes", len(b.payload))
			require.Contains(t, b.env, "HTTP_X_FOO=bar")
			require.Contains(t, b.env, "QUERY_STRING=a=b")
			if c.payload != "" {
				require.Contains(t, b.env, fmt.Sprintf("CONTENT_LENGTH=%d", len(c.payload)))
			}
		})
	}
}

func TestBodyOverTheLimit(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]func() io.Reader{
		"announced": func() io.Reader { return strings.NewReader(strings.Repeat("x", 101)) },
		"in chunks": func() io.Reader { return unsized(strings.Repeat("x", 101)) },
	} {
		for _, path := range []string{callPath, callPath + "/sync", "/funcs/create"} {
			t.Run(name+path, func(t *testing.T) {
				t.Parallel()
				b := newBackend()
				cfg := testConfig(b)
				cfg.MaxBody = 100
				resp, text := ask(t, serve(t, cfg), "POST", path, body())
				require.Equal(t, 413, resp.StatusCode)
				require.Equal(t, "the body is over 100 bytes\n", text)
				require.True(t, resp.Close, "what was not read can't be taken for the next request")
				require.Nil(t, b.env, "nothing was submitted")
			})
		}
	}
}

// raw writes to a server byte by byte and reads its answers.
func raw(t *testing.T, server *httptest.Server, text string) (net.Conn, *bufio.Reader) {
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	return conn, bufio.NewReader(conn)
}

func TestBodyThatStallsIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"announced":                     "POST " + callPath + " HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
		"in chunks":                     "POST " + callPath + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"to a page that is not there":   "POST /call/hello/" + otherUUID + " HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n",
		"to a path that is not there":   "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n",
		"by a method that is not there": "PATCH /funcs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
		"of a management request":       "POST /funcs/create HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBackend()
			cfg := testConfig(b)
			cfg.BodyTime = 30 * time.Millisecond
			_, in := raw(t, serve(t, cfg), text)
			resp, err := http.ReadResponse(in, nil)
			require.NoError(t, err)
			defer resp.Body.Close()
			require.GreaterOrEqual(t, resp.StatusCode, 400)
			require.Less(t, resp.StatusCode, 500)
			_, err = io.Copy(io.Discard, in)
			require.NoError(t, err, "the connection is closed")
			require.Nil(t, b.env)
		})
	}
}

func TestBodyThatBreaksOffIsNoCall(t *testing.T) {
	t.Parallel()
	b := newBackend()
	conn, in := raw(t, serve(t, testConfig(b)), "POST "+callPath+" HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	resp, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 400, resp.StatusCode)
	require.Nil(t, b.env)
}

// The time for a body does not end a call that is waited for.
func TestBodyTimeDoesNotBoundTheAnswer(t *testing.T) {
	t.Parallel()
	b := newBackend()
	cfg := testConfig(b)
	cfg.BodyTime = 20 * time.Millisecond
	cfg.Calls = slowCalls{b, 3 * cfg.BodyTime}
	resp, body := ask(t, serve(t, cfg), "POST", callPath+"/sync", strings.NewReader("in"))
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "out", body)
}

type slowCalls struct {
	*backend
	takes time.Duration
}

func (s slowCalls) Output(ctx context.Context, _ *api.Definition, _ string, _ bool) (api.Record, []byte, error) {
	select {
	case <-ctx.Done():
		return api.Record{}, nil, ctx.Err()
	case <-time.After(s.takes):
		return s.record, []byte("out"), nil
	}
}

func TestOutputIsBytes(t *testing.T) {
	t.Parallel()
	b := newBackend()
	b.output = []byte("<script>\x00\xff\r\n")
	server := serve(t, testConfig(b))
	for path, waits := range map[string]bool{outputPath: false, outputPath + "/wait": true, callPath + "/sync": true} {
		resp, body := ask(t, server, "GET", path, nil)
		require.Equal(t, string(b.output), body)
		require.Equal(t, "text/plain; charset=utf-8", resp.Header.Get("Content-Type"))
		require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
		require.Equal(t, int64(len(b.output)), resp.ContentLength)
		require.Equal(t, waits, b.waited, path)
	}
	server.Close() // a call is removed after its answer
	require.Len(t, b.delivered, 3)
}

// A call is removed when its answer has been written, and only then.
func TestDelivered(t *testing.T) {
	t.Parallel()
	failed := api.Errorf(api.CallFailed, "exit status 1")
	for name, c := range map[string]struct {
		state     api.State
		err       error
		w         recorder
		delivered int
	}{
		"an output":                             {api.Finished, nil, recorder{}, 1},
		"an output that can't be written":       {api.Finished, nil, recorder{failWrite: true}, 0},
		"an output that can't be flushed":       {api.Finished, nil, recorder{failFlush: true}, 0},
		"a failure":                             {api.Failed, failed, recorder{}, 1},
		"a failure that can't be flushed":       {api.Failed, failed, recorder{failFlush: true}, 0},
		"an output that is gone":                {api.Finished, api.Errorf(api.Expired, "gone"), recorder{}, 1},
		"an output that can't be read now":      {api.Finished, api.Errorf(api.Unavailable, "away"), recorder{}, 0},
		"a call that runs":                      {api.Running, nil, recorder{}, 0},
		"a call that waits":                     {api.Pending, nil, recorder{}, 0},
		"a wait that was given up":              {api.Running, context.Canceled, recorder{}, 0},
		"a call that is not there":              {"", api.Errorf(api.NotFound, "no such call"), recorder{}, 0},
		"a timeout":                             {api.Failed, api.Errorf(api.CallTimeout, "too long"), recorder{}, 1},
		"an output over the limit":              {api.Failed, api.Errorf(api.OutputTooLarge, "too much"), recorder{}, 1},
		"a wait that was given up at the start": {"", context.Canceled, recorder{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBackend()
			b.record.State, b.output, b.fail["Output"] = c.state, []byte("out"), c.err
			b.fail["Delivered"] = errors.New("it is only logged")
			c.w.header = http.Header{}
			New(testConfig(b)).Handler(false).ServeHTTP(&c.w, httptest.NewRequestWithContext(t.Context(), "GET", outputPath, nil))
			require.Len(t, b.delivered, c.delivered)
			if c.delivered > 0 {
				require.Equal(t, b.record, b.delivered[0])
				require.True(t, c.w.flushed, "it was flushed before")
			}
		})
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	b := newBackend()
	b.events = []api.Event{{Event: "CALL", CallID: testCall, ShortStdin: "a\nb"}, {Event: "FINISHED", CallID: testCall}}
	lines := jsonOf(t, b.events[0]) + "\n" + jsonOf(t, b.events[1]) + "\n"
	server := serve(t, testConfig(b))
	for query, want := range map[string]api.EventQuery{
		"":                 {Tail: -1},
		"?tail=all":        {Tail: -1},
		"?tail=0&follow=0": {},
		"?tail=3&follow=false&callid=" + testCall: {Call: testCall, Tail: 3},
	} {
		resp, body := ask(t, server, "GET", logsPath+query, nil)
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "application/x-ndjson", resp.Header.Get("Content-Type"))
		require.Equal(t, lines, body)
		require.Equal(t, want, b.query)
	}
}

// Followers of both kinds end with their connection and with the server.
func TestFollow(t *testing.T) {
	t.Parallel()
	event := api.Event{Event: "CALL", CallID: testCall}
	for _, follow := range []string{"1", "true", "True"} {
		for _, upgrade := range []bool{false, true} {
			for _, end := range []string{"reader", "server"} {
				t.Run(fmt.Sprintf("follow=%s upgrade=%t ended by the %s", follow, upgrade, end), func(t *testing.T) {
					t.Parallel()
					b := newBackend()
					b.events = []api.Event{event}
					ended := make(chan struct{})
					base, stop := context.WithCancel(context.Background())
					defer stop()
					handler := New(testConfig(b)).Handler(false)
					server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						defer close(ended)
						handler.ServeHTTP(w, r)
					}))
					server.Config.BaseContext = func(net.Listener) context.Context { return base }
					server.Start()
					defer server.Close()

					headers := ""
					if upgrade {
						headers = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
					}
					conn, in := raw(t, server, "GET "+logsPath+"?follow="+follow+" HTTP/1.1\r\nHost: a\r\n"+headers+"\r\n")
					resp, err := http.ReadResponse(in, nil)
					require.NoError(t, err)
					defer resp.Body.Close()
					var body io.Reader = resp.Body
					if upgrade {
						require.Equal(t, 101, resp.StatusCode)
						require.Equal(t, "tcp", resp.Header.Get("Upgrade"))
						require.Equal(t, "Upgrade", resp.Header.Get("Connection"))
						body = in
					} else {
						require.Equal(t, 200, resp.StatusCode)
					}
					line, err := bufio.NewReader(body).ReadString('\n')
					require.NoError(t, err)
					require.JSONEq(t, jsonOf(t, event), line)

					if end == "server" {
						stop()
					} else {
						require.NoError(t, conn.Close())
					}
					select {
					case <-ended:
					case <-time.After(20 * time.Second):
						t.Fatal("the follower goes on")
					}
				})
			}
		}
	}
}

// Events that break off must not look like all of them.
func TestEventsThatBreakOffAreNoWholeAnswer(t *testing.T) {
	t.Parallel()
	for code, whole := range map[api.Code]error{
		api.Unavailable: io.ErrUnexpectedEOF,
		api.NotFound:    nil, // the function was removed: there are no more
	} {
		b := newBackend()
		b.events = []api.Event{{Event: "CALL", CallID: testCall}}
		b.fail["Events"] = api.Errorf(code, "later")
		server := serve(t, testConfig(b))
		resp, err := server.Client().Get(server.URL + logsPath)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode, "it had begun")
		lines, err := io.ReadAll(resp.Body)
		require.Equal(t, whole, err)
		require.JSONEq(t, jsonOf(t, b.events[0]), string(lines))
	}
}

func TestUpgradeOfAFunctionThatIsNotThere(t *testing.T) {
	t.Parallel()
	_, in := raw(t, serve(t, testConfig(newBackend())),
		"GET /logs/hello/"+otherUUID+" HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	resp, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 404, resp.StatusCode)
}
