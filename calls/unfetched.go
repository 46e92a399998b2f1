package calls

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

// removeRate is how many records of calls that nobody has fetched are removed in a second, at most.
const removeRate = 100

// RemoveUnfetched removes what is kept of calls that have ended and whose answer nobody has fetched for Config.UnfetchedTime, and the oldest of those of
// which a function has more than Config.UnfetchedCalls. They are unknown from then on. It reads all records and removes at a bounded rate, so it
// may take minutes. It returns how many it has removed; the error is of code Unavailable.
func (s *Store) RemoveUnfetched(ctx context.Context) (removed int, err error) {
	records := []string{recordSubject("*", "*")} // none that was fetched and is kept
	ended := map[string]int{}                    // by function
	err = s.eachRecord(ctx, records, func(rec *api.Record, _ *jetstream.MsgMetadata) error {
		if rec.State.Ended() {
			ended[rec.Function]++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	pause := time.NewTicker(time.Second / removeRate)
	defer pause.Stop()
	oldest := time.Now().Add(-s.cfg.UnfetchedTime)
	// An end is the last that is written of a call until it is fetched: those that ended first come first.
	err = s.eachRecord(ctx, records, func(rec *api.Record, meta *jetstream.MsgMetadata) error {
		if !rec.State.Ended() || meta.Timestamp.After(oldest) && ended[rec.Function] <= s.cfg.UnfetchedCalls {
			return nil
		}
		ended[rec.Function]--
		rec.Options.Keep = 0 // that is for answers that were fetched
		if err := s.Forget(ctx, *rec); err != nil {
			return err
		}
		removed++
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-pause.C:
			return nil
		}
	})
	return removed, err
}
