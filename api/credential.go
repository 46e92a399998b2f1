package api

import (
	"fmt"
	"log/slog"
)

// Credential is an access key with its secret. Whoever has both may act for the account. Its JSON form carries the secret, as a
// signature can only be checked by one who knows it; its text and log forms never do.
type Credential struct {
	AccessKey string // names the credential in a signed request; not a secret
	Secret    string
	Account   string
	CallOnly  bool `json:",omitempty"` // may call the account's functions, but not manage them
	Created   Timestamp
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
