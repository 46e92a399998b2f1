// Package runner is what pid 1 of a function's container does: it takes a call from funcd, runs the function's command with the payload
// on stdin, passes its output through to the container's own, and hands in the result.
//
// It must not change what the image means: the command runs as the image's user, in its working directory, with its environment, and
// sees signals, a closed stdin and the end of its parent as it would as pid 1. Whether and when a call comes is left to the server.
package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/funcd/funcd/api"
)

// Config is what a runner needs. All of it comes from the environment of its container, see FromEnv.
type Config struct {
	Address string // funcd's: unix:///path, http://host:port or https://host:port
	CA      string // the certificates that are trusted for https, in PEM; the image's if empty
	Token   string // the Nomad identity token of the allocation
	Call    string // the call that the container was started for; empty if it was started ahead of any
	// What the container was started as.
	Function, Revision, Job string
	Keep                    []string // the folders of volumes, which calls share with others
	// Stop is the signal by which the container is ended, beside those that end any, and StopAs what the function gets then.
	Stop, StopAs syscall.Signal
	// Patience is how long funcd may be away before the runner gives up: a result waits this long to be delivered.
	Patience time.Duration

	Environ        []string // the container's environment, as the function's process gets it
	Stdout, Stderr io.Writer
	Logger         *slog.Logger
}

// DefaultPatience is the default of Config.Patience.
const DefaultPatience = 10 * time.Minute

// The environment variables of a runner. None of them reaches the function's process, nor does any other that Nomad sets.
const (
	AddressVariable  = "FUNCD_ADDRESS"
	CAVariable       = "FUNCD_CA" // in PEM
	PatienceVariable = "FUNCD_PATIENCE"
	KeepVariable     = "FUNCD_KEEP" // a JSON array
	StopVariable     = "FUNCD_STOP" // "15=34"
	tokenVariable    = "NOMAD_TOKEN_" + api.RunnerIdentity
	callVariable     = "NOMAD_META_call"
	functionVariable = "NOMAD_META_funcd_function"
	revisionVariable = "NOMAD_META_funcd_revision"
	jobVariable      = "NOMAD_JOB_ID"
)

// FromEnv reads the Config out of a container's environment.
func FromEnv(environ []string) (Config, error) {
	c := Config{Patience: DefaultPatience}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		switch name {
		case AddressVariable:
			c.Address = value
		case CAVariable:
			c.CA = value
		case tokenVariable:
			c.Token = value
		case callVariable:
			c.Call = value
		case functionVariable:
			c.Function = value
		case revisionVariable:
			c.Revision = value
		case jobVariable:
			c.Job = value
		case KeepVariable:
			if err := json.Unmarshal([]byte(value), &c.Keep); err != nil {
				return Config{}, fmt.Errorf("%s: %w", KeepVariable, err)
			}
		case StopVariable:
			if _, err := fmt.Sscanf(value, "%d=%d", &c.Stop, &c.StopAs); err != nil {
				return Config{}, fmt.Errorf("%s: %w", StopVariable, err)
			}
		case PatienceVariable:
			d, err := time.ParseDuration(value)
			if err != nil {
				return Config{}, err
			}
			c.Patience = d
		}
		if !strings.HasPrefix(name, "NOMAD_") && !strings.HasPrefix(name, "FUNCD_") {
			c.Environ = append(c.Environ, variable)
		}
	}
	if c.Address == "" || c.Token == "" {
		return Config{}, errors.New("funcd-runner is started by funcd in a function's container; " +
			AddressVariable + " and " + tokenVariable + " must be set")
	}
	return c, nil
}

// errNoCall says that there is no call for this container and will be none.
var errNoCall = errors.New("there is no call for this container")

// Run takes a call, runs it and hands in the result, again if the call allows the container to serve more than one, and returns the exit
// status for the container. That is the last call's: the function's own status, 128 and the signal's number if a signal ended it, 126 or 127 if
// it could not be started; 0 without any call, api.RunnerGaveUp where no server was to be found. signals are those that the process gets.
func Run(ctx context.Context, cfg Config, signals <-chan os.Signal) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	link, err := newLink(cfg)
	if err != nil {
		return 1, err
	}
	defer link.hangUp()
	for status, served := 0, 1; ; served++ {
		assignment, payload, ending, err := waitForCall(ctx, cfg, link, signals)
		if errors.Is(err, errNoCall) {
			return status, nil
		}
		if err != nil {
			return errorStatus(err), err
		}
		result, stdout, stopped := execute(cfg, assignment, payload, signals)
		status = containerStatus(result)
		last := ending || stopped || served >= assignment.Calls
		switch err := link.deliver(ctx, result, stdout, last); {
		case errors.Is(err, errNoCall):
			return status, nil
		case err != nil:
			return errorStatus(err), err
		}
		if last {
			return status, nil
		}
		// The next call finds what a new container has, as far as a process can see.
		if err := clearTemporary(cfg.Keep); err != nil {
			return status, fmt.Errorf("the container serves no more calls: %w", err)
		}
		link.cfg.Call = ""
	}
}

// errorStatus is the container's exit status after an error of the runner's own.
func errorStatus(err error) int {
	if errors.Is(err, errGaveUp) {
		return api.RunnerGaveUp
	}
	return 1
}

// waitForCall is link.call, ended by the signals that end a container. ending tells that one has come, and there is a call all the same.
func waitForCall(ctx context.Context, cfg Config, l *link, signals <-chan os.Signal) (assignment *api.Assignment, payload []byte, ending bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		assignment *api.Assignment
		payload    []byte
		err        error
	}
	c := make(chan answer, 1)
	go func() {
		assignment, payload, err := l.call(ctx)
		c <- answer{assignment, payload, err}
	}()
	for {
		select {
		case a := <-c:
			return a.assignment, a.payload, false, a.err
		case s := <-signals:
			if !ends(s) && s != cfg.Stop {
				continue
			}
			cancel()
			if a := <-c; a.err == nil {
				// The call was taken in the same moment. It runs, and gets the next signal: it is written down as this container's.
				return a.assignment, a.payload, true, nil
			}
			return nil, nil, false, errNoCall
		}
	}
}

func containerStatus(r *api.Result) int {
	switch r.Outcome {
	case api.NoCommand:
		return 127
	case api.NotStartable:
		return 126
	}
	if r.Signal != 0 {
		return 128 + r.Signal
	}
	return r.ExitCode
}
