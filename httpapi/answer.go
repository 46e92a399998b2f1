package httpapi

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

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
	w.Header().Set("X-Content-Type-Options", "nosniff")
	writeWhole(w, status, "text/plain; charset=utf-8", []byte(text+"\n"))
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"message":"internal error"}`)
	}
	writeWhole(w, status, "application/json", append(body, '\n'))
}

// writeWhole answers with a body that is known as a whole. Its length goes before it, so that the answer is whole once it was flushed: net/http sends the
// end of a body without a length only when the handler returns, which may be seconds later, or never.
func writeWhole(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // whoever asked has gone if this fails
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
