package api

import (
	"encoding/base64"
	"encoding/json"
	"strings"
)

// ParseRegistryAuth reads the value of RegistryAuthHeader: base64 of JSON, in which clients differ in alphabet and padding. It returns nil
// for one without a login, as clients send where they have none. The error is of code Invalid and holds nothing of the value.
func ParseRegistryAuth(header string) (*RegistryAuth, error) {
	text := strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(strings.TrimSpace(header), "="))
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, Errorf(Invalid, "%s: must be base64 of a JSON object", RegistryAuthHeader)
	}
	if len(decoded) == 0 {
		return nil, nil
	}
	var a struct {
		RegistryAuth
		Auth string `json:"auth"` // base64 of username:password, as Docker's configuration file has it
	}
	if json.Unmarshal(decoded, &a) != nil {
		return nil, Errorf(Invalid, "%s: must be base64 of a JSON object with username and password", RegistryAuthHeader)
	}
	if a.Username == "" && a.Auth != "" {
		pair, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(a.Auth, "="))
		name, password, ok := strings.Cut(string(pair), ":")
		if err != nil || !ok {
			return nil, Errorf(Invalid, "%s: auth must be base64 of username:password", RegistryAuthHeader)
		}
		a.Username, a.Password = name, password
	}
	if a.Username == "" && a.IdentityToken == "" && a.RegistryToken == "" {
		return nil, nil
	}
	return &a.RegistryAuth, nil
}
