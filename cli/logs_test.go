package cli

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// eventsOf are those of a call that waits, runs and finishes, and one that fails the day after.
func testEvents() []api.Event {
	at := func(text string) api.Timestamp {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			panic(err)
		}
		return api.Timestamp{Time: t}
	}
	const other = "0b9c8a52-6a0b-4a52-9f6f-0d3f1c1e7a10"
	return []api.Event{
		{Time: at("2017-03-16T15:05:58.001Z"), Event: "CALL", CallID: testCall, ShortStdin: "Hello\nthere\r\n"},
		{Time: at("2017-03-16T15:05:58.02Z"), Event: "PENDING", CallID: testCall, Message: "no capacity in the cluster"},
		{Time: at("2017-03-16T15:06:04Z"), Event: "RUNNING", CallID: testCall},
		{Time: at("2017-03-16T15:06:10Z"), Event: "FINISHED", CallID: testCall, ShortStdout: "a\tb\n\x1b[2J\n", ShortStderr: "warning"},
		{Time: at("2017-03-17T00:00:00Z"), Event: "CALL", CallID: other},
		{Time: at("2017-03-17T00:00:01Z"), Event: "FAILED", CallID: other, Message: "exit status 3", ShortStderr: "why\u202e"},
	}
}

func logsServer(t *testing.T, query *string) routes {
	return routes{
		"GET /v1.23/funcs/hello": reply(200, hello),
		logsPath: func(w http.ResponseWriter, r *http.Request) {
			*query = r.URL.RawQuery
			for _, e := range testEvents() {
				if err := json.NewEncoder(w).Encode(e); err != nil {
					t.Error(err)
				}
			}
		},
	}
}

// The form of the original's client, in which an event is one line whatever it holds.
func TestLogsInLines(t *testing.T) {
	t.Parallel()
	var query string
	server := logsServer(t, &query).serve(t)
	require.Equal(t, result{out: `2017-03-16T15:05:58.001Z [CALL] CallId: 218b7b10-e7f1-4c48-ac3c-66792f8ffc06, ShortStdin: Hello\nthere\r\n
2017-03-16T15:05:58.020Z [PENDING] CallId: 218b7b10-e7f1-4c48-ac3c-66792f8ffc06, Message: no capacity in the cluster
2017-03-16T15:06:04.000Z [RUNNING] CallId: 218b7b10-e7f1-4c48-ac3c-66792f8ffc06
2017-03-16T15:06:10.000Z [FINISHED] CallId: 218b7b10-e7f1-4c48-ac3c-66792f8ffc06, ShortStdout: a\tb\n\x1b[2J\n, ShortStderr: warning
2017-03-17T00:00:00.000Z [CALL] CallId: 0b9c8a52-6a0b-4a52-9f6f-0d3f1c1e7a10, ShortStdin: 
2017-03-17T00:00:01.000Z [FAILED] CallId: 0b9c8a52-6a0b-4a52-9f6f-0d3f1c1e7a10, Message: exit status 3, ShortStderr: why\u202e
`}, at(t, server, "", "logs", "hello"))
	require.Empty(t, query)

	r := at(t, server, "", "logs", "-o", "json", "--tail", "7", "--callid", testCall, "hello")
	require.Zero(t, r.status)
	require.Equal(t, "callid="+testCall+"&tail=7", query)
	dec := json.NewDecoder(strings.NewReader(r.out))
	for _, want := range testEvents() {
		var e api.Event
		require.NoError(t, dec.Decode(&e))
		require.Equal(t, want, e)
	}

	r = at(t, server, "", "logs", "--follow", "--tail=all", "hello")
	require.Equal(t, "follow=1", query)
	require.Equal(t, ExitUnavailable, r.status, "its end is the server's")
	require.Equal(t, "funcd: funcd at "+server.URL+" has ended the stream of events\n", r.err)

	requireUsage(t, at(t, server, "", "logs", "--tail", "-1", "hello"), `--tail: "-1" must be all or a number`)
	requireUsage(t, at(t, server, "", "logs", "--tail", "x", "hello"), `--tail: "x" must be all or a number`)
	requireUsage(t, at(t, server, "", "logs", "--callid", "x", "hello"), `--callid: "x" is not the id of a call`)
	requireUsage(t, at(t, server, "", "logs"), "logs needs one NAME")
	require.Equal(t, ExitNotFound, at(t, server, "", "logs", "none").status)
}

// The form for a person.
func TestLogsInColumns(t *testing.T) {
	t.Parallel()
	day := time.Date(2017, 3, 16, 0, 0, 0, 0, time.UTC)
	show := func(p eventColumns) string {
		var b strings.Builder
		for _, e := range testEvents() {
			b.WriteString(p.lines(e))
		}
		return b.String()
	}
	require.Equal(t, `15:05:58.001  218b7b10  CALL      stdin   Hello
                                          there
15:05:58.020  218b7b10  PENDING   no capacity in the cluster
15:06:04.000  218b7b10  RUNNING
15:06:10.000  218b7b10  FINISHED  stdout  a    b
                                          \x1b[2J
                                  stderr  warning
--- 2017-03-17
00:00:00.000  0b9c8a52  CALL
00:00:01.000  0b9c8a52  FAILED    exit status 3
                                  stderr  why\u202e
`, show(eventColumns{today: day, zone: time.UTC}))

	whole := show(eventColumns{today: day.AddDate(1, 0, 0), zone: time.FixedZone("", 3600), wholeIDs: true})
	require.True(t, strings.HasPrefix(whole, "--- 2017-03-16\n16:05:58.001  "+testCall+"  CALL      stdin   Hello\n"), whole)

	colourful := show(eventColumns{today: day, zone: time.UTC, colours: true})
	require.Contains(t, colourful, "\x1b[31;1mFAILED\x1b[")
	require.Contains(t, colourful, "\x1b[32;1mFINISHED\x1b[")
	require.NotContains(t, colourful, "\x1b[2J", "only what funcd itself has written steers the terminal")
	require.NotContains(t, colourful, "\u202e")
	plain := sgr.ReplaceAllString(colourful, "")
	require.Equal(t, show(eventColumns{today: day, zone: time.UTC}), plain, "colours change nothing else")
}

// A long line is broken beside its columns, and not by the terminal below them.
func TestLogsInTheWidthOfATerminal(t *testing.T) {
	t.Parallel()
	at := api.Timestamp{Time: time.Date(2017, 3, 16, 15, 5, 58, 0, time.UTC)}
	events := []api.Event{
		{Time: at, Event: "CALL", CallID: testCall, ShortStdin: strings.Repeat("0123456789", 6) + "\nshort"},
		{Time: at, Event: "FAILED", CallID: testCall, Message: "no capacity in the cluster: memory exhausted on 1 node", ShortStderr: "é" + strings.Repeat("a", 30)},
	}
	for width, want := range map[int]string{
		72: `15:05:58.000  218b7b10  CALL      stdin   012345678901234567890123456789
                                          012345678901234567890123456789
                                          short
15:05:58.000  218b7b10  FAILED    no capacity in the cluster: memory
                                  exhausted on 1 node
                                  stderr  éaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
                                          a
`,
		40: `15:05:58.000  218b7b10  CALL      stdin   012345678901234567890123456789012345678901234567890123456789
                                          short
15:05:58.000  218b7b10  FAILED    no capacity in the cluster: memory exhausted on 1 node
                                  stderr  éaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
`,
	} {
		p := eventColumns{today: at.Time, zone: time.UTC, width: func() int { return width }}
		require.Equal(t, want, p.lines(events[0])+p.lines(events[1]), width)
	}
}
