package api

// Status is the answer to GET /status: how many calls of a function there are in each state. What was fetched counts no more, unless the function
// keeps it (funcd.keep).
type Status struct {
	Total    int
	Pending  int
	Running  int
	Finished int
	Failed   int
	List     []CallStatus `json:",omitempty"` // with list=1: by their last change, then those that wait in their order
}

// CallStatus is one call in a Status.
type CallStatus struct {
	CallID  string    `json:"CallId"`
	Created Timestamp // when it was accepted
	Status  State
	Message string // why it waits or has failed; else empty

	// Of a call that has ended: when its process started and what its exit status was, as far as there is one. Fetched is when its answer reached its caller, of one
	// that is kept after that.
	Started  *Timestamp `json:",omitempty"`
	Ended    *Timestamp `json:",omitempty"`
	ExitCode *int       `json:",omitempty"`
	Fetched  *Timestamp `json:",omitempty"`
}
