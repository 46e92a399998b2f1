package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"testing"

	"github.com/funcd/funcd/api"
)

// FuzzHandler sends what it may to the whole surface, with all that is behind it well: whatever comes is answered as the document says, without a
// panic, a fault, or more read of a body than its limit.
func FuzzHandler(f *testing.F) {
	for _, path := range []string{
		"/funcs", "/funcs/create", "/funcs/hello", "/funcs/hello/job", "/v1.23/funcs", "/v1.24/funcs", "/version", "/info", callPath, callPath + "/sync", outputPath,
		outputPath + "/wait", callPath + "/" + testCall, "/funcs/call/" + testCall, logsPath + "?tail=3&callid=" + testCall, logsPath + "?follow=1",
		statusPath + "?list=1", "/healthz", "/readyz", "/openapi.json", nextPath, "/runner/v1/result", "/runner/v1/funcd-runner", "//call/%2e%2e/x",
		"/funcs?filters=%7B%7D", "/images/r.example:5000%2Fa/b@sha256:0/json", "/images/create?fromImage=a&tag=b", "/v1.23/images/%zz/json",
	} {
		f.Add("GET", path, "Accept: application/json\n", []byte(nil))
		f.Add("POST", path, "Authorization: Bearer "+goodToken+"\nIdempotency-Key: a\n", []byte(createBody+"\n"))
		f.Add("PUT", path, "Authorization: HYPER-HMAC-SHA256 Credential=a/20260101/r/hyper/hyper_request, SignedHeaders=host, Signature=00\nX-Hyper-Date: 20260101T000000Z\n", []byte("{}"))
		f.Add("DELETE", path, "Connection: Upgrade\nUpgrade: tcp\nX-Registry-Auth: e30=\nProxy: x\n", []byte(`{"Timeout":-1}`))
		f.Add("GET", path, "Transfer-Encoding: chunked\nOrigin: http://other.example\nHost: other.example\n", bytes.Repeat([]byte("x"), 2000))
	}
	cfg := testConfig(newBackend())
	cfg.Jobs, cfg.RunnerArchive, cfg.MaxBody, cfg.MaxOutput = fakeJobs{}, []byte("archive"), 1<<10, 1<<10
	handler := New(cfg).Handler(true)
	f.Fuzz(func(t *testing.T, method, path, headers string, body []byte) {
		// What would wait for more events ends with its client.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		sent := bytes.NewReader(body)
		req, err := http.NewRequestWithContext(ctx, method, "http://127.0.0.1:3862/"+strings.TrimPrefix(path, "/"), sent)
		if err != nil || req.URL.Path == "" {
			t.Skip("net/http refuses it")
		}
		header, err := textproto.NewReader(bufio.NewReader(strings.NewReader(headers + "\r\n\r\n"))).ReadMIMEHeader()
		if err != nil && !errors.Is(err, io.EOF) {
			t.Skip("net/http refuses it")
		}
		req.Header = http.Header(header)
		if req.Header.Get("Transfer-Encoding") != "" {
			req.ContentLength = -1
		}
		w := &recorder{header: http.Header{}}
		answerTo(handler, w, req)
		if w.status == 0 {
			w.status = http.StatusOK // as net/http does
		}
		if w.status >= 500 {
			// The one fault that a request can cause here: this connection can't be upgraded.
			if !strings.EqualFold(req.Header.Get("Upgrade"), "tcp") && req.Header.Get("Upgrade") != api.RunnerUpgrade {
				t.Fatalf("%s %q: status %d: %s", method, path, w.status, w.body.String())
			}
			return
		}
		// bufio reads ahead, and a runner's result has a head.
		if read := len(body) - sent.Len(); read > 8<<10 && !strings.HasPrefix(req.URL.Path, "/runner/") {
			t.Fatalf("%s %q: %d bytes of the body were read", method, path, read)
		}
		if w.body.Len() > 128<<10 {
			t.Fatalf("%s %q: %d bytes of an answer", method, path, w.body.Len())
		}
		if strings.HasPrefix(req.URL.EscapedPath(), "/runner/") {
			return
		}
		check, err := document.Check(req.Method, req.URL.EscapedPath(), &http.Response{StatusCode: w.status, Header: w.header})
		if err == nil && check != nil {
			err = check(w.body.Bytes(), true)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

// answerTo has the handler answer as net/http does, for which an answer that broke off is one too.
func answerTo(handler http.Handler, w http.ResponseWriter, r *http.Request) {
	defer func() {
		if reason := recover(); reason != nil && reason != http.ErrAbortHandler { //nolint:errorlint // as net/http has it
			panic(reason)
		}
	}()
	handler.ServeHTTP(w, r)
}

// FuzzLogs: a query is refused, or asks for what the store of events can be asked for.
func FuzzLogs(f *testing.F) {
	for _, query := range []string{
		"", "tail=all", "tail=3", "tail=-1", "tail=9223372036854775808", "tail=1&tail=x", "callid=" + testCall, "callid=" + strings.ToUpper(testCall), "callid=x",
		"follow=1", "follow=True&tail=0", "follow=no", "tail=%zz", "a;b=c", "callid=%00",
	} {
		f.Add(query)
	}
	b := newBackend()
	handler := New(testConfig(b)).Handler(false)
	f.Fuzz(func(t *testing.T, query string) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		b.query = api.EventQuery{Tail: -2}
		w := &recorder{header: http.Header{}}
		answerTo(handler, w, (&http.Request{Method: http.MethodGet, URL: &url.URL{Path: logsPath, RawQuery: query}, Host: "funcd", Header: http.Header{}}).WithContext(ctx))
		switch {
		case w.status == http.StatusBadRequest && api.Code(w.header.Get(api.ErrorHeader)) == api.Invalid && b.query.Tail == -2:
		case w.status == http.StatusOK && b.query.Tail >= -1 && (b.query.Call == "" || api.ValidUUID(b.query.Call)):
		default:
			t.Fatalf("%q: status %d, %+v: %s", query, w.status, b.query, w.body.String())
		}
	})
}
