package api

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCredentialShowsNoSecret(t *testing.T) {
	t.Parallel()
	cred := Credential{AccessKey: "AKEY", Secret: "s3cr3t", Account: "acme", CallOnly: true, Created: Timestamp{time.Unix(1, 0)}}
	text := func(log func(l *slog.Logger)) string {
		var out strings.Builder
		log(slog.New(slog.NewTextHandler(&out, nil)))
		return out.String()
	}
	asJSON := func(log func(l *slog.Logger)) string {
		var out strings.Builder
		log(slog.New(slog.NewJSONHandler(&out, nil)))
		return out.String()
	}
	value := func(l *slog.Logger) { l.Info("a key", "credential", cred) }
	pointer := func(l *slog.Logger) { l.Info("a key", "credential", &cred) }
	group := func(l *slog.Logger) {
		l.WithGroup("g").With("credential", cred).Info("a key", slog.Group("h", "credential", cred))
	}
	for name, got := range map[string]string{
		"%v":                        fmt.Sprintf("%v", cred),
		"%+v":                       fmt.Sprintf("%+v", cred),
		"%#v":                       fmt.Sprintf("%#v", cred),
		"%s":                        fmt.Sprintf("<%s>", cred),
		"%q":                        fmt.Sprintf("%q", cred),
		"%v of a pointer":           fmt.Sprintf("%v", &cred),
		"%+v of a pointer":          fmt.Sprintf("%+v", &cred),
		"%#v of a pointer":          fmt.Sprintf("%#v", &cred),
		"%v of a list":              fmt.Sprintf("%v", []Credential{cred}),
		"%#v of a list":             fmt.Sprintf("%#v", []Credential{cred}),
		"%+v of a struct":           fmt.Sprintf("%+v", struct{ C Credential }{cred}),
		"%#v of a struct":           fmt.Sprintf("%#v", struct{ C *Credential }{&cred}),
		"Sprint":                    fmt.Sprint(cred),
		"an error":                  Errorf(Conflict, "%v is in use", cred).Error(),
		"slog text":                 text(value),
		"slog text of a pointer":    text(pointer),
		"slog text within a group":  text(group),
		"slog text of a list":       text(func(l *slog.Logger) { l.Info("keys", "credentials", []Credential{cred}) }),
		"slog JSON":                 asJSON(value),
		"slog JSON of a pointer":    asJSON(pointer),
		"slog JSON within a group":  asJSON(group),
		"slog JSON of its own text": asJSON(func(l *slog.Logger) { l.Info(cred.String()) }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.NotContains(t, got, "s3cr3t")
			require.NotContains(t, got, fmt.Sprintf("%x", "s3cr3t"))
			// What says nothing at all would show no secret either.
			if !strings.HasPrefix(name, "%#v of a struct") {
				require.Contains(t, got, "AKEY")
				require.Contains(t, got, "acme")
			}
		})
	}
}

func TestCredentialText(t *testing.T) {
	t.Parallel()
	cred := Credential{AccessKey: "AKEY", Secret: "s", Account: "acme"}
	require.Equal(t, "credential AKEY of acme", cred.String())
	require.Equal(t, cred.String(), cred.GoString())
	cred.CallOnly = true
	require.Equal(t, "call-only credential AKEY of acme", cred.String())
}

func TestWrongCredentials(t *testing.T) {
	t.Parallel()
	require.NoError(t, Credential{Account: "a", Quota: MaxQuota, Description: strings.Repeat("ü", MaxDescription/2)}.Validate())
	for want, cred := range map[string]Credential{
		"account: \"A\"":     {Account: "A"},
		"account: \"\"":      {},
		"quota: -1":          {Account: "a", Quota: -1},
		"quota: 100001":      {Account: "a", Quota: MaxQuota + 1},
		"description: \"a\\": {Account: "a", Description: "a\x1b[2J"},
		"description: \"b\\": {Account: "a", Description: "b\nc"},
		"description: \"xx":  {Account: "a", Description: strings.Repeat("x", MaxDescription+1)},
	} {
		err := cred.Validate()
		require.ErrorContains(t, err, want)
		require.Equal(t, Invalid, CodeOf(err))
	}
}

func TestCredentialJSONIsComplete(t *testing.T) {
	t.Parallel()
	cred := Credential{AccessKey: "AKEY", Secret: "s3cr3t", Account: "acme", Created: Timestamp{time.Unix(1, 0).UTC()}}
	body, err := json.Marshal(cred)
	require.NoError(t, err)
	require.JSONEq(t, `{"AccessKey":"AKEY","Secret":"s3cr3t","Account":"acme","Created":"1970-01-01T00:00:01.000Z"}`, string(body))
	var again Credential
	require.NoError(t, json.Unmarshal(body, &again))
	require.Equal(t, cred, again)
}
