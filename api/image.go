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
