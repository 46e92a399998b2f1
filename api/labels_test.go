package api

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func labelled(labels map[string]string) *Function {
	return &Function{Config: Config{Labels: labels}}
}

func TestExtensions(t *testing.T) {
	t.Parallel()
	with := func(change func(*Extensions)) Extensions {
		e := Extensions{Warm: -1, ReuseMax: 1000}
		change(&e)
		return e
	}
	for name, c := range map[string]struct {
		labels map[string]string
		want   Extensions
	}{
		"no labels":        {nil, with(func(*Extensions) {})},
		"others' labels":   {map[string]string{"warm": "x", "funcd": "x", "Funcd.warm": "x", "funcd-x": "", "": ""}, with(func(*Extensions) {})},
		"none warm":        {map[string]string{"funcd.warm": "0"}, with(func(e *Extensions) { e.Warm = 0 })},
		"two warm":         {map[string]string{"funcd.warm": "2"}, with(func(e *Extensions) { e.Warm = 2 })},
		"the most warm":    {map[string]string{"funcd.warm": "1000"}, with(func(e *Extensions) { e.Warm = 1000 })},
		"reuse":            {map[string]string{"funcd.reuse": "true"}, with(func(e *Extensions) { e.Reuse = true })},
		"no reuse":         {map[string]string{"funcd.reuse": "false"}, with(func(*Extensions) {})},
		"reuse once":       {map[string]string{"funcd.reuse.max": "1"}, with(func(e *Extensions) { e.ReuseMax = 1 })},
		"the most reuse":   {map[string]string{"funcd.reuse.max": "1000000"}, with(func(e *Extensions) { e.ReuseMax = 1_000_000 })},
		"idle":             {map[string]string{"funcd.idle": "90s"}, with(func(e *Extensions) { e.Idle = 90 * time.Second })},
		"idle for a while": {map[string]string{"funcd.idle": "1h2m3.5s"}, with(func(e *Extensions) { e.Idle = time.Hour + 2*time.Minute + 3500*time.Millisecond })},
		"retries":          {map[string]string{"funcd.retries": "3"}, with(func(e *Extensions) { e.Calls.Retries, e.Calls.Dead = 3, true })},
		"no retries":       {map[string]string{"funcd.retries": "0"}, with(func(*Extensions) {})},
		"the most retries": {map[string]string{"funcd.retries": "100"}, with(func(e *Extensions) { e.Calls.Retries, e.Calls.Dead = 100, true })},
		"keep":             {map[string]string{"funcd.keep": "24h"}, with(func(e *Extensions) { e.Calls.Keep = 24 * time.Hour })},
		"dead letters":     {map[string]string{"funcd.dead": "true"}, with(func(e *Extensions) { e.Calls.Dead = true })},
		"no dead letters":  {map[string]string{"funcd.dead": "false", "funcd.retries": "3"}, with(func(e *Extensions) { e.Calls.Retries = 3 })},
		"an age":           {map[string]string{"funcd.maxage": "1h30m"}, with(func(e *Extensions) { e.Calls.MaxAge = 90 * time.Minute })},
		"all": {
			map[string]string{"funcd.warm": "3", "funcd.reuse": "true", "funcd.reuse.max": "7", "funcd.idle": "1m", "tier": "front"},
			Extensions{Warm: 3, Reuse: true, ReuseMax: 7, Idle: time.Minute},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := labelled(c.labels).Extensions()
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestWrongExtensionsAreNamed(t *testing.T) {
	t.Parallel()
	number, duration := "must be a number from ", "must be a duration such as"
	for label, c := range map[string]struct {
		must   string
		values []string
	}{
		"funcd.warm":      {number + "0 to 1000", []string{"", "-1", "1001", "1.5", "two", " 1", "1 ", "0x1", "1e2", "99999999999999999999"}},
		"funcd.reuse":     {"must be true or false", []string{"", "True", "1", "yes", "true "}},
		"funcd.reuse.max": {number + "1 to 1000000", []string{"", "0", "-1", "1000001", "many"}},
		"funcd.idle":      {duration, []string{"", "0", "0s", "-5m", "5", "5 m", "soon"}},
		"funcd.retries":   {number + "0 to 100", []string{"", "-1", "101", "1.5", "two"}},
		"funcd.maxage":    {duration, []string{"", "0", "-1s", "5", "soon"}},
		"funcd.keep":      {"must be a duration of a second or more", []string{"", "0", "-1s", "999ms", "24", "1d", "soon"}},
		"funcd.dead":      {"must be true or false", []string{"", "True", "1"}},
		"funcd.cold":      {"is not known", []string{"", "1"}},
		"funcd.":          {"is not known", []string{"", "1"}},
		"funcd.Warm":      {"is not known", []string{"1"}},
		"funcd.warm ":     {"is not known", []string{"1"}},
		"funcd.reuse.min": {"is not known", []string{"1"}},
	} {
		for _, value := range c.values {
			f := labelled(map[string]string{label: value, "tier": "front"})
			got, err := f.Extensions()
			requireInvalid(t, err, "Config.Labels: ", label)
			require.Contains(t, err.Error(), c.must, "%s=%q", label, value)
			require.Zero(t, got)
		}
	}
	_, err := labelled(map[string]string{"funcd.none": ""}).Extensions()
	require.Contains(t, err.Error(), "funcd.callback, funcd.dead, funcd.idle, funcd.keep, funcd.maxage, funcd.retries, funcd.reuse, funcd.reuse.max, funcd.warm", "what there is")
	for _, long := range []map[string]string{{"funcd." + strings.Repeat("x", 1<<20): ""}, {"funcd.warm": strings.Repeat("9", 1<<20)}} {
		_, err := labelled(long).Extensions()
		requireInvalid(t, err, "Config.Labels: ", "funcd.")
	}
}

// The same function always has the same error, whatever the order of its labels.
func TestFirstWrongExtensionIsNamed(t *testing.T) {
	t.Parallel()
	for range 50 {
		_, err := labelled(map[string]string{"funcd.warm": "x", "funcd.idle": "x", "funcd.reuse": "x", "funcd.z": "x"}).Extensions()
		requireInvalid(t, err, "Config.Labels: funcd.idle", "a duration")
	}
}

func TestCreateRefusesWrongExtensions(t *testing.T) {
	t.Parallel()
	_, err := ParseFunction([]byte(create("", `"Labels":{"funcd.warm":"many"}`, "")))
	requireInvalid(t, err, "Config.Labels: ", "funcd.warm")
	f, err := ParseFunction([]byte(create("", `"Labels":{"funcd.warm":"2"}`, "")))
	require.NoError(t, err)
	e, err := f.Extensions()
	require.NoError(t, err)
	require.Equal(t, 2, e.Warm)
}

func FuzzExtensions(f *testing.F) {
	for _, seed := range []string{"2", "true", "90s", "", "-1", "1e9", "９"} {
		for name := range labels {
			f.Add(name, seed)
		}
		f.Add("funcd."+seed, seed)
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		e, err := labelled(map[string]string{name: value}).Extensions()
		_, known := labels[name]
		switch {
		case !strings.HasPrefix(name, LabelPrefix):
			require.NoError(t, err)
			require.Equal(t, Extensions{Warm: -1, ReuseMax: DefaultReuseMax}, e)
		case err != nil:
			require.Equal(t, Invalid, CodeOf(err))
			require.Zero(t, e)
		default:
			require.True(t, known, name)
			require.True(t, e.Warm >= -1 && e.Warm <= MaxWarm && e.ReuseMax >= 1 && e.ReuseMax <= MaxReuse && e.Idle >= 0, "%+v", e)
			require.True(t, e.Calls.Retries >= 0 && e.Calls.Retries <= MaxRetries && e.Calls.MaxAge >= 0, "%+v", e)
			require.True(t, e.Warm != -1 || name != "funcd.warm", value)
		}
	})
}
