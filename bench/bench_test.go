package main

import (
	"bytes"
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
	require.Nil(t, last)
	old := Report{Version: "0.2.0", Time: time.Unix(1, 0).UTC(), Rows: []Row{{Name: rowCold, Median: 500}}}
	recent := Report{Version: "0.1.0", Time: time.Unix(2, 0).UTC(), Rows: []Row{{Name: rowCold, Median: 400}}}
	require.NoError(t, old.keep(folder))
	require.NoError(t, recent.keep(folder))
	last, err = readLast(folder)
	require.NoError(t, err)
	require.Equal(t, &recent, last)

	var out bytes.Buffer
	now := Report{Version: "0.3.0", Noise: 2, Rows: []Row{
		{Name: rowDocker, Median: 200}, {Name: rowDispatch, Median: 1000}, {Name: rowCold, Median: 300},
	}}
	now.print(&out, last)
	require.Regexp(t, rowCold+` +0\.0 +300\.0 +0\.0 +1\.50 +0\.30 +400\.0 \(0\.1\.0\)`, out.String())
	require.Contains(t, out.String(), "The machine is noisy")
}
