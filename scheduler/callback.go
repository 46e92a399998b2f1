package scheduler

import (
	"context"

	"github.com/funcd/funcd/api"
)

// Callbacks delivers the results of calls to those who want them sent.
type Callbacks interface {
	// QueueCallback has a result delivered; it is on disk when this returns nil. It may be called more than once for a call. The error is of code
	// TooLarge if too many wait, else Unavailable.
	QueueCallback(ctx context.Context, cb api.Callback, body []byte) error
}

// callBack has the result of a call that has ended delivered, as /output would answer with it. Where too many wait the call has none: its result can
// be fetched.
func (s *Scheduler) callBack(ctx context.Context, rec api.Record) error {
	cb := api.Callback{
		CallID: rec.CallID, Function: rec.Function, Name: rec.Name, Account: rec.Account, URL: rec.Options.Callback,
		State: rec.State, ExitCode: rec.ExitCode, Code: rec.Code, Ended: rec.Ended,
	}
	body := []byte(rec.Message + "\n")
	if rec.State == api.Finished {
		output, err := s.cfg.Records.Output(ctx, rec.Function, rec.CallID)
		switch {
		case err == nil:
			body = output
		case api.CodeOf(err) == api.Expired:
			cb.Code, body = api.Expired, []byte(api.MessageOf(err)+"\n")
		default:
			return err
		}
	}
	err := s.cfg.Callbacks.QueueCallback(ctx, cb, body)
	if api.CodeOf(err) == api.TooLarge {
		s.event(ctx, rec.Function, api.Event{CallID: rec.CallID, Event: api.CalledBack, Message: "the result is not sent to its callback: " + api.MessageOf(err)})
		return nil
	}
	return err
}
