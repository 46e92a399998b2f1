// Package callbacks sends the results of calls to the URLs that functions ask for with the label funcd.callback: signed, again after a failure, and
// to addresses that the operator allows only. How they are kept until then is left to a Queue.
package callbacks

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/funcd/funcd/api"
)

// Queue keeps callbacks until they are delivered. Its errors are of code Unavailable.
type Queue interface {
	// QueueCallback stores a callback. The error is also of code TooLarge if the account has too many.
	QueueCallback(ctx context.Context, cb api.Callback, body []byte) error
	// CallbackAccounts returns the accounts that have had callbacks.
	CallbackAccounts(ctx context.Context) ([]string, error)
	// ServeCallbacks passes the account's callbacks to deliver, at most so many at a time, until ctx ends. deliver returns after how long it is to be
	// called again, 0 for never, within the lease.
	ServeCallbacks(ctx context.Context, account string, most int, lease time.Duration,
		deliver func(ctx context.Context, cb api.Callback, body []byte, attempt int) (again time.Duration))
}

// Functions knows the functions.
type Functions interface {
	// ByID returns the account's function of this name if it has this internal id. The error is of code NotFound or Unavailable.
	ByID(ctx context.Context, account, name, id string) (api.Definition, error)
}

// Events is the log of calls.
type Events interface {
	Log(ctx context.Context, function string, events ...api.Event)
}

// Config is what a Service works with. All of it is required but Allow.
type Config struct {
	Queue     Queue
	Functions Functions
	Events    Events

	Allow           []netip.Prefix // addresses that are not public and allowed all the same
	Concurrent      int            // callbacks of one account that this server sends at once
	Timeout         time.Duration  // of one attempt, from the resolving of the name to the answer's status
	Attempts        int            // then a callback is given up
	Pause, MaxPause time.Duration  // after the first attempt, doubled after each other up to the second
	Agent           string         // the User-Agent
	Logger          *slog.Logger
}

// Service delivers callbacks. Make it with New, then Run it.
type Service struct {
	cfg    Config
	log    *slog.Logger
	client *http.Client

	mu      sync.Mutex
	running context.Context // nil unless Run runs
	served  map[string]bool // accounts
	skipped map[string]int  // by call: how often a callback came and its function was not known
	serving sync.WaitGroup
}

// answerHeaders is how many bytes of a receiver's headers are read at most. Its body is not.
const answerHeaders = 16 << 10

// New returns a Service.
func New(cfg Config) *Service {
	s := &Service{cfg: cfg, log: cfg.Logger.With("component", "callbacks"), served: map[string]bool{}, skipped: map[string]int{}}
	dialer := &net.Dialer{Control: control(cfg.Allow)}
	s.client = &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil, // the address that is checked must be the receiver's
			DialContext:            dialer.DialContext,
			DisableKeepAlives:      true, // a receiver holds no connection of this server but while it answers
			DisableCompression:     true,
			MaxResponseHeaderBytes: answerHeaders,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s
}

// QueueCallback has a callback delivered by this server or, if it dies, another. It is on disk when this returns nil. Errors are those of Queue.
func (s *Service) QueueCallback(ctx context.Context, cb api.Callback, body []byte) error {
	if err := s.cfg.Queue.QueueCallback(ctx, cb, body); err != nil {
		return err
	}
	s.serve(cb.Account)
	return nil
}

// lookPeriod is how often it is looked for accounts whose first callback another server has queued.
const lookPeriod = 10 * time.Second

// Run delivers the callbacks of all accounts until ctx ends, and returns when none is being sent any more.
func (s *Service) Run(ctx context.Context) {
	s.mu.Lock()
	s.running = ctx
	s.mu.Unlock()
	tick := time.NewTicker(lookPeriod)
	defer tick.Stop()
	for ctx.Err() == nil {
		accounts, err := s.cfg.Queue.CallbackAccounts(ctx)
		if err != nil {
			s.log.Debug("accounts are not looked for", "error", err)
		}
		for _, account := range accounts {
			s.serve(account)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	s.mu.Lock()
	s.running = nil // what is queued from here on is served after the next start
	s.mu.Unlock()
	s.serving.Wait()
}

// leaseMargin is how much longer than an attempt may take it is a server's.
const leaseMargin = 20 * time.Second

// serve begins to deliver the callbacks of an account, if this server does not do so yet.
func (s *Service) serve(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil || s.served[account] {
		return
	}
	s.served[account] = true
	ctx := s.running
	s.serving.Go(func() {
		s.cfg.Queue.ServeCallbacks(ctx, account, s.cfg.Concurrent, s.cfg.Timeout+leaseMargin, s.deliver)
	})
}
