package calls

import (
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// BenchmarkStatus counts and lists the calls of a function with 100,000 records, and says how much memory their states take.
func BenchmarkStatus(b *testing.B) {
	const records = 100_000
	s, err := Open(b.Context(), Config{Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	defer s.Close()
	<-s.states.read
	for n := range records {
		rec := api.Record{CallID: uuid.NewString(), Function: "f", Account: "a", State: stateNames[n%4], Accepted: time.Now(), Message: "exit status 1"}
		data := marshal(b, rec)
		_, err := s.js.PublishAsync(recordSubject("f", rec.CallID), data)
		require.NoError(b, err)
		if n%1000 == 999 {
			<-s.js.PublishAsyncComplete()
		}
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	before, begin := heap(), time.Now()
	require.NoError(b, s.readStates(b.Context()))
	read, taken := time.Since(begin), heap()-before

	b.Run("counts", func(b *testing.B) {
		for b.Loop() {
			status, err := s.Status(b.Context(), "f")
			require.NoError(b, err)
			require.Equal(b, records, status.Total)
		}
		b.ReportMetric(float64(taken)/records, "B/call")
		b.ReportMetric(float64(read.Milliseconds()), "ms/reading")
	})
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			n := 0
			require.NoError(b, s.Calls(b.Context(), "f", "a", func(api.CallStatus) error { n++; return nil }))
			require.Equal(b, records, n)
		}
	})
}
