package api

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The example of Standard Webhooks' own libraries.
const (
	webhookSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	webhookID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	webhookTime      = 1614265330
	webhookBody      = `{"test": 2432232314}`
	webhookSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func TestCallbackSignature(t *testing.T) {
	t.Parallel()
	at := time.Unix(webhookTime, 0)
	signature, err := SignCallback(webhookSecret, webhookID, at, []byte(webhookBody))
	require.NoError(t, err)
	require.Equal(t, webhookSignature, signature)
	header := func(change func(http.Header)) http.Header {
		h := http.Header{}
		h.Set(WebhookIDHeader, webhookID)
		h.Set(WebhookTimeHeader, strconv.Itoa(webhookTime))
		h.Set(WebhookSignatureHeader, webhookSignature)
		if change != nil {
			change(h)
		}
		return h
	}
	require.NoError(t, VerifyCallback(webhookSecret, header(nil), []byte(webhookBody), at.Add(4*time.Minute)))
	require.NoError(t, VerifyCallback(webhookSecret, header(func(h http.Header) {
		h.Set(WebhookSignatureHeader, "v1,AAAA v2,x "+webhookSignature)
	}), []byte(webhookBody), at), "one of several")
	for name, c := range map[string]struct {
		change func(http.Header)
		body   string
		now    time.Time
	}{
		"another body":      {nil, webhookBody + " ", at},
		"an old one":        {nil, webhookBody, at.Add(6 * time.Minute)},
		"one of the future": {nil, webhookBody, at.Add(-6 * time.Minute)},
		"another id":        {func(h http.Header) { h.Set(WebhookIDHeader, "x") }, webhookBody, at},
		"another time":      {func(h http.Header) { h.Set(WebhookTimeHeader, "1614265331") }, webhookBody, at},
		"no time":           {func(h http.Header) { h.Del(WebhookTimeHeader) }, webhookBody, at},
		"no signature":      {func(h http.Header) { h.Del(WebhookSignatureHeader) }, webhookBody, at},
		"another version":   {func(h http.Header) { h.Set(WebhookSignatureHeader, "v2"+webhookSignature[2:]) }, webhookBody, at},
	} {
		err := VerifyCallback(webhookSecret, header(c.change), []byte(c.body), c.now)
		require.Equal(t, Unauthorized, CodeOf(err), name)
	}
	for _, secret := range []string{"", "whsec_", "whsec_?", CallbackSecret(nil)} {
		_, err := SignCallback(secret, webhookID, at, nil)
		require.Equal(t, Invalid, CodeOf(err), secret)
	}
	own := CallbackSecret([]byte{0, 1, 2})
	require.Equal(t, "whsec_AAEC", own)
	_, err = SignCallback(own, "c", at, nil)
	require.NoError(t, err)
}

func TestCallbackURLs(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"http://example.com", "https://example.com:8443/a/b?c=d&e=%20", "HTTPS://Example.com/", "http://10.0.0.1/", "http://[::1]:80/", "http://a/" + strings.Repeat("x", MaxCallback-9)} {
		got, err := labelled(map[string]string{"funcd.callback": text}).Extensions()
		require.NoError(t, err, text)
		require.Equal(t, text, got.Calls.Callback)
		require.True(t, got.Calls.AtEnd())
	}
	for _, text := range []string{
		"", "/results", "example.com", "//example.com/", "ftp://example.com/", "file:///etc/passwd", "http:", "http://", "http://:80/", "http:///x", "http:example.com",
		"http://user@example.com/", "http://user:secret@example.com/", "http://example.com/#a", "http://example.com:0/", "http://example.com:65536/", "http://example.com:/",
		"http://example.com:x/", "http://exa mple.com/", "http://example.com/\n", "http://[::1/", "unix:///run/docker.sock", "http://a/" + strings.Repeat("x", MaxCallback),
	} {
		_, err := labelled(map[string]string{"funcd.callback": text}).Extensions()
		requireInvalid(t, err, "Config.Labels: ", "funcd.callback")
		require.Contains(t, err.Error(), "must be a URL such as", text)
	}
}

func FuzzValidCallback(f *testing.F) {
	for _, seed := range []string{"http://example.com", "https://u@h/", "http://[::1]:80/x#y", "a:b", "http://%41/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !ValidCallback(text) {
			return
		}
		req, err := http.NewRequest(http.MethodPost, text, nil)
		require.NoError(t, err)
		require.NotEmpty(t, req.URL.Hostname())
		require.Nil(t, req.URL.User)
	})
}

func TestTheSecretIsNotTheClients(t *testing.T) {
	t.Parallel()
	f, err := ParseFunction([]byte(`{"Name":"a","CallbackSecret":"whsec_AAAA","Config":{"Image":"b","Labels":{"funcd.callback":"https://example.com/"}}}`))
	require.NoError(t, err)
	require.Empty(t, f.CallbackSecret)
}
