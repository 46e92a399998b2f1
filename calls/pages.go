package calls

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The size of a page: small, as each of a thousand readers may have one in memory, and a reader takes as long as it likes.
const (
	pageMessages = 64
	pageBytes    = 16 << 10
	pageTime     = 10 * time.Second // for the next of its messages to come
)

// pages reads messages of a stream in their order, a page at a time, without a consumer in JetStream that would have to be kept and ended.
type pages struct {
	s       *Store
	stream  jetstream.Stream
	subject string        // of the messages; may have wildcards
	time    time.Duration // pageTime
	inbox   string
	answers chan *nats.Msg
	sub     *nats.Subscription
}

func (s *Store) pagesOf(stream jetstream.Stream, subject string) (*pages, error) {
	p := &pages{s: s, stream: stream, subject: subject, time: pageTime}
	if !s.direct() {
		return p, nil
	}
	p.inbox, p.answers = nats.NewInbox(), make(chan *nats.Msg, pageMessages+1)
	var err error
	if p.sub, err = s.nc.ChanSubscribe(p.inbox, p.answers); err != nil {
		return nil, unavailable(err)
	}
	return p, nil
}

func (p *pages) close() {
	if p.sub != nil {
		_ = p.sub.Unsubscribe()
	}
}

// next passes the messages from this sequence on to yield until it returns false, at most a page of them. more tells that others may come after
// the page. The error is yield's, ctx's, or of code Unavailable.
func (p *pages) next(ctx context.Context, from uint64, yield func(sequence uint64, data []byte) (bool, error)) (more bool, err error) {
	if p.sub == nil {
		return p.nextFromLeader(ctx, from, yield)
	}
	// JetStream's batched direct access, ADR-31 of NATS.
	request, err := json.Marshal(struct {
		Seq      uint64 `json:"seq"`
		NextFor  string `json:"next_by_subj"`
		Batch    int    `json:"batch"`
		MaxBytes int    `json:"max_bytes"`
	}{from, p.subject, pageMessages, pageBytes})
	if err != nil {
		return false, err
	}
	if err := p.s.nc.PublishRequest("$JS.API.DIRECT.GET."+p.stream.CachedInfo().Config.Name, p.inbox, request); err != nil {
		return false, unavailable(err)
	}
	timeout := time.NewTimer(p.time)
	defer timeout.Stop()
	for yielding := true; ; {
		var m *nats.Msg
		select {
		case m = <-p.answers:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-timeout.C:
			return false, unavailable(errors.New("a page of a stream did not come"))
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204": // the end of the page
			return m.Header.Get("Nats-Num-Pending") != "0", nil
		case "404": // nothing comes after
			return false, nil
		default:
			return false, unavailable(fmt.Errorf("a page of a stream: %s %s", status, m.Header.Get("Description")))
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if !yielding {
			continue // up to the end of the page
		}
		sequence, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		if err != nil {
			return false, unavailable(err)
		}
		if yielding, err = yield(sequence, m.Data); err != nil {
			return false, err // the reader is gone, and reads no other page
		}
		timeout.Reset(p.time) // the reader may have taken as long as it likes
	}
}

// nextFromLeader is next where only the stream's leader is asked, which gives one message at a time.
func (p *pages) nextFromLeader(ctx context.Context, from uint64, yield func(sequence uint64, data []byte) (bool, error)) (more bool, err error) {
	for range pageMessages {
		msg, err := p.stream.GetMsg(ctx, from, jetstream.WithGetMsgSubject(p.subject))
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return false, nil
		}
		if err != nil {
			return false, unavailable(err)
		}
		if more, err := yield(msg.Sequence, msg.Data); err != nil || !more {
			return true, err
		}
		from = msg.Sequence + 1
	}
	return true, nil
}
