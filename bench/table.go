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
		return milliseconds(took[max(rank, 1)-1])
	}
	return Row{Name: name, Min: at(0), Median: at(0.5), P99: at(0.99)}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// print writes the tables. The ratios are of medians, to each of the two baselines in the same run.
func (r *Report) print(out io.Writer, last *Report) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(r.Rows) > 0 {
		fmt.Fprintln(w, "ms\tmin\tmedian\tp99\t× docker run\t× dispatch\tfuncd's CPU\tbefore")
	}
	docker, dispatch := r.median(rowDocker), r.median(rowDispatch)
	for _, row := range r.Rows {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%s\t%s\t%s\t%s\n", row.Name, row.Min, row.Median, row.P99, ratio(row.Median, docker),
			ratio(row.Median, dispatch), some("%.2f", row.CPU), before("%.1f", last.median(row.Name), last))
	}
	if len(r.Rates) > 0 {
		fmt.Fprintln(w, "\n\tat once\tnumber\ta second\tmedian ms\tp99 ms\tCPU ms of funcd\tNomad\tcontainers\tbefore")
	}
	for _, rate := range r.Rates {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", rate.Name, rate.Callers, rate.Count, perSecond(rate.PerSecond),
			some("%.2f", rate.Median), some("%.1f", rate.P99), some("%.2f", rate.CPU), some("%.2f", rate.NomadCPU),
			some("%.2f", rate.ContainersCPU), before(perSecondFormat(last.rate(rate.Name, rate.Callers)), last.rate(rate.Name, rate.Callers), last))
	}
	if raw := r.rate(rateRaw, quota); raw > 0 {
		fmt.Fprintf(w, "drained against raw: %.2f; in reused containers: %.2f\n", r.rate(rateDrained, quota)/raw, r.rate(rateDrainedReused, quota)/raw)
	}
	if len(r.Sizes) > 0 {
		fmt.Fprintln(w, "\n\tfunctions\tcalls\tMB of funcd\tNomad\tConsul\tms warm\treused\tfuncd's CPU\tcreate\tfuncd before")
	}
	for _, size := range r.Sizes {
		fmt.Fprintf(w, "%s\t%d\t%d\t%.0f\t%.0f\t%.0f\t%s\t%s\t%s\t%s\t%s\n", size.Name, size.Functions, size.Waiting, size.Funcd, size.Nomad, size.Consul,
			some("%.1f", size.Warm), some("%.2f", size.Reused), some("%.2f", size.CPU), some("%.1f", size.Create),
			before("%.0f", last.size(size.Name, size.Functions, size.Waiting).Funcd, last))
	}
	_ = w.Flush() // to a terminal or a file: an error would show
	if r.Noise > noisy {
		fmt.Fprintf(out, "\nThe machine is noisy: equal pieces of work differ by a factor of %.1f. Compare ratios, not times.\n", r.Noise)
	}
	if r.Busy > busyMachine {
		fmt.Fprintf(out, "\nOther programs used %.0f%% of the machine before this began. Compare ratios, not times.\n", 100*r.Busy)
	}
}

// some formats a value that may not have been measured.
func some(format string, v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

func ratio(v, to float64) string {
	if to == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f", v/to)
}

func perSecond(v float64) string { return fmt.Sprintf(perSecondFormat(v), v) }

// perSecondFormat has digits behind the point for containers, of which there are some in a second.
func perSecondFormat(v float64) string {
	if v < 100 {
		return "%.2f"
	}
	return "%.0f"
}

func before(format string, v float64, last *Report) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf(format+" (%s)", v, last.Version)
}

// A machine is called noisy from this factor on, and busy from this share on.
const (
	noisy       = 1.5
	busyMachine = 0.1
)

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

// ratio is that of the slowest to the median, 0 without any.
func (n *noise) ratio() float64 {
	if len(n.took) == 0 {
		return 0
	}
	slices.Sort(n.took)
	return float64(n.took[len(n.took)-1]) / float64(n.took[len(n.took)/2])
}
