package runner

import (
	"net/http"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
)

// The signal by which Nomad ends a container is a function's own, or one that stands for it.
func TestStopSignals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ stop, as, sent, got syscall.Signal }{
		"one that is else news":       {unix.SIGWINCH, unix.SIGWINCH, unix.SIGWINCH, unix.SIGWINCH},
		"one that stands for another": {unix.SIGTERM, unix.SIGUSR1, unix.SIGTERM, unix.SIGUSR1},
		"another one":                 {unix.SIGTERM, unix.SIGUSR1, unix.SIGINT, unix.SIGINT},
		"one that is the runtime's":   {unix.SIGTERM, unix.SIGPIPE, unix.SIGTERM, unix.SIGPIPE},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newFuncd(t, "trap").start(func(cfg *Config) { cfg.Stop, cfg.StopAs = c.stop, c.as })
			<-r.stderr.ready
			r.signals <- c.sent
			o := r.wait(t)
			require.NoError(t, o.err)
			require.Equal(t, api.Stopped, o.result.Outcome)
			require.Equal(t, c.got.String(), o.log)
		})
	}
}

func TestStopSignalEndsAContainerThatWaits(t *testing.T) {
	t.Parallel()
	f := newFuncd(t, "cat")
	waiting := make(chan struct{})
	f.next = []http.HandlerFunc{func(_ http.ResponseWriter, r *http.Request) {
		close(waiting)
		<-r.Context().Done()
	}}
	r := f.start(func(cfg *Config) { cfg.Stop, cfg.StopAs = unix.SIGWINCH, unix.SIGWINCH })
	<-waiting
	r.signals <- unix.SIGWINCH
	o := r.wait(t)
	require.NoError(t, o.err)
	require.Zero(t, o.status)
	require.Zero(t, f.delivered)
}
