package api

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClientLogs(t *testing.T) {
	t.Parallel()
	lines := `{"Time":"2017-03-16T07:05:24.473Z","Event":"CALL","CallId":"` + testCallID + `","ShortStdin":"a\nb"}` + "\n\n" +
		`{"Time":"2017-03-16T07:05:25.000Z","Event":"FINISHED","CallId":"` + testCallID + `","ShortStdout":"c"}` // the last without its end
	want := []Event{
		{Time: Timestamp{time.Date(2017, 3, 16, 7, 5, 24, 473e6, time.UTC)}, Event: Called, CallID: testCallID, ShortStdin: "a\nb"},
		{Time: Timestamp{time.Date(2017, 3, 16, 7, 5, 25, 0, time.UTC)}, Event: string(Finished), CallID: testCallID, ShortStdout: "c"},
	}
	for query, q := range map[string]EventQuery{
		"?tail=0":                             {},
		"":                                    {Tail: -1},
		"?follow=1&tail=3":                    {Tail: 3, Follow: true},
		"?callid=" + testCallID + "&follow=1": {Call: testCallID, Tail: -1, Follow: true},
	} {
		c := serve(t, answer(t, "GET /logs/n/"+testUUID+query, 200, lines))
		var got []Event
		require.NoError(t, c.Logs(t.Context(), "n", testUUID, q, func(e Event) error {
			got = append(got, e)
			return nil
		}))
		require.Equal(t, want, got)
	}
}

// A line reaches its reader when it was sent, not when the stream has ended.
func TestClientLogsAreFollowed(t *testing.T) {
	t.Parallel()
	events := make(chan string)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for {
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case e := <-events:
				fmt.Fprintf(w, "{\"Event\":%q}\n", e)
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got, ended := make(chan string), make(chan error)
	go func() {
		ended <- c.Logs(ctx, "n", testUUID, EventQuery{Follow: true}, func(e Event) error {
			got <- e.Event
			return nil
		})
	}()
	for _, event := range []string{"CALL", "RUNNING", "FINISHED"} {
		events <- event
		require.Equal(t, event, <-got)
	}
	cancel()
	err := <-ended
	require.Equal(t, Unavailable, CodeOf(err))
	require.ErrorIs(t, err, context.Canceled)
}

// A server may end its answer properly when the client hangs up, which then reads that end before it has closed its connection.
func TestClientLogsThatAreHungUpAreNotWhole(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := serve(t, answer(t, "GET /logs/n/u?tail=0", 200, "{}\n")).Logs(ctx, "n", "u", EventQuery{}, func(Event) error {
		cancel()
		return nil
	})
	require.Equal(t, Unavailable, CodeOf(err))
	require.ErrorIs(t, err, context.Canceled)
}

func TestClientStreamEnds(t *testing.T) {
	t.Parallel()
	errStop := errors.New("enough")
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		yield   error
		code    Code
		lines   int
	}{
		"by its reader": {answer(t, "GET /logs/n/u?tail=0", 200, "{}\n{}\n"), errStop, Internal, 1},
		"with a line that is no JSON": {
			answer(t, "GET /logs/n/u?tail=0", 200, "{}\n<html>\n{}\n"), nil, Internal, 1,
		},
		"with a line that is too long": {
			answer(t, "GET /logs/n/u?tail=0", 200, "{}\n"+strings.Repeat("x", maxLine+1)), nil, TooLarge, 1,
		},
		"with its connection": {
			func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "{}\n")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}, nil, Unavailable, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lines := 0
			err := serve(t, c.handler).Logs(t.Context(), "n", "u", EventQuery{}, func(Event) error {
				lines++
				return c.yield
			})
			require.Equal(t, c.code, CodeOf(err))
			require.Equal(t, c.lines, lines)
			if c.yield != nil {
				require.Equal(t, c.yield, err, "it is returned as it is")
			}
			require.Equal(t, c.code == Unavailable, errors.Is(err, ErrNoAnswer))
		})
	}
}

func TestClientStatus(t *testing.T) {
	t.Parallel()
	body := `{"Total":3,"Pending":1,"Running":1,"Finished":1,"Failed":0,"List":[{"CallId":"` + testCallID + `","Created":"1970-01-01T00:00:00.001Z","Status":"PENDING","Message":"m"}]}`
	want := Status{
		Total: 3, Pending: 1, Running: 1, Finished: 1,
		List: []CallStatus{{CallID: testCallID, Created: Timestamp{Time: time.UnixMilli(1).UTC()}, Status: Pending, Message: "m"}},
	}
	for query, list := range map[string]bool{"": false, "?list=1": true} {
		status, err := serve(t, answer(t, "GET /status/n/"+testUUID+query, 200, body)).Status(t.Context(), "n", testUUID, list)
		require.NoError(t, err)
		require.Equal(t, want, status)
	}
	_, err := serve(t, answer(t, "GET /status/n/u", 200, "x")).Status(t.Context(), "n", "u", false)
	require.Equal(t, Internal, CodeOf(err))
}

func TestClientCancel(t *testing.T) {
	t.Parallel()
	c := serve(t, answer(t, "DELETE /call/n/"+testUUID+"/"+testCallID, 204, ""))
	require.NoError(t, c.Cancel(t.Context(), "n", testUUID, testCallID))
}

func TestClientPullImage(t *testing.T) {
	t.Parallel()
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for ref, query := range map[string]string{
		"ubuntu":                       "fromImage=ubuntu&tag=latest",
		"ubuntu:22.04":                 "fromImage=ubuntu&tag=22.04",
		"docker.io/library/ubuntu":     "fromImage=docker.io%2Flibrary%2Fubuntu&tag=latest",
		"127.0.0.1:5000/image":         "fromImage=127.0.0.1%3A5000%2Fimage&tag=latest",
		"127.0.0.1:5000/team/image:v1": "fromImage=127.0.0.1%3A5000%2Fteam%2Fimage&tag=v1",
		"image@" + digest:              "fromImage=image&tag=sha256%3A" + digest[7:],
		"image:v1@" + digest:           "fromImage=image&tag=sha256%3A" + digest[7:],
		"image:":                       "fromImage=image%3A", // the server says that it is none
		"image@":                       "fromImage=image%40",
	} {
		t.Run(ref, func(t *testing.T) {
			t.Parallel()
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if _, err := ParseAuthorization(r.Header.Get("Authorization")); err != nil {
					t.Error(err)
				}
				if r.Header.Get(RegistryAuthHeader) != "" {
					t.Error("credentials that nobody gave")
				}
				answer(t, "POST /v1.23/images/create?"+query, 200,
					`{"id":"node","status":"Pulling"}`+"\r\n"+`{"status":"1 of 2","progressDetail":{"current":1,"total":2}}`+"\r\n")(w, r)
			})
			var got []PullMessage
			require.NoError(t, c.PullImage(t.Context(), ref, nil, func(m PullMessage) error {
				got = append(got, m)
				return nil
			}))
			require.Equal(t, []PullMessage{{ID: "node", Status: "Pulling"}, {Status: "1 of 2", ProgressDetail: &PullProgress{Current: 1, Total: 2}}}, got)
		})
	}
}

func TestClientPullImageFails(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]*Error{
		`{"error":"no such image: x","errorDetail":{"code":404,"message":"other"}}`: {Code: NotFound, Message: "no such image: x"},
		`{"error":"node lost","errorDetail":{"message":"node lost"}}`:               {Code: Internal, Message: "node lost"},
		`{"error":"100% wrong"}`:                             {Code: Internal, Message: "100% wrong"},
		`{"errorDetail":{"code":503,"message":"no answer"}}`: {Code: Unavailable, Message: "no answer"},
	} {
		got := 0
		c := serve(t, answer(t, "POST /v1.23/images/create?fromImage=x&tag=latest", 200, "{}\n"+line+"\n"))
		err := c.PullImage(t.Context(), "x", nil, func(PullMessage) error { got++; return nil })
		require.Equal(t, want, err)
		require.Equal(t, 1, got)
	}
}

func TestRegistryAuth(t *testing.T) {
	t.Parallel()
	auth := &RegistryAuth{Username: "me", Password: "hunter2~?>", ServerAddress: "127.0.0.1:5000"}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		text, err := base64.URLEncoding.DecodeString(r.Header.Get(RegistryAuthHeader))
		if err != nil || string(text) != `{"username":"me","password":"hunter2~?\u003e","serveraddress":"127.0.0.1:5000"}` {
			t.Errorf("got %s, %v", text, err)
		}
	})
	require.NoError(t, c.PullImage(t.Context(), "x", auth, nil))
	var text strings.Builder
	slog.New(slog.NewTextHandler(&text, nil)).Info("x", "auth", *auth)
	fmt.Fprintf(&text, "%v %+v %#v %s", *auth, *auth, *auth, auth)
	require.NotContains(t, text.String(), "hunter2")
}
