package calls

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestTake(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	peer := openPeer(t, s)
	const call = "a-call"
	asking := api.Allocation{ID: "alloc", Job: "func-acme-hello"}
	_, _, err := s.Take(t.Context(), call, asking)
	requireCode(t, api.NotFound, err)

	assignment := &api.Assignment{
		CallID: call, Function: "f", Command: []string{"sh", "-c", "a\nb ü"}, Env: []string{"A=\x01"}, Timeout: time.Minute, StopSignal: 15,
	}
	payload := bytes.Repeat([]byte{0, 0xff, '\r', '\n'}, 256<<10)
	var asked []api.Allocation
	withdraw, err := s.Offer(call, func(_ context.Context, a api.Allocation) (*api.Assignment, []byte, error) {
		asked = append(asked, a)
		return assignment, payload, nil
	})
	require.NoError(t, err)
	require.NoError(t, s.nc.Flush())
	for _, server := range []*Store{s, peer} {
		got, body, err := server.Take(t.Context(), call, asking)
		require.NoError(t, err)
		require.Equal(t, assignment, got)
		require.True(t, bytes.Equal(payload, body))
	}
	require.Equal(t, []api.Allocation{asking, asking}, asked)
	_, _, err = s.Take(t.Context(), "another", asking)
	requireCode(t, api.NotFound, err)

	withdraw()
	withdraw()
	_, _, err = s.Take(t.Context(), call, asking)
	requireCode(t, api.NotFound, err)
}

func TestTakeIsToldWhyNot(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	peer := openPeer(t, s)
	for name, c := range map[string]struct {
		err     error
		code    api.Code
		message string
	}{
		"conflict":     {api.Errorf(api.Conflict, "it is another's"), api.Conflict, "it is another's"},
		"forbidden":    {api.Errorf(api.Forbidden, "ü\nsecond line"), api.Forbidden, "ü\nsecond line"},
		"not found":    {api.Errorf(api.NotFound, "no such call"), api.NotFound, "no such call"},
		"unavailable":  {api.Errorf(api.Unavailable, "away"), api.Unavailable, "away"},
		"of no code":   {errors.New("a fault"), api.Internal, "internal error"},
		"an empty one": {api.Errorf(api.Expired, ""), api.Expired, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			withdraw, err := s.Offer(name[:2], func(context.Context, api.Allocation) (*api.Assignment, []byte, error) {
				return nil, nil, c.err
			})
			require.NoError(t, err)
			defer withdraw()
			require.NoError(t, s.nc.Flush())
			_, _, err = s.Take(t.Context(), name[:2], api.Allocation{})
			requireCode(t, c.code, err)
			_, _, err = peer.Take(t.Context(), name[:2], api.Allocation{})
			requireCode(t, c.code, err)
			require.Equal(t, c.message, err.Error())
		})
	}
}

func TestTakeIsGivenUp(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	peer := openPeer(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	taking, end := make(chan struct{}), make(chan struct{})
	withdraw, err := s.Offer("c", func(context.Context, api.Allocation) (*api.Assignment, []byte, error) {
		close(taking)
		<-end
		return nil, nil, nil
	})
	require.NoError(t, err)
	require.NoError(t, s.nc.Flush())
	defer withdraw()
	defer close(end)
	go func() {
		<-taking
		cancel()
	}()
	_, _, err = peer.Take(ctx, "c", api.Allocation{})
	requireCode(t, api.Unavailable, err)
	require.ErrorIs(t, err, context.Canceled)
}

func TestOneAllocationAtATime(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	var mu sync.Mutex
	winner := ""
	withdraw, err := s.Offer("c", func(_ context.Context, a api.Allocation) (*api.Assignment, []byte, error) {
		if !mu.TryLock() {
			return nil, nil, errors.New("two at once")
		}
		defer mu.Unlock()
		if winner != "" {
			return nil, nil, api.Errorf(api.Conflict, "it is another's")
		}
		winner = a.ID
		return &api.Assignment{}, nil, nil
	})
	require.NoError(t, err)
	defer withdraw()
	const containers = 20
	codes := make(chan api.Code, containers)
	for i := range containers {
		go func() {
			_, _, err := s.Take(t.Context(), "c", api.Allocation{ID: string(rune('a' + i))})
			codes <- api.CodeOf(err)
		}()
	}
	count := map[api.Code]int{}
	for range containers {
		count[<-codes]++
	}
	require.Equal(t, map[api.Code]int{"": 1, api.Conflict: containers - 1}, count)
}

func TestWaitEnd(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	peer := openPeer(t, s)
	var ended []<-chan struct{}
	var stops []func()
	for range 50 {
		for _, server := range []*Store{s, peer} {
			c, stop := server.WaitEnd("f", "c")
			ended, stops = append(ended, c), append(stops, stop)
		}
	}
	gaveUp, stop := s.WaitEnd("f", "c")
	stop()
	stop()
	var others []<-chan struct{}
	for _, of := range [][2]string{{"f", "another"}, {"g", "c"}} {
		c, stop := s.WaitEnd(of[0], of[1])
		defer stop()
		others = append(others, c)
	}

	peer.NotifyEnd("f", "c")
	for _, c := range ended {
		within(t, c)
	}
	for _, stop := range stops {
		stop()
		stop()
	}
	for _, c := range append(others, gaveUp) {
		select {
		case <-c:
			require.Fail(t, "it was told of another's end, or after stop")
		default:
		}
	}
	kept := func(s *Store) int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.waiters)
	}
	require.Equal(t, len(others), kept(s), "nothing is kept of those that ended")
	require.Zero(t, kept(peer))
}

func TestNotifyEndTwice(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	c, stop := s.WaitEnd("f", "c")
	defer stop()
	s.NotifyEnd("f", "c")
	s.NotifyEnd("f", "c")
	within(t, c)
	require.NoError(t, s.nc.Flush())
}
