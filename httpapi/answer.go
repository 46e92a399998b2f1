package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
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

// bodyPart is how much of a body must come within the time for it, in bytes.
const bodyPart = 64 << 10

// readBody reads the request's body, each part of which must come within the time for it. The error is of code TooLarge for one over limit, of which
// no more than that is read, BodyTimeout for one that did not come in time, and Invalid for one that broke off.
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
	body, err := s.readParts(w, http.MaxBytesReader(w, r.Body, int64(limit)), int(r.ContentLength))
	var over *http.MaxBytesError
	if errors.As(err, &over) {
		return nil, tooLarge
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.Header().Set("Connection", "close")
		return nil, api.Wrap(api.BodyTimeout, err, fmt.Sprintf("the body did not come in time: each %d bytes of it may take %s", bodyPart, s.cfg.BodyTime))
	}
	if err != nil {
		return nil, api.Wrap(api.Invalid, err, "the body broke off")
	}
	// The call may take longer than its body, and its reader's end is known by reading.
	setReadDeadline(w, time.Time{})
	return body, nil
}

// readParts reads until the end, or as much as is announced if that is not negative. It takes memory for what has come, not for what is to.
func (s *Server) readParts(w http.ResponseWriter, reader io.Reader, announced int) ([]byte, error) {
	size := bodyPart
	if announced >= 0 {
		size = min(announced, bodyPart)
	}
	body, next := make([]byte, 0, size), 0
	for {
		if len(body) >= next {
			setReadDeadline(w, time.Now().Add(s.cfg.BodyTime))
			next = len(body) + bodyPart
		}
		if len(body) == cap(body) {
			body = slices.Grow(body, len(body))
		}
		n, err := reader.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF || len(body) == announced {
			return body, nil
		}
		if err != nil {
			return nil, err
		}
	}
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
