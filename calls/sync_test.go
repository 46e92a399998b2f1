package calls

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// TestWhatIsPromisedIsSynced shows that all streams are files whose writes JetStream syncs before it answers, but for those of events, and that what
// was answered is in the files in that moment. That a disk which was told to sync has done so can't be shown without cutting its power.
func TestWhatIsPromisedIsSynced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, Config{Dir: dir})
	require.True(t, s.server.JetStreamConfig().SyncAlways)
	require.NoError(t, s.Enqueue(t.Context(), newCall("f", 1)))
	_, err := s.storeRecord(t.Context(), newRecord(2, api.Finished), 0)
	require.NoError(t, err)
	require.NoError(t, s.SaveOutput(t.Context(), "f", newCall("f", 2).ID, []byte("out")))
	_, err = s.SaveKey(t.Context(), "acme", "f", "key", api.CallKey{Call: "c"}, 0)
	require.NoError(t, err)
	require.NoError(t, s.QueueCallback(t.Context(), callback("acme", 2), []byte("out")))
	require.NoError(t, s.Bury(t.Context(), newCall("f", 3), newRecord(3, api.Failed)))

	// The files as a server leaves them that dies now.
	then := t.TempDir()
	require.NoError(t, os.CopyFS(then, os.DirFS(dir)))
	logged(t, s, "f", "a:1")
	names := s.js.StreamNames(t.Context())
	synced := 0
	for name := range names.Name() {
		stream, err := s.js.Stream(t.Context(), name)
		require.NoError(t, err)
		config := stream.CachedInfo().Config
		require.Equal(t, jetstream.FileStorage, config.Storage, name)
		if strings.HasPrefix(name, "LOG_") {
			require.Equal(t, jetstream.AsyncPersistMode, config.PersistMode)
			continue
		}
		require.Equal(t, jetstream.DefaultPersistMode, config.PersistMode, name)
		synced++
	}
	require.NoError(t, names.Err())
	require.Equal(t, 6, synced)
	require.FileExists(t, filepath.Join(then, "jetstream", "$G", "streams", "QUEUE_acme", "msgs", "1.blk"))

	after := openStore(t, Config{Dir: then})
	call, err := after.Queued(t.Context(), "acme", "f", newCall("f", 1).ID)
	require.NoError(t, err)
	require.Equal(t, newCall("f", 1), call)
	rec, _, err := after.Record(t.Context(), newRecord(2, api.Finished).Function, newCall("f", 2).ID)
	require.NoError(t, err)
	require.Equal(t, api.Finished, rec.State)
	output, err := after.Output(t.Context(), "f", newCall("f", 2).ID)
	require.NoError(t, err)
	require.Equal(t, "out", string(output))
	key, _, err := after.Key(t.Context(), "acme", "f", "key")
	require.NoError(t, err)
	require.Equal(t, "c", key.Call)
	require.Equal(t, 1, waitingCallbacks(t, after, "acme"))
	_, _, _, err = after.DeadLetter(t.Context(), "acme", newCall("f", 3).ID)
	require.NoError(t, err)
}
