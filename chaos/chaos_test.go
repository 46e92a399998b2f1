package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if natsMain() {
		return
	}
	goleak.VerifyTestMain(m)
}

func TestScheduleFollowsFromItsSeed(t *testing.T) {
	t.Parallel()
	cfg := config{seed: 7, faults: 50, servers: 1, gap: time.Second}
	plan, err := schedule(cfg)
	require.NoError(t, err)
	again, err := schedule(cfg)
	require.NoError(t, err)
	require.Equal(t, plan, again)
	cfg.seed = 8
	other, err := schedule(cfg)
	require.NoError(t, err)
	require.NotEqual(t, plan, other)

	counts := map[string]int{}
	long := 0
	for _, f := range plan {
		counts[f.kind]++
		require.Positive(t, f.down)
		require.Less(t, f.gap, 2*cfg.gap)
		if f.down > 10*time.Second {
			long++
		}
	}
	require.Len(t, counts, 13)
	for kind, n := range counts {
		require.Equal(t, 50, n, kind)
	}
	require.NotContains(t, counts, "kill nats")
	require.InDelta(t, len(plan)/10, long, float64(len(plan))/20, "some outlast leases and heartbeats")

	cfg.servers = 2
	plan, err = schedule(cfg)
	require.NoError(t, err)
	require.Len(t, plan, 15*50)
	cfg.only = "^kill (funcd|nats)$"
	plan, err = schedule(cfg)
	require.NoError(t, err)
	require.Len(t, plan, 2*50)
	cfg.only = "("
	_, err = schedule(cfg)
	require.Error(t, err)
}

func TestAudit(t *testing.T) {
	t.Parallel()
	one := entry{starts: 1, wrote: []string{"text"}}
	for name, c := range map[string]struct {
		call    call
		journal entry
		want    string // in the violation; empty for none
	}{
		"finished":                        {call{state: finished, output: "text"}, one, ""},
		"finished, with another's output": {call{state: finished, output: "other"}, one, `its output is "other"`},
		"finished, without its output":    {call{state: finished}, one, `its output is ""`},
		"finished, never started":         {call{state: finished, output: "text"}, entry{}, "was never started"},
		"finished, started twice":         {call{state: finished, output: "text"}, entry{starts: 2, wrote: []string{"text"}}, "started 2 times"},
		"finished, written twice":         {call{state: finished, output: "text"}, entry{starts: 1, wrote: []string{"text", "more"}}, "its output is"},
		"failed with its node":            {call{state: failed, message: "node lost: client is down or can't be reached"}, entry{starts: 1}, ""},
		"failed with its container":       {call{state: failed, message: "the container was killed by signal 9"}, entry{}, ""},
		"failed by itself":                {call{state: failed, message: "exit status 1"}, entry{starts: 1}, "can't be true: exit status 1"},
		"failed for want of a container":  {call{state: failed, message: "the container can't be started: x"}, entry{}, "can't be true"},
		"failed, started twice":           {call{state: failed, message: "node lost: x"}, entry{starts: 2}, "started 2 times"},
		"refused":                         {call{state: refused}, entry{}, ""},
		"refused, and started":            {call{state: refused}, one, "was refused and has started"},
		"cancelled":                       {call{state: failed, message: "cancelled", cancel: cancel{asked: true, done: true}}, entry{starts: 1}, ""},
		"cancelled by nobody":             {call{state: failed, message: "cancelled"}, entry{}, "can't be true: cancelled"},
		"cancelled, finished":             {call{state: finished, output: "text", cancel: cancel{asked: true, done: true}}, one, "it was cancelled, and is finished"},
		"cancelled too late":              {call{state: finished, output: "text", cancel: cancel{asked: true}}, one, ""},
		"one key, one call":               {call{state: finished, output: "text", ids: []string{"a", "a"}}, one, ""},
		"one key, two calls":              {call{state: finished, output: "text", ids: []string{"a", "b"}}, one, "another call, too: b"},
		"retried":                         {call{function: "retried", state: finished, output: "text"}, entry{starts: 3, wrote: []string{"lost", "text"}}, ""},
		"retried, with another's output":  {call{function: "retried", state: finished, output: "text"}, entry{starts: 2, wrote: []string{"lost"}}, "its output is"},
		"retried too often":               {call{function: "retried", state: failed, message: "exit status 1", fails: 3}, entry{starts: 4}, "started 4 times"},
		"failed as it was told to":        {call{function: "retried", state: failed, message: "exit status 1", fails: 3}, entry{starts: 3}, ""},
		"unknown":                         {call{state: unknown}, one, ""},
		"unknown, started twice":          {call{state: unknown}, entry{starts: 3}, "started 3 times"},
		"gone":                            {call{state: gone}, one, "is not known any more"},
		"pending":                         {call{state: pending, ids: []string{"id"}}, entry{}, "has not ended"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.call.n = 5
			v := audit([]call{c.call}, map[int]entry{5: c.journal, 6: {starts: 9}})
			require.Equal(t, 1, v.calls[c.call.state])
			if c.want == "" {
				require.Empty(t, v.violations)
				return
			}
			require.Len(t, v.violations, 1)
			require.Contains(t, v.violations[0], "call 5")
			require.Contains(t, v.violations[0], c.want)
		})
	}
}

func TestVerdictIsPrinted(t *testing.T) {
	t.Parallel()
	v := audit([]call{
		{state: finished, output: "x", took: 1500 * time.Millisecond},
		{n: 1, state: failed, message: "node lost: 0123456789abcdef"},
		{n: 2, state: unknown, message: "EOF"},
	}, map[int]entry{0: {1, []string{"x"}}, 1: {starts: 1}, 2: {}})
	v.again = 1
	v.faults = map[string]int{"kill funcd": 3}
	var out strings.Builder
	v.print(&out)
	for _, want := range []string{"   3  kill funcd\n", "calls: 3, of which 2 were started; the longest took 2s\n", "   1  finished\n", "of them 1 were started again after a failure, and 0 were asked for again with their key\n",
		"failed because\n     1  node lost: …\n", "unknown because\n     1  EOF\n", "violations: 0\n"} {
		require.Contains(t, out.String(), want)
	}
}

func TestParseJournal(t *testing.T) {
	t.Parallel()
	require.Equal(t, map[int]entry{1: {2, []string{"text"}}, 2: {starts: 1}, 3: {}, 4: {1, []string{"te"}}},
		parseJournal([]byte("start 1\nwrote 1 text\nstart 2\nwrote 3\nnonsense\nstart x\n\nstart 1\nstart 4\nwrote 4 te")))
}

func TestProcessIsKeptRunning(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	prepared := 0
	p := &process{name: "p", args: []string{"sh", "-c", "echo started; exec sleep 600"}, log: log, prepare: func() { prepared++ }}
	require.NoError(t, p.start())
	require.NoError(t, p.start(), "it runs already")
	first := p.pid()
	require.NoError(t, p.signal(syscall.SIGSTOP))
	require.NoError(t, p.signal(syscall.SIGCONT))
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	require.Eventually(t, func() bool { return p.pid() != first }, 30*time.Second, time.Millisecond, "it is started again")
	require.NoError(t, p.end(syscall.SIGKILL, time.Minute))
	second := p.pid()
	require.NoError(t, p.start())
	require.NotEqual(t, second, p.pid())
	require.NoError(t, p.end(syscall.SIGTERM, time.Minute))
	require.Equal(t, 3, prepared)

	p = &process{name: "stubborn", args: []string{"sh", "-c", `trap "" TERM; sleep 600 & echo ready; wait; wait`}, log: log}
	require.NoError(t, p.start())
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(text), "ready")
	}, 30*time.Second, time.Millisecond)
	for _, child := range childrenOf(p.pid()) {
		t.Cleanup(func() { _ = syscall.Kill(child, syscall.SIGKILL) })
	}
	require.ErrorContains(t, p.end(syscall.SIGTERM, time.Millisecond), "stubborn did not end within 1ms after terminated")

	require.Error(t, (&process{name: "none", args: []string{"/none"}, log: log}).start())
}

func TestBalancerFindsAServerThatRuns(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	dead, err := freePorts(1)
	require.NoError(t, err)
	b, err := newBalancer([]string{dead[0], port})
	require.NoError(t, err)
	for range 3 {
		conn, err := net.Dial("tcp", b.address())
		require.NoError(t, err)
		_, err = io.WriteString(conn, "hello")
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		back, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Equal(t, "hello", string(back))
		require.NoError(t, conn.Close())
	}
	b.stop()
}

func TestDispatchToken(t *testing.T) {
	t.Parallel()
	const call = "0b9c8a52-6a0b-4a52-9f6f-0d3f1c1e7a10"
	for job, want := range map[string]string{
		"func-chaos-cold/dispatch-" + call + "-1795300000-0a1b2c3d":      call,
		"func-chaos-cold/dispatch-" + call + "-2-1795300000-0a1b2c3d":    call + "-2",
		"func-chaos-cold/dispatch-slot-" + call + "-1795300000-0a1b2c3d": "",
	} {
		got := ""
		if match := dispatchToken.FindStringSubmatch(job); match != nil {
			got = match[1]
		}
		require.Equal(t, want, got, job)
	}
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	series := func(quarters ...float64) []float64 {
		var values []float64
		for _, q := range quarters {
			values = append(values, q*0.9, q, q, q*1.1)
		}
		return values
	}
	of := func(memory, goroutines []float64) samples {
		return samples{"process_resident_memory_bytes": memory, "go_goroutines": goroutines, "process_open_fds": series(50, 50, 50, 50)}
	}
	const mb = 1 << 20
	for name, c := range map[string]struct {
		s    samples
		want int
	}{
		"flat":                  {of(series(60*mb, 80*mb, 80*mb, 81*mb), series(100, 100, 100, 100)), 0},
		"it settles":            {of(series(60*mb, 90*mb, 120*mb, 122*mb), series(100, 200, 300, 305)), 0},
		"memory grows":          {of(series(60*mb, 80*mb, 100*mb, 120*mb), series(100, 100, 100, 100)), 1},
		"goroutines grow":       {of(series(60*mb, 80*mb, 80*mb, 80*mb), series(100, 120, 140, 160)), 1},
		"too short to be known": {of(nil, nil), 1},
	} {
		var out strings.Builder
		require.Len(t, growth(&out, "funcd-1", c.s), c.want, "%s: %s", name, &out)
	}
	require.Equal(t, map[string]float64{"a": 1, `b{x="y"}`: 2.5e6}, parseMetrics(strings.NewReader("# HELP a b\na 1\nb{x=\"y\"} 2.5e+06\nnonsense\n")))
}
