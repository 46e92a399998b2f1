package api

// JobStatus is what the cluster says of the job of one call.
type JobStatus struct {
	Job        string
	Allocation string // empty until the cluster has a place for it
	Node       string
	Waiting    string // why there is no place for it, while there is none
	Running    bool   // its container has started
	Ended      bool   // its container has ended, or will never start
	Code       Code   // with Ended: how it failed; empty if it did not
	Message    string // with Ended: why it failed
}

// Allocation is who a runner is, as its Nomad identity token proves it.
type Allocation struct {
	ID  string
	Job string // the function's job, of which the allocation's own is a dispatch
}
