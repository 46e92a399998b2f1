package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// samples are what /metrics of one funcd said, one after another.
type samples map[string][]float64

// What a soak looks at, and how much of it a server may have more of in the last quarter than in the third: a share, and a margin for what
// comes and goes.
var flat = []struct {
	metric string
	share  float64
	margin float64
	unit   float64 // of a printed figure
	name   string
}{
	{"process_resident_memory_bytes", 0.05, 4 << 20, 1 << 20, "MB resident"},
	{"go_goroutines", 0.02, 10, 1, "goroutines"},
	{"process_open_fds", 0.02, 10, 1, "open files"},
}

// samplePause is the time between two samples.
const samplePause = 5 * time.Second

// soak lets the workload run without faults for the time, and samples what the servers use.
func (s *stack) soak(ctx context.Context, duration time.Duration) ([]samples, error) {
	all := make([]samples, len(s.metrics))
	for i := range all {
		all[i] = samples{}
	}
	tick := time.NewTicker(samplePause)
	defer tick.Stop()
	end := time.After(duration)
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-end:
			return all, nil
		case <-tick.C:
		}
		for i, url := range s.metrics {
			text, err := get(url)
			if err != nil {
				return nil, err
			}
			values := parseMetrics(strings.NewReader(text))
			for _, f := range flat {
				all[i][f.metric] = append(all[i][f.metric], values[f.metric])
			}
			s.note("%s: %.0f MB, %.0f goroutines, %.0f files, calls %.0f waiting, %.0f running, %.0f ended", s.funcd[i].name,
				values["process_resident_memory_bytes"]/(1<<20), values["go_goroutines"], values["process_open_fds"], values[`funcd_calls{state="PENDING"}`],
				values[`funcd_calls{state="RUNNING"}`], values[`funcd_calls{state="FINISHED"}`]+values[`funcd_calls{state="FAILED"}`])
		}
	}
}

// parseMetrics reads what Prometheus reads. Lines that hold no number are left out.
func parseMetrics(r io.Reader) map[string]float64 {
	values := map[string]float64{}
	for lines := bufio.NewScanner(r); lines.Scan(); {
		name, number, ok := strings.Cut(lines.Text(), " ")
		if value, err := strconv.ParseFloat(number, 64); ok && err == nil {
			values[name] = value
		}
	}
	return values
}

// growth tells what has grown from the third quarter to the last, and prints all of it.
func growth(w io.Writer, server string, s samples) []string {
	var grown []string
	for _, f := range flat {
		values := s[f.metric]
		quarter := len(values) / 4
		if quarter == 0 {
			return []string{server + ": there are not enough samples"}
		}
		var medians []float64
		for q := range 4 {
			medians = append(medians, median(values[q*quarter:(q+1)*quarter]))
		}
		text := fmt.Sprintf("%s: %s by quarters: %.0f, %.0f, %.0f, %.0f; at most %.0f", server, f.name,
			medians[0]/f.unit, medians[1]/f.unit, medians[2]/f.unit, medians[3]/f.unit, slices.Max(values)/f.unit)
		fmt.Fprintln(w, text)
		if medians[3] > medians[2]*(1+f.share)+f.margin {
			grown = append(grown, "it grows: "+text)
		}
	}
	return grown
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
