package httpapi

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	b := newBackend()
	server := serve(t, testConfig(b))
	resp, body := ask(t, server, "POST", callPath, strings.NewReader("in"), api.KeyHeader, "a key")
	require.Equal(t, 200, resp.StatusCode)
	require.JSONEq(t, `{"CallId":"`+testCall+`"}`, body)
	require.Empty(t, resp.Header.Get(api.ReplayedHeader))
	require.Contains(t, b.env, "HTTP_IDEMPOTENCY_KEY=a key")
	resp, _ = ask(t, server, "POST", callPath, strings.NewReader("in"), api.KeyHeader, "a key")
	require.Equal(t, "true", resp.Header.Get(api.ReplayedHeader))
	resp, _ = ask(t, server, "POST", callPath+"/sync", strings.NewReader("in"), api.KeyHeader, "a key", "traceparent", "another")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "true", resp.Header.Get(api.ReplayedHeader))
	require.Len(t, b.once, 3)
	require.True(t, b.once[2].Wait)
	b.once[2].Wait = false
	for _, once := range b.once {
		require.Equal(t, b.once[0], once)
	}
	differ := map[string]bool{b.once[0].Same: true}
	for _, c := range [][3]string{{"PUT", "", "in"}, {"POST", "?a=b", "in"}, {"POST", "", "in "}, {"POST", "", ""}, {"POST", "?in", ""}} {
		ask(t, server, c[0], callPath+c[1], strings.NewReader(c[2]), api.KeyHeader, "a key")
		differ[b.once[len(b.once)-1].Same] = true
	}
	require.Len(t, differ, 6)

	for name, values := range map[string][]string{
		"an empty one": {""}, "a long one": {strings.Repeat("x", 256)}, "not ASCII": {"kéy"}, "a tab in it": {"a\tb"},
	} {
		headers := []string{}
		for _, value := range values {
			headers = append(headers, api.KeyHeader, value)
		}
		for _, path := range []string{callPath, callPath + "/sync"} {
			resp, body := ask(t, server, "POST", path, nil, headers...)
			require.Equal(t, 400, resp.StatusCode, name)
			require.Contains(t, body, "Idempotency-Key: must be", name)
		}
	}
	_, err := onceOf(&http.Request{Header: http.Header{api.KeyHeader: {"a", "b"}}}, nil, false)
	require.Equal(t, api.Invalid, api.CodeOf(err))
	resp, _ = ask(t, server, "POST", callPath, nil, api.KeyHeader, strings.Repeat("x", 255))
	require.Equal(t, 200, resp.StatusCode)

	b.mu.Lock()
	b.fail["Submit"] = api.Errorf(api.KeyReused, "the sentence")
	b.mu.Unlock()
	resp, body = ask(t, server, "POST", callPath, nil, api.KeyHeader, "a key")
	require.Equal(t, 422, resp.StatusCode)
	require.Equal(t, "the sentence\n", body)
	require.Equal(t, "key-reused", resp.Header.Get(api.ErrorHeader))
}

func TestAnAnswerThatWasFetchedIsGone(t *testing.T) {
	t.Parallel()
	b := newBackend()
	server := serve(t, testConfig(b))
	b.record.State, b.fail["Output"] = "", api.Errorf(api.NotFound, "no such call")
	resp, _ := ask(t, server, "POST", callPath+"/sync", nil, api.KeyHeader, "a key")
	require.Equal(t, 404, resp.StatusCode, "as without a key, whatever has fetched it")
	resp, body := ask(t, server, "POST", callPath+"/sync", nil, api.KeyHeader, "a key")
	require.Equal(t, 410, resp.StatusCode)
	require.Equal(t, "the call with this Idempotency-Key has ended and its answer was fetched: "+testCall+"\n", body)
}
