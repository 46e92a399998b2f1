// Package calls keeps what is durable about calls: the queue, the records, the event logs and the outputs, and it carries the short
// messages by which funcd servers tell each other of them. All of it is on NATS JetStream: embedded in the process, or a cluster by URL.
//
// What a call goes through, and when, is the scheduler's; this package knows streams, subjects and limits.
//
// Subjects: queue.<account>.<pool>.<function>.<call>, record.<function>.<call>, kept.<function>.<call>, log.<function>.<call>, out.<function>.<call>,
// key.<account>.<function>.<hash>, dead.<account>.<function>.<call>, callback.<account>.<function>.<call> are
// in streams; take.<call>, changed.<call> and ended.<function>.<call> are plain messages between servers. Functions and calls go by their ids,
// accounts by their names; what can't be one token of a subject is refused.
package calls

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/funcd/funcd/api"
)

// Config says where the streams are and how much they hold. The zero value of a limit means its default.
type Config struct {
	// Dir is where the embedded server keeps its files, created if missing. It must be this server's own. Ignored with URL.
	Dir string
	// URL is that of a NATS cluster with JetStream, in place of the embedded server.
	URL string
	// Replicas of each stream on a NATS cluster. Default 1; 3 survives the loss of a NATS server.
	Replicas int

	// QueueCalls and QueueBytes bound the calls of one account that have not ended; one more is refused. Defaults 100,000 and 4 GiB.
	QueueCalls int64
	QueueBytes int64
	// OutputBytes and LogBytes are what is kept for each function, the oldest dropped first. Default 50 MiB each.
	OutputBytes int64
	LogBytes    int64
	// OutputTime is how long an output is kept that nobody fetches. Default 72 h.
	OutputTime time.Duration
	// UnfetchedTime is how long it is known of a call how it has ended, if nobody fetches its answer, and UnfetchedCalls of how many such calls of each
	// function. RemoveUnfetched removes the others. Defaults 168 h and 100,000.
	UnfetchedTime  time.Duration
	UnfetchedCalls int
	// KeptCalls is how many calls of each function are kept after they were fetched, of those that ask for it. Default 10,000.
	KeptCalls int
	// Keys is how many idempotency keys an account may have, and KeyTime how long each is kept. Defaults 1,000,000 and 24 h.
	Keys    int64
	KeyTime time.Duration
	// DeadCalls, DeadBytes and DeadTime bound an account's dead letters, the oldest dropped first. Defaults 10,000, 1 GiB and 14 days.
	DeadCalls int64
	DeadBytes int64
	DeadTime  time.Duration
	// CallbackCalls and CallbackBytes bound the results of one account that are on their way to callbacks. Defaults 10,000 and 1 GiB.
	CallbackCalls int64
	CallbackBytes int64
	// DiskFree is how many bytes of the embedded server's disk new calls leave free, for the results of those that are there. 0 for none.
	DiskFree int64
	// Lease is how long a call stays with a server that is not heard of, before another takes it over. Default 20 s.
	Lease time.Duration

	Logger *slog.Logger
}

// Defaults of Config.
const (
	DefaultQueueCalls  = 100_000
	DefaultQueueBytes  = 4 << 30
	DefaultOutputBytes = 50 << 20
	DefaultLogBytes    = 50 << 20
	DefaultOutputTime  = 72 * time.Hour
	DefaultKeptCalls   = 10_000
	DefaultKeys        = 1_000_000
	DefaultKeyTime     = 24 * time.Hour
	DefaultDeadCalls   = 10_000
	DefaultDeadBytes   = 1 << 30
	DefaultDeadTime    = 14 * 24 * time.Hour
	DefaultLease       = 20 * time.Second

	// DefaultDiskFree is no default of Config, but what funcd sets.
	DefaultDiskFree = 256 << 20

	DefaultCallbackCalls  = 10_000
	DefaultCallbackBytes  = 1 << 30
	DefaultUnfetchedTime  = 168 * time.Hour
	DefaultUnfetchedCalls = 100_000
)

// maxMessage is the largest message: a payload or an output of 1 MiB and its description with a margin.
const maxMessage = 2<<20 + 64<<10

const recordsStream = "RECORDS"

// Store is the open streams. Its methods may be called at once from any goroutine.
type Store struct {
	cfg     Config
	log     *slog.Logger
	server  *server.Server // nil with Config.URL
	disk    disk           // with a reserve only where there is a server
	alone   bool           // no other server has these streams: what it would tell others goes straight to itself
	nc      *nats.Conn
	js      jetstream.JetStream
	records *anchored
	ended   *nats.Subscription

	id     string // this process's own, for messages to other servers
	opened time.Time
	states *states

	mu      sync.Mutex
	streams map[string]*anchored // by name; those that this server has seen
	quotas  map[string]int       // by account; of those whose calls are consumed

	ready          readiness
	background     sync.WaitGroup
	running        context.Context // of the background, ends with Close
	stopBackground context.CancelFunc
	followers      map[string]*follower // by function
	waiters        map[string]map[chan struct{}]struct{}
	offers         map[string]Take  // by call; those of this server
	held           map[string]*held // by the record's subject
	answered       answered

	claimTimeout time.Duration // the constant, but in tests

	slotsMu  sync.Mutex
	slots    map[string]*freeSlots // by subject; those of this server
	watchers map[*slotWatcher]bool // of a server that is alone
}

// Open starts the embedded server, or connects, and makes the streams that are there from the start. It blocks until JetStream answers,
// for at most 30 s: reading back a large store takes its time.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	setDefault(&cfg.Replicas, 1)
	setDefault(&cfg.QueueCalls, DefaultQueueCalls)
	setDefault(&cfg.QueueBytes, DefaultQueueBytes)
	setDefault(&cfg.OutputBytes, DefaultOutputBytes)
	setDefault(&cfg.LogBytes, DefaultLogBytes)
	setDefault(&cfg.OutputTime, DefaultOutputTime)
	setDefault(&cfg.UnfetchedTime, DefaultUnfetchedTime)
	setDefault(&cfg.UnfetchedCalls, DefaultUnfetchedCalls)
	setDefault(&cfg.KeptCalls, DefaultKeptCalls)
	setDefault(&cfg.Keys, DefaultKeys)
	setDefault(&cfg.KeyTime, DefaultKeyTime)
	setDefault(&cfg.DeadCalls, DefaultDeadCalls)
	setDefault(&cfg.DeadBytes, DefaultDeadBytes)
	setDefault(&cfg.DeadTime, DefaultDeadTime)
	setDefault(&cfg.CallbackCalls, DefaultCallbackCalls)
	setDefault(&cfg.CallbackBytes, DefaultCallbackBytes)
	setDefault(&cfg.Lease, DefaultLease)
	s := newStore(cfg)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := s.open(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func newStore(cfg Config) *Store {
	s := &Store{
		cfg:     cfg,
		log:     cfg.Logger.With("component", "calls"),
		id:      uuid.NewString(),
		opened:  time.Now(),
		states:  newStates(),
		streams: map[string]*anchored{},
		quotas:  map[string]int{},
		waiters: map[string]map[chan struct{}]struct{}{},
		offers:  map[string]Take{},
		held:    map[string]*held{},
		slots:   map[string]*freeSlots{},

		claimTimeout: claimTimeout,
		watchers:     map[*slotWatcher]bool{},
		ready:        readiness{seen: map[string]time.Time{}, waiting: map[string][]chan struct{}{}},

		followers: map[string]*follower{},
	}
	s.answered = answered{calls: map[string]struct{}{}, lifetime: answeredLeases * cfg.Lease}
	s.running, s.stopBackground = context.WithCancel(context.Background())
	return s
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

func (s *Store) open(ctx context.Context) error {
	options := []nats.Option{nats.Name("funcd"), nats.MaxReconnects(-1)}
	if s.cfg.URL == "" {
		if err := s.startServer(); err != nil {
			return err
		}
		s.alone = true
		options = append(options, nats.InProcessServer(s.server))
	}
	err := insist(ctx, func() (err error) {
		s.nc, err = nats.Connect(s.cfg.URL, options...)
		return err
	})
	if err != nil {
		return fmt.Errorf("connecting to NATS: %w", err)
	}
	if most := s.nc.MaxPayload(); most < maxMessage {
		return fmt.Errorf("max_payload of the NATS servers is %d bytes, and must be at least %d", most, maxMessage)
	}
	if s.js, err = jetstream.New(s.nc); err != nil {
		return err
	}
	err = insist(ctx, func() (err error) {
		// One that has no leader yet may not answer at all.
		bounded, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		s.records, err = s.openRecords(bounded)
		return err
	})
	if err != nil {
		return fmt.Errorf("opening the records of calls: %w", err)
	}
	s.ended, err = s.nc.Subscribe("ended.*.*", func(m *nats.Msg) { s.wake(m.Subject) })
	if err != nil {
		return err
	}
	if err := s.watchReady(); err != nil {
		return err
	}
	s.background.Go(func() { s.moveAnchors(s.running) })
	if s.alone {
		s.background.Go(func() { s.watchDisk(s.running) })
	}
	if err := s.followStates(s.running); err != nil {
		return err
	}
	return s.nc.FlushWithContext(ctx) // the others are heard from here on
}

const (
	openTimeout = 5 * time.Second
	insistPause = 200 * time.Millisecond
)

// insist repeats try until it does not fail, or ctx ends: the servers of a NATS cluster may be starting too.
func insist(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil || !sleep(ctx, insistPause) {
			return err
		}
	}
}

func (s *Store) openRecords(ctx context.Context) (*anchored, error) {
	return s.stream(ctx, recordsStream, recordsAnchor, func() jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Description:       "funcd: one record for each call",
			Subjects:          []string{recordSubject("*", "*"), keptSubject("*", "*")},
			MaxMsgsPerSubject: 1,
			AllowDirect:       s.direct(),
			AllowMsgTTL:       true,
		}
	})
}

func (s *Store) startServer() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return err
	}
	s.disk.dir, s.disk.reserve, s.disk.available = s.cfg.Dir, s.cfg.DiskFree, available
	srv, err := server.NewServer(&server.Options{
		ServerName: "funcd",
		DontListen: true,
		NoSigs:     true,
		NoLog:      true,
		MaxPayload: maxMessage,
		MaxPending: 64 << 20,
		JetStream:  true,
		// The default store directory is under /tmp and would be shared by all that forget to set it.
		StoreDir:          filepath.Clean(s.cfg.Dir),
		JetStreamMaxStore: maxStore,
		// A call that was answered with its id survives a power loss.
		SyncAlways: true,
	})
	if err != nil {
		return fmt.Errorf("the embedded NATS server: %w", err)
	}
	srv.SetLoggerV2(natsLog{s.log, &s.disk.troubled}, false, false, false)
	s.server = srv
	srv.Start()
	if !srv.ReadyForConnections(25 * time.Second) {
		return errors.New("the embedded NATS server did not start within 25 s")
	}
	return nil
}

// Close ends the connection and the embedded server, and returns when both have ended. The store can't be used any more. It may be called
// more than once.
func (s *Store) Close() {
	s.mu.Lock() // what begins in the background under it is waited for
	s.stopBackground()
	s.mu.Unlock()
	s.background.Wait()
	if s.nc != nil {
		s.nc.Close()
	}
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
}

// Ping tells whether JetStream answers. The error is of code Unavailable.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := s.js.AccountInfo(ctx); err != nil {
		return unavailable(err)
	}
	return nil
}

// A publish that nobody has answered, as the stream of a NATS cluster has no leader for the moment, is repeated for a few seconds. It is not
// stored then, so that the repetition is harmless.
var (
	untilLeader = jetstream.WithRetryAttempts(20)
	leaderPause = jetstream.WithRetryWait(250 * time.Millisecond)
)

// direct tells whether messages may be read from any server that holds them. With replicas that may be one that has not heard of the last
// writes yet, and what is read decides whether a result is a call's: then only the stream's leader is asked.
func (s *Store) direct() bool { return s.cfg.Replicas == 1 }

// Functions returns the ids of all functions of whose calls something is kept. The error is of code Unavailable.
func (s *Store) Functions(ctx context.Context) ([]string, error) {
	known := map[string]bool{}
	for _, subjects := range []string{logSubject("*", "*"), outSubject("*", "*")} {
		names := s.js.StreamNames(ctx, jetstream.WithStreamListSubject(subjects))
		for name := range names.Name() {
			for _, prefix := range []string{logStream(""), outStream("")} {
				if function, ok := strings.CutPrefix(name, prefix); ok {
					known[function] = true
				}
			}
		}
		if err := names.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
			return nil, unavailable(err)
		}
	}
	return slices.Sorted(maps.Keys(known)), nil
}

// stream returns the stream of this name, made by config if this server has not seen it yet. anchor is empty if it is to have none.
func (s *Store) stream(ctx context.Context, name, anchor string, config func() jetstream.StreamConfig) (*anchored, error) {
	s.mu.Lock()
	known := s.streams[name]
	if known != nil {
		known.used = true
	}
	s.mu.Unlock()
	if known != nil {
		return known, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, unavailable(err)
	}
	cfg := config()
	cfg.Name = name
	cfg.Replicas = s.cfg.Replicas
	// A request that is given up is carried out all the same, and by an embedded server that stops meanwhile no more ended. Without ctx's end
	// it has jetstream's own time.
	ctx = context.WithoutCancel(ctx)
	stream, err := s.js.CreateOrUpdateStream(ctx, cfg)
	if err != nil {
		return nil, unavailable(err)
	}
	if anchor != "" {
		if _, err := s.js.Publish(ctx, anchor, nil); err != nil {
			return nil, unavailable(err)
		}
	}
	made := &anchored{Stream: stream, anchor: anchor}
	s.mu.Lock()
	s.streams[name] = made
	s.mu.Unlock()
	return made, nil
}

func unavailable(err error) error {
	return api.Wrap(api.Unavailable, err, "the store of calls does not answer")
}

// natsLog passes the embedded server's warnings and errors on; its notices are its own.
type natsLog struct {
	log      *slog.Logger
	troubled *atomic.Bool // set by an error
}

func (l natsLog) Noticef(format string, v ...any) {
	l.log.Debug("nats", "message", fmt.Sprintf(format, v...))
}
func (l natsLog) Debugf(format string, v ...any) {}
func (l natsLog) Tracef(format string, v ...any) {}
func (l natsLog) Warnf(format string, v ...any) {
	l.log.Warn("nats", "message", fmt.Sprintf(format, v...))
}
func (l natsLog) Errorf(format string, v ...any) {
	l.troubled.Store(true)
	l.log.Error("nats", "message", fmt.Sprintf(format, v...))
}
func (l natsLog) Fatalf(format string, v ...any) {
	l.log.Error("nats", "message", fmt.Sprintf(format, v...))
}
