package calls

import (
	"context"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
)

// A stream whose file could not be written refuses all that comes, also when there is room again, until JetStream is started anew; and what it refuses
// may be the result of a call that was accepted. So new calls are refused while the disk still has room for the results of those that are there, and what is
// queued waits while it has half of that: results may be larger than payloads. If others fill it up all the same, JetStream is started again as soon as they have left room.

// maxStore is what JetStream may take, in bytes: all. Its own bound, three quarters of what is free when it starts, would refuse results as it does calls.
const maxStore = 1 << 60

// disk watches the room of the embedded server's disk.
type disk struct {
	dir       string
	reserve   int64        // bytes that new calls leave free; 0 for none
	coming    atomic.Int64 // bytes of calls that are being written
	troubled  atomic.Bool  // the embedded server has told of an error since it was last looked at
	closed    string       // why the store could not be opened the last time
	available func(dir string) (int64, error)
}

// Room tells whether the disk has room for another call. The error is of code Unavailable. What a NATS cluster has is its own matter.
func (s *Store) Room() error { return s.disk.room() }

// ResultRoom tells whether the disk has room for what calls that are started now will leave: half of what new calls leave free. The error is of
// code Unavailable.
func (s *Store) ResultRoom() error {
	return s.disk.free(s.disk.reserve/2, "the disk of the server is full")
}

func (d *disk) room() error {
	return d.free(d.reserve, "the disk of the server is full, try again later")
}

// free tells whether so many bytes are free, and more than the calls that are coming take. With 0 nobody looks. The
// error says full.
func (d *disk) free(bytes int64, full string) error {
	if bytes == 0 {
		return nil
	}
	free, err := d.available(d.dir)
	if err != nil {
		return unavailable(err)
	}
	if free-d.coming.Load() < bytes {
		return &api.Error{Code: api.Unavailable, Message: full}
	}
	return nil
}

// take is room for a call of so many bytes, which are counted until release is called.
func (d *disk) take(bytes int) (release func(), err error) {
	d.coming.Add(int64(bytes))
	release = func() { d.coming.Add(-int64(bytes)) }
	if err := d.room(); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// available returns how many bytes may be written to the disk that holds dir.
func available(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, err
	}
	return int64(fs.Bavail) * int64(fs.Bsize), nil
}

// lookPeriod is how often it is looked for streams that can't be written any more, once there was an error.
const lookPeriod = time.Second

// watchDisk starts JetStream again after a stream could not be written and there is room, until ctx ends.
func (s *Store) watchDisk(ctx context.Context) {
	tick := time.NewTicker(lookPeriod)
	defer tick.Stop()
	failed := func() string { return writeError(s.server.Healthz(&server.HealthzOptions{Details: true})) }
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		switch why, err := s.disk.mend(failed, s.reopen); {
		case err != nil:
			s.log.Error("the store of calls is not open", "error", err)
		case why != "":
			s.log.Warn("the store of calls was opened again, as it could not be written", "error", why)
		}
	}
}

// mend has the store opened again if there was an error, a stream could not be written, as failed tells, and there is room. It returns why it was, empty if it was not.
// One that could not be opened the last time is half open, and says nothing of its streams: that is tried again.
func (d *disk) mend(failed func() string, reopen func() error) (why string, err error) {
	if !d.troubled.Swap(false) {
		return "", nil
	}
	if why = d.closed; why == "" {
		why = failed()
	}
	if why == "" {
		return "", nil
	}
	if d.room() != nil {
		d.troubled.Store(true)
		return "", nil
	}
	if err := reopen(); err != nil {
		d.troubled.Store(true)
		d.closed = err.Error()
		return "", err
	}
	d.closed = ""
	return why, nil
}

// writeError returns why a stream could not be written, and nothing if each can be. A stream that is being made or removed is unhealthy in another way.
func writeError(health *server.HealthStatus) string {
	for _, e := range health.Errors {
		if strings.Contains(e.Error, "write error") {
			return e.Error
		}
	}
	return ""
}

// reopen starts JetStream again within the embedded server. Whoever asks it for something meanwhile hears that it does not answer.
func (s *Store) reopen() error {
	if err := s.server.ShutdownJetStream(); err != nil {
		return err
	}
	if err := s.server.EnableJetStream(&server.JetStreamConfig{StoreDir: filepath.Clean(s.cfg.Dir), MaxStore: maxStore}); err != nil {
		return err
	}
	return s.nc.ForceReconnect() // those who consume ask for more at once
}
