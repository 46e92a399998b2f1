package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/funcd/funcd/api"
)

// What numbers and times may be: whoever would break the server, or what it promises, by a setting is told so at the start. configs/funcd.hcl says what is here,
// but for 1 and a second as the least and what is the most of all.

// The most of all.
const (
	mostNumber = 1 << 40                   // JetStream adds up the bytes that its streams may have
	mostTime   = 10 * 365 * 24 * time.Hour // and counts until when it keeps a message in nanoseconds since 1970, which end in 2262
)

// The bounds of some.
const (
	maxMessagePart = mebibyte     // a payload, or an output: either travels as one message
	maxStored      = 2 * mebibyte // what a payload or an output and its description take
	besideOutput   = 4 << 10      // what is kept with an output, of which its name is the most
	leastBody      = 4 << 10      // requests that create functions have bodies too
	leastHeaders   = 4 << 10      // in which a signature or the token of a container has room
	maxHeaders     = 64 << 10     // a call's headers travel with it
	leastLogs      = 64 << 10
	leastOpen      = 16 // connections: callers, who looks whether the server is ready, and containers have one each
	leastPids      = 32 // in a container: the runner has some threads
	maxReplicas    = 5  // JetStream's own

	leastTime  = time.Second
	leastPause = 100 * time.Millisecond
	leastLease = 3 * time.Second // a server says three times in it that it has its calls still, and JetStream is asked for some for half of it
)

// number is a setting that is a whole number.
type number struct {
	name        string
	value       int
	least, most int    // the most is that of all where it is 0
	none        bool   // it may be 0 too
	why         string // it may not be less, or more, where that can't be seen
}

func (n number) check() error {
	if n.most == 0 {
		n.most = mostNumber
	}
	switch {
	case n.value >= n.least && n.value <= n.most, n.none && n.value == 0:
		return nil
	case n.value > n.most:
		return fmt.Errorf("%s: must be at most %d%s", n.name, n.most, because(n.why))
	case n.none:
		return fmt.Errorf("%s: must be 0 or at least %d%s", n.name, n.least, because(n.why))
	}
	return fmt.Errorf("%s: must be at least %d%s", n.name, n.least, because(n.why))
}

// period is a setting that is a time.
type period struct {
	name  string
	text  string
	to    *time.Duration
	least time.Duration        // the most is that of all
	over  func() time.Duration // is the least, if not nil, of times that were read before
	why   string               // it may not be less, where that can't be seen
}

// read puts the time into its place, if it may be that.
func (p period) read() error {
	if p.over != nil {
		p.least = p.over()
	}
	value, err := time.ParseDuration(p.text)
	switch {
	case err != nil:
		return fmt.Errorf(`%s: %q must be a duration such as "30s"`, p.name, p.text)
	case value < p.least:
		return fmt.Errorf("%s: %q must be at least %s%s", p.name, p.text, short(p.least), because(p.why))
	case value > mostTime:
		return fmt.Errorf("%s: %q must be at most %s", p.name, p.text, short(mostTime))
	}
	*p.to = value
	return nil
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

// short is a duration without the zeros at its end.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// checkBounds checks all settings that are numbers, and reads those that are times. The error names the first that is wrong.
func (s *settings) checkBounds() error {
	for _, n := range s.numbers() {
		if err := n.check(); err != nil {
			return err
		}
	}
	for _, p := range s.periods() {
		if err := p.read(); err != nil {
			return err
		}
	}
	return nil
}

// numbers are all settings that are whole numbers, but for those of sizes and placements, which package jobs checks.
func (s *settings) numbers() []number {
	l := s.Limits
	replicas := number{name: "nats.replicas", value: s.NATS.Replicas, least: 1, most: maxReplicas}
	if s.NATS.URL == "" {
		replicas.most, replicas.why = 1, "without nats.url there is one server"
	}
	const message, largest = "a call travels as one message", "the largest call must have room with its description"
	return []number{
		{name: "quota", value: s.Quota, least: 1, most: api.MaxQuota},
		{name: "limits.payload", value: l.Payload, least: leastBody, most: maxMessagePart, why: message + ", and functions are created with a body"},
		{name: "limits.output", value: l.Output, least: 1, most: maxMessagePart, why: message},
		{name: "limits.headers", value: l.Headers, least: leastHeaders, most: maxHeaders},
		{name: "limits.connections", value: l.Connections, least: leastOpen},
		{name: "limits.queued_calls", value: l.QueuedCalls, least: 1},
		{name: "limits.queued_bytes", value: l.QueuedBytes, least: maxStored, why: largest},
		{name: "limits.starts", value: l.Starts, least: 1},
		{name: "limits.disk_free", value: l.DiskFree},
		{name: "limits.stored_outputs", value: l.StoredOutputs, least: l.Output + besideOutput, why: "limits.output, and what describes one"},
		{name: "limits.stored_logs", value: l.StoredLogs, least: leastLogs},
		{name: "limits.kept_calls", value: l.KeptCalls, least: 1},
		{name: "limits.unfetched_calls", value: l.UnfetchedCalls, least: 1},
		{name: "limits.pulls", value: l.Pulls, least: 1},
		{name: "idempotency.keys", value: s.Idempotency.Keys, least: 1},
		{name: "dead.calls", value: s.Dead.Calls, least: 1},
		{name: "dead.bytes", value: s.Dead.Bytes, least: maxStored, why: largest},
		{name: "callbacks.concurrent", value: s.Callbacks.Concurrent, least: 1},
		{name: "callbacks.attempts", value: s.Callbacks.Attempts, least: 1},
		{name: "callbacks.calls", value: s.Callbacks.Calls, least: 1},
		{name: "callbacks.bytes", value: s.Callbacks.Bytes, least: maxStored, why: "the largest output must have room with its description"},
		{name: "slots.function", value: s.Slots.Function},
		{name: "slots.account", value: s.Slots.Account},
		{name: "slots.total", value: s.Slots.Total},
		{name: "nomad.priority", value: s.Nomad.Priority, least: 1},
		{name: "nomad.pids_limit", value: s.Nomad.PidsLimit, least: leastPids, none: true, why: "the runner is some of them"},
		{name: "nomad.dead_jobs", value: s.Nomad.DeadJobs},
		{name: "nomad.purge_rate", value: s.Nomad.PurgeRate, least: 1},
		replicas,
	}
}

// periods are all settings that are times, each after those that its own least follows.
func (s *settings) periods() []period {
	l := s.Limits
	return []period{
		{name: "limits.header_time", text: l.HeaderTime, to: &s.headerTime, least: leastTime},
		{name: "limits.idle_time", text: l.IdleTime, to: &s.idleTime, least: leastTime},
		{name: "limits.body_time", text: l.BodyTime, to: &s.bodyTime, least: leastTime},
		{name: "limits.write_time", text: l.WriteTime, to: &s.writeTime, least: leastTime},
		{name: "limits.call_lease", text: l.CallLease, to: &s.lease, least: leastLease},
		{name: "limits.output_time", text: l.OutputTime, to: &s.outputTime, least: api.MinKeep},
		// A call whose server has died just as it ended is given to another one, which must find that it has.
		{name: "limits.unfetched_time", text: l.UnfetchedTime, to: &s.unfetchedTime, over: func() time.Duration { return 2 * s.lease }, why: "twice limits.call_lease"},
		{name: "limits.kept_time", text: l.KeptTime, to: &s.keptTime, least: api.MinKeep},
		{name: "limits.pull_time", text: l.PullTime, to: &s.pullTime, least: leastTime},
		{name: "limits.orphan_time", text: l.OrphanTime, to: &s.orphanTime, least: leastTime},
		{name: "limits.retry_pause", text: l.RetryPause, to: &s.retry.First, least: leastPause},
		{name: "limits.retry_pause_max", text: l.RetryPauseMax, to: &s.retry.Most, over: func() time.Duration { return s.retry.First }, why: "limits.retry_pause"},
		{name: "idempotency.time", text: s.Idempotency.Time, to: &s.keyTime, least: api.MinKeep},
		{name: "dead.time", text: s.Dead.Time, to: &s.deadLetterTime, least: api.MinKeep},
		{name: "callbacks.timeout", text: s.Callbacks.Timeout, to: &s.callbacks.timeout, least: leastTime},
		{name: "callbacks.pause", text: s.Callbacks.Pause, to: &s.callbacks.pause, least: leastPause},
		{name: "callbacks.pause_max", text: s.Callbacks.MaxPause, to: &s.callbacks.maxPause, over: func() time.Duration { return s.callbacks.pause }, why: "callbacks.pause"},
		{name: "slots.idle", text: s.Slots.Idle, to: &s.idle, least: leastTime},
		{name: "stop.drain", text: s.Stop.Drain, to: &s.drain},
		{name: "stop.finish", text: s.Stop.Finish, to: &s.finish},
		{name: "runner.patience", text: s.Runner.Patience, to: &s.patience, least: leastTime},
		{name: "nomad.max_kill_timeout", text: s.Nomad.MaxKillTimeout, to: &s.maxKillTimeout, least: leastTime},
		{name: "nomad.dead_time", text: s.Nomad.DeadTime, to: &s.deadTime, least: leastTime},
	}
}
