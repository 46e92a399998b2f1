package httpapi

import (
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/funcd/funcd/api"
)

// managedHandler is a handler of the management group. It gets the account that the request is signed for, and the body.
type managedHandler func(w http.ResponseWriter, r *http.Request, account string, body []byte) error

// managed checks the version and the signature of a management request. Nothing of the body is read for who is refused.
func (s *Server) managed(h managedHandler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := checkVersion(mux.Vars(r)["version"]); err != nil {
			return err
		}
		from, err := s.authenticate(r)
		if err != nil {
			return err
		}
		if from.callOnly {
			return api.Errorf(api.Forbidden, "the access key may only call functions")
		}
		body, err := s.readBody(w, r, from)
		if err != nil {
			return err
		}
		return h(w, r, from.account, body)
	}
}

// checkVersion refuses a client that is newer than the server.
func checkVersion(version string) error {
	if version == "" {
		return nil
	}
	major, minor, err := parseVersion(version)
	ownMajor, ownMinor, _ := parseVersion(api.Version)
	if err != nil || major > ownMajor || major == ownMajor && minor > ownMinor {
		return api.Errorf(api.Invalid, "client is newer than server (client API version: %.20s, server API version: %s)", version, api.Version)
	}
	return nil
}

// parseVersion reads two numbers with a dot between them: 1.9 is older than 1.23.
func parseVersion(version string) (major, minor uint64, err error) {
	before, after, _ := strings.Cut(version, ".")
	if major, err = strconv.ParseUint(before, 10, 32); err != nil {
		return 0, 0, err
	}
	minor, err = strconv.ParseUint(after, 10, 32)
	return major, minor, err
}

// refused is the one answer to every request that is not signed as it should be: what was wrong would help who forges one.
const refused = "the request is not signed by a valid access key"

// sender is who has sent a request, as its head tells. The zero sender is one that nothing is known of.
type sender struct {
	account  string
	callOnly bool // the access key is for calls only
	signed   bool // the request is, and so the hash that its body must have: takeBody compares them
}

// authenticate returns whose key the request is signed with. It reads nothing of the body, whose hash is in the head that was signed.
func (s *Server) authenticate(r *http.Request) (sender, error) {
	header := r.Header.Get("Authorization")
	if header == "" && s.cfg.UnsignedAccount != "" {
		return sender{account: s.cfg.UnsignedAccount}, checkLocal(r)
	}
	signature, err := api.ParseAuthorization(header)
	if err != nil {
		return sender{}, api.Wrap(api.Unauthorized, err, refused)
	}
	credential, err := s.cfg.Credentials.Get(r.Context(), signature.AccessKey)
	if err != nil && api.CodeOf(err) != api.NotFound {
		return sender{}, err
	}
	unknown := err
	// An unknown key costs what a known one does, so that the time of the answer does not tell them apart.
	err = signature.VerifyHead(r, credential.Secret, time.Now())
	switch {
	case unknown != nil:
		return sender{}, api.Wrap(api.Unauthorized, unknown, refused)
	case err != nil:
		return sender{}, api.Wrap(api.Unauthorized, err, refused)
	}
	return sender{account: credential.Account, callOnly: credential.CallOnly, signed: true}, nil
}

// admit returns the function that the path names and who has sent the request, before anything of its body is read. It refuses a request of the call group that
// must be signed and is not, by any key of the function's account. To another account's the function does not exist.
func (s *Server) admit(r *http.Request) (*api.Definition, sender, error) {
	d, err := s.function(r)
	if err != nil || s.cfg.SignedCalls == nil || !s.cfg.SignedCalls(d.Account) {
		return d, sender{}, err
	}
	from, err := s.authenticate(r)
	if err != nil {
		return nil, sender{}, err
	}
	if from.account != d.Account {
		return nil, sender{}, noSuchFunction(nil)
	}
	return d, from, nil
}

// admitted returns the function that the path names, for a request whose body, if it has any, is of no interest but to its signature. It has been read
// then, so that a handler that waits hears of its client's end.
func (s *Server) admitted(w http.ResponseWriter, r *http.Request) (*api.Definition, error) {
	d, from, err := s.admit(r)
	if err != nil {
		return nil, err
	}
	if err := s.skipBody(w, r, from); err != nil {
		return nil, err
	}
	return d, nil
}

// checkLocal refuses what a browser on this machine sends for somebody else's page, which needs no signature either: by its Origin, and by
// its Host, as any name can be made to resolve to a loopback address (DNS rebinding). The error is of code Forbidden.
func checkLocal(r *http.Request) error {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	if host != "localhost" && (ip == nil || !ip.IsLoopback()) || new(http.CrossOriginProtection).Check(r) != nil {
		return api.Errorf(api.Forbidden, "an unsigned request must be made to a loopback address, and not by another site's page")
	}
	return nil
}

func (s *Server) createFunction(w http.ResponseWriter, r *http.Request, account string, body []byte) error {
	f, err := api.ParseFunction(body)
	if err != nil {
		return err
	}
	f, err = s.cfg.Functions.Create(r.Context(), account, f)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, f)
	return nil
}

func (s *Server) listFunctions(w http.ResponseWriter, r *http.Request, account string, _ []byte) error {
	matches, err := parseFilters(r.URL.Query().Get("filters"))
	if err != nil {
		return err
	}
	list := []api.Function{}
	for _, d := range s.cfg.Directory.List(account) {
		if matches(&d.Function) {
			list = append(list, d.Function)
		}
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

func (s *Server) getFunction(w http.ResponseWriter, r *http.Request, account string, _ []byte) error {
	d, err := s.cfg.Directory.Get(r.Context(), account, mux.Vars(r)["name"])
	if err != nil {
		return err
	}
	s.writeFunction(w, r, d)
	return nil
}

func (s *Server) writeFunction(w http.ResponseWriter, r *http.Request, d api.Definition) {
	counts, err := s.cfg.Calls.SlotCounts(r.Context(), d.ID)
	if err == nil && counts != (api.SlotCounts{}) {
		d.Function.Slots = &counts
	}
	writeJSON(w, http.StatusOK, d.Function)
}

func (s *Server) updateFunction(w http.ResponseWriter, r *http.Request, account string, body []byte) error {
	update, err := api.ParseUpdate(body)
	if err != nil {
		return err
	}
	f, err := s.cfg.Functions.Update(r.Context(), account, mux.Vars(r)["name"], update)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, f)
	return nil
}

func (s *Server) removeFunction(w http.ResponseWriter, r *http.Request, account string, _ []byte) error {
	force := boolean(r.URL.Query().Get("force"))
	if err := s.cfg.Functions.Remove(r.Context(), account, mux.Vars(r)["name"], force); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request, _ string, _ []byte) error {
	writeJSON(w, http.StatusOK, s.cfg.Version)
	return nil
}
