package main

import (
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

// summarize sorts the durations and takes their smallest, middle and 99th percentile, by the nearest rank.
func summarize(name string, took []time.Duration) Row {
	slices.Sort(took)
	at := func(q float64) float64 {
		rank := int(math.Ceil(q * float64(len(took))))
		return float64(took[max(rank, 1)-1]) / float64(time.Millisecond)
	}
	return Row{Name: name, Min: at(0), Median: at(0.5), P99: at(0.99)}
}

// print writes the table. The ratios are of medians, to each of the two baselines in the same run.
func (r *Report) print(out io.Writer, last *Report) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ms\tmin\tmedian\tp99\t× docker run\t× dispatch\tbefore")
	docker, dispatch := r.median(rowDocker), r.median(rowDispatch)
	for _, row := range r.Rows {
		before := "-"
		if last != nil && last.median(row.Name) > 0 {
			before = fmt.Sprintf("%.1f (%s)", last.median(row.Name), last.Version)
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f\t%s\n", row.Name, row.Min, row.Median, row.P99,
			row.Median/docker, row.Median/dispatch, before)
	}
	fmt.Fprintln(w, "\n\tcallers\ta second\tmedian ms\tp99 ms")
	for _, rate := range r.Rates {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.1f\t%.1f\n", rate.Name, rate.Callers, rate.PerSecond, rate.Median, rate.P99)
	}
	_ = w.Flush() // to a terminal or a file: an error would show
	if r.Noise > noisy {
		fmt.Fprintf(out, "\nThe machine is noisy: equal pieces of work differ by a factor of %.1f. Compare ratios, not times.\n", r.Noise)
	}
}

func (r *Report) median(name string) float64 {
	for _, row := range r.Rows {
		if row.Name == name {
			return row.Median
		}
	}
	return 0
}

// noisy is the factor from which on a machine is called noisy.
const noisy = 1.5

// noise measures how equal the machine is to itself.
type noise struct{ took []time.Duration }

// probe does a fixed piece of work of some milliseconds.
func (n *noise) probe() {
	start := time.Now()
	x := uint64(1)
	for range 5_000_000 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	runtime.KeepAlive(x) // keeps the compiler from leaving the work out
	n.took = append(n.took, time.Since(start))
}

func (n *noise) ratio() float64 {
	slices.Sort(n.took)
	return float64(n.took[len(n.took)-1]) / float64(n.took[len(n.took)/2])
}
