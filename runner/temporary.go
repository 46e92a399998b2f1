package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// temporary are the folders that calls of one container may not share.
var temporary = []string{"/tmp", "/var/tmp", "/dev/shm"}

// mountInfo is the kernel's list of what is mounted.
var mountInfo = "/proc/self/mountinfo"

// clearTemporary empties them as far as the image's user may, but never what is mounted into the container: keep, the folders of volumes, nor any
// other. An error means that it is not known what is mounted; nothing is removed then.
func clearTemporary(keep []string) error {
	mounts, err := ownMounts()
	if err != nil {
		return err
	}
	for _, dir := range temporary {
		// An image may have a link there, to a folder that is mounted.
		if real, err := filepath.EvalSymlinks(dir); err == nil && mounts.own(real, keep) {
			mounts.empty(real)
		}
	}
	return nil
}

// ownMounts are read once: they are made before the first process of a container, and a function has no right to make any.
var ownMounts = sync.OnceValues(func() (mounts, error) {
	text, err := os.ReadFile(mountInfo)
	if err != nil {
		return nil, err
	}
	return parseMounts(string(text))
})

// mounts are the mounts of the container, by where they are.
type mounts map[string]mounted

type mounted struct {
	root string // what of the file system is mounted
	kind string // of the file system
}

// parseMounts reads /proc/self/mountinfo, see proc_pid_mountinfo(5).
func parseMounts(text string) (mounts, error) {
	all := mounts{}
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(rest) < 1 {
			return nil, fmt.Errorf("a line of mountinfo is not as it should be: %.200q", line)
		}
		all[unescape(fields[4])] = mounted{unescape(fields[3]), rest[0]} // a later mount hides the one before
	}
	return all, nil
}

// unescape replaces the octal escapes of blanks and backslashes.
func unescape(text string) string {
	for from := 0; ; {
		i := strings.IndexByte(text[from:], '\\')
		if i < 0 || from+i+4 > len(text) {
			return text
		}
		i += from
		if code, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
			text = text[:i] + string([]byte{byte(code)}) + text[i+4:]
		}
		from = i + 1
	}
}

// own tells whether a folder is in the container's own file system, or a file system in memory that is the container's own.
func (m mounts) own(dir string, keep []string) bool {
	at := dir
	for at != "/" {
		if _, ok := m[at]; ok {
			break
		}
		at = filepath.Dir(at)
	}
	if slices.Contains(keep, at) {
		return false
	}
	// What is mounted from elsewhere is a part of a file system as a rule, or another kind.
	return at == "/" || at == dir && m[at].kind == "tmpfs" && m[at].root == "/"
}

// empty removes all that is in a folder and is no mount.
func (m mounts) empty(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		switch {
		case !m.within(path):
			_ = os.RemoveAll(path)
		case m[path] == (mounted{}):
			m.empty(path)
		}
	}
}

// within tells whether something is mounted at the path or below it.
func (m mounts) within(path string) bool {
	for at := range m {
		if at == path || strings.HasPrefix(at, path+"/") {
			return true
		}
	}
	return false
}
