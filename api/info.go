package api

// Info is the answer to GET /info: the part of Docker's that holds for a cluster, with its names. What it says of containers and functions is
// of the account that asks.
type Info struct {
	ID                 string // of the cluster's Nomad region and funcd's service
	Name               string // of this server
	ServerVersion      string // funcd's
	OperatingSystem    string // of this server, as /etc/os-release has it
	OSType             string
	Architecture       string // as uname has it: "x86_64"
	KernelVersion      string
	NCPU               int   // cores of all nodes that are ready and have a docker driver
	MemTotal           int64 // bytes of them
	Images             int   // of the Docker daemon beside this server; 0 if there is none
	Containers         int   // calls and slots that have a place in the cluster
	ContainersRunning  int   // those of them that have started
	ContainersPaused   int   // always 0
	ContainersStopped  int   // always 0: what has ended is not counted
	Nodes              int   // that are ready and have a docker driver
	Functions          int
	IndexServerAddress string // under which clients keep the login for Docker's own registry
	SystemTime         string // RFC 3339 with nanoseconds
}

// IndexServerAddress is Docker's.
const IndexServerAddress = "https://index.docker.io/v1/"

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
	Current int64  `json:"current"`
	Total   int64  `json:"total"`
	Units   string `json:"units,omitempty"` // "nodes"
}

// PullError is Docker's form of an error in a stream.
type PullError struct {
	Code    int    `json:"code,omitempty"`
	Message string `json:"message"`
}
