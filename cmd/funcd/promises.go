package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/callbacks"
	"github.com/funcd/funcd/calls"
	"github.com/funcd/funcd/httpapi"
	"github.com/funcd/funcd/scheduler"
)

// What is promised of calls beside their answers.

type idempotencyConfig struct {
	Time string `hcl:"time,optional"`
	Keys int    `hcl:"keys,optional"`
}

func (s *settings) checkIdempotency() (err error) {
	if s.Idempotency.Keys < 1 {
		return fmt.Errorf("idempotency.keys: must be at least 1")
	}
	s.keyTime, err = stored("idempotency.time", s.Idempotency.Time)
	return err
}

// stored reads for how long something is stored, which JetStream counts in seconds.
func stored(name, text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < api.MinKeep {
		return 0, fmt.Errorf(`%s: %q must be a duration of a second or more, such as "24h"`, name, text)
	}
	return d, nil
}

type deadConfig struct {
	Calls int    `hcl:"calls,optional"`
	Bytes int    `hcl:"bytes,optional"`
	Time  string `hcl:"time,optional"`
}

func (s *settings) checkDead() (err error) {
	if s.Dead.Calls < 1 || s.Dead.Bytes < maxDeadLetter {
		return fmt.Errorf("dead: calls must be at least 1, and bytes at least %d", maxDeadLetter)
	}
	s.deadLetterTime, err = stored("dead.time", s.Dead.Time)
	return err
}

type callbacksConfig struct {
	Allow      []string `hcl:"allow,optional"`
	Concurrent int      `hcl:"concurrent,optional"`
	Timeout    string   `hcl:"timeout,optional"`
	Attempts   int      `hcl:"attempts,optional"`
	Pause      string   `hcl:"pause,optional"`
	MaxPause   string   `hcl:"pause_max,optional"`
	Calls      int      `hcl:"calls,optional"`
	Bytes      int      `hcl:"bytes,optional"`
}

// callbackSettings are those of callbacks, checked.
type callbackSettings struct {
	allow                    []netip.Prefix
	timeout, pause, maxPause time.Duration
}

func defaultCallbacks() *callbacksConfig {
	return &callbacksConfig{
		Concurrent: 8, Timeout: "10s", Attempts: 12, Pause: "5s", MaxPause: "1h", Calls: calls.DefaultCallbackCalls, Bytes: calls.DefaultCallbackBytes,
	}
}

func (s *settings) checkCallbacks() error {
	c := s.Callbacks
	if c.Concurrent < 1 || c.Attempts < 1 || c.Calls < 1 || c.Bytes < maxDeadLetter {
		return fmt.Errorf("callbacks: concurrent, attempts and calls must be at least 1, and bytes at least %d", maxDeadLetter)
	}
	for _, text := range c.Allow {
		prefix, err := netip.ParsePrefix(text)
		if err != nil || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
			return fmt.Errorf(`callbacks.allow: %q must be a network such as "10.1.0.0/16"`, text)
		}
		s.callbacks.allow = append(s.callbacks.allow, prefix)
	}
	for name, d := range map[string]struct {
		text string
		to   *time.Duration
	}{
		"callbacks.timeout":   {c.Timeout, &s.callbacks.timeout},
		"callbacks.pause":     {c.Pause, &s.callbacks.pause},
		"callbacks.pause_max": {c.MaxPause, &s.callbacks.maxPause},
	} {
		value, err := time.ParseDuration(d.text)
		if err != nil || value <= 0 {
			return fmt.Errorf(`%s: %q must be a duration such as "30s"`, name, d.text)
		}
		*d.to = value
	}
	return nil
}

// newCallbacks returns what delivers callbacks.
func (a *agent) newCallbacks() *callbacks.Service {
	c, checked := a.settings.Callbacks, a.settings.callbacks
	return callbacks.New(callbacks.Config{
		Queue: a.store, Functions: a.functions, Events: a.store,
		Allow: checked.allow, Concurrent: c.Concurrent, Timeout: checked.timeout, Attempts: c.Attempts, Pause: checked.pause, MaxPause: checked.maxPause,
		Agent: "funcd/" + version, Logger: a.log,
	})
}

// maxDeadLetter is what a payload and its description take at most.
const maxDeadLetter = 2 * mebibyte

// deadLetters are those of the store, and what becomes of them.
type deadLetters struct {
	*calls.Store
	*scheduler.Scheduler
}

var _ httpapi.Dead = deadLetters{}
