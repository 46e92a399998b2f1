package nomad

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// testKey is a key of Nomad's. Making an RSA key takes long: the tests share one.
type testKey struct {
	id      string
	alg     jose.SignatureAlgorithm
	private crypto.Signer
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newRSA(id string) testKey { return testKey{id, jose.RS256, rsaKey()} }

func newEd25519(t *testing.T, id string) testKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return testKey{id, jose.EdDSA, key}
}

func (k testKey) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.private.Public(), KeyID: k.id, Algorithm: string(k.alg), Use: "sig"}
}

func sign(t *testing.T, alg jose.SignatureAlgorithm, key any, id string, claims map[string]any) string {
	options := &jose.SignerOptions{}
	if id != "" {
		options = options.WithHeader("kid", id)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options.WithType("JWT"))
	require.NoError(t, err)
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	require.NoError(t, err)
	return token
}

func (k testKey) sign(t *testing.T, claims map[string]any) string {
	return sign(t, k.alg, k.private, k.id, claims)
}

// claims are what Nomad says of an allocation of a dispatched job.
func claims(change func(map[string]any)) map[string]any {
	c := map[string]any{
		"aud": "funcd", "sub": "global:default:func-default-hello:call:function:funcd",
		"iat": time.Now().Unix(), "nbf": time.Now().Unix(), "jti": "x",
		"nomad_namespace": "default", "nomad_job_id": "func-default-hello", "nomad_task": "function", "nomad_allocation_id": "a1",
	}
	if change != nil {
		change(c)
	}
	return c
}

func set(name string, value any) func(map[string]any) {
	return func(c map[string]any) {
		if value == nil {
			delete(c, name)
			return
		}
		c[name] = value
	}
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	key, second := newRSA("k1"), newEd25519(t, "k2")
	_, client := newFake(t)
	client2 := func(c *Client, keys ...testKey) *Client {
		for _, k := range keys {
			c.identity.keys.Keys = append(c.identity.keys.Keys, k.public())
		}
		c.identity.asked = time.Now().Add(time.Hour) // they are all that there are
		return c
	}(client, key, second)

	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"k1"}`)) + "." +
		strings.Split(key.sign(t, claims(nil)), ".")[1] + "."
	der, err := x509.MarshalPKIXPublicKey(key.private.Public())
	require.NoError(t, err)
	good := key.sign(t, claims(nil))
	parts := strings.Split(good, ".")
	other := strings.Split(key.sign(t, claims(set("nomad_allocation_id", "a2"))), ".")
	for name, c := range map[string]struct {
		token string
		ok    bool
	}{
		"RSA":                             {good, true},
		"EdDSA":                           {second.sign(t, claims(nil)), true},
		"an audience of many":             {key.sign(t, claims(set("aud", []string{"vault", "funcd"}))), true},
		"that has not expired":            {key.sign(t, claims(set("exp", time.Now().Add(time.Hour).Unix()))), true},
		"that has expired":                {key.sign(t, claims(set("exp", time.Now().Add(-time.Hour).Unix()))), false},
		"of the future":                   {key.sign(t, claims(set("nbf", time.Now().Add(time.Hour).Unix()))), false},
		"for another audience":            {key.sign(t, claims(set("aud", "vault.io"))), false},
		"for no audience":                 {key.sign(t, claims(set("aud", nil))), false},
		"of another namespace":            {key.sign(t, claims(set("nomad_namespace", "other"))), false},
		"of no namespace":                 {key.sign(t, claims(set("nomad_namespace", nil))), false},
		"of another task":                 {key.sign(t, claims(set("nomad_task", "sidecar"))), false},
		"of no allocation":                {key.sign(t, claims(set("nomad_allocation_id", nil))), false},
		"of a wrong type":                 {key.sign(t, claims(set("nomad_allocation_id", 1))), false},
		"without an algorithm":            {none, false},
		"with the public key as a secret": {sign(t, jose.HS256, der, "k1", claims(nil)), false},
		"of another key by the same id":   {sign(t, jose.EdDSA, newEd25519(t, "").private, "k2", claims(nil)), false},
		"of another key by another's id":  {sign(t, jose.EdDSA, second.private, "k1", claims(nil)), false},
		"with another algorithm":          {sign(t, jose.RS512, key.private, "k1", claims(nil)), false},
		"of an unknown key":               {newEd25519(t, "k9").sign(t, claims(nil)), false},
		"of a key without an id":          {sign(t, jose.EdDSA, second.private, "", claims(nil)), false},
		"with another's claims":           {parts[0] + "." + other[1] + "." + parts[2], false},
		"without a signature":             {parts[0] + "." + parts[1] + ".", false},
		"of two parts":                    {parts[0] + "." + parts[1], false},
		"empty":                           {"", false},
		"text":                            {"a token", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			allocation, err := client2.Identify(t.Context(), c.token)
			if c.ok {
				require.NoError(t, err)
				require.Equal(t, api.Allocation{ID: "a1", Job: "func-default-hello", Account: "default", Name: "hello"}, allocation)
				return
			}
			require.Equal(t, api.Unauthorized, api.CodeOf(err), "%v", err)
			require.Zero(t, allocation)
		})
	}
}

func TestKeysAreAskedFor(t *testing.T) {
	t.Parallel()
	f, client := newFake(t)
	first, second := newEd25519(t, "k1"), newEd25519(t, "k2")
	identify := func(k testKey) api.Code {
		_, err := client.Identify(t.Context(), k.sign(t, claims(nil)))
		return api.CodeOf(err)
	}
	asked := func(at time.Time) { // as if Nomad had been asked then
		client.identity.asking.Lock()
		defer client.identity.asking.Unlock()
		client.identity.asked = at
	}
	aged := func() { asked(time.Time{}) }
	justAsked := func() { asked(time.Now().Add(time.Hour)) }

	f.set(func() { f.status = 500 })
	require.Equal(t, api.Unavailable, identify(first), "Nomad can't be asked: the token may be good")
	f.set(func() { f.status = 0; f.keys.Keys = []jose.JSONWebKey{first.public()} })
	justAsked()
	require.Equal(t, api.Unavailable, identify(first), "nor is it asked again at once")
	aged()
	for range 3 {
		require.Empty(t, identify(first))
	}
	require.Equal(t, 1, f.keysAsked, "a known key costs nothing")

	justAsked()
	for range 100 {
		require.Equal(t, api.Unauthorized, identify(newEd25519(t, "made-up")))
	}
	require.Equal(t, 1, f.keysAsked, "made-up key ids cost nothing more")

	f.set(func() { f.keys.Keys = []jose.JSONWebKey{first.public(), second.public()} })
	aged()
	require.Empty(t, identify(second), "a new key is found")
	require.Empty(t, identify(first))
	require.Equal(t, 2, f.keysAsked)

	f.set(func() { f.status = 500 })
	aged()
	require.Equal(t, api.Unavailable, identify(newEd25519(t, "k3")))
	require.Empty(t, identify(first), "Nomad's absence does not matter for a known key")
}

// Who has a known key does not wait for the answer that somebody else's needs.
func TestKnownKeyDoesNotWait(t *testing.T) {
	t.Parallel()
	_, client := newFake(t)
	key := newEd25519(t, "k1")
	client.identity.keys.Keys = []jose.JSONWebKey{key.public()}
	client.identity.asking.Lock() // Nomad is being asked
	defer client.identity.asking.Unlock()
	done := make(chan error, 1)
	token := key.sign(t, claims(nil))
	go func() {
		_, err := client.Identify(t.Context(), token)
		done <- err
	}()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("it waits")
	}
}
