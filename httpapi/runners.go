package httpapi

import (
	"bytes"
	"context"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/funcd/funcd/api"
)

// allocation returns whose the request's token is.
func (s *Server) allocation(r *http.Request) (api.Allocation, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return api.Allocation{}, api.Errorf(api.Unauthorized, "the token of an allocation is missing")
	}
	return s.cfg.Identities.Identify(r.Context(), token)
}

func (s *Server) runnerNext(w http.ResponseWriter, r *http.Request) error {
	allocation, err := s.allocation(r)
	if err != nil {
		return err
	}
	call := r.URL.Query().Get("call")
	if !api.ValidUUID(call) {
		return api.Errorf(api.Expired, "there is no call for this container")
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.PollTime)
	defer cancel()
	assignment, payload, err := s.cfg.Runners.Next(ctx, allocation, call)
	if api.CodeOf(err) == api.NotFound {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	// If the frame does not reach the runner, it asks again and gets the same.
	return api.WriteFrame(w, assignment, payload)
}

// functionID is what a function's internal id may be. It becomes a part of subjects and keys, in which other characters have a meaning.
var functionID = regexp.MustCompile(`^[0-9A-Za-z]{1,64}$`)

// reportTime is how long a result may take to come: the runner sends it again after a failure.
const reportTime = time.Minute

func (s *Server) runnerResult(w http.ResponseWriter, r *http.Request) error {
	allocation, err := s.allocation(r)
	if err != nil {
		return err
	}
	setReadDeadline(w, time.Now().Add(reportTime))
	var result api.Result
	output, err := api.ReadFrame(r.Body, &result, s.cfg.MaxOutput)
	if err != nil {
		return err
	}
	setReadDeadline(w, time.Time{})
	if !api.ValidUUID(result.CallID) || !functionID.MatchString(result.Function) {
		return api.Errorf(api.Invalid, "the result names no call")
	}
	// The runner may hang up as soon as it has sent all of it; it counts all the same.
	if err := s.cfg.Runners.Report(context.WithoutCancel(r.Context()), allocation, &result, output); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) runnerBinary(w http.ResponseWriter, r *http.Request) error {
	if len(s.cfg.RunnerArchive) == 0 {
		return api.Errorf(api.NotFound, "containers get their runner from a mounted directory here")
	}
	w.Header().Set("Content-Type", "application/gzip")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.cfg.RunnerArchive))
	return nil
}
