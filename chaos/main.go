// Command chaos shows that no call is lost: it runs a funcd on a Nomad, a Consul and a Docker of its own, has it execute a workload of
// numbered calls, and meanwhile kills and stops one part after the other. Then it audits what has become of each call.
//
// What it does, and when, follows from the seed that it prints; what comes of that does not, as the parts take their own time.
//
// With -soak it leaves all parts alone, and sees that a server that works for a long time uses no more of the machine than after a short one.
//
// A function writes down, in a file on a volume of the host, when it starts and what it is about to print: the journal. It is outside of all
// that is killed, and what the answers are held against.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if natsMain() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cfg := config{}
	flag.Uint64Var(&cfg.seed, "seed", uint64(time.Now().UnixNano()), "what the faults and the calls follow from")
	flag.IntVar(&cfg.faults, "faults", 50, "faults of each kind")
	flag.IntVar(&cfg.servers, "servers", 1, "funcd servers; more than one share a NATS cluster of three")
	flag.DurationVar(&cfg.gap, "gap", 2500*time.Millisecond, "between two faults, on the average")
	flag.StringVar(&cfg.only, "only", "", "regular expression of the kinds of faults; empty for all")
	flag.StringVar(&cfg.programs, "programs", "bin", "directory with funcd and funcd-runner")
	flag.BoolVar(&cfg.keep, "keep", false, "keep the directory with the logs")
	flag.DurationVar(&cfg.soak, "soak", 0, "in place of the faults, watch what the servers use for this long")
	flag.Float64Var(&cfg.rate, "rate", 5, "calls a second of a soak")
	flag.Parse()
	cfg.out = os.Stdout
	verdict, err := run(ctx, cfg)
	if verdict != nil {
		verdict.print(os.Stdout)
	}
	if err == nil && len(verdict.violations) > 0 {
		err = fmt.Errorf("%d violations", len(verdict.violations))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// config says what is to be done.
type config struct {
	seed     uint64
	faults   int // of each kind
	servers  int
	gap      time.Duration
	only     string
	programs string
	keep     bool
	soak     time.Duration
	rate     float64
	out      io.Writer
}

// run starts the stack, injects the faults under load, lets all recover, and audits. The error tells why that could not be done; what it has found
// is in the verdict.
func run(ctx context.Context, cfg config) (v *verdict, err error) {
	plan, err := schedule(cfg)
	if err != nil {
		return nil, err
	}
	// Short, as the path of a Unix socket can't be longer than 107 bytes.
	dir, err := os.MkdirTemp("/tmp", "fdc-")
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("%d faults", len(plan))
	if cfg.soak > 0 {
		what = fmt.Sprintf("%s of %g calls a second", cfg.soak, cfg.rate)
	}
	fmt.Fprintf(cfg.out, "chaos: seed %d, %d servers, %s, logs in %s\n", cfg.seed, cfg.servers, what, dir)
	began := time.Now()
	s, err := startStack(ctx, cfg, dir)
	defer func() {
		err = errors.Join(err, s.stop())
		if err == nil && !cfg.keep && len(v.violations) == 0 {
			err = os.RemoveAll(dir)
		}
	}()
	if err != nil {
		return nil, err
	}
	s.note("chaos: the stack is ready after %.0f s", time.Since(began).Seconds())
	w, err := startLoad(ctx, cfg, s)
	if err != nil {
		return nil, err
	}
	defer w.receiver.stop()
	counts, used := map[string]int{}, []samples{}
	if cfg.soak > 0 {
		used, err = s.soak(ctx, cfg.soak)
	} else {
		counts, err = s.inject(ctx, plan)
	}
	if err != nil {
		w.stop()
		return nil, err
	}
	s.note("chaos: it is over after %.0f s, waiting for the calls", time.Since(began).Seconds())
	if err := s.recovered(ctx); err != nil {
		w.stop()
		return nil, err
	}
	calls := w.finish(ctx)
	s.note("chaos: all calls have ended or were given up after %.0f s", time.Since(began).Seconds())
	journal, err := s.readJournal()
	if err != nil {
		return nil, err
	}
	v = audit(calls, journal)
	v.faults = counts
	for i := range used {
		v.violations = append(v.violations, growth(cfg.out, s.funcd[i].name, used[i])...)
	}
	if cfg.soak == 0 {
		v.violations = append(v.violations, w.promises(ctx, calls)...)
	}
	v.violations = append(v.violations, s.leftovers(ctx, w.functions)...)
	s.note("chaos: what is left was looked through after %.0f s", time.Since(began).Seconds())
	for name, text := range s.crashes() {
		v.violations = append(v.violations, name+": "+text)
	}
	return v, nil
}

// logOf is where a process of this name writes.
func logOf(dir, name string) string { return filepath.Join(dir, name+".log") }
