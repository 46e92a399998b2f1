package httpapi

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/funcd/funcd/api"
)

// allocation returns whose the request's token is. Who has none keeps no connection: a function's process reaches the socket too.
func (s *Server) allocation(w http.ResponseWriter, r *http.Request) (_ api.Allocation, err error) {
	defer func() {
		if api.CodeOf(err) == api.Unauthorized {
			w.Header().Set("Connection", "close")
		}
	}()
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return api.Allocation{}, api.Errorf(api.Unauthorized, "the token of an allocation is missing")
	}
	allocation, err := s.cfg.Identities.Identify(r.Context(), token)
	if err != nil {
		return api.Allocation{}, err
	}
	if allocation.Runner = r.Header.Get(api.RunnerHeader); len(allocation.Runner) > api.MaxRunner {
		return api.Allocation{}, api.Errorf(api.Invalid, "%s is longer than %d bytes", api.RunnerHeader, api.MaxRunner)
	}
	return allocation, nil
}

func (s *Server) runnerNext(w http.ResponseWriter, r *http.Request) error {
	allocation, err := s.allocation(w, r)
	if err != nil {
		return err
	}
	if err := s.skipBody(w, r, sender{}); err != nil {
		return err
	}
	ctx, cancel := s.poll(r.Context())
	defer cancel()
	var assignment *api.Assignment
	var payload []byte
	query := r.URL.Query()
	function := query.Get("function")
	if !api.ValidFunctionID(function) {
		return api.Errorf(api.Expired, "there is no call for this container")
	}
	revision, err := strconv.ParseUint(query.Get("revision"), 10, 64)
	if err != nil {
		return api.Wrap(api.Expired, err, "there is no call for this container")
	}
	if call := query.Get("call"); call != "" {
		if !api.ValidUUID(call) {
			return api.Errorf(api.Expired, "there is no call for this container")
		}
		allocation.Revision, allocation.Dispatch = revision, query.Get("job")
		assignment, payload, err = s.cfg.Runners.Next(ctx, allocation, function, call)
	} else {
		slot := api.Slot{Function: function, Revision: revision, Job: query.Get("job")}
		if upgrades(r, api.RunnerUpgrade) {
			return s.runnerCalls(w, r, allocation, slot)
		}
		assignment, payload, err = s.cfg.Runners.NextSlot(ctx, allocation, slot)
	}
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

func (s *Server) runnerBegin(w http.ResponseWriter, r *http.Request) error {
	allocation, err := s.allocation(w, r)
	if err != nil {
		return err
	}
	if err := s.skipBody(w, r, sender{}); err != nil {
		return err
	}
	function, call := r.URL.Query().Get("function"), r.URL.Query().Get("call")
	if !api.ValidUUID(call) || !api.ValidFunctionID(function) {
		return api.Errorf(api.Expired, "there is no such call")
	}
	if err := s.cfg.Runners.Begin(r.Context(), allocation, function, call); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// reportTime is how long a result may take to come: the runner sends it again after a failure.
const reportTime = time.Minute

func (s *Server) runnerResult(w http.ResponseWriter, r *http.Request) error {
	allocation, err := s.allocation(w, r)
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
	if !api.ValidUUID(result.CallID) || !api.ValidFunctionID(result.Function) {
		return api.Errorf(api.Invalid, "the result names no call")
	}
	// The runner may hang up as soon as it has sent all of it; it counts all the same.
	switch err := s.cfg.Runners.Report(context.WithoutCancel(r.Context()), allocation, &result, output); {
	case api.CodeOf(err) == api.Cancelled:
		w.WriteHeader(http.StatusResetContent)
		return nil
	case err != nil:
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
