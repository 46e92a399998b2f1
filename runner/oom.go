package runner

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// oomFiles hold a line "oom_kill N" for the container's own cgroup: cgroup v2, then v1 as Docker mounts it.
var oomFiles = []string{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"}

// oomKills returns how many processes of the container the kernel has killed for its memory, 0 if that can't be read.
func oomKills() int {
	for _, file := range oomFiles {
		content, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
			if number, ok := bytes.CutPrefix(lines.Bytes(), []byte("oom_kill ")); ok {
				n, _ := strconv.Atoi(string(number))
				return n
			}
		}
	}
	return 0
}

// preferForOOM makes the kernel choose the function's process, not the runner, when the container is out of memory: the runner is who tells.
func preferForOOM(pid int) {
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("1000"), 0)
}

// siginfoPid returns the pid that waitid filled in. unix.Siginfo has no name for the field: it follows three 32-bit words, and on
// 64-bit machines the padding that aligns it.
func siginfoPid(info *unix.Siginfo) int {
	const words = 3 + (unsafe.Sizeof(uintptr(0))-4)/4
	return int((*[words + 1]int32)(unsafe.Pointer(info))[words])
}
