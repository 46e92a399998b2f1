package api

import "time"

// JobStatus is what the cluster says of the job of one call.
type JobStatus struct {
	Job        string
	Allocation string // empty until the cluster has a place for it
	Node       string
	Waiting    string // why there is no place for it, while there is none
	PortTaken  bool   // it waits for nothing but a port that another has
	Running    bool   // its container has started
	Ended      bool   // its container has ended, or will never start
	Stopped    bool   // with Ended: it was told to
	Code       Code   // with Ended: how it failed; empty if it did not
	Message    string // with Ended: why it failed
	// Another, with Ended: a call that it was not given to may fare better in another container. It is false for what would stop that one
	// too, such as an image that does not exist, and for a job that was stopped by hand.
	Another bool
}

// Allocation is who a runner is, as its Nomad identity token proves it.
type Allocation struct {
	ID  string
	Job string // the function's job, of which the allocation's own is a dispatch
	// The function that Job is of.
	Account string
	Name    string

	// What a container that was started for a call was started as, as its runner says: the dispatch of Job, and the function's revision. Empty and 0 where it says nothing.
	Dispatch string `json:",omitempty"`
	Revision uint64 `json:",omitempty"`

	Slot bool `json:",omitempty"` // it confirms a call that it was handed as a slot
	// Runner is which of the allocation's runners asks, by RunnerHeader: Nomad may start a second container in an allocation.
	Runner string `json:",omitempty"`
}

// Slot is a container that was started ahead of a call.
type Slot struct {
	Account  string
	Name     string
	Function string // the function's internal id
	Revision uint64 // of the function, that it was started with
	Job      string // of the container

	Allocation string // empty until it runs
}

// SlotCounts is how many slots of a function wait for a call, and how many are to.
type SlotCounts struct {
	Ready  int
	Wanted int
}

// Use is how a call got its container, for those who keep containers ready.
type Use struct {
	Account  string
	Name     string
	Function string
	Job      string // of the slot that it took; empty if there was none
}

// ClusterResources is what a cluster has for functions, and what an account has running on it.
type ClusterResources struct {
	Nodes  int // that are ready and can run containers
	Cores  int // of them all
	Memory int64
	// The account's calls and slots that have a place in the cluster, and those of them whose container runs.
	Containers int
	Running    int
}

// FunctionJob is the job of a function in the cluster.
type FunctionJob struct {
	Account, Name, Function string
	Revision                uint64 // of the function, that the job was made from
	Index                   uint64 // changes with every change of the job, by whomever
	Stopped                 bool   // it takes no dispatches
}

// EndedJob is the job of a single container that has ended.
type EndedJob struct {
	Account, Name, Function string
	Job                     string
	Call                    string    // that it was started for; empty for a slot
	Submitted               time.Time // when it was dispatched
	Order                   uint64    // is larger for those that ended later
}
