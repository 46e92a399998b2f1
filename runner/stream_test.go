package runner

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
)

// peer is funcd's end of an upgraded connection.
type peer struct {
	w    *waitingRoom
	conn net.Conn
	in   *bufio.Reader
	out  *bufio.Writer
}

// upgraded is a step that upgrades the request and follows the script. The connection ends with it.
func upgraded(script func(p *peer)) step {
	return step{handler: func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != api.RunnerUpgrade {
			rw.WriteHeader(http.StatusBadRequest)
			return
		}
		conn, buffered, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.RunnerUpgrade+"\r\n\r\n")
		roomOf(r).peer(conn, buffered.Reader, script)
	}}
}

// The handler of a step knows its room by the request's server.
type roomKey struct{}

func roomOf(r *http.Request) *waitingRoom { return r.Context().Value(roomKey{}).(*waitingRoom) }

func (w *waitingRoom) peer(conn net.Conn, in *bufio.Reader, script func(p *peer)) {
	script(&peer{w: w, conn: conn, in: in, out: bufio.NewWriter(conn)})
}

func (p *peer) note(word string) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.order = append(p.w.order, word)
}

// call sends a call and waits for its confirmation.
func (p *peer) call(s step) {
	_ = api.WriteMessage(p.out, api.MessageCall, s.call, []byte("in of "+s.call.CallID))
	if kind, _, _, err := api.ReadMessage(p.in, 0); err == nil {
		p.note(string(rune(kind)) + " " + s.call.CallID)
	}
}

func (p *peer) send(kind byte) { _ = api.WriteMessage(p.out, kind, nil, nil) }

// result takes a result.
func (p *peer) result() {
	kind, head, body, err := api.ReadMessage(p.in, 1<<20)
	if err != nil {
		return
	}
	var result api.Result
	if err := json.Unmarshal(head, &result); err != nil {
		p.w.t.Error(err)
	}
	p.note(string(rune(kind)) + " " + result.CallID)
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.results[result.CallID], p.w.outputs[result.CallID] = &result, string(body)
}

func TestCallsComeOverOneConnection(t *testing.T) {
	t.Parallel()
	one, two, three := callOf(t, "one", 9, "cat"), callOf(t, "two", 9, "exit", "3"), callOf(t, "three", 1, "cat")
	for name, c := range map[string]struct {
		script func(p *peer)
		then   []step
		order  string
		status int
	}{
		"until the last that it may serve": {func(p *peer) {
			for _, s := range []step{one, two, three} {
				p.call(s)
				p.send(api.MessageGo)
				p.result()
				p.send(api.MessageStored)
			}
		}, nil, "poll; b one; r one; b two; r two; b three; l three", 0},
		"until it is to end": {func(p *peer) {
			p.call(two)
			p.send(api.MessageGo)
			p.result()
			p.send(api.MessageStored)
			p.send(api.MessageEnd)
			p.result()
		}, nil, "poll; b two; r two", 3},
		"and it is to end with a result": {func(p *peer) {
			p.call(one)
			p.send(api.MessageGo)
			p.result()
			p.send(api.MessageEnd)
			p.result()
		}, nil, "poll; b one; r one", 0},
		"and there is none": {func(p *peer) { p.send(api.MessageEnd) }, nil, "poll", 0},
		"and one is another's": {func(p *peer) {
			p.call(one)
			p.send(api.MessageGone)
			p.call(three)
			p.send(api.MessageGo)
			p.result()
			p.send(api.MessageStored)
		}, nil, "poll; b one; b three; l three", 0},
		"which breaks while it waits":      {func(*peer) {}, []step{three}, "poll; poll; begin three; result three", 0},
		"which breaks with a call":         {func(p *peer) { _, _ = p.conn.Write([]byte("c\x00\x00\x00\x09")) }, []step{three}, "poll; poll; begin three; result three", 0},
		"which breaks with a confirmation": {func(p *peer) { p.call(three) }, nil, "poll; b three; begin three; result three", 0},
		"which breaks while the call runs": {func(p *peer) {
			p.call(three)
			p.send(api.MessageGo)
		}, nil, "poll; b three; result three", 0},
		"which breaks with a result": {func(p *peer) {
			p.call(three)
			p.send(api.MessageGo)
			p.result()
		}, nil, "poll; b three; l three; result three", 0},
		"with a word that is none": {func(p *peer) { p.send('?') }, []step{three}, "poll; poll; begin three; result three", 0},
		"with a confirmation that is none": {func(p *peer) {
			p.call(three)
			p.send(api.MessageStored)
		}, nil, "poll; b three; begin three; result three", 0},
		"with an answer to a result that is none": {func(p *peer) {
			p.call(three)
			p.send(api.MessageGo)
			p.result()
			p.send(api.MessageGo)
		}, nil, "poll; b three; l three; result three", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newRoom(t, append([]step{upgraded(c.script)}, c.then...)...)
			o := w.start(nil).wait(t)
			require.NoError(t, o.err)
			require.Equal(t, c.status, o.status)
			require.Equal(t, c.order, strings.Join(w.order, "; "))
			for id, output := range w.outputs {
				require.Contains(t, []string{"in of " + id, ""}, output)
			}
		})
	}
}

func TestSignalEndsAWaitOnAConnection(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	w := newRoom(t, upgraded(func(p *peer) {
		_, _, _, _ = api.ReadMessage(p.in, 0)
		close(gone)
	}))
	c := w.start(nil)
	<-w.polling
	c.signals <- unix.SIGTERM
	o := c.wait(t)
	require.NoError(t, o.err)
	require.Zero(t, o.status)
	<-gone
}
