package api

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEnvJSON(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env  Env
		want string
	}{
		"none":                   {nil, `null`},
		"empty":                  {Env{}, `[]`},
		"text":                   {Env{"A=b", "C=ä\n\"", "D="}, `["A=b","C=ä\n\"","D="]`},
		"bytes that are no text": {Env{"A=b", "C=\xe4"}, `["A=b",["Qz3k"]]`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := json.Marshal(struct{ Env Env }{c.env})
			require.NoError(t, err)
			require.JSONEq(t, `{"Env":`+c.want+`}`, string(text))
			var read struct{ Env Env }
			require.NoError(t, json.Unmarshal(text, &read))
			require.Equal(t, c.env, read.Env)
		})
	}
	for _, wrong := range []string{`1`, `{}`, `[1]`, `[["not Base64"]]`, `[[]]`, `[["QQ==","QQ=="]]`} {
		var env Env
		require.Error(t, json.Unmarshal([]byte(wrong), &env), wrong)
	}
}

func FuzzEnv(f *testing.F) {
	f.Add("A=b", "C=\xe4")
	f.Fuzz(func(t *testing.T, a, b string) {
		text, err := json.Marshal(Env{a, b})
		require.NoError(t, err)
		var read Env
		require.NoError(t, json.Unmarshal(text, &read))
		require.Equal(t, Env{a, b}, read)
	})
}
