package scheduler

import (
	"context"

	"github.com/funcd/funcd/api"
)

type fakeKey struct {
	value   api.CallKey
	version uint64
}

func (f *fakeStore) Key(_ context.Context, account, function, k string) (api.CallKey, uint64, error) {
	if err := f.begin("Key"); err != nil {
		return api.CallKey{}, 0, err
	}
	defer f.mu.Unlock()
	stored, ok := f.keys[account+" "+key(function, k)]
	if !ok {
		return api.CallKey{}, 0, api.Errorf(api.NotFound, "the key was not used")
	}
	return stored.value, stored.version, nil
}

func (f *fakeStore) SaveKey(_ context.Context, account, function, k string, value api.CallKey, version uint64) (uint64, error) {
	if err := f.begin("SaveKey"); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	at := account + " " + key(function, k)
	if f.keys[at].version != version {
		return 0, api.Errorf(api.Conflict, "the key has just been used")
	}
	f.versions++
	f.keys[at] = fakeKey{value, f.versions}
	return f.versions, nil
}

func (f *fakeStore) EnqueueOnce(ctx context.Context, call *api.Call) error {
	f.mu.Lock()
	known := f.enqueued[call.ID]
	f.mu.Unlock()
	if known {
		return nil
	}
	if err := f.Enqueue(ctx, call); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.enqueued[call.ID] = true
	return nil
}
