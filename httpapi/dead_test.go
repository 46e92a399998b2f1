package httpapi

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// dead is a letter of testCall, of the account default, and what becomes of it.
type dead struct{ *backend }

func deadLetter() api.DeadLetter {
	at := api.Timestamp{Time: time.Unix(7, 0)}
	return api.DeadLetter{CallID: testCall, Function: testName, Created: at, Started: &at, Ended: at, Attempts: 3, ExitCode: 5, Message: "exit status 5", Size: 2}
}

func (d dead) DeadLetters(_ context.Context, account, function string, yield func(api.DeadLetter) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.account, d.deadOf = account, function
	for range 2 {
		if err := yield(deadLetter()); err != nil {
			return err
		}
		if err := d.fail["DeadLetters later"]; err != nil && !d.answered {
			d.answered = true
			return err
		}
	}
	return d.fail["DeadLetters"]
}

func (d dead) DeadLetter(_ context.Context, account, call string) (*api.Call, api.DeadLetter, uint64, error) {
	letter := deadLetter()
	letter.Env, letter.Payload = []string{"REQUEST_METHOD=POST"}, []byte("in")
	return nil, letter, 1, d.asked("DeadLetter", account, call)
}

func (d dead) RemoveDeadLetter(_ context.Context, account, call string) error {
	return d.asked("RemoveDeadLetter", account, call)
}

func (d dead) Requeue(_ context.Context, account, call string) (string, error) {
	return otherUUID, d.asked("Requeue", account, call)
}

func (d dead) asked(what, account, call string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.account = account
	if call != testCall {
		return api.Errorf(api.NotFound, "no such dead letter: %s", call)
	}
	d.did = append(d.did, what)
	return d.fail[what]
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	failing := func(what string, code api.Code) map[string]error {
		return map[string]error{what: api.Errorf(code, "the sentence")}
	}
	for name, c := range map[string]struct {
		method, path string
		fail         map[string]error
		status       int
		answer       string // part of it
	}{
		"list":                         {"GET", "/dead", nil, 200, `[{"CallId":"` + testCall + `","Function":"hello","Created":"1970-01-01T00:00:07.000Z"`},
		"list behind a version":        {"GET", "/v1.23/dead", nil, 200, `"Attempts":3,"ExitCode":5,"Message":"exit status 5","Size":2},{"CallId"`},
		"list by a newer client":       {"GET", "/v1.24/dead", nil, 400, "client is newer than server"},
		"list those of a function":     {"GET", "/dead?function=hello", nil, 200, "exit status 5"},
		"list those of no function":    {"GET", "/dead?function=other", nil, 404, "no such function"},
		"list without JetStream":       {"GET", "/dead", failing("DeadLetters", api.Unavailable), 503, "the sentence"},
		"show":                         {"GET", "/dead/" + testCall, nil, 200, `"Env":["REQUEST_METHOD=POST"],"Payload":"aW4="}`},
		"show behind a version":        {"GET", "/v1.1/dead/" + testCall, nil, 200, `"Payload":"aW4="`},
		"show what is not there":       {"GET", "/dead/" + otherUUID, nil, 404, "no such dead letter: " + otherUUID},
		"show what is no call":         {"GET", "/dead/*", nil, 404, "no such dead letter: *"},
		"remove":                       {"DELETE", "/dead/" + testCall, nil, 204, ""},
		"remove what is not there":     {"DELETE", "/dead/" + otherUUID, nil, 404, "no such dead letter"},
		"remove what is no call":       {"DELETE", "/dead/x.y", nil, 404, "no such dead letter"},
		"requeue":                      {"POST", "/dead/" + testCall + "/requeue", nil, 200, `{"CallId":"` + otherUUID + `"}`},
		"requeue behind a version":     {"POST", "/v1.23/dead/" + testCall + "/requeue", nil, 200, otherUUID},
		"requeue what is not there":    {"POST", "/dead/" + otherUUID + "/requeue", nil, 404, "no such dead letter"},
		"requeue what is no call":      {"POST", "/dead/>/requeue", nil, 404, "no such dead letter"},
		"requeue with a full queue":    {"POST", "/dead/" + testCall + "/requeue", failing("Requeue", api.Unavailable), 503, "the sentence"},
		"requeue with GET":             {"GET", "/dead/" + testCall + "/requeue", nil, 405, "method not allowed"},
		"all of them can't be removed": {"DELETE", "/dead", nil, 405, "method not allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBackend()
			if c.fail != nil {
				b.fail = c.fail
			}
			resp, body := ask(t, serve(t, testConfig(b)), c.method, c.path, nil)
			require.Equal(t, c.status, resp.StatusCode, body)
			require.Contains(t, body, c.answer)
			if c.status < 300 {
				require.Equal(t, "default", b.account)
			}
		})
	}
}

func TestDeadLettersAreSignedFor(t *testing.T) {
	t.Parallel()
	b := newBackend()
	cfg := testConfig(b)
	cfg.UnsignedAccount = ""
	server := serve(t, cfg)
	for _, request := range []string{"GET /dead", "GET /dead/" + testCall, "DELETE /dead/" + testCall, "POST /dead/" + testCall + "/requeue"} {
		var method, path string
		_, err := fmt.Sscan(request, &method, &path)
		require.NoError(t, err)
		resp, _ := ask(t, server, method, path, nil)
		require.Equal(t, 401, resp.StatusCode, request)
	}
	require.Empty(t, b.did)
	require.Empty(t, b.account)
}

func TestAListOfDeadLettersThatBreaksOffIsNoAnswer(t *testing.T) {
	t.Parallel()
	b := newBackend()
	b.fail["DeadLetters later"] = api.Errorf(api.Unavailable, "later")
	resp, body := ask(t, serve(t, testConfig(b)), "GET", "/dead", nil)
	require.Equal(t, 503, resp.StatusCode, "nothing was written yet")
	require.Equal(t, "later\n", body)
	require.True(t, slices.Contains([]string{""}, b.deadOf))
}
