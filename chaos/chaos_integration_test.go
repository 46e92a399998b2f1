//go:build integration

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestNothingIsLost is the short form of `make chaos`: few faults of each kind, with a funcd that looks for data races.
func TestNothingIsLost(t *testing.T) {
	programs := t.TempDir()
	for program, build := range map[string]struct {
		args []string
		env  string
	}{
		"funcd":        {[]string{"-race"}, "CGO_ENABLED=1"},
		"funcd-runner": {[]string{"-trimpath", "-ldflags", "-s -w"}, "CGO_ENABLED=0"},
	} {
		cmd := exec.Command("go", append(append([]string{"build", "-o", filepath.Join(programs, program)}, build.args...), "./cmd/"+program)...)
		cmd.Dir, cmd.Env = "..", append(os.Environ(), build.env)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	for name, c := range map[string]struct{ servers, kinds int }{"one server": {1, 13}, "two servers on a NATS cluster": {2, 15}} {
		t.Run(name, func(t *testing.T) {
			cfg := config{seed: uint64(time.Now().UnixNano()), faults: 1, servers: c.servers, gap: time.Second, programs: programs, out: t.Output()}
			v, err := run(t.Context(), cfg)
			if v != nil {
				v.print(t.Output())
			}
			require.NoError(t, err)
			require.Empty(t, v.violations, "seed %d", cfg.seed)
			require.GreaterOrEqual(t, v.calls[finished], 10, "it was worth the while")
			require.Len(t, v.faults, c.kinds)
			for kind, n := range v.faults {
				require.Equal(t, cfg.faults, n, kind)
			}
		})
	}
}
