package jobs

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestPullGolden(t *testing.T) {
	t.Parallel()
	login := &api.RegistryAuth{Username: "the user", Password: "the password"}
	for name, c := range map[string]struct {
		pull   api.ImagePull
		change func(*Options)
	}{
		"default": {api.ImagePull{Account: "team", Ref: "busybox:latest"}, nil},
		"login":   {api.ImagePull{Account: "team", Ref: "r.example:5000/app@sha256:" + testSum, Login: login}, nil},
		"everything": {api.ImagePull{Account: "team", Ref: "busybox:latest"}, func(o *Options) {
			o.Namespace, o.NodePool, o.PidsLimit, o.PullTime = "funcd", "gpu", 0, 10*time.Minute
			o.Runner = Runner{URL: "http://10.0.0.5:3862", ArchiveSHA256: testSum}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := testOptions()
			if c.change != nil {
				c.change(&o)
			}
			job, err := RenderPull(PullPrefix+"0123456789abcdef", &c.pull, o)
			require.NoError(t, err)
			got, err := json.MarshalIndent(job, "", "  ")
			require.NoError(t, err)
			got = append(got, '\n')
			require.NotContains(t, string(got), login.Username)
			require.NotContains(t, string(got), login.Password)
			golden := "testdata/pull/" + name + ".golden"
			if *update {
				require.NoError(t, os.WriteFile(golden, got, 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err, "write it with -update")
			require.Equal(t, string(want), string(got))
		})
	}
}

func TestPullIsNoFunction(t *testing.T) {
	t.Parallel()
	_, _, ok := ParseID(PullPrefix + "0123456789abcdef")
	require.False(t, ok, "a pull's container must not pass for a function's")
}

func TestLoginPath(t *testing.T) {
	t.Parallel()
	path, err := LoginPath(ID("team", "hello"))
	require.NoError(t, err)
	require.Equal(t, "nomad/jobs/func-team-hello", path)
	_, err = LoginPath(ID("team", strings.Repeat("a", 107)))
	require.NoError(t, err)
	_, err = LoginPath(ID("team", strings.Repeat("a", 108)))
	require.Equal(t, api.Invalid, api.CodeOf(err))
	require.ErrorContains(t, err, "is 1 characters too long")
}
