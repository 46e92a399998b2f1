package scheduler

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestACallThatHasFailedForGoodIsADeadLetter(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.labels(map[string]string{"funcd.retries": "1"})
		call := k.running()
		require.NoError(t, k.report(1, call, 3, ""))
		require.Empty(t, k.dead(), "it has an attempt left")
		time.Sleep(time.Second)
		synctest.Wait()
		assignment, err := k.take(2, call)
		require.NoError(t, err)
		require.NoError(t, k.s.Report(t.Context(), alloc(2), &api.Result{CallID: call, Function: "f1", Outcome: api.Exited, ExitCode: 3, Attempt: assignment.Attempt}, nil))
		synctest.Wait()
		require.Equal(t, []string{call}, k.dead())
		buried := k.store.letters[call]
		require.Equal(t, "in", string(buried.call.Payload))
		require.Equal(t, 1, buried.rec.Attempts)
		require.Equal(t, "exit status 3", buried.rec.Message)
		k.requireFailed(call, api.CallFailed, "exit status 3")
		require.NoError(t, k.s.Delivered(t.Context(), k.record(call)))
		require.Equal(t, []string{call}, k.dead(), "whether or not it is fetched")
	})
}

func TestWhatIsNoDeadLetter(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		label string
		end   func(t *testing.T, k *stack) (call string)
		dead  bool
	}{
		"a failure": {"true", func(t *testing.T, k *stack) string {
			call := k.running()
			require.NoError(t, k.report(1, call, 1, ""))
			return call
		}, true},
		"a failure of a function that does not ask": {"false", func(t *testing.T, k *stack) string {
			call := k.running()
			require.NoError(t, k.report(1, call, 1, ""))
			return call
		}, false},
		"one that finishes": {"true", func(t *testing.T, k *stack) string {
			call := k.running()
			require.NoError(t, k.report(1, call, 0, "out"))
			return call
		}, false},
		"one that is cancelled while it waits": {"true", func(t *testing.T, k *stack) string {
			call := k.submit()
			require.NoError(t, k.s.Cancel(t.Context(), k.d, call))
			return call
		}, false},
		"one that is cancelled while it runs": {"true", func(t *testing.T, k *stack) string {
			call := k.running()
			require.NoError(t, k.s.Cancel(t.Context(), k.d, call))
			requireCode(t, api.Cancelled, k.report(1, call, 143, ""))
			return call
		}, false},
		"one whose caller waits": {"true", func(t *testing.T, k *stack) string {
			call, release, err := k.s.SubmitSync(t.Context(), k.d, nil, nil)
			require.NoError(t, err)
			synctest.Wait()
			_, err = k.take(1, call)
			require.NoError(t, err)
			require.NoError(t, k.report(1, call, 1, ""))
			release()
			return call
		}, false},
		"one whose caller waits, with a key": {"true", func(t *testing.T, k *stack) string {
			call, _, err := k.s.SubmitOnce(t.Context(), k.d, api.Once{Key: "a", Wait: true}, nil, nil)
			require.NoError(t, err)
			synctest.Wait()
			_, err = k.take(1, call)
			require.NoError(t, err)
			require.NoError(t, k.report(1, call, 1, ""))
			return call
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				k.labels(map[string]string{"funcd.dead": c.label})
				call := c.end(t, k)
				time.Sleep(time.Minute)
				synctest.Wait()
				if c.dead {
					require.Equal(t, []string{call}, k.dead())
				} else {
					require.Empty(t, k.dead())
				}
				require.Empty(t, k.waiting())
			})
		})
	}
}

func TestAnExpiredCallIsADeadLetter(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.labels(map[string]string{"funcd.dead": "true", "funcd.maxage": "1m"})
		call := k.submit()
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, []string{call}, k.dead())
		k.requireFailed(call, api.CallFailed, "expired in the queue: it has waited for 1m0s")
	})
}

// A call leaves the queue once its letter is on disk, whatever dies between.
func TestNoDeadLetterIsLost(t *testing.T) {
	t.Parallel()
	for _, operation := range []string{"Bury", "Done"} {
		t.Run(operation, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				k.labels(map[string]string{"funcd.dead": "true"})
				call := k.running()
				k.store.failing(func(o string) error {
					if o == operation {
						return api.Errorf(api.Unavailable, "killed")
					}
					return nil
				})
				require.NoError(t, k.report(1, call, 1, ""))
				require.Equal(t, []string{call}, k.waiting())
				k.store.failing(nil)
				k.restart()
				time.Sleep(time.Minute)
				synctest.Wait()
				require.Equal(t, []string{call}, k.dead())
				k.requireFailed(call, api.CallFailed, "exit status 1")
			})
		})
	}
}

// Its owner is another server, that has not heard of the end when the answer is fetched here.
func TestAFetchedCallIsADeadLetterToo(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		k.labels(map[string]string{"funcd.dead": "true"})
		call := k.running()
		other := k.server()
		k.store.failing(func(o string) error {
			if o == "NotifyEnd" {
				return errors.New("lost")
			}
			return nil
		})
		require.NoError(t, other.Report(t.Context(), alloc(1), &api.Result{CallID: call, Function: "f1", Outcome: api.Exited, ExitCode: 1}, nil))
		require.Equal(t, []string{call}, k.waiting())
		rec, _, err := other.Output(t.Context(), k.d, call, true)
		requireCode(t, api.CallFailed, err)
		require.NoError(t, other.Delivered(t.Context(), rec))
		require.Equal(t, []string{call}, k.dead())
		require.Empty(t, k.waiting())
	})
}

func (k *stack) deadCall() string {
	k.t.Helper()
	k.labels(map[string]string{"funcd.dead": "true"})
	call := k.running()
	require.NoError(k.t, k.report(1, call, 1, ""))
	require.Equal(k.t, []string{call}, k.dead())
	return call
}

func TestRequeueMakesANewCall(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		old := k.deadCall()
		_, err := k.s.Requeue(t.Context(), "umbra", old)
		requireCode(t, api.NotFound, err)
		call, err := k.s.Requeue(t.Context(), "acme", old)
		require.NoError(t, err)
		synctest.Wait()
		require.NotEqual(t, old, call)
		require.Empty(t, k.dead())
		require.Equal(t, []string{call}, k.waiting())
		assignment, err := k.take(2, call)
		require.NoError(t, err)
		require.Contains(t, assignment.Env, "HTTP_B=b")
		require.NoError(t, k.report(2, call, 0, "out"))
		k.requireFinished(call, "out")
		k.requireFailed(old, api.CallFailed, "exit status 1")
		_, err = k.s.Requeue(t.Context(), "acme", old)
		requireCode(t, api.NotFound, err)
	})
}

// Wherever it breaks off, the letter is there and makes one call.
func TestRequeueLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	for _, operation := range []string{"DeadLetter", "Enqueue", "RemoveLetter"} {
		t.Run(operation, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				old := k.deadCall()
				k.store.failing(func(o string) error {
					if o == operation {
						return api.Errorf(api.Unavailable, "killed")
					}
					return nil
				})
				_, err := k.s.Requeue(t.Context(), "acme", old)
				requireCode(t, api.Unavailable, err)
				require.Equal(t, []string{old}, k.dead())
				k.store.failing(nil)
				k.restart()
				call, err := k.s.Requeue(t.Context(), "acme", old)
				require.NoError(t, err)
				require.Equal(t, []string{call}, k.waiting())
				require.Empty(t, k.dead())
			})
		})
	}
}

func TestRemovedDeadLetter(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.deadCall()
		requireCode(t, api.NotFound, k.s.RemoveDeadLetter(t.Context(), "umbra", call))
		require.NoError(t, k.s.RemoveDeadLetter(t.Context(), "acme", call))
		require.Empty(t, k.dead())
		requireCode(t, api.NotFound, k.s.RemoveDeadLetter(t.Context(), "acme", call))
	})
}

// TestStoresDead has many requeue the same letter at once.
func TestStoresDead(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		k := raceStack(t, s)
		dead := call(1)
		rec := api.Record{CallID: dead.ID, Function: "f1", Account: "acme", State: api.Failed, Message: "exit status 1"}
		require.NoError(t, s.Bury(t.Context(), dead, rec))
		require.NoError(t, s.Bury(t.Context(), dead, rec))
		of, letter, version, err := s.DeadLetter(t.Context(), "acme", dead.ID)
		require.NoError(t, err)
		require.Equal(t, dead, of)
		require.Equal(t, "exit status 1", letter.Message)
		_, _, _, err = s.DeadLetter(t.Context(), "umbra", dead.ID)
		requireCode(t, api.NotFound, err)
		require.NoError(t, s.RemoveLetter(t.Context(), "acme", version))
		require.NoError(t, s.RemoveLetter(t.Context(), "acme", version))
		require.NoError(t, s.Bury(t.Context(), dead, rec))
		_, _, _, err = s.DeadLetter(t.Context(), "acme", dead.ID)
		requireCode(t, api.NotFound, err)

		dead = call(2)
		require.NoError(t, s.Bury(t.Context(), dead, rec))
		var mu sync.Mutex
		calls := map[string]bool{}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				id, err := k.s.Requeue(t.Context(), "acme", dead.ID)
				if api.CodeOf(err) == api.NotFound {
					return // another has done it
				}
				mu.Lock()
				defer mu.Unlock()
				calls[id] = true
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		require.Len(t, calls, 1)
		inFlight, err := s.CallsInFlight(t.Context(), "acme", "f1")
		require.NoError(t, err)
		require.Len(t, inFlight, 1)
	})
}
