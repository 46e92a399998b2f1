package httpapi

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

const (
	beginPath    = api.RunnerBeginPath + "?function=" + testFunction + "&call=" + testCall
	slotNextPath = api.RunnerNextPath + "?function=" + testFunction + "&revision=7&job=func-default-hello%2Fdispatch-slot-1"
)

// slotBackend is a backend that notes what slots ask for.
type slotBackend struct {
	*backend
	slot       api.Slot
	allocation api.Allocation
	begun      []string // function and call
	counts     api.SlotCounts
}

func (b *slotBackend) NextSlot(ctx context.Context, allocation api.Allocation, slot api.Slot) (*api.Assignment, []byte, error) {
	b.allocation, b.slot = allocation, slot
	return b.backend.NextSlot(ctx, allocation, slot)
}

func (b *slotBackend) Begin(ctx context.Context, allocation api.Allocation, function, call string) error {
	b.allocation, b.begun = allocation, []string{function, call}
	return b.backend.Begin(ctx, allocation, function, call)
}

func (b *slotBackend) SlotCounts(_ context.Context, function string) (api.SlotCounts, error) {
	b.begun = []string{function}
	return b.counts, b.fail["SlotCounts"]
}

func slotConfig(b *slotBackend) Config {
	cfg := testConfig(b.backend)
	cfg.Runners, cfg.Calls = b, b
	return cfg
}

var goodAuth = []string{"Authorization", "Bearer " + goodToken}

func TestRunnerBegin(t *testing.T) {
	t.Parallel()
	path := func(function, call string) string {
		return api.RunnerBeginPath + "?function=" + function + "&call=" + call
	}
	for name, c := range map[string]struct {
		path   string
		header []string
		fail   error
		status int
	}{
		"a call that is its own":        {beginPath, goodAuth, nil, 204},
		"a call that is another's":      {beginPath, goodAuth, api.Errorf(api.Expired, "not offered any more"), 410},
		"a store that is away":          {beginPath, goodAuth, api.Errorf(api.Unavailable, "away"), 503},
		"no token":                      {beginPath, nil, nil, 401},
		"a wrong token":                 {beginPath, []string{"Authorization", "Bearer x"}, nil, 401},
		"no call":                       {path(testFunction, ""), goodAuth, nil, 410},
		"a call that is no UUID":        {path(testFunction, "*.%3E"), goodAuth, nil, 410},
		"no function":                   {path("", testCall), goodAuth, nil, 410},
		"a function of all subjects":    {path("%3E", testCall), goodAuth, nil, 410},
		"a function of another message": {path("a%0D%0APUB", testCall), goodAuth, nil, 410},
		"nothing":                       {api.RunnerBeginPath, goodAuth, nil, 410},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &slotBackend{backend: newBackend()}
			if c.fail != nil {
				b.fail["Begin"] = c.fail
			}
			resp, body := ask(t, serve(t, slotConfig(b)), "POST", c.path, nil, c.header...)
			require.Equal(t, c.status, resp.StatusCode, body)
			if c.status != 204 && c.fail == nil {
				require.Nil(t, b.begun, "it was not asked for")
				return
			}
			require.Equal(t, []string{testFunction, testCall}, b.begun)
			require.Equal(t, "alloc", b.allocation.ID)
			if c.status == 204 {
				require.Empty(t, body)
			}
		})
	}
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		b := &slotBackend{backend: newBackend()}
		resp, _ := ask(t, serve(t, slotConfig(b)), method, beginPath, nil, goodAuth...)
		require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode, method)
		require.Nil(t, b.begun)
	}
}

func TestRunnerNextOfASlot(t *testing.T) {
	t.Parallel()
	with := func(old, new string) string { return strings.Replace(slotNextPath, old, new, 1) }
	for name, c := range map[string]struct {
		path   string
		fail   error
		status int
	}{
		"a call":                  {slotNextPath, nil, 200},
		"none yet":                {slotNextPath, api.Errorf(api.NotFound, "no call has claimed the slot"), 204},
		"none any more":           {slotNextPath, api.Errorf(api.Expired, "the function has changed"), 410},
		"a store that is away":    {slotNextPath, api.Errorf(api.Unavailable, "away"), 503},
		"no revision":             {with("revision=7&", ""), nil, 410},
		"a revision that is none": {with("revision=7", "revision=-7"), nil, 410},
		"no function":             {with("function="+testFunction, ""), nil, 410},
		"a function of subjects":  {with(testFunction, "*"), nil, 410},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &slotBackend{backend: newBackend()}
			if c.fail != nil {
				b.fail["Next"] = c.fail
			}
			resp, body := ask(t, serve(t, slotConfig(b)), "POST", c.path, nil, goodAuth...)
			require.Equal(t, c.status, resp.StatusCode, body)
			if c.path != slotNextPath {
				require.Zero(t, b.slot)
				return
			}
			require.Equal(t, api.Slot{Function: testFunction, Revision: 7, Job: "func-default-hello/dispatch-slot-1"}, b.slot)
			require.Equal(t, "alloc", b.allocation.ID)
			if c.status == 200 {
				var a api.Assignment
				payload, err := api.ReadFrame(strings.NewReader(body), &a, 100)
				require.NoError(t, err)
				require.Equal(t, "payload", string(payload))
				require.Equal(t, testCall, a.CallID)
			}
		})
	}
}

func TestPollOfASlotEnds(t *testing.T) {
	t.Parallel()
	b := &slotBackend{backend: newBackend()}
	b.next = func(ctx context.Context) (*api.Assignment, []byte, error) {
		<-ctx.Done()
		return nil, nil, api.Errorf(api.NotFound, "no call has claimed the slot")
	}
	cfg := slotConfig(b)
	cfg.PollTime = 20 * time.Millisecond
	resp, body := ask(t, serve(t, cfg), "POST", slotNextPath, nil, goodAuth...)
	require.Equal(t, 204, resp.StatusCode)
	require.Empty(t, body)
}

func TestInspectShowsTheSlots(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		counts api.SlotCounts
		fail   error
		want   string // "" for no member at all
	}{
		"some":                {api.SlotCounts{Ready: 1, Wanted: 2}, nil, `"Slots":{"Ready":1,"Wanted":2}`},
		"none ready":          {api.SlotCounts{Wanted: 2}, nil, `"Slots":{"Ready":0,"Wanted":2}`},
		"none wanted":         {api.SlotCounts{}, nil, ""},
		"nobody keeps any":    {api.SlotCounts{}, api.Errorf(api.NotFound, "no server keeps slots now"), ""},
		"nobody answers":      {api.SlotCounts{}, api.Errorf(api.Unavailable, "away"), ""},
		"counts and an error": {api.SlotCounts{Ready: 9}, api.Errorf(api.Unavailable, "away"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &slotBackend{backend: newBackend(), counts: c.counts}
			if c.fail != nil {
				b.fail["SlotCounts"] = c.fail
			}
			resp, body := ask(t, serve(t, slotConfig(b)), "GET", "/funcs/"+testName, nil)
			require.Equal(t, 200, resp.StatusCode, "the function is shown all the same")
			require.Equal(t, []string{testFunction}, b.begun)
			if c.want == "" {
				require.NotContains(t, body, "Slots")
			} else {
				require.Contains(t, strings.NewReplacer(" ", "", "\n", "").Replace(body), c.want)
			}
		})
	}
}
