package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"syscall"
	"time"

	"github.com/funcd/funcd/api"
)

// The functions of the workload by what is promised of their calls.
var (
	retries   = map[string]int{"retried": 2} // how often a call is started again
	callsBack = map[string]bool{"warm": true, "retried": true}
	keeps     = map[string]bool{"cold": true} // a call's record, after its answer was fetched
)

// kinds are the functions with their labels. A soak has those alone of which nothing is kept.
func (w *load) kinds(cfg config) map[string]map[string]string {
	if cfg.soak > 0 {
		return map[string]map[string]string{
			"cold":   {"funcd.warm": "0"},
			"warm":   {"funcd.warm": "2"},
			"reused": {"funcd.reuse": "true"},
		}
	}
	url := "http://" + w.receiver.address
	return map[string]map[string]string{
		"cold":    {"funcd.warm": "0", "funcd.keep": "12h"},
		"warm":    {"funcd.warm": "2", "funcd.callback": url},
		"reused":  {"funcd.reuse": "true"},
		"retried": {"funcd.warm": "0", "funcd.retries": fmt.Sprint(retries["retried"]), "funcd.callback": url},
	}
}

// cancelled is why a call failed that was cancelled.
const cancelled = "cancelled"

// cancel is what a caller does to end its call.
type cancel struct {
	planned bool
	after   time.Duration
	asked   bool // it may have come through
	done    bool // funcd said that it has
}

// How many calls of a hundred are special.
const (
	withKey      = 40 // of the asynchronous ones
	withCancel   = 10 // of the asynchronous ones
	failsAtFirst = 50 // of those that are retried
	failsAlways  = 15
)

// vary chooses what is special about a call.
func (c *call) vary(seed uint64, random *rand.Rand) {
	fate := random.IntN(100)
	if retries[c.function] > 0 {
		switch {
		case fate < failsAlways:
			c.fails = 1 + retries[c.function]
		case fate < failsAlways+failsAtFirst:
			c.fails = 1
		}
	}
	key, stop := random.IntN(100) < withKey, random.IntN(100) < withCancel
	after := time.Duration(random.Int64N(int64(5 * time.Second)))
	if !c.sync && key {
		c.key = fmt.Sprintf("chaos-%d-%d", seed, c.n)
	}
	if !c.sync && stop {
		c.cancel = cancel{planned: true, after: after}
	}
}

// How often a request is sent again that has a key, and what is between two of them. No part is away for as long.
const (
	keyTries = 120
	keyPause = 500 * time.Millisecond
)

// submit makes an asynchronous call and returns its id. If there is none the call's state says why. A request with a key is sent until it is
// answered, to any server, and then to another once more.
func (w *load) submit(c *call, f api.Function, payload string, server int) (id string) {
	if c.key == "" {
		return w.submitOnce(c, f, payload, server)
	}
	for try := range keyTries {
		before := c.state
		if id = w.submitOnce(c, f, payload, server+try); id != "" || w.ctx.Err() != nil {
			break
		}
		if before == unknown {
			w.set(c, unknown, c.message) // one that was refused may be the second
		}
		select {
		case <-w.ctx.Done():
		case <-time.After(keyPause):
		}
	}
	if id == "" {
		return ""
	}
	state, message := c.state, c.message
	if again := w.submitOnce(c, f, payload, server+1); again != "" {
		w.mu.Lock()
		c.ids = append(c.ids, again)
		w.mu.Unlock()
	}
	w.set(c, state, message)
	return id
}

// submitOnce is one request.
func (w *load) submitOnce(c *call, f api.Function, payload string, server int) (id string) {
	ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
	defer cancel()
	header := http.Header{}
	if c.key != "" {
		header.Set(api.KeyHeader, c.key)
	}
	status, body, err := w.ask(ctx, http.MethodPost, server, "call", f, payload, header)
	var answer api.CallID
	switch {
	case err == nil && status == http.StatusOK && json.Unmarshal([]byte(body), &answer) == nil && answer.CallID != "":
		return answer.CallID
	case errors.Is(err, syscall.ECONNREFUSED):
		w.set(c, refused, "nobody listens")
	case err == nil && status == http.StatusServiceUnavailable:
		// The store may have failed after it had written the call.
		w.set(c, unknown, body)
	default:
		w.set(c, unknown, fmt.Sprintf("%d %s %v", status, body, err))
	}
	return ""
}

// cancelLater cancels a call after its time, however often that takes.
func (w *load) cancelLater(c *call, f api.Function, server int) {
	wait := c.cancel.after
	for try := server; ; try++ {
		select {
		case <-w.ctx.Done():
			return
		case <-time.After(wait):
		}
		w.mu.Lock()
		c.cancel.asked = true
		w.mu.Unlock()
		ctx, stop := context.WithTimeout(w.ctx, time.Minute)
		status, _, err := w.ask(ctx, http.MethodDelete, try, "call", f, "", nil, c.id())
		stop()
		if err == nil && status != http.StatusServiceUnavailable {
			w.mu.Lock()
			c.cancel.done = status == http.StatusNoContent
			w.mu.Unlock()
			return // it has ended, if not by this
		}
		wait = keyPause
	}
}
