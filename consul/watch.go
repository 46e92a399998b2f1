package consul

import (
	"context"
	"time"

	consul "github.com/hashicorp/consul/api"
	"golang.org/x/time/rate"
)

const (
	// watchWait is how long a blocking query waits for a change. Consul's own default is 5 minutes; a shorter one finds out earlier
	// that a connection is dead.
	watchWait = time.Minute
	// A watch asks at most this often, as each answer holds everything under its prefix and functions may be created in a burst.
	// Consul's documentation of blocking queries asks clients for such a limit.
	watchRate, watchBurst = 10, 10
	// Many values take longer to be told than functions to be created: a watch leaves this much time for each of its values before it asks
	// again, some ten times of what one costs. Nothing waits for a watch but changes that other servers have made.
	valueTime = 200 * time.Microsecond
)

// watch hands over everything under prefix, at first and after each change, until ctx ends, whose error it returns. Consul may also answer
// without a change: under an empty prefix its index moves with other keys. Before each request
// it calls ask, which returns the function that takes the answer and its index. Nothing is called concurrently. An outage is logged once,
// and after it everything is handed over anew.
func (c *Client) watch(ctx context.Context, prefix string, ask func() func(consul.KVPairs, uint64)) error {
	var (
		index uint64
		pause backoff
		down  bool
		limit = rate.NewLimiter(watchRate, watchBurst)
		log   = c.log.With("prefix", prefix)
	)
	for {
		sleep(ctx, limit.Reserve().Delay())
		if ctx.Err() != nil {
			return ctx.Err()
		}
		take := ask()
		pairs, meta, err := c.list(ctx, prefix, index, watchWait)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			if !down {
				log.Warn("watch interrupted", "err", err)
			}
			// What is gone since may have left no trace in the index, as Consul forgets deletions after a while.
			down, index = true, 0
			pause.wait(ctx)
			continue
		case down:
			log.Info("watch resumed")
			down = false
		}
		pause.reset()
		if index == 0 || meta.LastIndex != index {
			take(pairs, meta.LastIndex)
			sleep(ctx, time.Duration(len(pairs))*valueTime)
		}
		index = nextIndex(index, meta.LastIndex)
	}
}
