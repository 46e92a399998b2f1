package consul

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	consul "github.com/hashicorp/consul/api"
)

// fake speaks as much of Consul's HTTP API as this package uses. The suite that it passes is run on a real Consul too.
type fake struct {
	*httptest.Server

	mu       sync.Mutex
	index    uint64
	keys     map[string]*consul.KVPair
	deleted  map[string]uint64 // tombstones
	sessions map[string]bool
	services map[string]*consul.AgentServiceRegistration
	changed  chan struct{} // closed and replaced at each change

	// answer may answer a request in the fake's place, and then returns true. It is called without mu.
	answer   func(http.ResponseWriter, *http.Request) bool
	answers  int      // counts changes of answer, at each of which blocking queries time out
	requests []string // method and path of each request
}

func newFake(t *testing.T) *fake {
	f := &fake{
		index: 10, keys: map[string]*consul.KVPair{}, deleted: map[string]uint64{}, sessions: map[string]bool{},
		services: map[string]*consul.AgentServiceRegistration{}, changed: make(chan struct{}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/kv/{key...}", f.get)
	mux.HandleFunc("PUT /v1/kv/{key...}", f.lock)
	mux.HandleFunc("PUT /v1/txn", f.txn)
	mux.HandleFunc("PUT /v1/session/{verb}", f.session)
	mux.HandleFunc("PUT /v1/session/{verb}/{id}", f.session)
	mux.HandleFunc("PUT /v1/agent/service/register", f.register)
	mux.HandleFunc("PUT /v1/agent/service/deregister/{id}", f.service)
	mux.HandleFunc("GET /v1/agent/service/{id}", f.service)
	mux.HandleFunc("GET /v1/health/service/{name}", f.health)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests = append(f.requests, r.Method+" "+r.URL.Path)
		answer := f.answer
		f.mu.Unlock()
		if answer == nil || !answer(w, r) {
			mux.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(f.Close)
	return f
}

// answering sets f.answer.
func (f *fake) answering(answer func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
	f.answers++
	f.change()
}

// count returns how many requests there were whose method and path hold text.
func (f *fake) count(text string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if strings.Contains(r, text) {
			n++
		}
	}
	return n
}

// set writes a key by hand.
func (f *fake) set(key, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index++
	f.keys[key] = &consul.KVPair{Key: key, Value: []byte(value), ModifyIndex: f.index}
	f.change()
}

// restore sets the index back and each key's with it, as a restored snapshot does.
func (f *fake) restore(index uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index, f.deleted = index, map[string]uint64{}
	for _, pair := range f.keys {
		pair.ModifyIndex = min(pair.ModifyIndex, index)
	}
	f.change()
}

func (f *fake) change() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fake) get(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	after, _ := strconv.ParseUint(query.Get("index"), 10, 64)
	wait, err := time.ParseDuration(query.Get("wait"))
	if err != nil {
		wait = 5 * time.Minute
	}
	timeout := time.After(wait)
	f.mu.Lock()
	defer f.mu.Unlock()
	answers := f.answers
	for {
		pairs, index := f.look(r.PathValue("key"), query.Has("recurse"))
		select {
		case <-timeout:
		default:
			if after != 0 && index == after && answers == f.answers {
				changed := f.changed
				f.mu.Unlock()
				select {
				case <-changed:
				case <-timeout:
					timeout = time.After(0)
				case <-r.Context().Done():
				}
				f.mu.Lock()
				if r.Context().Err() == nil {
					continue
				}
			}
		}
		w.Header().Set("X-Consul-Index", strconv.FormatUint(index, 10))
		if len(pairs) == 0 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(pairs)
		return
	}
}

// look returns what is at key, or under it, and the index that Consul would give.
func (f *fake) look(key string, recurse bool) ([]*consul.KVPair, uint64) {
	if !recurse {
		if pair, ok := f.keys[key]; ok {
			return []*consul.KVPair{pair}, pair.ModifyIndex
		}
		return nil, f.index
	}
	var pairs []*consul.KVPair
	var index uint64
	for k, pair := range f.keys {
		if strings.HasPrefix(k, key) {
			pairs, index = append(pairs, pair), max(index, pair.ModifyIndex)
		}
	}
	for k, at := range f.deleted {
		if strings.HasPrefix(k, key) {
			index = max(index, at)
		}
	}
	slices.SortFunc(pairs, func(a, b *consul.KVPair) int { return cmp.Compare(a.Key, b.Key) })
	return pairs, cmp.Or(index, f.index)
}

func (f *fake) txn(w http.ResponseWriter, r *http.Request) {
	var ops consul.TxnOps
	if err := json.NewDecoder(r.Body).Decode(&ops); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var answer consul.TxnResponse
	for i, op := range ops {
		var index uint64
		if pair, ok := f.keys[op.KV.Key]; ok {
			index = pair.ModifyIndex
		}
		checks := op.KV.Verb == consul.KVCAS || op.KV.Verb == consul.KVCheckIndex
		if checks && (index != op.KV.Index || op.KV.Verb == consul.KVCheckIndex && index == 0) {
			answer.Errors = append(answer.Errors, &consul.TxnError{OpIndex: i, What: fmt.Sprintf("key %q, index is stale", op.KV.Key)})
		}
	}
	if answer.Errors != nil {
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(answer)
		return
	}
	f.index++
	for _, op := range ops {
		switch op.KV.Verb {
		case consul.KVCAS:
			f.keys[op.KV.Key] = &consul.KVPair{Key: op.KV.Key, Value: op.KV.Value, ModifyIndex: f.index}
			answer.Results = append(answer.Results, &consul.TxnResult{KV: &consul.KVPair{Key: op.KV.Key, ModifyIndex: f.index}})
		case consul.KVDelete:
			if _, ok := f.keys[op.KV.Key]; ok {
				delete(f.keys, op.KV.Key)
				f.deleted[op.KV.Key] = f.index
			}
		}
	}
	f.change()
	_ = json.NewEncoder(w).Encode(answer)
}

// lock does what ?acquire= and ?release= do.
func (f *fake) lock(w http.ResponseWriter, r *http.Request) {
	key, query := r.PathValue("key"), r.URL.Query()
	f.mu.Lock()
	defer f.mu.Unlock()
	holder := ""
	if pair, ok := f.keys[key]; ok {
		holder = pair.Session
	}
	session, ok := query.Get("acquire"), false
	if session != "" {
		ok = f.sessions[session] && (holder == "" || holder == session)
	} else if ok = holder == query.Get("release"); ok {
		session = ""
	}
	if ok {
		f.index++
		f.keys[key] = &consul.KVPair{Key: key, Session: session, ModifyIndex: f.index}
		f.change()
	}
	_, _ = io.WriteString(w, strconv.FormatBool(ok))
}

func (f *fake) session(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch id := r.PathValue("id"); r.PathValue("verb") {
	case "create":
		id = uuid.NewString()
		f.sessions[id] = true
		_ = json.NewEncoder(w).Encode(map[string]string{"ID": id})
	case "renew":
		if !f.sessions[id] {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode([]consul.SessionEntry{{ID: id, TTL: sessionTTL.String()}})
	case "destroy":
		delete(f.sessions, id)
		for key, pair := range f.keys {
			if pair.Session == id {
				f.index++
				f.keys[key] = &consul.KVPair{Key: key, ModifyIndex: f.index}
			}
		}
		f.change()
		_, _ = io.WriteString(w, "true")
	}
}

func (f *fake) register(_ http.ResponseWriter, r *http.Request) {
	var s consul.AgentServiceRegistration
	_ = json.NewDecoder(r.Body).Decode(&s)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.services[s.ID] = &s
}

func (f *fake) service(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.services[r.PathValue("id")]
	switch {
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodPut:
		delete(f.services, s.ID)
	default:
		_ = json.NewEncoder(w).Encode(consul.AgentService{ID: s.ID, Service: s.Name, Address: s.Address, Port: s.Port, Tags: s.Tags})
	}
}

func (f *fake) health(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	entries := []*consul.ServiceEntry{}
	for _, s := range f.services {
		if s.Name != r.PathValue("name") {
			continue
		}
		e := &consul.ServiceEntry{
			Node:    &consul.Node{Address: "127.0.0.1"},
			Service: &consul.AgentService{ID: s.ID, Service: s.Name, Address: s.Address, Port: s.Port, Tags: s.Tags, Meta: s.Meta},
		}
		if s.Check != nil {
			e.Checks = consul.HealthChecks{{Status: s.Check.Status}}
		}
		entries = append(entries, e)
	}
	_ = json.NewEncoder(w).Encode(entries)
}
