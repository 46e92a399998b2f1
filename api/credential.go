package api

import (
	"fmt"
	"log/slog"
	"strings"
	"unicode"
)

// Credential is an access key with its secret. Whoever has both may act for the account. Its JSON form carries the secret, as a
// signature can only be checked by one who knows it; its text and log forms never do.
type Credential struct {
	AccessKey string // names the credential in a signed request; not a secret
	Secret    string
	Account   string
	CallOnly  bool `json:",omitempty"` // may call the account's functions, but not manage them
	// Quota is how many calls of the account may be executed at once, 0 for what the server is set to. The largest of an account's counts.
	Quota       int    `json:",omitempty"`
	Description string `json:",omitempty"` // of its owner or purpose, for people
	Created     Timestamp
}

// The bounds of a Credential.
const (
	MaxQuota       = 100_000
	MaxDescription = 256 // bytes
)

// Validate tells what is wrong with what people say of a credential. The error is of code Invalid and names the field.
func (c Credential) Validate() error {
	switch {
	case !ValidAccount(c.Account):
		return Errorf(Invalid, "account: %.100q must be 1 to 63 of a-z, 0-9 and _, beginning with a letter or a digit", c.Account)
	case c.Quota < 0 || c.Quota > MaxQuota:
		return Errorf(Invalid, "quota: %d must be at least 1 and at most %d, or 0 for the server's own", c.Quota, MaxQuota)
	case len(c.Description) > MaxDescription || strings.ContainsFunc(c.Description, func(r rune) bool { return !unicode.IsPrint(r) }):
		return Errorf(Invalid, "description: %.100q must be at most %d bytes of one line", c.Description, MaxDescription)
	}
	return nil
}

// String returns what may be shown: everything but the secret.
func (c Credential) String() string {
	kind := "credential"
	if c.CallOnly {
		kind = "call-only credential"
	}
	return fmt.Sprintf("%s %s of %s", kind, c.AccessKey, c.Account)
}

// GoString is String, so that %#v shows no secret either.
func (c Credential) GoString() string { return c.String() }

// LogValue keeps the secret out of logs.
func (c Credential) LogValue() slog.Value {
	return slog.GroupValue(slog.String("key", c.AccessKey), slog.String("account", c.Account), slog.Bool("call_only", c.CallOnly))
}
