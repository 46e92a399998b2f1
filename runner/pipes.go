package runner

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pipeBuffer is what every pipe has room for: a page, the least that the kernel gives one to a user who has many.
const pipeBuffer = 4096

// startPipes starts the process with a pipe for each of its streams.
func (p *process) startPipes(payload []byte) (err error) {
	var theirs, ours [3]*os.File // closing one that is nil, or is closed, does no harm
	defer func() {
		for i := range theirs {
			theirs[i].Close()
			if err != nil {
				ours[i].Close()
			}
		}
	}()
	for i := range theirs {
		if theirs[i], ours[i], err = newPipe(i == 0); err != nil {
			return err
		}
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirs[0], theirs[1], theirs[2]
	small := len(payload) <= pipeBuffer
	if small { // there is room for it, whoever reads it or not
		_, _ = ours[0].Write(payload)
		ours[0].Close()
	}
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		return err
	}
	preferForOOM(p.cmd.Process.Pid)
	p.pipes = ours[1:]
	if !small {
		p.stdin = ours[0]
		p.copies.Go(func() {
			// A function need not read its stdin: an error here is its own decision.
			_, _ = p.stdin.Write(payload)
			p.stdin.Close()
		})
	}
	p.copies.Go(func() { _, _ = io.Copy(p.stdout, p.pipes[0]) })
	p.copies.Go(func() { _, _ = io.Copy(p.stderr, p.pipes[1]) })
	return nil
}

// newPipe makes a pipe for a stream that the process reads, or writes. os.Pipe would have the poller watch the process's end too, and each of
// them is made for each call.
func newPipe(reads bool) (theirs, ours *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	their, our := fds[0], fds[1]
	if !reads {
		their, our = our, their
	}
	_, err = unix.FcntlInt(uintptr(our), unix.F_SETFL, unix.O_NONBLOCK)
	return os.NewFile(uintptr(their), "pipe"), os.NewFile(uintptr(our), "pipe"), os.NewSyscallError("fcntl", err)
}
