package main

import (
	"fmt"
	"time"

	"github.com/funcd/funcd/api"
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
