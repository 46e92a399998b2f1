package main

import (
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestPromises(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		call   call
		status *api.CallStatus
		letter *api.DeadLetter
		got    []callback
		want   string // in what is wrong; empty for nothing
	}{
		"nothing is promised":           {call{function: "reused", state: finished, output: "x"}, nil, nil, nil, ""},
		"kept":                          {call{function: "cold", state: finished, output: "x"}, &api.CallStatus{Status: api.Finished}, nil, nil, ""},
		"kept, with its failure":        {call{function: "cold", state: failed, message: "node lost"}, &api.CallStatus{Status: api.Failed, Message: "node lost"}, nil, nil, ""},
		"not kept":                      {call{function: "cold", state: finished}, nil, nil, nil, "is not there"},
		"kept as another":               {call{function: "cold", state: finished}, &api.CallStatus{Status: api.Running}, nil, nil, "it is kept as RUNNING"},
		"fetched, and there":            {call{function: "reused", state: finished}, &api.CallStatus{Status: api.Finished}, nil, nil, ""},
		"fetched, and there as another": {call{function: "reused", state: finished}, &api.CallStatus{Status: api.Failed, Message: "x"}, nil, nil, "it is kept as FAILED"},
		"sent":                          {call{function: "warm", state: finished, output: "x"}, nil, nil, []callback{{api.Finished, "x"}}, ""},
		"sent twice":                    {call{function: "warm", state: finished, output: "x"}, nil, nil, []callback{{api.Finished, "x"}, {api.Finished, "x"}}, ""},
		"sent with its failure":         {call{function: "warm", state: failed, message: "why"}, nil, nil, []callback{{api.Failed, "why"}}, ""},
		"not sent":                      {call{function: "warm", state: finished, output: "x"}, nil, nil, nil, "was not sent"},
		"sent as another":               {call{function: "warm", state: finished, output: "x"}, nil, nil, []callback{{api.Finished, "y"}}, `was told FINISHED "y"`},
		"dead":                          {call{function: "retried", state: failed, message: "why"}, nil, &api.DeadLetter{Message: "why"}, []callback{{api.Failed, "why"}}, ""},
		"not dead":                      {call{function: "retried", state: failed, message: "why"}, nil, nil, []callback{{api.Failed, "why"}}, "it is no dead letter"},
		"dead of another cause":         {call{function: "retried", state: failed, message: "why"}, nil, &api.DeadLetter{Message: "else"}, []callback{{api.Failed, "why"}}, `its dead letter says "else"`},
		"dead and finished":             {call{function: "retried", state: finished}, nil, &api.DeadLetter{}, []callback{{api.Finished, ""}}, "it is a dead letter"},
		"cancelled":                     {call{function: "retried", state: failed, message: cancelled}, nil, nil, []callback{{api.Failed, cancelled}}, ""},
		"cancelled and dead":            {call{function: "retried", state: failed, message: cancelled}, nil, &api.DeadLetter{Message: cancelled}, []callback{{api.Failed, cancelled}}, "it is a dead letter"},
		"dead, and is not to be":        {call{function: "cold", state: failed, message: "why"}, &api.CallStatus{Status: api.Failed, Message: "why"}, &api.DeadLetter{Message: "why"}, nil, "it is a dead letter"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.call.ids = []string{"id"}
			kept, dead := map[string]api.CallStatus{}, map[string]api.DeadLetter{}
			if c.status != nil {
				kept["id"] = *c.status
			}
			if c.letter != nil {
				dead["id"] = *c.letter
			}
			wrong := broken(c.call, kept, dead, c.got)
			if c.want == "" {
				require.Empty(t, wrong)
				return
			}
			require.Len(t, wrong, 1)
			require.Contains(t, wrong[0], c.want)
		})
	}
}

func TestReceiverTakesWhatIsSigned(t *testing.T) {
	t.Parallel()
	r, err := newReceiver()
	require.NoError(t, err)
	defer r.stop()
	secret := "whsec_" + strings.Repeat("AAAA", 8)
	r.knows(api.Function{Name: "warm", CallbackSecret: secret})
	post := func(secret string) int {
		now := time.Now()
		signature, err := api.SignCallback(secret, "id", now, []byte("text\n"))
		require.NoError(t, err)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.address, strings.NewReader("text\n"))
		require.NoError(t, err)
		for name, value := range map[string]string{
			api.CallbackFunctionHeader: "warm", api.CallbackCallHeader: "id", api.CallbackStateHeader: "FINISHED",
			api.WebhookIDHeader: "id", api.WebhookTimeHeader: strconv.FormatInt(now.Unix(), 10), api.WebhookSignatureHeader: signature,
		} {
			req.Header.Set(name, value)
		}
		req.Close = true
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		return resp.StatusCode
	}
	require.Equal(t, http.StatusOK, post(secret))
	require.Equal(t, []callback{{api.Finished, "text"}}, r.of("id"))
	require.Empty(t, r.refused())
	require.Equal(t, http.StatusUnauthorized, post("whsec_"+strings.Repeat("BBBB", 8)))
	require.Len(t, r.of("id"), 1)
	require.Len(t, r.refused(), 1)
}

func TestCallsVary(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	keys, cancels, fails := map[string]bool{}, 0, map[int]int{}
	const n = 2000
	for i := range n {
		c := call{n: i, function: "retried", sync: i%2 == 0}
		c.vary(7, random)
		require.False(t, c.sync && (c.key != "" || c.cancel.planned))
		keys[c.key] = true
		if c.cancel.planned {
			cancels++
		}
		fails[c.fails]++
		plain := call{n: i, function: "warm"}
		plain.vary(7, random)
		require.Zero(t, plain.fails)
	}
	require.InDelta(t, n/2*withKey/100, len(keys)-1, 100, "each key is of one call")
	require.InDelta(t, n/2*withCancel/100, cancels, 50)
	require.InDelta(t, n*failsAtFirst/100, fails[1], 150)
	require.InDelta(t, n*failsAlways/100, fails[3], 150)
}
