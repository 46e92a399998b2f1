package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestPolicies(t *testing.T) {
	t.Parallel()
	s, err := load(t, "")
	require.NoError(t, err)
	require.Equal(t, api.FullPolicy(), s.policy("team"), "what Docker's users expect")
	s, err = load(t, `
		account "open" {
			allow {
				host_networking = true
				fixed_ports     = true
			}
		}
		account "*" {
			allow {
				host_networking      = false
				container_networking = false
				fixed_ports          = false
				volumes_from         = false
				stop_signal_sigkill  = false
			}
		}
		account "empty" {}
	`)
	require.NoError(t, err)
	for _, account := range []string{"team", "empty", "default"} {
		require.Equal(t, api.Policy{}, s.policy(account), account)
	}
	require.Equal(t, api.Policy{HostNetworking: true, FixedPorts: true}, s.policy("open"))
	s, err = load(t, `account "*" {
		allow {
			volumes_from = false
		}
	}`)
	require.NoError(t, err)
	want := api.FullPolicy()
	want.VolumesFrom = false
	require.Equal(t, want, s.policy("team"))
}

func TestSignedCalls(t *testing.T) {
	t.Parallel()
	s, err := load(t, "")
	require.NoError(t, err)
	require.False(t, s.signedCalls("team"), "the UUID is what a caller needs")
	s, err = load(t, "account \"*\" {\n signed_calls = true\n}\naccount \"open\" {\n signed_calls = false\n}\n")
	require.NoError(t, err)
	require.True(t, s.signedCalls("team"))
	require.False(t, s.signedCalls("open"))
	s, err = load(t, "account \"team\" {\n signed_calls = true\n}\n")
	require.NoError(t, err)
	require.True(t, s.signedCalls("team"))
	require.False(t, s.signedCalls("default"))
}

func TestWrongAccounts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`account "Team" {}`:                                   `account "Team": must be an account's name`,
		`account "" {}`:                                       `account ""`,
		"account \"a\" {}\naccount \"a\" {}":                  `account "a": there is another block`,
		"account \"*\" {}\naccount \"*\" {}":                  `account "*": there is another block`,
		`account {}`:                                          "Missing name for account",
		"account \"a\" {\nquota = 3\n}":                       "Unsupported argument",
		"account \"a\" {\nallow {\nprivileged = true\n}\n}":   "Unsupported argument",
		"account \"a\" {\nallow {\nfixed_ports = \"x\"\n}\n}": "a bool is required",
		"account \"a\" {\ndeny {}\n}":                         "Unsupported block type",
	} {
		_, err := load(t, text)
		require.ErrorContains(t, err, want, text)
	}
}
