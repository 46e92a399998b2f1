package api

import (
	"context"
	"net/http"
	"net/url"
)

// DeadLetter is a call that has failed and is kept with its payload, to be looked at and queued again.
type DeadLetter struct {
	CallID   string `json:"CallId"`
	Function string // the function's name
	Created  Timestamp
	Started  *Timestamp `json:",omitempty"` // its last attempt, if it had one
	Ended    Timestamp
	Attempts int // how often the function was started for it
	ExitCode int `json:",omitempty"`
	Message  string
	Size     int // bytes of the payload

	// Only in the answer to one letter.
	Env     []string `json:",omitempty"` // the CGI variables of its request
	Payload []byte   `json:",omitempty"`
}

// DeadLetters returns the account's dead letters, the oldest first, without what is only in the answer to one; of this function, if it is not empty.
// Errors: NotFound for a function that is not there.
func (c *Client) DeadLetters(ctx context.Context, function string) ([]DeadLetter, error) {
	var query url.Values
	if function != "" {
		query = url.Values{"function": {function}}
	}
	var letters []DeadLetter
	err := c.manage(ctx, http.MethodGet, []string{"dead"}, query, nil, &letters)
	return letters, err
}

// DeadLetter returns the dead letter of a call, with its payload. Errors: NotFound.
func (c *Client) DeadLetter(ctx context.Context, callID string) (DeadLetter, error) {
	var letter DeadLetter
	err := c.manage(ctx, http.MethodGet, []string{"dead", callID}, nil, nil, &letter)
	return letter, err
}

// Requeue makes a new call of a dead letter, with its payload and the function as it is now, and returns its id. The letter is gone then. Errors:
// NotFound, Unavailable where the queue is full.
func (c *Client) Requeue(ctx context.Context, callID string) (string, error) {
	var id CallID
	err := c.manage(ctx, http.MethodPost, []string{"dead", callID, "requeue"}, nil, nil, &id)
	return id.CallID, err
}

// RemoveDeadLetter removes a dead letter. Errors: NotFound.
func (c *Client) RemoveDeadLetter(ctx context.Context, callID string) error {
	return c.manage(ctx, http.MethodDelete, []string{"dead", callID}, nil, nil, nil)
}
