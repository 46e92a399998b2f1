package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

const (
	callPath   = "POST /call/hello/" + testUUID
	outputPath = "GET /output/hello/" + testUUID + "/" + testCall
	logsPath   = "GET /logs/hello/" + testUUID
)

// caller is a server with a function that is called, and whose call is answered by output.
func caller(output http.HandlerFunc) routes {
	return routes{
		"GET /v1.23/funcs/hello":            reply(200, hello),
		"GET /v1.23/funcs/call/" + testCall: reply(200, hello),
		callPath:                            reply(200, `{"CallId":"`+testCall+`"}`),
		outputPath:                          output,
		outputPath + "/wait":                output,
	}
}

func TestCall(t *testing.T) {
	t.Parallel()
	server := caller(reply(200, "out")).serve(t)
	require.Equal(t, result{out: "CallId: " + testCall + "\n"}, at(t, server, "", "call", "hello"))
	require.Equal(t, result{out: "{\n    \"CallId\": \"" + testCall + "\"\n}\n"}, at(t, server, "", "call", "-o", "json", "hello"))
	require.Equal(t, result{status: ExitNotFound, err: "funcd: no such function: none; funcd ls lists those that there are\n"},
		at(t, server, "", "call", "none"))
	requireUsage(t, at(t, server, "", "call"), "call needs one NAME")
	requireUsage(t, at(t, server, "", "call", "hello", "x"), "call needs one NAME")
}

// TestPayload: what is piped to the command or redirected from a file goes to the function, and nothing is read from a device.
func TestPayload(t *testing.T) {
	t.Parallel()
	var got atomic.Pointer[string]
	r := caller(reply(200, ""))
	r[callPath] = func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		text := fmt.Sprintf("%d:%s", req.ContentLength, body)
		got.Store(&text)
		reply(200, `{"CallId":"`+testCall+`"}`)(w, req)
	}
	server := r.serve(t)
	path := filepath.Join(t.TempDir(), "payload")
	require.NoError(t, os.WriteFile(path, []byte("of a file \x00\xff"), 0o600))
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	null, err := os.Open("/dev/null")
	require.NoError(t, err)
	defer null.Close()
	zero, err := os.Open("/dev/zero")
	require.NoError(t, err)
	defer zero.Close()
	pipe, write, err := os.Pipe()
	require.NoError(t, err)
	defer pipe.Close()
	_, err = io.WriteString(write, "piped\n")
	require.NoError(t, err)
	require.NoError(t, write.Close())
	most := strings.Repeat("x", api.MaxPayload)
	for name, c := range map[string]struct {
		in   io.Reader
		want string
	}{
		"a file":          {file, "12:of a file \x00\xff"},
		"a pipe":          {pipe, "6:piped\n"},
		"/dev/null":       {null, "0:"},
		"a device":        {zero, "0:"},
		"nothing":         {strings.NewReader(""), "0:"},
		"the most it can": {strings.NewReader(most), fmt.Sprint(api.MaxPayload, ":", most)},
	} {
		var out, errs bytes.Buffer
		env := environ{"FUNCD_ADDR": server.URL}
		status := execute(t.Context(), newApp(Config{In: c.in, Out: &out, Err: &errs, LookupEnv: env.lookup}), "call", "hello")
		require.Zero(t, status, "%s: %s", name, &errs)
		require.True(t, c.want == *got.Load(), "%s: %.100s", name, *got.Load())
	}
	got.Store(nil)
	require.Equal(t, result{status: ExitRefused, err: "funcd: the payload is over 1048576 bytes\n"}, at(t, server, most+"x", "call", "hello"))
	require.Nil(t, got.Load(), "nothing was sent")
}

// TestOutcomes: how a call ended, in the exit status, on stdout the function's bytes alone, and in JSON.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	again := "; funcd get --wait " + testCall + " waits for its end"
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		status int
		out    string
		err    string
		json   string
	}{
		"finished":         {reply(200, "Hello\n"), ExitOK, "Hello\n", "", `{"CallId":"ID","Status":"FINISHED","Output":"Hello\n"}`},
		"finished, silent": {reply(200, ""), ExitOK, "", "", `{"CallId":"ID","Status":"FINISHED","Output":""}`},
		"finished, bytes": {
			reply(200, "\x00\xff\x1b[31m"), ExitOK, "\x00\xff\x1b[31m", "", `{"CallId":"ID","Status":"FINISHED","OutputBase64":"AP8bWzMxbQ=="}`,
		},
		"failed": {
			refuse(api.CallFailed, "exit status 3"), ExitFailed, "", "exit status 3",
			`{"CallId":"ID","Status":"FAILED","Message":"exit status 3"}`,
		},
		"timed out": {
			refuse(api.CallTimeout, "timeout: over 1 s"), ExitTimeout, "", "timeout: over 1 s",
			`{"CallId":"ID","Status":"FAILED","Message":"timeout: over 1 s"}`,
		},
		"cancelled": {
			refuse(api.Cancelled, "the call was cancelled"), ExitCancelled, "", "the call was cancelled",
			`{"CallId":"ID","Status":"FAILED","Message":"the call was cancelled"}`,
		},
		"output too large": {
			refuse(api.OutputTooLarge, "the output is over 1048576 bytes"), ExitFailed, "", "the output is over 1048576 bytes",
			`{"CallId":"ID","Status":"FAILED","Message":"the output is over 1048576 bytes"}`,
		},
		"expired":    {refuse(api.Expired, "the output has expired"), ExitNotFound, "", "the output has expired", ""},
		"fetched":    {refuse(api.NotFound, "no such call"), ExitNotFound, "", "no such call: ID; one that was got is gone", ""},
		"a fault":    {refuse(api.Internal, "internal error"), ExitError, "", "internal error", ""},
		"no service": {refuse(api.Unavailable, "Nomad does not answer"), ExitUnavailable, "", "Nomad does not answer", ""},
		"running": {
			reply(201, "x"), ExitNotEnded, "", "the call is being executed" + again,
			`{"CallId":"ID","Status":"RUNNING","Message":"the call is being executed` + again + `"}`,
		},
		"pending": {
			reply(202, "x"), ExitNotEnded, "", "the call is waiting for execution: no capacity in the cluster" + again,
			`{"CallId":"ID","Status":"PENDING","Message":"the call is waiting for execution: no capacity in the cluster` + again + `"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := caller(c.answer)
			r[logsPath] = func(w http.ResponseWriter, req *http.Request) {
				if req.URL.RawQuery != "callid="+testCall+"&tail=1" {
					t.Error(req.URL.RawQuery)
				}
				reply(200, `{"Event":"PENDING","Message":"no capacity in the cluster"}`)(w, req)
			}
			server := r.serve(t)
			want := result{c.status, c.out, ""}
			if c.err != "" {
				want.err = "funcd: " + strings.ReplaceAll(c.err, "ID", testCall) + "\n"
			}
			require.Equal(t, want, at(t, server, "", "get", testCall))
			got := at(t, server, "", "get", "-o", "json", testCall)
			require.Equal(t, want.err, got.err)
			require.Equal(t, c.status, got.status)
			if c.json == "" {
				require.Empty(t, got.out)
			} else {
				require.JSONEq(t, strings.ReplaceAll(c.json, "ID", testCall), got.out)
			}
			if c.status == ExitNotEnded || c.status == ExitUnavailable {
				return
			}
			require.Equal(t, want, at(t, server, "", "get", "--wait", testCall))
			require.Equal(t, want, at(t, server, "", "call", "--sync", "hello"))
		})
	}
}

func TestGetRefuses(t *testing.T) {
	t.Parallel()
	server := routes{}.serve(t)
	requireUsage(t, at(t, server, "", "get"), "get needs one CALL_ID, as funcd call prints it")
	requireUsage(t, at(t, server, "", "get", "218b7b10"), "get needs one CALL_ID")
	requireUsage(t, at(t, server, "", "get", testCall, testCall), "get needs one CALL_ID")
	require.Equal(t, result{status: ExitNotFound, err: "funcd: no such call: " + testCall + "; one that was got is gone\n"}, at(t, server, "", "get", testCall))
}

// blocking answers when its request is given up, and tells of it on arrived.
func blocking(arrived chan<- struct{}) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then net/http sees that the client is gone
		arrived <- struct{}{}
		<-r.Context().Done()
	}
}

// TestInterrupt: a command that is interrupted ends at once, with the status of an interrupt, and says what goes on without it.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	goesOn := "funcd: interrupted; the call goes on: funcd get --wait " + testCall + " waits for it, funcd cancel " + testCall + " ends it\n"
	for args, c := range map[string]struct {
		path string // what blocks
		want string
	}{
		"call --sync hello":      {outputPath + "/wait", goesOn},
		"get --wait " + testCall: {outputPath + "/wait", goesOn},
		"call hello":             {callPath, "funcd: interrupted before the call's id was known; funcd status --list hello shows whether there is one\n"},
		"logs -f hello":          {logsPath, "funcd: interrupted\n"},
		"ls":                     {"GET /v1.23/funcs", "funcd: interrupted\n"},
		"rm hello other":         {"DELETE /v1.23/funcs/hello", "funcd: interrupted\n"},
		"create --name a ubuntu": {"POST /v1.23/funcs/create", "funcd: interrupted\n"},
		"pull ubuntu":            {"POST /v1.23/images/create", "funcd: interrupted\n"},
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			arrived := make(chan struct{}, 1)
			r := caller(reply(200, ""))
			r[c.path] = blocking(arrived)
			server := r.serve(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				<-arrived
				cancel(fmt.Errorf("interrupt signal received"))
			}()
			var out, errs bytes.Buffer
			env := environ{"FUNCD_ADDR": server.URL}
			status := execute(ctx, newApp(Config{In: strings.NewReader(""), Out: &out, Err: &errs, LookupEnv: env.lookup}), strings.Fields(args)...)
			require.Equal(t, result{ExitInterrupted, "", c.want}, result{status, out.String(), errs.String()})
		})
	}
}

// A payload that has no end keeps nobody from interrupting.
func TestInterruptOfThePayload(t *testing.T) {
	t.Parallel()
	server := caller(reply(200, "")).serve(t)
	in, write := io.Pipe()
	defer write.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = io.WriteString(write, "begun")
		cancel()
	}()
	var out, errs bytes.Buffer
	env := environ{"FUNCD_ADDR": server.URL}
	status := execute(ctx, newApp(Config{In: in, Out: &out, Err: &errs, LookupEnv: env.lookup}), "call", "hello")
	require.Equal(t, result{ExitInterrupted, "", "funcd: interrupted while reading the payload; nothing was called\n"}, result{status, out.String(), errs.String()})
}

// TestWaitOutlivesARestart: who waits for a call has its output although funcd went away meanwhile.
func TestWaitOutlivesARestart(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	server := caller(func(w http.ResponseWriter, r *http.Request) {
		switch asked.Add(1) {
		case 1:
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
		case 2:
			refuse(api.Unavailable, "funcd is stopping")(w, r)
		default:
			reply(200, "out")(w, r)
		}
	}).serve(t)
	run := func(o outage) result {
		asked.Store(0)
		var out, errs bytes.Buffer
		a := newApp(Config{In: strings.NewReader(""), Out: &out, Err: &errs, LookupEnv: environ{"FUNCD_ADDR": server.URL}.lookup})
		a.outage = o
		return result{execute(t.Context(), a, "call", "--sync", "hello"), out.String(), errs.String()}
	}
	brokeOff := "funcd: funcd at " + server.URL + " broke off: unexpected EOF"
	require.Equal(t, result{ExitOK, "out", brokeOff + "; waiting for it to come back\n"}, run(outage{time.Minute, time.Millisecond}))
	r := run(outage{0, time.Millisecond})
	require.Equal(t, ExitUnavailable, r.status)
	require.Contains(t, r.err, "; funcd get --wait "+testCall+" gets the call when it is back\n")
}

func TestCancel(t *testing.T) {
	t.Parallel()
	other := "318b7b10-e7f1-4c48-ac3c-66792f8ffc06"
	server := routes{
		"GET /v1.23/funcs/call/" + testCall:               reply(200, hello),
		"DELETE /call/hello/" + testUUID + "/" + testCall: reply(204, ""),
	}.serve(t)
	require.Equal(t, result{out: testCall + "\n"}, at(t, server, "", "cancel", testCall))
	require.Equal(t, result{ExitNotFound, testCall + "\n", "funcd: no such call: " + other + "; one that was got is gone\n"},
		at(t, server, "", "cancel", other, testCall))
	require.Equal(t, result{out: "[\n    \"" + testCall + "\"\n]\n"}, at(t, server, "", "cancel", "-o", "json", testCall))
	requireUsage(t, at(t, server, "", "cancel"), "cancel needs a CALL_ID")
	requireUsage(t, at(t, server, "", "cancel", testCall, "x"), "cancel needs a CALL_ID")
}

func TestStatus(t *testing.T) {
	t.Parallel()
	created := api.Timestamp{Time: time.Date(2017, 3, 16, 7, 5, 24, 473e6, time.UTC)}
	status := api.Status{Total: 12, Pending: 1, Running: 2, Finished: 4, Failed: 5, List: []api.CallStatus{
		{CallID: testCall, Created: created, Status: api.Failed, Message: "exit status 3", Started: &created, Ended: &created, ExitCode: new(3)},
		{CallID: "x", Created: created, Status: api.Running},
	}}
	body, err := json.Marshal(status)
	require.NoError(t, err)
	var query string
	r := caller(nil)
	r["GET /status/hello/"+testUUID] = func(w http.ResponseWriter, req *http.Request) {
		query = req.URL.RawQuery
		reply(200, string(body))(w, req)
	}
	server := r.serve(t)
	require.Equal(t, result{out: "TOTAL   PENDING   RUNNING   FINISHED   FAILED\n12      1         2         4          5\n"}, at(t, server, "", "status", "hello"))
	require.Empty(t, query)
	require.Equal(t, result{out: `CALL ID                                STATUS    CREATED                ENDED                  EXIT   MESSAGE
218b7b10-e7f1-4c48-ac3c-66792f8ffc06   FAILED    2017-03-16T07:05:24Z   2017-03-16T07:05:24Z   3      exit status 3
x                                      RUNNING   2017-03-16T07:05:24Z                                 
`}, at(t, server, "", "status", "--list", "hello"))
	require.Equal(t, "list=1", query)
	got := at(t, server, "", "status", "-l", "-o", "json", "hello")
	require.Zero(t, got.status)
	require.JSONEq(t, string(body), got.out)
}
