package calls

import (
	"cmp"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// what an id must not be: it would reach, or remove, what is another function's or account's.
var wrongIDs = []string{"", "*", ">", "a.b", "a.>", "*.a", "a b", "a\tb", "a\r\nPUB x 1", "ä", "\x00", "a/b", "$SYS", strings.Repeat("a", 129)}

func TestIDsThatAreNoTokenAreRefused(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	enqueue(t, s, "f", 0, 1)
	kept := newRecord(1, api.Finished)
	_, err := s.storeRecord(t.Context(), kept, 0)
	require.NoError(t, err)
	require.NoError(t, s.SaveOutput(t.Context(), "f", kept.CallID, []byte("out")))
	logged(t, s, "f", "a:1")

	ctx := t.Context()
	call, yield := newCall("f", 7), func([]byte) error { return nil }
	take := func(context.Context, api.Allocation) (*api.Assignment, []byte, error) { return nil, nil, nil }
	for _, id := range wrongIDs {
		rec := api.Record{CallID: call.ID, Function: "f", Account: "acme", State: api.Finished}
		inCall, inFunction, inAccount := rec, rec, rec
		inCall.CallID, inFunction.Function, inAccount.Account = id, id, id
		callOf := func(rec api.Record) *api.Call {
			return &api.Call{ID: rec.CallID, Function: rec.Function, Account: rec.Account}
		}
		for name, do := range map[string]func() error{
			"Enqueue, call":        func() error { return s.Enqueue(ctx, callOf(inCall)) },
			"Enqueue, function":    func() error { return s.Enqueue(ctx, callOf(inFunction)) },
			"Enqueue, account":     func() error { return s.Enqueue(ctx, callOf(inAccount)) },
			"Queued, call":         func() error { _, err := s.Queued(ctx, "acme", "f", id); return err },
			"Queued, function":     func() error { _, err := s.Queued(ctx, "acme", id, call.ID); return err },
			"Queued, account":      func() error { _, err := s.Queued(ctx, id, "f", call.ID); return err },
			"Withdraw, call":       func() error { return s.Withdraw(ctx, "acme", "f", id) },
			"Withdraw, function":   func() error { return s.Withdraw(ctx, "acme", id, call.ID) },
			"Withdraw, account":    func() error { return s.Withdraw(ctx, id, "f", call.ID) },
			"InFlight, function":   func() error { _, err := s.InFlight(ctx, "acme", id); return err },
			"Postpone, call":       func() error { return s.Postpone(ctx, callOf(inCall), time.Now()) },
			"Postpone, function":   func() error { return s.Postpone(ctx, callOf(inFunction), time.Now()) },
			"Postpone, account":    func() error { return s.Postpone(ctx, callOf(inAccount), time.Now()) },
			"CallsInFlight":        func() error { _, err := s.CallsInFlight(ctx, "acme", id); return err },
			"InFlight, account":    func() error { _, err := s.InFlight(ctx, id, "f"); return err },
			"Consume":              func() error { _, err := s.Consume(ctx, id, 1, func(*Delivery) {}); return err },
			"Record, call":         func() error { _, _, err := s.Record(ctx, "f", id); return err },
			"Record, function":     func() error { _, _, err := s.Record(ctx, id, call.ID); return err },
			"SaveRecord, call":     func() error { _, err := s.SaveRecord(ctx, inCall, 0); return err },
			"SaveRecord, function": func() error { _, err := s.SaveRecord(ctx, inFunction, 0); return err },
			"Forget, call":         func() error { return s.Forget(ctx, inCall) },
			"Forget, function":     func() error { return s.Forget(ctx, inFunction) },
			"Forget, account":      func() error { return s.Forget(ctx, inAccount) },
			"SaveOutput, call":     func() error { return s.SaveOutput(ctx, "f", id, nil) },
			"SaveOutput, function": func() error { return s.SaveOutput(ctx, id, call.ID, nil) },
			"Output, call":         func() error { _, err := s.Output(ctx, "f", id); return err },
			"Output, function":     func() error { _, err := s.Output(ctx, id, call.ID); return err },
			"Events, function":     func() error { return s.Events(ctx, id, api.EventQuery{}, yield) },
			"Events, call":         func() error { return s.Events(ctx, "f", api.EventQuery{Call: cmp.Or(id, "*"), Tail: -1}, yield) },
			"Offer":                func() error { _, err := s.Offer(id, take); return err },
			"Take":                 func() error { _, _, err := s.Take(ctx, id, api.Allocation{}); return err },
			"WaitSlot":             func() error { _, _, err := s.WaitSlot(ctx, api.Slot{Function: id}); return err },
			"ClaimSlot":            func() error { _, err := s.ClaimSlot(ctx, 1, &api.Assignment{Function: id}, nil); return err },
			"RetireSlot":           func() error { _, err := s.RetireSlot(ctx, id, 1); return err },
			"RemoveFunction":       func() error { return s.RemoveFunction(ctx, id) },
		} {
			require.Equal(t, api.Invalid, api.CodeOf(do()), "%s: %q", name, id)
		}
		// These have no error to return.
		s.Log(ctx, "f", api.Event{CallID: id})
		s.Log(ctx, id, api.Event{CallID: call.ID})
		s.NotifyEnd(id, call.ID)
		s.NotifyEnd("f", id)
	}

	require.Equal(t, []string{"a:1"}, events(t, s, "f", api.EventQuery{Tail: -1}))
	_, err = s.Queued(ctx, "acme", "f", newCall("f", 0).ID)
	require.NoError(t, err, "all that was there is there")
	_, _, err = s.Record(ctx, "f", kept.CallID)
	require.NoError(t, err)
	out, err := s.Output(ctx, "f", kept.CallID)
	require.NoError(t, err)
	require.Equal(t, "out", string(out))
	accounts, err := s.Accounts(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"acme"}, accounts)
}

func TestIDsThatFuncdGivesOutAreTokens(t *testing.T) {
	t.Parallel()
	require.NoError(t, checkIDs("0123456789abcdef0123456789abcdef", "e62c014e-386c-42ea-8d07-41d44e98cc3d", "acme_1", strings.Repeat("a", 63)))
}
