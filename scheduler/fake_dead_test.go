package scheduler

import (
	"context"

	"github.com/funcd/funcd/api"
)

type fakeLetter struct {
	call    *api.Call
	rec     api.Record
	letter  api.DeadLetter
	version uint64
}

func (f *fakeStore) Bury(_ context.Context, call *api.Call, rec api.Record) error {
	if err := f.begin("Bury"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if f.buried[call.ID] {
		return nil
	}
	f.buried[call.ID] = true
	f.versions++
	f.letters[call.ID] = fakeLetter{call, rec, api.DeadLetter{CallID: call.ID, Message: rec.Message}, f.versions}
	return nil
}

func (f *fakeStore) DeadLetter(_ context.Context, account, call string) (*api.Call, api.DeadLetter, uint64, error) {
	if err := f.begin("DeadLetter"); err != nil {
		return nil, api.DeadLetter{}, 0, err
	}
	defer f.mu.Unlock()
	l, ok := f.letters[call]
	if !ok || l.call.Account != account {
		return nil, api.DeadLetter{}, 0, api.Errorf(api.NotFound, "no such dead letter: %s", call)
	}
	return l.call, l.letter, l.version, nil
}

func (f *fakeStore) RemoveLetter(_ context.Context, _ string, version uint64) error {
	if err := f.begin("RemoveLetter"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	for id, l := range f.letters {
		if l.version == version {
			delete(f.letters, id)
		}
	}
	return nil
}

// dead returns the calls that are dead letters.
func (k *stack) dead() []string {
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	calls := []string{}
	for id := range k.store.letters {
		calls = append(calls, id)
	}
	return calls
}
