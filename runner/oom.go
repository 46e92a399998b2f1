package runner

import (
	"bytes"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// oomFiles hold a line "oom_kill N" for the container's own cgroup: cgroup v2, then v1 as Docker mounts it.
var oomFiles = []string{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"}

// oomKills returns how many processes of the container the kernel has killed for its memory, 0 if that can't be read.
func oomKills() int {
	var buffer [1 << 10]byte
	for _, file := range oomFiles {
		content, err := withFile(file, unix.O_RDONLY, buffer[:], unix.Read)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(buffer[:content]) {
			if number, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
				n, _ := strconv.Atoi(string(bytes.TrimSpace(number)))
				return n
			}
		}
	}
	return 0
}

// preferForOOM makes the kernel choose the function's process, not the runner, when the container is out of memory: the runner is who tells.
func preferForOOM(pid int) {
	_, _ = withFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", unix.O_WRONLY, []byte("1000"), unix.Write)
}

// withFile opens one of the kernel's files, reads or writes it at once, and closes it. The os package would take three times the system calls,
// for each call of a reused container.
func withFile(path string, mode int, buffer []byte, do func(fd int, buffer []byte) (int, error)) (n int, err error) {
	fd, err := unix.Open(path, mode|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return do(fd, buffer)
}

// siginfoPid returns the pid that waitid filled in. unix.Siginfo has no name for the field: it follows three 32-bit words, and on
// 64-bit machines the padding that aligns it.
func siginfoPid(info *unix.Siginfo) int {
	const words = 3 + (unsafe.Sizeof(uintptr(0))-4)/4
	return int((*[words + 1]int32)(unsafe.Pointer(info))[words])
}
