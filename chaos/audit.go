package main

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// verdict is what the audit has found.
type verdict struct {
	faults     map[string]int // by kind
	calls      map[state]int
	reasons    map[string]int // of failures, without what is a call's own
	unanswered map[string]int // why calls are unknown
	started    int            // calls whose process has started
	again      int            // those whose process was started more than once
	repeated   int            // calls with a key that were asked for twice
	longest    time.Duration  // from a call's acceptance to its answer
	violations []string
}

// platform are the reasons for which a call of the workload may fail: its functions never fail by themselves. started tells that such a
// failure is one of calls that may have been given to a container; one that surely was not must go to another instead.
var platform = regexp.MustCompile(`^(node lost: |the container of the call is gone|the container was killed by signal|the container ended |` +
	`the container was stopped in Nomad|killed by signal 9|killed by signal 15|the container is lost|` +
	// Nomad's client forgets a container whose end it has not told before it is killed, and its server says for ever that it runs.
	`timeout: no result came within [0-9]+ s, and Nomad says that its container runs on$)`)

// audit holds what callers were told against what the functions say.
func audit(calls []call, journal map[int]entry) *verdict {
	v := &verdict{calls: map[state]int{}, reasons: map[string]int{}, unanswered: map[string]int{}}
	for _, c := range calls {
		e := journal[c.n]
		v.calls[c.state]++
		v.longest = max(v.longest, c.took)
		if e.starts > 0 {
			v.started++
		}
		if e.starts > 1+retries[c.function] {
			v.violate(c, "its process was started %d times", e.starts)
		}
		for _, id := range c.ids {
			if id != c.id() {
				v.violate(c, "its key stands for another call, too: %s", id)
			}
		}
		if len(c.ids) > 1 {
			v.repeated++
		}
		if e.starts > 1 {
			v.again++
		}
		if c.cancel.done && (c.state != failed || c.message != cancelled) {
			v.violate(c, "it was cancelled, and is %s: %s", c.state, c.message)
		}
		switch c.state {
		case finished:
			switch {
			case e.starts == 0:
				v.violate(c, "it is finished and was never started")
			case !slices.Contains(e.wrote, c.output) || len(e.wrote) > 1 && retries[c.function] == 0:
				v.violate(c, "its output is %q, and its function wrote %q", c.output, e.wrote)
			}
		case failed:
			v.reasons[general(c.message)]++
			if !c.mayFailWith(c.message) {
				v.violate(c, "it failed for a reason that can't be true: %s", c.message)
			}
		case unknown:
			v.unanswered[general(c.message)]++
		case gone:
			v.violate(c, "it was accepted and is not known any more: %s", c.message)
		case pending:
			v.violate(c, "it was accepted and has not ended: %s", c.message)
		case refused:
			if e.starts > 0 {
				v.violate(c, "it was refused and has started")
			}
		}
	}
	return v
}

// mayFailWith tells whether a call can have failed for this reason.
func (c *call) mayFailWith(message string) bool {
	switch message {
	case cancelled:
		return c.cancel.asked
	case "exit status 1":
		return c.fails > 0
	}
	return platform.MatchString(message)
}

func (v *verdict) violate(c call, format string, values ...any) {
	v.violations = append(v.violations, c.name()+": "+fmt.Sprintf(format, values...))
}

// name tells calls apart.
func (c *call) name() string {
	how := "asynchronous"
	if c.sync {
		how = "synchronous"
	}
	return fmt.Sprintf("call %d (%s, %s, %s)", c.n, c.function, how, c.id())
}

var own = regexp.MustCompile(`127\.0\.0\.1:[0-9]+|[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{12,}`)

// general is a reason without the ids in it.
func general(reason string) string {
	reason = own.ReplaceAllString(reason, "…")
	if len(reason) > 120 {
		reason = strings.ToValidUTF8(reason[:120], "") + "…"
	}
	return reason
}

func (v *verdict) print(w io.Writer) {
	fmt.Fprintln(w, "\nfaults")
	for _, kind := range slices.Sorted(maps.Keys(v.faults)) {
		fmt.Fprintf(w, "  %4d  %s\n", v.faults[kind], kind)
	}
	total := 0
	for _, n := range v.calls {
		total += n
	}
	fmt.Fprintf(w, "calls: %d, of which %d were started; the longest took %s\n", total, v.started, v.longest.Round(time.Second))
	fmt.Fprintf(w, "of them %d were started again after a failure, and %d were asked for again with their key\n", v.again, v.repeated)
	for _, s := range slices.Sorted(maps.Keys(v.calls)) {
		fmt.Fprintf(w, "  %4d  %s\n", v.calls[s], s)
	}
	for _, list := range []struct {
		title  string
		counts map[string]int
	}{{"failed because", v.reasons}, {"unknown because", v.unanswered}} {
		if len(list.counts) > 0 {
			fmt.Fprintln(w, list.title)
		}
		for _, reason := range slices.Sorted(maps.Keys(list.counts)) {
			fmt.Fprintf(w, "  %4d  %s\n", list.counts[reason], reason)
		}
	}
	fmt.Fprintf(w, "violations: %d\n", len(v.violations))
	for _, violation := range v.violations {
		fmt.Fprintln(w, "  "+violation)
	}
}
