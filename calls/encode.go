package calls

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/funcd/funcd/api"
)

// lengthSize is the bytes before a call's description, which say how long that is.
const lengthSize = 4

// encodeCall returns the call as the data of a message: its description, with its length before, and its payload. The description is in no header of the
// message, as it holds the request's headers, which may be larger than JetStream's bound of a message's, 64 KiB.
func encodeCall(call *api.Call) ([]byte, error) {
	head, err := json.Marshal(call)
	if err != nil {
		return nil, err
	}
	data := make([]byte, lengthSize, lengthSize+len(head)+len(call.Payload))
	binary.BigEndian.PutUint32(data, uint32(len(head)))
	return append(append(data, head...), call.Payload...), nil
}

// decodeCall returns the call of a message's data, which becomes its own.
func decodeCall(data []byte) (*api.Call, error) {
	fail := func(err error) (*api.Call, error) {
		return nil, fmt.Errorf("a call in the queue can't be read: %w", err)
	}
	if len(data) < lengthSize {
		return fail(errors.New("it is too short"))
	}
	length, data := binary.BigEndian.Uint32(data), data[lengthSize:]
	if uint64(length) > uint64(len(data)) {
		return fail(errors.New("it is cut off"))
	}
	var call api.Call
	if err := json.Unmarshal(data[:length], &call); err != nil {
		return fail(err)
	}
	call.Payload = data[length:]
	return &call, nil
}
