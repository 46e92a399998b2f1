package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
)

// journal is what functions say of themselves.
type journal struct {
	file      *os.File
	listeners []net.Listener
	running   sync.WaitGroup

	mu    sync.Mutex
	lines []string
}

// entry is what the journal holds of one call.
type entry struct {
	starts int
	wrote  []string
}

// newJournal writes to the file, which is made.
func newJournal(file string) (*journal, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &journal{file: f}, nil
}

// listen takes lines over a listener until stop. Each is answered when it is written down.
func (j *journal) listen(l net.Listener) {
	j.listeners = append(j.listeners, l)
	j.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			j.running.Go(func() { j.serve(conn) })
		}
	})
}

func (j *journal) serve(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if err := j.write(lines.Text()); err != nil {
			fmt.Fprintln(os.Stderr, "chaos: the journal:", err)
			return
		}
		if _, err := fmt.Fprintln(conn, "ok"); err != nil {
			return // the function was killed: its line counts
		}
	}
}

func (j *journal) write(line string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
	_, err := fmt.Fprintln(j.file, line)
	return err
}

func (j *journal) stop() {
	for _, l := range j.listeners {
		l.Close()
	}
	j.running.Wait()
	j.file.Close()
}

// entries returns what was written down, by the calls' numbers.
func (j *journal) entries() map[int]entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return parseJournal(j.lines)
}

// parseJournal reads lines "start NUMBER" and "wrote NUMBER TEXT". Others, as of a function that was killed while it wrote, are left out.
func parseJournal(lines []string) map[int]entry {
	all := map[int]entry{}
	for _, line := range lines {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		n, err := strconv.Atoi(words[1])
		if err != nil {
			continue
		}
		e := all[n]
		switch {
		case words[0] == "start" && len(words) == 2:
			e.starts++
		case words[0] == "wrote" && len(words) == 3:
			e.wrote = append(e.wrote, words[2])
		}
		all[n] = e
	}
	return all
}
