package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkStart measures how long the runner takes from its start to its first request, as it is built for containers, beside what any
// program takes: an empty one in Go until it has ended. Medians, as a machine that does something else for a moment says nothing of either.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	runner := build(b, dir, "runner", ".")
	require.NoError(b, os.WriteFile(filepath.Join(dir, "empty.go"), []byte("package main\n\nfunc main() {}\n"), 0o600))
	empty := build(b, dir, "empty", filepath.Join(dir, "empty.go"))

	asked := make(chan struct{}, 1)
	socket, err := net.Listen("unix", filepath.Join(dir, "socket"))
	require.NoError(b, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		w.WriteHeader(http.StatusGone)
	})}
	go func() { _ = server.Serve(socket) }()
	defer server.Close()
	env := []string{"FUNCD_ADDRESS=unix://" + socket.Addr().String(), "NOMAD_TOKEN_funcd=token"}

	var starts, baseline []time.Duration
	for b.Loop() {
		began := time.Now()
		require.NoError(b, exec.CommandContext(context.Background(), empty).Run())
		baseline = append(baseline, time.Since(began))

		cmd := exec.CommandContext(context.Background(), runner)
		cmd.Env = env
		began = time.Now()
		require.NoError(b, cmd.Start())
		<-asked
		starts = append(starts, time.Since(began))
		require.NoError(b, cmd.Wait())
	}
	slices.Sort(starts)
	slices.Sort(baseline)
	b.ReportMetric(0, "ns/op") // of both together
	b.ReportMetric(float64(starts[len(starts)/2].Microseconds()), "µs/start")
	b.ReportMetric(float64(baseline[len(baseline)/2].Microseconds()), "µs/empty")
}

func build(b *testing.B, dir, name, what string) string {
	b.Helper()
	file := filepath.Join(dir, name)
	cmd := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, what)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	output, err := cmd.CombinedOutput()
	require.NoError(b, err, "%s", output)
	return file
}
