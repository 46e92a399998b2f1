package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Code tells what kind of error an Error is. Its text is what the header ErrorHeader carries.
type Code string

// The codes. Each maps to one HTTP status, see Code.Status.
const (
	Internal       Code = "internal"         // a fault of the service; details are in its log
	Invalid        Code = "invalid"          // a parameter is wrong
	Unauthorized   Code = "unauthorized"     // the request is not signed as it should be
	Forbidden      Code = "forbidden"        // the account may not do this
	NotFound       Code = "not-found"        // no such thing, or none that the caller may know of
	NotAllowed     Code = "not-allowed"      // the path exists, the method does not
	Conflict       Code = "conflict"         // a name is taken, or something is in use
	Expired        Code = "expired"          // a call's output was dropped to make room for others
	KeyReused      Code = "key-reused"       // an Idempotency-Key was used for another request before
	TooLarge       Code = "too-large"        // a request is over its limit
	BodyTimeout    Code = "body-timeout"     // a request's body did not come in its time
	Unavailable    Code = "unavailable"      // a part that the service needs does not answer, or a queue is full
	CallFailed     Code = "call-failed"      // the function failed; the message says how
	CallTimeout    Code = "call-timeout"     // the function ran past its Timeout
	OutputTooLarge Code = "output-too-large" // the function's output is over its limit
	Cancelled      Code = "cancelled"        // the call was cancelled
)

// ErrorHeader is the response header that carries an error's Code, as several codes share a status.
const ErrorHeader = "Funcd-Error"

// StatusOutputTooLarge is the status of a call whose output is over its limit. net/http has no name for 509.
const StatusOutputTooLarge = 509

var statuses = map[Code]int{
	Internal:       http.StatusInternalServerError,
	Invalid:        http.StatusBadRequest,
	Unauthorized:   http.StatusUnauthorized,
	Forbidden:      http.StatusForbidden,
	NotFound:       http.StatusNotFound,
	NotAllowed:     http.StatusMethodNotAllowed,
	Conflict:       http.StatusConflict,
	Expired:        http.StatusGone,
	KeyReused:      http.StatusUnprocessableEntity,
	TooLarge:       http.StatusRequestEntityTooLarge,
	BodyTimeout:    http.StatusRequestTimeout,
	Unavailable:    http.StatusServiceUnavailable,
	CallFailed:     http.StatusInternalServerError,
	CallTimeout:    http.StatusGatewayTimeout,
	OutputTooLarge: StatusOutputTooLarge,
	Cancelled:      http.StatusInternalServerError,
}

// Status returns the HTTP status of the code, 500 for an unknown one.
func (c Code) Status() int {
	if s, ok := statuses[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// OfCall tells whether the code is how a call has failed, and no fault of the service.
func (c Code) OfCall() bool {
	return c == CallFailed || c == CallTimeout || c == OutputTooLarge || c == Cancelled
}

// codeOf is the inverse of Status for an answer with the given ErrorHeader, which may be empty or unknown.
func codeOf(status int, header string) Code {
	if c := Code(header); statuses[c] == status {
		return c
	}
	for c, s := range statuses {
		if s == status && c != CallFailed && c != Cancelled {
			return c
		}
	}
	return Internal
}

// Error is the error that crosses packages and the wire.
type Error struct {
	Code    Code
	Message string // one sentence for the caller; may be shown to anyone who may make the request
	Err     error  // the cause, for the log only
}

// Errorf returns an *Error with a formatted message. An argument formatted with %w becomes its cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

// Wrap returns an *Error that says message to the caller and keeps err for the log.
func Wrap(code Code, err error, message string) *Error {
	return &Error{Code: code, Message: message, Err: err}
}

func (e *Error) Error() string {
	if e.Err == nil || strings.Contains(e.Message, e.Err.Error()) { // Errorf's %w has it in the message already
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of the first *Error in err's chain, Internal if there is none, and "" for a nil error.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// MessageOf returns what the caller may read of err: the message of the first *Error in its chain, and nothing of any other. Details are
// for the log.
func MessageOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Message
	}
	return "internal error"
}
