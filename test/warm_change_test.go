//go:build integration

package test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// The kinds of containers that wait for calls.
var slotKinds = map[string][]string{
	"used once": {"funcd.warm", "2"},
	"reused":    {"funcd.warm", "2", "funcd.reuse", "true"},
}

// awaitTwoReady waits until two containers wait for a call. Of those that are reused there may be more: what was started for a call stays.
func (f *function) awaitTwoReady(t *testing.T) {
	t.Helper()
	eventually(t, "two containers that wait for a call", func() bool { return f.slots(t).Ready >= 2 })
}

// requireReplaced waits until none of the containers from before is left, and two others wait.
func (f *function) requireReplaced(t *testing.T, before []string) {
	t.Helper()
	eventually(t, "the end of those from before", func() bool {
		return !slices.ContainsFunc(f.live(t), func(id string) bool { return slices.Contains(before, id) })
	})
	f.awaitTwoReady(t)
}

func newDigestReachesCallsAtOnce(t *testing.T, on *stack) {
	for name, labels := range slotKinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newOwnRegistry(t, nil)
			r.push(t, "app:latest", "VERSION=one")
			f := on.create(t, label(program(r.host+"/app:latest"), labels...))
			f.awaitReady(t, 2)
			old := f.live(t)
			r.push(t, "app:latest", "VERSION=two")
			require.Contains(t, f.sync(t, "").body, `"VERSION=one"`)

			_, err := on.UpdateFunction(t.Context(), f.Name, api.FunctionUpdate{Pull: true})
			require.NoError(t, err)
			for range 3 {
				require.Contains(t, f.sync(t, "").body, `"VERSION=two"`)
			}
			f.requireReplaced(t, old)
			require.Contains(t, f.sync(t, "").body, `"VERSION=two"`)
			f.remove(t)
		})
	}
}

func newSizeReachesCallsAtOnce(t *testing.T, on *stack) {
	for name, labels := range slotKinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := on.create(t, label(program("funcd-test/probe", "eat", "90"), labels...))
			for _, step := range []struct {
				size   string
				answer string
			}{
				{"s1", "out of memory"}, // 64 MB, what it was made with
				{"s2", "90 MB"},
				{"s1", "out of memory"},
			} {
				f.awaitTwoReady(t)
				old := f.live(t)
				_, err := on.UpdateFunction(t.Context(), f.Name, api.FunctionUpdate{ContainerSize: &step.size})
				require.NoError(t, err)
				for range 3 {
					require.Contains(t, f.sync(t, "").body, step.answer, step.size)
				}
				f.requireReplaced(t, old)
				require.Contains(t, f.sync(t, "").body, step.answer, "in one that has waited")
			}
			f.remove(t)
		})
	}
}

// What waits for calls of a function is of no use to another function of the same image and name.
func newFunctionOfTheNameHasContainersOfItsOwn(t *testing.T, on *stack) {
	f := on.create(t, warm(2, program("funcd/env")))
	f.awaitReady(t, 2)
	old := f.allocationsOf(t, f.live(t))
	require.NoError(t, on.RemoveFunction(t.Context(), f.Name))
	again := warm(2, program("funcd/env"))
	again.Name, again.Config.Env = f.Name, []string{"COLOUR=green"}
	created, err := on.CreateFunction(t.Context(), again)
	require.NoError(t, err)
	f.Function = created
	for range 3 {
		a := f.sync(t, "")
		require.Equal(t, http.StatusOK, a.status, a.body)
		require.Equal(t, "COLOUR=green", variable(t, environmentOf(t, a), "COLOUR"))
	}
	require.NoError(t, noContainers(old), "they went with their function")
	f.awaitReady(t, 2)
	f.remove(t)
}
