package main

import (
	"fmt"
	"time"

	"github.com/funcd/funcd/api"
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

// maxDeadLetter is what a payload and its description take at most.
const maxDeadLetter = 2 * mebibyte

// deadLetters are those of the store, and what becomes of them.
type deadLetters struct {
	*calls.Store
	*scheduler.Scheduler
}

var _ httpapi.Dead = deadLetters{}
