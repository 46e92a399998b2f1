package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/funcd/funcd/consul"
	"github.com/funcd/funcd/httpapi"
)

const (
	pollTime = 30 * time.Second // that a container's request for a call is held, before it asks again
	stopTime = 10 * time.Second // for requests that are being answered when the server stops, beyond stop.finish
)

// keepAlive finds out within two and a half minutes that who waits for a call is gone without a word, and keeps a connection on which nothing is
// said in the tables of firewalls.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 9}

func listenTCP(address string) (net.Listener, error) {
	config := net.ListenConfig{KeepAliveConfig: keepAlive}
	return config.Listen(context.Background(), "tcp", address)
}

// writePart is how much must be taken within the time of a bounded connection, in bytes.
const writePart = 64 << 10

// bounded is a listener on whose connections every part that is written must be taken within a time: who asks and does not read holds an answer for that
// long only, and yet no answer has a time of its own.
type bounded struct {
	net.Listener
	time time.Duration
}

// Accept waits for the next connection.
func (b bounded) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &boundedConn{Conn: conn, time: b.time, heard: make(chan struct{}, 1)}, nil
}

type boundedConn struct {
	net.Conn
	time  time.Duration
	heard chan struct{}

	mu  sync.Mutex
	set bool // somebody else has set a deadline for writing, which counts then
}

// NetConn is the connection below, as with a tls.Conn.
func (c *boundedConn) NetConn() net.Conn { return c.Conn }

// Read reads from the connection, and tells so to who asks Heard.
func (c *boundedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	select {
	case c.heard <- struct{}{}:
	default:
	}
	return n, err
}

// Heard has a value once something was read, or reading has ended.
func (c *boundedConn) Heard() <-chan struct{} { return c.heard }

// Write writes all of p, or as much as the other side takes in its time.
func (c *boundedConn) Write(p []byte) (n int, err error) {
	for {
		part := p[n:min(n+writePart, len(p))]
		if err := c.extend(); err != nil {
			return n, err
		}
		wrote, err := c.Conn.Write(part)
		n += wrote
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

func (c *boundedConn) extend() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.set {
		return nil
	}
	return c.Conn.SetWriteDeadline(time.Now().Add(c.time))
}

// SetDeadline is that of the connection.
func (c *boundedConn) SetDeadline(at time.Time) error {
	return errors.Join(c.SetReadDeadline(at), c.SetWriteDeadline(at))
}

// SetWriteDeadline puts its time in place of the bound, until it is set to none.
func (c *boundedConn) SetWriteDeadline(at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set = !at.IsZero()
	return c.Conn.SetWriteDeadline(at)
}

// server is a listener's.
type server struct {
	http    *http.Server
	address string
	hangUp  context.CancelCauseFunc // ends the requests that are being answered
}

// listeners are those of a server, open. Those that are not configured are nil.
type listeners struct{ http, https, metrics, runners net.Listener }

// openListeners opens all of them, or none: nobody is to be answered by a server that can't start.
func (a *agent) openListeners(runner *preparedRunner) (opened listeners, err error) {
	s, tcp := a.settings, func(address string) func() (net.Listener, error) {
		return func() (net.Listener, error) { return listenTCP(address) }
	}
	defer func() {
		for _, l := range []net.Listener{opened.http, opened.https, opened.metrics, opened.runners} {
			if err != nil && l != nil {
				l.Close()
			}
		}
	}()
	var https string
	if s.HTTPS != nil {
		https = s.HTTPS.Address
	}
	for _, l := range []struct {
		to            *net.Listener
		setting, text string
		wanted        bool
		open          func() (net.Listener, error)
	}{
		{&opened.http, "http", s.HTTP, s.HTTP != "", tcp(s.HTTP)},
		{&opened.https, "https.address", https, s.HTTPS != nil, tcp(https)},
		{&opened.metrics, "metrics", s.Metrics, s.Metrics != "", tcp(s.Metrics)},
		{&opened.runners, "runner.socket_dir", s.Runner.SocketDir, s.Runner.Mode == runnerSocket, runner.listen},
	} {
		if !l.wanted {
			continue
		}
		listener, err := l.open()
		if err != nil {
			return opened, cannot(l.setting, l.text, err)
		}
		*l.to = listener
	}
	return opened, nil
}

// headerSlack is what net/http reads beyond its bound of a request's headers.
const headerSlack = 4096

// bound puts the settings' bounds on a listener's connections. There is none for writing an answer, as a call may be waited for all day, but for each part of it.
func (a *agent) bound(listener net.Listener) net.Listener {
	return bounded{limit(listener, a.settings.Limits.Connections), a.settings.writeTime}
}

// serve answers the listener's requests with the handler, over TLS if it is given a configuration.
func (a *agent) serve(listener net.Listener, handler http.Handler, secure *tls.Config) *server {
	requests, hangUp := context.WithCancelCause(context.Background())
	s := &server{
		http: &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: a.settings.headerTime, // also of a TLS handshake
			IdleTimeout:       a.settings.idleTime,
			MaxHeaderBytes:    max(a.settings.Limits.Headers-headerSlack, 1), // 0 would be net/http's own default
			TLSConfig:         secure,
			Protocols:         new(http.Protocols),
			ConnContext:       httpapi.ConnContext,
			BaseContext:       func(net.Listener) context.Context { return requests },
			ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		},
		address: listener.Addr().String(),
		hangUp:  hangUp,
	}
	// Over HTTP/2 there are no upgrades: clients that agree on it by themselves, and then ask for the logs' upgrade, would fail.
	s.http.Protocols.SetHTTP1(true)
	a.running.Go(func() {
		serve := s.http.Serve
		if secure != nil {
			serve = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
		}
		if err := serve(listener); !errors.Is(err, http.ErrServerClosed) {
			a.failed <- err
		}
	})
	return s
}

// stop takes no more requests, and returns when those that have begun are answered. Whoever waits for a call after finish is told to ask
// another server, or again, and what is not answered stopTime later is cut off.
func (s *server) stop(log *slog.Logger, finish time.Duration) {
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), finish+stopTime)
	defer cancel()
	defer s.hangUp(errStopping) // also the connections that were upgraded, of which Shutdown knows nothing
	if finish == 0 {
		s.hangUp(errStopping)
	}
	defer time.AfterFunc(finish, func() { s.hangUp(errStopping) }).Stop()
	if err := s.http.Shutdown(ctx); err != nil {
		log.Warn("requests were cut off", "error", err)
		_ = s.http.Close()
	}
}

// addresses are those that the API listens on, for the log. They are known after Start.
func (a *agent) addresses() []any {
	var all []any
	for name, s := range a.listeners() {
		all = append(all, name, s.address)
	}
	return all
}

// listeners are those of the API, by the scheme of their addresses.
func (a *agent) listeners() iter.Seq2[string, *server] {
	return func(yield func(scheme string, s *server) bool) {
		if a.http != nil && !yield("http", a.http) {
			return
		}
		if a.https != nil {
			yield("https", a.https)
		}
	}
}

// registrations are funcd as a Consul service, once for each listener, told apart by a tag as those of Nomad are. Its check asks for the process only: a
// server whose Nomad is away still takes calls. So it need not trust the certificate.
func (a *agent) registrations() []consul.Service {
	var all []consul.Service
	for scheme, s := range a.listeners() {
		host, port, _ := net.SplitHostPort(s.address)
		number, _ := strconv.Atoi(port)
		service := consul.Service{
			ID:            a.settings.Consul.Service + "-" + s.address,
			Name:          a.settings.Consul.Service,
			Address:       host,
			Port:          number,
			Tags:          []string{scheme},
			CheckURL:      scheme + "://" + s.address + "/healthz",
			CheckInsecure: scheme == "https",
		}
		if net.ParseIP(host).IsUnspecified() {
			service.Address = "" // every address of the machine: Consul's own
		}
		all = append(all, service)
	}
	return all
}

// checkLoopback refuses listeners that others can reach.
func (s *settings) checkLoopback() error {
	if s.HTTP != "" {
		if err := checkLoopback(s.HTTP); err != nil {
			return fmt.Errorf("http: %w", err)
		}
	}
	if s.HTTPS != nil {
		if err := checkLoopback(s.HTTPS.Address); err != nil {
			return fmt.Errorf("https.address: %w", err)
		}
	}
	return nil
}

func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("--dev accepts unsigned requests, so %q must be a loopback address", address)
	}
	return nil
}
