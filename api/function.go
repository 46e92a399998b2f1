package api

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"time"
)

// Function is a function as its owner sees it: the body of POST /funcs/create and of every answer that holds one.
type Function struct {
	Name             string
	ContainerSize    string
	Timeout          int // seconds
	UUID             string
	Created          Timestamp
	Config           Config
	HostConfig       HostConfig
	NetworkingConfig NetworkingConfig
	// CallbackSecret is what callbacks are signed with, of a function with the label funcd.callback.
	CallbackSecret string `json:",omitempty"`
	// Slots is in the answer to GET /funcs/$name of a function that has containers kept ready for its calls, or wants to.
	Slots *SlotCounts `json:",omitempty"`
}

// Config is the part of a Function that describes its process. The names are those of Docker's Engine API 1.23.
type Config struct {
	Tty          bool                `json:",omitempty"`
	ExposedPorts map[string]struct{} `json:",omitempty"` // "80/tcp"
	Env          []string            // "NAME=value"; never null on the wire
	Cmd          StrSlice            `json:",omitempty"`
	Image        string
	Entrypoint   StrSlice          `json:",omitzero"` // nil for the image's; empty, or of one empty word, for none, see Definition.Command
	WorkingDir   string            `json:",omitempty"`
	Labels       map[string]string `json:",omitempty"`
	StopSignal   Signal            `json:",omitempty"`
}

// HostConfig is the part of a Function that connects its container to others and to the host.
type HostConfig struct {
	Links           []string                 `json:",omitempty"` // "name:alias"
	PortBindings    map[string][]PortBinding `json:",omitempty"` // "80/tcp"
	PublishAllPorts bool                     `json:",omitempty"`
	VolumesFrom     []string                 `json:",omitempty"` // "name[:ro|rw]"
	NetworkMode     string
}

// PortBinding is one host port of an exposed port. An empty HostPort asks for any free one.
type PortBinding struct {
	HostIP   string `json:"HostIp,omitempty"`
	HostPort string
}

// NetworkingConfig is kept for the shape of the API; the original never gave it a meaning.
type NetworkingConfig struct {
	EndpointsConfig map[string]json.RawMessage
}

// FunctionUpdate is the body of PUT /funcs/$name. A nil field stays as it is.
type FunctionUpdate struct {
	ContainerSize *string       `json:",omitempty"`
	Timeout       *int          `json:",omitempty"`
	Config        *ConfigUpdate `json:",omitempty"`
	Refresh       bool          `json:",omitempty"` // makes a new UUID; the old one is unknown from then on
	Pull          bool          `json:",omitempty"` // takes what the image's tag stands for now; without, it stays what it was at create
}

// ConfigUpdate is what FunctionUpdate can change of a Config. An empty, non-nil Env clears it.
type ConfigUpdate struct {
	Env *[]string `json:",omitempty"`
}

// StrSlice is a list of strings that may come as a single string, which is then its one element and never split.
type StrSlice []string

// none tells whether the list, as an Entrypoint, says that there is to be none.
func (s StrSlice) none() bool { return s != nil && (len(s) == 0 || len(s) == 1 && s[0] == "") }

// UnmarshalJSON accepts null, a string or an array of strings.
func (s *StrSlice) UnmarshalJSON(b []byte) error {
	if b = bytes.TrimSpace(b); len(b) > 0 && b[0] == '"' {
		var one string
		if err := json.Unmarshal(b, &one); err != nil {
			return err
		}
		*s = StrSlice{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(b, &many); err != nil {
		if b[0] == '[' {
			return &json.UnmarshalTypeError{Value: "array with other elements", Type: reflect.TypeFor[StrSlice]()}
		}
		return wrongType[StrSlice](b)
	}
	*s = many
	return nil
}

// wrongType is the error that encoding/json completes with the name of the field.
func wrongType[T any](value []byte) error {
	kind := "number"
	switch value[0] {
	case '{':
		kind = "object"
	case '[':
		kind = "array"
	case '"':
		kind = "string"
	case 't', 'f':
		kind = "bool"
	}
	return &json.UnmarshalTypeError{Value: kind, Type: reflect.TypeFor[T]()}
}

// Signal is a signal's name or number as the user wrote it, such as "SIGTERM", "TERM" or "15".
type Signal string

// UnmarshalJSON accepts null, a string or an unsigned integer.
func (s *Signal) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	var text string
	if json.Unmarshal(b, &text) == nil {
		*s = Signal(text)
		return nil
	}
	number, err := strconv.ParseUint(string(b), 10, 8)
	if err != nil {
		return wrongType[Signal](b)
	}
	*s = Signal(strconv.FormatUint(number, 10))
	return nil
}

// Timestamp is a time.Time whose JSON form is RFC 3339 in UTC with milliseconds.
type Timestamp struct{ time.Time }

const timestampFormat = "2006-01-02T15:04:05.000Z"

// MarshalJSON writes the time in UTC with three digits of a second.
func (t Timestamp) MarshalJSON() ([]byte, error) {
	return []byte(t.UTC().Format(`"` + timestampFormat + `"`)), nil
}

// UnmarshalJSON accepts null, an empty string and RFC 3339.
func (t *Timestamp) UnmarshalJSON(b []byte) error {
	if string(b) == `""` {
		return nil
	}
	if err := t.Time.UnmarshalJSON(b); err != nil {
		return wrongType[Timestamp](b)
	}
	return nil
}

// Definition is all that funcd keeps of a function: what its owner sees, and what only the service knows.
type Definition struct {
	ID       string // names the function's calls, logs and outputs; stays when Refresh changes the UUID; not a secret
	Account  string
	Revision uint64 // grows with every change; starts at 1
	Function Function
	Image    Image
	Volumes  []Volume `json:",omitempty"` // what VolumesFrom stands for, as it was when the function was created
}

// Volume is a volume of the cluster in a function's containers. What its fields can be is Nomad's matter.
type Volume struct {
	Type        string // host or csi
	Source      string
	Destination string // a clean absolute path in the container
	ReadOnly    bool   `json:",omitempty"`
	// Request is what the job that it is taken from has asked for, apart from its name.
	Request VolumeRequest `json:",omitzero"`
}

// VolumeRequest is how a volume is claimed.
type VolumeRequest struct {
	ReadOnly       bool     `json:",omitempty"`
	PerAlloc       bool     `json:",omitempty"`
	AccessMode     string   `json:",omitempty"`
	AttachmentMode string   `json:",omitempty"`
	FSType         string   `json:",omitempty"`
	MountFlags     []string `json:",omitempty"`
	SELinuxLabel   string   `json:",omitempty"`
}

// Image is an image as it was when the function was created, so that a call never asks a registry.
type Image struct {
	Ref          string   // what the container is started from: repository@digest, or the id of an image that only exists locally
	ID           string   // the image's id, "sha256:…" of its config
	Local        bool     // the image is known to the Docker daemon only, no registry has it
	Entrypoint   []string `json:",omitempty"`
	Cmd          []string `json:",omitempty"`
	ExposedPorts []string `json:",omitempty"` // "80/tcp", sorted
}

// Command returns what the function's process is started with, by Docker's rules (merge and mergeAndVerifyConfig in its daemon): an entrypoint of the
// function's own leaves out the image's command too. An empty one stands for none, with the image's command; one of a single empty word, which is what
// docker run --entrypoint "" says, for none and without the image's command. It is empty if neither the function nor its image names any.
func (d *Definition) Command() []string {
	entrypoint, cmd := []string(d.Function.Config.Entrypoint), []string(d.Function.Config.Cmd)
	if len(entrypoint) == 0 && len(cmd) == 0 {
		cmd = d.Image.Cmd
	}
	if d.Function.Config.Entrypoint == nil {
		entrypoint = d.Image.Entrypoint
	} else if d.Function.Config.Entrypoint.none() {
		entrypoint = nil
	}
	return append(append(make([]string, 0, len(entrypoint)+len(cmd)), entrypoint...), cmd...)
}
