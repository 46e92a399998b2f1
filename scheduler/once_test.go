package scheduler

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func (k *stack) once(key, same string) (call string, again bool, err error) {
	k.t.Helper()
	call, again, err = k.s.SubmitOnce(k.t.Context(), k.d, api.Once{Key: key, Same: same}, nil, []byte("in"))
	synctest.Wait()
	return call, again, err
}

func TestTheSameKeyIsTheSameCall(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call, again, err := k.once("a", "x")
		require.NoError(t, err)
		require.False(t, again)
		other, again, err := k.once("b", "x")
		require.NoError(t, err)
		require.False(t, again)
		require.NotEqual(t, call, other)
		repeat := func() {
			t.Helper()
			got, again, err := k.once("a", "x")
			require.NoError(t, err)
			require.True(t, again)
			require.Equal(t, call, got)
		}
		repeat()
		k.restart()
		repeat()
		_, err = k.take(1, call)
		require.NoError(t, err)
		repeat()
		require.NoError(t, k.report(1, call, 0, "out"))
		repeat()
		k.requireFinished(call, "out")
		rec, _, err := k.store.Record(t.Context(), k.d.ID, call)
		require.NoError(t, err)
		require.NoError(t, k.s.Delivered(t.Context(), rec))
		repeat()
		require.Equal(t, []string{other}, k.waiting(), "it is never queued again")

		_, _, err = k.once("a", "y")
		requireCode(t, api.KeyReused, err)
		k.functions.d.ID = "f2"
		got, again, err := k.once("a", "y")
		require.NoError(t, err, "functions share no keys")
		require.False(t, again)
		require.NotEqual(t, call, got)
	})
}

// TestAServerThatDiesBetweenTheKeyAndTheCall tries each step at which it may.
func TestAServerThatDiesBetweenTheKeyAndTheCall(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		operation string
		nth       int
		queued    int // calls that there are then
	}{
		"before the key":       {"SaveKey", 1, 0},
		"before the call":      {"Enqueue", 1, 0},
		"before it is noted":   {"SaveKey", 2, 1},
		"the key is not there": {"Key", 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				var first string
				if c.operation == "Key" {
					var err error
					first, _, err = k.once("a", "x")
					require.NoError(t, err)
				}
				n := 0
				k.store.failing(func(operation string) error {
					if operation == c.operation {
						if n++; n == c.nth {
							return api.Wrap(api.Unavailable, errors.New("killed"), "killed")
						}
					}
					return nil
				})
				_, _, err := k.once("a", "x")
				requireCode(t, api.Unavailable, err)
				require.Len(t, k.waiting(), c.queued)
				call, _, err := k.once("a", "x")
				require.NoError(t, err)
				if first != "" {
					require.Equal(t, first, call)
				}
				require.Equal(t, []string{call}, k.waiting())
				got, again, err := k.once("a", "x")
				require.NoError(t, err)
				require.True(t, again)
				require.Equal(t, call, got)
				require.Equal(t, []string{call}, k.waiting())
			})
		})
	}
}

// TestStoresKeys has many servers submit the same request at once.
func TestStoresKeys(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		k := raceStack(t, s)
		const callers, keys = 16, 4
		var mu sync.Mutex
		calls, firsts := map[string]map[string]bool{}, 0
		var lost atomic.Int64 // answers
		var wg sync.WaitGroup
		for i := range callers * keys {
			wg.Go(func() {
				key := fmt.Sprint("key ", i%keys)
				submit := func() (string, bool, error) {
					return k.s.SubmitOnce(t.Context(), k.d, api.Once{Key: key, Same: "x"}, nil, []byte("in"))
				}
				call, again, err := submit()
				for api.CodeOf(err) == api.Unavailable { // the disk of a busy machine; what keys are for
					call, again, err = submit()
					lost.Add(1)
				}
				if !assert.NoError(t, err) {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if calls[key] == nil {
					calls[key] = map[string]bool{}
				}
				calls[key][call] = true
				if !again {
					firsts++
				}
			})
		}
		wg.Wait()
		require.Len(t, calls, keys)
		require.LessOrEqual(t, firsts, keys)
		require.GreaterOrEqual(t, firsts, keys-int(lost.Load()), "but for those that were not told that they were")
		for key, ids := range calls {
			require.Len(t, ids, 1, key)
		}
		inFlight, err := s.CallsInFlight(t.Context(), k.d.Account, k.d.ID)
		require.NoError(t, err)
		require.Len(t, inFlight, keys)

		_, err = s.SaveKey(t.Context(), "acme", "f1", "key 0", api.CallKey{}, 0)
		requireCode(t, api.Conflict, err)
		value, version, err := s.Key(t.Context(), "acme", "f1", "key 0")
		require.NoError(t, err)
		require.True(t, value.Queued)
		_, err = s.SaveKey(t.Context(), "acme", "f1", "key 0", value, version)
		require.NoError(t, err)
		_, err = s.SaveKey(t.Context(), "acme", "f1", "key 0", value, version)
		requireCode(t, api.Conflict, err)
		for _, other := range [][3]string{{"acme", "f2", "key 0"}, {"umbra", "f1", "key 0"}, {"acme", "f1", "key"}} {
			_, _, err = s.Key(t.Context(), other[0], other[1], other[2])
			requireCode(t, api.NotFound, err)
		}
	})
}

func TestNothingIsQueuedWithoutRoom(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		before, _, err := k.once("before", "x")
		require.NoError(t, err)
		k.s.cfg.Room = func() error { return api.Errorf(api.Unavailable, "full") }
		_, err = k.s.Submit(t.Context(), k.d, nil, nil)
		requireCode(t, api.Unavailable, err)
		_, _, err = k.s.SubmitSync(t.Context(), k.d, nil, nil)
		requireCode(t, api.Unavailable, err)
		_, _, err = k.once("new", "x")
		requireCode(t, api.Unavailable, err)
		_, _, err = k.once("before", "another")
		requireCode(t, api.Unavailable, err)
		_, _, err = k.store.Key(t.Context(), k.d.Account, k.d.ID, "new")
		requireCode(t, api.NotFound, err)
		got, again, err := k.once("before", "x")
		require.NoError(t, err, "what was queued is told")
		require.True(t, again)
		require.Equal(t, before, got)
		k.s.cfg.Room = nil
		_, again, err = k.once("new", "x")
		require.NoError(t, err)
		require.False(t, again)
	})
}

func TestNothingIsStartedWithoutRoom(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		var room atomic.Bool
		k.s.cfg.ResultRoom = func() error {
			if room.Load() {
				return nil
			}
			return api.Errorf(api.Unavailable, "full")
		}
		call, cancelled := k.submit(), k.submit()
		time.Sleep(time.Minute)
		require.Empty(t, k.dispatched())
		rec, _, err := k.store.Record(t.Context(), k.d.ID, call)
		require.NoError(t, err)
		require.Equal(t, "PENDING it is not started: full", string(rec.State)+" "+rec.Message)
		require.NoError(t, k.cancel(cancelled))
		k.requireCancelled(cancelled)
		require.Empty(t, k.dispatched())
		room.Store(true)
		time.Sleep(roomPause)
		synctest.Wait()
		require.Equal(t, []string{call}, k.dispatched())
	})
}
