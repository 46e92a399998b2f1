package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/consul"
)

// pipes is a listener of connections that need no network, so that their time can be made up.
type pipes struct {
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func newPipes() *pipes { return &pipes{accepted: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.accepted <- server
	return client
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.accepted:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// serving is an agent that serves listeners, with the bounds of a configuration.
func serving(t *testing.T, text string) *agent {
	s, err := load(t, text)
	require.NoError(t, err)
	return &agent{settings: s, log: slog.New(slog.DiscardHandler), failed: make(chan error, 1)}
}

// bubble serves the handler over pipes within a bubble of synctest.
func bubble(t *testing.T, handler http.HandlerFunc) *pipes { return bubbleWith(t, "", handler) }

// bubbleWith is bubble with settings.
func bubbleWith(t *testing.T, text string, handler http.HandlerFunc) *pipes {
	p, a := newPipes(), serving(t, text)
	s := a.serve(a.bound(p), handler, nil)
	t.Cleanup(func() {
		s.stop(a.log, 0)
		a.running.Wait()
	})
	return p
}

func TestAnAnswerMayComeADayLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := bubble(t, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(24 * time.Hour)
			_, _ = w.Write([]byte("at last"))
		})
		conn := p.dial()
		defer conn.Close()
		for range 2 { // the connection is as good as new afterwards
			_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: funcd\r\n\r\n")
			require.NoError(t, err)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, "at last", string(body))
		}
	})
}

func TestRequestsThatDoNotComeAreGivenUp(t *testing.T) {
	t.Parallel()
	for name, times := range map[string]struct {
		text         string
		header, idle time.Duration
	}{
		"by default":   {"", 10 * time.Second, 2 * time.Minute},
		"as was set":   {"limits {\n header_time = \"3s\"\n idle_time = \"7m\"\n}\n", 3 * time.Second, 7 * time.Minute},
		"sooner, idle": {"limits {\n header_time = \"30s\"\n idle_time = \"1s\"\n}\n", 30 * time.Second, time.Second},
	} {
		for what, c := range map[string]struct {
			sent string
			time time.Duration
		}{
			"nothing":                  {"", times.header},
			"half a header":            {"GET / HTTP/1.1\r\nHost: fun", times.header},
			"a request, then none":     {"GET / HTTP/1.1\r\nHost: funcd\r\n\r\n", times.idle},
			"a request, then half one": {"GET / HTTP/1.1\r\nHost: funcd\r\n\r\nGET /", times.header},
		} {
			t.Run(what+" "+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					p := bubbleWith(t, times.text, func(http.ResponseWriter, *http.Request) {})
					begun, conn := time.Now(), p.dial()
					defer conn.Close()
					go func() { _, _ = io.WriteString(conn, c.sent) }()
					_, err := io.Copy(io.Discard, conn) // until the server hangs up
					require.NoError(t, err)
					require.Equal(t, c.time, time.Since(begun))
				})
			})
		}
	}
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		most int
	}{
		"by default": {"", 65536},
		"as was set": {"limits {\n headers = 10000\n}\n", 10000},
		"the least":  {"limits {\n headers = 4096\n}\n", 4096},
	} {
		for _, over := range []int{-1, 0, 2, c.most} {
			t.Run(fmt.Sprint(name, " and ", over), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					handled := false
					p := bubbleWith(t, c.text, func(http.ResponseWriter, *http.Request) { handled = true })
					conn := p.dial()
					defer conn.Close()
					const begin, end = "GET / HTTP/1.1\r\nHost: funcd\r\nX: ", "\r\n\r\n"
					go func() { _, _ = io.WriteString(conn, begin+strings.Repeat("x", c.most+over-len(begin+end))+end) }()
					resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
					require.NoError(t, err)
					want := http.StatusOK
					if over > 0 {
						want = http.StatusRequestHeaderFieldsTooLarge
					}
					require.Equal(t, want, resp.StatusCode)
					require.Equal(t, over <= 0, handled)
				})
			})
		}
	}
}

func TestSlowReadersAreBounded(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("x", 16*writePart)
	answers := func(ended chan<- error) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			_, err := io.WriteString(w, body)
			ended <- err
		}
	}
	t.Run("one that reads nothing loses its answer", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan error, 1)
			conn := bubble(t, answers(ended)).dial()
			defer conn.Close()
			_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: funcd\r\n\r\n")
			require.NoError(t, err)
			begun := time.Now()
			require.ErrorIs(t, <-ended, os.ErrDeadlineExceeded)
			require.Equal(t, time.Minute, time.Since(begun))
		})
	})
	t.Run("one that reads on gets all of it", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan error, 1)
			conn := bubble(t, answers(ended)).dial()
			defer conn.Close()
			_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: funcd\r\n\r\n")
			require.NoError(t, err)
			begun, read := time.Now(), 0
			for part := make([]byte, 32<<10); read < len(body); {
				time.Sleep(25 * time.Second)
				n, err := io.ReadFull(conn, part)
				read += n
				if err != nil {
					break
				}
			}
			require.NoError(t, <-ended)
			require.Greater(t, time.Since(begun), 10*time.Minute)
		})
	})
	t.Run("a deadline that was set is kept", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			defer there.Close()
			conn := &boundedConn{Conn: here, time: time.Minute}
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
			begun := time.Now()
			_, err := conn.Write([]byte("x"))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Equal(t, 5*time.Second, time.Since(begun))
			require.NoError(t, conn.SetDeadline(time.Time{}))
			begun = time.Now()
			_, err = conn.Write([]byte("x"))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Equal(t, time.Minute, time.Since(begun))
		})
	})
}

// secured is a listener with a certificate, as newAgent and listen make it.
func secured(t *testing.T, f pairFiles, handler http.HandlerFunc) (address string, c *certificate) {
	t.Helper()
	a := serving(t, "")
	c, err := loadCertificate(f.cert, f.key, a.log)
	require.NoError(t, err)
	listener, err := listenTCP("127.0.0.1:0")
	require.NoError(t, err)
	s := a.serve(a.bound(listener), handler, c.config())
	t.Cleanup(func() {
		s.stop(a.log, 0)
		a.running.Wait()
	})
	return s.address, c
}

func trusting(t *testing.T, files ...pairFiles) *tls.Config {
	pool := x509.NewCertPool()
	for _, f := range files {
		text, err := os.ReadFile(f.cert)
		require.NoError(t, err)
		require.True(t, pool.AppendCertsFromPEM(text))
	}
	return &tls.Config{RootCAs: pool}
}

func TestHTTPS(t *testing.T) {
	t.Parallel()
	f := writePair(t, t.TempDir(), 1)
	address, _ := secured(t, f, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto, " ", r.TLS != nil) })

	// A client that would rather speak HTTP/2 agrees on what can be upgraded.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trusting(t, f), ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + address)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 true", string(body))

	old := trusting(t, f)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	_, err = tls.Dial("tcp", address, old)
	require.ErrorContains(t, err, "protocol version")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := trusting(t, f)
		c.MinVersion, c.MaxVersion = version, version
		conn, err := tls.Dial("tcp", address, c)
		require.NoError(t, err)
		conn.Close()
	}
	only2 := trusting(t, f)
	only2.NextProtos = []string{"h2"}
	_, err = tls.Dial("tcp", address, only2)
	require.ErrorContains(t, err, "no application protocol")

	plain, err := http.Get("http://" + address)
	require.NoError(t, err)
	defer plain.Body.Close()
	require.Equal(t, http.StatusBadRequest, plain.StatusCode)
}

func TestConnectionsOutliveTheirCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := writePair(t, dir+"/first", 1)
	f := writePair(t, dir+"/live", 2)
	for from, to := range map[string]string{first.cert: f.cert, first.key: f.key} {
		require.NoError(t, os.Rename(from, to))
	}
	before := trusting(t, f)
	address, c := secured(t, f, func(http.ResponseWriter, *http.Request) {})
	conn, err := tls.Dial("tcp", address, before)
	require.NoError(t, err)
	defer conn.Close()
	answers := bufio.NewReader(conn)
	ask := func() {
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: funcd\r\n\r\n")
		require.NoError(t, err)
		resp, err := http.ReadResponse(answers, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode)
	}
	ask()
	writePair(t, dir+"/live", 3)
	c.look()
	ask()
	_, err = tls.Dial("tcp", address, before)
	require.Error(t, err, "new connections are shown the new one")
	after, err := tls.Dial("tcp", address, trusting(t, f))
	require.NoError(t, err)
	defer after.Close()
	require.EqualValues(t, 3, after.ConnectionState().PeerCertificates[0].SerialNumber.Int64())
	ask()
}

func TestListenersInConsul(t *testing.T) {
	t.Parallel()
	a := &agent{settings: &settings{config: defaultConfig()}}
	require.Empty(t, a.registrations())
	a.http, a.https = &server{address: "10.0.0.5:3862"}, &server{address: "0.0.0.0:3864"}
	require.Equal(t, []consul.Service{
		{ID: "funcd-10.0.0.5:3862", Name: "funcd", Address: "10.0.0.5", Port: 3862, Tags: []string{"http"}, CheckURL: "http://10.0.0.5:3862/healthz"},
		{ID: "funcd-0.0.0.0:3864", Name: "funcd", Port: 3864, Tags: []string{"https"}, CheckURL: "https://0.0.0.0:3864/healthz", CheckInsecure: true},
	}, a.registrations())
	require.Equal(t, []any{"http", "10.0.0.5:3862", "https", "0.0.0.0:3864"}, a.addresses())
	a.http = nil
	require.Len(t, a.registrations(), 1)
}

func TestHTTPSSettings(t *testing.T) {
	t.Parallel()
	block := func(address string) string {
		return fmt.Sprintf("https {\n address = %q\n cert_file = \"c\"\n key_file = \"k\"\n}\n", address)
	}
	s, err := load(t, block("10.0.0.5:443"))
	require.NoError(t, err)
	require.Equal(t, "http://127.0.0.1:3862", s.apiAddress())
	require.Error(t, s.checkLoopback(), "others reach it")
	s, err = load(t, "http = \"\"\n"+block("127.0.0.1:443"))
	require.NoError(t, err)
	require.Equal(t, "https://127.0.0.1:443", s.apiAddress())
	require.NoError(t, s.checkLoopback())
	for text, want := range map[string]string{
		"http = \"\"\n":   "http: the server needs an address here, or an https block",
		block("10.0.0.5"): "https.address:",
		"https {}\n":      "The argument \"address\" is required",
		"https {\n address = \"x:1\"\n cert_file = \"c\"\n}":                   "The argument \"key_file\" is required",
		"runner {\n mode = \"http\"\n address = \"https://10.0.0.5:443\"\n}\n": "runner.ca_file: is required",
	} {
		_, err := load(t, text)
		require.ErrorContains(t, err, want)
	}
}

func TestRunnerTrustsWhatItIsTold(t *testing.T) {
	t.Parallel()
	f := writePair(t, t.TempDir(), 1)
	program := f.key // any file
	prepare := func(ca string) (*preparedRunner, error) {
		s := &settings{config: defaultConfig()}
		s.Runner = &runnerConfig{Mode: runnerHTTP, Path: program, Address: "https://10.0.0.5:443", CAFile: ca}
		return prepareRunner(s)
	}
	r, err := prepare(f.cert)
	require.NoError(t, err)
	text, err := os.ReadFile(f.cert)
	require.NoError(t, err)
	require.Equal(t, string(text), r.job.CACert)
	_, err = prepare(f.key)
	require.ErrorContains(t, err, "holds no certificate in PEM")
	_, err = prepare(f.cert + ".none")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestWhatComesIsHeard: who waits for an answer to arrive is told that the client has said something, or has gone.
func TestWhatComesIsHeard(t *testing.T) {
	t.Parallel()
	listener, err := listenTCP("127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	conn, err := bounded{listener, time.Minute}.Accept()
	require.NoError(t, err)
	defer conn.Close()
	heard := conn.(interface{ Heard() <-chan struct{} }).Heard()
	require.Empty(t, heard)
	for range 2 { // also if nobody asks
		_, err = io.WriteString(client, "x")
		require.NoError(t, err)
		_, err = io.ReadFull(conn, make([]byte, 1))
		require.NoError(t, err)
	}
	<-heard
	require.Empty(t, heard)
	require.NoError(t, client.Close())
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	<-heard
}
