package httpapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/funcd/funcd/api"
)

// retryAfter is the seconds after which what is answered with 503 may be asked for again. A queue that was full has room, a NATS cluster a new
// leader, and whoever is being stopped a successor, or not yet.
const retryAfter = "2"

// writeError answers with the error's sentence as text, as clients print the body as it comes, or as JSON for those who ask for it. What
// went wrong inside is for the log only.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	code := api.CodeOf(err)
	w.Header().Set(api.ErrorHeader, string(code))
	if code.Status() == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		writeJSON(w, code.Status(), struct {
			Message string `json:"message"`
		}{api.MessageOf(err)})
		return
	}
	writeText(w, code.Status(), api.MessageOf(err))
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // whoever asked has gone if this fails
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"message":"internal error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// readBody reads the request's body, which must have come within the time for it. The error is of code TooLarge for one over limit, of which
// no more than that is read, and Invalid for one that broke off.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, limit int) ([]byte, error) {
	tooLarge := api.Errorf(api.TooLarge, "the body is over %d bytes", limit)
	if r.ContentLength > int64(limit) {
		// What comes anyway is not read: the connection can't be used again.
		w.Header().Set("Connection", "close")
		return nil, tooLarge
	}
	if r.ContentLength == 0 {
		return nil, nil
	}
	reader := http.MaxBytesReader(w, r.Body, int64(limit))
	var body []byte
	var err error
	if r.ContentLength > 0 {
		body = make([]byte, r.ContentLength)
		_, err = io.ReadFull(reader, body)
	} else {
		body, err = io.ReadAll(reader)
	}
	var over *http.MaxBytesError
	if errors.As(err, &over) {
		return nil, tooLarge
	}
	if err != nil {
		return nil, api.Wrap(api.Invalid, err, "the body broke off or did not come in time")
	}
	// The call may take longer than its body, and its reader's end is known by reading.
	setReadDeadline(w, time.Time{})
	return body, nil
}

// setReadDeadline bounds what is read of the request. Not every listener can have it; those of an http.Server can.
func setReadDeadline(w http.ResponseWriter, at time.Time) {
	_ = http.NewResponseController(w).SetReadDeadline(at)
}

// boolean reads a query parameter the way the original's clients write it.
func boolean(text string) bool {
	switch strings.ToLower(text) {
	case "1", "true":
		return true
	}
	return false
}

// tail reads the tail parameter: all, nothing, or how many. The error is of code Invalid.
func tail(text string) (int, error) {
	if text == "" || text == "all" {
		return -1, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, api.Errorf(api.Invalid, "tail: %.100q must be all or a number", text)
	}
	return n, nil
}
