package cli

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestDead(t *testing.T) {
	t.Parallel()
	const other, third = "0a8b7b10-e7f1-4c48-ac3c-66792f8ffc06", "1a8b7b10-e7f1-4c48-ac3c-66792f8ffc06"
	letter := api.DeadLetter{
		CallID: testCall, Function: "hello", Created: api.Timestamp{Time: time.Now()}, Ended: api.Timestamp{Time: time.Now().Add(-3 * time.Hour)},
		Attempts: 3, ExitCode: 3, Message: "exit status 3\x1b[31m", Size: 2,
	}
	list, err := json.Marshal([]api.DeadLetter{letter})
	require.NoError(t, err)
	whole := letter
	whole.Payload = []byte("\x00i")
	one, err := json.Marshal(whole)
	require.NoError(t, err)
	var query string
	server := routes{
		"GET /v1.23/dead": func(w http.ResponseWriter, req *http.Request) {
			query = req.URL.RawQuery
			reply(200, string(list))(w, req)
		},
		"GET /v1.23/dead/" + testCall:               reply(200, string(one)),
		"POST /v1.23/dead/" + testCall + "/requeue": reply(200, `{"CallId":"`+other+`"}`),
		"POST /v1.23/dead/" + third + "/requeue":    refuse(api.NotFound, "no such dead letter: "+third),
		"DELETE /v1.23/dead/" + testCall:            reply(204, ""),
	}.serve(t)
	require.Equal(t, result{out: `CALL ID                                FUNCTION   ENDED         ATTEMPTS   SIZE   MESSAGE
218b7b10-e7f1-4c48-ac3c-66792f8ffc06   hello      3 hours ago   3          2      exit status 3\x1b[31m
`}, at(t, server, "", "dead", "ls"))
	require.Empty(t, query)
	require.Equal(t, result{out: testCall + "\n"}, at(t, server, "", "dead", "ls", "-q", "-f", "hello"))
	require.Equal(t, "function=hello", query)
	got := at(t, server, "", "dead", "ls", "-o", "json")
	require.JSONEq(t, string(list), got.out)
	got = at(t, server, "", "dead", "show", testCall)
	require.JSONEq(t, string(one), got.out)
	require.Equal(t, result{out: "\x00i"}, at(t, server, "", "dead", "show", "--payload", testCall))
	require.Equal(t, result{out: other + "\n"}, at(t, server, "", "dead", "requeue", testCall))
	require.Equal(t, result{status: ExitNotFound, out: other + "\n", err: "funcd: no such dead letter: " + third + "\n"}, at(t, server, "", "dead", "requeue", third, testCall))
	got = at(t, server, "", "dead", "requeue", "-o", "json", testCall)
	require.JSONEq(t, `["`+other+`"]`, got.out)
	require.Equal(t, result{out: testCall + "\n"}, at(t, server, "", "dead", "rm", testCall))
	require.Equal(t, result{status: ExitUsage, err: "funcd: dead show needs a CALL_ID, as funcd dead ls shows it: funcd dead show --help shows how\n"}, at(t, server, "", "dead", "show"))
	require.Equal(t, ExitUsage, at(t, server, "", "dead", "rm", "hello").status)
	require.Contains(t, at(t, server, "", "dead").out, "requeue")
	require.Contains(t, at(t, server, "", "dead", "ls", "--help").out, "Which funcd, and as whom:")
}
