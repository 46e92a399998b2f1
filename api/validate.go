package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/uuid"
	"github.com/moby/sys/signal"
)

// Defaults and bounds of the Func API.
const (
	DefaultSize       = "s4"
	DefaultTimeout    = 300   // seconds
	MaxTimeout        = 86400 // seconds
	DefaultStopSignal = "SIGTERM"
	DefaultNetwork    = "bridge"
	MaxNameLength     = 255
	MaxLabels         = 32 << 10 // bytes; each call has them in its job and in its container's environment
)

// Sizes are the names that ContainerSize may have, smallest first.
var Sizes = []string{"s1", "s2", "s3", "s4", "m1", "m2", "m3", "l1", "l2", "l3"}

var (
	nameFormat       = newFormat(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	functionIDFormat = newFormat(`^[0-9a-f]{32}$`)
	accountFormat    = newFormat(`^[a-z0-9][a-z0-9_]{0,62}$`)
	linkNameFormat   = newFormat(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
	// Nomad replaces ${name} in a task's working directory, so one there can never reach the container as it was written.
	interpolation = newFormat(`\$\{[a-zA-Z0-9_\-.]+\}`)
)

// Interpolated tells whether Nomad would put something else in text: in parts of a job it replaces ${name}.
func Interpolated(text string) bool { return interpolation.MatchString(text) }

// ParseFunction reads the body of POST /funcs/create, fills in the defaults and checks every field. Unknown members are ignored. The
// errors are of code Invalid and name the field and what it may be. What Image stands for is not looked at.
func ParseFunction(body []byte) (Function, error) {
	f := Function{}
	if err := decode(body, &f); err != nil {
		return Function{}, err
	}
	f.UUID, f.Created, f.Slots, f.CallbackSecret = "", Timestamp{}, nil, ""
	if f.ContainerSize == "" {
		f.ContainerSize = DefaultSize
	}
	if f.Timeout == 0 && !hasMember(body, "Timeout") {
		f.Timeout = DefaultTimeout
	}
	if f.Config.Env == nil {
		f.Config.Env = []string{}
	}
	if f.Config.StopSignal == "" {
		f.Config.StopSignal = DefaultStopSignal
	}
	switch f.HostConfig.NetworkMode {
	case "", "default":
		f.HostConfig.NetworkMode = DefaultNetwork
	}
	return f, f.Validate()
}

// ParseUpdate reads the body of PUT /funcs/$name. The errors are of code Invalid.
func ParseUpdate(body []byte) (FunctionUpdate, error) {
	var u FunctionUpdate
	if err := decode(body, &u); err != nil {
		return FunctionUpdate{}, err
	}
	return u, nil
}

// Apply returns f with u's fields in place of its own, checked. Refresh is left to the caller.
func (u FunctionUpdate) Apply(f Function) (Function, error) {
	if u.ContainerSize != nil {
		f.ContainerSize = *u.ContainerSize
	}
	if u.Timeout != nil {
		f.Timeout = *u.Timeout
	}
	if u.Config != nil && u.Config.Env != nil {
		f.Config.Env = append([]string{}, *u.Config.Env...)
	}
	return f, f.Validate()
}

// decode is json.Unmarshal with errors that name the field. Anything after the object is an error.
func decode(body []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	err := dec.Decode(v)
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field == "":
		return Errorf(Invalid, "the body must be a JSON object, it is a JSON %s", wrongType.Value)
	case errors.As(err, &wrongType):
		field, verb := fieldType(reflect.TypeOf(v), wrongType.Field), "is"
		if field != wrongType.Type { // an element of the field
			verb = "holds"
		}
		return Errorf(Invalid, "%s: must be %s, it %s a JSON %.100s", wrongType.Field, jsonType(field), verb, wrongType.Value)
	case errors.Is(err, io.EOF):
		return Errorf(Invalid, "the body is empty, it must be a JSON object")
	case err != nil:
		return Errorf(Invalid, "the body is not valid JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if first := bytes.TrimLeft(body, " \t\r\n"); first[0] != '{' {
		return Errorf(Invalid, "the body must be a JSON object")
	}
	if _, err := dec.Token(); err != io.EOF {
		return Errorf(Invalid, "the body holds more than one JSON value")
	}
	return nil
}

// fieldType returns the type that the field at path, names in JSON joined by dots, is declared with.
func fieldType(t reflect.Type, path string) reflect.Type {
	for name := range strings.SplitSeq(path, ".") {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Map || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		for field := range t.Fields() {
			if tag, _, _ := strings.Cut(field.Tag.Get("json"), ","); name == tag || tag == "" && name == field.Name {
				t = field.Type
				break
			}
		}
	}
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// jsonType says what a value of type t is in JSON.
func jsonType(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[StrSlice]():
		return "a string or an array of strings"
	case reflect.TypeFor[Signal]():
		return fmt.Sprintf("a signal's name or a number from 1 to %d", maxSignal)
	case reflect.TypeFor[Timestamp]():
		return "a time in RFC 3339"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Int:
		return "a whole number of 64 bits"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "an array of " + jsonTypes(t.Elem())
	case reflect.Map:
		return "an object of " + jsonTypes(t.Elem())
	}
	return "an object"
}

// jsonTypes is the plural of jsonType, for what functions have in arrays and objects.
func jsonTypes(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[json.RawMessage]():
		return "values"
	case t.Kind() == reflect.String:
		return "strings"
	case t.Kind() == reflect.Slice:
		return "arrays"
	}
	return "objects"
}

// hasMember tells whether the object has a member of this name other than null, by the case folding that encoding/json uses.
func hasMember(object []byte, name string) bool {
	var members map[string]json.RawMessage
	if json.Unmarshal(object, &members) != nil {
		return false
	}
	for key, value := range members {
		if strings.EqualFold(key, name) && string(value) != "null" {
			return true
		}
	}
	return false
}

// Validate checks every field that its owner can set. The error is of code Invalid, names the first wrong field and says what it may be.
func (f *Function) Validate() error {
	switch {
	case f.Name == "":
		return Errorf(Invalid, "Name: is required")
	case len(f.Name) > MaxNameLength || !nameFormat.MatchString(f.Name):
		return Errorf(Invalid, "Name: %.300q must be at most %d characters of a-z, 0-9 and -, and begin and end with a letter or a digit",
			f.Name, MaxNameLength)
	case !slices.Contains(Sizes, f.ContainerSize):
		return Errorf(Invalid, "ContainerSize: %.100q must be one of %s", f.ContainerSize, strings.Join(Sizes, ", "))
	case f.Timeout < 1 || f.Timeout > MaxTimeout:
		return Errorf(Invalid, "Timeout: %d must be a number of seconds from 1 to %d", f.Timeout, MaxTimeout)
	}
	if err := f.Config.validate(); err != nil {
		return err
	}
	if _, err := f.Extensions(); err != nil {
		return err
	}
	if err := f.HostConfig.validate(); err != nil {
		return err
	}
	if err := f.validateNetwork(); err != nil {
		return err
	}
	return f.validatePorts()
}

// ParseVolumesFrom reads an element of VolumesFrom.
func ParseVolumesFrom(text string) (job string, readOnly, ok bool) {
	job, mode, hasMode := strings.Cut(text, ":")
	return job, mode == "ro", linkNameFormat.MatchString(job) && (!hasMode || mode == "ro" || mode == "rw")
}

// validateNetwork refuses what a network mode leaves no room for. Docker refuses the same, apart from that of none.
func (f *Function) validateNetwork() error {
	h := &f.HostConfig
	mode, _, container := strings.Cut(h.NetworkMode, ":")
	switch {
	case len(h.Links) > 0 && mode != DefaultNetwork:
		return Errorf(Invalid, "HostConfig.Links: can't be had with NetworkMode %s", mode)
	case container && (len(h.PortBindings) > 0 || h.PublishAllPorts):
		return Errorf(Invalid, "HostConfig.PortBindings: ports can't be published with NetworkMode container, which shares another's network")
	case container && len(f.Config.ExposedPorts) > 0:
		return Errorf(Invalid, "Config.ExposedPorts: ports can't be exposed with NetworkMode container, which shares another's network")
	}
	return nil
}

func (c *Config) validate() error {
	if c.Image == "" {
		return Errorf(Invalid, "Config.Image: is required")
	}
	for _, env := range c.Env {
		name, _, ok := strings.Cut(env, "=")
		if !ok || name == "" || strings.ContainsRune(env, 0) {
			return Errorf(Invalid, "Config.Env: %.100q must be of the form NAME=value", name)
		}
	}
	for field, words := range map[string]StrSlice{"Cmd": c.Cmd, "Entrypoint": c.Entrypoint} {
		for _, word := range words {
			if strings.ContainsRune(word, 0) {
				return Errorf(Invalid, "Config.%s: an argument can't hold a NUL byte", field)
			}
		}
	}
	if len(c.Entrypoint) > 0 && c.Entrypoint[0] == "" && !c.Entrypoint.none() {
		return Errorf(Invalid, "Config.Entrypoint: its first element can't be empty")
	}
	if c.WorkingDir != "" && (!path.IsAbs(c.WorkingDir) || strings.ContainsRune(c.WorkingDir, 0) || Interpolated(c.WorkingDir)) {
		return Errorf(Invalid, "Config.WorkingDir: %.300q must be an absolute path without ${…}", c.WorkingDir)
	}
	size := 0
	for _, key := range slices.Sorted(maps.Keys(c.Labels)) {
		value := c.Labels[key]
		size += len(key) + len(value)
		switch {
		case key == "":
			return Errorf(Invalid, "Config.Labels: a label's name can't be empty")
		case strings.ContainsRune(key+value, 0) || Interpolated(key) || Interpolated(value):
			return Errorf(Invalid, "Config.Labels: %.100q can't hold ${…} or a NUL byte", key)
		}
	}
	if size > MaxLabels {
		return Errorf(Invalid, "Config.Labels: all of them must be at most %d bytes together", MaxLabels)
	}
	if _, err := c.StopSignal.Parse(); err != nil {
		return Errorf(Invalid, "Config.StopSignal: %.100q must be a signal's name or a number from 1 to %d",
			string(c.StopSignal), maxSignal)
	}
	return nil
}

func (h *HostConfig) validate() error {
	if err := h.validateLinks(); err != nil {
		return err
	}
	for _, volume := range h.VolumesFrom {
		if _, _, ok := ParseVolumesFrom(volume); !ok {
			return Errorf(Invalid, "HostConfig.VolumesFrom: %.300q must be of the form name[:ro|rw]", volume)
		}
	}
	switch container, ok := strings.CutPrefix(h.NetworkMode, "container:"); {
	case h.NetworkMode == "bridge" || h.NetworkMode == "host" || h.NetworkMode == "none":
	case ok && linkNameFormat.MatchString(container):
	default:
		return Errorf(Invalid, "HostConfig.NetworkMode: %.300q must be bridge, host, none or container:<name|id>", h.NetworkMode)
	}
	return nil
}

// maxSignal is Linux's SIGRTMAX.
const maxSignal = 64

// Parse returns the signal's number, 1 to 64.
func (s Signal) Parse() (syscall.Signal, error) {
	number, err := signal.ParseSignal(string(s))
	if err == nil && (number < 1 || number > maxSignal) {
		return 0, fmt.Errorf("%s is no signal's number", s)
	}
	return number, err
}

// Name returns the signal's name with its prefix, such as SIGTERM, also where it was given as a number. A number that has no name, as
// some real-time signals do, is returned as it is.
func (s Signal) Name() string {
	number, err := s.Parse()
	if err != nil {
		return string(s)
	}
	best := ""
	for name, n := range signal.SignalMap {
		// SIGIOT is SIGABRT and SIGCLD is SIGCHLD: the first name in the alphabet makes the choice a fixed one.
		if n == number && (best == "" || name < best) {
			best = name
		}
	}
	if best == "" {
		return strconv.Itoa(int(number))
	}
	return "SIG" + best
}

// ValidAccount tells whether name can be an account: 1 to 63 of a-z, 0-9 and _, beginning with a letter or a digit. It has no hyphen, so
// that func-<account>-<name> reads in one way only.
func ValidAccount(name string) bool { return accountFormat.MatchString(name) }

// ValidFunctionID tells whether s can be a function's internal id: 32 hexadecimal digits.
func ValidFunctionID(s string) bool { return functionIDFormat.MatchString(s) }

// ValidUUID tells whether s is a UUID in its usual form of 36 characters, the only one that funcd gives out.
func ValidUUID(s string) bool {
	_, err := uuid.Parse(s)
	return err == nil && len(s) == 36
}
