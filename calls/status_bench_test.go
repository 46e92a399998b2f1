package calls

import (
	"log/slog"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

const records = 100_000

// storeOfRecords opens a store with records of so many functions: f0, f1, … It returns a call of one in the middle.
func storeOfRecords(b *testing.B, functions int) (*Store, string) {
	s, err := Open(b.Context(), Config{Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	b.Cleanup(s.Close)
	<-s.states.read
	var call string
	for n := range records {
		rec := api.Record{
			CallID: uuid.NewString(), Function: "f" + strconv.Itoa(n%functions), Account: "a", State: stateNames[n%4], Accepted: time.Now(),
			Message: "exit status 1",
		}
		_, err := s.js.PublishAsync(recordSubject(rec.Function, rec.CallID), marshal(b, rec))
		require.NoError(b, err)
		if n%1000 == 999 {
			<-s.js.PublishAsyncComplete()
		}
		if n == records/2 {
			call = rec.CallID
		}
	}
	return s, call
}

// BenchmarkFunctionOf looks for one call among the 100,000 of a hundred functions.
func BenchmarkFunctionOf(b *testing.B) {
	s, call := storeOfRecords(b, 100)
	for b.Loop() {
		_, _, err := s.FunctionOf(b.Context(), "a", call)
		require.NoError(b, err)
	}
}

// BenchmarkStatus counts and lists the calls of a function with 100,000 records, and says how much memory their states take.
func BenchmarkStatus(b *testing.B) {
	s, _ := storeOfRecords(b, 1)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	before, begin := heap(), time.Now()
	_, err := s.readStates(b.Context())
	require.NoError(b, err)
	read, taken := time.Since(begin), heap()-before

	b.Run("counts", func(b *testing.B) {
		for b.Loop() {
			status, err := s.Status(b.Context(), "f0")
			require.NoError(b, err)
			require.Equal(b, records, status.Total)
		}
		b.ReportMetric(float64(taken)/records, "B/call")
		b.ReportMetric(float64(read.Milliseconds()), "ms/reading")
	})
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			n := 0
			require.NoError(b, s.Calls(b.Context(), "f0", "a", func(api.CallStatus) error { n++; return nil }))
			require.Equal(b, records, n)
		}
	})
}
