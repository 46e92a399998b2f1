package main

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/funcd/funcd/api"
)

// receiver takes the callbacks of the workload. Nothing is done to it: it is outside of what is killed.
type receiver struct {
	server  http.Server
	address string
	serving sync.WaitGroup

	mu      sync.Mutex
	secrets map[string]string     // by function
	got     map[string][]callback // by call
	wrong   []string
}

// callback is what the receiver was told of a call.
type callback struct {
	state api.State
	body  string
}

func newReceiver() (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &receiver{address: l.Addr().String(), secrets: map[string]string{}, got: map[string][]callback{}}
	r.server.Handler = http.HandlerFunc(r.take)
	r.serving.Go(func() { _ = r.server.Serve(l) })
	return r, nil
}

func (r *receiver) take(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender was killed
	}
	function, id := req.Header.Get(api.CallbackFunctionHeader), req.Header.Get(api.CallbackCallHeader)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := api.VerifyCallback(r.secrets[function], req.Header, body, time.Now()); err != nil {
		r.wrong = append(r.wrong, "the callback of "+id+": "+err.Error())
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	r.got[id] = append(r.got[id], callback{api.State(req.Header.Get(api.CallbackStateHeader)), strings.TrimSpace(string(body))})
}

// knows has the receiver accept the callbacks of a function.
func (r *receiver) knows(f api.Function) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets[f.Name] = f.CallbackSecret
}

// of returns the callbacks of a call.
func (r *receiver) of(id string) []callback {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got[id]
}

// refused tells of requests that were not right.
func (r *receiver) refused() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wrong
}

func (r *receiver) stop() {
	_ = r.server.Close()
	r.serving.Wait()
}
