package calls

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// killed returns a copy of what a store has on disk now, as it is when funcd is killed.
func killed(t *testing.T, dir string) string {
	t.Helper()
	for {
		copied := t.TempDir()
		err := os.CopyFS(copied, os.DirFS(dir))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a file was given its name meanwhile
		}
		require.NoError(t, err)
		return copied
	}
}

func TestFetchedCallIsNotThereAgainAfterAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, Config{Dir: dir})
	enqueue(t, s, "f", 0, 3)
	deliveries := consume(t, s, 10)
	d, runs, later := next(t, deliveries, 0), next(t, deliveries, 1), next(t, deliveries, 2)
	for _, d := range []*Delivery{d, runs, later} {
		call := d.Call()
		rec := api.Record{CallID: call.ID, Function: "f", Name: "hello", Account: "acme", State: api.Running, Accepted: call.Accepted}
		version, err := s.storeRecord(t.Context(), rec, 0)
		require.NoError(t, err)
		if d == runs {
			continue
		}
		if d == later {
			require.NoError(t, s.Postpone(t.Context(), call, time.Now().Add(time.Hour)))
			rec.State = api.Pending
			_, err = s.SaveRecord(t.Context(), rec, version)
			require.NoError(t, err)
			require.NoError(t, d.Done(t.Context()))
			continue
		}
		rec.State, rec.Ended = api.Finished, time.Now()
		_, err = s.SaveRecord(t.Context(), rec, version)
		require.NoError(t, err)
		require.NoError(t, d.Done(t.Context()))
		require.NoError(t, s.Forget(t.Context(), rec))
	}

	for range 2 { // the record before the last is not there after the second
		dir = killed(t, dir)
		again := openStore(t, Config{Dir: dir})
		status, err := again.Status(t.Context(), "f")
		require.NoError(t, err)
		require.Equal(t, api.Status{Total: 2, Pending: 1, Running: 1}, status)
		_, _, err = again.Record(t.Context(), "f", d.Call().ID)
		requireCode(t, api.NotFound, err)
		for call, state := range map[*api.Call]api.State{runs.Call(): api.Running, later.Call(): api.Pending} {
			rec, _, err := again.Record(t.Context(), "f", call.ID)
			require.NoError(t, err)
			require.Equal(t, state, rec.State)
		}
	}
}

func TestOrphansOnACluster(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	p := openPeer(t, s)
	enqueue(t, s, "f", 0, 1)
	var records []orphan
	for n := range 3 { // the first is of a call
		rec := api.Record{CallID: newCall("f", n).ID, Function: "f", Account: "acme", State: api.Running}
		version, err := p.storeRecord(t.Context(), rec, 0)
		require.NoError(t, err)
		records = append(records, orphan{rec, version, time.Now().Add(-2 * orphanAge)})
	}
	records[2].written = time.Now()
	young, err := p.removeOrphans(t.Context(), records)
	require.NoError(t, err)
	require.True(t, young, "the last may be of a call")
	_, _, err = p.Record(t.Context(), "f", records[1].rec.CallID)
	requireCode(t, api.NotFound, err)
	for _, o := range []orphan{records[0], records[2]} {
		_, _, err = p.Record(t.Context(), "f", o.rec.CallID)
		require.NoError(t, err)
	}
	records[2].written = time.Now().Add(-2 * orphanAge)
	rec := records[2].rec
	rec.Message = "it has changed since it was read"
	_, err = p.SaveRecord(t.Context(), rec, records[2].sequence)
	require.NoError(t, err)
	young, err = p.removeOrphans(t.Context(), records)
	require.NoError(t, err)
	require.False(t, young)
	_, _, err = p.Record(t.Context(), "f", rec.CallID)
	require.NoError(t, err)
}
