package main

import (
	"fmt"
	"net/netip"
	"time"

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

type deadConfig struct {
	Calls int    `hcl:"calls,optional"`
	Bytes int    `hcl:"bytes,optional"`
	Time  string `hcl:"time,optional"`
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
	for _, text := range s.Callbacks.Allow {
		prefix, err := netip.ParsePrefix(text)
		if err != nil || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
			return fmt.Errorf(`callbacks.allow: %q must be a network such as "10.1.0.0/16"`, text)
		}
		s.callbacks.allow = append(s.callbacks.allow, prefix)
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

// deadLetters are those of the store, and what becomes of them.
type deadLetters struct {
	*calls.Store
	*scheduler.Scheduler
}

var _ httpapi.Dead = deadLetters{}
