package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/funcd/funcd/api"
)

// function returns the function that the path names by its name and UUID. A wrong name and a wrong UUID have one answer.
func (s *Server) function(r *http.Request) (*api.Definition, error) {
	vars := mux.Vars(r)
	if !api.ValidUUID(vars["uuid"]) {
		return nil, noSuchFunction(nil)
	}
	d, err := s.cfg.Directory.ByUUID(r.Context(), vars["uuid"])
	if api.CodeOf(err) == api.NotFound || err == nil && d.Function.Name != vars["name"] {
		return nil, noSuchFunction(err)
	}
	if err != nil {
		return nil, err
	}
	return &d, nil
}

func noSuchFunction(err error) error {
	return api.Wrap(api.NotFound, err, "no such function")
}

// submission reads what is called, and with what.
func (s *Server) submission(w http.ResponseWriter, r *http.Request) (d *api.Definition, env []string, payload []byte, err error) {
	d, from, err := s.admit(r)
	if err != nil {
		return nil, nil, nil, err
	}
	if payload, err = s.readBody(w, r, from); err != nil {
		return nil, nil, nil, err
	}
	return d, cgiEnv(r, len(payload)), payload, nil
}

func (s *Server) call(w http.ResponseWriter, r *http.Request) error {
	d, env, payload, err := s.submission(w, r)
	if err != nil {
		return err
	}
	once, err := onceOf(r, payload, false)
	if err != nil {
		return err
	}
	var call string
	if once != nil {
		call, _, err = s.submitOnce(w, r, d, once, env, payload)
	} else {
		call, err = s.cfg.Calls.Submit(r.Context(), d, env, payload)
	}
	if err != nil {
		return err
	}
	s.sendElsewhere(w)
	writeJSON(w, http.StatusOK, api.CallID{CallID: call})
	return nil
}

func (s *Server) callSync(w http.ResponseWriter, r *http.Request) error {
	d, env, payload, err := s.submission(w, r)
	if err != nil {
		return err
	}
	once, err := onceOf(r, payload, true)
	if err != nil {
		return err
	}
	if once != nil {
		return s.callSyncOnce(w, r, d, once, env, payload)
	}
	call, release, err := s.cfg.Calls.SubmitSync(r.Context(), d, env, payload)
	if err != nil {
		return err
	}
	defer release()
	return s.answer(w, r, d, call, true)
}

func (s *Server) output(w http.ResponseWriter, r *http.Request) error {
	return s.fetch(w, r, false)
}

func (s *Server) outputWait(w http.ResponseWriter, r *http.Request) error {
	return s.fetch(w, r, true)
}

func (s *Server) fetch(w http.ResponseWriter, r *http.Request, wait bool) error {
	d, call, err := s.functionAndCall(w, r)
	if err != nil {
		return err
	}
	return s.answer(w, r, d, call, wait)
}

// functionAndCall returns the function that the path names, and the id of a call that may be one of it.
func (s *Server) functionAndCall(w http.ResponseWriter, r *http.Request) (*api.Definition, string, error) {
	d, err := s.admitted(w, r)
	if err != nil {
		return nil, "", err
	}
	call := mux.Vars(r)["call"]
	if !api.ValidUUID(call) {
		return nil, "", api.Errorf(api.NotFound, "no such call: %.100s", call)
	}
	return d, call, nil
}

func (s *Server) cancelCall(w http.ResponseWriter, r *http.Request) error {
	d, call, err := s.functionAndCall(w, r)
	if err != nil {
		return err
	}
	if err := s.cfg.Calls.Cancel(r.Context(), d, call); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// answer answers with the call's state or its output. An ended call is removed when its answer has arrived as a whole.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, d *api.Definition, call string, wait bool) error {
	rec, output, err := s.cfg.Calls.Output(r.Context(), d, call, wait)
	s.sendElsewhere(w)
	if err != nil && !rec.State.Ended() {
		return err
	}
	if err != nil && api.CodeOf(err) == api.Unavailable {
		return err // its output is there, but can't be read now
	}
	var written error
	switch {
	case err != nil:
		writeError(w, r, err)
	case rec.State == api.Finished:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Length", strconv.Itoa(len(output)))
		_, written = w.Write(output)
	case rec.State == api.Running:
		writeText(w, http.StatusCreated, "the call is being executed")
		return nil
	default:
		text := "the call is waiting for execution"
		if rec.Message != "" {
			text += ": " + rec.Message
		}
		writeText(w, http.StatusAccepted, text)
		return nil
	}
	if written == nil {
		written = http.NewResponseController(w).Flush()
	}
	if written != nil || !arrived(r) {
		return nil // nobody to answer any more; the call stays to be fetched
	}
	// Whoever asked has the answer and may have hung up.
	if err := s.cfg.Calls.Delivered(context.WithoutCancel(r.Context()), rec); err != nil {
		s.log.Warn("a call that was fetched is not removed", "call", rec.CallID, "error", err)
	}
	return nil
}

// logs writes events as JSON lines: over the raw connection for a client that asks for its upgrade, else as the body.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) error {
	d, err := s.admitted(w, r)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	q := api.EventQuery{Call: query.Get("callid"), Follow: boolean(query.Get("follow"))}
	if q.Tail, err = tail(query.Get("tail")); err != nil {
		return err
	}
	if q.Call != "" && !api.ValidUUID(q.Call) {
		return api.Errorf(api.Invalid, "callid: %.100q is not the id of a call", q.Call)
	}
	if strings.EqualFold(r.Header.Get("Upgrade"), "tcp") && r.ProtoMajor == 1 { // HTTP/2 has no upgrades, and needs none
		return s.logsUpgraded(w, r, d.ID, q)
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	flusher := http.NewResponseController(w)
	// A follower learns at once that it is connected, however long the first line takes.
	if err := flusher.Flush(); err != nil {
		return nil
	}
	if !s.copyEvents(r.Context(), d.ID, q, w, flusher.Flush) {
		panic(http.ErrAbortHandler) // the answer has begun: only that it is not whole can be told
	}
	return nil
}

func (s *Server) logsUpgraded(w http.ResponseWriter, r *http.Request, function string, q api.EventQuery) error {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("upgrading a connection: %w", err)
	}
	s.upgraded.Add(1)
	defer s.upgraded.Done()
	defer conn.Close()
	if _, err := io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"+
		"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"); err != nil {
		return nil
	}
	// The context of a hijacked request ends with the server only: reading tells when the other side is gone. What it may send has no meaning.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		defer cancel()
		for buf := make([]byte, 64); ; { // there may be a thousand of these
			if _, err := buffered.Read(buf); err != nil {
				return
			}
		}
	}()
	defer func() { <-reading }()
	defer conn.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // ends the reading
	s.copyEvents(ctx, function, q, buffered.Writer, buffered.Flush)
	return nil
}

var newline = []byte("\n")

// copyEvents writes the events that q asks for, and reports whether those are all: if they are followed, because the function was removed.
func (s *Server) copyEvents(ctx context.Context, function string, q api.EventQuery, w io.Writer, flush func() error) bool {
	errGone := errors.New("the reader is gone")
	err := s.cfg.Logs.Events(ctx, function, q, func(event []byte) error {
		var err error
		if event == nil {
			err = flush()
		} else if _, err = w.Write(event); err == nil {
			_, err = w.Write(newline)
		}
		if err != nil {
			return errGone
		}
		return nil
	})
	whole := err == nil || api.CodeOf(err) == api.NotFound
	if !whole && !errors.Is(err, errGone) && ctx.Err() == nil {
		s.log.Warn("the events of a function broke off", "function", function, "error", err)
	}
	_ = flush()
	return whole
}
