package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/funcd/funcd/api"
)

// Login is an operator's login for a registry.
type Login struct {
	Registry string // its host, with a port if it is not 443; docker.io for Docker's
	Account  string // whose functions may use it; empty for everybody's
	Username string
	// Exactly one of the two is set. The file is read at each use, so that it may change; a line break at its end is no part of the password.
	Password     string
	PasswordFile string
}

// Validate tells what is wrong with the login.
func (l Login) Validate() error {
	// The whole of a reference is parsed, as that is how the host will be found again.
	named, err := reference.ParseNormalizedNamed(l.Registry + "/x/y")
	switch {
	case err != nil || reference.Domain(named) != l.Registry:
		return fmt.Errorf("%q must be a registry's host, such as registry.example.com, localhost:5000 or docker.io", l.Registry)
	case l.Username == "":
		return errors.New("username is required")
	case (l.Password == "") == (l.PasswordFile == ""):
		return errors.New("exactly one of password and password_file must be set")
	}
	return nil
}

func (l Login) auth() (*api.RegistryAuth, error) {
	password := l.Password
	if l.PasswordFile != "" {
		text, err := os.ReadFile(l.PasswordFile)
		if err != nil {
			return nil, err
		}
		password = strings.TrimRight(string(text), "\r\n")
	}
	return &api.RegistryAuth{Username: l.Username, Password: password}, nil
}

// logins are those of Config, found by registry and account.
type logins map[[2]string]Login

func newLogins(list []Login) (logins, error) {
	found := logins{}
	for _, l := range list {
		if err := l.Validate(); err != nil {
			return nil, fmt.Errorf("images.Config: a login: %w", err)
		}
		key := [2]string{l.Registry, l.Account}
		if _, ok := found[key]; ok {
			return nil, fmt.Errorf("images.Config: more than one login for %s of the account %q", l.Registry, l.Account)
		}
		found[key] = l
	}
	return found, nil
}

// Login returns the registry of an image and the configured login with which the account may pull from it, nil if there is none. That of the
// account comes before one that everybody has. Docker's configuration file is not looked at: it is this host's own. The error is of code
// Internal, or Invalid for a malformed ref.
func (r *Resolver) Login(account, ref string) (registry string, login *api.RegistryAuth, err error) {
	parsed, err := parse(ref)
	if err != nil || parsed.named == nil {
		return "", nil, err
	}
	login, err = r.login(account, parsed)
	return parsed.registryHost(), login, err
}

func (r *Resolver) login(account string, ref imageRef) (*api.RegistryAuth, error) {
	host := ref.registryHost()
	login, ok := r.logins[[2]string{host, account}]
	if !ok {
		login, ok = r.logins[[2]string{host, ""}]
	}
	if !ok {
		return nil, nil
	}
	auth, err := login.auth()
	if err != nil {
		return nil, unreadable(err, host)
	}
	return auth, nil
}

// authenticator returns what the account shows to the registry: what came with the request, else what is configured for the account, else what
// Docker's configuration file has. The error is of code Internal.
func (r *Resolver) authenticator(ctx context.Context, account string, ref imageRef, sent *api.RegistryAuth) (authn.Authenticator, error) {
	login := sent
	if login == nil {
		var err error
		if login, err = r.login(account, ref); err != nil {
			return nil, err
		}
	}
	if login != nil {
		return authn.FromConfig(authn.AuthConfig{
			Username: login.Username, Password: login.Password, IdentityToken: login.IdentityToken, RegistryToken: login.RegistryToken,
		}), nil
	}
	auth, err := authn.Resolve(ctx, r.keychain, ref.remote.Context())
	if err != nil {
		return nil, unreadable(err, ref.registryHost())
	}
	return auth, nil
}

func unreadable(err error, host string) *api.Error {
	return api.Wrap(api.Internal, err, "the credentials for "+host+" can't be read")
}
