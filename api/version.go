package api

// Version is the version of the Func API: management paths may be prefixed with "/v" and this, or a lower one.
const Version = "1.23"

// VersionInfo is the answer to GET /version.
type VersionInfo struct {
	Version       string // funcd's own
	APIVersion    string `json:"ApiVersion"` // Version
	GitCommit     string
	GoVersion     string
	Os            string
	Arch          string
	KernelVersion string
	BuildTime     string // RFC 3339; empty if it is not known
}
