package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/funcd/funcd/api"
)

// The exit statuses, which scripts may rely on.
const (
	ExitOK          = 0
	ExitError       = 1   // anything that none of the others says
	ExitUsage       = 2   // the command line or the configuration is wrong, or funcd says that a parameter is
	ExitFailed      = 3   // the function failed
	ExitTimeout     = 4   // the function ran past its timeout
	ExitNotFound    = 5   // there is no such function, call or image, or the call's output has expired
	ExitRefused     = 6   // funcd refuses: the access key, a name that is taken, a call that is running, a payload that is too large
	ExitUnavailable = 7   // funcd, or something that it needs, does not answer
	ExitNotEnded    = 8   // the call has not ended yet
	ExitCancelled   = 9   // the call was cancelled
	ExitInterrupted = 130 // ended by Ctrl-C or SIGTERM
)

// ExitStatuses is the part of a help text that lists them.
const ExitStatuses = `Exit statuses:
  0    done
  1    something failed that none of the others names
  2    the command line or the configuration is wrong, or a parameter is
  3    the function failed
  4    the function ran past its timeout
  5    no such function, call or image, or an output that has expired
  6    refused: the access key, a name that is taken, a call that runs, a payload that is too large
  7    funcd, or something that it needs, does not answer
  8    get: the call has not ended yet
  9    the call was cancelled
  130  interrupted`

// Error is why a command failed.
type Error struct {
	Status  int
	Message string // one sentence for the user; empty if all has been said
	Err     error  // the cause
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }

// Report writes the message, if there is one, and returns the status.
func (e *Error) Report(w io.Writer) int {
	if e.Message != "" {
		say(w, e.Message)
	}
	return e.Status
}

func usageErrorf(format string, args ...any) *Error {
	return &Error{Status: ExitUsage, Message: fmt.Sprintf(format, args...)}
}

var statusOf = map[api.Code]int{
	api.Invalid:        ExitUsage,
	api.CallFailed:     ExitFailed,
	api.OutputTooLarge: ExitFailed,
	api.CallTimeout:    ExitTimeout,
	api.NotFound:       ExitNotFound,
	api.Expired:        ExitNotFound,
	api.Unauthorized:   ExitRefused,
	api.Forbidden:      ExitRefused,
	api.Conflict:       ExitRefused,
	api.TooLarge:       ExitRefused,
	api.KeyReused:      ExitRefused,
	api.Unavailable:    ExitUnavailable,
	api.Cancelled:      ExitCancelled,
}

// explain makes an *Error of err: what went wrong and what to do about it.
func (a *app) explain(ctx context.Context, err error) error {
	known, isKnown := errors.AsType[*Error](err)
	switch {
	case err == nil:
		return nil
	case isKnown:
		return known
	case ctx.Err() != nil:
		return &Error{Status: ExitInterrupted, Message: "interrupted", Err: err}
	case errors.Is(err, api.ErrNoAnswer):
		return &Error{Status: ExitUnavailable, Message: a.noAnswer(err), Err: err}
	}
	fault, ok := errors.AsType[*api.Error](err)
	if !ok {
		return &Error{Status: ExitError, Message: err.Error(), Err: err}
	}
	e := &Error{Status: ExitError, Message: fault.Message, Err: err}
	if status, ok := statusOf[fault.Code]; ok {
		e.Status = status
	}
	if fault.Code == api.Unauthorized {
		e.Message = fmt.Sprintf("funcd at %s does not accept the access key %s: check it, its secret, and this machine's clock",
			a.settings.Addr, a.settings.AccessKey)
		if a.settings.AccessKey == "" {
			e.Message = fmt.Sprintf("funcd at %s wants signed requests: set FUNCD_ACCESS_KEY and FUNCD_SECRET_KEY to a key that funcd credential create has made",
				a.settings.Addr)
		}
	}
	return e
}

// noAnswer says why there was no answer, and what to do.
func (a *app) noAnswer(err error) string {
	addr := a.settings.Addr
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Sprintf("the certificate of funcd at %s is not trusted: %s; set --ca-cert or FUNCD_CACERT to the one that signed it", addr, untrusted.Err)
	}
	if strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") { // net/http has no type for it
		return fmt.Sprintf("funcd at %s does not speak TLS; set --addr or FUNCD_ADDR to http://…", addr)
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Sprintf("funcd at %s does not answer: %s; is it running? set --addr or FUNCD_ADDR", addr, reason(err))
	}
	return fmt.Sprintf("funcd at %s broke off: %s", addr, reason(err))
}

// reason is the innermost of an error of the network, without the addresses that are said already.
func reason(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.Err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err.Error()
}

// each does something with each argument. What fails is said at once, and the others go on; the error is of the first one's status.
func (a *app) each(ctx context.Context, args []string, do func(arg string) error) error {
	status := ExitOK
	for _, arg := range args {
		err := do(arg)
		if err == nil {
			continue
		}
		e, _ := errors.AsType[*Error](a.explain(ctx, err))
		if status == ExitOK {
			status = e.Status
		}
		e.Report(a.Err)
		if e.Status == ExitInterrupted {
			return &Error{Status: ExitInterrupted, Err: err}
		}
	}
	if status == ExitOK {
		return nil
	}
	return &Error{Status: status}
}

// eachDone is each, and prints the arguments with which it was done.
func (a *app) eachDone(ctx context.Context, args []string, do func(arg string) error) error {
	done := []string{}
	failed := a.each(ctx, args, func(arg string) error {
		if err := do(arg); err != nil {
			return err
		}
		done = append(done, arg)
		if a.output.JSON() {
			return nil
		}
		_, err := fmt.Fprintln(a.Out, arg)
		return err
	})
	if a.output.JSON() {
		if err := WriteJSON(a.Out, done); err != nil {
			return err
		}
	}
	return failed
}

// say writes a message for the user, on one line and without what could change their terminal.
func say(w io.Writer, message string) {
	fmt.Fprintln(w, "funcd:", printable(message))
}

// messageOf is the sentence of an error, explained or not.
func messageOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Message
	}
	return api.MessageOf(err)
}
