package runner

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestKilledProcessesAreCollected needs a process without other children of the test's.
func TestKilledProcessesAreCollected(t *testing.T) {
	t.Parallel()
	const orphans = 8
	parent := exec.Command(os.Args[0], strconv.Itoa(orphans))
	parent.Env = []string{helperVariable + "=collect"}
	out, err := parent.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, fmt.Sprintf("%d killed, %d left", orphans, 0), string(out))
}

// inheritAndCollect starts a process that leaves others behind, kills those and collects them.
func inheritAndCollect(args []string) string {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err.Error()
	}
	parent := exec.Command(os.Args[0], args...)
	parent.Env = []string{helperVariable + "=orphans"}
	if err := parent.Run(); err != nil {
		return err.Error()
	}
	killed := children()
	for _, pid := range killed {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	collect(time.Minute)
	return fmt.Sprintf("%d killed, %d left", len(killed), len(children()))
}

// children are those of this process, the dead that nobody has collected among them.
func children() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, _ := os.ReadFile("/proc/" + entry.Name() + "/stat")
		_, after, _ := strings.Cut(string(stat), ") ") // behind the name: the state and the parent
		if fields := strings.Fields(after); len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			pids = append(pids, pid)
		}
	}
	return pids
}
