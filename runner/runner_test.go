package runner

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
)

func TestPayload(t *testing.T) {
	t.Parallel()
	binary := make([]byte, 1<<20)
	for i := range binary {
		binary[i] = byte(i * 7)
	}
	for name, payload := range map[string][]byte{"nothing": {}, "text": []byte("hello\n"), "1 MiB": binary} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFuncd(t, "cat")
			f.payload = payload
			o := f.run()
			require.NoError(t, o.err)
			require.Zero(t, o.status)
			require.Equal(t, api.Exited, o.result.Outcome)
			require.True(t, bytes.Equal(payload, o.stdout), "%d bytes came back", len(o.stdout))
			require.Equal(t, string(payload), o.log, "the container's log has it too")
			require.Equal(t, f.assignment.CallID, o.result.CallID)
			require.Equal(t, "f", o.result.Function)
			require.False(t, o.result.Started.IsZero())
			require.False(t, o.result.Ended.Before(o.result.Started))
			require.Equal(t, []string{"call=" + f.assignment.CallID + "&function=f&job=func-a-b%2Fdispatch-1&revision=7"}, f.queries)
			require.Equal(t, []string{"Bearer token", "Bearer token"}, f.tokens)
		})
	}
}

func TestPayloadThatIsNotRead(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"both", "closed stdin"} {
		f := newFuncd(t, what)
		f.payload = make([]byte, 1<<20)
		o := f.run()
		require.NoError(t, o.err)
		require.Equal(t, api.Exited, o.result.Outcome)
		require.Equal(t, "out", string(o.stdout))
	}
}

func TestOverASocket(t *testing.T) {
	t.Parallel()
	f := newFuncd(t, "cat")
	f.payload = []byte("over a socket")
	address := unixServer(t, f)
	o := f.start(func(cfg *Config) { cfg.Address = address }).wait(t)
	require.NoError(t, o.err)
	require.Equal(t, "over a socket", string(o.stdout))
}

func TestEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		what, arg string
		outcome   api.Outcome
		exit      int
		signal    syscall.Signal
		status    int
	}{
		"by itself":            {"exit", "0", api.Exited, 0, 0, 0},
		"with status 1":        {"exit", "1", api.Exited, 1, 0, 1},
		"with status 255":      {"exit", "255", api.Exited, 255, 0, 255},
		"as a shell's SIGKILL": {"exit", "137", api.Exited, 137, 0, 137},
		"by SIGKILL":           {"raise", "9", api.Signaled, 0, 9, 137},
		"by SIGTERM":           {"raise", "15", api.Signaled, 0, 15, 143},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newFuncd(t, c.what, c.arg).run()
			require.NoError(t, o.err)
			require.Equal(t, c.outcome, o.result.Outcome)
			require.Equal(t, c.exit, o.result.ExitCode)
			require.Equal(t, int(c.signal), o.result.Signal)
			require.Equal(t, c.status, o.status)
			if c.what == "exit" {
				require.Equal(t, "out", o.log)
				require.Equal(t, "err", o.stderrLog)
				require.Equal(t, "err", string(o.result.Stderr))
				require.Equal(t, c.status == 0, len(o.stdout) > 0, "only a success has an output")
			}
		})
	}
}

func TestOutputOverTheLimit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bytes   int
		outcome api.Outcome
	}{
		"of the limit":   {1000, api.Exited},
		"one byte over":  {1001, api.OverOutput},
		"megabytes over": {3 << 20, api.OverOutput},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFuncd(t, "write", strconv.Itoa(c.bytes))
			f.assignment.MaxOutput = 1000
			o := f.run()
			require.NoError(t, o.err)
			require.Equal(t, c.outcome, o.result.Outcome)
			require.Zero(t, o.result.ExitCode, "it was drained, and so could end")
			require.Len(t, o.log, c.bytes, "the log has it all")
			require.Equal(t, c.outcome == api.Exited, len(o.stdout) == 1000)
		})
	}
}

func TestStderrIsCut(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	c := capture{w: &log, limit: 5}
	for range 3 {
		n, err := c.Write([]byte("abc"))
		require.NoError(t, err)
		require.Equal(t, 3, n)
	}
	require.Equal(t, "abcab", string(c.bytes))
	require.True(t, c.over)
	require.Equal(t, "abcabcabc", log.String())
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestLogThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	c := capture{w: brokenWriter{}, limit: 5}
	n, err := c.Write([]byte("abc"))
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.Equal(t, "abc", string(c.bytes))
}

func TestCannotStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o644))
	noInterpreter := filepath.Join(dir, "no-interpreter")
	require.NoError(t, os.WriteFile(noInterpreter, []byte("#!/does/not/exist\n"), 0o755))
	noFormat := filepath.Join(dir, "no-format")
	require.NoError(t, os.WriteFile(noFormat, []byte("\x7fELF but not really"), 0o755))
	for name, c := range map[string]struct {
		command []string
		outcome api.Outcome
		status  int
	}{
		"a path that is not there":           {[]string{"/does/not/exist"}, api.NoCommand, 127},
		"a name that is not on the PATH":     {[]string{"does-not-exist"}, api.NoCommand, 127},
		"an interpreter that is not there":   {[]string{noInterpreter}, api.NoCommand, 127},
		"a file that is not executable":      {[]string{file}, api.NotStartable, 126},
		"a directory":                        {[]string{dir}, api.NotStartable, 126},
		"a file of no format that is known":  {[]string{noFormat}, api.NotStartable, 126},
		"no command at all":                  {nil, api.NotStartable, 126},
		"an empty command":                   {[]string{""}, api.NoCommand, 127},
		"a file that is used as a directory": {[]string{file + "/x"}, api.NotStartable, 126},
	} {
		for _, tty := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, tty %t", name, tty), func(t *testing.T) {
				t.Parallel()
				f := newFuncd(t, "cat")
				f.assignment.Command, f.assignment.Tty = c.command, tty
				o := f.run()
				require.NoError(t, o.err)
				require.Equal(t, c.outcome, o.result.Outcome, o.result.Message)
				require.Equal(t, c.status, o.status)
				require.NotEmpty(t, o.result.Message)
				require.True(t, o.result.Started.IsZero(), "it never ran")
			})
		}
	}
}

// Not parallel: the command is looked for on the process's own PATH, which each run sets.
func TestCommandIsLookedForOnTheFunctionsPath(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Symlink(self, filepath.Join(dir, "my-command")))
	f := newFuncd(t, "args", "a b", "", "${x}")
	f.assignment.Command[0] = "my-command"
	t.Setenv("PATH", os.Getenv("PATH"))

	o := f.run()
	require.Equal(t, api.NoCommand, o.result.Outcome, "it is not on the container's PATH")

	f.assignment.Env = append(f.assignment.Env, "PATH=/nowhere:"+dir)
	o = f.run()
	require.Equal(t, api.Exited, o.result.Outcome, o.result.Message)
	require.Equal(t, []string{"my-command", "a b", "", "${x}"}, strings.Split(string(o.stdout), "\x00"))

	o = f.start(func(cfg *Config) { cfg.Environ = []string{"PATH=" + dir} }).wait(t)
	require.Equal(t, api.Exited, o.result.Outcome)
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	f := newFuncd(t, "env")
	f.assignment.Env = append(f.assignment.Env, "HTTP_X=header", "A=function", "B=", "A=again", "NOMAD_OWN=may be")
	cfg, err := FromEnv([]string{
		"PATH=/image", "A=image", "C=image=x", "FUNCD_ADDRESS=http://x", "NOMAD_TOKEN_funcd=token", "NOMAD_META_call=x", "NOMAD_ALLOC_ID=y",
	})
	require.NoError(t, err)
	o := f.start(func(c *Config) { c.Environ = cfg.Environ }).wait(t)
	require.NoError(t, o.err)
	require.ElementsMatch(t, []string{
		"PATH=/image", "A=again", "C=image=x", helperVariable + "=env", "HTTP_X=header", "B=", "NOMAD_OWN=may be",
	}, strings.Split(string(o.stdout), "\x00"))
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		what      string
		killAfter time.Duration
		signal    syscall.Signal
		exit      int
		status    int
	}{
		"that is obeyed":       {"trap", time.Minute, 0, 7, 7},
		"that ends a process":  {"terminate", time.Minute, unix.SIGTERM, 0, 143},
		"that is ignored":      {"ignore", 50 * time.Millisecond, unix.SIGKILL, 0, 137},
		"with SIGKILL at once": {"trap", 0, unix.SIGKILL, 0, 137},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFuncd(t, c.what)
			f.assignment.Timeout, f.assignment.KillAfter = 1500*time.Millisecond, c.killAfter
			o := f.run()
			require.NoError(t, o.err)
			require.Equal(t, api.TimedOut, o.result.Outcome)
			require.Equal(t, int(c.signal), o.result.Signal)
			require.Equal(t, c.exit, o.result.ExitCode)
			require.Equal(t, c.status, o.status)
			require.Empty(t, o.stdout)
			ran := o.result.Ended.Sub(o.result.Started)
			require.GreaterOrEqual(t, ran, f.assignment.Timeout)
			require.Less(t, ran, 20*time.Second)
			if c.what == "trap" && c.killAfter > 0 {
				require.Equal(t, "terminated", o.log, "it was asked to end with its StopSignal")
			} else {
				require.Empty(t, o.log)
			}
		})
	}
}

// A process that was left behind and holds the output open does not hold up the result, and is ended.
func TestGrandchild(t *testing.T) {
	t.Parallel()
	f := newFuncd(t, "grandchild")
	o := f.run()
	require.NoError(t, o.err)
	require.Equal(t, api.Exited, o.result.Outcome)
	require.Less(t, o.took, 10*time.Second)
	pid, err := strconv.Atoi(string(o.stdout))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	}, 10*time.Second, 10*time.Millisecond)
}

func TestTty(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		payload string
		want    []string // of the output, beside the echo
	}{
		"lines":             {"a\nb\n", []string{"isatty true true", "got a", "got b", "end"}},
		"an unfinished one": {"a\nb", []string{"isatty true true", "got a", "got b", "end"}},
		"nothing":           {"", []string{"isatty true true", "end"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFuncd(t, "tty")
			f.assignment.Tty, f.payload = true, []byte(c.payload)
			o := f.run()
			require.NoError(t, o.err)
			require.Equal(t, api.Exited, o.result.Outcome, o.result.Message)
			for _, line := range c.want {
				require.Contains(t, string(o.stdout), line+"\r\n")
			}
			require.Equal(t, string(o.stdout), o.log)
			require.Empty(t, o.result.Stderr, "a terminal has one stream")
		})
	}
}

func TestSignalsWhileTheFunctionRuns(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		signal  syscall.Signal
		outcome api.Outcome
	}{
		"SIGTERM, which ends a container": {unix.SIGTERM, api.Stopped},
		"SIGUSR1, which may":              {unix.SIGUSR1, api.Stopped},
		"SIGWINCH, which is news":         {unix.SIGWINCH, api.Exited},
		"SIGINT":                          {unix.SIGINT, api.Stopped},
		"SIGTERM after a SIGCHLD, which is the runner's own": {unix.SIGCHLD, api.Stopped},
		"SIGTERM after a SIGPIPE, which is too":              {unix.SIGPIPE, api.Stopped},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newFuncd(t, "trap").start(nil)
			<-r.stderr.ready
			r.signals <- c.signal
			want := c.signal
			if want == unix.SIGCHLD || want == unix.SIGPIPE {
				want = unix.SIGTERM
				r.signals <- want
			}
			o := r.wait(t)
			require.NoError(t, o.err)
			require.Equal(t, c.outcome, o.result.Outcome)
			require.Equal(t, 7, o.result.ExitCode)
			require.Equal(t, want.String(), o.log)
		})
	}
}

func TestStoppedBySignal(t *testing.T) {
	t.Parallel()
	r := newFuncd(t, "terminate").start(nil)
	<-r.stderr.ready
	r.signals <- unix.SIGTERM
	o := r.wait(t)
	require.Equal(t, api.Stopped, o.result.Outcome)
	require.Equal(t, int(unix.SIGTERM), o.result.Signal)
	require.Equal(t, 143, o.status)
}

func TestSignalsWhileACallIsWaitedFor(t *testing.T) {
	t.Parallel()
	f := newFuncd(t, "cat")
	waiting := make(chan struct{})
	f.next = []http.HandlerFunc{func(_ http.ResponseWriter, r *http.Request) {
		close(waiting)
		<-r.Context().Done()
	}}
	r := f.start(nil)
	<-waiting
	r.signals <- unix.SIGWINCH // does not end a container
	r.signals <- unix.SIGCHLD
	r.signals <- unix.SIGTERM
	o := r.wait(t)
	require.NoError(t, o.err)
	require.Zero(t, o.status)
	require.Zero(t, f.delivered)
	require.Equal(t, 1, f.asked)
}

func TestAsking(t *testing.T) {
	t.Parallel()
	half := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte(`{"CallID":"x"`))
		breakOff(w, r)
	}
	none := answer(http.StatusNoContent)
	for name, c := range map[string]struct {
		next    []http.HandlerFunc
		status  int
		wrong   bool // an error is returned
		asked   int
		answers int
	}{
		"no call for a while":      {[]http.HandlerFunc{none, none, none}, 0, false, 4, 1},
		"no call ever":             {[]http.HandlerFunc{none, answer(http.StatusGone)}, 0, false, 2, 0},
		"a server that restarts":   {[]http.HandlerFunc{breakOff, answer(503), answer(500), answer(429)}, 0, false, 5, 1},
		"a frame that breaks off":  {[]http.HandlerFunc{half}, 0, false, 2, 1},
		"a token that is refused":  {[]http.HandlerFunc{answer(401)}, 1, true, 1, 0},
		"a page that is not there": {[]http.HandlerFunc{answer(404)}, 1, true, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFuncd(t, "exit", "0")
			f.next = c.next
			o := f.run()
			require.Equal(t, c.wrong, o.err != nil, "%v", o.err)
			require.Equal(t, c.status, o.status)
			require.Equal(t, c.asked, f.asked)
			require.Equal(t, c.answers, f.delivered)
		})
	}
}

func TestDelivering(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		deliver []http.HandlerFunc
		wrong   bool
		times   int
		arrives bool
	}{
		"at once":                    {nil, false, 1, true},
		"a server that restarts":     {[]http.HandlerFunc{breakOff, answer(503), breakOff, answer(500)}, false, 5, true},
		"a call that is over":        {[]http.HandlerFunc{answer(http.StatusGone)}, false, 1, false},
		"a result that is not taken": {[]http.HandlerFunc{answer(http.StatusBadRequest)}, true, 1, false},
		"an output that is too big":  {[]http.HandlerFunc{answer(http.StatusRequestEntityTooLarge)}, true, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFuncd(t, "cat")
			f.payload, f.deliver = []byte("payload"), c.deliver
			o := f.run()
			require.Equal(t, c.wrong, o.err != nil, "%v", o.err)
			require.Equal(t, c.times, f.delivered)
			require.Equal(t, c.arrives, o.result != nil)
			if c.arrives {
				require.Equal(t, "payload", string(o.stdout))
			}
			if c.wrong {
				require.Equal(t, 1, o.status)
			}
		})
	}
}

func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	f := newFuncd(t, "cat")
	f.next = make([]http.HandlerFunc, 1000)
	for i := range f.next {
		f.next[i] = answer(http.StatusServiceUnavailable)
	}
	o := f.start(func(c *Config) { c.Patience = time.Second }).wait(t)
	require.ErrorContains(t, o.err, "503")
	require.Equal(t, api.RunnerGaveUp, o.status)
	require.Greater(t, f.asked, 1)
	require.GreaterOrEqual(t, o.took, time.Second)

	// Nobody is there at all.
	status, err := Run(t.Context(), Config{Address: "unix://" + filepath.Join(t.TempDir(), "none"), Patience: time.Millisecond}, nil)
	require.Error(t, err)
	require.Equal(t, api.RunnerGaveUp, status)
}

func TestWrongAddress(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "localhost:1", "ftp://x", "/funcd.sock"} {
		status, err := Run(context.Background(), Config{Address: address}, nil)
		require.ErrorContains(t, err, AddressVariable)
		require.Equal(t, 1, status)
	}
}

// Not parallel: the files are the package's.
func TestOOMKills(t *testing.T) {
	before := oomFiles
	t.Cleanup(func() { oomFiles = before })
	for name, c := range map[string]struct {
		v2, v1 string // "" for no such file
		want   int
	}{
		"cgroup v2":          {"low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 7\n", "", 2},
		"cgroup v1":          {"", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", 3},
		"an old cgroup v1":   {"", "oom_kill_disable 0\nunder_oom 0\n", 0},
		"both":               {"oom_kill 1\n", "oom_kill 2\n", 1},
		"v2 without a count": {"low 0\n", "oom_kill 2\n", 2},
		"no number":          {"oom_kill x\n", "", 0},
		"neither":            {"", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			oomFiles = []string{filepath.Join(t.TempDir(), "v2"), filepath.Join(t.TempDir(), "v1")}
			for i, content := range []string{c.v2, c.v1} {
				if content != "" {
					require.NoError(t, os.WriteFile(oomFiles[i], []byte(content), 0o600))
				}
			}
			require.Equal(t, c.want, oomKills())
		})
	}
}

func TestEachRunnerHasANameOfItsOwn(t *testing.T) {
	t.Parallel()
	f := newFuncd(t, "cat")
	for range 2 {
		require.NoError(t, f.run().err)
	}
	require.Len(t, f.names, 4)
	require.Equal(t, f.names[0], f.names[1], "the same in all its requests")
	require.Equal(t, f.names[2], f.names[3])
	require.NotEqual(t, f.names[0], f.names[2])
	require.NotEmpty(t, f.names[0])
	require.LessOrEqual(t, len(f.names[0]), api.MaxRunner)
}
