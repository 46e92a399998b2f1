//go:build integration

package test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// The bounds of waiting. A test that comes near one of them is stuck, not slow.
const (
	startTime = 3 * time.Minute // until a stack is ready
	stopTime  = 3 * time.Minute // until it has ended, with its Nomad and its containers
	patience  = 3 * time.Minute // for anything else
	pollPause = 50 * time.Millisecond
)

// marker is in the environment of every process that a stack starts, with the directory of this run.
const marker = "FUNCD_TEST_STACK"

// options say how a stack is started.
type options struct {
	dir    string // holds its data, configuration and log; that of an earlier start goes on with its data
	http   string // host:port of its API, a port of its own on 127.0.0.1 if empty
	config string // HCL for --config, none if empty
	noDev  bool   // without --dev
	nomad  string // URL of the Nomad that it is told of; one that it starts itself if empty
	consul string // host:port of Consul, as with nomad
	tools  string // directory that nomad and consul are taken from first, that of the environment if empty

	program   string // in root, "funcd" if empty
	prefix    string // of what it stores in dev's Consul, of a stack beside dev
	namespace string // that functions are in, if the configuration says one
}

// stack is a running funcd with the Nomad and the Consul that it uses.
type stack struct {
	*api.Client
	options
	url     string // of the API
	logFile string
	cmd     *exec.Cmd
	ended   chan struct{} // closed when its process has ended, as err says
	err     error
}

var servingLine = regexp.MustCompile(`msg="funcd is serving".* http=(\S+)`)

// start starts a stack and returns when it is ready.
func start(o options) (*stack, error) {
	free, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	if o.http == "" {
		o.http = "127.0.0.1:" + free[0]
	}
	if o.nomad == "" {
		o.nomad = "http://127.0.0.1:" + free[1]
	}
	if o.consul == "" {
		o.consul = "127.0.0.1:" + free[2]
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return nil, err
	}
	args := []string{"agent", "--http", o.http, "--data-dir", o.data()}
	if !o.noDev {
		args = append(args, "--dev")
	}
	if o.config != "" {
		file := filepath.Join(o.dir, "funcd.hcl")
		if err := os.WriteFile(file, []byte(o.config), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--config", file)
	}
	s := &stack{options: o, logFile: filepath.Join(o.dir, "funcd.log"), ended: make(chan struct{})}
	log, err := os.OpenFile(s.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	s.cmd = funcd(o, args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	if err := s.ready(before); err != nil {
		s.printLog(os.Stderr)
		return nil, errors.Join(err, s.kill())
	}
	s.Client, err = api.NewClient(api.ClientConfig{Address: s.url, HTTPClient: client})
	return s, err
}

func (o options) data() string { return filepath.Join(o.dir, "data") }

// funcd is the command with the stack's Nomad and Consul in its environment and none of the caller's.
func funcd(o options, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(root, cmp.Or(o.program, "funcd")), args...)
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "NOMAD_") && !strings.HasPrefix(variable, "CONSUL_") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, "NOMAD_ADDR="+o.nomad, "CONSUL_HTTP_ADDR="+o.consul, mark())
	if o.tools != "" {
		cmd.Env = append(cmd.Env, "FUNCD_TOOLS="+o.tools)
	}
	return cmd
}

// ready waits until the stack answers that it is ready. Its log since before says where it listens.
func (s *stack) ready(before int64) error {
	var last string
	for deadline := time.Now().Add(startTime); time.Now().Before(deadline); time.Sleep(pollPause) {
		select {
		case <-s.ended:
			return fmt.Errorf("funcd has ended: %w", s.err)
		default:
		}
		if s.url == "" {
			log, err := os.ReadFile(s.logFile)
			if err != nil {
				return err
			}
			if found := servingLine.FindSubmatch(log[before:]); found != nil {
				s.url = "http://" + string(found[1])
				describe(string(found[1]))
			}
			continue
		}
		resp, err := client.Get(s.url + "/readyz")
		if err != nil {
			last = err.Error()
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		last = string(body)
	}
	return fmt.Errorf("funcd is not ready after %s: %s", startTime, last)
}

// stop sends the signal and returns when the stack has ended, with an error if it did not end as it should.
func (s *stack) stop(signal syscall.Signal) error {
	if err := s.cmd.Process.Signal(signal); err != nil {
		return err
	}
	select {
	case <-s.ended:
		conceal(strings.TrimPrefix(s.url, "http://"))
	case <-time.After(stopTime):
		return errors.Join(fmt.Errorf("funcd did not end within %s after %s", stopTime, signal), s.kill())
	}
	if s.err != nil {
		return fmt.Errorf("funcd did not end with status 0 after %s: %w", signal, s.err)
	}
	return s.races()
}

// kill ends the stack's funcd with SIGKILL and returns when it is gone.
func (s *stack) kill() error {
	defer conceal(strings.TrimPrefix(s.url, "http://"))
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.ended
	return s.races()
}

// races tells whether the race detector has found any in the stack's funcd.
func (s *stack) races() error {
	log, err := os.ReadFile(s.logFile)
	if err != nil {
		return err
	}
	if _, report, found := bytes.Cut(log, []byte("WARNING: DATA RACE")); found {
		return fmt.Errorf("funcd has a data race:%.4000s", report)
	}
	return nil
}

// printLog prints the end of funcd's log and, if asked for, Nomad's.
func (s *stack) printLog(w io.Writer) {
	files := []string{s.logFile}
	if *nomadLog {
		files = append(files, filepath.Join(s.data(), "nomad.log"))
	}
	for _, file := range files {
		const last = 16 << 10
		log, err := os.ReadFile(file)
		if err == nil {
			fmt.Fprintf(w, "--- the end of %s\n%s\n", file, log[max(0, len(log)-last):])
		}
	}
}

// owners are the tests that directories and prefixes belong to, by their names.
var owners sync.Map

// owns makes the name the test's alone: two stacks of one name would meet in its data.
func owns(t *testing.T, kind, name string) {
	t.Helper()
	owner, _ := owners.LoadOrStore(kind+" "+name, t.Name())
	require.Equal(t, owner, t.Name(), "the %s %s is another test's", kind, name)
}

// startOwn starts a stack for one test, which ends with it. A name that the test has used before goes on with the data.
func startOwn(t *testing.T, name string, o options) *stack {
	t.Helper()
	owns(t, "directory", name)
	if o.prefix != "" {
		owns(t, "prefix", o.prefix)
	}
	o.dir = filepath.Join(root, name)
	s, err := start(o)
	require.NoError(t, err)
	t.Cleanup(func() {
		select {
		case <-s.ended:
		default:
			if err := s.stop(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
		if o.prefix != "" {
			if err := endContainers(o.prefix); err != nil {
				t.Error(err)
			}
		}
		if t.Failed() {
			s.printLog(t.Output())
		}
	})
	return s
}

// beside are the options of a funcd beside dev, on dev's Nomad and Consul. What it stores in Consul is its own.
func beside(prefix string) options {
	return options{nomad: dev.nomad, consul: dev.consul, prefix: prefix, config: fmt.Sprintf("consul {\n  prefix = %q\n}\n", prefix)}
}

// endContainers stops in dev's Nomad what a stack beside dev has left running. Its containers would wait there for another server for minutes, and take
// the room of other tests' calls.
func endContainers(prefix string) error {
	resp, err := client.Get("http://" + dev.consul + "/v1/kv/" + prefix + "/cluster?raw")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	cluster, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode == http.StatusNotFound { // no server of it has lived for long enough to start any
		return err
	}
	const running = `ParentID != "" and Status != "dead"`
	resp, err = client.Get(dev.nomad + "/v1/jobs?" + url.Values{"namespace": {"*"}, "prefix": {"func-"}, "meta": {"true"}, "filter": {running}}.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var all []struct {
		job
		Meta map[string]string
	}
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		return fmt.Errorf("what %s has left: %s: %w", prefix, resp.Status, err)
	}
	for _, j := range all {
		if j.Meta["funcd_cluster"] != string(cluster) {
			continue
		}
		req, err := http.NewRequest(http.MethodDelete, dev.nomad+jobOf(j.ID)+"?namespace="+url.QueryEscape(j.Namespace), nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
	}
	return nil
}

// allocations returns the ids of all allocations of the stack's Nomad.
func (s *stack) allocations() ([]string, error) {
	resp, err := client.Get(s.nomad + "/v1/allocations?namespace=*")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list []allocation
	err = json.NewDecoder(resp.Body).Decode(&list)
	ids := make([]string, len(list))
	for i, a := range list {
		ids[i] = a.ID
	}
	return ids, err
}

// noContainers waits until Docker has no container of the allocations, running or not.
func noContainers(allocations []string) error {
	var left []string
	for deadline := time.Now().Add(patience); ; time.Sleep(pollPause) {
		out, err := exec.Command("docker", "ps", "--all", "--no-trunc", "--format", `{{.Label "com.hashicorp.nomad.alloc_id"}} {{.Names}} {{.Status}}`).Output()
		if err != nil {
			return fmt.Errorf("docker ps: %w", err)
		}
		left = nil
		for line := range strings.Lines(string(out)) {
			for _, id := range allocations {
				if strings.HasPrefix(line, id+" ") {
					left = append(left, line)
				}
			}
		}
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("containers are left: %q", left)
		}
	}
}

// noProcesses waits until no process is left that a stack has started.
func noProcesses() error {
	for deadline := time.Now().Add(patience); ; time.Sleep(pollPause) {
		left, err := processes(mark())
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes are left: %v", left)
		}
	}
}

// mark is in the environment of all that this run has started.
func mark() string { return marker + "=" + root }

// processes returns the command lines of the processes with a variable in their environment, by their ids.
func processes(variable string) (map[int]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	found := map[int]string{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		environ, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if err != nil { // it has ended, or is another user's
			continue
		}
		if bytes.Contains(append([]byte{0}, environ...), []byte("\x00"+variable+"\x00")) {
			cmdline, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
			found[pid] = strings.ReplaceAll(string(cmdline), "\x00", " ")
		}
	}
	return found, nil
}

// childrenOf returns the processes whose parent is pid, and theirs.
func childrenOf(pid int) []int {
	var all []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(append(all, child), childrenOf(child)...)
			}
		}
	}
	return all
}

// docker runs the docker program and returns what it prints.
func docker(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "docker", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	require.NoError(t, cmd.Run(), "docker %v: %s", args, &stderr)
	return stdout.String()
}

// eventually waits until done says so.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(pollPause) {
		if time.Now().After(deadline) {
			require.FailNow(t, "it did not happen within "+patience.String(), what)
		}
	}
}

// job is what the tests look at of a Nomad job, allocation of an allocation.
type job struct {
	ID        string
	Namespace string
	Status    string
	Stop      bool
}

type allocation struct {
	ID           string
	JobID        string
	NodeID       string
	ClientStatus string
}

// nomadGet asks the stack's Nomad. The answer is decoded into v.
func (s *stack) nomadGet(t *testing.T, path string, v any) {
	t.Helper()
	a := request(t, http.MethodGet, s.nomad+s.inNamespace(path), "")
	require.Equal(t, http.StatusOK, a.status, "%s: %s", path, a.body)
	require.NoError(t, json.Unmarshal([]byte(a.body), v), a.body)
}

// inNamespace returns the path in Nomad's API with the namespace that functions are in.
func (s *stack) inNamespace(path string) string {
	if s.namespace == "" {
		return path
	}
	if strings.Contains(path, "?") {
		return path + "&namespace=" + s.namespace
	}
	return path + "?namespace=" + s.namespace
}

// jobOf returns the path of a job in Nomad's API.
func jobOf(id string) string { return "/v1/job/" + url.PathEscape(id) }

// consulKeys returns the keys in Consul's KV under a prefix.
func (s *stack) consulKeys(t *testing.T, prefix string) []string {
	t.Helper()
	a := request(t, http.MethodGet, "http://"+s.consul+"/v1/kv/"+prefix+"?keys", "")
	if a.status == http.StatusNotFound {
		return nil
	}
	require.Equal(t, http.StatusOK, a.status, a.body)
	var keys []string
	require.NoError(t, json.Unmarshal([]byte(a.body), &keys))
	return keys
}

// gate lets requests to Nomad through, or not, as the test wants it.
type gate struct {
	mu     sync.Mutex
	refuse func(w http.ResponseWriter, r *http.Request) bool // answers a request itself if it returns true; nil lets all through
}

func (g *gate) set(refuse func(w http.ResponseWriter, r *http.Request) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refuse = refuse
}

func (g *gate) get() func(w http.ResponseWriter, r *http.Request) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refuse
}
