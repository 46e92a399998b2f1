package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// process is a program that runs, by its pid.
type process int

func (p process) file(name string) string { return filepath.Join("/proc", strconv.Itoa(int(p)), name) }

// cpu is how long its threads have run so far. One that has ended is left out: Go's seldom do.
func (p process) cpu() (time.Duration, error) {
	threads, err := filepath.Glob(p.file("task/*/schedstat"))
	if err != nil {
		return 0, err
	}
	if len(threads) == 0 {
		return 0, fmt.Errorf("process %d has ended, or the kernel counts no times", p)
	}
	var total time.Duration
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		ran, _, _ := bytes.Cut(text, []byte(" ")) // in nanoseconds
		n, err := strconv.ParseInt(string(ran), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", thread, err)
		}
		total += time.Duration(n)
	}
	return total, nil
}

// cpuWithChildren is how long it and the children that it has waited for have run so far, to a hundredth of a second.
func (p process) cpuWithChildren() (time.Duration, error) {
	fields, err := p.stat()
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, field := range fields[11:15] { // utime, stime, cutime and cstime of proc(5)
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	const perSecond = 100 // USER_HZ, the same on all of Linux's machines of today
	return time.Duration(ticks) * time.Second / perSecond, nil
}

// stat returns the fields of /proc/PID/stat from the third one on: the second is the name, which may hold anything.
func (p process) stat() ([]string, error) {
	text, err := os.ReadFile(p.file("stat"))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 15 {
		return nil, fmt.Errorf("%s is too short", p.file("stat"))
	}
	return fields, nil
}

// memory is what of it is in memory, in MB.
func (p process) memory() (float64, error) {
	text, err := os.ReadFile(p.file("status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kB, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kB * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("process %d has ended", p)
}

// processes returns those of this name that are wanted. Those that end meanwhile, or are another user's, are left out.
func processes(name string, want func(process) bool) ([]process, error) {
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, file := range files {
		comm, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(comm)) != name {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		if p := process(pid); want(p) {
			found = append(found, p)
		}
	}
	return found, nil
}

// child returns the parent's child of this name.
func child(parent process, name string) (process, error) {
	found, err := processes(name, func(p process) bool {
		fields, err := p.stat()
		return err == nil && fields[1] == strconv.Itoa(int(parent))
	})
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("process %d has %d children %s", parent, len(found), name)
	}
	if err != nil {
		return 0, err
	}
	return found[0], nil
}

// runnersOf returns the first processes of the function's containers.
func runnersOf(function string) ([]process, error) {
	return processes("funcd-runner", func(p process) bool {
		environ, err := os.ReadFile(p.file("environ"))
		return err == nil && bytes.Contains(environ, []byte("\x00NOMAD_JOB_ID=func-default-"+function+"/"))
	})
}

// busy is the share of the machine's processors that was used while do ran, by anyone.
func busy(do func()) (float64, error) {
	used, all, err := ticks()
	if err != nil {
		return 0, err
	}
	do()
	usedThen, allThen, err := ticks()
	if err != nil {
		return 0, err
	}
	return (usedThen - used) / max(allThen-all, 1), nil
}

// ticks returns the processors' time that was used, and all of it, since the machine was started.
func ticks() (used, all float64, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(first)[1:9] { // user to steal of proc(5); those after are counted in user too
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		all += n
		if i != 3 && i != 4 { // idle and iowait
			used += n
		}
	}
	return used, all, nil
}
