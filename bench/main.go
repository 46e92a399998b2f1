// bench measures funcd against what its users have without it, side by side in one run on a stack of its own: every round does each
// measurement once, so that all see the same machine. It prints a table and keeps the results as JSON, by version.
//
//	make bench              or: go run ./bench -rounds 50
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	rounds := flag.Int("rounds", 20, "how often each measurement is made")
	results := flag.String("results", "bench/results", "folder of the kept results")
	flag.Parse()
	if err := run(ctx, *rounds, *results, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds int, folder string, out io.Writer) (err error) {
	if rounds < 1 {
		return errors.New("-rounds must be at least 1")
	}
	fmt.Fprintln(out, "starting a stack of its own")
	s, err := startStack(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	rows, err := measurements(ctx, s)
	if err != nil {
		return err
	}
	report := Report{Version: s.version, Time: time.Now().UTC(), Rounds: rounds}
	var noise noise
	for round := range rounds + 1 {
		noise.probe()
		for i, row := range rows {
			took, err := row.once(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", row.name, err)
			}
			if round > 0 { // the first warms up
				rows[i].took = append(rows[i].took, took)
			}
		}
		fmt.Fprintf(out, "\rround %d of %d", round, rounds)
	}
	fmt.Fprintln(out)
	for _, row := range rows {
		report.Rows = append(report.Rows, summarize(row.name, row.took))
	}
	if report.Rates, err = rates(ctx, s); err != nil {
		return err
	}
	report.Noise = noise.ratio()
	last, err := readLast(folder)
	if err != nil {
		return err
	}
	report.print(out, last)
	return report.keep(folder)
}

// Report is the result of one run.
type Report struct {
	Version string
	Time    time.Time
	Rounds  int
	Noise   float64 // the slowest of equal pieces of work against their median
	Rows    []Row
	Rates   []Rate
}

// Rate is how often something is done with a number of callers at once.
type Rate struct {
	Name      string
	Callers   int
	PerSecond float64
	Median    float64 // of one, in milliseconds
	P99       float64
}

// Row is the summary of one measurement, in milliseconds.
type Row struct {
	Name             string
	Min, Median, P99 float64
}

func (r *Report) keep(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, r.Version+".json"), append(text, '\n'), 0o644)
}

// readLast returns the newest result that was kept, nil if there is none.
func readLast(folder string) (*Report, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, err
	}
	var last *Report
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var r Report
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if last == nil || r.Time.After(last.Time) {
			last = &r
		}
	}
	return last, nil
}
