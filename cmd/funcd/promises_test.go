package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPromises(t *testing.T) {
	t.Parallel()
	s, err := load(t, "")
	require.NoError(t, err)
	require.Equal(t, 24*time.Hour, s.keyTime)
	require.Equal(t, 14*24*time.Hour, s.deadLetterTime)
	require.Equal(t, 720*time.Hour, s.functionPolicy("team").MaxKeep)
	require.Empty(t, s.callbacks.allow)
	require.Equal(t, 10*time.Second, s.callbacks.timeout)
	s, err = load(t, "callbacks {\n allow = [\"127.0.0.0/8\", \"::1/128\"]\n}\n")
	require.NoError(t, err)
	require.Len(t, s.callbacks.allow, 2)
	s, err = load(t, "idempotency {\n time = \"1h\"\n}\nlimits {\n kept_time = \"48h\"\n}\n")
	require.NoError(t, err)
	require.Equal(t, time.Hour, s.keyTime)
	require.Equal(t, 1_000_000, s.Idempotency.Keys)
	require.Equal(t, 48*time.Hour, s.functionPolicy("team").MaxKeep)
}

func TestWrongPromises(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"limits {\n kept_calls = 0\n}":                       "limits.kept_calls: must be at least 1",
		"limits {\n kept_time = \"day\"\n}":                  "limits.kept_time:",
		"idempotency {\n keys = 0\n}":                        "idempotency.keys: must be at least 1",
		"idempotency {\n time = \"\"\n}":                     "idempotency.time:",
		"idempotency {\n time = \"999ms\"\n}":                `idempotency.time: "999ms" must be at least 1s`,
		"dead {\n calls = 0\n}":                              "dead.calls: must be at least 1",
		"dead {\n bytes = 1\n}":                              "dead.bytes: must be at least 2097152",
		"dead {\n time = \"never\"\n}":                       "dead.time:",
		"callbacks {\n allow = [\"10.0.0.1\"]\n}":            "callbacks.allow: \"10.0.0.1\" must be a network",
		"callbacks {\n allow = [\"10.0.0.1/8\"]\n}":          `callbacks.allow: "10.0.0.1/8" must be a network`,
		"callbacks {\n allow = [\"::ffff:10.0.0.0/104\"]\n}": "callbacks.allow:",
		"callbacks {\n allow = [\"example.com\"]\n}":         "callbacks.allow:",
		"callbacks {\n concurrent = 0\n}":                    "callbacks.concurrent: must be at least 1",
		"callbacks {\n attempts = 0\n}":                      "callbacks.attempts:",
		"callbacks {\n calls = 0\n}":                         "callbacks.calls:",
		"callbacks {\n bytes = 5\n}":                         "callbacks.bytes:",
		"callbacks {\n timeout = \"\"\n}":                    "callbacks.timeout:",
		"callbacks {\n pause = \"0s\"\n}":                    "callbacks.pause:",
		"callbacks {\n pause_max = \"long\"\n}":              "callbacks.pause_max:",
		"idempotency {\n header = \"X-Key\"\n}":              "Unsupported argument",
	} {
		_, err := load(t, text)
		require.ErrorContains(t, err, want, text)
	}
}
