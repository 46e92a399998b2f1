package cli

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestJobAndOpen(t *testing.T) {
	t.Parallel()
	server := routes{
		"GET /v1.23/funcs/hello/job": reply(200, `{"ID":"func-default-hello","UI":"http://nomad/ui/jobs/x","Job":{"ID":"x"},"HCL":"job \"x\" {}\n"}`),
		"GET /v1.23/funcs/none/job":  refuse(api.NotFound, "no such function"),
	}.serve(t)
	r := at(t, server, "", "job", "hello")
	require.Zero(t, r.status)
	require.JSONEq(t, `{"Job":{"ID":"x"}}`, r.out)
	require.Equal(t, result{out: "job \"x\" {}\n"}, at(t, server, "", "job", "--hcl", "hello"))
	require.Equal(t, result{out: "http://nomad/ui/jobs/x\n"}, at(t, server, "", "open", "hello"))
	require.NotZero(t, at(t, server, "", "job", "none").status)
	require.NotZero(t, at(t, server, "", "open", "none").status)
	requireUsage(t, at(t, nil, "", "job", "--hcl", "-o", "json", "hello"), "exclude each other")
}
