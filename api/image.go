package api

// ImageInspect is the answer to GET /images/$ref/json: the part of Docker's image inspect that holds for a cluster, with Docker's names.
type ImageInspect struct {
	ID           string   `json:"Id"` // "sha256:…" of the image's config
	RepoTags     []string // "repository:tag"; never null on the wire
	RepoDigests  []string // "repository@digest"; never null on the wire, empty for an image that no registry has
	Created      string   // RFC 3339 with nanoseconds; empty if the image does not say
	Architecture string
	OS           string `json:"Os"`
	Size         int64  // bytes; of the unpacked image from a Docker daemon, of the compressed one from a registry
	Config       ImageConfig
}

// ImageConfig is what an image says of the containers that are made of it.
type ImageConfig struct {
	User         string
	ExposedPorts map[string]struct{} `json:",omitempty"` // "80/tcp"
	Env          []string            // "NAME=value"
	Cmd          []string
	Volumes      map[string]struct{}
	WorkingDir   string
	Entrypoint   []string
	Labels       map[string]string
	StopSignal   string `json:",omitempty"`
}

// ImagePull is an image that every node of a cluster is to pull.
type ImagePull struct {
	Account string
	Ref     string        // with a tag or a digest, as Docker reads it
	Login   *RegistryAuth // a username and a password; nil for what the nodes have themselves
}

// PullState is how far a cluster is with an image.
type PullState struct {
	Nodes   []NodePull // by name
	Waiting int        // nodes that have no room yet for the container that pulls
	Reason  string     // why they have none
}

// NodePull is how far a node is with an image.
type NodePull struct {
	ID     string
	Node   string // its name
	Status string // in Docker's words where it has some
	Ended  bool
	// With Ended, why the node has not got the image. Code is empty if it has.
	Code    Code
	Message string
}
