package api

import (
	"encoding/base64"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseRegistryAuth(t *testing.T) {
	t.Parallel()
	login := &RegistryAuth{Username: "me", Password: "?>s~", ServerAddress: "r.example"}
	const text = `{"username":"me","password":"?>s~","email":"","serveraddress":"r.example"}`
	for name, c := range map[string]struct {
		header string
		want   *RegistryAuth
	}{
		"none":                {"", nil},
		"an empty object":     {"e30=", nil},
		"null":                {base64.URLEncoding.EncodeToString([]byte("null")), nil},
		"url alphabet":        {base64.URLEncoding.EncodeToString([]byte(text)), login},
		"unpadded":            {base64.RawURLEncoding.EncodeToString([]byte(text)), login},
		"standard alphabet":   {base64.StdEncoding.EncodeToString([]byte(text)), login},
		"its own":             {header(t, *login), login},
		"auth":                {base64.URLEncoding.EncodeToString([]byte(`{"auth":"bWU6Pz5zfg==","serveraddress":"r.example"}`)), login},
		"an identity token":   {header(t, RegistryAuth{IdentityToken: "t"}), &RegistryAuth{IdentityToken: "t"}},
		"a registry's token":  {header(t, RegistryAuth{RegistryToken: "t"}), &RegistryAuth{RegistryToken: "t"}},
		"only a server":       {base64.URLEncoding.EncodeToString([]byte(`{"serveraddress":"r.example"}`)), nil},
		"a password with a :": {base64.URLEncoding.EncodeToString([]byte(`{"auth":"bWU6YTpi"}`)), &RegistryAuth{Username: "me", Password: "a:b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseRegistryAuth(c.header)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
	for name, text := range map[string]string{
		"not JSON": "secret", "a list": `["secret"]`, "a number for a name": `{"username":1,"password":"secret"}`,
		"auth that is no base64": `{"auth":"secret!"}`, "auth without a colon": `{"auth":"c2VjcmV0"}`,
	} {
		_, err := ParseRegistryAuth(base64.URLEncoding.EncodeToString([]byte(text)))
		require.Equal(t, Invalid, CodeOf(err), name)
		require.NotContains(t, err.Error(), "secret", name)
	}
	_, err := ParseRegistryAuth("secret!")
	require.EqualError(t, err, "X-Registry-Auth: must be base64 of a JSON object")
}

func header(t *testing.T, a RegistryAuth) string {
	t.Helper()
	value, err := a.Header()
	require.NoError(t, err)
	return value
}

func FuzzParseRegistryAuth(f *testing.F) {
	f.Add("e30=")
	f.Add("eyJ1c2VybmFtZSI6Im1lIiwicGFzc3dvcmQiOiJzZWNyZXQifQ==")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseRegistryAuth(text)
		if err != nil {
			require.Equal(t, Invalid, CodeOf(err))
			return
		}
		if a == nil {
			return
		}
		again, err := ParseRegistryAuth(header(t, *a))
		require.NoError(t, err)
		require.Equal(t, a, again)
	})
}
