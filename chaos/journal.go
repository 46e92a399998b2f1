package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The journal is a file on a volume of the host, in which functions write what they do. It is what callers' answers are held against.
const (
	volumeName  = "journal"  // of the host volume, and of the Nomad job that functions have it from
	volumeMount = "/journal" // in a container
	journalFile = "lines"
)

// volumeJob is a Nomad job that has the volume and runs nothing.
const volumeJob = `{"Job": {"ID": "journal", "Name": "journal", "Type": "service", "Datacenters": ["*"], "TaskGroups": [{
  "Name": "g", "Count": 0, "Volumes": {"journal": {"Name": "journal", "Type": "host", "Source": "journal"}},
  "Tasks": [{"Name": "t", "Driver": "docker", "Config": {"image": "none"}, "Resources": {"CPU": 10, "MemoryMB": 10},
    "VolumeMounts": [{"Volume": "journal", "Destination": "/journal"}]}]
}]}}`

// volume is the directory that the volume is of.
func (s *stack) volume() string { return filepath.Join(s.dir, "volume") }

// registerVolume has Nomad know the volume's job.
func (s *stack) registerVolume() error {
	req, err := http.NewRequest(http.MethodPut, s.nomadURL+"/v1/jobs", strings.NewReader(volumeJob))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("registering the job of the volume: %s", resp.Status)
	}
	return nil
}

// entry is what the journal holds of one call.
type entry struct {
	starts int
	wrote  []string
}

// readJournal returns what was written down, by the calls' numbers.
func (s *stack) readJournal() (map[int]entry, error) {
	text, err := os.ReadFile(filepath.Join(s.volume(), journalFile))
	if err != nil {
		return nil, err
	}
	return parseJournal(text), nil
}

// parseJournal reads lines "start NUMBER" and "wrote NUMBER TEXT". A function that was killed while it wrote may have left a part of one: that is
// what it wrote, and no output is equal to it.
func parseJournal(text []byte) map[int]entry {
	all := map[int]entry{}
	for line := range bytes.Lines(text) {
		words := strings.Fields(string(line))
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
