package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// fault is one thing that is done to one part.
type fault struct {
	kind   string // "kill funcd", as counted
	action string // kill, stop or pause
	part   string
	pick   uint64 // which of several of the part
	gap    time.Duration
	down   time.Duration // until it is started, or goes on, again
}

// The parts, and what is done to them. To stop is to end with SIGTERM, to pause SIGSTOP and SIGCONT.
var parts = []struct {
	part    string
	actions []string
}{
	{"funcd", []string{"kill", "stop", "pause"}},
	{"nomad server", []string{"kill", "pause"}},
	{"nomad client", []string{"kill", "pause"}},
	{"consul", []string{"kill", "pause"}},
	{"dockerd", []string{"kill", "pause"}},
	{"container", []string{"kill", "pause"}},
	{"nats", []string{"kill", "pause"}}, // with more than one server
}

// schedule makes the faults of the seed, of each kind as many as wanted, in an order by chance.
func schedule(cfg config) ([]fault, error) {
	only, err := regexp.Compile(cfg.only)
	if err != nil {
		return nil, err
	}
	random := rand.New(rand.NewPCG(cfg.seed, 1))
	var plan []fault
	for _, p := range parts {
		if p.part == "nats" && cfg.servers == 1 {
			continue
		}
		for _, action := range p.actions {
			kind := action + " " + p.part
			if !only.MatchString(kind) {
				continue
			}
			for range cfg.faults {
				f := fault{kind: kind, action: action, part: p.part, pick: random.Uint64()}
				f.gap = time.Duration(random.Int64N(int64(2 * cfg.gap)))
				// Most are short; one in ten outlasts leases and heartbeats.
				f.down = 100*time.Millisecond + time.Duration(random.Int64N(int64(5*time.Second)))
				if random.IntN(10) == 0 {
					f.down = 12*time.Second + time.Duration(random.Int64N(int64(15*time.Second)))
				}
				plan = append(plan, f)
			}
		}
	}
	random.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
	return plan, nil
}

// inject does what is planned, the next while the last may not be over yet, and returns how many faults of each kind there were, when all
// parts run again.
func (s *stack) inject(ctx context.Context, plan []fault) (map[string]int, error) {
	counts := map[string]int{}
	busy := map[string]chan struct{}{} // closed when the part is as it was
	began, missed := time.Now(), 0
	defer func() {
		for _, c := range busy {
			<-c
		}
	}()
	for i := 0; i < len(plan); i++ {
		f := plan[i]
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(f.gap):
		}
		name := f.part
		if all := s.of(f.part); len(all) > 0 {
			name = all[f.pick%uint64(len(all))].name
		}
		if last := busy[name]; last != nil {
			<-last
		}
		done := make(chan struct{})
		busy[name] = done
		hit, err := s.hit(ctx, f, name, done)
		if err != nil {
			return nil, err
		}
		if !hit {
			// There was no container: later there may be.
			if missed++; missed > 100 {
				return nil, fmt.Errorf("there was nothing to %s a hundred times", f.kind)
			}
			plan = append(plan, f)
			continue
		}
		counts[f.kind]++
		s.note("%7.1fs fault %d of %d: %s (%s) for %s", time.Since(began).Seconds(), i+1, len(plan), f.kind, name, f.down.Round(100*time.Millisecond))
	}
	return counts, nil
}

// stopPatience is how long a funcd may take to end after SIGTERM: the ten seconds of its requests, with what a busy machine needs.
const stopPatience = 60 * time.Second

// hit does one thing, closes done when its time is over, and tells whether there was anything to do it to.
func (s *stack) hit(ctx context.Context, f fault, name string, done chan struct{}) (bool, error) {
	if f.part == "container" {
		return s.hitContainer(ctx, f, done), nil
	}
	p := s.named(name)
	switch f.action {
	case "pause":
		if err := p.signal(syscall.SIGSTOP); err != nil {
			return false, err
		}
		time.AfterFunc(f.down, func() {
			_ = p.signal(syscall.SIGCONT)
			close(done)
		})
		return true, nil
	case "stop":
		go func() {
			defer close(done)
			if err := p.end(syscall.SIGTERM, stopPatience); err != nil {
				s.fault(err)
			}
			time.Sleep(f.down)
			s.fault(p.start())
		}()
		return true, nil
	}
	_ = p.end(syscall.SIGKILL, time.Minute)
	time.AfterFunc(f.down, func() {
		defer close(done)
		s.fault(p.start())
	})
	return true, nil
}

// hitContainer kills or pauses what runs in a container: the runner, and with it, as it is pid 1, the function's process.
func (s *stack) hitContainer(ctx context.Context, f fault, done chan struct{}) bool {
	var all []int
	for range 100 {
		if all = s.containers(); len(all) > 0 || ctx.Err() != nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if len(all) == 0 {
		close(done)
		return false
	}
	pid := all[f.pick%uint64(len(all))]
	if f.action == "kill" {
		defer close(done)
		return syscall.Kill(pid, syscall.SIGKILL) == nil
	}
	family := append([]int{pid}, childrenOf(pid)...)
	for _, pid := range family {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	time.AfterFunc(f.down, func() {
		for _, pid := range family {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
		close(done)
	})
	return true
}

// containers returns the first processes of all containers, by their numbers on the host, in a fixed order. Docker itself may be away.
func (s *stack) containers() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err == nil && strings.Contains(string(cmdline), "containerd-shim") && strings.Contains(string(cmdline), s.dir+"/") {
			all = append(all, childrenOf(pid)...)
		}
	}
	all = slices.DeleteFunc(all, func(pid int) bool {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return !strings.Contains(string(cmdline), "funcd-runner")
	})
	slices.Sort(all)
	return all
}

// childrenOf returns the children of a process, and theirs.
func childrenOf(pid int) []int {
	var all []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(append(all, child), childrenOf(child)...)
			}
		}
	}
	return all
}
