package calls

import (
	"encoding/json"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// BenchmarkCall measures each thing that is stored of one call, and the removal of all.
func BenchmarkCall(b *testing.B) {
	s, err := Open(b.Context(), Config{Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	defer s.Close()
	deliveries := make(chan *Delivery, 16)
	stop, err := s.Consume(b.Context(), "a", 10, func(d *Delivery) { deliveries <- d })
	require.NoError(b, err)
	defer stop()
	took := map[string]time.Duration{}
	steps := []string{"enqueue", "deliver", "taken", "output", "ended", "done", "forget"}
	for n := 0; b.Loop(); n++ {
		call := &api.Call{ID: strconv.Itoa(n), Function: "f", Account: "a", Payload: []byte("hello")}
		rec := api.Record{CallID: call.ID, Function: "f", Account: "a", State: api.Running}
		var d *Delivery
		var version uint64
		for i, step := range []func() error{
			func() error { return s.Enqueue(b.Context(), call) },
			func() error { d = <-deliveries; return nil },
			func() (err error) { version, err = s.SaveRecord(b.Context(), rec, 0); return err },
			func() error { return s.SaveOutput(b.Context(), "f", call.ID, []byte("hello")) },
			func() error { rec.State = api.Finished; _, err := s.SaveRecord(b.Context(), rec, version); return err },
			func() error { return d.Done(b.Context()) },
			func() error { return s.Forget(b.Context(), rec) },
		} {
			start := time.Now()
			require.NoError(b, step())
			took[steps[i]] += time.Since(start)
		}
	}
	for _, step := range steps {
		b.ReportMetric(float64(took[step].Microseconds())/float64(b.N), "µs/"+step)
	}
}

func marshal(b *testing.B, v any) []byte {
	data, err := json.Marshal(v)
	require.NoError(b, err)
	return data
}

// BenchmarkIsQueued looks for one of 10,000 calls in the queue, with a payload of 1 MiB and with none, as who waits for it does again and again.
func BenchmarkIsQueued(b *testing.B) {
	s, err := Open(b.Context(), Config{Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	defer s.Close()
	large, small := newCall("f", 1), newCall("f", 2)
	large.Payload = make([]byte, api.MaxPayload)
	for _, call := range []*api.Call{large, small} {
		require.NoError(b, s.Enqueue(b.Context(), call))
	}
	for n := range 10_000 {
		require.NoError(b, s.Enqueue(b.Context(), newCall("f", n+3)))
	}
	for name, call := range map[string]*api.Call{"1 MiB": large, "small": small} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if there, err := s.IsQueued(b.Context(), "acme", "f", call.ID); err != nil || !there {
					b.Fatal(there, err)
				}
			}
		})
		b.Run(name+", reading it", func(b *testing.B) {
			for b.Loop() {
				if _, err := s.Queued(b.Context(), "acme", "f", call.ID); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
