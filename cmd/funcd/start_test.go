package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// startable are settings with which a server starts without Nomad or Consul, and more on top of them.
func startable(t *testing.T, dir, more string) *settings {
	t.Helper()
	program := filepath.Join(dir, "program") // any file
	require.NoError(t, os.WriteFile(program, []byte("x"), 0o700))
	text := fmt.Sprintf("data_dir = %q\nconsul {\n address = \"127.0.0.1:1\"\n}\nnomad {\n address = \"http://127.0.0.1:1\"\n}\n%s\n", filepath.Join(dir, "data"), more)
	if !strings.Contains(more, "http =") {
		text += "http = \"127.0.0.1:0\"\n"
	}
	if !strings.Contains(more, "runner {") {
		text += fmt.Sprintf("runner {\n path = %q\n}\n", program)
	}
	if !strings.Contains(more, "stop {") {
		text += "stop {\n drain = \"1h\"\n}\n" // which nobody waits for that has not started
	}
	s, err := load(t, text)
	require.NoError(t, err)
	return s
}

// TestAStartThatFailsSaysWhy is no parallel one: it looks for goroutines that are left.
func TestAStartThatFailsSaysWhy(t *testing.T) {
	taken, err := listenTCP("127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	address := taken.Addr().String()
	pair := writePair(t, t.TempDir(), 1)
	https := func(address, cert, key string) string {
		return fmt.Sprintf("https {\n address = %q\n cert_file = %q\n key_file = %q\n}\n", address, cert, key)
	}
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]struct {
		more    string // settings, with DIR for the test's own directory
		prepare func(t *testing.T, dir string)
		undo    func(t *testing.T, dir string)
		want    string
		time    time.Duration // after which the server is told to stop; 0 for never
	}{
		"http is another's":    {more: fmt.Sprintf("http = %q\n", address), want: fmt.Sprintf("http = %q: bind: address already in use", address)},
		"http is no address":   {more: "http = \"127.0.0.1:99999\"\n", want: `http = "127.0.0.1:99999": address 99999: invalid port`},
		"https is another's":   {more: https(address, pair.cert, pair.key), want: fmt.Sprintf("https.address = %q: bind: address already in use", address)},
		"metrics is another's": {more: fmt.Sprintf("metrics = %q\n", address), want: fmt.Sprintf("metrics = %q: bind: address already in use", address)},
		"metrics, after https": {
			more: https("127.0.0.1:0", pair.cert, pair.key) + fmt.Sprintf("metrics = %q\n", address),
			want: fmt.Sprintf("metrics = %q: bind: address already in use", address),
		},
		"the certificate is not there": {more: https("127.0.0.1:0", "DIR/none", pair.key), want: `https.cert_file = "DIR/none": no such file or directory`},
		"its key is not there":         {more: https("127.0.0.1:0", pair.cert, "DIR/none"), want: `https.key_file = "DIR/none": no such file or directory`},
		"its key is another's":         {more: https("127.0.0.1:0", pair.cert, pair.cert), want: "https.cert_file and https.key_file: "},
		"the runner is a directory":    {more: "runner {\n path = \"DIR\"\n}\n", want: `runner.path = "DIR": `},
		"the authorities are not there": {
			more: "runner {\n mode = \"http\"\n path = \"DIR/program\"\n address = \"https://127.0.0.1:1\"\n ca_file = \"DIR/none\"\n}\n",
			want: `runner.ca_file = "DIR/none": no such file or directory`,
		},
		"the socket's directory is a file": {
			more: "runner {\n path = \"DIR/program\"\n socket_dir = \"DIR/program\"\n}\n", want: `runner.socket_dir = "DIR/program": `,
		},
		"the socket's path is too long": {
			more: "runner {\n path = \"DIR/program\"\n socket_dir = \"DIR/" + strings.Repeat("x", 100) + "\"\n}\n", want: "/funcd.sock, has ",
		},
		"the socket's name is taken": {
			prepare: func(t *testing.T, dir string) {
				require.NoError(t, os.MkdirAll(filepath.Join(dir, "data", "runner", "funcd.sock", "x"), 0o700))
			},
			undo: func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(filepath.Join(dir, "data", "runner"))) },
			want: `runner.socket_dir = "DIR/data/runner": `,
		},
		"the data directory is a file": {
			prepare: func(t *testing.T, dir string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "data"), nil, 0o600))
			},
			undo: func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "data"))) },
			want: `data_dir = "DIR/data": `,
		},
		"the store is a file": {
			prepare: func(t *testing.T, dir string) {
				require.NoError(t, os.MkdirAll(filepath.Join(dir, "data"), 0o700))
				require.NoError(t, os.WriteFile(filepath.Join(dir, "data", "jetstream"), nil, 0o600))
			},
			undo: func(t *testing.T, dir string) {
				require.NoError(t, os.Remove(filepath.Join(dir, "data", "jetstream")))
			},
			want: `data_dir = "DIR/data": the store of calls can't be opened: `,
		},
		"no NATS":             {more: "nats {\n url = \"nats://me:secret@127.0.0.1:1\"\n}\n", want: "nats.url: the store of calls can't be opened: connecting to NATS: ", time: time.Second},
		"Docker by something": {more: "docker {\n host = \"ssh://127.0.0.1\"\n}\n", want: `docker.host = "ssh://127.0.0.1": `},
	} {
		t.Run(name, func(t *testing.T) {
			others := goleak.IgnoreCurrent()
			dir := t.TempDir()
			in := strings.NewReplacer("DIR", dir).Replace
			if c.prepare != nil {
				c.prepare(t, dir)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.time > 0 {
				defer time.AfterFunc(c.time, cancel).Stop()
			}
			err := serve(ctx, startable(t, dir, in(c.more)), false, func(string) string { return "" }, log)
			require.ErrorContains(t, err, in(c.want))
			require.NotContains(t, err.Error(), "secret")
			require.Regexp(t, `^[a-z.]+(_[a-z]+)?( = "|: | and )`, err.Error(), "a setting")
			goleak.VerifyNone(t, others)

			if c.undo != nil {
				c.undo(t, dir)
			}
			right := startable(t, dir, "stop {\n drain = \"0s\"\n finish = \"0s\"\n}\n")
			release, err := lockDataDir(right.DataDir)
			require.NoError(t, err)
			defer release()
			a, err := newAgent(right, false, log)
			require.NoError(t, err)
			defer a.Stop()
			require.NoError(t, a.Start(t.Context()), "what was wrong is right now")
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			resp, err := client.Get("http://" + a.http.address + "/healthz")
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusOK, resp.StatusCode)
			conn, err := net.Dial("unix", filepath.Join(right.Runner.SocketDir, "funcd.sock"))
			require.NoError(t, err)
			conn.Close()
			a.Stop()
			goleak.VerifyNone(t, others)
		})
	}
}

// A server that was never started, or whose start has failed, may be stopped, and more than once.
func TestStopBeforeStart(t *testing.T) {
	t.Parallel()
	a, err := newAgent(startable(t, t.TempDir(), ""), false, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	a.Stop()
	a.Stop()
}
