//go:build integration

package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// cli runs the program as a person does, in an environment of its own.
type cli struct {
	env []string
}

// outcome is what a command has left behind.
type outcome struct {
	status   int
	out, err string
}

// cli returns the command line of someone who has told it where the stack is.
func (s *stack) cli(t *testing.T, env ...string) *cli {
	return &cli{append([]string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "TERM=xterm-256color", "FUNCD_ADDR=" + s.url}, env...)}
}

func (c *cli) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(root, "funcd"), args...)
	cmd.Env = c.env
	return cmd
}

// run runs a command with stdin piped to it.
func (c *cli) run(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := c.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		require.NoError(t, err)
	}
	require.NoError(t, ctx.Err(), "%v did not end: %s", args, &errs)
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// prints runs a command that must succeed without a word on stderr, and returns what it prints.
func (c *cli) prints(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	o := c.run(t, stdin, args...)
	require.Equal(t, outcome{0, o.out, ""}, o, args)
	return o.out
}

// session is a command in a terminal of its own.
type session struct {
	cmd      *exec.Cmd
	terminal *os.File
	mu       sync.Mutex
	text     strings.Builder
	reading  sync.WaitGroup
}

// open starts a command in a terminal.
func (c *cli) open(t *testing.T, args ...string) *session {
	t.Helper()
	return c.openWide(t, 120, args...)
}

// openWide starts a command in a terminal with so many columns.
func (c *cli) openWide(t *testing.T, columns uint16, args ...string) *session {
	t.Helper()
	s := &session{cmd: c.command(t.Context(), args...)}
	var err error
	s.terminal, err = pty.StartWithSize(s.cmd, &pty.Winsize{Rows: 24, Cols: columns})
	require.NoError(t, err)
	s.reading.Go(func() {
		buffer := make([]byte, 4096)
		for {
			n, err := s.terminal.Read(buffer) // an error when the command has ended
			s.mu.Lock()
			s.text.Write(buffer[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	return s
}

// shown is what the terminal has shown.
func (s *session) shown() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.ReplaceAll(s.text.String(), "\r\n", "\n")
}

// press types at the terminal.
func (s *session) press(t *testing.T, keys string) {
	t.Helper()
	_, err := io.WriteString(s.terminal, keys)
	require.NoError(t, err)
}

const ctrlC = "\x03"

// connected tells whether the command has a connection.
func (s *session) connected() bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.cmd.Process.Pid))
	return slices.ContainsFunc(files, func(file string) bool {
		to, _ := os.Readlink(file)
		return strings.HasPrefix(to, "socket:")
	})
}

// end waits for the command's end and returns its exit status.
func (s *session) end(t *testing.T) int {
	t.Helper()
	timer := time.AfterFunc(2*patience, func() { _ = s.cmd.Process.Kill() })
	defer timer.Stop()
	err := s.cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		require.NoError(t, err)
	}
	s.reading.Wait()
	require.NoError(t, s.terminal.Close())
	return s.cmd.ProcessState.ExitCode()
}

const uuidForm = `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`

var (
	createdForm = regexp.MustCompile(`^\S+ is created with the address of (http://\S+/call/\S+/(` + uuidForm + `))\n$`)
	calledForm  = regexp.MustCompile(`^CallId: (` + uuidForm + `)\n$`)
	colourForm  = regexp.MustCompile(`\x1b\[[0-9;]*m`)
)

// make creates a function with a name of the test's own, and returns the name and the UUID.
func (c *cli) make(t *testing.T, args ...string) (name, uuid string) {
	t.Helper()
	name = newName(t)
	created := createdForm.FindStringSubmatch(c.prints(t, "", append([]string{"create", "--name", name, "--size", "s1"}, args...)...))
	require.NotNil(t, created)
	return name, created[2]
}

// called makes a call and returns its id.
func (c *cli) called(t *testing.T, stdin, name string) string {
	t.Helper()
	id := calledForm.FindStringSubmatch(c.prints(t, stdin, "call", name))
	require.NotNil(t, id)
	return id[1]
}

// TestCommandLine is a function's life by the command line alone.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	c := dev.cli(t)
	envFile := filepath.Join(t.TempDir(), "env")
	require.NoError(t, os.WriteFile(envFile, []byte("# of a file\nFROM_FILE=1\nFUNCD_ADDR\n"), 0o600))
	name, uuid := c.make(t, "-e", "COLOUR=blue", "--env-file", envFile, "-l", "team=web", "--sg", "web", "--timeout", "60", "funcd/env", "--flag", "-l")

	require.Regexp(t, `(?m)^NAME +SIZE +IMAGE +COMMAND +CREATED +UUID\n`+name+` +s1 +funcd/env +--flag -l +\S.* ago +`+uuid+`\n$`,
		c.prints(t, "", "ls", "-f", "name="+name, "-f", "label=team=web"))
	require.Equal(t, name+"\n", c.prints(t, "", "ls", "-q", "-f", "name="+name))
	require.Equal(t, "60 yes\n", c.prints(t, "", "inspect", "-f", `{{.Timeout}} {{.Config.Labels.sh_hyper_sg_web}}`, name))
	var inspected []api.Function
	require.NoError(t, json.Unmarshal([]byte(c.prints(t, "", "inspect", name)), &inspected))
	require.Equal(t, uuid, inspected[0].UUID)

	var e struct {
		Args []string
		Env  []string
	}
	require.NoError(t, json.Unmarshal([]byte(c.prints(t, "", "call", "--sync", name)), &e))
	require.Equal(t, []string{"--flag", "-l"}, e.Args[len(e.Args)-2:])
	require.Subset(t, e.Env, []string{"COLOUR=blue", "FROM_FILE=1", "FUNCD_ADDR=" + dev.url})

	// A call by its id alone.
	id := c.called(t, "", name)
	require.Contains(t, c.prints(t, "", "get", "--wait", id), "COLOUR=blue")
	eventually(t, "the call is gone", func() bool { return !strings.Contains(c.prints(t, "", "status", "--list", name), id) })
	require.Equal(t, outcome{5, "", "funcd: no such call: " + id + "; one that was got is gone\n"}, c.run(t, "", "get", id), "it can be got once")
	var got struct{ CallID, Status, Output string }
	id = c.called(t, "", name)
	require.NoError(t, json.Unmarshal([]byte(c.prints(t, "", "get", "--wait", "-o", "json", id)), &got))
	require.Equal(t, id, got.CallID)
	require.Equal(t, "FINISHED", got.Status)
	require.Contains(t, got.Output, "COLOUR=blue")

	id = c.called(t, "", name)
	lines := strings.Split(c.prints(t, "", "logs", "--callid", id, name), "\n")
	require.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \[CALL\] CallId: `+id+`, ShortStdin: $`, lines[0])
	// Those before it go when their answers have arrived, and counts, the list and the log are not of one moment.
	comes := func(form string, args ...string) {
		t.Helper()
		form = `(?m)` + form
		eventually(t, form, func() bool { return regexp.MustCompile(form).MatchString(c.prints(t, "", args...)) })
	}
	comes(`^TOTAL +PENDING +RUNNING +FINISHED +FAILED\n1 +0 +0 +1 +0\n$`, "status", name)
	comes(`^CALL ID +STATUS +CREATED +ENDED +EXIT +MESSAGE\n`+id+` +FINISHED +\S+Z +\S+Z +0 *\n$`, "status", "--list", name)
	comes(` \[FINISHED\] CallId: `+id+`, ShortStdout: \{.*, ShortStderr: \n$`, "logs", "--tail", "1", name)

	require.Equal(t, name+"\n", c.prints(t, "", "update", "--env", "", "--refresh", name))
	require.Equal(t, "[]\n", c.prints(t, "", "inspect", "-f", "{{.Config.Env}}", name))
	require.NotEqual(t, uuid+"\n", c.prints(t, "", "inspect", "-f", "{{.UUID}}", name))
	require.NotContains(t, c.prints(t, "", "call", "--sync", name), "COLOUR")

	require.Contains(t, c.run(t, "", "__complete", "rm", name[:len(name)-1]).out, name+"\tfuncd/env\n")
	require.Equal(t, name+"\n", c.prints(t, "", "rm", name))
	require.Equal(t, outcome{5, "", "funcd: no such function: " + name + "; funcd ls lists those that there are\n"}, c.run(t, "", "rm", name))
}

func TestCommandLineCopiesBytes(t *testing.T) {
	t.Parallel()
	c := dev.cli(t)
	name, _ := c.make(t, "funcd-test/probe", "cat")
	payload := make([]byte, api.MaxPayload)
	for i := range payload {
		payload[i] = byte(i * 7 >> 3)
	}
	require.True(t, string(payload) == c.prints(t, string(payload), "call", "--sync", name))
	id := c.called(t, string(payload), name)
	require.True(t, string(payload) == c.prints(t, "", "get", "--wait", id))
	require.Equal(t, outcome{6, "", "funcd: the payload is over 1048576 bytes\n"}, c.run(t, string(payload)+"x", "call", "--sync", name))
	require.Equal(t, "", c.prints(t, "", "call", "--sync", name))
}

func TestCommandLineExitStatuses(t *testing.T) {
	t.Parallel()
	c := dev.cli(t)
	fails, _ := c.make(t, "funcd/fail")
	sleeps, _ := c.make(t, "--timeout", "1", "funcd/sleep", "60")
	big, _ := c.make(t, "funcd-test/probe", "big", "1048577")
	runs, _ := c.make(t, "funcd/sleep", "600")
	id := c.called(t, "", runs)
	for name, test := range map[string]struct {
		args   []string
		status int
		err    string // a regular expression
	}{
		"a failure":             {[]string{"call", "--sync", fails}, 3, `exit status 3`},
		"too much output":       {[]string{"call", "--sync", big}, 3, `the output is over its limit.*`},
		"a timeout":             {[]string{"call", "--sync", sleeps}, 4, `timeout: .*`},
		"no such function":      {[]string{"call", "none"}, 5, `no such function: none; funcd ls lists those that there are`},
		"no such call":          {[]string{"get", "--wait", "218b7b10-e7f1-4c48-ac3c-66792f8ffc06"}, 5, `no such call: 218b7b10-e7f1-4c48-ac3c-66792f8ffc06; one that was got is gone`},
		"a name that is taken":  {[]string{"create", "--name", runs, "funcd/hello"}, 6, `.*` + runs + `.*`},
		"a function that runs":  {[]string{"rm", runs}, 6, `.*call.*`},
		"nobody is there":       {[]string{"ls", "--addr", "http://127.0.0.1:1"}, 7, `funcd at http://127\.0\.0\.1:1 does not answer: connection refused; is it running\? set --addr or FUNCD_ADDR`},
		"a call that runs":      {[]string{"get", id}, 8, `the call is (being executed|waiting for execution.*); funcd get --wait ` + id + ` waits for its end`},
		"a wrong command line":  {[]string{"get", "abc"}, 2, `get needs one CALL_ID, .*`},
		"a wrong parameter":     {[]string{"create", "--name", "a", "--size", "xl", "funcd/hello"}, 2, `ContainerSize: "xl" must be one of .*`},
		"no such image":         {[]string{"create", "--name", newName(t), "127.0.0.1:1/none"}, 2, `.*127\.0\.0\.1:1/none.*`},
		"a configuration":       {[]string{"ls", "--config", "/none.hcl"}, 2, `open /none.hcl: no such file or directory`},
		"an unknown subcommand": {[]string{"bogus"}, 2, `unknown command "bogus": did you mean logs\?`},
	} {
		o := c.run(t, "", test.args...)
		require.Equal(t, test.status, o.status, "%s: %s", name, o.err)
		require.Empty(t, o.out, name)
		require.Regexp(t, `^funcd: `+test.err+`\n$`, o.err, name)
	}
	require.Equal(t, id+"\n", c.prints(t, "", "cancel", id))
	o := c.run(t, "", "get", "--wait", id)
	require.Equal(t, 9, o.status)
	require.Contains(t, o.err, "cancelled")
	forced := c.called(t, "", runs)
	require.Equal(t, runs+"\n", c.prints(t, "", "rm", "--force", runs))
	require.Equal(t, 5, c.run(t, "", "get", forced).status)
}

// TestCommandLineInATerminal: colours, and Ctrl-C ends what waits, at once and with the status of an interrupt.
func TestCommandLineInATerminal(t *testing.T) {
	t.Parallel()
	c := dev.cli(t)
	name, _ := c.make(t, "-l", "funcd.warm=0", "funcd/sleep", "600")

	logs := c.open(t, "logs", "-f", name)
	waits := c.open(t, "call", "--sync", name)
	followed := regexp.MustCompile(`(?s)\d\d:\d\d:\d\d\.\d{3}  ([0-9a-f]{8})  CALL\n.*  RUNNING\n`)
	eventually(t, "the call is followed", func() bool { return followed.MatchString(colourForm.ReplaceAllString(logs.shown(), "")) })
	require.Regexp(t, colourForm, logs.shown())
	short := followed.FindStringSubmatch(colourForm.ReplaceAllString(logs.shown(), ""))[1]

	waits.press(t, ctrlC)
	require.Equal(t, 130, waits.end(t), waits.shown())
	said := regexp.MustCompile(`funcd: interrupted; the call goes on: funcd get --wait (` + uuidForm + `) waits for it, funcd cancel (` + uuidForm + `) ends it\n$`).
		FindStringSubmatch(waits.shown())
	require.NotNil(t, said, "%q", waits.shown())
	id := said[1]
	require.True(t, strings.HasPrefix(id, short))

	gets := c.open(t, "get", "--wait", id)
	eventually(t, "it asks", gets.connected)
	gets.press(t, ctrlC)
	require.Equal(t, 130, gets.end(t), gets.shown())
	require.Equal(t, 8, c.run(t, "", "get", id).status, "it goes on")

	require.Equal(t, id+"\n", c.prints(t, "", "cancel", id))
	eventually(t, "its end is followed", func() bool {
		return strings.Contains(colourForm.ReplaceAllString(logs.shown(), ""), "  "+short+"  FAILED    ")
	})
	logs.press(t, ctrlC)
	require.Equal(t, 130, logs.end(t), logs.shown())
	require.True(t, strings.HasSuffix(logs.shown(), "funcd: interrupted\n"), "%q", logs.shown())

	plain := dev.cli(t, "NO_COLOR=1").open(t, "logs", name)
	require.Equal(t, 0, plain.end(t))
	require.Contains(t, plain.shown(), "  "+short+"  FAILED    ")
	require.NotContains(t, plain.shown(), "\x1b")

	// A payload that nobody types is not waited for.
	hello, _ := c.make(t, "funcd/hello", "echo", "Hello")
	sync := c.open(t, "call", "--sync", hello)
	require.Equal(t, 0, sync.end(t))
	require.Equal(t, "Hello\n", sync.shown())
}

// TestCommandLineSigns: a server that wants signed requests, a key that was made for it, and a configuration file that holds both.
func TestCommandLineSigns(t *testing.T) {
	t.Parallel()
	o := beside("cli")
	o.noDev = true
	config := filepath.Join(t.TempDir(), "funcd.hcl")
	require.NoError(t, os.WriteFile(config, []byte(o.config), 0o600))
	made, err := funcd(o, "credential", "--config", config, "create", "--account", "cli", "--output", "json").Output()
	require.NoError(t, err)
	var key struct{ AccessKey, SecretKey, Account string }
	require.NoError(t, json.Unmarshal(made, &key))
	require.Equal(t, "cli", key.Account)
	listed, err := funcd(o, "credential", "--config", config, "ls", "--output", "json").Output()
	require.NoError(t, err)
	require.Contains(t, string(listed), key.AccessKey)
	require.NotContains(t, string(listed), key.SecretKey)

	o.config += fmt.Sprintf("nomad {\n  address = %q\n}\n", dev.nomad)
	own := startOwn(t, "cli", o)
	require.Equal(t, outcome{6, "", "funcd: funcd at " + own.url +
		" wants signed requests: set FUNCD_ACCESS_KEY and FUNCD_SECRET_KEY to a key that funcd credential create has made\n"}, own.cli(t).run(t, "", "ls"))

	home := t.TempDir()
	file := filepath.Join(home, ".config/funcd/config.hcl")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	text := fmt.Sprintf("addr = %q\naccess_key = %q\nsecret_key = %q\n", own.url, key.AccessKey, key.SecretKey)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	c := &cli{[]string{"HOME=" + home}}
	require.Equal(t, outcome{2, "", "funcd: " + file + " holds a secret key and others may read it: chmod 600 " + file + "\n"}, c.run(t, "", "ls"))
	require.NoError(t, os.Chmod(file, 0o600))
	name, _ := c.make(t, "funcd/upper")
	require.Equal(t, "SIGNED", c.prints(t, "signed", "call", "--sync", name))
	require.Equal(t, "SIGNED", c.prints(t, "", "get", "--wait", c.called(t, "signed", name)))
	require.Equal(t, outcome{6, "", "funcd: funcd at " + own.url + " does not accept the access key " + key.AccessKey +
		": check it, its secret, and this machine's clock\n"}, c.run(t, "", "ls", "--secret-key", "another"))
	require.Equal(t, "[\n    \""+name+"\"\n]\n", c.prints(t, "", "rm", "-o", "json", name))

	removed, err := funcd(o, "credential", "--config", config, "rm", "-o", "json", key.AccessKey).Output()
	require.NoError(t, err)
	require.JSONEq(t, `["`+key.AccessKey+`"]`, string(removed))
	eventually(t, "the removed key is refused", func() bool { return c.run(t, "", "ls").status == 6 })
}

// TestCommandLinePulls: an image of a private registry, with the login of docker login, and a bar on a terminal.
func TestCommandLinePulls(t *testing.T) {
	t.Parallel()
	r := newOwnRegistry(t, &authn.Basic{Username: "me", Password: "secret"})
	r.push(t, "team/app:1")
	image := r.host + "/team/app:1"
	c := dev.cli(t)
	require.Equal(t, 6, c.run(t, "", "pull", image).status, "there is no login")
	docker := t.TempDir()
	config := fmt.Sprintf(`{"auths":{%q:{"auth":"bWU6c2VjcmV0"}}}`, r.host)
	require.NoError(t, os.WriteFile(filepath.Join(docker, "config.json"), []byte(config), 0o600))
	c = dev.cli(t, "DOCKER_CONFIG="+docker)

	release := r.hold(t)
	begun := regexp.MustCompile(`Pulling ` + regexp.QuoteMeta(image) + ` .*\(0/1\)`)
	interrupted := c.open(t, "pull", image)
	eventually(t, "the node has begun", func() bool { return begun.MatchString(interrupted.shown()) })
	interrupted.press(t, ctrlC)
	require.Equal(t, 130, interrupted.end(t), interrupted.shown())
	eventually(t, "the pull ends with who asked for it", func() bool { return len(dev.pullJobs(t, image)) == 0 })
	require.False(t, hasImage(image))

	pull := c.open(t, "pull", image)
	eventually(t, "the node has begun again", func() bool { return begun.MatchString(pull.shown()) })
	release()
	require.Equal(t, 0, pull.end(t), pull.shown())
	require.True(t, strings.HasSuffix(pull.shown(), "\r"+image+"\n"), "the bar has gone: %q", pull.shown())
	require.True(t, hasImage(image))

	o := c.run(t, "", "pull", image)
	require.Equal(t, 0, o.status, o.err)
	require.Equal(t, image+"\n", o.out)
	require.Contains(t, o.err, "Pull complete")
	o = c.run(t, "", "pull", r.host+"/team/app:none")
	require.Equal(t, outcome{5, "", "funcd: no such image: " + r.host + "/team/app:none\n"}, outcome{o.status, o.out, last(strings.SplitAfter(strings.TrimSuffix(o.err, "\n"), "\n")) + "\n"})
}
