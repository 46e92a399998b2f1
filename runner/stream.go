package runner

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/funcd/funcd/api"
)

// stream is a connection over which calls come one after another, see api.RunnerUpgrade. After an error of any of its methods it is of no more use,
// and the requests go on where it has ended.
type stream struct {
	conn io.ReadWriteCloser
	in   *bufio.Reader
	out  *bufio.Writer

	since time.Time
}

func newStream(conn io.ReadWriteCloser) *stream {
	return &stream{conn: conn, in: bufio.NewReader(conn), out: bufio.NewWriter(conn), since: time.Now()}
}

// call waits for the next call until ctx ends. The error is errNoCall if there will be none.
func (s *stream) call(ctx context.Context) (*api.Assignment, []byte, error) {
	defer context.AfterFunc(ctx, func() { s.conn.Close() })()
	if _, err := s.in.Peek(1); err != nil { // which may come as late as it likes, but then all of it comes
		return nil, nil, err
	}
	defer s.limit()()
	kind, head, body, err := api.ReadMessage(s.in, maxPayload)
	switch {
	case err != nil:
		return nil, nil, err
	case kind == api.MessageEnd:
		return nil, nil, errNoCall
	case kind != api.MessageCall:
		return nil, nil, fmt.Errorf("funcd sent a message of kind %q in place of a call", kind)
	}
	assignment := new(api.Assignment)
	return assignment, body, json.Unmarshal(head, assignment)
}

// confirm returns nil if the call is this container's, and errNoCall if it is not.
func (s *stream) confirm() error {
	kind, err := s.ask(api.MessageBegin, nil, nil)
	switch {
	case err != nil:
		return err
	case kind == api.MessageGone:
		return errNoCall
	case kind != api.MessageGo:
		return fmt.Errorf("funcd answered a confirmation with a message of kind %q", kind)
	}
	return nil
}

// deliver hands in a result. The error is errNoCall if the container is to end.
func (s *stream) deliver(result *api.Result, stdout []byte, last bool) error {
	kind := byte(api.MessageResult)
	if last {
		kind = api.MessageLast
	}
	kind, err := s.ask(kind, result, stdout)
	switch {
	case err != nil:
		return err
	case kind == api.MessageEnd:
		return errNoCall
	case kind != api.MessageStored:
		return fmt.Errorf("funcd answered a result with a message of kind %q", kind)
	}
	return nil
}

// ask sends a message and returns the kind of the answer, within answerTime: a server that was frozen, or whose host has gone, says nothing, and another may be there.
func (s *stream) ask(kind byte, head any, body []byte) (answer byte, err error) {
	defer s.limit()()
	if err := api.WriteMessage(s.out, kind, head, body); err != nil {
		return 0, err
	}
	answer, _, _, err = api.ReadMessage(s.in, 0)
	return answer, err
}

// limit ends the connection after answerTime, unless stop is called before.
func (s *stream) limit() (stop func() bool) { return time.AfterFunc(answerTime, s.close).Stop }

func (s *stream) lived() time.Duration { return time.Since(s.since) }

func (s *stream) close() { s.conn.Close() }
