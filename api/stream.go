package api

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// RunnerUpgrade is what a runner that waits for any call may ask to upgrade its request at RunnerNextPath to: calls come and results go over that
// connection as messages, one call after another, in place of three requests for each. A server may answer as without it, and either
// side may hang up at any moment: the runner goes on with the requests where the connection has ended.
//
//	server                runner
//	MessageCall       →
//	                  ←   MessageBegin
//	MessageGo         →                  or MessageGone: the call is not the container's, the next comes
//	                  ←   MessageResult  or MessageLast
//	MessageStored     →                  or MessageEnd
//
// MessageEnd may come in place of a call too: there will be none.
const RunnerUpgrade = "funcd-calls"

// The kinds of messages.
const (
	MessageCall   = 'c' // an Assignment, and the payload
	MessageBegin  = 'b' // the container asks whether the call is its own
	MessageGo     = 'g' // it is
	MessageGone   = 'n' // it is not
	MessageResult = 'r' // a Result, and stdout; the container takes another call
	MessageLast   = 'l' // the same, and the container takes no more
	MessageStored = 's' // the result is stored, or was not wanted any more
	MessageEnd    = 'e' // the container is to end
)

// WriteMessage writes one message and flushes it. head may be nil.
func WriteMessage(w *bufio.Writer, kind byte, head any, body []byte) error {
	var line []byte
	if head != nil {
		var err error
		if line, err = json.Marshal(head); err != nil {
			return err
		}
	}
	prefix := append(make([]byte, 0, 9), kind)
	prefix = binary.BigEndian.AppendUint32(prefix, uint32(len(line)))
	prefix = binary.BigEndian.AppendUint32(prefix, uint32(len(body)))
	for _, part := range [][]byte{prefix, line, body} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return w.Flush()
}

// ReadMessage reads what WriteMessage wrote. The error is of code TooLarge for a head over MaxFrameHead or a body over maxBody bytes, of which
// nothing is read, and one of reading otherwise.
func ReadMessage(r *bufio.Reader, maxBody int) (kind byte, head, body []byte, err error) {
	var prefix [9]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return 0, nil, nil, fmt.Errorf("reading a message: %w", err)
	}
	heads, bodies := binary.BigEndian.Uint32(prefix[1:]), binary.BigEndian.Uint32(prefix[5:])
	if uint64(heads) > MaxFrameHead || uint64(bodies) > uint64(maxBody) {
		return 0, nil, nil, Errorf(TooLarge, "a message has a head of %d and a body of %d bytes", heads, bodies)
	}
	both := make([]byte, int(heads)+int(bodies))
	if _, err := io.ReadFull(r, both); err != nil {
		return 0, nil, nil, fmt.Errorf("reading a message: %w", err)
	}
	return prefix[0], both[:heads:heads], both[heads:], nil
}
