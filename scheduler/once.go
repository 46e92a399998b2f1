package scheduler

import (
	"context"

	"github.com/funcd/funcd/api"
)

// Keys holds what the idempotency keys of functions stand for, each for some time.
type Keys interface {
	// Key returns what a key stands for, and its version. The error is of code NotFound or Unavailable.
	Key(ctx context.Context, account, function, key string) (value api.CallKey, version uint64, err error)
	// SaveKey stores it if version is still the stored one's, 0 for none; else the error is of code Conflict.
	SaveKey(ctx context.Context, account, function, key string, value api.CallKey, version uint64) (uint64, error)
}

// SubmitOnce is Submit of a request that may come again, here or at another server: the first with its key queues a call, and the others have the
// same. again tells them. The error is of code KeyReused for a request that is not the same, else Unavailable.
//
// The key is written down before the call is queued, with the call's id, and marked when it is. Who finds it not marked does not know whether it
// was: the server may have died in between, or be about to. It queues the call once more then, under the same id, if there is none.
func (s *Scheduler) SubmitOnce(ctx context.Context, d *api.Definition, once api.Once, env []string, payload []byte) (id string, again bool, err error) {
	if full := s.room(); full != nil {
		// One that is queued already is answered all the same.
		stored, _, err := s.cfg.Keys.Key(ctx, d.Account, d.ID, once.Key)
		if err != nil || !stored.Queued || stored.Same != once.Same {
			return "", false, full
		}
		return stored.Call, true, nil
	}
	call := newCall(d, env, payload)
	call.Options.Dead = call.Options.Dead && !once.Wait
	value := api.CallKey{Call: call.ID, Same: once.Same}
	version, err := s.cfg.Keys.SaveKey(ctx, d.Account, d.ID, once.Key, value, 0)
	for api.CodeOf(err) == api.Conflict {
		value, version, err = s.cfg.Keys.Key(ctx, d.Account, d.ID, once.Key)
		if api.CodeOf(err) == api.NotFound { // its time has just passed
			value = api.CallKey{Call: call.ID, Same: once.Same}
			version, err = s.cfg.Keys.SaveKey(ctx, d.Account, d.ID, once.Key, value, 0)
		}
	}
	again = value.Call != call.ID
	switch {
	case err != nil:
		return "", false, err
	case value.Same != once.Same:
		return "", false, api.Errorf(api.KeyReused, "the %s was used for another request, with another method, query or body", api.KeyHeader)
	case value.Queued:
		return value.Call, again, nil
	}
	call.ID = value.Call
	queued := false
	if again {
		if queued, err = s.exists(ctx, d, call.ID); err != nil {
			return "", false, err
		}
	}
	if !queued {
		if err := s.enqueueBy(ctx, call, s.cfg.Queue.EnqueueOnce); err != nil {
			return "", false, err
		}
	}
	value.Queued = true
	// Whoever was faster has marked it too.
	if _, err := s.cfg.Keys.SaveKey(ctx, d.Account, d.ID, once.Key, value, version); err != nil && api.CodeOf(err) != api.Conflict {
		return "", false, err
	}
	return call.ID, again, nil
}

// exists tells whether something is known of a call, also after its answer was fetched.
func (s *Scheduler) exists(ctx context.Context, d *api.Definition, call string) (bool, error) {
	// It may leave the queue between the first two looks.
	recorded := func() (bool, error) {
		_, _, err := s.cfg.Records.Record(ctx, d.ID, call)
		if api.CodeOf(err) == api.NotFound {
			return false, nil
		}
		return err == nil, err
	}
	queued := func() (bool, error) { return s.cfg.Queue.IsQueued(ctx, d.Account, d.ID, call) }
	for _, look := range []func() (bool, error){recorded, queued, recorded} {
		if there, err := look(); there || err != nil {
			return there, err
		}
	}
	return false, nil
}
