package callbacks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/funcd/funcd/api"
)

// outage is after how long a callback is tried again that could not be, as funcd's own parts do not answer or the server stops.
const outage = 5 * time.Second

// deliver sends a callback and returns when it is to be sent again, 0 for never.
func (s *Service) deliver(ctx context.Context, cb api.Callback, body []byte, attempt int) (again time.Duration) {
	d, err := s.cfg.Functions.ByID(ctx, cb.Account, cb.Name, cb.Function)
	if err != nil && api.CodeOf(err) != api.NotFound {
		s.skip(cb.CallID)
		return outage
	}
	attempt -= s.skips(cb.CallID)
	defer func() {
		if again == 0 {
			s.forget(cb.CallID)
		}
	}()
	if err != nil {
		return 0 // removed, with all that was to come of its calls
	}
	log := s.log.With("call", cb.CallID, "function", cb.Function, "account", cb.Account, "attempt", attempt)
	err = s.send(ctx, cb, body, d.Function.CallbackSecret)
	if err == nil {
		log.Debug("a result was delivered to its callback")
		s.event(ctx, cb, "the result was delivered to its callback")
		return 0
	}
	if ctx.Err() != nil { // the server stops: another begins at once
		return time.Millisecond
	}
	said := fmt.Sprintf("the result was not delivered to its callback, attempt %d of %d: %s", attempt, s.cfg.Attempts, reason(err))
	log.Debug("a result was not delivered to its callback", "error", err)
	if attempt >= s.cfg.Attempts || errors.Is(err, errNotAllowed) {
		s.event(ctx, cb, said+"; it is given up")
		return 0
	}
	again = s.pause(attempt)
	s.event(ctx, cb, fmt.Sprintf("%s; the next comes in %s", said, again))
	return again
}

// skip notes that a callback was not tried when it could have been, which is no attempt. It is forgotten with the process.
func (s *Service) skip(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skipped[call]++
}

func (s *Service) skips(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.skipped[call]
}

func (s *Service) forget(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.skipped, call)
}

// pause is that after so many attempts.
func (s *Service) pause(attempts int) time.Duration {
	pause := s.cfg.Pause
	for range attempts - 1 {
		if pause *= 2; pause >= s.cfg.MaxPause {
			break
		}
	}
	return min(pause, s.cfg.MaxPause)
}

func (s *Service) event(ctx context.Context, cb api.Callback, message string) {
	s.cfg.Events.Log(context.WithoutCancel(ctx), cb.Function,
		api.Event{Time: api.Timestamp{Time: time.Now()}, CallID: cb.CallID, Event: api.CalledBack, Message: message})
}

// statusError is an answer that is no success.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("it has answered with %d", int(e)) }

func (s *Service) send(ctx context.Context, cb api.Callback, body []byte, secret string) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, cb.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	now := time.Now()
	signature, err := api.SignCallback(secret, cb.CallID, now, body)
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"Content-Type":             "text/plain; charset=utf-8",
		"User-Agent":               s.cfg.Agent,
		api.CallbackCallHeader:     cb.CallID,
		api.CallbackFunctionHeader: cb.Name,
		api.CallbackStateHeader:    string(cb.State),
		api.CallbackExitHeader:     strconv.Itoa(cb.ExitCode),
		api.WebhookIDHeader:        cb.CallID,
		api.WebhookTimeHeader:      strconv.FormatInt(now.Unix(), 10),
		api.WebhookSignatureHeader: signature,
	} {
		req.Header.Set(name, value)
	}
	if cb.Code != "" {
		req.Header.Set(api.ErrorHeader, string(cb.Code))
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close() // unread: the connection ends with it
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return statusError(resp.StatusCode)
	}
	return nil
}

// reason says what went wrong to whoever may read the function's log, and nothing of the network that funcd is in.
func reason(err error) string {
	if status, ok := errors.AsType[statusError](err); ok {
		return status.Error()
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return "its name is not known"
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return "it did not answer in time"
	}
	if errors.Is(err, errNotAllowed) {
		return errNotAllowed.Error()
	}
	return "it can't be reached"
}
