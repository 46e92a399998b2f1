package calls

import (
	"errors"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestCallsLeaveRoomOnTheDisk(t *testing.T) {
	t.Parallel()
	free, failure := int64(1000), error(nil)
	d := &disk{reserve: 900, available: func(string) (int64, error) { return free, failure }}
	require.NoError(t, d.room())
	first, err := d.take(60)
	require.NoError(t, err)
	_, err = d.take(60)
	requireCode(t, api.Unavailable, err)
	require.Equal(t, "the disk of the server is full, try again later", api.MessageOf(err))
	second, err := d.take(40)
	require.NoError(t, err, "what was refused takes no room")
	first()
	second()
	free = 899
	requireCode(t, api.Unavailable, d.room())
	s := &Store{}
	s.disk.reserve, s.disk.available = d.reserve, d.available
	requireCode(t, api.Unavailable, s.Room())
	require.NoError(t, s.ResultRoom())
	free = 449
	requireCode(t, api.Unavailable, s.ResultRoom())
	failure = errors.New("no such disk")
	requireCode(t, api.Unavailable, d.room())
	d.reserve = 0
	require.NoError(t, d.room(), "nobody asks")

	s = openStore(t, Config{DiskFree: 1 << 60})
	err = s.Enqueue(t.Context(), newCall("f", 1))
	requireCode(t, api.Unavailable, err)
	require.Equal(t, "the disk of the server is full, try again later", api.MessageOf(err))
	_, err = s.Queued(t.Context(), "acme", "f", newCall("f", 1).ID)
	requireCode(t, api.NotFound, err)
	_, err = s.storeRecord(t.Context(), newRecord(1, api.Finished), 0)
	require.NoError(t, err, "what is known of calls is stored all the same")
}

func TestOnlyAWriteErrorOpensTheStoreAgain(t *testing.T) {
	t.Parallel()
	health := &server.HealthStatus{Errors: []server.HealthzError{{Error: "JetStream stream 'a > b' could not be recovered"}}}
	require.Empty(t, writeError(health), "it is being made")
	health.Errors = append(health.Errors, server.HealthzError{Error: "JetStream stream 'a > c' write error: no space left on device"})
	require.Contains(t, writeError(health), "'a > c'")
}

func TestAStoreIsOpenedAgainAfterItCouldNotBe(t *testing.T) {
	t.Parallel()
	free, unwritten, opened, failure := int64(1000), "", 0, error(nil)
	d := &disk{reserve: 900, available: func(string) (int64, error) { return free, nil }}
	mend := func() (string, error) {
		return d.mend(func() string { return unwritten }, func() error {
			opened++
			return failure
		})
	}
	requireMended := func(times int, why string) {
		t.Helper()
		got, err := mend()
		require.NoError(t, err)
		require.Equal(t, why, got)
		require.Equal(t, times, opened)
	}
	requireMended(0, "")
	d.troubled.Store(true) // by another error
	requireMended(0, "")
	unwritten = "write error"
	requireMended(0, "") // nobody has said so
	free = 100
	d.troubled.Store(true)
	requireMended(0, "")
	free = 1000
	failure = errors.New("full again")
	_, err := mend()
	require.ErrorIs(t, err, failure)
	unwritten, failure = "", nil // what is half open has no streams
	requireMended(2, "full again")
	d.troubled.Store(true)
	requireMended(2, "")
}
