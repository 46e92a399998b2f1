package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/calls"
)

// setting is the text of one setting, "block.name" or "name", and of others of its block.
func setting(name, value, others string) string {
	block, key, inBlock := strings.Cut(name, ".")
	if !inBlock {
		return fmt.Sprintf("%s = %s\n", name, value)
	}
	return fmt.Sprintf("%s {\n%s\n%s = %s\n}\n", block, others, key, value)
}

// TestTheLeast: what would break the server, or what it promises, is refused with the setting's name and what it may be; the least and the most are not.
func TestTheLeast(t *testing.T) {
	t.Parallel()
	const most, mostTime = "1099511627776", `"87600h"`
	for _, c := range []struct {
		name, least, below, most, above string
		others                          string // of the same block
	}{
		{name: "quota", least: "1", below: "0", most: "100000", above: "100001"},
		{name: "limits.payload", least: "4096", below: "4095", most: "1048576", above: "1048577"},
		{name: "limits.output", least: "1", below: "0", most: "1048576", above: "1048577"},
		{name: "limits.queued_calls", least: "1", below: "0", most: most, above: "9223372036854775807"},
		{name: "limits.queued_bytes", least: "2097152", below: "2097151", most: most, above: "1099511627777"},
		{name: "limits.starts", least: "1", below: "0"},
		{name: "limits.connections", least: "16", below: "15"},
		{name: "limits.disk_free", least: "0", below: "-1", most: most, above: "1099511627777"},
		{name: "limits.stored_outputs", least: "5096", below: "5095", most: most, above: "1099511627777", others: "output = 1000"},
		{name: "limits.stored_outputs", least: "1052672", below: "1052671"},
		{name: "limits.stored_logs", least: "65536", below: "65535", most: most, above: "1099511627777"},
		{name: "limits.kept_calls", least: "1", below: "0"},
		{name: "limits.unfetched_calls", least: "1", below: "0"},
		{name: "limits.pulls", least: "1", below: "0"},
		{name: "limits.headers", least: "4096", below: "4095", most: "65536", above: "65537"},
		{name: "limits.header_time", least: `"1s"`, below: `"999ms"`, most: mostTime, above: `"87600h1s"`},
		{name: "limits.idle_time", least: `"1s"`, below: `"999ms"`},
		{name: "limits.body_time", least: `"1s"`, below: `"1ns"`},
		{name: "limits.write_time", least: `"1s"`, below: `"0s"`},
		{name: "limits.output_time", least: `"1s"`, below: `"50ms"`},
		{name: "limits.unfetched_time", least: `"40s"`, below: `"39s"`, most: mostTime, above: `"87601h"`},
		{name: "limits.unfetched_time", least: `"6s"`, below: `"5s"`, others: `call_lease = "3s"`},
		{name: "limits.kept_time", least: `"1s"`, below: `"999ms"`},
		{name: "limits.call_lease", least: `"3s"`, below: `"2999ms"`},
		{name: "limits.call_lease", least: `"3s"`, below: `"2ns"`}, // a third of it is no time
		{name: "limits.pull_time", least: `"1s"`, below: `"-1s"`},
		{name: "limits.orphan_time", least: `"1s"`, below: `"0s"`},
		{name: "limits.retry_pause", least: `"100ms"`, below: `"99ms"`},
		{name: "limits.retry_pause_max", least: `"2s"`, below: `"1999ms"`, most: mostTime, above: `"2562047h"`, others: `retry_pause = "2s"`},
		{name: "idempotency.time", least: `"1s"`, below: `"999ms"`, most: mostTime, above: `"2562047h"`},
		{name: "idempotency.keys", least: "1", below: "0"},
		{name: "dead.calls", least: "1", below: "0"},
		{name: "dead.bytes", least: "2097152", below: "2097151"},
		{name: "dead.time", least: `"1s"`, below: `"999ms"`},
		{name: "callbacks.concurrent", least: "1", below: "0"},
		{name: "callbacks.timeout", least: `"1s"`, below: `"999ms"`},
		{name: "callbacks.attempts", least: "1", below: "0"},
		{name: "callbacks.pause", least: `"100ms"`, below: `"99ms"`},
		{name: "callbacks.pause_max", least: `"3s"`, below: `"2s"`, others: `pause = "3s"`},
		{name: "callbacks.calls", least: "1", below: "0"},
		{name: "callbacks.bytes", least: "2097152", below: "2097151"},
		{name: "slots.function", least: "0", below: "-1"},
		{name: "slots.account", least: "0", below: "-1"},
		{name: "slots.total", least: "0", below: "-1"},
		{name: "slots.idle", least: `"1s"`, below: `"999ms"`},
		{name: "stop.drain", least: `"0s"`, below: `"-1ns"`, most: mostTime, above: `"2562047h"`},
		{name: "stop.finish", least: `"0s"`, below: `"-1ns"`, most: mostTime, above: `"2562047h"`},
		{name: "runner.patience", least: `"1s"`, below: `"999ms"`},
		{name: "nomad.priority", least: "1", below: "0"},
		{name: "nomad.max_kill_timeout", least: `"1s"`, below: `"999ms"`},
		{name: "nomad.pids_limit", least: "0", below: "-1"},
		{name: "nomad.pids_limit", least: "32", below: "31"},
		{name: "nomad.dead_time", least: `"1s"`, below: `"999ms"`},
		{name: "nomad.dead_jobs", least: "0", below: "-1"},
		{name: "nomad.purge_rate", least: "1", below: "0"},
		{name: "nats.replicas", least: "1", below: "0", most: "1", above: "2"},
		{name: "nats.replicas", least: "1", below: "0", most: "5", above: "6", others: `url = "nats://127.0.0.1:4222"`},
	} {
		t.Run(c.name+" "+c.least, func(t *testing.T) {
			t.Parallel()
			for wrong, right := range map[string]string{c.below: c.least, c.above: c.most} {
				if right == "" {
					continue
				}
				_, err := load(t, setting(c.name, right, c.others))
				require.NoError(t, err, right)
				_, err = load(t, setting(c.name, wrong, c.others))
				require.Error(t, err, wrong)
				require.Regexp(t, "^"+regexp.QuoteMeta(c.name)+": [^\n]*(at least|at most|be) "+strings.Trim(right, `"`)+`\b`, err.Error())
			}
		})
	}
}

// TestTheLeastHoldsTheLargest: with as little room as may be configured there is still some for one call, with the largest payload and headers, and its output.
func TestTheLeastHoldsTheLargest(t *testing.T) {
	t.Parallel()
	store, err := calls.Open(t.Context(), calls.Config{
		Dir: t.TempDir(), QueueBytes: maxStored, OutputBytes: maxMessagePart + besideOutput, LogBytes: leastLogs, DeadBytes: maxStored, CallbackBytes: maxStored,
		Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	defer store.Close()
	call := &api.Call{
		ID: uuid.NewString(), Function: "0123456789abcdef0123456789abcdef", Name: "hello", Account: "acme", Accepted: time.Now(),
		Env: []string{"HTTP_X=" + strings.Repeat("<", maxHeaders)}, Payload: bytes.Repeat([]byte("x"), maxMessagePart), // JSON has six bytes for each <
	}
	require.NoError(t, store.Enqueue(t.Context(), call))
	queued, err := store.Queued(t.Context(), call.Account, call.Function, call.ID)
	require.NoError(t, err)
	require.Len(t, queued.Payload, maxMessagePart)
	for range 2 { // the second has the place of the first
		other := uuid.NewString()
		require.NoError(t, store.SaveOutput(t.Context(), call.Function, other, call.Payload))
		output, err := store.Output(t.Context(), call.Function, other)
		require.NoError(t, err)
		require.Len(t, output, maxMessagePart)
	}
	require.NoError(t, store.Bury(t.Context(), call, api.Record{CallID: call.ID, Function: call.Function, State: api.Failed, Message: strings.Repeat("x", 4<<10)}))
	_, letter, _, err := store.DeadLetter(t.Context(), call.Account, call.ID)
	require.NoError(t, err)
	require.Len(t, letter.Payload, maxMessagePart)
	callback := api.Callback{CallID: call.ID, Function: call.Function, Name: call.Name, Account: call.Account, URL: "https://example.com/" + strings.Repeat("x", 4<<10)}
	require.NoError(t, store.QueueCallback(t.Context(), callback, call.Payload))
}

// TestBoundsAreExplained: what a setting must be at least, or may be at most, is beside it in the file that explains every setting, but for what is so of all.
func TestBoundsAreExplained(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../configs/funcd.hcl")
	require.NoError(t, err)
	// The lines of a block that belong together, by the names of their settings.
	explained, block := map[string]string{}, ""
	for _, paragraph := range strings.Split(string(text), "\n\n") {
		names := []string{}
		for _, line := range strings.Split(paragraph, "\n") {
			if opens := regexp.MustCompile(`^(?:# )?(\w+) \{$`).FindStringSubmatch(line); opens != nil {
				block = opens[1] + "."
			} else if line == "}" || line == "# }" {
				block = ""
			} else if sets := regexp.MustCompile(`^\s*(?:# )?(\w+)\s+= `).FindStringSubmatch(line); sets != nil {
				names = append(names, block+sets[1])
			}
		}
		for _, name := range names {
			explained[name] = paragraph
		}
	}
	s, err := load(t, "nats {\n url = \"nats://127.0.0.1:4222\"\n}\n")
	require.NoError(t, err)
	says := func(name, what string) {
		require.Contains(t, explained, name)
		require.Regexp(t, regexp.QuoteMeta(what)+`\b`, explained[name], name)
	}
	for _, n := range s.numbers() {
		if n.name == "limits.stored_outputs" {
			says(n.name, fmt.Sprint("at least limits.output and ", besideOutput))
		} else if n.least > 1 {
			says(n.name, fmt.Sprint("at least ", n.least))
		}
		if n.least == 0 || n.none {
			says(n.name, "0")
		}
		if n.most != 0 {
			says(n.name, fmt.Sprint("at most ", n.most))
		}
	}
	for _, p := range s.periods() {
		switch {
		case p.over != nil:
			says(p.name, "at least "+p.why)
		case p.least == 0:
			says(p.name, "0s")
		case p.least != time.Second:
			says(p.name, "at least "+short(p.least))
		}
	}
	require.Contains(t, string(text), fmt.Sprintf("A number is at least 1 and at most %d, and a time at least 1s and at most %s, where nothing else is said.", mostNumber, short(mostTime)))
}

// TestEveryNumberIsBounded: none of the configuration's numbers and times is used unchecked.
func TestEveryNumberIsBounded(t *testing.T) {
	t.Parallel()
	s, err := load(t, "")
	require.NoError(t, err)
	bounded := map[string]bool{}
	for _, n := range s.numbers() {
		bounded[n.name] = true
	}
	for _, p := range s.periods() {
		bounded[p.name] = true
	}
	found := 0
	var look func(prefix string, block reflect.Value)
	look = func(prefix string, block reflect.Value) {
		for i := range block.NumField() {
			name, _, _ := strings.Cut(block.Type().Field(i).Tag.Get("hcl"), ",")
			field := block.Field(i)
			if field.Kind() == reflect.Pointer && !field.IsNil() {
				look(name+".", field.Elem())
				continue
			}
			_, err := time.ParseDuration(field.String())
			if field.Kind() == reflect.Int || field.Kind() == reflect.String && err == nil {
				found++
				require.True(t, bounded[prefix+name], "%s%s", prefix, name)
			}
		}
	}
	look("", reflect.ValueOf(defaultConfig()))
	require.Equal(t, len(bounded), found)
}
