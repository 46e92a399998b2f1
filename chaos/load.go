package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/funcd/funcd/api"
)

// call is one of the workload, and what its caller was told.
type call struct {
	n        int
	function string
	sync     bool
	id       string // empty if the caller was never told
	state    state
	output   string
	message  string // why it failed, or was not accepted
	took     time.Duration
}

// state is what a call has come to, for its caller.
type state string

const (
	finished state = "finished"
	failed   state = "failed"
	refused  state = "refused" // it was not accepted
	unknown  state = "unknown" // the answer to the request that would have said so was lost
	gone     state = "gone"    // it was accepted, and now funcd does not know it
	pending  state = "pending" // it was accepted, and does not end
)

// How much is asked for at a time. The calls of a caller come one after another.
const (
	callers   = 5
	callPause = 600 * time.Millisecond // between two calls of one caller, on the average
	waiting   = 3 * quota              // asynchronous calls that have not ended, at most
)

// answerPatience is how long a call may take to end after the last fault: the longest pause of a lease, a heartbeat and a retry, many times over.
const answerPatience = 4 * time.Minute

type load struct {
	s         *stack
	functions []api.Function
	ctx       context.Context
	cancel    context.CancelFunc // of all requests
	quit      chan struct{}      // closed when no more calls are to be made
	callers   sync.WaitGroup
	waiters   sync.WaitGroup
	places    chan struct{}

	mu    sync.Mutex
	calls []*call
}

// startLoad creates the functions and begins to call them.
func startLoad(ctx context.Context, cfg config, s *stack) (*load, error) {
	w := &load{s: s, quit: make(chan struct{}), places: make(chan struct{}, waiting)}
	w.ctx, w.cancel = context.WithCancel(ctx)
	network := "none"
	if cfg.servers > 1 {
		network = "host" // containers reach funcd over it
	}
	for name, labels := range map[string]map[string]string{
		"cold":   {"funcd.warm": "0"},
		"warm":   {"funcd.warm": "2"},
		"reused": {"funcd.reuse": "true"},
	} {
		f := api.Function{Name: name, ContainerSize: "s1", Timeout: 120}
		f.Config.Image, f.Config.Cmd, f.Config.Labels = image, api.StrSlice{volumeMount + "/" + journalFile}, labels
		f.HostConfig.NetworkMode, f.HostConfig.VolumesFrom = network, []string{volumeName}
		created, err := s.client.CreateFunction(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("creating a function: %w", err)
		}
		w.functions = append(w.functions, created)
	}
	for i := range callers {
		w.callers.Go(func() { w.caller(cfg, i, rand.New(rand.NewPCG(cfg.seed, uint64(2+i)))) })
	}
	return w, nil
}

// caller makes calls until quit.
func (w *load) caller(cfg config, i int, random *rand.Rand) {
	for n := i; ; n += callers {
		average, f, runs := callPause, w.functions[random.IntN(len(w.functions))], duration(random)
		if cfg.soak > 0 {
			average, f, runs = time.Duration(callers/cfg.rate*float64(time.Second)), w.mostlyReused(random), time.Duration(random.IntN(50))*time.Millisecond
		}
		pause := time.Duration(random.Int64N(int64(2 * average)))
		c := &call{n: n, function: f.Name, sync: random.IntN(2) == 0}
		payload := fmt.Sprintf("%d %d", n, runs.Milliseconds())
		server := random.IntN(len(w.s.urls))
		select {
		case <-w.quit:
			return
		case <-time.After(pause):
		}
		w.mu.Lock()
		w.calls = append(w.calls, c)
		w.mu.Unlock()
		if c.sync {
			w.callSync(c, f, payload, server)
		} else {
			w.callAsync(c, f, payload, server)
		}
	}
}

// mostlyReused is a function that costs Docker a container in one of five cases.
func (w *load) mostlyReused(random *rand.Rand) api.Function {
	name := "reused"
	switch random.IntN(10) {
	case 0:
		name = "cold"
	case 1:
		name = "warm"
	}
	return w.functions[slices.IndexFunc(w.functions, func(f api.Function) bool { return f.Name == name })]
}

// duration is for how long a function runs: mostly not long, sometimes longer than most faults.
func duration(random *rand.Rand) time.Duration {
	switch random.IntN(10) {
	case 0:
		return 10 * time.Second
	case 1, 2:
		return 2 * time.Second
	default:
		return time.Duration(random.IntN(300)) * time.Millisecond
	}
}

// syncPatience bounds a synchronous call: its queue, and a function that is stopped for a while.
const syncPatience = 3 * time.Minute

func (w *load) callSync(c *call, f api.Function, payload string, server int) {
	ctx, cancel := context.WithTimeout(w.ctx, syncPatience)
	defer cancel()
	began := time.Now()
	status, body, err := w.ask(ctx, http.MethodPost, server, "call", f, payload, "sync")
	c.took = time.Since(began)
	w.note(c, status, body, err)
}

// callAsync makes a call and leaves it to a waiter.
func (w *load) callAsync(c *call, f api.Function, payload string, server int) {
	select {
	case w.places <- struct{}{}:
	case <-w.quit:
		w.set(c, refused, "not sent")
		return
	}
	ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
	defer cancel()
	began := time.Now()
	status, body, err := w.ask(ctx, http.MethodPost, server, "call", f, payload)
	var answer api.CallID
	switch {
	case err == nil && status == http.StatusOK && json.Unmarshal([]byte(body), &answer) == nil && answer.CallID != "":
	case errors.Is(err, syscall.ECONNREFUSED):
		w.set(c, refused, "nobody listens")
	case err == nil && status == http.StatusServiceUnavailable:
		// The store may have failed after it had written the call.
		w.set(c, unknown, body)
	default:
		w.set(c, unknown, fmt.Sprintf("%d %s %v", status, body, err))
	}
	if answer.CallID == "" {
		<-w.places
		return
	}
	w.mu.Lock()
	c.id = answer.CallID
	w.mu.Unlock()
	w.set(c, pending, "")
	w.waiters.Go(func() {
		defer func() { <-w.places }()
		w.wait(c, f, server)
		c.took = time.Since(began)
	})
}

// wait asks any server for the call's answer until there is one.
func (w *load) wait(c *call, f api.Function, server int) {
	for try := server; w.ctx.Err() == nil; try++ {
		ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
		status, body, err := w.ask(ctx, http.MethodGet, try%len(w.s.urls), "output", f, "", c.id, "wait")
		cancel()
		if err == nil && status != http.StatusServiceUnavailable && status != http.StatusCreated && status != http.StatusAccepted {
			w.note(c, status, body, nil)
			return
		}
		w.mu.Lock()
		c.message = fmt.Sprintf("last answer: %d %s %v", status, body, err)
		w.mu.Unlock()
		select {
		case <-w.ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// note draws the conclusion of an answer that says how a call ended.
func (w *load) note(c *call, status int, body string, err error) {
	body = strings.TrimSpace(body)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		w.set(c, refused, "nobody listens")
	case err != nil:
		w.set(c, unknown, err.Error())
	case status == http.StatusOK:
		w.mu.Lock()
		c.output = body
		w.mu.Unlock()
		w.set(c, finished, "")
	case status == http.StatusInternalServerError, status == http.StatusGatewayTimeout, status == http.StatusGone, status == 509:
		w.set(c, failed, body)
	case status == http.StatusNotFound && c.id != "":
		w.set(c, gone, body)
	default:
		w.set(c, unknown, fmt.Sprintf("%d %s", status, body))
	}
}

func (w *load) set(c *call, s state, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.state, c.message = s, message
}

// ask makes a request to one server.
func (w *load) ask(ctx context.Context, method string, server int, endpoint string, f api.Function, body string, more ...string) (int, string, error) {
	url := w.s.urls[server] + "/" + strings.Join(append([]string{endpoint, f.Name, f.UUID}, more...), "/")
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// finish makes no more calls, and returns all when they have ended, or after answerPatience.
func (w *load) finish(ctx context.Context) []call {
	close(w.quit)
	done := make(chan struct{})
	go func() {
		w.callers.Wait()
		w.waiters.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	case <-time.After(answerPatience):
	}
	w.cancel()
	<-done
	var all []call
	for _, c := range w.calls {
		all = append(all, *c)
	}
	return all
}

// stop is finish for one who does not want to know.
func (w *load) stop() {
	w.cancel()
	w.finish(w.ctx)
}

// leftovers returns what is wrong after all calls have ended: calls that funcd still has, and containers that nobody needs.
func (s *stack) leftovers(ctx context.Context, functions []api.Function) []string {
	var wrong []string
	for _, f := range functions {
		if text := s.twice(f); text != "" {
			wrong = append(wrong, text)
		}
		err := s.until(ctx, "the end of "+f.Name, func() error { return s.client.RemoveFunction(ctx, f.Name) })
		if err != nil {
			wrong = append(wrong, "a function can't be removed: "+err.Error())
		}
	}
	if err := s.until(ctx, "the end of the containers", func() error {
		if left := s.containers(); len(left) > 0 {
			return fmt.Errorf("%d containers run", len(left))
		}
		return nil
	}); err != nil {
		wrong = append(wrong, err.Error())
	}
	return wrong
}

// dispatchToken finds, in the name of a job, the call and which of its containers it is. Nomad puts a time and a random text after it.
var dispatchToken = regexp.MustCompile(`/dispatch-([0-9a-f]{8}-[0-9a-f-]{27}(-[0-9]+)?)-[0-9]+-[0-9a-f]+$`)

// twice tells of a call that has two jobs in Nomad where it was to have one.
func (s *stack) twice(f api.Function) string {
	var jobs []struct{ ID string }
	body, err := get(s.nomadURL + "/v1/jobs?prefix=func-chaos-" + f.Name + "/dispatch-")
	if err == nil {
		err = json.Unmarshal([]byte(body), &jobs)
	}
	if err != nil {
		return "the jobs of " + f.Name + " are not known: " + err.Error()
	}
	seen := map[string]string{}
	for _, job := range jobs {
		token := dispatchToken.FindStringSubmatch(job.ID)
		if token == nil {
			continue
		}
		if other := seen[token[1]]; other != "" {
			return "a call has two jobs: " + other + " and " + job.ID
		}
		seen[token[1]] = job.ID
	}
	return ""
}
