package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Report is the result of one run. Times are in milliseconds, memory is in MB.
type Report struct {
	Version string
	Time    time.Time
	Rounds  int
	Noise   float64 // the slowest of equal pieces of work against their median
	Busy    float64 // the share of the machine that others used before
	Rows    []Row
	Rates   []Rate
	Sizes   []Size
}

// Row is the summary of one measurement.
type Row struct {
	Name             string
	Min, Median, P99 float64
	CPU              float64 // of funcd until the answer, the mean
}

// Rate is how often something is done with a number of callers at once.
type Rate struct {
	Name          string
	Callers       int
	Count         int
	PerSecond     float64
	Median, P99   float64 // of one; 0 for what is not waited for one by one
	CPU           float64 // of funcd, for each
	NomadCPU      float64
	ContainersCPU float64 // their processes and runners; 0 where there is a container for each
}

// Size is what so many functions and calls that wait cost.
type Size struct {
	Name                 string
	Functions, Waiting   int
	Funcd, Nomad, Consul float64 // memory
	Create               float64 `json:",omitempty"` // of one function, the mean of those since the row before
	Warm, Reused         float64 `json:",omitempty"` // the median of a call
	CPU                  float64 `json:",omitempty"` // of funcd for a call in a reused container
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

// readLast returns the newest result that was kept, an empty one if there is none.
func readLast(folder string) (*Report, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, err
	}
	last := &Report{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var r Report
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if r.Time.After(last.Time) {
			last = &r
		}
	}
	return last, nil
}

// median is that of the row of this name, 0 if there is none.
func (r *Report) median(name string) float64 {
	for _, row := range r.Rows {
		if row.Name == name {
			return row.Median
		}
	}
	return 0
}

// rate is the rate of this name and so many callers, 0 if there is none.
func (r *Report) rate(name string, callers int) float64 {
	for _, rate := range r.Rates {
		if rate.Name == name && rate.Callers == callers {
			return rate.PerSecond
		}
	}
	return 0
}

// size is the one of this name, of so many functions and calls that wait, empty if there is none.
func (r *Report) size(name string, functions, waiting int) Size {
	for _, size := range r.Sizes {
		if size.Name == name && size.Functions == functions && size.Waiting == waiting {
			return size
		}
	}
	return Size{}
}
