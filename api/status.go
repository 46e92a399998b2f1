package api

// Status is the answer to GET /status: how many calls of a function there are in each state. What was fetched counts no more.
type Status struct {
	Total    int
	Pending  int
	Running  int
	Finished int
	Failed   int
	List     []CallStatus `json:",omitempty"` // with list=1, the oldest first
}

// CallStatus is one call in a Status.
type CallStatus struct {
	CallID  string `json:"CallId"`
	Created string // when it was accepted: RFC 3339 in UTC with milliseconds
	Status  State
	Message string // why it waits or has failed; else empty
}
