package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Callback is the result of a call on its way to the URL that the function's label funcd.callback names.
type Callback struct {
	CallID   string
	Function string // the function's internal id
	Name     string // the function's name
	Account  string
	URL      string
	State    State
	ExitCode int
	Code     Code      `json:",omitempty"` // why it failed
	Ended    time.Time // the call
}

// CalledBack is the event of a callback that was delivered, or was not. It is no State.
const CalledBack = "CALLBACK"

// The headers of a callback, with ErrorHeader for a call that has failed. The last three are those of Standard Webhooks (standardwebhooks.com).
const (
	CallbackCallHeader     = "Funcd-Call"
	CallbackFunctionHeader = "Funcd-Function"
	CallbackStateHeader    = "Funcd-State"
	CallbackExitHeader     = "Funcd-Exit-Status"
	WebhookIDHeader        = "Webhook-Id"        // the call's id, the same each time that the callback is tried
	WebhookTimeHeader      = "Webhook-Timestamp" // of this attempt, Unix seconds
	WebhookSignatureHeader = "Webhook-Signature"
)

// secretPrefix begins the secrets of Standard Webhooks.
const secretPrefix = "whsec_"

// MaxCallback is how long a callback's URL may be.
const MaxCallback = 2048

// ValidCallback tells whether text can be a callback: an absolute URL of http or https, without a user, which would be a secret that all may read
// who see the function.
func ValidCallback(text string) bool {
	u, err := url.Parse(text)
	if err != nil || len(text) > MaxCallback || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return false
	}
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && port > 0
}

// CallbackSecret is the secret of callbacks with this key.
func CallbackSecret(key []byte) string { return secretPrefix + base64.StdEncoding.EncodeToString(key) }

// SignCallback returns the signature of a callback's body: of Standard Webhooks, version 1, HMAC-SHA256 over the id, the time and the body. The
// error is of code Invalid for a secret that is none.
func SignCallback(secret, id string, at time.Time, body []byte) (string, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, secretPrefix))
	if err != nil || len(key) == 0 {
		return "", Errorf(Invalid, "the secret is not one of %s and base64", secretPrefix)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

// callbackTime is how old a callback may be, and how far ahead, for VerifyCallback.
const callbackTime = 5 * time.Minute

// VerifyCallback checks that a request's header and body are a callback that was signed with the secret, the function's CallbackSecret, within five
// minutes of now. Who acts on it should do so once for each WebhookIDHeader. The error is of code Unauthorized.
func VerifyCallback(secret string, header http.Header, body []byte, now time.Time) error {
	seconds, err := strconv.ParseInt(header.Get(WebhookTimeHeader), 10, 64)
	at := time.Unix(seconds, 0)
	if err != nil || now.Sub(at).Abs() > callbackTime {
		return Errorf(Unauthorized, "%s is not within %s of now", WebhookTimeHeader, callbackTime)
	}
	want, err := SignCallback(secret, header.Get(WebhookIDHeader), at, body)
	if err != nil {
		return err
	}
	for signature := range strings.SplitSeq(header.Get(WebhookSignatureHeader), " ") {
		if hmac.Equal([]byte(signature), []byte(want)) {
			return nil
		}
	}
	return Errorf(Unauthorized, "%s is not that of the body", WebhookSignatureHeader)
}
