package calls

import (
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// openCluster opens the stores of n funcd servers on a NATS server of the test's own, as with Config.URL.
func openCluster(t *testing.T, n int) []*Store {
	t.Helper()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), MaxPayload: maxMessage,
	})
	require.NoError(t, err)
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	require.True(t, srv.ReadyForConnections(patience))
	stores := make([]*Store, n)
	for i := range stores {
		stores[i], err = Open(t.Context(), Config{URL: srv.ClientURL(), Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		t.Cleanup(stores[i].Close)
	}
	return stores
}

func status(t *testing.T, s *Store, function string) api.Status {
	t.Helper()
	got, err := s.Status(t.Context(), function)
	require.NoError(t, err)
	return got
}

// listed is what Calls tells: "number:STATE:message" of each call of newCall.
func listed(t *testing.T, s *Store, function string) []string {
	t.Helper()
	list := []string{}
	require.NoError(t, s.Calls(t.Context(), function, "acme", func(c api.CallStatus) error {
		var n int
		_, err := fmt.Sscanf(c.CallID, "00000000-0000-4000-8000-%d", &n)
		require.NoError(t, err)
		require.True(t, newCall(function, n).Accepted.Equal(c.Created.Time), "%s was accepted at %s", c.CallID, c.Created)
		list = append(list, fmt.Sprintf("%d:%s:%s", n, c.Status, c.Message))
		return nil
	}))
	return list
}

func save(t *testing.T, s *Store, n int, state api.State, message string, version uint64) uint64 {
	t.Helper()
	rec := newRecord(n, state)
	rec.Message = message
	version, err := s.SaveRecord(t.Context(), rec, version)
	require.NoError(t, err)
	return version
}

// TestStatusFollowsACall goes through all that can happen to calls, with what is told of them after each step, now and after a restart.
func TestStatusFollowsACall(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Dir: t.TempDir()})
	require.Equal(t, api.Status{}, status(t, s, "f"))
	require.Empty(t, listed(t, s, "f"))

	enqueue(t, s, "f", 0, 6)
	other := newCall("g", 99)
	require.NoError(t, s.Enqueue(t.Context(), other))
	require.Equal(t, api.Status{Total: 6, Pending: 6}, status(t, s, "f"))
	require.Equal(t, []string{"0:PENDING:", "1:PENDING:", "2:PENDING:", "3:PENDING:", "4:PENDING:", "5:PENDING:"}, listed(t, s, "f"))

	deliveries := consume(t, s, 10)
	var taken []*Delivery
	for i := range 6 {
		taken = append(taken, next(t, deliveries, i))
	}
	pending := save(t, s, 0, api.Pending, "no place", 0)
	require.Equal(t, api.Status{Total: 6, Pending: 6}, status(t, s, "f"))
	running := save(t, s, 1, api.Running, "", 0)
	third := save(t, s, 2, api.Running, "", 0)
	require.Equal(t, api.Status{Total: 6, Pending: 4, Running: 2}, status(t, s, "f"))
	require.Equal(t, []string{"0:PENDING:no place", "1:RUNNING:", "2:RUNNING:", "3:PENDING:", "4:PENDING:", "5:PENDING:"}, listed(t, s, "f"))

	save(t, s, 1, api.Finished, "", running)
	save(t, s, 2, api.Failed, "exit status 3", third)
	require.NoError(t, taken[1].Done(t.Context()))
	require.NoError(t, taken[2].Done(t.Context()))
	save(t, s, 0, api.Running, "", pending)
	want := api.Status{Total: 6, Pending: 3, Running: 1, Finished: 1, Failed: 1}
	require.Equal(t, want, status(t, s, "f"))
	require.Equal(t, api.Status{Total: 1, Pending: 1}, status(t, s, "g"))
	list := []string{"1:FINISHED:", "2:FAILED:exit status 3", "0:RUNNING:", "3:PENDING:", "4:PENDING:", "5:PENDING:"}
	require.Equal(t, list, listed(t, s, "f"))

	// A call that left the queue without a record is no more.
	require.NoError(t, taken[5].Done(t.Context()))
	want.Total, want.Pending = 5, 2
	list = list[:5]
	require.Equal(t, want, status(t, s, "f"))

	s.Close()
	s = openStore(t, Config{Dir: s.cfg.Dir})
	require.Equal(t, want, status(t, s, "f"), "after a restart")
	// When the calls in the queue were accepted is not read from the streams.
	require.ElementsMatch(t, list, listed(t, s, "f"))
	require.Equal(t, list, listed(t, s, "f"), "it is known now")

	require.NoError(t, s.Forget(t.Context(), newRecord(1, api.Finished)))
	require.NoError(t, s.Forget(t.Context(), newRecord(2, api.Failed)))
	require.NoError(t, s.Forget(t.Context(), newRecord(2, api.Failed)), "again")
	require.Equal(t, api.Status{Total: 3, Pending: 2, Running: 1}, status(t, s, "f"))
	require.Equal(t, list[2:], listed(t, s, "f"))

	require.NoError(t, s.RemoveFunction(t.Context(), "f"))
	require.Equal(t, api.Status{}, status(t, s, "f"))
	require.Equal(t, api.Status{Total: 1, Pending: 1}, status(t, s, "g"), "others stay")
}

func TestCancelledCallsAreCountedUntilTheyAreFetched(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Dir: t.TempDir()})
	enqueue(t, s, "f", 0, 2)
	rec := newRecord(0, api.Failed)
	rec.Code, rec.Message = api.Cancelled, "cancelled"
	_, err := s.SaveRecord(t.Context(), rec, 0)
	require.NoError(t, err)
	require.NoError(t, s.Withdraw(t.Context(), "acme", "f", rec.CallID))
	require.Equal(t, api.Status{Total: 2, Pending: 1, Failed: 1}, status(t, s, "f"))
	require.Equal(t, []string{"0:FAILED:cancelled", "1:PENDING:"}, listed(t, s, "f"))

	// Its record stays for a while, but not for those who call.
	require.NoError(t, s.Forget(t.Context(), rec))
	for range 2 {
		require.Equal(t, api.Status{Total: 1, Pending: 1}, status(t, s, "f"))
		require.Equal(t, []string{"1:PENDING:"}, listed(t, s, "f"))
		s.Close()
		s = openStore(t, Config{Dir: s.cfg.Dir})
	}
}

func TestRefusedCallIsNotCounted(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{QueueCalls: 2})
	enqueue(t, s, "f", 0, 2)
	requireCode(t, api.Unavailable, s.Enqueue(t.Context(), newCall("f", 2)))
	require.Equal(t, api.Status{Total: 2, Pending: 2}, status(t, s, "f"))
}

func TestAChangeThatComesLateIsNone(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	enqueue(t, s, "f", 0, 1)
	save(t, s, 0, api.Finished, "", 0)
	require.NoError(t, s.Forget(t.Context(), newRecord(0, api.Finished)))
	// Whoever has written the record may hear of it after another one has read and removed it.
	s.recorded(newRecord(0, api.Finished))
	require.Equal(t, api.Status{}, status(t, s, "f"))
}

func TestStatusIsThatOfAllServers(t *testing.T) {
	t.Parallel()
	stores := openCluster(t, 3)
	require.Equal(t, api.Status{}, status(t, stores[2], "f"), "it has read the streams, and follows them from here on")
	require.Equal(t, api.Status{}, status(t, stores[1], "f"))
	a, b := stores[0], stores[1]
	enqueue(t, a, "f", 0, 4)
	deliveries := consume(t, b, 10)
	for i := range 3 {
		d := next(t, deliveries, i)
		version := save(t, b, i, api.Running, "", 0)
		if i > 0 {
			save(t, a, i, api.Finished, "", version) // whichever server the container reports to
			require.NoError(t, d.Done(t.Context()))
		}
	}
	require.NoError(t, a.Forget(t.Context(), newRecord(2, api.Finished)))
	want := api.Status{Total: 3, Pending: 1, Running: 1, Finished: 1}
	for i, s := range stores {
		require.Eventually(t, func() bool { return reflect.DeepEqual(want, status(t, s, "f")) }, patience, time.Millisecond, "server %d", i)
		require.Equal(t, []string{"0:RUNNING:", "1:FINISHED:", "3:PENDING:"}, slices.Sorted(slices.Values(listed(t, s, "f"))))
	}
	// One that begins later reads it.
	late, err := Open(t.Context(), Config{URL: a.cfg.URL, Logger: a.log})
	require.NoError(t, err)
	defer late.Close()
	require.Equal(t, want, status(t, late, "f"))
}

// TestALostMessageIsMadeUpFor: whatever a server has heard, or not, it knows what the streams hold when it has read them again.
func TestALostMessageIsMadeUpFor(t *testing.T) {
	t.Parallel()
	stores := openCluster(t, 2)
	a, b := stores[0], stores[1]
	require.Equal(t, api.Status{}, status(t, b, "f"))
	enqueue(t, a, "f", 0, 3)
	save(t, a, 0, api.Failed, "", 0)
	known := api.Status{Total: 3, Pending: 2, Failed: 1}
	require.Eventually(t, func() bool { return reflect.DeepEqual(known, status(t, b, "f")) }, patience, time.Millisecond)
	for _, wrong := range []change{
		{Kind: callQueued, Function: "f", Call: newCall("f", 7).ID},
		{Kind: callRecorded, Function: "f", Call: newCall("f", 1).ID, State: api.Running},
		{Kind: callGone, Function: "f", Call: newCall("f", 2).ID},
	} {
		require.True(t, b.states.apply(wrong))
	}
	require.Equal(t, api.Status{Total: 3, Pending: 1, Running: 1, Failed: 1}, status(t, b, "f"))
	_, err := b.readStates(t.Context())
	require.NoError(t, err)
	require.Equal(t, known, status(t, b, "f"))
}

// TestWhatHappensWhileTheStreamsAreRead: what they tell then may be older.
func TestWhatHappensWhileTheStreamsAreRead(t *testing.T) {
	t.Parallel()
	id := func(n int) string { return newCall("f", n).ID }
	for name, c := range map[string]struct {
		happens []change
		found   []change
		want    api.Status
	}{
		"nothing": {nil, []change{{Kind: callQueued}, {Kind: callRecorded, State: api.Running}}, api.Status{Total: 1, Running: 1}},
		"it is found first as running, then in the queue": {nil, []change{{Kind: callRecorded, State: api.Running}, {Kind: callQueued}}, api.Status{Total: 1, Running: 1}},
		"it ends":              {[]change{{Kind: callRecorded, State: api.Finished}, {Kind: callLeft}}, []change{{Kind: callRecorded, State: api.Running}, {Kind: callQueued}}, api.Status{Total: 1, Finished: 1}},
		"it is fetched":        {[]change{{Kind: callGone}}, []change{{Kind: callRecorded, State: api.Finished}}, api.Status{}},
		"it ends, and is":      {[]change{{Kind: callRecorded, State: api.Failed}, {Kind: callLeft}, {Kind: callGone}}, []change{{Kind: callRecorded, State: api.Running}, {Kind: callQueued}}, api.Status{}},
		"it leaves the queue":  {[]change{{Kind: callLeft}}, []change{{Kind: callQueued}}, api.Status{}},
		"it comes":             {[]change{{Kind: callQueued}}, []change{{Kind: callQueued}}, api.Status{Total: 1, Pending: 1}},
		"its function is gone": {[]change{{Kind: functionGone}}, []change{{Kind: callRecorded, State: api.Finished}, {Kind: callQueued}}, api.Status{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStates()
			table := s.begin()
			for _, h := range c.happens {
				h.Function, h.Call = "f", id(1)
				s.apply(h)
			}
			for _, f := range c.found {
				f.Function, f.Call = "f", id(1)
				s.found(table, f)
			}
			s.end(table)
			<-s.read
			require.Equal(t, c.want, s.status("f"))
		})
	}
}

func TestListingLeavesNothingInJetStream(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	enqueue(t, s, "f", 0, 3)
	for i := range 3 {
		save(t, s, i, api.Running, "", 0)
	}
	require.Len(t, listed(t, s, "f"), 3)
	require.ErrorIs(t, s.Calls(t.Context(), "f", "acme", func(api.CallStatus) error { return canceled(t).Err() }), canceled(t).Err())
	info, err := s.records.Info(t.Context())
	require.NoError(t, err)
	require.Zero(t, info.State.Consumers)
}

func TestRunningCalls(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	running := func() []string {
		calls, err := s.Running(t.Context(), "f")
		require.NoError(t, err)
		slices.Sort(calls)
		return calls
	}
	require.Empty(t, running())
	enqueue(t, s, "f", 0, 4)
	rec := newRecord(1, api.Running)
	version, err := s.SaveRecord(t.Context(), rec, 0)
	require.NoError(t, err)
	_, err = s.SaveRecord(t.Context(), newRecord(2, api.Running), 0)
	require.NoError(t, err)
	_, err = s.SaveRecord(t.Context(), newRecord(3, api.Failed), 0)
	require.NoError(t, err)
	require.Equal(t, []string{newCall("f", 1).ID, newCall("f", 2).ID}, running())
	rec.State = api.Finished
	_, err = s.SaveRecord(t.Context(), rec, version)
	require.NoError(t, err)
	require.Equal(t, []string{newCall("f", 2).ID}, running())
	_, err = s.Running(t.Context(), "*")
	require.Equal(t, api.Invalid, api.CodeOf(err))
}
