package scheduler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func (c *fakeCluster) watched(job string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.watches[job])
}

// node runs the containers of the slots that are dispatched, as the cluster and the runner in them do.
type node struct {
	k     *stack
	start time.Duration // that a container takes to start
	work  time.Duration // that a call takes
	// place, if set, tells why there is no place for a container.
	place func(job string) string

	mu     sync.Mutex
	live   map[string]context.CancelFunc // containers that run, by job
	served map[string][]string           // calls by job
	most   map[string]int                // containers at once, by function, and "" in all
}

// node lets the stack's cluster run slots. Its server waits for calls at whatever is k.s then.
func (k *stack) node() *node {
	n := &node{k: k, start: 300 * time.Millisecond, live: map[string]context.CancelFunc{}, served: map[string][]string{}, most: map[string]int{}}
	k.cluster.onSlot = func(name, job string) {
		d := k.definition(name)
		ctx, kill := context.WithCancel(k.t.Context())
		n.mu.Lock()
		n.live[job] = kill
		for _, of := range []string{name, ""} {
			n.most[of] = max(n.most[of], n.countLocked(of))
		}
		n.mu.Unlock()
		go n.run(ctx, d, job)
	}
	k.cluster.onStop = func(job string) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if kill := n.live[job]; kill != nil {
			kill()
		}
	}
	return n
}

func (k *stack) definition(name string) api.Definition {
	k.functions.mu.Lock()
	defer k.functions.mu.Unlock()
	for _, d := range append([]api.Definition{k.functions.d}, k.functions.others...) {
		if d.Function.Name == name {
			return d
		}
	}
	return api.Definition{Account: "acme", Function: api.Function{Name: name}}
}

func (n *node) run(ctx context.Context, d api.Definition, job string) {
	defer func() {
		n.mu.Lock()
		delete(n.live, job)
		n.mu.Unlock()
		n.k.cluster.say(api.JobStatus{Job: job, Ended: true, Message: "it has ended"})
	}()
	if n.place != nil {
		if reason := n.place(job); reason != "" {
			n.k.cluster.say(api.JobStatus{Job: job, Waiting: reason})
			<-ctx.Done()
			return
		}
	}
	select {
	case <-time.After(n.start):
	case <-ctx.Done():
		return
	}
	parent, _, _ := strings.Cut(job, "/")
	allocation := api.Allocation{ID: "of-" + job, Job: parent, Account: d.Account, Name: d.Function.Name}
	slot := api.Slot{Function: d.ID, Revision: d.Revision, Job: job}
	for calls := 1; ; {
		poll, cancel := context.WithTimeout(ctx, 30*time.Second)
		assignment, _, err := n.k.s.NextSlot(poll, allocation, slot)
		cancel()
		if api.CodeOf(err) == api.NotFound && ctx.Err() == nil {
			continue
		}
		if err != nil || ctx.Err() != nil {
			return
		}
		if n.k.s.Begin(ctx, allocation, d.ID, assignment.CallID) != nil {
			continue
		}
		n.mu.Lock()
		n.served[job] = append(n.served[job], assignment.CallID)
		n.mu.Unlock()
		select {
		case <-time.After(n.work):
		case <-ctx.Done():
			return
		}
		result := &api.Result{CallID: assignment.CallID, Function: d.ID, Outcome: api.Exited}
		if n.k.s.Report(ctx, allocation, result, nil) != nil || calls >= assignment.Calls {
			return
		}
		calls++
	}
}

func (n *node) countLocked(name string) (count int) {
	for job := range n.live {
		if name == "" || strings.Contains(job, "-"+name+"/") {
			count++
		}
	}
	return count
}

// count returns how many slots of the function run or start.
func (n *node) count(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.countLocked(name)
}

func (n *node) jobs() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var jobs []string
	for job := range n.live {
		jobs = append(jobs, job)
	}
	slices.Sort(jobs)
	return jobs
}

func (n *node) kill(job string) {
	n.mu.Lock()
	kill := n.live[job]
	n.mu.Unlock()
	kill()
	synctest.Wait()
}

// calls returns how many calls slots have served, and fails if one was served twice.
func (n *node) calls() (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	seen := map[string]bool{}
	for job, calls := range n.served {
		for _, call := range calls {
			if seen[call] {
				n.k.t.Errorf("call %s was started twice, once in %s", call, job)
			}
			seen[call] = true
			count++
		}
	}
	return count
}

// keep runs KeepWarm, as the server that leads, until the returned function is called.
func (k *stack) keep() (stop func()) {
	ctx, cancel := context.WithCancel(k.t.Context())
	ended := make(chan error, 1)
	s := k.s
	go func() { ended <- s.KeepWarm(ctx) }()
	synctest.Wait()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(k.t, <-ended)
		})
	}
	k.t.Cleanup(stop)
	return stop
}

// label gives the stack's function a label.
func (k *stack) label(name, value string) {
	k.functions.mu.Lock()
	defer k.functions.mu.Unlock()
	labels := map[string]string{name: value}
	for key, old := range k.functions.d.Function.Config.Labels {
		if key != name {
			labels[key] = old
		}
	}
	k.functions.d.Function.Config.Labels = labels
}

// add makes one more function, number n, with labels in turn.
func (k *stack) add(account string, n int, labels ...string) *api.Definition {
	d := testFunction()
	d.ID, d.Account, d.Function.Name = fmt.Sprintf("g%d", n), account, fmt.Sprintf("other%d", n)
	d.Function.Config.Labels = map[string]string{}
	for i := 0; i < len(labels); i += 2 {
		d.Function.Config.Labels[labels[i]] = labels[i+1]
	}
	k.functions.mu.Lock()
	defer k.functions.mu.Unlock()
	k.functions.others = append(k.functions.others, d)
	return &d
}

func (k *stack) counts(function string) api.SlotCounts {
	k.t.Helper()
	c, err := k.s.SlotCounts(k.t.Context(), function)
	require.NoError(k.t, err)
	return c
}

func (k *stack) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// called is a call of the stack's function that ends, in a slot if there is one, else in a container of its own.
func (k *stack) called() (cold bool) {
	k.t.Helper()
	before := len(k.dispatched())
	call := k.submit()
	if cold = len(k.dispatched()) > before; cold {
		_, err := k.take(1, call)
		require.NoError(k.t, err)
		require.NoError(k.t, k.report(1, call, 0, ""))
	}
	return cold
}
