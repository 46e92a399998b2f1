package scheduler

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
)

// retake is how often a container's wait looks again for a server that offers its call: the last one may have died, and the next not have
// adopted the call yet.
const retake = 50 * time.Millisecond

// Next waits until the call is offered to the allocation and returns what it is to run. The error is of code NotFound if it was not until ctx
// ended, and of code Expired if there is nothing for this allocation and never will be.
func (s *Scheduler) Next(ctx context.Context, allocation api.Allocation, function, call string) (*api.Assignment, []byte, error) {
	for {
		// The wait may end; what has begun to be taken is finished.
		assignment, payload, err := s.cfg.Messages.Take(context.WithoutCancel(ctx), call, allocation)
		switch api.CodeOf(err) {
		case "":
			return assignment, payload, nil
		case api.NotFound:
			if over, err := s.over(ctx, allocation, function, call); over {
				return nil, nil, api.Wrap(api.Expired, err, "the call is over")
			}
		case api.Conflict, api.Forbidden:
			return nil, nil, api.Wrap(api.Expired, err, "there is no call for this container")
		default:
			return nil, nil, err
		}
		select {
		case <-ctx.Done():
			return nil, nil, err
		case <-time.After(retake):
		}
	}
}

// over tells whether a call that no server offers has ended, so that its container waits in vain.
func (s *Scheduler) over(ctx context.Context, allocation api.Allocation, function, call string) (bool, error) {
	rec, _, err := s.cfg.Records.Record(ctx, function, call)
	if err == nil {
		return rec.State.Ended(), nil
	}
	if api.CodeOf(err) != api.NotFound {
		return false, err
	}
	queued, err := s.cfg.Queue.IsQueued(ctx, allocation.Account, function, call)
	return err == nil && !queued, err
}

// Report ends the call with the result that its container reports. The call has ended, and its output is stored, when it returns nil. The
// error is of code Expired if the call had ended before or is not this allocation's, Cancelled if all is done and the container is to end,
// and Unavailable if the report must come again.
func (s *Scheduler) Report(ctx context.Context, allocation api.Allocation, result *api.Result, output []byte) error {
	rec, version, err := s.cfg.Records.Record(ctx, result.Function, result.CallID)
	if err == nil && rec.Code == api.Cancelled && rec.Allocation == allocation.ID && rec.Attempts == result.Attempt {
		return errCancelled // the answer to an earlier report was lost
	}
	if api.CodeOf(err) == api.NotFound || err == nil &&
		(rec.State != api.Running || rec.Allocation != allocation.ID || rec.Attempts != result.Attempt) {
		return api.Errorf(api.Expired, "the call is over, or is not this container's")
	}
	if err != nil {
		return err
	}
	conclude(&rec, result, len(output) > s.cfg.MaxOutput)
	if result.Outcome == api.Stopped && s.isDraining(allocation.ID) {
		rec.Message = "node lost: it is being drained"
	}
	var answer error
	retry := false
	if !rec.Cancelled.IsZero() {
		endCancelled(&rec)
		answer = errCancelled
	} else if mayPass(result.Outcome) {
		retry = s.again(&rec)
	}
	if rec.State == api.Finished {
		if err := s.cfg.Records.SaveOutput(ctx, rec.Function, rec.CallID, output); err != nil {
			return err
		}
	}
	if _, err := s.cfg.Records.SaveRecord(ctx, rec, version); api.CodeOf(err) == api.Conflict {
		return s.Report(ctx, allocation, result, output) // it has ended, or was cancelled
	} else if err != nil {
		return err
	}
	s.event(ctx, rec.Function, api.Event{
		CallID:      rec.CallID,
		Event:       string(rec.State),
		ShortStdout: api.Short(output),
		ShortStderr: api.Short(result.Stderr),
		Message:     rec.Message,
	})
	if retry {
		s.retry(rec)
		return nil
	}
	// Its owner takes it out of the queue before anyone who waits is told, so that a call whose answer has been fetched is not there any
	// more. If the owner is another server, Forget sees to that.
	s.mu.Lock()
	owner := s.owned[rec.CallID]
	s.mu.Unlock()
	if owner != nil {
		owner.mu.Lock()
		owner.rec = rec
		owner.mu.Unlock()
		if err := owner.leave(ctx); err == nil {
			return answer
		}
	}
	s.cfg.Messages.NotifyEnd(rec.Function, rec.CallID)
	return answer
}

// conclude ends the record with what the runner says. Times are the runner's own: its clock is what the Timeout was measured with.
func conclude(rec *api.Record, result *api.Result, overOutput bool) {
	if !result.Started.IsZero() {
		rec.Started, rec.Ended = result.Started, result.Ended
	} else {
		rec.Ended = time.Now()
	}
	rec.ExitCode = result.ExitCode
	rec.State, rec.Code = api.Failed, api.CallFailed
	switch {
	case result.Outcome == api.TimedOut:
		rec.Code, rec.Message = api.CallTimeout, timeoutMessage(*rec)
	case result.Outcome == api.OutOfMemory:
		rec.Message = "out of memory"
	case result.Outcome == api.NoCommand:
		rec.Message = "entrypoint not found: " + result.Message
	case result.Outcome == api.NotStartable:
		rec.Message = "the command can't be started: " + result.Message
	case result.Outcome == api.Stopped:
		rec.Message = "the container was stopped in Nomad while the function ran"
	case result.Outcome == api.Signaled:
		rec.Message = fmt.Sprintf("killed by signal %d (%s)", result.Signal, unix.SignalName(syscall.Signal(result.Signal)))
	case result.ExitCode != 0:
		rec.Message = fmt.Sprintf("exit status %d", result.ExitCode)
	case result.Outcome == api.OverOutput || overOutput:
		rec.Code, rec.Message = api.OutputTooLarge, "the output is over its limit"
	case result.Outcome == api.Exited:
		rec.State, rec.Code, rec.Message = api.Finished, "", ""
	default:
		rec.Message = fmt.Sprintf("the runner reported an outcome that this server does not know: %.100q", result.Outcome)
	}
}

// NextSlot waits until a call claims the slot, and returns it: it is the slot's only once Begin has confirmed it. The error is of code
// NotFound if none has until ctx ended, and Expired if the slot is to end: the function has changed, or has enough of them.
func (s *Scheduler) NextSlot(ctx context.Context, allocation api.Allocation, slot api.Slot) (*api.Assignment, []byte, error) {
	slot.Account, slot.Name, slot.Allocation = allocation.Account, allocation.Name, allocation.ID
	if !strings.HasPrefix(slot.Job, allocation.Job+"/") {
		return nil, nil, api.Errorf(api.Expired, "the slot is of another function")
	}
	if s.isDraining(allocation.ID) {
		return nil, nil, api.Errorf(api.Expired, "the slot's node is being drained")
	}
	d, err := s.cfg.Functions.ByID(ctx, slot.Account, slot.Name, slot.Function)
	if api.CodeOf(err) == api.NotFound || err == nil && d.Revision != slot.Revision {
		return nil, nil, api.Errorf(api.Expired, "the function has changed")
	}
	if err != nil {
		return nil, nil, err
	}
	return s.cfg.Slots.WaitSlot(ctx, slot)
}

// Begin confirms a call that NextSlot has returned: it is written down as the allocation's. The error is of code Expired if it is not, and
// must not be started.
func (s *Scheduler) Begin(ctx context.Context, allocation api.Allocation, function, call string) error {
	allocation.Slot = true
	bounded, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	// A server may have handed the call over before all others have heard that it offers it.
	_, _, err := s.Next(bounded, allocation, function, call)
	if api.CodeOf(err) != api.NotFound {
		return err
	}
	// Its owner may have died after it had written down that this allocation has the call, and nobody has adopted it yet.
	rec, _, recErr := s.cfg.Records.Record(ctx, function, call)
	switch {
	case recErr == nil && rec.State == api.Running && has(&rec, &allocation):
		// It counts as long as the call is in the queue: else it was written by a server that had been stopped, after the call was over.
		queued, err := s.cfg.Queue.IsQueued(ctx, allocation.Account, function, call)
		if err != nil || queued {
			return err
		}
	case recErr != nil && api.CodeOf(recErr) != api.NotFound:
		return recErr
	}
	return api.Wrap(api.Expired, err, "the call is not offered any more")
}
