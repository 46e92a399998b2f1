package api

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// The runner's endpoints. Every request carries the Nomad identity token of the runner's allocation as a bearer token.
const (
	// RunnerNextPath is where a runner asks for a call (POST). 200: a frame of an Assignment and the payload. 204: none yet, ask
	// again. 410: there will be none, end.
	//
	// A container says what it was started as: ?function=&revision=&job=, and, if it was started for a call, for which: &call=. One that was started ahead of
	// any must confirm what it gets, and may ask to upgrade the request to RunnerUpgrade.
	RunnerNextPath = "/runner/v1/next"
	// RunnerBeginPath is where a runner confirms a call that it did not ask for by its id, before it starts it (POST, ?function=&call=). 204: it
	// has the call. 410: it has not, and may ask for the next.
	RunnerBeginPath = "/runner/v1/begin"
	// RunnerResultPath is where a runner hands in a result (POST, a frame of a Result and stdout). 204: it is stored. 205: it is stored,
	// and the container is to end. 410: the call is over without it.
	RunnerResultPath = "/runner/v1/result"
	// RunnerBinaryPath is where a client of the cluster downloads the runner (GET, no token).
	RunnerBinaryPath = "/runner/v1/funcd-runner"
)

// RunnerHeader names the runner of a request: a text of its own choice that no other has, the same in all its requests. A Nomad client
// that was started again and finds its container gone, or its Docker away, starts another one in the same allocation, with the same token.
// Only the one that has a call may have it again.
const RunnerHeader = "Funcd-Runner"

// MaxRunner bounds RunnerHeader's value, in bytes.
const MaxRunner = 64

// RunnerNothing is the argument with which a runner does nothing and ends at once: its container was only to have its image pulled.
const RunnerNothing = "--nothing"

// RunnerGaveUp is the exit status of a container whose runner found no server for longer than it waits: EX_TEMPFAIL of sysexits.h.
const RunnerGaveUp = 75

// RunnerIdentity is the name and the audience of the Nomad workload identity that proves a runner's allocation.
const RunnerIdentity = "funcd"

// Assignment is one call for a runner: what to start, and for how long. The frame's body is the payload for its stdin.
type Assignment struct {
	CallID     string
	Function   string // the function's internal id; comes back in the Result
	Command    []string
	Env        Env           // put over the container's own, later ones win
	LinkEnv    []string      `json:",omitempty"` // put under the container's own, as Docker does with those of links
	Hosts      []string      `json:",omitempty"` // lines of /etc/hosts, for the links
	Tty        bool          `json:",omitempty"`
	Timeout    time.Duration // counted from the start of the process
	StopSignal int           // sent when Timeout has passed
	KillAfter  time.Duration // between StopSignal and SIGKILL; 0: SIGKILL at once
	MaxOutput  int           // bytes of stdout; more ends the call as too large
	Attempt    int           `json:",omitempty"` // comes back in the Result
	Confirm    bool          `json:",omitempty"` // the call is the container's only once it has confirmed it
	Calls      int           `json:",omitempty"` // how many calls the container may serve, this one included; 0 is 1
}

// Outcome is how a process ended.
type Outcome string

// The outcomes, each the side of the function; what the platform does to a call is seen from outside of the container.
const (
	Exited       Outcome = "exited"        // by itself, with Result.ExitCode
	Signaled     Outcome = "signaled"      // by a signal, Result.Signal
	OutOfMemory  Outcome = "out-of-memory" // killed by the kernel for its memory
	TimedOut     Outcome = "timed-out"     // it ran past its Timeout
	OverOutput   Outcome = "over-output"   // stdout was over Assignment.MaxOutput
	NoCommand    Outcome = "not-found"     // its command does not exist in the image
	NotStartable Outcome = "not-startable" // its command exists but can't be started; Result.Message says why
	Stopped      Outcome = "stopped"       // the container was told to end before the process did
)

// Result is what a runner reports of a call. The frame's body is stdout.
type Result struct {
	CallID   string
	Function string
	Attempt  int `json:",omitempty"` // the Assignment's
	Outcome  Outcome
	ExitCode int       `json:",omitempty"`
	Signal   int       `json:",omitempty"`
	Message  string    `json:",omitempty"`
	Started  time.Time `json:",omitzero"`
	Ended    time.Time `json:",omitzero"`
	Stderr   []byte    `json:",omitempty"` // its first ShortLength+4 bytes
}

// WriteFrame writes head as one line of JSON and then body. It is what travels between funcd and its runners: a payload of 1 MiB goes
// through without being encoded.
func WriteFrame(w io.Writer, head any, body []byte) error {
	line, err := json.Marshal(head)
	if err != nil {
		return err
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return err
	}
	_, err = w.Write(body)
	return err
}

// MaxFrameHead bounds the line of JSON of a frame: a call's headers and a function's environment fit in many times over.
const MaxFrameHead = 1 << 20

// ReadFrame reads what WriteFrame wrote, to the end of r. The error is of code Invalid for a malformed head and TooLarge for a head over
// MaxFrameHead or a body over maxBody bytes, of which not much more is read.
func ReadFrame(r io.Reader, head any, maxBody int) (body []byte, err error) {
	limited := io.LimitedReader{R: r, N: MaxFrameHead}
	br := bufio.NewReaderSize(&limited, 4096)
	line, err := br.ReadBytes('\n')
	switch {
	case errors.Is(err, io.EOF) && limited.N == 0:
		return nil, Errorf(TooLarge, "the head of the frame is over %d bytes", MaxFrameHead)
	case errors.Is(err, io.EOF):
		return nil, Errorf(Invalid, "the frame ends within its head")
	case err != nil:
		return nil, fmt.Errorf("reading the head of a frame: %w", err)
	}
	if err := json.Unmarshal(line, head); err != nil {
		return nil, Errorf(Invalid, "the head of the frame is not what it should be: %w", err)
	}
	limited.N = int64(maxBody) + 1
	body, err = io.ReadAll(io.LimitReader(br, int64(maxBody)+1))
	if err != nil {
		return nil, fmt.Errorf("reading the body of a frame: %w", err)
	}
	if len(body) > maxBody {
		return nil, Errorf(TooLarge, "the body of the frame is over %d bytes", maxBody)
	}
	return body, nil
}
