package api

// Info is the answer to GET /info: Docker's names, as far as they apply to a cluster.
type Info struct {
	ID                string // of the cluster's Nomad region and funcd's service
	Name              string // of this server
	ServerVersion     string // funcd's
	OperatingSystem   string // of this server
	OSType            string
	Architecture      string
	KernelVersion     string
	NCPU              int   // cores of all ready nodes
	MemTotal          int64 // bytes of all ready nodes
	Images            int   // of the Docker daemon beside this server; 0 if there is none
	Containers        int   // calls and slots that have a container now, of the whole cluster
	ContainersRunning int
	Nodes             int // ready nodes with a docker driver
	Functions         int // of the account
	SystemTime        string
}

// PullMessage is one line of the answer to POST /images/create, Docker's JSON progress.
type PullMessage struct {
	ID             string        `json:"id,omitempty"` // the node that the line is of
	Status         string        `json:"status,omitempty"`
	ProgressDetail *PullProgress `json:"progressDetail,omitempty"`
	Progress       string        `json:"progress,omitempty"`
	Error          string        `json:"error,omitempty"` // the last line of a pull that failed
	ErrorDetail    *PullError    `json:"errorDetail,omitempty"`
}

// PullProgress counts the nodes that have the image.
type PullProgress struct {
	Current int64 `json:"current"`
	Total   int64 `json:"total"`
}

// PullError is Docker's form of an error in a stream.
type PullError struct {
	Code    int    `json:"code,omitempty"`
	Message string `json:"message"`
}
