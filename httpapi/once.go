package httpapi

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/http"

	"github.com/funcd/funcd/api"
)

// onceOf returns what makes the request one with others, nil for one without a key. The error is of code Invalid.
func onceOf(r *http.Request, payload []byte, wait bool) (*api.Once, error) {
	values := r.Header.Values(api.KeyHeader)
	if len(values) == 0 {
		return nil, nil
	}
	key := values[0]
	if len(values) > 1 || key == "" || len(key) > api.MaxKeyLength {
		return nil, api.Errorf(api.Invalid, "%s: must be one value of 1 to %d characters", api.KeyHeader, api.MaxKeyLength)
	}
	for i := range len(key) {
		if key[i] < ' ' || key[i] > '~' {
			return nil, api.Errorf(api.Invalid, "%s: must be of printable ASCII characters", api.KeyHeader)
		}
	}
	// The headers are left out: what proxies and tracing add is another each time.
	digest := sha256.New()
	for _, part := range [][]byte{[]byte(r.Method), []byte(r.URL.RawQuery), payload} {
		_ = binary.Write(digest, binary.BigEndian, uint64(len(part))) // a hash's Write has no error
		digest.Write(part)
	}
	return &api.Once{Key: key, Same: hex.EncodeToString(digest.Sum(nil)), Wait: wait}, nil
}

func (s *Server) submitOnce(w http.ResponseWriter, r *http.Request, d *api.Definition, once *api.Once, env []string, payload []byte) (call string, again bool, err error) {
	call, again, err = s.cfg.Calls.SubmitOnce(r.Context(), d, *once, env, payload)
	if again {
		w.Header().Set(api.ReplayedHeader, "true")
	}
	return call, again, err
}

// callSyncOnce answers each of the requests as if it had been the only one, as long as the answer was not delivered.
func (s *Server) callSyncOnce(w http.ResponseWriter, r *http.Request, d *api.Definition, once *api.Once, env []string, payload []byte) error {
	call, again, err := s.submitOnce(w, r, d, once, env, payload)
	if err != nil {
		return err
	}
	err = s.answer(w, r, d, call, true)
	if again && api.CodeOf(err) == api.NotFound {
		return api.Wrap(api.Expired, err, "the call with this "+api.KeyHeader+" has ended and its answer was fetched: "+call)
	}
	return err
}
