// bench measures funcd against what its users have without it, side by side in one run on stacks of its own: what is compared is done in
// turn, so that all see the same machine. It prints tables and keeps the results as JSON, by version.
//
//	make bench              or: scripts/bench -rounds 50
//	make bench ROWS=cold,warm
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options says what is measured.
type options struct {
	rows    []string
	rounds  int
	results string
	drained int // calls of the row of this name, as of the two that follow
	defined int
	waiting int
}

// The rows, in their order.
var rowNames = []string{"docker", "dispatch", "cold", "warm", "reused", "callers", "drained", "functions", "accepted", "waiting"}

// only the first ones are a measurement in each round.
const inRounds = 5

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	rows := flags.String("rows", "", "only these, separated by commas, of "+strings.Join(rowNames, ", ")+"; the result is not kept then")
	flags.StringVar(&o.results, "results", "bench/results", "folder of the kept results")
	flags.IntVar(&o.rounds, "rounds", 20, "how often docker, dispatch, cold, warm and reused are measured")
	flags.IntVar(&o.drained, "drained", 1000, "calls that are queued and drained, and raw dispatches that they are compared with")
	flags.IntVar(&o.defined, "functions", 5000, "functions that are defined")
	flags.IntVar(&o.waiting, "waiting", 100_000, "calls that wait in the queue")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if *rows != "" {
		o.rows = strings.Split(*rows, ",")
	}
	for _, row := range o.rows {
		if !slices.Contains(rowNames, row) {
			return o, fmt.Errorf("-rows: %q is none of %s", row, strings.Join(rowNames, ", "))
		}
	}
	if min(o.rounds, o.drained, o.defined, o.waiting) < 1 || flags.NArg() > 0 {
		return o, errors.New("there must be at least 1 of everything, and no argument beside the flags")
	}
	return o, nil
}

// wants tells whether one of the rows is to be measured.
func (o *options) wants(rows ...string) bool {
	return len(o.rows) == 0 || slices.ContainsFunc(rows, func(row string) bool { return slices.Contains(o.rows, row) })
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	last, err := readLast(o.results)
	if err != nil {
		return err
	}
	report := &Report{Time: time.Now().UTC(), Rounds: o.rounds}
	if report.Busy, err = busy(func() { time.Sleep(rest) }); err != nil {
		return err
	}
	var noise noise
	for _, part := range []struct {
		wanted  bool
		measure func(ctx context.Context, s *stack) error
	}{
		{o.wants(rowNames[:inRounds]...), func(ctx context.Context, s *stack) error { return report.rounds(ctx, s, &o, &noise, out) }},
		{o.wants("callers"), func(ctx context.Context, s *stack) error { return report.callers(ctx, s, &noise) }},
		{o.wants("drained"), func(ctx context.Context, s *stack) error { return report.drained(ctx, s, &o, &noise, out) }},
		{o.wants("functions"), func(ctx context.Context, s *stack) error { return report.functions(ctx, s, &o, &noise, out) }},
		{o.wants("accepted", "waiting"), func(ctx context.Context, s *stack) error { return report.queued(ctx, s, &o, &noise, out) }},
	} {
		if !part.wanted {
			continue
		}
		if report.Version, err = withStack(ctx, out, part.measure); err != nil {
			return err
		}
	}
	report.Noise = noise.ratio()
	report.print(out, last)
	if len(o.rows) > 0 {
		return nil // half a result is none to compare with
	}
	return report.keep(o.results)
}

// withStack starts a stack for measure, and ends it. Each has one of its own, as memory depends on what was done before.
func withStack(ctx context.Context, out io.Writer, measure func(context.Context, *stack) error) (version string, err error) {
	fmt.Fprintln(out, "starting a stack of its own")
	s, err := startStack(ctx)
	if err != nil {
		return "", err
	}
	return s.version, errors.Join(measure(ctx, s), s.Stop())
}

// rounds does each of the measurements that are compared with docker run and a dispatch once in each round.
func (r *Report) rounds(ctx context.Context, s *stack, o *options, noise *noise, out io.Writer) error {
	rows, err := measurements(ctx, s, o)
	if err != nil {
		return err
	}
	for round := range o.rounds + 1 {
		noise.probe()
		for i := range rows {
			if err := rows[i].once(ctx, s, round > 0); err != nil { // the first warms up
				return fmt.Errorf("%s: %w", rows[i].name, err)
			}
		}
		fmt.Fprintf(out, "\rround %d of %d", round, o.rounds)
	}
	fmt.Fprintln(out)
	for _, row := range rows {
		summary := summarize(row.name, row.took)
		summary.CPU = milliseconds(row.cpu) / float64(o.rounds)
		r.Rows = append(r.Rows, summary)
	}
	return nil
}
