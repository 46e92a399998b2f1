package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	testUUID   = "e62c014e-386c-42ea-8d07-41d44e98cc3d"
	testCallID = "0b9c8a52-6a0b-4a52-9f6f-0d3f1c1e7a10"
)

// serve returns a client of a server that answers with h.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	c, err := NewClient(ClientConfig{Address: server.URL, AccessKey: "AK", SecretKey: "secret"})
	require.NoError(t, err)
	return c
}

// answer returns a handler that checks the request line and answers it.
func answer(t *testing.T, request string, status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if got := r.Method + " " + r.RequestURI; got != request {
			t.Errorf("got %s, want %s", got, request)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestClientManagement(t *testing.T) {
	t.Parallel()
	created := string(readTestdata(t, "created.json"))
	var want Function
	require.NoError(t, json.Unmarshal([]byte(created), &want))
	seconds := 5
	for name, c := range map[string]struct {
		request  string
		body     string // as the server gets it, "" for none
		status   int
		answer   string
		call     func(ctx context.Context, c *Client) (any, error)
		returned any
	}{
		"create": {
			"POST /v1.23/funcs/create", `"Timeout":300,`, 201, created,
			func(ctx context.Context, c *Client) (any, error) {
				return c.CreateFunction(ctx, Function{Name: "helloworld", Config: Config{Image: "ubuntu"}})
			}, want,
		},
		"list": {
			"GET /v1.23/funcs", "", 200, "[" + created + "]",
			func(ctx context.Context, c *Client) (any, error) { return c.Functions(ctx, nil) }, []Function{want},
		},
		"list with filters": {
			"GET /v1.23/funcs?filters=%7B%22name%22%3A%7B%22a+b%22%3Atrue%2C%22c%22%3Atrue%7D%2C%22size%22%3A%7B%22s1%22%3Atrue%7D%7D", "", 200, "[]",
			func(ctx context.Context, c *Client) (any, error) {
				return c.Functions(ctx, Filters{"size": {"s1"}, "name": {"c", "a b"}})
			}, []Function{},
		},
		"get": {
			"GET /v1.23/funcs/helloworld", "", 200, created,
			func(ctx context.Context, c *Client) (any, error) { return c.Function(ctx, "helloworld") }, want,
		},
		"get with a strange name": {
			"GET /v1.23/funcs/a%2Fb%20%3Fc", "", 200, created,
			func(ctx context.Context, c *Client) (any, error) { return c.Function(ctx, "a/b ?c") }, want,
		},
		"update": {
			"PUT /v1.23/funcs/helloworld", `{"Timeout":5,"Config":{"Env":[]},"Refresh":true}`, 200, created,
			func(ctx context.Context, c *Client) (any, error) {
				u := FunctionUpdate{Timeout: &seconds, Config: &ConfigUpdate{Env: &[]string{}}, Refresh: true}
				return c.UpdateFunction(ctx, "helloworld", u)
			}, want,
		},
		"remove": {
			"DELETE /v1.23/funcs/helloworld", "", 204, "",
			func(ctx context.Context, c *Client) (any, error) { return nil, c.RemoveFunction(ctx, "helloworld") }, nil,
		},
		"remove by force": {
			"DELETE /v1.23/funcs/helloworld?force=1", "", 204, "",
			func(ctx context.Context, c *Client) (any, error) {
				return nil, c.ForceRemoveFunction(ctx, "helloworld")
			}, nil,
		},
		"the function of a call": {
			"GET /v1.23/funcs/call/" + testCallID, "", 200, created,
			func(ctx context.Context, c *Client) (any, error) { return c.FunctionOfCall(ctx, testCallID) }, want,
		},
		"version": {
			"GET /v1.23/version", "", 200, `{"Version":"1","ApiVersion":"1.23","Os":"linux"}`,
			func(ctx context.Context, c *Client) (any, error) { return c.Version(ctx) },
			VersionInfo{Version: "1", APIVersion: "1.23", Os: "linux"},
		},
		"info": {
			"GET /v1.23/info", "", 200, `{"Name":"a","NCPU":4,"MemTotal":1024,"Nodes":2}`,
			func(ctx context.Context, c *Client) (any, error) { return c.Info(ctx) },
			Info{Name: "a", NCPU: 4, MemTotal: 1024, Nodes: 2},
		},
		"an image": {
			"GET /v1.23/images/host:5000/team/image:1.0/json", "", 200, `{"Id":"sha256:a","RepoTags":["team/image:1.0"],"Os":"linux"}`,
			func(ctx context.Context, c *Client) (any, error) { return c.Image(ctx, "host:5000/team/image:1.0") },
			ImageInspect{ID: "sha256:a", RepoTags: []string{"team/image:1.0"}, OS: "linux"},
		},
		"an image by its digest": {
			"GET /v1.23/images/image@sha256:0a/json", "", 200, `{}`,
			func(ctx context.Context, c *Client) (any, error) { return c.Image(ctx, "image@sha256:0a") }, ImageInspect{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				if !strings.Contains(string(body), c.body) || c.body == "" && len(body) > 0 {
					t.Errorf("got the body %s, want %s", body, c.body)
				}
				s, err := ParseAuthorization(r.Header.Get("Authorization"))
				if err != nil {
					t.Error(err)
				}
				if err := s.Verify(r, sha256.Sum256(body), "secret", time.Now()); err != nil || s.AccessKey != "AK" || s.Region != DefaultRegion {
					t.Error(err, s)
				}
				answer(t, c.request, c.status, c.answer)(w, r)
			})
			got, err := c.call(t.Context(), client)
			require.NoError(t, err)
			require.Equal(t, c.returned, got)
		})
	}
}

// TestClientCreateIsReadable: what a client sends for the least function is what a server accepts.
func TestClientCreateIsReadable(t *testing.T) {
	t.Parallel()
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f, err := ParseFunction(body)
		if err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(f)
	})
	f, err := client.CreateFunction(t.Context(), Function{Name: "n", Config: Config{Image: "i"}})
	require.NoError(t, err)
	require.Equal(t, DefaultTimeout, f.Timeout)
	require.Equal(t, DefaultSize, f.ContainerSize)
	require.Equal(t, DefaultNetwork, f.HostConfig.NetworkMode)
}

func TestClientWithoutKeyDoesNotSign(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Authorization", DateHeader, ContentSHA256Header} {
			if r.Header.Get(name) != "" {
				t.Errorf("%s is sent", name)
			}
		}
		_, _ = io.WriteString(w, "[]")
	}))
	t.Cleanup(server.Close)
	c, err := NewClient(ClientConfig{Address: server.URL + "/", HTTPClient: server.Client()})
	require.NoError(t, err)
	_, err = c.Functions(t.Context(), nil)
	require.NoError(t, err)
}

func TestClientCall(t *testing.T) {
	t.Parallel()
	payload := "payload \x00\xff"
	header := http.Header{"X-Foo": {"bar"}, "Content-Type": {"text/x"}}
	check := func(request string, body string) *Client {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			if got, err := io.ReadAll(r.Body); err != nil || string(got) != payload || r.ContentLength != int64(len(payload)) {
				t.Errorf("got the payload %q of %d bytes, %v", got, r.ContentLength, err)
			}
			for name, want := range map[string]string{"X-Foo": "bar", "Content-Type": "text/x", "Accept-Encoding": "", "Authorization": ""} {
				if got := r.Header.Get(name); got != want {
					t.Errorf("got %s %q, want %q", name, got, want)
				}
			}
			answer(t, request, http.StatusOK, body)(w, r)
		})
	}

	id, err := check("POST /call/n/"+testUUID, `{"CallId":"`+testCallID+`"}`).Call(t.Context(), "n", testUUID, strings.NewReader(payload), header)
	require.NoError(t, err)
	require.Equal(t, testCallID, id)

	out, err := check("POST /call/n/"+testUUID+"/sync", "out \x00\xff\n").CallSync(t.Context(), "n", testUUID, strings.NewReader(payload), header)
	require.NoError(t, err)
	require.Equal(t, "out \x00\xff\n", string(out))
	require.Len(t, header, 2, "the caller's header is left alone")

	_, err = serve(t, answer(t, "POST /call/n/u", 200, `{}`)).Call(t.Context(), "n", "u", nil, nil)
	require.Equal(t, Internal, CodeOf(err))
	require.ErrorContains(t, err, "without a CallId")
	_, err = serve(t, answer(t, "POST /call/n/u", 200, `<html>`)).Call(t.Context(), "n", "u", nil, nil)
	require.Equal(t, Internal, CodeOf(err))
	require.ErrorContains(t, err, "is not the JSON that it should be")
	_, err = serve(t, answer(t, "POST /call/n/u/sync", 202, "")).CallSync(t.Context(), "n", "u", nil, nil)
	require.Equal(t, Internal, CodeOf(err), "an output must not be mistaken for an empty one")
}

func TestClientOutput(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wait   bool
		status int
		code   Code
		out    string
		state  State
	}{
		"finished":          {false, 200, "", "out", Finished},
		"finished, empty":   {false, 200, "", "", Finished},
		"waited for":        {true, 200, "", "out", Finished},
		"running":           {false, 201, "", "", Running},
		"pending":           {false, 202, "", "", Pending},
		"failed":            {true, 500, CallFailed, "", Failed},
		"timed out":         {false, 504, CallTimeout, "", Failed},
		"output too large":  {false, 509, OutputTooLarge, "", Failed},
		"expired":           {false, 410, Expired, "", ""},
		"unknown":           {false, 404, NotFound, "", ""},
		"a fault of funcd":  {false, 500, Internal, "", ""},
		"a status of later": {false, 206, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request := "GET /output/n/" + testUUID + "/" + testCallID
			if c.wait {
				request += "/wait"
			}
			client := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if c.code != "" {
					w.Header().Set(ErrorHeader, string(c.code))
					answer(t, request, c.status, "exit status 3\n")(w, r)
					return
				}
				answer(t, request, c.status, c.out)(w, r)
			})
			out, state, err := client.Output(t.Context(), "n", testUUID, testCallID, c.wait)
			require.Equal(t, c.state, state)
			require.Equal(t, c.out, string(out))
			switch {
			case c.code != "":
				require.Equal(t, c.code, CodeOf(err))
				require.EqualError(t, err, "exit status 3")
			case c.state == "":
				require.Equal(t, Internal, CodeOf(err))
			default:
				require.NoError(t, err)
			}
		})
	}
}

// TestErrorRoundTrip: every code comes out of the client as it went into the server, with the header and where the status is enough without.
func TestErrorRoundTrip(t *testing.T) {
	t.Parallel()
	methods := map[string]func(ctx context.Context, c *Client) error{
		"CreateFunction": func(ctx context.Context, c *Client) error { _, err := c.CreateFunction(ctx, Function{}); return err },
		"Functions":      func(ctx context.Context, c *Client) error { _, err := c.Functions(ctx, nil); return err },
		"Function":       func(ctx context.Context, c *Client) error { _, err := c.Function(ctx, "n"); return err },
		"UpdateFunction": func(ctx context.Context, c *Client) error {
			_, err := c.UpdateFunction(ctx, "n", FunctionUpdate{})
			return err
		},
		"RemoveFunction": func(ctx context.Context, c *Client) error { return c.RemoveFunction(ctx, "n") },
		"FunctionOfCall": func(ctx context.Context, c *Client) error { _, err := c.FunctionOfCall(ctx, "c"); return err },
		"Version":        func(ctx context.Context, c *Client) error { _, err := c.Version(ctx); return err },
		"Info":           func(ctx context.Context, c *Client) error { _, err := c.Info(ctx); return err },
		"Image":          func(ctx context.Context, c *Client) error { _, err := c.Image(ctx, "a/b"); return err },
		"PullImage":      func(ctx context.Context, c *Client) error { return c.PullImage(ctx, "a/b", nil, nil) },
		"Logs":           func(ctx context.Context, c *Client) error { return c.Logs(ctx, "n", "u", EventQuery{}, nil) },
		"Status":         func(ctx context.Context, c *Client) error { _, err := c.Status(ctx, "n", "u", true); return err },
		"Cancel":         func(ctx context.Context, c *Client) error { return c.Cancel(ctx, "n", "u", "c") },
		"Call":           func(ctx context.Context, c *Client) error { _, err := c.Call(ctx, "n", "u", nil, nil); return err },
		"CallSync":       func(ctx context.Context, c *Client) error { _, err := c.CallSync(ctx, "n", "u", nil, nil); return err },
		"Output": func(ctx context.Context, c *Client) error {
			_, _, err := c.Output(ctx, "n", "u", "c", true)
			return err
		},
	}
	for code := range statuses {
		t.Run(string(code), func(t *testing.T) {
			t.Parallel()
			for _, header := range []string{string(code), ""} {
				client := serve(t, func(w http.ResponseWriter, r *http.Request) {
					if header != "" {
						w.Header().Set(ErrorHeader, header)
					}
					w.Header().Set("Content-Type", "text/plain; charset=utf-8")
					w.WriteHeader(code.Status())
					_, _ = io.WriteString(w, "Name: \"ä\" is what is wrong\n")
				})
				want := &Error{Code: code, Message: `Name: "ä" is what is wrong`}
				if header == "" && (code == CallFailed || code == Cancelled) {
					want.Code = Internal
				}
				for name, method := range methods {
					err := method(t.Context(), client)
					require.Equal(t, want, err, name)
				}
			}
		})
	}
}

func TestClientErrorBodies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body, want string
	}{
		"none":          {"", "the server answered 404 Not Found"},
		"spaces":        {" \n", "the server answered 404 Not Found"},
		"invalid UTF-8": {"a\xffb", "a\uFFFDb"},
		"very long":     {strings.Repeat("x", 1<<20), strings.Repeat("x", maxErrorMessage)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := serve(t, answer(t, "GET /v1.23/funcs/n", 404, c.body)).Function(t.Context(), "n")
			require.Equal(t, NotFound, CodeOf(err))
			require.True(t, c.want == err.Error(), "%.100s", err)
		})
	}
}

func TestClientDoesNotFollowRedirects(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/elsewhere", http.StatusMovedPermanently)
	})
	_, err := c.Call(t.Context(), "n", "u", nil, nil)
	require.Equal(t, Internal, CodeOf(err))
}

func TestClientUnavailable(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed := "http://" + listener.Addr().String()
	require.NoError(t, listener.Close())

	hangUp := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(hangUp.Close)
	half := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "half")
	}))
	t.Cleanup(half.Close)
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0) // that the client does not trust it is what is wanted
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)

	for name, address := range map[string]string{
		"nobody listens":            closed,
		"no such socket":            "unix://" + filepath.Join(t.TempDir(), "none.sock"),
		"the connection is dropped": hangUp.URL,
		"half an answer":            half.URL,
		"an unknown certificate":    untrusted.URL,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := NewClient(ClientConfig{Address: address})
			require.NoError(t, err)
			out, state, err := c.Output(t.Context(), "n", testUUID, testCallID, false)
			require.Nil(t, out)
			require.Empty(t, state)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, Unavailable, e.Code)
			require.Equal(t, address+" does not answer", e.Message)
			require.ErrorIs(t, err, ErrNoAnswer)
			require.NotContains(t, err.Error(), testUUID, "the UUID is a secret")
		})
	}
}

func TestClientContext(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}), make(chan struct{})
	c := serve(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	})
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := c.CallSync(ctx, "n", "u", nil, nil)
	require.Equal(t, Unavailable, CodeOf(err))
	require.ErrorIs(t, err, context.Canceled)

	caused, cancelCause := context.WithCancelCause(t.Context())
	go func() {
		<-arrived
		cancelCause(errors.New("interrupt signal received"))
	}()
	_, err = c.CallSync(caused, "n", "u", nil, nil)
	require.Equal(t, Unavailable, CodeOf(err))
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "interrupt signal received")

	ctx, cancel = context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err = c.Functions(ctx, nil)
	require.Equal(t, Unavailable, CodeOf(err))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestClientBoundsAnswers(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		part := bytes.Repeat([]byte("x"), 1<<20)
		for range maxAnswer/len(part) + 1 {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
	})
	_, err := c.CallSync(t.Context(), "n", "u", nil, nil)
	require.Equal(t, TooLarge, CodeOf(err))
}

func TestClientUnixSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "funcd") // t.TempDir may be longer than a socket's path can be
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := ParseAuthorization(r.Header.Get("Authorization"))
		if err == nil {
			err = s.Verify(r, sha256.Sum256(nil), "secret", time.Now())
		}
		if err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, "[]")
	}))
	require.NoError(t, server.Listener.Close())
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	c, err := NewClient(ClientConfig{Address: "unix://" + filepath.Join(dir, "s"), AccessKey: "AK", SecretKey: "secret", Region: "r"})
	require.NoError(t, err)
	list, err := c.Functions(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, list)
}

func TestClientTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "[]") }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // a client that asks for another name hangs up
	server.StartTLS()
	t.Cleanup(server.Close)
	c, err := NewClient(ClientConfig{Address: server.URL, HTTPClient: server.Client()})
	require.NoError(t, err)
	_, err = c.Functions(t.Context(), nil)
	require.NoError(t, err)
	require.Nil(t, server.Client().CheckRedirect, "the caller's client is left alone")

	authorities := x509.NewCertPool()
	authorities.AddCert(server.Certificate())
	c, err = NewClient(ClientConfig{Address: server.URL, TLS: &tls.Config{RootCAs: authorities}})
	require.NoError(t, err)
	_, err = c.Functions(t.Context(), nil)
	require.NoError(t, err)
	c, err = NewClient(ClientConfig{Address: server.URL, TLS: &tls.Config{RootCAs: authorities, ServerName: "other.example"}})
	require.NoError(t, err)
	_, err = c.Functions(t.Context(), nil)
	require.ErrorContains(t, err, "other.example")
	require.ErrorIs(t, err, ErrNoAnswer)
}

func TestNewClientRefuses(t *testing.T) {
	t.Parallel()
	const address = "http://127.0.0.1:3862"
	for field, configs := range map[string][]ClientConfig{
		"Address": {
			{Address: ""}, {Address: "127.0.0.1:3862"}, {Address: "localhost"}, {Address: "http://"}, {Address: "ftp://a"}, {Address: "http://a/b"},
			{Address: "http://a?b"}, {Address: "http://u:p@a"}, {Address: "http://a:port"}, {Address: "unix://a/b"}, {Address: "unix:a"}, {Address: "unix://"},
		},
		"SecretKey": {{Address: address, AccessKey: "AK"}},
		"AccessKey": {{Address: address, AccessKey: "A K", SecretKey: "s"}, {Address: address, AccessKey: "A/K", SecretKey: "s"}},
		"Region":    {{Address: address, Region: "a/b"}, {Address: address, Region: "a,b"}, {Address: address, Region: "ä"}},
	} {
		for _, cfg := range configs {
			_, err := NewClient(cfg)
			requireInvalid(t, err, field+":", "")
		}
	}
}

func TestClientRefusesPathsThatMeanAnother(t *testing.T) {
	t.Parallel()
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Error(fmt.Sprint("got ", r.RequestURI)) })
	for _, name := range []string{"", ".", ".."} {
		require.Equal(t, Invalid, CodeOf(c.RemoveFunction(t.Context(), name)))
		_, err := c.Call(t.Context(), "n", name, nil, nil)
		require.Equal(t, Invalid, CodeOf(err))
		_, _, err = c.Output(t.Context(), "n", "u", name, false)
		require.Equal(t, Invalid, CodeOf(err))
	}
}
