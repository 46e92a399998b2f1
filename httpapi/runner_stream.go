package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/funcd/funcd/api"
)

// errStreamEnds says that a runner's connection is done with.
var errStreamEnds = errors.New("the connection ends")

// runnerStream is the connection of a container that waits for calls, and takes them over it.
type runnerStream struct {
	s          *Server
	allocation api.Allocation
	slot       api.Slot
	conn       net.Conn
	out        *bufio.Writer
	messages   chan message
}

type message struct {
	kind       byte
	head, body []byte
}

func upgrades(r *http.Request, protocol string) bool {
	return r.ProtoMajor == 1 && strings.EqualFold(r.Header.Get("Upgrade"), protocol)
}

// runnerCalls gives calls to a slot over an upgraded connection until it or the slot ends.
func (s *Server) runnerCalls(w http.ResponseWriter, r *http.Request, allocation api.Allocation, slot api.Slot) error {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("upgrading a connection: %w", err)
	}
	s.upgraded.Add(1)
	defer s.upgraded.Done()
	ctx, cancel := context.WithCancel(r.Context())
	var reading sync.WaitGroup
	defer reading.Wait()
	defer conn.Close()
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })() // ends the reading
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.RunnerUpgrade+"\r\n\r\n"); err != nil {
		return nil
	}
	c := &runnerStream{s: s, allocation: allocation, slot: slot, conn: conn, out: bufio.NewWriter(conn), messages: make(chan message)}
	reading.Go(func() {
		// A container that is gone is known at once, whatever it was doing.
		defer cancel()
		c.read(ctx, buffered.Reader)
	})
	for {
		if err := c.serve(ctx); err != nil {
			if ctx.Err() == nil && !errors.Is(err, errStreamEnds) {
				s.log.Debug("a container's connection ends", "alloc", allocation.ID, "error", err)
			}
			return nil
		}
	}
}

func (c *runnerStream) read(ctx context.Context, r *bufio.Reader) {
	for {
		kind, head, body, err := api.ReadMessage(r, c.s.cfg.MaxOutput)
		if err != nil {
			return
		}
		select {
		case c.messages <- message{kind, head, body}:
		case <-ctx.Done():
			return
		}
	}
}

// receive returns the runner's next message, which must be of one of the kinds.
func (c *runnerStream) receive(ctx context.Context, kinds string) (message, error) {
	select {
	case m := <-c.messages:
		if !strings.ContainsRune(kinds, rune(m.kind)) {
			return m, api.Errorf(api.Invalid, "a message of kind %q came out of its turn", m.kind)
		}
		return m, nil
	case <-ctx.Done():
		return message{}, ctx.Err()
	}
}

// serve gives the slot one call, or none in PollTime. An error ends the connection: the runner comes again.
func (c *runnerStream) serve(ctx context.Context) error {
	waiting, cancel := c.s.poll(ctx)
	assignment, payload, err := c.s.cfg.Runners.NextSlot(waiting, c.allocation, c.slot)
	cancel()
	switch api.CodeOf(err) {
	case "":
	case api.NotFound:
		if c.s.draining.polled.Err() != nil {
			return errStreamEnds
		}
		return ctx.Err()
	case api.Expired:
		_ = api.WriteMessage(c.out, api.MessageEnd, nil, nil)
		return errStreamEnds
	default:
		return err
	}
	if err := api.WriteMessage(c.out, api.MessageCall, assignment, payload); err != nil {
		return err
	}
	if _, err := c.receive(ctx, string(rune(api.MessageBegin))); err != nil {
		return err
	}
	switch err := c.s.cfg.Runners.Begin(ctx, c.allocation, assignment.Function, assignment.CallID); api.CodeOf(err) {
	case "":
	case api.Expired:
		return api.WriteMessage(c.out, api.MessageGone, nil, nil)
	default:
		return err // it may be the container's call: that it is asked again
	}
	if err := api.WriteMessage(c.out, api.MessageGo, nil, nil); err != nil {
		return err
	}
	return c.result(ctx)
}

func (c *runnerStream) result(ctx context.Context) error {
	m, err := c.receive(ctx, string([]rune{api.MessageResult, api.MessageLast}))
	if err != nil {
		return err
	}
	var result api.Result
	if err := json.Unmarshal(m.head, &result); err != nil {
		return err
	}
	if !api.ValidUUID(result.CallID) || !api.ValidFunctionID(result.Function) {
		return api.Errorf(api.Invalid, "the result names no call")
	}
	// It has come as a whole: it counts whoever hangs up.
	answer := byte(api.MessageStored)
	switch err := c.s.cfg.Runners.Report(context.WithoutCancel(ctx), c.allocation, &result, m.body); api.CodeOf(err) {
	case "", api.Expired:
	case api.Cancelled:
		answer = api.MessageEnd
	default:
		return err
	}
	if err := api.WriteMessage(c.out, answer, nil, nil); err != nil {
		return err
	}
	if m.kind == api.MessageLast || answer == api.MessageEnd {
		return errStreamEnds
	}
	return nil
}

// Wait returns when the connections that were upgraded have ended. Their requests' context must have.
func (s *Server) Wait() { s.upgraded.Wait() }
