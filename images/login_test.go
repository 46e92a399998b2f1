package images

import (
	"encoding/base64"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// newPrivateRegistry starts a registry that takes these passwords, by user, and returns its host and port.
func newPrivateRegistry(t *testing.T, passwords map[string]string) string {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if want, ok := passwords[user]; !ok || password != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
}

func TestLogins(t *testing.T) {
	t.Parallel()
	host := newPrivateRegistry(t, map[string]string{"all": "a", "team": "t", "config": "c", "sent": "s"})
	image := newImage(t, v1.Platform{OS: "linux", Architecture: "amd64"})
	ref := host + "/app:1"
	push(t, ref, image, remote.WithAuth(&authn.Basic{Username: "all", Password: "a"}))
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte("t\n"), 0o600))
	missing := file + ".gone"
	denied := "access to " + ref + " denied: there is no such repository, or " + host + " wants a login that allows it"
	everybodys := Login{Registry: host, Username: "all", Password: "a"}
	teams := Login{Registry: host, Account: testAccount, Username: "team", PasswordFile: file}
	nobodys := Login{Registry: host, Account: testAccount, Username: "team", Password: "wrong"}
	unreadable := Login{Registry: host, Account: testAccount, Username: "team", PasswordFile: missing}
	config := keychain{auth: &authn.Basic{Username: "config", Password: "c"}}

	for title, test := range map[string]struct {
		logins   []Login
		keychain authn.Keychain
		account  string
		sent     *api.RegistryAuth
		denied   bool
		broken   bool
	}{
		"none":                                       {account: testAccount, denied: true},
		"everybody's":                                {logins: []Login{everybodys}, account: testAccount},
		"the account's, from a file":                 {logins: []Login{teams}, account: testAccount},
		"the account's is no other's":                {logins: []Login{teams}, account: "other", denied: true},
		"the account's comes before everybody's":     {logins: []Login{everybodys, nobodys}, account: testAccount, denied: true},
		"another account has everybody's":            {logins: []Login{everybodys, nobodys}, account: "other"},
		"Docker's configuration":                     {keychain: config, account: testAccount},
		"the account's comes before Docker's":        {logins: []Login{nobodys}, keychain: config, account: testAccount, denied: true},
		"what was sent comes first":                  {logins: []Login{unreadable}, account: testAccount, sent: &api.RegistryAuth{Username: "sent", Password: "s"}},
		"what was sent is wrong":                     {logins: []Login{everybodys}, account: testAccount, sent: &api.RegistryAuth{Username: "sent", Password: "?"}, denied: true},
		"a password file that is gone":               {logins: []Login{unreadable}, keychain: config, account: testAccount, broken: true},
		"one for another registry":                   {logins: []Login{{Registry: "localhost:1", Username: "all", Password: "a"}}, account: testAccount, denied: true},
		"an identity token that the registry has no": {account: testAccount, sent: &api.RegistryAuth{IdentityToken: "t"}, denied: true},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			r := newResolver(t, Config{Logins: test.logins, Keychain: test.keychain})
			found, err := r.Inspect(t.Context(), test.account, ref, test.sent)
			switch {
			case test.broken:
				requireError(t, err, api.Internal, "the credentials for "+host+" can't be read")
			case test.denied:
				requireError(t, err, api.NotFound, "No such image: "+ref)
			default:
				require.NoError(t, err)
				require.Equal(t, configDigest(t, image), found.ID)
			}
			if test.sent != nil {
				return
			}
			resolved, err := r.Resolve(t.Context(), test.account, ref)
			switch {
			case test.broken:
				requireError(t, err, api.Internal, "the credentials for "+host+" can't be read")
			case test.denied:
				requireError(t, err, api.Invalid, denied)
			default:
				require.NoError(t, err)
				require.Equal(t, configDigest(t, image), resolved.ID)
			}
		})
	}
}

func TestLoginForPulls(t *testing.T) {
	t.Parallel()
	r := newResolver(t, Config{
		Logins: []Login{
			{Registry: "docker.io", Account: testAccount, Username: "me", Password: "p"},
			{Registry: "r.example:5000", Username: "us", Password: "q"},
		},
		Keychain: keychain{auth: &authn.Basic{Username: "config", Password: "c"}},
	})
	for ref, want := range map[string]*api.RegistryAuth{
		"busybox": {Username: "me", Password: "p"}, "docker.io/team/app:1": {Username: "me", Password: "p"},
		"index.docker.io/team/app": {Username: "me", Password: "p"},
		"r.example:5000/app":       {Username: "us", Password: "q"}, "r.example/app": nil, "sha256:" + digestHex: nil,
	} {
		_, got, err := r.Login(testAccount, ref)
		require.NoError(t, err, ref)
		require.Equal(t, want, got, ref)
	}
	registry, got, err := r.Login("other", "busybox")
	require.NoError(t, err)
	require.Equal(t, "docker.io", registry)
	require.Nil(t, got)
	_, _, err = r.Login(testAccount, "a b")
	require.Equal(t, api.Invalid, api.CodeOf(err))
}

const digestHex = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// The logins of Docker's configuration file, which docker login writes, are all accounts'.
func TestDockerConfigurationFile(t *testing.T) {
	host := newPrivateRegistry(t, map[string]string{"me": "secret"})
	push(t, host+"/app:1", newImage(t, v1.Platform{OS: "linux", Architecture: "amd64"}), remote.WithAuth(&authn.Basic{Username: "me", Password: "secret"}))
	dir := t.TempDir()
	login := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"auths":{"`+host+`":{"auth":"`+login+`"}}}`), 0o600))
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("HOME", t.TempDir())
	r := newResolver(t, Config{Keychain: authn.DefaultKeychain})
	_, err := r.Resolve(t.Context(), testAccount, host+"/app:1")
	require.NoError(t, err)
	_, got, err := r.Login(testAccount, host+"/app:1")
	require.NoError(t, err)
	require.Nil(t, got, "it is this host's own")
}

func TestNewChecksLogins(t *testing.T) {
	t.Parallel()
	good := Login{Registry: "r.example", Username: "me", Password: "p"}
	for message, logins := range map[string][]Login{
		"must be a registry's host":   {{Registry: "r.example/team", Username: "me", Password: "p"}},
		"must be a registry's host, ": {{Registry: "team", Username: "me", Password: "p"}},
		`"https://r.example" must be`: {{Registry: "https://r.example", Username: "me", Password: "p"}},
		`"index.docker.io" must be`:   {{Registry: "index.docker.io", Username: "me", Password: "p"}},
		`"" must be`:                  {{Username: "me", Password: "p"}},
		"username is required":        {{Registry: "r.example", Password: "p"}},
		"exactly one of password":     {{Registry: "r.example", Username: "me"}},
		"exactly one of password and": {{Registry: "r.example", Username: "me", Password: "p", PasswordFile: "f"}},
		"more than one login for":     {good, good},
	} {
		_, err := New(Config{Logins: logins})
		require.ErrorContains(t, err, message)
	}
}
