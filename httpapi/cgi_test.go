package httpapi

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCGI(t *testing.T) {
	t.Parallel()
	base := []string{"HTTP_HOST=example.com", "QUERY_STRING=", "REQUEST_METHOD=GET"}
	for name, c := range map[string]struct {
		target string
		header http.Header
		length int
		want   []string // beside base
	}{
		"a plain request": {},
		"a header":        {header: http.Header{"X-Foo-Bar": {"baz"}}, want: []string{"HTTP_X_FOO_BAR=baz"}},
		"a header twice":  {header: http.Header{"X-Foo": {"a", "b, c"}}, want: []string{"HTTP_X_FOO=a, b, c"}},
		"an empty header": {header: http.Header{"X-Foo": {""}}, want: []string{"HTTP_X_FOO="}},
		"a value with =":  {header: http.Header{"X-Foo": {"a=b"}}, want: []string{"HTTP_X_FOO=a=b"}},
		"a content type": {
			header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, length: 3,
			want: []string{"CONTENT_TYPE=text/plain; charset=utf-8", "CONTENT_LENGTH=3"},
		},
		"a length that is sent":  {header: http.Header{"Content-Length": {"0"}}, want: []string{"CONTENT_LENGTH=0"}},
		"a length that is wrong": {header: http.Header{"Content-Length": {"99"}}, length: 3, want: []string{"CONTENT_LENGTH=3"}},
		"Proxy, by httpoxy":      {header: http.Header{"Proxy": {"http://evil.example"}}},
		"Proxy-Authorization":    {header: http.Header{"Proxy-Authorization": {"x"}}, want: []string{"HTTP_PROXY_AUTHORIZATION=x"}},
		"an underscore":          {header: http.Header{"X_forwarded_for": {"10.0.0.1"}}},
		"both": {
			header: http.Header{"X_forwarded-For": {"10.0.0.1"}, "X-Forwarded-For": {"192.0.2.1"}},
			want:   []string{"HTTP_X_FORWARDED_FOR=192.0.2.1"},
		},
		"an underscore that would be a CGI name": {header: http.Header{"Content_type": {"x"}, "Content_length": {"9"}}},
		"Host, which is not a header in Go":      {header: http.Header{"Host": {"evil.example"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest("GET", "http://example.com/", nil)
			r.Header = c.header
			require.ElementsMatch(t, append(slices.Clone(base), c.want...), cgiEnv(r, c.length))
			require.True(t, slices.IsSorted(cgiEnv(r, c.length)))
		})
	}
	r := httptest.NewRequest("PUT", "http://example.com:8080/call/x/y?a=b%20c&a", nil)
	require.Equal(t, []string{"HTTP_HOST=example.com:8080", "QUERY_STRING=a=b%20c&a", "REQUEST_METHOD=PUT"}, cgiEnv(r, 0))
}

// What a server of net/http lets through is all that a fuzzed request may hold.
func FuzzCGI(f *testing.F) {
	for _, name := range []string{"X-Foo", "proxy", "PROXY", "Proxy", "pRoXy", "X_Foo", "Proxy-", "-Proxy", "Content-Type", "Content-Length", "Host", "Cookie"} {
		f.Add("POST", "/call/a/b?x=y", "Host: example.com\r\n"+name+": value, a=b\r\n"+name+": again\r\n", 3)
	}
	f.Add("GET", "/?HTTP_PROXY=x%00%0a", "Host: a\r\nA: b\x00\r\n", 0)
	f.Fuzz(func(t *testing.T, method, target, headers string, length int) {
		if length < 0 {
			length = 0
		}
		var env []string
		asked := false
		answer(method+" "+target+" HTTP/1.1\r\nConnection: close\r\n"+headers+"\r\n", func(_ http.ResponseWriter, r *http.Request) {
			asked, env = true, cgiEnv(r, length)
		})
		if !asked {
			return // net/http has refused it
		}
		seen := map[string]bool{}
		for _, variable := range env {
			name, _, ok := strings.Cut(variable, "=")
			switch {
			case !ok || name == "":
				t.Fatalf("%q is no variable", variable)
			case strings.ContainsAny(variable, "\x00\r\n"):
				t.Fatalf("%q holds a control character", variable)
			case strings.EqualFold(name, "HTTP_PROXY"):
				t.Fatalf("%q is given to the function", variable)
			case seen[name]:
				t.Fatalf("%q is there twice", name)
			case !strings.HasPrefix(name, "HTTP_") &&
				!slices.Contains([]string{"REQUEST_METHOD", "QUERY_STRING", "CONTENT_TYPE", "CONTENT_LENGTH"}, name):
				t.Fatalf("%q is not of CGI", variable)
			}
			seen[name] = true
		}
	})
}

// answer lets a server of net/http read the request, and returns when it has closed the connection.
func answer(request string, handler http.HandlerFunc) {
	conn := &scripted{in: strings.NewReader(request), closed: make(chan struct{})}
	listener := &oneConn{conn: conn, closed: make(chan struct{})}
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	<-conn.closed
	_ = server.Close()
	serving.Wait()
}

// scripted is a connection that a request comes out of, and then its end.
type scripted struct {
	net.Conn
	in     *strings.Reader
	once   sync.Once
	closed chan struct{}
}

func (s *scripted) Read(b []byte) (int, error)       { return s.in.Read(b) }
func (s *scripted) Write(b []byte) (int, error)      { return len(b), nil }
func (s *scripted) Close() error                     { s.once.Do(func() { close(s.closed) }); return nil }
func (s *scripted) SetDeadline(time.Time) error      { return nil }
func (s *scripted) SetReadDeadline(time.Time) error  { return nil }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }
func (s *scripted) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (s *scripted) LocalAddr() net.Addr              { return &net.UnixAddr{} }

type oneConn struct {
	conn   net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{} }
