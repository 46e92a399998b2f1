package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
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
	fails    int      // how often its function is to fail
	key      string   // its Idempotency-Key; empty for none
	ids      []string // what the request was answered with; more than one of a request with a key, which is sent again
	cancel   cancel
	state    state
	output   string
	message  string // why it failed, or was not accepted
	took     time.Duration
}

// id is empty if the caller was never told.
func (c *call) id() string {
	if len(c.ids) == 0 {
		return ""
	}
	return c.ids[0]
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
	receiver  *receiver
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
	var err error
	if w.receiver, err = newReceiver(); err != nil {
		return nil, err
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	network := "none"
	if cfg.servers > 1 {
		network = "host" // containers reach funcd over it
	}
	for name, labels := range w.kinds(cfg) {
		f := api.Function{Name: name, ContainerSize: "s1", Timeout: 120}
		f.Config.Image, f.Config.Cmd, f.Config.Labels = image, api.StrSlice{volumeMount + "/" + journalFile}, labels
		f.HostConfig.NetworkMode, f.HostConfig.VolumesFrom = network, []string{volumeName}
		created, err := s.client.CreateFunction(ctx, f)
		if err != nil {
			w.cancel()
			w.receiver.stop()
			return nil, fmt.Errorf("creating a function: %w", err)
		}
		w.receiver.knows(created)
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
		if cfg.soak == 0 {
			c.vary(cfg.seed, random)
		}
		payload := fmt.Sprintf("%d %d %d", n, runs.Milliseconds(), c.fails)
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
	status, body, err := w.ask(ctx, http.MethodPost, server, "call", f, payload, nil, "sync")
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
	began := time.Now()
	id := w.submit(c, f, payload, server)
	if id == "" {
		<-w.places
		return
	}
	w.mu.Lock()
	c.ids = append([]string{id}, c.ids...)
	w.mu.Unlock()
	w.set(c, pending, "")
	if c.cancel.planned {
		w.waiters.Go(func() { w.cancelLater(c, f, server) })
	}
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
		status, body, err := w.ask(ctx, http.MethodGet, try, "output", f, "", nil, c.id(), "wait")
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
	case status == http.StatusNotFound && c.id() != "":
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

// ask makes a request to one server, of those that there are.
func (w *load) ask(ctx context.Context, method string, server int, endpoint string, f api.Function, body string, header http.Header, more ...string) (int, string, error) {
	url := w.s.urls[server%len(w.s.urls)] + "/" + strings.Join(append([]string{endpoint, f.Name, f.UUID}, more...), "/")
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if header != nil {
		req.Header = header
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
	w.receiver.stop()
}
