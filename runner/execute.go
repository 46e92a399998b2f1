package runner

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
)

// drainTime is how long output may still come once the process and all others in the container are dead. It ends at once unless one of
// them could not be killed, as one that runs as another user than the runner.
const drainTime = time.Second

// execute runs one call to its end. It always returns a result. stopped tells that the container was told to end meanwhile.
func execute(cfg Config, a *api.Assignment, payload []byte, signals <-chan os.Signal) (result *api.Result, stdout []byte, stopped bool) {
	result = &api.Result{CallID: a.CallID, Function: a.Function, Attempt: a.Attempt}
	p, err := start(cfg, a, payload)
	if err != nil {
		result.Outcome, result.Message = startFailure(err)
		return result, nil, false
	}
	result.Started = p.started
	outOfMemory := oomKills()
	timedOut, stopped := p.wait(cfg, a, signals)
	result.Ended = time.Now()
	stdout = p.stdout.bytes
	result.Stderr = p.stderr.bytes

	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	failed := !status.Exited() || status.ExitStatus() != 0
	switch {
	case timedOut:
		result.Outcome = api.TimedOut
	case failed && oomKills() > outOfMemory:
		result.Outcome = api.OutOfMemory
	case failed && stopped:
		result.Outcome = api.Stopped
	case status.Signaled():
		result.Outcome = api.Signaled
	case p.stdout.over && !failed:
		result.Outcome = api.OverOutput
	default:
		result.Outcome = api.Exited
	}
	if status.Signaled() {
		result.Signal = int(status.Signal())
	} else {
		result.ExitCode = status.ExitStatus()
	}
	if result.Outcome != api.Exited || failed {
		stdout = nil // only what a call that has succeeded wrote is ever given out
	}
	return result, stdout, stopped
}

// process is a function's process and what it has written so far.
type process struct {
	cmd            *exec.Cmd
	started        time.Time
	stdout, stderr *capture
	copies         sync.WaitGroup // of the goroutines that copy from and to it
	pipes          []*os.File     // the runner's ends of its output
	stdin          *os.File
}

// start starts the command. Its error is one of exec, or of making pipes.
func start(cfg Config, a *api.Assignment, payload []byte) (*process, error) {
	if len(a.Command) == 0 {
		return nil, errors.New("no command: neither the function nor its image names one")
	}
	if err := writeHosts(hostsFile, a); err != nil {
		return nil, err
	}
	env := merge(merge(a.LinkEnv, cfg.Environ), a.Env)
	// LookPath reads the process's own PATH. As in Docker, it is the container's, the function's own included.
	path := ""
	for _, variable := range env {
		if value, ok := strings.CutPrefix(variable, "PATH="); ok {
			path = value
		}
	}
	if err := os.Setenv("PATH", path); err != nil {
		return nil, err
	}
	file, err := exec.LookPath(a.Command[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return nil, err
	}
	p := &process{
		cmd:    &exec.Cmd{Path: file, Args: a.Command, Env: env, SysProcAttr: &syscall.SysProcAttr{Setsid: true}},
		stdout: &capture{w: cfg.Stdout, limit: a.MaxOutput},
		stderr: &capture{w: cfg.Stderr, limit: api.ShortLength + 4},
	}
	if a.Tty {
		return p, p.startTty(payload)
	}
	return p, p.startPipes(payload)
}

// startTty gives the process a pseudo-terminal for all three streams. What it writes comes out as one stream, stdout.
func (p *process) startTty(payload []byte) error {
	p.started = time.Now()
	terminal, err := pty.StartWithAttrs(p.cmd, nil, &syscall.SysProcAttr{Setsid: true, Setctty: true})
	if err != nil {
		return err
	}
	preferForOOM(p.cmd.Process.Pid)
	p.pipes = []*os.File{terminal}
	p.copies.Go(func() {
		// A terminal has no end of its own: ^D at the start of a line is one.
		_, _ = terminal.Write(payload)
		if len(payload) > 0 && payload[len(payload)-1] != '\n' {
			_, _ = terminal.Write([]byte{4})
		}
		_, _ = terminal.Write([]byte{4})
	})
	p.copies.Go(func() { _, _ = io.Copy(p.stdout, terminal) })
	return nil
}

// wait passes signals on and enforces the Timeout until the process has ended and all that it wrote has been read. As pid 1's end ends a
// container, the end of the process ends all that it has started.
func (p *process) wait(cfg Config, a *api.Assignment, signals <-chan os.Signal) (timedOut, stopped bool) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.cmd.Wait() // the state is in p.cmd.ProcessState, the pipes are our own
	}()
	timeout := time.NewTimer(a.Timeout)
	defer timeout.Stop()
	var kill <-chan time.Time
	for running := true; running; {
		select {
		case <-ended:
			running = false
		case s := <-signals:
			switch {
			case s == unix.SIGCHLD:
				reap(p.cmd.Process.Pid)
			case s == unix.SIGPIPE:
				// The runner's own: nobody reads the container's log any more. Without its Notify the Go runtime would end the runner.
			default:
				stopped = stopped || ends(s) || s == cfg.Stop
				if s == cfg.Stop {
					s = cfg.StopAs
				}
				_ = p.cmd.Process.Signal(s)
			}
		case <-timeout.C:
			timedOut = true
			if a.KillAfter > 0 {
				_ = p.cmd.Process.Signal(syscall.Signal(a.StopSignal))
			}
			kill = time.After(a.KillAfter)
		case <-kill:
			_ = p.cmd.Process.Kill()
		}
	}
	killRest(p.cmd.Process.Pid)
	if os.Getpid() == 1 {
		collect(drainTime)
	}
	for _, pipe := range p.pipes {
		_ = pipe.SetReadDeadline(time.Now().Add(drainTime))
	}
	if p.stdin != nil {
		_ = p.stdin.SetWriteDeadline(time.Now())
	}
	p.copies.Wait()
	for _, pipe := range p.pipes {
		pipe.Close()
	}
	return timedOut, stopped
}

// killRest kills all that the process left behind, in its container or, where the runner is not pid 1, in its session's first group.
func killRest(child int) {
	target := -1
	if os.Getpid() != 1 {
		target = -child
	}
	_ = syscall.Kill(target, syscall.SIGKILL)
}

// reap collects the ended processes that pid 1 has inherited. child is left to its own Wait.
func reap(child int) {
	if os.Getpid() != 1 {
		return
	}
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		pid := siginfoPid(&info)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid == 0 || pid == child {
			return
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
}

// collect reaps all children until there are none, or within has passed, as one that hangs in the kernel can't be killed. The processes that killRest has
// killed would else count against the container's limit until the next call has started one, for which they may leave no room.
func collect(within time.Duration) {
	for deadline := time.Now().Add(within); ; {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR, pid > 0:
		case err != nil || time.Now().After(deadline):
			return
		default:
			time.Sleep(time.Millisecond)
		}
	}
}

// ends tells the signals by which a container is told to end from those that a function may just be sent.
func ends(s os.Signal) bool {
	switch s {
	case unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2:
		return true
	}
	return false
}

// merge puts the variables of over over those of base, each name once, the last one winning, in the order of their first mention.
func merge(base, over []string) []string {
	at := make(map[string]int, len(base)+len(over))
	merged := make([]string, 0, len(base)+len(over))
	for _, list := range [][]string{base, over} {
		for _, variable := range list {
			name, _, _ := strings.Cut(variable, "=")
			if i, ok := at[name]; ok {
				merged[i] = variable
				continue
			}
			at[name] = len(merged)
			merged = append(merged, variable)
		}
	}
	return merged
}

func startFailure(err error) (api.Outcome, string) {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return api.NoCommand, err.Error()
	}
	return api.NotStartable, err.Error()
}

// capture passes on all that it is written and keeps the first limit bytes.
type capture struct {
	w     io.Writer
	limit int
	bytes []byte
	over  bool // more than limit bytes came
}

// buffers are those between pipes and captures. A call of a reused container must not leave 64 KiB to the garbage collector.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// ReadFrom is what io.Copy uses in place of a buffer of its own.
func (c *capture) ReadFrom(r io.Reader) (n int64, err error) {
	buffer := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buffer)
	for {
		read, err := r.Read(buffer[:])
		_, _ = c.Write(buffer[:read])
		n += int64(read)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// Write never fails: a container whose log can't be written still has a result.
func (c *capture) Write(b []byte) (int, error) {
	_, _ = c.w.Write(b)
	room := c.limit - len(c.bytes)
	c.bytes = append(c.bytes, b[:min(room, len(b))]...)
	c.over = c.over || len(b) > room
	return len(b), nil
}
