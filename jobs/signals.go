package jobs

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/funcd/funcd/api"
)

// sendable are the signals that Nomad's clients can send (their attribute os.signals; a job with another is placed nowhere) and that reach
// funcd-runner as pid 1: SIGSTOP would stop the runner in place of the function, and SIGPIPE and SIGPROF are the Go runtime's.
var sendable = []string{
	"SIGABRT", "SIGALRM", "SIGBUS", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO", "SIGKILL", "SIGQUIT", "SIGSEGV", "SIGSYS", "SIGTERM",
	"SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGXCPU", "SIGXFSZ",
}

// StopVariable is the environment variable that tells the runner by which signal Nomad ends the container, and which one the function is to get then:
// two numbers with = between them. Without, both are SIGTERM.
const StopVariable = "FUNCD_STOP"

// killSignal returns the signal by which Nomad ends the container, and what is in StopVariable. Where Nomad can't send the StopSignal itself, it
// sends SIGTERM and the runner makes the StopSignal of it.
func killSignal(f *api.Function) (name, variable string) {
	stop, err := f.Config.StopSignal.Parse()
	if err != nil {
		return "SIGTERM", ""
	}
	name, sent := f.Config.StopSignal.Name(), stop
	if !slices.Contains(sendable, name) {
		name, sent = "SIGTERM", syscall.SIGTERM
	}
	if stop == syscall.SIGTERM || stop == syscall.SIGKILL {
		return name, ""
	}
	return name, fmt.Sprintf("%d=%d", sent, stop)
}
