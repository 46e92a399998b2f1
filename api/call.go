package api

import (
	"strings"
	"time"
	"unicode/utf8"
)

// State is where a call stands. The names are those of the events that /logs shows.
type State string

// The states, in their order. A call has exactly one of Finished and Failed as its last.
const (
	Pending  State = "PENDING"  // waiting for the quota, for a place in the cluster or for its container
	Running  State = "RUNNING"  // given to a container
	Finished State = "FINISHED" // exited with status 0; its output can be fetched
	Failed   State = "FAILED"   // ended in any other way; Record.Code and Message say how
)

// Called is the event of a call's arrival. It is no State: the call is Pending from the same moment on.
const Called = "CALL"

// Ended tells whether the state is a call's last.
func (s State) Ended() bool { return s == Finished || s == Failed }

// Call is a call as it waits in the queue.
type Call struct {
	ID       string // a UUID
	Function string // the function's internal id
	Name     string // the function's name
	Account  string
	Accepted time.Time
	Env      Env         // CGI variables made from the request
	Held     bool        `json:",omitempty"` // what is known of it is in the memory of the server that has accepted it, as its caller waits there
	Attempt  int         `json:",omitempty"` // which of its attempts it waits for, counted from 0: from 1 on it has a record until it is over
	Options  CallOptions `json:",omitzero"`
	Payload  []byte      `json:"-"`
}

// CallOptions is what a function's labels ask for each of its calls, as it was when the call was accepted.
type CallOptions struct {
	Retries int           `json:",omitempty"` // funcd.retries: how often the call is started again after a failure of the function
	MaxAge  time.Duration `json:",omitempty"` // funcd.maxage: a call that has waited for so long fails without a start; 0: none does
	Keep    time.Duration `json:",omitempty"` // funcd.keep: how long the call is shown after its answer was fetched
	Dead    bool          `json:",omitempty"` // funcd.dead: a call that has failed becomes a dead letter

	Callback string `json:",omitempty"` // funcd.callback: the URL that its result is sent to
}

// AtEnd tells whether something is to be done when the call ends, before it leaves the queue.
func (o *CallOptions) AtEnd() bool { return o.Dead || o.Callback != "" }

// The headers of an Idempotency-Key, as in the IETF's draft-ietf-httpapi-idempotency-key-header and at Stripe: requests with the same one are one call.
// ReplayedHeader is in the answers to all but the first.
const (
	KeyHeader      = "Idempotency-Key"
	ReplayedHeader = "Idempotent-Replayed"
	MaxKeyLength   = 255 // bytes
)

// Once is what makes requests one call.
type Once struct {
	Key  string // the Idempotency-Key
	Same string // a digest of what may not differ
	Wait bool   // the caller waits for the answer
}

// CallKey is what is stored of an Idempotency-Key.
type CallKey struct {
	Call   string // the id of its call
	Same   string // Once.Same of the first request
	Queued bool   // the call has been queued: before, it is known only that it is to be
}

// Record is what is known of a call. It outlives the container and Nomad's memory of it, until its output has been fetched.
type Record struct {
	CallID     string
	Function   string // the function's internal id
	Name       string `json:",omitempty"` // the function's name
	Account    string
	State      State
	Accepted   time.Time
	Started    time.Time   `json:",omitzero"` // when the function's process started
	Ended      time.Time   `json:",omitzero"`
	Job        string      `json:",omitempty"` // the Nomad job of its container
	Allocation string      `json:",omitempty"` // the Nomad allocation that it was given to
	Runner     string      `json:",omitempty"` // the runner in it, as Allocation.Runner
	Cancelled  time.Time   `json:",omitzero"`  // when its end was asked for
	Starts     int         `json:",omitempty"` // containers that were started for it and ended without having taken it
	Attempts   int         `json:",omitempty"` // how often the function was started for it and has failed
	Begun      int         `json:",omitempty"` // containers of those attempts
	RetryAt    time.Time   `json:",omitzero"`  // when the next attempt is due
	Timeout    int         `json:",omitempty"` // seconds that it was given to run, as the function's may change meanwhile
	ExitCode   int         `json:",omitempty"`
	Fetched    time.Time   `json:",omitzero"` // when its answer reached its caller: from then on, the call is unknown to /output
	Options    CallOptions `json:",omitzero"`
	Code       Code        `json:",omitempty"` // why it failed
	Message    string      `json:",omitempty"` // why it failed, or why it still waits
}

// Event is one line of /logs.
type Event struct {
	Time        Timestamp
	Event       string
	CallID      string `json:"CallId"`
	ShortStdin  string `json:",omitempty"`
	ShortStdout string `json:",omitempty"`
	ShortStderr string `json:",omitempty"`
	Message     string `json:",omitempty"`
}

// EventQuery chooses events of a function.
type EventQuery struct {
	Call   string // only this call's, if not empty
	Tail   int    // only the last so many of those that are stored; negative for all
	Follow bool   // go on with those that come
}

// CallID is the answer to /call without /sync.
type CallID struct {
	CallID string `json:"CallId"`
}

// MaxPayload is how many bytes a call's stdin has at most, however a server is configured: a call travels as one message.
const MaxPayload = 1 << 20

// ShortLength is how many bytes of stdin, stdout and stderr an Event keeps.
const ShortLength = 255

// Short returns at most the first ShortLength bytes of b as text, cut at a character and with what is not UTF-8 replaced.
func Short(b []byte) string {
	if len(b) > ShortLength {
		b = b[:ShortLength]
		// Up to three bytes at the end may be the beginning of a character that was cut.
		for i := len(b) - 1; i >= len(b)-4; i-- {
			if utf8.RuneStart(b[i]) {
				if !utf8.FullRune(b[i:]) {
					b = b[:i]
				}
				break
			}
		}
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}
