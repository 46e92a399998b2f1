package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"

	"github.com/gorilla/mux"

	"github.com/funcd/funcd/api"
)

// Dead holds the calls of accounts that have failed. Its errors are of code NotFound and Unavailable.
type Dead interface {
	// DeadLetters passes those of the account, or of one of its functions, to yield, and returns its error.
	DeadLetters(ctx context.Context, account, function string, yield func(api.DeadLetter) error) error
	DeadLetter(ctx context.Context, account, call string) (of *api.Call, letter api.DeadLetter, version uint64, err error)
	RemoveDeadLetter(ctx context.Context, account, call string) error
	// Requeue makes a new call of the letter and returns its id.
	Requeue(ctx context.Context, account, call string) (string, error)
}

func (s *Server) routeDead(router *mux.Router, prefix string) {
	s.route(router, s.managed(s.listDead), prefix+"/dead", http.MethodGet)
	s.route(router, s.managed(s.getDead), prefix+"/dead/{call}", http.MethodGet)
	s.route(router, s.managed(s.removeDead), prefix+"/dead/{call}", http.MethodDelete)
	s.route(router, s.managed(s.requeueDead), prefix+"/dead/{call}/requeue", http.MethodPost)
}

// listDead writes the list as it is read: it may be long.
func (s *Server) listDead(w http.ResponseWriter, r *http.Request, account string, _ []byte) error {
	function := ""
	if name := r.URL.Query().Get("function"); name != "" {
		d, err := s.cfg.Directory.Get(r.Context(), account, name)
		if err != nil {
			return err
		}
		function = d.ID
	}
	out := &lazyWriter{w: w, head: []byte("[")}
	lines := bufio.NewWriter(out)
	separator := ""
	err := s.cfg.Dead.DeadLetters(r.Context(), account, function, func(letter api.DeadLetter) error {
		line, err := json.Marshal(letter)
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
		s.log.Debug("the list of an account's dead letters broke off", "account", account, "error", err)
		panic(http.ErrAbortHandler) // the answer has begun: only that it is not whole can be told
	}
	_, _ = lines.WriteString("]\n")
	_ = lines.Flush() // whoever asked has gone if this fails
	return nil
}

// deadCall returns the id in the path, that of a call whose letter may be there.
func deadCall(r *http.Request) (string, error) {
	call := mux.Vars(r)["call"]
	if !api.ValidUUID(call) {
		return "", api.Errorf(api.NotFound, "no such dead letter: %.100s", call)
	}
	return call, nil
}

func (s *Server) getDead(w http.ResponseWriter, r *http.Request, account string, _ []byte) error {
	call, err := deadCall(r)
	if err != nil {
		return err
	}
	_, letter, _, err := s.cfg.Dead.DeadLetter(r.Context(), account, call)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, letter)
	return nil
}

func (s *Server) removeDead(w http.ResponseWriter, r *http.Request, account string, _ []byte) error {
	call, err := deadCall(r)
	if err != nil {
		return err
	}
	if err := s.cfg.Dead.RemoveDeadLetter(r.Context(), account, call); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) requeueDead(w http.ResponseWriter, r *http.Request, account string, _ []byte) error {
	call, err := deadCall(r)
	if err != nil {
		return err
	}
	id, err := s.cfg.Dead.Requeue(r.Context(), account, call)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, api.CallID{CallID: id})
	return nil
}
