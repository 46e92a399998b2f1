package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/calls"
	"github.com/funcd/funcd/httpapi"
	"github.com/funcd/funcd/scheduler"
)

// oneFunction is a directory with one function.
type oneFunction struct {
	httpapi.Directory
	d api.Definition
}

func (o oneFunction) ByUUID(context.Context, string) (api.Definition, error) { return o.d, nil }

// countedWaits counts who waits for a call.
type countedWaits struct {
	*scheduler.Scheduler
	waiting atomic.Int64
}

func (c *countedWaits) Output(ctx context.Context, d *api.Definition, call string, wait bool) (api.Record, []byte, error) {
	c.waiting.Add(1)
	return c.Scheduler.Output(ctx, d, call, wait)
}

// TestThousandsWhoWaitAreCheap connects a thousand followers of logs and a thousand who wait for calls, all at once: docs/ARCHITECTURE.md says what
// they may cost.
func TestThousandsWhoWaitAreCheap(t *testing.T) {
	const each, bound = 1000, 100 << 20
	log := slog.New(slog.DiscardHandler)
	store, err := calls.Open(t.Context(), calls.Config{Dir: t.TempDir(), Logger: log})
	require.NoError(t, err)
	defer store.Close()
	f := api.Definition{ID: "0123456789abcdef0123456789abcdef", Account: "acme", Function: api.Function{Name: "hello", UUID: uuid.NewString()}}
	waits := &countedWaits{Scheduler: scheduler.New(scheduler.Config{Queue: queue{store}, Records: store, Messages: store, Logger: log})}
	handlers := httpapi.New(httpapi.Config{
		Directory: oneFunction{d: f}, Calls: waits, Logs: store, States: store, MaxBody: mebibyte, BodyTime: time.Minute, Logger: log,
	})
	listener, err := listenTCP("127.0.0.1:0")
	require.NoError(t, err)
	a := serving(t, "")
	server := a.serve(a.bound(listener), handlers.Handler(false), nil)
	defer a.running.Wait()
	defer server.stop(log, 0)

	path := "/" + f.Function.Name + "/" + f.Function.UUID
	call := func() string {
		id := uuid.NewString()
		require.NoError(t, store.Enqueue(t.Context(), &api.Call{ID: id, Function: f.ID, Account: f.Account, Payload: []byte("hello")}))
		store.Log(t.Context(), f.ID, api.Event{CallID: id, Event: api.Called, ShortStdin: strings.Repeat("x", api.ShortLength)})
		return id
	}
	connect := func(request string) net.Conn {
		conn, err := net.Dial("tcp", server.address)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(2*time.Minute)))
		_, err = io.WriteString(conn, request)
		require.NoError(t, err)
		return conn
	}
	// What is made once is not counted.
	first := call()
	connect("GET /logs" + path + "?follow=1 HTTP/1.1\r\nHost: funcd\r\n\r\n")
	before := inUse()

	ids := []string{first}
	for range 99 {
		ids = append(ids, call())
	}
	var followers, waiters []net.Conn
	for i := range each {
		upgrade := ""
		if i%2 == 0 {
			upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
		}
		followers = append(followers, connect("GET /logs"+path+"?follow=1&tail=0 HTTP/1.1\r\nHost: funcd\r\n"+upgrade+"\r\n"))
		waiters = append(waiters, connect("GET /output"+path+"/"+ids[i%len(ids)]+"/wait HTTP/1.1\r\nHost: funcd\r\n\r\n"))
	}
	readers := make([]*http.Response, each)
	for i, conn := range followers {
		readers[i], err = http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return waits.waiting.Load() == each }, time.Minute, 10*time.Millisecond)
	taken := int64(inUse()) - int64(before)
	t.Logf("%d followers and %d who wait take %.1f MiB, with their clients and the calls", each, each, float64(taken)/(1<<20))
	require.Less(t, taken, int64(bound))

	// They are all there: an event reaches each follower, and each call's end those who wait for it.
	for _, id := range ids {
		_, err := store.SaveRecord(t.Context(), api.Record{CallID: id, Function: f.ID, Account: f.Account, State: api.Failed, Code: api.CallFailed, Message: "exit status 3"}, 0)
		require.NoError(t, err)
		store.NotifyEnd(f.ID, id)
	}
	answers := map[int]int{}
	for _, conn := range waiters {
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		answers[resp.StatusCode]++
		resp.Body.Close()
	}
	require.GreaterOrEqual(t, answers[http.StatusInternalServerError], len(ids))
	require.Equal(t, each, answers[http.StatusInternalServerError]+answers[http.StatusNotFound], "fetched once, gone for those who come later")
	store.Log(t.Context(), f.ID, api.Event{CallID: first, Event: string(api.Failed), Message: "the end"})
	for i, resp := range readers {
		var body io.Reader = resp.Body
		if resp.StatusCode == http.StatusSwitchingProtocols {
			body = followers[i]
		}
		line, err := bufio.NewReaderSize(body, 16).ReadString('\n')
		require.NoError(t, err, "follower %d", i)
		require.Contains(t, line, "the end")
	}
}

// inUse is how many bytes of heap and stacks the program uses.
func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
