package calls

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// JetStream keeps a stream in files of several megabytes, and makes a new one whenever the last message of the newest is removed: eight times
// the cost of a removal. The streams here are nearly empty most of the time. So each has a message that stays, the anchor, in the newest file.

const (
	queueAnchor   = "anchor" // of queue.<account>.<anchor>, which no consumer matches
	recordsAnchor = "record.-.anchor"
	outAnchor     = "anchor" // of out.<function>.<anchor>
)

// anchorInterval is how often the anchor of a stream in use moves on: at full speed some hundred times before the file changes.
const anchorInterval = time.Second

// anchored is a stream with an anchor.
type anchored struct {
	jetstream.Stream
	anchor string      // its subject; empty for a stream from which nothing is removed
	used   bool        // since the anchor moved; guarded by Store.mu
	heard  atomic.Bool // something that this server has published was stored
}

// use notes that the stream is in use.
func (s *Store) use(stream *anchored) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stream.used = true
}

// moveAnchors keeps the anchors of used streams in their newest files until ctx ends.
func (s *Store) moveAnchors(ctx context.Context) {
	tick := time.NewTicker(anchorInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var subjects []string
		s.mu.Lock()
		for _, stream := range s.streams {
			if stream.used && stream.anchor != "" {
				subjects = append(subjects, stream.anchor)
			}
			stream.used = false
		}
		s.mu.Unlock()
		for _, subject := range subjects {
			// It may fail with the connection, or for a function that was removed: removals are slower then, nothing else.
			if err := s.nc.Publish(subject, nil); err != nil {
				s.log.Debug("an anchor did not move", "subject", subject, "error", err)
			}
		}
	}
}
