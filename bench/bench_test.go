package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSummaryIsOfTheNearestRank(t *testing.T) {
	t.Parallel()
	took := make([]time.Duration, 200)
	for i := range took {
		took[len(took)-1-i] = time.Duration(i+1) * time.Millisecond
	}
	require.Equal(t, Row{Name: "row", Min: 1, Median: 100, P99: 198}, summarize("row", took))
	require.Equal(t, Row{Name: "one", Min: 3, Median: 3, P99: 3}, summarize("one", []time.Duration{3 * time.Millisecond}))
}

func TestTheNewestResultIsComparedWith(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	last, err := readLast(folder)
	require.NoError(t, err)
	require.Equal(t, &Report{}, last)
	old := Report{Version: "0.2.0", Time: time.Unix(1, 0).UTC(), Rows: []Row{{Name: rowCold, Median: 500}}}
	recent := Report{
		Version: "0.1.0", Time: time.Unix(2, 0).UTC(),
		Rows:  []Row{{Name: rowCold, Median: 400}},
		Rates: []Rate{{Name: rateReused, Callers: 4, PerSecond: 900}, {Name: rateReused, Callers: 16, PerSecond: 800}},
		Sizes: []Size{{Name: sizeDefined, Functions: 1, Funcd: 70}, {Name: sizeWaiting, Functions: 1, Waiting: 10, Funcd: 90}},
	}
	require.NoError(t, old.keep(folder))
	require.NoError(t, recent.keep(folder))
	last, err = readLast(folder)
	require.NoError(t, err)
	require.Equal(t, &recent, last)

	var out bytes.Buffer
	now := Report{
		Version: "0.3.0", Noise: 2, Busy: 0.25,
		Rows: []Row{{Name: rowDocker, Median: 200}, {Name: rowDispatch, Median: 1000}, {Name: rowCold, Median: 300, CPU: 12}},
		Rates: []Rate{
			{Name: rateReused, Callers: 16, Count: 10, PerSecond: 1000, Median: 1.5, P99: 9, CPU: 0.25},
			{Name: rateRaw, Callers: quota, Count: 10, PerSecond: 4},
			{Name: rateDrained, Callers: quota, Count: 10, PerSecond: 3.9},
			{Name: rateDrainedReused, Callers: quota, Count: 10, PerSecond: 40},
		},
		Sizes: []Size{{Name: sizeWaiting, Functions: 1, Waiting: 10, Funcd: 95, Nomad: 100, Consul: 60}},
	}
	now.print(&out, last)
	text := out.String()
	require.Regexp(t, rowCold+` +0\.0 +300\.0 +0\.0 +1\.500 +0\.300 +12\.00 +400\.0 \(0\.1\.0\)`, text)
	require.Regexp(t, rateReused+` +16 +10 +1000 +1\.50 +9\.0 +0\.25 +- +- +800 \(0\.1\.0\)`, text)
	require.Contains(t, text, "drained against raw: 0.97; in reused containers: 10.00\n")
	require.Regexp(t, sizeWaiting+` +1 +10 +95 +100 +60 +- +- +- +- +90 \(0\.1\.0\)`, text)
	require.Contains(t, text, "The machine is noisy")
	require.Contains(t, text, "Other programs used 25% of the machine")

	out.Reset()
	(&Report{Rates: now.Rates[:1]}).print(&out, &Report{})
	require.NotContains(t, out.String(), "docker")
	require.NotContains(t, out.String(), "raw")
	require.NotContains(t, out.String(), "machine")
}

func TestRowsAreChosen(t *testing.T) {
	t.Parallel()
	o, err := parse(nil)
	require.NoError(t, err)
	require.True(t, o.wants("cold"))
	o, err = parse([]string{"-rows", "cold,waiting", "-rounds", "3"})
	require.NoError(t, err)
	require.True(t, o.wants("cold"))
	require.True(t, o.wants("accepted", "waiting"))
	require.False(t, o.wants("accepted"))
	require.Equal(t, 3, o.rounds)
	for _, args := range [][]string{{"-rows", "cold,cool"}, {"-rounds", "0"}, {"-drained", "0"}, {"cold"}} {
		_, err = parse(args)
		require.Error(t, err, args)
	}
}

func TestProcessesAreMeasured(t *testing.T) {
	t.Parallel()
	self := process(os.Getpid())
	before, err := self.cpu()
	require.NoError(t, err)
	var work noise
	for range 5 {
		work.probe()
	}
	after, err := self.cpu()
	require.NoError(t, err)
	require.Greater(t, after, before)
	_, err = self.cpuWithChildren()
	require.NoError(t, err)
	memory, err := self.memory()
	require.NoError(t, err)
	require.Greater(t, memory, 1.0)

	cmd := exec.Command("sleep", "1000")
	require.NoError(t, cmd.Start())
	pid, err := child(self, "sleep")
	require.NoError(t, err)
	require.Equal(t, process(cmd.Process.Pid), pid)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	_, err = pid.cpu()
	require.Error(t, err)
	_, err = pid.memory()
	require.Error(t, err)
	_, err = child(self, "sleep")
	require.Error(t, err)

	share, err := busy(work.probe)
	require.NoError(t, err)
	require.True(t, share >= 0 && share <= 1, share)
}

func TestManyStopAtTheFirstError(t *testing.T) {
	t.Parallel()
	var done atomic.Int64
	require.NoError(t, many(t.Context(), 4, 100, func(_ context.Context, i int) error { done.Add(int64(i)); return nil }))
	require.EqualValues(t, 99*100/2, done.Load())

	failure := errors.New("no more")
	done.Store(0)
	err := many(t.Context(), 4, 100_000, func(_ context.Context, i int) error {
		if done.Add(1) == 10 {
			return failure
		}
		return nil
	})
	require.Equal(t, failure, err)
	require.Less(t, done.Load(), int64(100_000))
}
