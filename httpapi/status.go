package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/gorilla/mux"

	"github.com/funcd/funcd/api"
)

// States tells where the calls of a function stand. The errors are of code Unavailable.
type States interface {
	Status(ctx context.Context, function string) (api.Status, error)
	// Calls passes each call to yield, and returns its error.
	Calls(ctx context.Context, function, account string, yield func(api.CallStatus) error) error
	// FunctionOf returns the internal id and the name of the function that a call of the account belongs to. The error is of code NotFound if
	// the account has no such call.
	FunctionOf(ctx context.Context, account, call string) (function, name string, err error)
}

// functionOfCall answers with the function of a call whose id is all that is known of it.
func (s *Server) functionOfCall(w http.ResponseWriter, r *http.Request, account string, _ []byte) error {
	call := mux.Vars(r)["call"]
	notFound := func(err error) error { return api.Wrap(api.NotFound, err, fmt.Sprintf("no such call: %.100s", call)) }
	if !api.ValidUUID(call) {
		return notFound(nil)
	}
	function, name, err := s.cfg.States.FunctionOf(r.Context(), account, call)
	if err == nil {
		var d api.Definition
		if d, err = s.cfg.Directory.ByID(r.Context(), account, name, function); err == nil {
			s.writeFunction(w, r, d)
			return nil
		}
	}
	if api.CodeOf(err) == api.NotFound { // also one of a function that was removed in this moment
		return notFound(err)
	}
	return err
}

// status answers with the numbers of calls in each state and, with list, with each of them. A list may be long: it is written as it is read.
func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	d, err := s.admitted(w, r)
	if err != nil {
		return err
	}
	status, err := s.cfg.States.Status(r.Context(), d.ID)
	if err != nil {
		return err
	}
	if !boolean(r.URL.Query().Get("list")) {
		writeJSON(w, http.StatusOK, status)
		return nil
	}
	head, err := json.Marshal(status)
	if err != nil {
		return err
	}
	out := &lazyWriter{w: w, head: append(head[:len(head)-1], `,"List":[`...)}
	lines := bufio.NewWriter(out)
	separator := ""
	err = s.cfg.States.Calls(r.Context(), d.ID, d.Account, func(call api.CallStatus) error {
		line, err := json.Marshal(call)
		if err != nil {
			return err
		}
		_, _ = lines.WriteString(separator)
		_, err = lines.Write(line)
		separator = ","
		return err
	})
	if err != nil {
		if !out.begun {
			return err
		}
		s.log.Debug("the list of a function's calls broke off", "function", d.ID, "error", err)
		panic(http.ErrAbortHandler) // the answer has begun: only that it is not whole can be told
	}
	_, _ = lines.WriteString("]}\n")
	_ = lines.Flush() // whoever asked has gone if this fails
	return nil
}

// lazyWriter begins the answer with its first bytes, so that what fails before can be answered as an error.
type lazyWriter struct {
	w     http.ResponseWriter
	head  []byte
	begun bool
}

func (l *lazyWriter) Write(p []byte) (int, error) {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/json")
		if _, err := l.w.Write(l.head); err != nil {
			return 0, err
		}
	}
	return l.w.Write(p)
}
