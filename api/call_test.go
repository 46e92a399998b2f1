package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestShort(t *testing.T) {
	t.Parallel()
	a := func(n int) string { return strings.Repeat("a", n) }
	for name, c := range map[string]struct{ in, want string }{
		"empty":                                 {"", ""},
		"254 bytes stay":                        {a(254), a(254)},
		"255 bytes stay":                        {a(255), a(255)},
		"256 bytes are cut":                     {a(256), a(255)},
		"a character that ends at 255 stays":    {a(251) + "😀b", a(251) + "😀"},
		"two bytes over the end are left out":   {a(254) + "äb", a(254)},
		"three bytes over the end":              {a(253) + "€b", a(253)},
		"four bytes over the end":               {a(252) + "😀b", a(252)},
		"four bytes, one of them within":        {a(254) + "😀b", a(254)},
		"invalid UTF-8 is replaced":             {"a\xffb", "a\uFFFDb"},
		"continuation bytes only are no cut":    {strings.Repeat("\x80", 300), "\uFFFD"},
		"a short text's cut end is replaced":    {"a\xe2\x82", "a\uFFFD"},
		"an invalid byte at the end of 255":     {a(254) + "\xffb", a(254) + "\uFFFD"},
		"a NUL is a character":                  {"a\x00b", "a\x00b"},
		"an invalid start within the last four": {a(252) + "\xffaab", a(252) + "\uFFFDaa"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := []byte(c.in)
			got := Short(in)
			require.Equal(t, c.want, got)
			require.True(t, utf8.ValidString(got))
			require.Equal(t, c.in, string(in), "the input is left alone")
		})
	}
}

func TestStateEnded(t *testing.T) {
	t.Parallel()
	for state, want := range map[State]bool{Pending: false, Running: false, Finished: true, Failed: true, "": false} {
		require.Equal(t, want, state.Ended(), string(state))
	}
}

func TestEventJSON(t *testing.T) {
	t.Parallel()
	at := Timestamp{time.Date(2017, 3, 16, 7, 5, 24, 473e6, time.UTC)}
	line, err := json.Marshal(Event{Time: at, Event: Called, CallID: "c", ShortStdin: "in"})
	require.NoError(t, err)
	require.JSONEq(t, `{"Time":"2017-03-16T07:05:24.473Z","Event":"CALL","CallId":"c","ShortStdin":"in"}`, string(line))
}

func TestRecordJSON(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for name, r := range map[string]Record{
		"pending": {CallID: "c", Function: "f", Account: "a", State: Pending, Accepted: now, Message: "no capacity"},
		"failed": {CallID: "c", Function: "f", Account: "a", State: Failed, Accepted: now, Started: now, Ended: now, Job: "j",
			Allocation: "l", Timeout: 300, ExitCode: 3, Code: CallFailed, Message: "exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := json.Marshal(r)
			require.NoError(t, err)
			require.Equal(t, r.Started.IsZero(), !strings.Contains(string(text), "Started"))
			var again Record
			require.NoError(t, json.Unmarshal(text, &again))
			require.Equal(t, r, again)
		})
	}
}
