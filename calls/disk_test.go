package calls

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

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

// The disk may be full again in that moment.
func TestAStoreThatCouldNotBeOpenedAgainIsLater(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, Config{Dir: dir})
	enqueue(t, s, "f", 0, 1)
	require.NoError(t, os.Rename(dir, dir+".away"))
	require.NoError(t, os.WriteFile(dir, nil, 0o600)) // nothing can be made in it
	closed := s.mend("write error")
	require.NotEmpty(t, closed)
	require.NoError(t, os.Remove(dir))
	require.NoError(t, os.Rename(dir+".away", dir))
	require.Empty(t, s.mend(closed))
	require.Eventually(t, func() bool { return s.Ping(t.Context()) == nil }, patience, time.Millisecond)
	next(t, consume(t, s, 1), 0)
}
