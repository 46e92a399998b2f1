//go:build integration

package test

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestTheSameIdempotencyKeyIsTheSameCall(t *testing.T) {
	t.Parallel()
	o := beside("once")
	own := startOwn(t, "once", o)
	f := own.create(t, cold(program("funcd/upper")))
	key := []string{api.KeyHeader, "order 17"}
	post := func(body string, headers ...string) answer {
		return own.request(t, http.MethodPost, f.path("call"), body, headers...)
	}
	var answers sync.Map
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			a := post("hello", key...)
			answers.Store(a.body, a.status)
		})
	}
	wg.Wait()
	var id string
	answers.Range(func(body, status any) bool {
		require.Equal(t, http.StatusOK, status, body)
		require.Empty(t, id, "one id for all")
		id = body.(string)
		return true
	})
	call := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(id), `{"CallId":"`), `"}`)
	require.True(t, api.ValidUUID(call), id)
	again := post("hello", key...)
	require.Equal(t, id, again.body)
	require.Equal(t, "true", again.header.Get(api.ReplayedHeader))
	other := post("other", key...)
	require.Equal(t, http.StatusUnprocessableEntity, other.status)
	require.Equal(t, "the Idempotency-Key was used for another request, with another method, query or body\n", other.body)

	require.NoError(t, own.kill())
	o.http = strings.TrimPrefix(own.url, "http://")
	own = startOwn(t, "once", o)
	require.Equal(t, id, post("hello", key...).body, "after a restart")
	sync := f.sync(t, "hello", key...)
	require.Equal(t, http.StatusOK, sync.status)
	require.Equal(t, "HELLO", sync.body, "the call's own answer")
	f.awaitGone(t, call)
	gone := f.sync(t, "hello", key...)
	require.Equal(t, http.StatusGone, gone.status)
	require.Equal(t, "the call with this Idempotency-Key has ended and its answer was fetched: "+call+"\n", gone.body)
	require.Equal(t, id, post("hello", key...).body)
	require.Len(t, f.children(t), 1, "it ran once")
	require.Equal(t, 1, attempts(f.eventsOf(t, call, api.Finished)))

	g := own.create(t, cold(program("funcd/upper")))
	require.Equal(t, "HELLO", g.sync(t, "hello", key...).body, "another function has its own keys")
	cmd := exec.Command(filepath.Join(root, "funcd"), "call", "--addr", own.url, "--idempotency-key", "order 17", f.Name)
	cmd.Stdin = strings.NewReader("hello")
	said, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, "CallId: "+call+"\n", string(said))
}
