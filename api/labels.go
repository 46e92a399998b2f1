package api

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// LabelPrefix begins the labels by which a function asks for what the Func API has no field for. Labels are what every client can set.
const LabelPrefix = "funcd."

// Extensions is what a function's labels under LabelPrefix ask for.
type Extensions struct {
	Warm     int           // funcd.warm: containers kept ready for calls; negative: as many as its calls need
	Reuse    bool          // funcd.reuse: a container serves one call after another
	ReuseMax int           // funcd.reuse.max: calls that one container serves at most
	Idle     time.Duration // funcd.idle: without a call for so long, no container is kept ready; 0: the server's default

	Calls CallOptions // of each of its calls
}

// Bounds and defaults of Extensions.
const (
	MaxWarm         = 1000
	DefaultReuseMax = 1000
	MaxReuse        = 1_000_000
	MaxRetries      = 100
	MinKeep         = time.Second // what JetStream can keep a message for
)

// labels reads each label into Extensions. What it says of a wrong value follows "must be".
var labels = map[string]struct {
	read func(e *Extensions, value string) bool
	must string
}{
	"funcd.warm": {func(e *Extensions, v string) (ok bool) {
		e.Warm, ok = number(v, 0, MaxWarm)
		return ok
	}, "a number from 0 to 1000"},
	"funcd.reuse": {func(e *Extensions, v string) bool {
		e.Reuse = v == "true"
		return v == "true" || v == "false"
	}, "true or false"},
	"funcd.reuse.max": {func(e *Extensions, v string) (ok bool) {
		e.ReuseMax, ok = number(v, 1, MaxReuse)
		return ok
	}, "a number from 1 to 1000000"},
	"funcd.idle": {func(e *Extensions, v string) (ok bool) {
		e.Idle, ok = duration(v)
		return ok
	}, aDuration},
	"funcd.retries": {func(e *Extensions, v string) (ok bool) {
		e.Calls.Retries, ok = number(v, 0, MaxRetries)
		return ok
	}, "a number from 0 to 100"},
	"funcd.keep": {func(e *Extensions, v string) (ok bool) {
		e.Calls.Keep, ok = duration(v)
		return ok && e.Calls.Keep >= MinKeep
	}, `a duration of a second or more, such as "90s" or "24h"`},
	"funcd.callback": {func(e *Extensions, v string) bool {
		e.Calls.Callback = v
		return ValidCallback(v)
	}, `a URL such as "https://example.com/results", without a user or a fragment`},
	"funcd.dead": {func(e *Extensions, v string) bool {
		e.Calls.Dead = v == "true"
		return v == "true" || v == "false"
	}, "true or false"},
	"funcd.maxage": {func(e *Extensions, v string) (ok bool) {
		e.Calls.MaxAge, ok = duration(v)
		return ok
	}, aDuration},
}

const aDuration = `a duration such as "90s" or "5m"`

func duration(text string) (time.Duration, bool) {
	d, err := time.ParseDuration(text)
	return d, err == nil && d > 0
}

func number(text string, least, most int) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= least && n <= most
}

// Extensions reads the function's labels. The error is of code Invalid and names the label that is wrong, or unknown under LabelPrefix.
func (f *Function) Extensions() (Extensions, error) {
	e := Extensions{Warm: -1, ReuseMax: DefaultReuseMax}
	for _, name := range slices.Sorted(maps.Keys(f.Config.Labels)) {
		if !strings.HasPrefix(name, LabelPrefix) {
			continue
		}
		label, ok := labels[name]
		if !ok {
			return Extensions{}, Errorf(Invalid, "Config.Labels: %.100q is not known, only %s begin with %s", name,
				strings.Join(slices.Sorted(maps.Keys(labels)), ", "), LabelPrefix)
		}
		if !label.read(&e, f.Config.Labels[name]) {
			return Extensions{}, Errorf(Invalid, "Config.Labels: %s: %.100q must be %s", name, f.Config.Labels[name], label.must)
		}
	}
	if _, said := f.Config.Labels["funcd.dead"]; !said {
		e.Calls.Dead = e.Calls.Retries > 0 // whoever wants a call tried again wants to know that it was in vain
	}
	if f.PublishesPorts() {
		// The service of a port is that of one call, and carries its id from the container's start on.
		if e.Warm > 0 || e.Reuse {
			return Extensions{}, Errorf(Invalid, "Config.Labels: a function that publishes ports has a new container for each call, so funcd.warm and funcd.reuse can't be set")
		}
		e.Warm = 0
	}
	return e, nil
}
