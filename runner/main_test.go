package runner

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
)

// helperVariable makes the test binary a function's process: its value is what to do.
const helperVariable = "HELPER"

func TestMain(m *testing.M) {
	if what := os.Getenv(helperVariable); what != "" {
		helper(what, os.Args[1:])
	}
	goleak.VerifyTestMain(m)
}

// helper is the functions that the tests call.
func helper(what string, args []string) {
	switch what {
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "count":
		n, _ := io.Copy(io.Discard, os.Stdin)
		fmt.Print(n)
	case "env":
		fmt.Print(strings.Join(os.Environ(), "\x00"))
	case "args":
		fmt.Print(strings.Join(os.Args, "\x00"))
	case "both":
		fmt.Print("out")
		fmt.Fprint(os.Stderr, "err")
	case "exit":
		fmt.Print("out")
		fmt.Fprint(os.Stderr, "err")
		status, _ := strconv.Atoi(args[0])
		os.Exit(status)
	case "write":
		n, _ := strconv.Atoi(args[0])
		_, _ = os.Stdout.Write(bytes.Repeat([]byte("x"), n))
	case "raise":
		number, _ := strconv.Atoi(args[0])
		signal.Reset()
		_ = syscall.Kill(os.Getpid(), syscall.Signal(number))
		select {}
	case "closed stdin":
		_ = os.Stdin.Close()
		fmt.Print("out")
	case "trap": // tells the first of the signals, and ends with status 7
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGTERM, unix.SIGUSR1, unix.SIGWINCH, unix.SIGINT, unix.SIGPIPE)
		fmt.Fprintln(os.Stderr, "ready")
		fmt.Print(<-c)
		os.Exit(7)
	case "ignore": // can only be killed
		signal.Ignore(unix.SIGTERM)
		fmt.Fprintln(os.Stderr, "ready")
		select {}
	case "terminate": // ends by SIGTERM
		fmt.Fprintln(os.Stderr, "ready")
		select {}
	case "grandchild": // leaves a process behind that holds stdout and stderr
		child := exec.Command(os.Args[0])
		child.Env = []string{helperVariable + "=terminate"}
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			os.Exit(9)
		}
		fmt.Print(child.Process.Pid)
	case "orphans": // leaves processes behind that nobody waits for
		n, _ := strconv.Atoi(args[0])
		for range n {
			child := exec.Command(os.Args[0])
			child.Env = []string{helperVariable + "=terminate"}
			if err := child.Start(); err != nil {
				os.Exit(9)
			}
		}
	case "collect": // inherits such processes as pid 1 does, kills them and tells how many it has left
		fmt.Print(inheritAndCollect(args))
	case "leave": // tells what is in a folder, and leaves something of each kind in it
		entries, _ := os.ReadDir(args[0])
		for _, entry := range entries {
			fmt.Println(entry.Name())
		}
		_ = os.MkdirAll(filepath.Join(args[0], "folder", "of", "folders"), 0o700)
		_ = os.WriteFile(filepath.Join(args[0], "folder", "of", ".file"), []byte("x"), 0o400)
		_ = os.WriteFile(filepath.Join(args[0], ".hidden"), []byte("x"), 0o400)
		_ = os.Symlink(args[1], filepath.Join(args[0], "link"))
	case "tty":
		_, err := unix.IoctlGetTermios(0, unix.TCGETS)
		_, outErr := unix.IoctlGetTermios(1, unix.TCGETS)
		fmt.Fprintln(os.Stdout, "isatty", err == nil, outErr == nil)
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			fmt.Fprintln(os.Stderr, "got", lines.Text())
		}
		fmt.Println("end")
	default:
		os.Exit(99)
	}
	os.Exit(0)
}

// funcd is a server of one call, as a runner sees it.
type funcd struct {
	t          *testing.T
	assignment api.Assignment
	payload    []byte

	mu        sync.Mutex
	next      []http.HandlerFunc // answer the first requests for a call
	deliver   []http.HandlerFunc // answer the first results
	asked     int
	delivered int
	queries   []string
	tokens    []string
	names     []string // of the runners
	result    *api.Result
	stdout    []byte
}

func (f *funcd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens = append(f.tokens, r.Header.Get("Authorization"))
	f.names = append(f.names, r.Header.Get(api.RunnerHeader))
	pop := func(list *[]http.HandlerFunc) bool {
		if len(*list) == 0 {
			return false
		}
		handler := (*list)[0]
		*list = (*list)[1:]
		handler(w, r)
		return true
	}
	switch {
	case r.Method != http.MethodPost:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case r.URL.Path == api.RunnerNextPath:
		f.asked++
		f.queries = append(f.queries, r.URL.RawQuery)
		if !pop(&f.next) {
			_ = api.WriteFrame(w, f.assignment, f.payload)
		}
	case r.URL.Path == api.RunnerResultPath:
		f.delivered++
		var result api.Result
		stdout, err := api.ReadFrame(r.Body, &result, 4<<20)
		if err != nil {
			f.t.Error(err)
		}
		if pop(&f.deliver) {
			return
		}
		f.result, f.stdout = &result, stdout
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// answer is a handler that answers with a status.
func answer(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

// breakOff is a handler that hangs up.
func breakOff(w http.ResponseWriter, _ *http.Request) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		conn.Close()
	}
}

// newFuncd has a call of the helper, with what it is to do in the function's own environment.
func newFuncd(t *testing.T, what string, args ...string) *funcd {
	self, err := os.Executable()
	require.NoError(t, err)
	return &funcd{t: t, assignment: api.Assignment{
		CallID: "0b9c8a52-6a0b-4a52-9f6f-0d3f1c1e7a10", Function: "f", Command: append([]string{self}, args...),
		Env: []string{helperVariable + "=" + what}, Timeout: time.Minute, StopSignal: int(unix.SIGTERM), KillAfter: time.Minute, MaxOutput: 1 << 20,
	}}
}

// outcome is what a run of a runner has come to.
type outcome struct {
	status         int
	err            error
	result         *api.Result
	stdout         []byte // as funcd got it
	log, stderrLog string // as the container's log got it
	took           time.Duration
}

// container is a runner that runs.
type container struct {
	signals chan os.Signal
	stderr  *watched
	done    chan outcome
}

func (f *funcd) config(address string) Config {
	return Config{Address: address, Token: "token", Call: f.assignment.CallID, Function: "f", Revision: "7", Job: "func-a-b/dispatch-1", Patience: 10 * time.Second, Environ: []string{"PATH=" + os.Getenv("PATH"), "HOME=/root"}}
}

// start runs a runner.
func (f *funcd) start(change func(*Config)) *container { return f.startAt(f, change) }

// startAt runs a runner whose server is another one.
func (f *funcd) startAt(handler http.Handler, change func(*Config)) *container {
	server := httptest.NewServer(handler)
	f.t.Cleanup(server.Close)
	cfg := f.config(server.URL)
	if change != nil {
		change(&cfg)
	}
	c := &container{signals: make(chan os.Signal, 8), stderr: &watched{ready: make(chan struct{})}, done: make(chan outcome, 1)}
	var stdout bytes.Buffer
	cfg.Stdout, cfg.Stderr = &stdout, c.stderr
	go func() {
		began := time.Now()
		status, err := Run(context.Background(), cfg, c.signals)
		f.mu.Lock()
		defer f.mu.Unlock()
		c.done <- outcome{status, err, f.result, f.stdout, stdout.String(), c.stderr.text.String(), time.Since(began)}
	}()
	return c
}

func (c *container) wait(t *testing.T) outcome {
	t.Helper()
	select {
	case o := <-c.done:
		return o
	case <-time.After(40 * time.Second):
		t.Fatal("the runner does not end")
		panic("unreachable")
	}
}

func (f *funcd) run() outcome {
	f.t.Helper()
	return f.start(nil).wait(f.t)
}

// watched tells when something was written.
type watched struct {
	text  bytes.Buffer
	once  sync.Once
	ready chan struct{}
}

func (w *watched) Write(b []byte) (int, error) {
	n, err := w.text.Write(b)
	w.once.Do(func() { close(w.ready) })
	return n, err
}

func unixServer(t *testing.T, handler http.Handler) string {
	path := filepath.Join(t.TempDir(), "funcd.sock")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return "unix://" + path
}

func TestFromEnv(t *testing.T) {
	t.Parallel()
	whole := []string{"FUNCD_ADDRESS=unix:///funcd/funcd.sock", "NOMAD_TOKEN_funcd=token"}
	base := Config{Address: "unix:///funcd/funcd.sock", Token: "token", Patience: DefaultPatience}
	with := func(change func(*Config)) *Config {
		c := base
		change(&c)
		return &c
	}
	for name, c := range map[string]struct {
		environ []string
		want    *Config // nil: an error
	}{
		"what must be there":     {whole, &base},
		"a call":                 {append(slices.Clone(whole), "NOMAD_META_call=x"), with(func(c *Config) { c.Call = "x" })},
		"another's meta":         {append(slices.Clone(whole), "NOMAD_META_CALL=x"), &base},
		"a patience":             {append(slices.Clone(whole), "FUNCD_PATIENCE=90s"), with(func(c *Config) { c.Patience = 90 * time.Second })},
		"what it trusts":         {append(slices.Clone(whole), "FUNCD_CA=PEM"), with(func(c *Config) { c.CA = "PEM" })},
		"a stop signal":          {append(slices.Clone(whole), "FUNCD_STOP=15=37"), with(func(c *Config) { c.Stop, c.StopAs = 15, 37 })},
		"a wrong stop signal":    {append(slices.Clone(whole), "FUNCD_STOP=SIGTERM"), nil},
		"volumes":                {append(slices.Clone(whole), `FUNCD_KEEP=["/data","/a b"]`), with(func(c *Config) { c.Keep = []string{"/data", "/a b"} })},
		"wrong volumes":          {append(slices.Clone(whole), "FUNCD_KEEP=/data"), nil},
		"a wrong patience":       {append(slices.Clone(whole), "FUNCD_PATIENCE=90"), nil},
		"the image's own":        {append(slices.Clone(whole), "PATH=/bin", "A=b=c"), with(func(c *Config) { c.Environ = []string{"PATH=/bin", "A=b=c"} })},
		"Nomad's and funcd's":    {append(slices.Clone(whole), "NOMAD_ALLOC_ID=x", "FUNCD_X=y", "NOMAD_TOKEN=z", "NOMAD=1"), with(func(c *Config) { c.Environ = []string{"NOMAD=1"} })},
		"no token":               {whole[:1], nil},
		"an empty token":         {append(slices.Clone(whole), "NOMAD_TOKEN_funcd="), nil},
		"no address":             {whole[1:], nil},
		"nothing":                {nil, nil},
		"the last of a variable": {append(slices.Clone(whole), "NOMAD_META_call=x", "NOMAD_META_call=y"), with(func(c *Config) { c.Call = "y" })},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := FromEnv(c.environ)
			if c.want == nil {
				require.Error(t, err)
				require.NotContains(t, err.Error(), "=token")
				return
			}
			require.NoError(t, err)
			require.Equal(t, *c.want, got)
		})
	}
}

// The runner's token is in its environment, and must never be in the function's.
func FuzzFromEnv(f *testing.F) {
	f.Add("NOMAD_TOKEN_funcd", "secret", "FUNCD_ADDRESS", "unix:///x")
	f.Add("FUNCD_PATIENCE", "1h", "PATH", "/bin")
	f.Add("NOMAD_SECRETS_DIR=", "=", "", "=")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		environ := []string{"FUNCD_ADDRESS=unix:///x", "NOMAD_TOKEN_funcd=t", a + "=" + b, c + "=" + d, a, c + d}
		cfg, err := FromEnv(environ)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, variable := range merge(cfg.Environ, []string{a + "=over"}) {
			name, value, _ := strings.Cut(variable, "=")
			if seen[name] {
				t.Fatalf("%q is there twice", name)
			}
			seen[name] = true
			if own := strings.HasPrefix(name, "NOMAD_") || strings.HasPrefix(name, "FUNCD_"); own && value != "over" && !strings.Contains(a, "=") {
				t.Fatalf("%q reaches the function", variable)
			}
		}
	})
}

func TestMerge(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ base, over, want []string }{
		"nothing":                {nil, nil, []string{}},
		"the function's wins":    {[]string{"A=1", "B=2"}, []string{"A=3"}, []string{"A=3", "B=2"}},
		"a new one comes last":   {[]string{"A=1"}, []string{"C=3"}, []string{"A=1", "C=3"}},
		"the last of two wins":   {[]string{"A=1", "A=2"}, []string{"B=1", "B=2"}, []string{"A=2", "B=2"}},
		"an empty value counts":  {[]string{"A=1"}, []string{"A="}, []string{"A="}},
		"a value with =":         {[]string{"A=1=2"}, nil, []string{"A=1=2"}},
		"a name is not a prefix": {[]string{"AB=1"}, []string{"A=2"}, []string{"AB=1", "A=2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, merge(c.base, c.over))
		})
	}
}
