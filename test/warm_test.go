//go:build integration

package test

import (
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// label gives the function labels, names and values in turn.
func label(f api.Function, labels ...string) api.Function {
	f.Config.Labels = map[string]string{}
	for i := 0; i < len(labels); i += 2 {
		f.Config.Labels[labels[i]] = labels[i+1]
	}
	return f
}

// warm is the function with containers that wait for calls.
func warm(n int, f api.Function) api.Function { return label(f, "funcd.warm", strconv.Itoa(n)) }

func (f *function) slots(t *testing.T) api.SlotCounts {
	t.Helper()
	read, err := f.on.Function(t.Context(), f.Name)
	require.NoError(t, err)
	if read.Slots == nil {
		return api.SlotCounts{}
	}
	return *read.Slots
}

// awaitReady waits until so many containers wait for a call.
func (f *function) awaitReady(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d containers that wait for a call", n), func() bool { return f.slots(t).Ready == n })
}

// awaitSlot waits until a container waits for a call. A call that comes while the one of a function that reuses them is still busy with the call before may
// be given a container of its own.
func (f *function) awaitSlot(t *testing.T) {
	t.Helper()
	eventually(t, "a container that waits for a call", func() bool { return f.slots(t).Ready > 0 })
}

// live are the ids of the function's jobs for single containers that have not ended.
func (f *function) live(t *testing.T) (ids []string) {
	t.Helper()
	for _, j := range f.dispatches(t) {
		if j.Status != "dead" {
			ids = append(ids, j.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// allocationsOf returns the ids of the jobs' allocations.
func (f *function) allocationsOf(t *testing.T, jobs []string) (ids []string) {
	t.Helper()
	for _, id := range jobs {
		var list []allocation
		f.on.nomadGet(t, jobOf(id)+"/allocations", &list)
		for _, a := range list {
			ids = append(ids, a.ID)
		}
	}
	return ids
}

// remove removes the function, and waits until the containers that wait or start have gone with it.
func (f *function) remove(t *testing.T) {
	t.Helper()
	slots := f.allocationsOf(t, f.live(t))
	f.removeEnded(t)
	require.NoError(t, noContainers(slots), "they go with the function")
}

// late is how many slots of the function have not confirmed a call that they were handed, as funcd has logged: on a machine that stands still for a
// second that may be. Its call goes to another container then, and that is right.
func (f *function) late(t *testing.T) (n int) {
	t.Helper()
	for line := range strings.Lines(readFile(t, f.on.logFile)) {
		if strings.Contains(line, "a slot did not confirm its call") && strings.Contains(line, "slot="+f.job()+"/") {
			n++
		}
	}
	return n
}

func variable(t *testing.T, e environment, name string) string {
	t.Helper()
	at := slices.IndexFunc(e.Env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	require.GreaterOrEqual(t, at, 0, "%s in %v", name, e.Env)
	return e.Env[at]
}

// requireOnce wants each of so many calls to have run once, and to have succeeded.
func (f *function) requireOnce(t *testing.T, calls int) {
	t.Helper()
	running, ended := map[string]int{}, map[string]int{}
	eventually(t, "the end of all calls", func() bool {
		clear(running)
		clear(ended)
		for _, e := range f.events(t, "") {
			switch e.Event {
			case string(api.Running):
				running[e.CallID]++
			case string(api.Finished):
				ended[e.CallID]++
			}
		}
		return len(ended) == calls
	})
	require.Len(t, running, calls)
	for call, n := range running {
		require.Equal(t, []int{1, 1}, []int{n, ended[call]}, call)
	}
}

// TestSlots has a funcd and a node of its own: the containers that dev keeps for functions of other tests count for its limits, and fill its node, where
// slots give way.
func TestSlots(t *testing.T) {
	t.Parallel()
	startNode(t, "slots", "cpu_total_compute = 20000")
	o := beside("slots")
	o.config += "nomad {\n  node_pool = \"slots\"\n}\nslots {\n  account = 50\n}\n"
	on := startOwn(t, "slots", o)
	for name, test := range map[string]func(t *testing.T, on *stack){
		"warm calls have a container each":                          warmCallsHaveAContainerEach,
		"many callers on few of them":                               manyCallersOnFewSlots,
		"an update reaches calls at once":                           updateReachesCallsAtOnce,
		"so does a new digest":                                      newDigestReachesCallsAtOnce,
		"and a new size":                                            newSizeReachesCallsAtOnce,
		"a function made anew has its own":                          newFunctionOfTheNameHasContainersOfItsOwn,
		"a reused container runs a process for each call":           reusedContainerRunsAProcessForEachCall,
		"calls of a reused container do not read each other's logs": callsDoNotReadEachOthersLogs,
		"they are killed while calls come":                          slotsAreKilledWhileCallsCome,
		"they end when no calls come":                               slotsThatAreNotCalledEnd,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, on)
		})
	}
}

func warmCallsHaveAContainerEach(t *testing.T, on *stack) {
	const calls = 6
	f := on.create(t, warm(2, program("funcd/env")))
	f.awaitReady(t, 2)
	require.Equal(t, 2, f.slots(t).Wanted)
	hosts := map[string]bool{}
	for i := range calls {
		f.awaitReady(t, 2)
		e := environmentOf(t, f.sync(t, "", "X-Number", strconv.Itoa(i)))
		hosts[variable(t, e, "HOSTNAME")] = true
		require.Equal(t, "HTTP_X_NUMBER="+strconv.Itoa(i), variable(t, e, "HTTP_X_NUMBER"))
		require.Contains(t, e.Env, "GREETING=from the image")
		require.Equal(t, []string{"/srv", "1000", "1000"}, []string{e.Dir, strconv.Itoa(e.UID), strconv.Itoa(e.GID)})
		for _, v := range e.Env {
			require.NotRegexp(t, "^(NOMAD|FUNCD)_", v)
			require.NotContains(t, v, "eyJ", "no token is passed on")
		}
	}
	require.Len(t, hosts, calls, "a new container for each")
	require.LessOrEqual(t, len(f.children(t)), f.late(t), "none was started for a call")
	f.requireOnce(t, calls)
	f.awaitReady(t, 2)
	eventually(t, "the end of the used ones", func() bool { return len(f.live(t)) == 2 })

	f.remove(t)
	require.Empty(t, f.dispatches(t))
}

func manyCallersOnFewSlots(t *testing.T, on *stack) {
	for name, labels := range map[string][]string{
		"used once": {"funcd.warm", "2"},
		"reused":    {"funcd.warm", "2", "funcd.reuse", "true"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const callers = 30
			f := on.create(t, label(program("funcd-test/probe", "cat"), labels...))
			f.awaitReady(t, 2)
			answers := make([]answer, callers)
			var calling sync.WaitGroup
			for i := range callers {
				calling.Go(func() { answers[i] = f.sync(t, fmt.Sprint("of caller ", i)) })
			}
			calling.Wait()
			for i, a := range answers {
				require.Equal(t, http.StatusOK, a.status, a.body)
				require.Equal(t, fmt.Sprint("of caller ", i), a.body)
			}
			f.requireOnce(t, callers)
			require.Less(t, len(f.children(t)), callers, "some were taken by those that waited")
			f.remove(t)
		})
	}
}

func updateReachesCallsAtOnce(t *testing.T, on *stack) {
	blue := warm(2, program("funcd/env"))
	blue.Config.Env = []string{"COLOUR=blue"}
	f := on.create(t, blue)
	f.awaitReady(t, 2)
	old := f.live(t)
	for _, colour := range []string{"red", "green"} {
		env := []string{"COLOUR=" + colour}
		_, err := on.UpdateFunction(t.Context(), f.Name, api.FunctionUpdate{Config: &api.ConfigUpdate{Env: &env}})
		require.NoError(t, err)
		for range 3 {
			require.Equal(t, env[0], variable(t, environmentOf(t, f.sync(t, "")), "COLOUR"))
		}
	}
	f.awaitReady(t, 2)
	eventually(t, "the end of those from before", func() bool {
		return !slices.ContainsFunc(f.live(t), func(id string) bool { return slices.Contains(old, id) })
	})
	require.Equal(t, "COLOUR=green", variable(t, environmentOf(t, f.sync(t, "")), "COLOUR"))
	f.remove(t)
}

func reusedContainerRunsAProcessForEachCall(t *testing.T, on *stack) {
	const most, calls = 3, 8
	f := on.create(t, label(program("funcd-test/probe", "leave"), "funcd.warm", "1", "funcd.reuse", "true", "funcd.reuse.max", strconv.Itoa(most)))
	f.awaitReady(t, 1)
	processes := map[string][]string{} // by container
	for range calls {
		f.awaitSlot(t)
		out := f.sync(t, "")
		require.Equal(t, http.StatusOK, out.status, out.body)
		words := strings.Fields(out.body)
		require.Len(t, words, 2, "/tmp is empty: %s", out.body)
		require.NotContains(t, processes[words[0]], words[1])
		processes[words[0]] = append(processes[words[0]], words[1])
	}
	var served []int
	for _, pids := range processes {
		served = append(served, len(pids))
	}
	slices.Sort(served)
	if late := f.late(t); late == 0 {
		require.Equal(t, []int{calls % most, most, most}, served, "%v", processes)
	} else { // those that were late have served the fewer
		require.LessOrEqual(t, last(served), most, "%v", processes)
		require.LessOrEqual(t, len(served), 3+late, "%v", processes)
	}
	f.requireOnce(t, calls)
	f.remove(t)
}

// Nomad mounts the files that collect stdout and stderr in every container, at /alloc/logs.
func callsDoNotReadEachOthersLogs(t *testing.T, on *stack) {
	f := on.create(t, label(program("funcd-test/probe", "fs"), "funcd.warm", "1", "funcd.reuse", "true"))
	f.awaitReady(t, 1)
	const script = "list /alloc/logs\nwrite /alloc/logs/left here\n"
	for range 2 {
		out := f.sync(t, script)
		require.Equal(t, "\nread-only file system\n", out.body)
	}
	f.remove(t)

	alone := on.create(t, program("funcd-test/probe", "fs"))
	require.Contains(t, alone.sync(t, script).body, ".stdout.0", "where one call alone is served they are seen")
	alone.remove(t)
}

// What is killed while it waits costs a call nothing but time. What is killed while it runs a call fails it, with the reason.
func slotsAreKilledWhileCallsCome(t *testing.T, on *stack) {
	f := on.create(t, warm(3, program("funcd-test/probe", "cat")))
	f.awaitReady(t, 3)
	const rounds, callers = 3, 4
	killed, failed := 0, 0
	for round := range rounds {
		eventually(t, "a container that waits", func() bool { return f.slots(t).Ready > 0 })
		var containers []string
		for _, id := range f.allocationsOf(t, f.live(t)) {
			out, err := exec.Command("docker", "ps", "--quiet", "--filter", "label=com.hashicorp.nomad.alloc_id="+id).Output()
			require.NoError(t, err)
			containers = append(containers, strings.Fields(string(out))...)
		}
		require.NotEmpty(t, containers)
		killed += len(containers)
		var calling sync.WaitGroup
		// One that has ended by itself meanwhile can't be killed.
		calling.Go(func() {
			_ = exec.Command("docker", append([]string{"kill", "--signal", "KILL"}, containers...)...).Run()
		})
		answers := make([]answer, callers)
		for i := range callers {
			calling.Go(func() {
				time.Sleep(time.Duration(i) * 30 * time.Millisecond) // spread over the time that the kill takes
				answers[i] = f.sync(t, fmt.Sprint(round, i))
			})
		}
		calling.Wait()
		for i, a := range answers {
			if a.status != http.StatusOK {
				failed++
				require.Contains(t, a.body, "container", "it had begun")
				continue
			}
			require.Equal(t, fmt.Sprint(round, i), a.body)
		}
	}
	require.LessOrEqual(t, failed, killed, "each fails the call that it runs, at most")
	running := map[string]int{}
	for _, e := range f.events(t, "") { // each is there before its call is answered
		if e.Event == string(api.Running) {
			running[e.CallID]++
			require.Equal(t, 1, running[e.CallID], e.CallID)
		}
	}
	require.Len(t, running, rounds*callers)
	f.awaitReady(t, 3)
	f.remove(t)
}

// TestSlotsMakeWayForCalls has a small node of its own, and fills it.
func TestSlotsMakeWayForCalls(t *testing.T) {
	t.Parallel()
	startNode(t, "way", "cpu_total_compute = 4500")
	o := beside("way")
	o.config += "nomad {\n  node_pool = \"way\"\n}\n"
	own := startOwn(t, "way", o)
	big := warm(10, program("funcd/hello"))
	big.ContainerSize = "m1"
	full := own.create(t, big)
	// It says that it wants more than there is room for.
	most := 0
	eventually(t, "a cluster without room", func() bool {
		counts := full.slots(t)
		most = max(most, counts.Ready)
		waiting := 0
		for _, j := range full.dispatches(t) {
			if j.Stop {
				waiting++
			}
		}
		return counts.Wanted == 10 && counts.Ready > 0 && waiting > 0
	})
	require.Less(t, most, 10)
	other := cold(program("funcd/upper"))
	other.ContainerSize = "m1"
	f := own.create(t, other)
	begin := time.Now()
	require.Equal(t, "A CALL", f.sync(t, "a call").body)
	require.Less(t, time.Since(begin), time.Minute, "slots that wait would hold the node for good")
	require.Len(t, f.children(t), 1, "it went cold")
	require.Equal(t, "HelloWorld\n", full.sync(t, "").body, "the others still answer")
}

func slotsThatAreNotCalledEnd(t *testing.T, on *stack) {
	f := on.create(t, label(program("funcd/hello"), "funcd.idle", "3s"))
	require.Zero(t, f.slots(t), "none for a function that was never called")
	require.Equal(t, "HelloWorld\n", f.sync(t, "").body)
	eventually(t, "containers for the next calls", func() bool {
		if f.slots(t).Ready > 0 {
			return true
		}
		f.sync(t, "") // the machine may be so busy that one starts for longer than the function is idle
		return false
	})
	eventually(t, "the end of all containers", func() bool { return f.slots(t) == api.SlotCounts{} && len(f.live(t)) == 0 })
	require.Equal(t, "HelloWorld\n", f.sync(t, "").body)
	f.remove(t)
}

func TestSlotsSurviveTheEndOfFuncd(t *testing.T) {
	t.Parallel()
	o := beside("keeps")
	own := startOwn(t, "keeps", o)
	f := own.create(t, warm(2, program("funcd-test/probe", "cat")))
	f.awaitReady(t, 2)
	before := f.live(t)
	require.Len(t, before, 2)
	require.NoError(t, own.kill())
	f.on = startOwn(t, "keeps", o)
	require.Equal(t, before, f.live(t), "they wait on")
	calls := 0
	eventually(t, "a call that one of them takes", func() bool {
		calls++
		require.Equal(t, "a call", f.sync(t, "a call").body)
		return len(f.children(t)) < calls // one that comes before the containers have found the new funcd is cold
	})
	f.requireOnce(t, calls)
	// Whoever keeps slots finds those that are left, and replaces those that were used.
	eventually(t, "two containers that wait", func() bool {
		waiting := slices.DeleteFunc(f.live(t), func(id string) bool { return !strings.Contains(id, "/dispatch-slot-") })
		return len(waiting) == 2 && !slices.Equal(waiting, before)
	})
	f.remove(t)
}
