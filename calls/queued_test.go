package calls

import (
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// BenchmarkQueued measures the memory of 100,000 calls that wait in the queue, with the events that came with them, and what it is once a
// server that starts has read them back from its disk.
func BenchmarkQueued(b *testing.B) {
	const queued, callers = 100_000, 16
	for _, size := range []int{10, 4 << 10} {
		b.Run(fmt.Sprintf("of %d bytes", size), func(b *testing.B) {
			for b.Loop() {
				cfg := Config{Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler)}
				before := heapInUse()
				s, stop := openQueue(b, cfg)
				began := time.Now()
				var next atomic.Int64
				var working sync.WaitGroup
				for range callers {
					working.Go(func() {
						for next.Add(1) <= queued {
							if err := submit(b, s, make([]byte, size)); err != nil {
								b.Error(err)
							}
						}
					})
				}
				working.Wait()
				b.ReportMetric(queued/time.Since(began).Seconds(), "accepted/s")
				b.ReportMetric(float64(heapInUse()-before)/1e6, "MB/queued")
				stop()
				s.Close()

				began = time.Now()
				s, stop = openQueue(b, cfg)
				b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/reopened")
				b.ReportMetric(float64(heapInUse()-before)/1e6, "MB/reopened")
				stop()
				s.Close()
			}
		})
	}
}

// openQueue opens a store whose calls are delivered up to the quota, and never end.
func openQueue(b *testing.B, cfg Config) (s *Store, stop func()) {
	b.Helper()
	s, err := Open(b.Context(), cfg)
	require.NoError(b, err)
	stop, err = s.Consume(b.Context(), "a", 10, func(*Delivery) {})
	require.NoError(b, err)
	return s, stop
}

// submit does with a call what a server does that accepts it.
func submit(b *testing.B, s *Store, payload []byte) error {
	call := &api.Call{
		ID: uuid.NewString(), Function: "0123456789abcdef0123456789abcdef", Name: "hello", Account: "a", Accepted: time.Now(),
		Env:     []string{"REQUEST_METHOD=POST", "SERVER_PROTOCOL=HTTP/1.1", "HTTP_USER_AGENT=Go-http-client/1.1"},
		Payload: payload,
	}
	s.Log(b.Context(), call.Function, api.Event{CallID: call.ID, Event: api.Called, ShortStdin: api.Short(payload)})
	s.Log(b.Context(), call.Function, api.Event{CallID: call.ID, Event: string(api.Pending)})
	return s.Enqueue(b.Context(), call)
}

// heapInUse is the memory in use after a collection, in bytes.
func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}
