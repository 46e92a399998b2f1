package runner

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// inContainer is the mounts of a container, and more of them.
func inContainer(t *testing.T, more string) mounts {
	t.Helper()
	text, err := os.ReadFile("testdata/mountinfo")
	require.NoError(t, err)
	m, err := parseMounts(string(text) + more)
	require.NoError(t, err)
	return m
}

func TestParseMounts(t *testing.T) {
	t.Parallel()
	m := inContainer(t, "1 2 254:0 /a\\040b /with\\040a\\134blank\\011 rw shared:1 master:2 - ext4 /dev/vda rw\n"+
		"2 3 254:0 / /tmp rw - ext4 /dev/vda rw\n3 4 0:1 /x /tmp rw - tmpfs tmpfs rw\n")
	require.Equal(t, mounted{"/", "overlay"}, m["/"])
	require.Equal(t, mounted{"/", "tmpfs"}, m["/dev/shm"])
	require.Equal(t, mounted{"/a b", "ext4"}, m["/with a\\blank\t"])
	require.Equal(t, mounted{"/x", "tmpfs"}, m["/tmp"], "the last one is what is seen")
	for _, wrong := range []string{"x\n", "1 2 3 4 5\n", "1 2 3 4 - ext4 x rw\n", "1 2 3 4 5 -\n", " - \n"} {
		_, err := parseMounts(wrong)
		require.Error(t, err, wrong)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add("208 61 0:47 / / rw,relatime master:2 - overlay overlay rw\n")
	f.Add("1 2 254:0 /a\\040b /with\\040a\\134 rw - ext4 /dev/vda rw\n1 2 3 4 \\ - x")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseMounts(text)
		if err == nil {
			m.own("/tmp", nil)
		}
	})
}

func TestWhatIsTheContainersOwn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		more string
		dir  string
		keep []string
		own  bool
	}{
		"its file system":                     {"", "/tmp", nil, true},
		"its memory":                          {"", "/dev/shm", nil, true},
		"memory that is mounted for it":       {"1 2 0:99 / /tmp rw - tmpfs tmpfs rw\n", "/tmp", nil, true},
		"a folder of the node":                {"1 2 254:0 /srv/data /tmp rw - ext4 /dev/vda rw\n", "/tmp", nil, false},
		"a disk of the node":                  {"1 2 254:0 / /tmp rw - ext4 /dev/vda rw\n", "/tmp", nil, false},
		"a folder in the node's memory":       {"1 2 0:99 /x /tmp rw - tmpfs tmpfs rw\n", "/tmp", nil, false},
		"a volume in the node's memory":       {"1 2 0:99 / /dev/shm rw - tmpfs tmpfs rw\n", "/dev/shm", []string{"/dev/shm"}, false},
		"a folder in a volume":                {"1 2 254:0 /srv/data /var rw - ext4 /dev/vda rw\n", "/var/tmp", nil, false},
		"a folder in a volume in memory":      {"1 2 0:99 / /var rw - tmpfs tmpfs rw\n", "/var/tmp", []string{"/var"}, false},
		"a folder in memory that is mounted":  {"1 2 0:99 / /var rw - tmpfs tmpfs rw\n", "/var/tmp", nil, false},
		"beside a volume":                     {"1 2 254:0 /srv/data /tmp/data rw - ext4 /dev/vda rw\n", "/tmp", []string{"/tmp/data"}, true},
		"one that has the name of a volume's": {"1 2 254:0 /srv/data /tm rw - ext4 /dev/vda rw\n", "/tmp", []string{"/tm"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.own, inContainer(t, c.more).own(c.dir, c.keep))
		})
	}
}

func TestWhatIsMountedStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, file := range []string{"a", "volume/b", "folder/c", "folder/deep/volume/d", "folder/deep/e", "volumes/f", "folder/deep/file"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), nil, 0o600))
	}
	m := inContainer(t, "1 2 254:0 /x "+dir+"/volume rw - ext4 /dev/vda rw\n3 2 254:0 /y "+dir+"/folder/deep/volume rw - ext4 /dev/vda rw\n"+
		"4 2 254:0 /z "+dir+"/folder/deep/file rw - ext4 /dev/vda rw\n")
	m.empty(dir)
	var left []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if !entry.IsDir() {
			left = append(left, path[len(dir)+1:])
		}
		return err
	}))
	require.Equal(t, []string{"folder/deep/file", "folder/deep/volume/d", "volume/b"}, left)
	require.NoDirExists(t, filepath.Join(dir, "volumes"))
	m.empty(filepath.Join(dir, "none"))
}
