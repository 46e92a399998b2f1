package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// process is a program of the stack, which may be killed and started any number of times.
type process struct {
	name    string
	args    []string // the first is the program
	env     []string
	log     string
	prepare func() // before each start; may be nil

	mu     sync.Mutex
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has ended
	wanted bool          // it is to run: if it ends by itself it is started again
	alone  int           // times that it has ended by itself
}

// restartPause is when a program is started again that has ended by itself, as systemd would.
const restartPause = time.Second

// start starts the program.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted {
		return nil
	}
	p.wanted = true
	return p.launch()
}

// launch is start with p.mu held.
func (p *process) launch() error {
	if p.prepare != nil {
		p.prepare()
	}
	output, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Env = p.env
	cmd.Stdout, cmd.Stderr = output, output
	// The kernel ends it with this program, also if that is killed. A Ctrl-C is for this program alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		// Its parent, to the kernel, is a thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer output.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(ended)
			p.gone(ended)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.cmd, p.ended = cmd, ended
	return nil
}

// gone starts the program again if it was to run.
func (p *process) gone(ended chan struct{}) {
	p.mu.Lock()
	again := p.wanted && p.ended == ended
	if again {
		p.alone++
	}
	p.mu.Unlock()
	if !again {
		return
	}
	time.Sleep(restartPause)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted && p.ended == ended {
		if err := p.launch(); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
		}
	}
}

// end sends the signal, after which the program is to end, and returns when it has. After patience it is killed, which is an error.
func (p *process) end(signal syscall.Signal, patience time.Duration) error {
	p.mu.Lock()
	p.wanted = false
	cmd, ended := p.cmd, p.ended
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(signal)
	_ = cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-ended:
		return nil
	case <-time.After(patience):
	}
	_ = cmd.Process.Kill()
	<-ended
	return fmt.Errorf("%s did not end within %s after %s", p.name, patience, signal)
}

// signal sends a signal that the program survives.
func (p *process) signal(signal syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// pid is that of the program, which may have ended.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}
