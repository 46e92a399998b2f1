package api

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
)

// maxLine bounds one line of a streamed answer. An event holds three times ShortLength and a message.
const maxLine = 1 << 20

// Logs gives yield the events of a function's calls that the query chooses, oldest first, and returns when there are no more; with Follow it
// blocks until ctx ends, the server, or the function, and only then returns nil. An error of yield ends it and is returned as it is. Errors:
// NotFound, Invalid, Unavailable.
func (c *Client) Logs(ctx context.Context, name, uuid string, q EventQuery, yield func(Event) error) error {
	query := url.Values{}
	if q.Call != "" {
		query.Set("callid", q.Call)
	}
	if q.Follow {
		query.Set("follow", "1")
	}
	if q.Tail >= 0 {
		query.Set("tail", strconv.Itoa(q.Tail))
	}
	req, err := c.callRequest(ctx, http.MethodGet, []string{"logs", name, uuid}, query, nil, nil)
	if err != nil {
		return err
	}
	return c.stream(req, func(line []byte) error {
		var e Event
		if err := c.decode(line, &e); err != nil {
			return err
		}
		return yield(e)
	})
}

// Status returns how many calls of a function are in each state, and with list also each of them. Errors: NotFound.
func (c *Client) Status(ctx context.Context, name, uuid string, list bool) (Status, error) {
	var query url.Values
	if list {
		query = url.Values{"list": {"1"}}
	}
	var status Status
	req, err := c.callRequest(ctx, http.MethodGet, []string{"status", name, uuid}, query, nil, nil)
	if err != nil {
		return status, err
	}
	_, answer, err := c.send(req)
	if err != nil {
		return status, err
	}
	return status, c.decode(answer, &status)
}

// Cancel ends a call: one that waits never starts, and one that runs is sent its function's StopSignal and then SIGKILL. It does not wait for
// that: Output does, and then has an error of code Cancelled. Errors: NotFound, Conflict for a call that has ended.
func (c *Client) Cancel(ctx context.Context, name, uuid, callID string) error {
	req, err := c.callRequest(ctx, http.MethodDelete, []string{"call", name, uuid, callID}, nil, nil, nil)
	if err != nil {
		return err
	}
	_, _, err = c.send(req)
	return err
}

// stream gives yield the lines of a 2xx answer as they come.
func (c *Client) stream(req *http.Request, yield func(line []byte) error) error {
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unanswered(req, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return readError(resp)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		if err := yield(lines.Bytes()); err != nil {
			return err
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return Errorf(TooLarge, "a line of the answer of %s is over %d bytes", c.address, maxLine)
	case err != nil:
		return c.unanswered(req, err)
	}
	// A server that ends its answer because the client has hung up can't be told from one that has said all.
	if err := req.Context().Err(); err != nil {
		return c.unanswered(req, err)
	}
	return nil
}
