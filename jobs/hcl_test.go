package jobs

import (
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestHCL(t *testing.T) {
	t.Parallel()
	d := definition(t, `{"Name":"web","Config":{"Image":"ubuntu","Labels":{"com.example/a":"$b \"c\"\n%{x}"}},
		"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"8080"},{}]},"Links":["redis:cache"]}}`)
	d.Volumes = []api.Volume{{Type: "host", Source: "data", Destination: "/data", ReadOnly: true}}
	o := testOptions()
	o.Namespace, o.NodePool = "funcs", "pool"
	job, err := Render(d, o)
	require.NoError(t, err)
	text, err := HCL(job)
	require.NoError(t, err)
	_, diagnostics := hclsyntax.ParseConfig(text, "job.hcl", hcl.InitialPos)
	require.False(t, diagnostics.HasErrors(), "%s\n%s", diagnostics, text)
	for _, want := range []string{
		`job "func-default-web" {`, `namespace   = "funcs"`, `node_pool   = "pool"`, `group "call" {`, `task "function" {`, `driver       = "docker"`,
		`volume "v1" {`, `volume_mount {`, `port "p80_8080" {`, `port "p80" {`, `kill_timeout = "30s"`, `"$${NOMAD_META_call}"`, `"com.example/a" = "$b \"c\"\n%%%{x}"`,
		`parameterized {`, `identity {`, `template {`, `ephemeral_disk {`,
	} {
		require.Contains(t, string(text), want)
	}
	require.NotContains(t, string(text), "reserved_ports")
	require.NotContains(t, string(text), testUUID)
}
