package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// streamed is Runners whose answers come from a test.
type streamed struct {
	Runners
	next    chan error // what NextSlot answers; nil is a call
	begin   error
	report  error
	results chan string
	gone    chan struct{} // gets a value when a wait has ended without a call
}

func (b *streamed) NextSlot(ctx context.Context, _ api.Allocation, _ api.Slot) (*api.Assignment, []byte, error) {
	select {
	case err := <-b.next:
		return &api.Assignment{CallID: testCall, Function: testFunction, Confirm: true}, []byte("in"), err
	case <-ctx.Done():
		b.gone <- struct{}{}
		return nil, nil, api.Errorf(api.NotFound, "no call has claimed the slot")
	}
}

func (b *streamed) Begin(context.Context, api.Allocation, string, string) error { return b.begin }

func (b *streamed) Report(_ context.Context, _ api.Allocation, result *api.Result, output []byte) error {
	b.results <- string(result.Outcome) + " " + string(output)
	return b.report
}

// upgrade is a runner that has upgraded its request.
func upgrade(t *testing.T, b *streamed, header ...string) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	b.next, b.results, b.gone = make(chan error, 8), make(chan string, 8), make(chan struct{}, 100)
	cfg := testConfig(newBackend())
	cfg.Runners = b
	address := strings.TrimPrefix(serve(t, cfg).URL, "http://")
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	request := "POST " + slotNextPath + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + api.RunnerUpgrade + "\r\n"
	for i := 0; i < len(header); i += 2 {
		request += header[i] + ": " + header[i+1] + "\r\n"
	}
	_, err = io.WriteString(conn, request+"\r\n")
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	return conn, in, resp
}

func requireMessage(t *testing.T, in *bufio.Reader, kind byte) (head, body []byte) {
	t.Helper()
	got, head, body, err := api.ReadMessage(in, 1<<20)
	require.NoError(t, err)
	require.Equal(t, string(rune(kind)), string(rune(got)))
	return head, body
}

func requireEnd(t *testing.T, in *bufio.Reader) {
	t.Helper()
	_, err := in.ReadByte()
	require.ErrorIs(t, err, io.EOF)
}

func TestCallsOverAConnection(t *testing.T) {
	t.Parallel()
	b := &streamed{}
	conn, in, resp := upgrade(t, b, goodAuth...)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	require.Equal(t, api.RunnerUpgrade, resp.Header.Get("Upgrade"))
	out := bufio.NewWriter(conn)
	result := api.Result{CallID: testCall, Function: testFunction, Outcome: api.Exited}
	for _, kind := range []byte{api.MessageResult, api.MessageLast} {
		b.next <- nil
		head, body := requireMessage(t, in, api.MessageCall)
		var assignment api.Assignment
		require.NoError(t, json.Unmarshal(head, &assignment))
		require.Equal(t, testCall, assignment.CallID)
		require.Equal(t, "in", string(body))
		require.NoError(t, api.WriteMessage(out, api.MessageBegin, nil, nil))
		requireMessage(t, in, api.MessageGo)
		require.NoError(t, api.WriteMessage(out, kind, result, []byte("out")))
		requireMessage(t, in, api.MessageStored)
		require.Equal(t, "exited out", <-b.results)
	}
	requireEnd(t, in)
}

func TestWhatEndsAConnection(t *testing.T) {
	t.Parallel()
	result := api.Result{CallID: testCall, Function: testFunction, Outcome: api.Exited}
	for name, c := range map[string]struct {
		b    streamed
		talk func(t *testing.T, b *streamed, in *bufio.Reader, out *bufio.Writer)
	}{
		"a slot that is not needed": {streamed{}, func(t *testing.T, b *streamed, in *bufio.Reader, _ *bufio.Writer) {
			b.next <- api.Errorf(api.Expired, "the function has changed")
			requireMessage(t, in, api.MessageEnd)
		}},
		"a store that is away": {streamed{}, func(_ *testing.T, b *streamed, _ *bufio.Reader, _ *bufio.Writer) {
			b.next <- api.Errorf(api.Unavailable, "away")
		}},
		"a confirmation that is not known to be one": {streamed{begin: api.Errorf(api.Unavailable, "away")}, func(t *testing.T, b *streamed, in *bufio.Reader, out *bufio.Writer) {
			b.next <- nil
			requireMessage(t, in, api.MessageCall)
			require.NoError(t, api.WriteMessage(out, api.MessageBegin, nil, nil))
		}},
		"a result that is not stored": {streamed{report: api.Errorf(api.Unavailable, "away")}, func(t *testing.T, b *streamed, in *bufio.Reader, out *bufio.Writer) {
			b.next <- nil
			requireMessage(t, in, api.MessageCall)
			require.NoError(t, api.WriteMessage(out, api.MessageBegin, nil, nil))
			requireMessage(t, in, api.MessageGo)
			require.NoError(t, api.WriteMessage(out, api.MessageResult, result, nil))
		}},
		"a cancelled call": {streamed{report: api.Errorf(api.Cancelled, "cancelled")}, func(t *testing.T, b *streamed, in *bufio.Reader, out *bufio.Writer) {
			b.next <- nil
			requireMessage(t, in, api.MessageCall)
			require.NoError(t, api.WriteMessage(out, api.MessageBegin, nil, nil))
			requireMessage(t, in, api.MessageGo)
			require.NoError(t, api.WriteMessage(out, api.MessageResult, result, nil))
			requireMessage(t, in, api.MessageEnd)
		}},
		"a result of nothing": {streamed{}, func(t *testing.T, b *streamed, in *bufio.Reader, out *bufio.Writer) {
			b.next <- nil
			requireMessage(t, in, api.MessageCall)
			require.NoError(t, api.WriteMessage(out, api.MessageBegin, nil, nil))
			requireMessage(t, in, api.MessageGo)
			require.NoError(t, api.WriteMessage(out, api.MessageResult, api.Result{CallID: "*", Function: ">"}, nil))
		}},
		"a message out of its turn": {streamed{}, func(t *testing.T, b *streamed, in *bufio.Reader, out *bufio.Writer) {
			b.next <- nil
			requireMessage(t, in, api.MessageCall)
			require.NoError(t, api.WriteMessage(out, api.MessageResult, result, nil))
		}},
		"an output that is too large": {streamed{}, func(t *testing.T, b *streamed, in *bufio.Reader, out *bufio.Writer) {
			_, err := out.WriteString("r\x00\x00\x00\x00\xff\xff\xff\xff")
			require.NoError(t, err)
			require.NoError(t, out.Flush())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, in, _ := upgrade(t, &c.b, goodAuth...)
			c.talk(t, &c.b, in, bufio.NewWriter(conn))
			requireEnd(t, in)
		})
	}
}

func TestACallThatIsAnothersIsFollowedByTheNext(t *testing.T) {
	t.Parallel()
	b := &streamed{begin: api.Errorf(api.Expired, "not offered any more")}
	conn, in, _ := upgrade(t, b, goodAuth...)
	out := bufio.NewWriter(conn)
	for range 2 {
		b.next <- nil
		requireMessage(t, in, api.MessageCall)
		require.NoError(t, api.WriteMessage(out, api.MessageBegin, nil, nil))
		requireMessage(t, in, api.MessageGone)
	}
}

// A container that has died must not be handed a call.
func TestAConnectionThatBreaksEndsTheWait(t *testing.T) {
	t.Parallel()
	b := &streamed{}
	conn, _, _ := upgrade(t, b, goodAuth...)
	require.NoError(t, conn.Close())
	<-b.gone
}

func TestAnUpgradeNeedsAToken(t *testing.T) {
	t.Parallel()
	_, _, resp := upgrade(t, &streamed{})
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
}
