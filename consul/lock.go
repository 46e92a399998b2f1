package consul

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"
)

// The lock is made of Consul's sessions and acquire, not of its client's Lock: that one knows no context, waits for none of its goroutines,
// and does not notice that its session can't be renewed any more.
const (
	// sessionTTL is how long a session lives without being renewed, and how long after its last renewal a holder takes itself to be one.
	sessionTTL = 15 * time.Second
	// lockDelay is how long Consul gives a lock to nobody after its holder's session has ended in any way but a release. As it is no
	// shorter than sessionTTL, a holder that Consul has lost has stopped by then.
	lockDelay = sessionTTL
	// renewInterval leaves two more attempts before the session ends.
	renewInterval = sessionTTL / 3
)

var errLockLost = errors.New("the lock is lost")

// WhileLeader runs lead on one of the servers that call it with this key. It waits until it gets the lock, and calls lead with a context
// that ends when the lock is lost or ctx ends; lead must return soon then. When lead returns, for whatever reason, the lock is given up,
// and after a pause tried for again; an error of lead is logged. It blocks until ctx ends, whose error it returns.
func (c *Client) WhileLeader(ctx context.Context, key string, lead func(context.Context) error) error {
	if !segment.MatchString(key) {
		return fmt.Errorf("consul: %q can't be the key of a lock", key)
	}
	log := c.log.With("lock", key)
	var pause backoff
	down := false
	for ctx.Err() == nil {
		began := time.Now()
		led, err := c.leadOnce(ctx, c.key("locks", key), lead)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case led && err != nil:
			log.Warn("leadership ended", "err", err)
		case err != nil && !down:
			log.Warn("lock can't be acquired", "err", err)
		}
		down = !led && err != nil
		if time.Since(began) > maxPause {
			pause.reset()
		}
		pause.wait(ctx)
	}
	return ctx.Err()
}

// leadOnce makes a session, waits for the lock and runs lead once. It tells whether lead was run, and why it was not or how it ended.
func (c *Client) leadOnce(ctx context.Context, key string, lead func(context.Context) error) (led bool, err error) {
	created := time.Now()
	session, err := c.createSession(ctx, key)
	if err != nil {
		return false, err
	}
	held, end := context.WithCancelCause(ctx)
	var background sync.WaitGroup
	defer func() {
		end(nil)
		background.Wait()
		// Releasing first spares the next leader the lock delay. Both are for others: without them, the session ends by itself.
		ctx := context.WithoutCancel(ctx)
		err = errors.Join(err, c.release(ctx, key, session), c.destroySession(ctx, session))
	}()
	background.Go(func() { end(c.renew(held, session, created)) })

	if err = c.acquire(held, key, session); err == nil {
		background.Go(func() { end(c.guard(held, key, session)) })
		c.log.Info("leadership gained", "lock", key)
		led, err = true, lead(held)
	}
	if cause := context.Cause(held); errors.Is(cause, errLockLost) {
		err = cause
	}
	return led, err
}

func (c *Client) createSession(ctx context.Context, key string) (string, error) {
	bounded, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	entry := &consul.SessionEntry{Name: key, TTL: sessionTTL.String(), LockDelay: c.lockDelay, Behavior: consul.SessionBehaviorRelease}
	id, _, err := c.api.Session().Create(entry, new(consul.WriteOptions).WithContext(bounded))
	return id, translate(ctx, err)
}

func (c *Client) destroySession(ctx context.Context, session string) error {
	bounded, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	_, err := c.api.Session().Destroy(session, new(consul.WriteOptions).WithContext(bounded))
	return translate(ctx, err)
}

// release gives the lock up. One that is not held is no error.
func (c *Client) release(ctx context.Context, key, session string) error {
	bounded, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	pair := &consul.KVPair{Key: key, Session: session}
	_, _, err := c.api.KV().Release(pair, new(consul.WriteOptions).WithContext(bounded))
	return translate(ctx, err)
}

// renew keeps the session alive until ctx ends, or returns why it can't. The session is lost when Consul says so, and when it could not be
// renewed for its TTL, counted from when the last good renewal was sent.
func (c *Client) renew(ctx context.Context, session string, renewed time.Time) error {
	ticker := time.NewTicker(renewInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		sent := time.Now()
		bounded, cancel := context.WithDeadline(ctx, renewed.Add(sessionTTL))
		entry, _, err := c.api.Session().Renew(session, new(consul.WriteOptions).WithContext(bounded))
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil && entry == nil:
			return fmt.Errorf("%w: its session has ended", errLockLost)
		case err == nil:
			renewed = sent
		case time.Since(renewed) >= sessionTTL:
			return fmt.Errorf("%w: its session can't be renewed: %w", errLockLost, err)
		}
	}
}

// acquire blocks until the session holds the lock.
func (c *Client) acquire(ctx context.Context, key, session string) error {
	var pause backoff
	for {
		bounded, cancel := context.WithTimeout(ctx, c.timeout)
		got, _, err := c.api.KV().Acquire(&consul.KVPair{Key: key, Session: session}, new(consul.WriteOptions).WithContext(bounded))
		cancel()
		if err != nil || got {
			return translate(ctx, err)
		}
		holder, index, err := c.holder(ctx, key, 0)
		if holder == "" && err == nil { // the lock delay, of which Consul tells no end
			pause.wait(ctx)
		}
		for holder != "" && err == nil {
			holder, index, err = c.holder(ctx, key, index)
		}
		if err != nil {
			return err
		}
	}
}

// guard blocks until another than session holds the lock, or ctx ends. An outage is not for it to judge but for renew.
func (c *Client) guard(ctx context.Context, key, session string) error {
	var (
		pause backoff
		index uint64
	)
	for {
		holder, next, err := c.holder(ctx, key, index)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			index = 0
			pause.wait(ctx)
			continue
		case holder != session:
			return fmt.Errorf("%w: it was taken away", errLockLost)
		}
		index = next
		pause.reset()
	}
}

// holder returns the session that holds the lock, "" for none, and the index to wait for the next change with. An index other than 0 waits
// for a change after it, for at most watchWait.
func (c *Client) holder(ctx context.Context, key string, index uint64) (string, uint64, error) {
	pair, next, err := c.getAfter(ctx, key, index, watchWait)
	if err != nil || pair == nil {
		return "", next, err
	}
	return pair.Session, next, nil
}
