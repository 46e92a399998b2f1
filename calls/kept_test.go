package calls

import (
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// fetch has a call end and its answer fetched, of a function that keeps such calls for so long.
func fetch(t *testing.T, s *Store, n int, keep time.Duration) api.Record {
	t.Helper()
	enqueue(t, s, "f", n, n+1)
	rec := newRecord(n, api.Failed)
	rec.Options.Keep, rec.Message, rec.ExitCode = keep, "exit status 3", 3
	rec.Started, rec.Ended = rec.Accepted.Add(time.Second), rec.Accepted.Add(2*time.Second)
	_, err := s.SaveRecord(t.Context(), rec, 0)
	require.NoError(t, err)
	require.NoError(t, s.SaveOutput(t.Context(), "f", rec.CallID, []byte("out")))
	require.NoError(t, s.Forget(t.Context(), rec))
	return rec
}

func TestFetchedCallsAreKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, Config{Dir: dir})
	rec := fetch(t, s, 1, time.Hour)
	require.NoError(t, s.Forget(t.Context(), rec), "fetched twice in one moment")
	check := func() {
		require.Equal(t, api.Status{Total: 1, Failed: 1}, status(t, s, "f"))
		require.Equal(t, []string{"1:FAILED:exit status 3"}, listed(t, s, "f"))
		require.NoError(t, s.Calls(t.Context(), "f", "acme", func(c api.CallStatus) error {
			require.True(t, rec.Started.Equal(c.Started.Time))
			require.True(t, rec.Ended.Equal(c.Ended.Time))
			require.WithinDuration(t, time.Now(), c.Fetched.Time, patience)
			require.Equal(t, 3, *c.ExitCode)
			return nil
		}))
		function, _, err := s.FunctionOf(t.Context(), "acme", rec.CallID)
		require.NoError(t, err)
		require.Equal(t, "f", function)
		_, err = s.Output(t.Context(), "f", rec.CallID)
		requireCode(t, api.Expired, err)
		_, err = s.Queued(t.Context(), "acme", "f", rec.CallID)
		requireCode(t, api.NotFound, err)
	}
	check()
	s.Close()
	s = openStore(t, Config{Dir: dir})
	check()
	require.NoError(t, s.RemoveFunction(t.Context(), "f"))
	require.Equal(t, api.Status{}, status(t, s, "f"))
	require.Empty(t, listed(t, s, "f"))
}

func TestKeptCallsGoWithTheirTime(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	fetch(t, s, 1, time.Second)
	fetch(t, s, 2, time.Hour)
	fetch(t, s, 3, 0)
	require.Eventually(t, func() bool {
		return reflect.DeepEqual(api.Status{Total: 1, Failed: 1}, status(t, s, "f")) && reflect.DeepEqual([]string{"2:FAILED:exit status 3"}, listed(t, s, "f"))
	}, patience, 10*time.Millisecond)
	total, _ := s.Totals()
	require.Equal(t, 1, total.Total)
}

func TestKeptCallsAreBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, Config{Dir: dir, KeptCalls: 3})
	status(t, s, "f") // all that is there is known
	enqueue(t, s, "f", 100, 101)
	for n := range 5 {
		fetch(t, s, n, time.Hour-time.Duration(n)*time.Minute) // the later one goes first
	}
	want := []string{"0:FAILED:exit status 3", "1:FAILED:exit status 3", "2:FAILED:exit status 3", "100:PENDING:"}
	require.Equal(t, want, listed(t, s, "f"))
	require.Equal(t, api.Status{Total: 4, Pending: 1, Failed: 3}, status(t, s, "f"))
	s.Close()
	s = openStore(t, Config{Dir: dir, KeptCalls: 2})
	status(t, s, "f")
	fetch(t, s, 6, 2*time.Hour)
	require.Equal(t, []string{want[0], "6:FAILED:exit status 3", want[3]}, listed(t, s, "f"), "a new limit holds from the next one on")
}

func TestKeptCallsAreKnownToAllServers(t *testing.T) {
	t.Parallel()
	stores := openCluster(t, 2)
	a, b := stores[0], stores[1]
	status(t, a, "f")
	status(t, b, "f")
	fetch(t, a, 1, time.Second)
	fetch(t, a, 2, time.Hour)
	require.Eventually(t, func() bool {
		return reflect.DeepEqual(api.Status{Total: 1, Failed: 1}, status(t, b, "f")) && len(listed(t, b, "f")) == 1
	}, patience, 10*time.Millisecond)
}

func TestKeptCallIsNotUnfetchedAgainAfterAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, Config{Dir: dir})
	rec := fetch(t, s, 1, time.Second)
	dropped := fetch(t, s, 2, time.Hour)
	require.NoError(t, s.records.Purge(t.Context(), jetstream.WithPurgeSubject(keptSubject("f", dropped.CallID)))) // as it has made room
	require.Eventually(t, func() bool { return len(listed(t, s, "f")) == 0 }, patience, 10*time.Millisecond)
	for range 2 {
		dir = killed(t, dir)
		again := openStore(t, Config{Dir: dir})
		require.Equal(t, api.Status{}, status(t, again, "f"))
		for _, rec := range []api.Record{rec, dropped} {
			_, _, err := again.Record(t.Context(), "f", rec.CallID)
			requireCode(t, api.NotFound, err)
		}
	}
}

// A server may be killed after it has written that a call was fetched, and before it has removed the rest.
func TestKeptCallWhoseRemovalWasCutOff(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, Config{Dir: dir})
	rec := endCall(t, s, 1)
	rec.Fetched = time.Now()
	require.NoError(t, s.keepFetched(t.Context(), rec))
	again := openStore(t, Config{Dir: killed(t, dir)})
	require.Equal(t, api.Status{Total: 1, Finished: 1}, status(t, again, "f"))
	stored, _, err := again.Record(t.Context(), "f", rec.CallID)
	require.NoError(t, err)
	require.False(t, stored.Fetched.IsZero())
	_, err = again.Output(t.Context(), "f", rec.CallID)
	requireCode(t, api.Expired, err)
}
