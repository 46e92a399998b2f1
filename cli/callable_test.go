package cli

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The functions and calls that are named by their address are asked for nowhere.
func TestWhatIsNamedByItsAddress(t *testing.T) {
	t.Parallel()
	r := caller(reply(200, "out"))
	delete(r, "GET /v1.23/funcs/hello")
	delete(r, "GET /v1.23/funcs/call/"+testCall)
	r["GET /status/hello/"+testUUID] = reply(200, `{"Total":1,"Pending":1}`)
	r[logsPath] = reply(200, "")
	r["DELETE /call/hello/"+testUUID+"/"+testCall] = reply(204, "")
	server := r.serve(t)
	f := "hello/" + testUUID
	call := f + "/" + testCall
	require.Equal(t, result{out: "CallId: " + testCall + "\n"}, at(t, server, "", "call", f))
	require.Equal(t, result{out: "out"}, at(t, server, "", "call", "--sync", f))
	require.Equal(t, result{out: "out"}, at(t, server, "", "get", "--wait", call))
	require.Contains(t, at(t, server, "", "status", f).out, "PENDING")
	require.Equal(t, result{}, at(t, server, "", "logs", f))
	require.Zero(t, at(t, server, "", "cancel", call).status)

	require.Equal(t, result{status: ExitNotFound, err: "funcd: no such function: other; funcd ls lists those that there are\n"},
		at(t, server, "", "call", "other/"+testUUID), "without the UUID, which is a secret")
	requireUsage(t, at(t, server, "", "call", "hello/x"), "hello/…: what follows the name is not the UUID of a function")
	requireUsage(t, at(t, server, "", "get", f+"/x"), "get needs one CALL_ID")
	requireUsage(t, at(t, server, "", "get", "hello/x/"+testCall), "hello/…: what follows the name is not the UUID of a function")
	for _, command := range []string{"call", "get", "cancel", "logs", "status"} {
		require.Contains(t, at(t, server, "", command, "--help").out, "NAME/UUID")
	}
}

func TestHintsNameACallAsItWasNamed(t *testing.T) {
	t.Parallel()
	server := caller(reply(202, "")).serve(t)
	require.Contains(t, at(t, server, "", "get", testCall).err, "funcd get --wait "+testCall+" ")
	require.Contains(t, at(t, server, "", "get", "hello/"+testUUID+"/"+testCall).err, "funcd get --wait hello/UUID/"+testCall+" ")
}
