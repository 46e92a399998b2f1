//go:build integration

package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// TestCommandLineSetsAll: each flag of create and update is in the function that funcd has.
func TestCommandLineSetsAll(t *testing.T) {
	t.Parallel()
	c := dev.cli(t, "INHERITED=here")
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	name := newName(t)
	c.prints(t, "", "create", "--name", name, "--size", "s2", "--timeout", "77", "-e", "A=b", "-e", "INHERITED", "--env-file", file("env", "# none\nB=c d\n"),
		"-l", "team=web", "--label-file", file("labels", "tier=front\n"), "--entrypoint", "/bin/sh", "-w", "/srv", "-t", "--stop-signal", "SIGUSR1",
		"--expose", "9000-9001/udp", "-p", "8080", "-p", "80:81/tcp", "-P", "--link", "mysql:db", "--noauto-volume", "--sg", "web", "funcd/hello", "-c", "echo a b")
	var f api.Function
	require.NoError(t, json.Unmarshal([]byte(c.prints(t, "", "inspect", "-f", "{{json .}}", name)), &f))
	require.Equal(t, api.Config{
		Tty: true, Image: "funcd/hello", Entrypoint: []string{"/bin/sh"}, Cmd: []string{"-c", "echo a b"}, WorkingDir: "/srv", StopSignal: "SIGUSR1",
		Env:          f.Config.Env,
		ExposedPorts: map[string]struct{}{"9000/udp": {}, "9001/udp": {}, "8080/tcp": {}, "81/tcp": {}},
		Labels:       map[string]string{"team": "web", "tier": "front", "sh_hyper_noauto_volume": f.Config.Labels["sh_hyper_noauto_volume"], "sh_hyper_sg_web": "yes"},
	}, f.Config)
	require.NotEmpty(t, f.Config.Labels["sh_hyper_noauto_volume"])
	require.ElementsMatch(t, []string{"A=b", "INHERITED=here", "B=c d"}, f.Config.Env)
	require.Equal(t, api.HostConfig{
		NetworkMode: "bridge", PublishAllPorts: true, Links: []string{"mysql:db"},
		PortBindings: map[string][]api.PortBinding{"8080/tcp": {{}}, "81/tcp": {{HostPort: "80"}}},
	}, f.HostConfig)
	require.Equal(t, []any{"s2", 77}, []any{f.ContainerSize, f.Timeout})

	require.Equal(t, name+"\n", c.prints(t, "", "update", "--size", "s1", "--timeout", "5", "--env-file", file("other", "C=d\n"), name))
	var after api.Function
	require.NoError(t, json.Unmarshal([]byte(c.prints(t, "", "inspect", "-f", "{{json .}}", name)), &after))
	f.ContainerSize, f.Timeout, f.Config.Env = "s1", 5, []string{"C=d"}
	require.Equal(t, f, after)
	c.prints(t, "", "rm", name)
}

// TestCommandLineSpeaksJSON: with --output json a program can read whatever a command prints.
func TestCommandLineSpeaksJSON(t *testing.T) {
	t.Parallel()
	c := dev.cli(t)
	name := newName(t)
	parsed := func(stdin string, args ...string) any {
		t.Helper()
		var v any
		out := c.prints(t, stdin, slices.Concat(args[:1], []string{"--output", "json"}, args[1:])...) // what follows an image is its command's
		require.NoError(t, json.Unmarshal([]byte(out), &v), "%v: %s", args, out)
		return v
	}
	member := func(v any, path ...string) any {
		t.Helper()
		for _, name := range path {
			if list, ok := v.([]any); ok {
				require.Len(t, list, 1)
				v = list[0]
			}
			object, ok := v.(map[string]any)
			require.True(t, ok, "%v", v)
			v = object[name]
		}
		return v
	}
	require.Equal(t, name, member(parsed("", "create", "--name", name, "--size", "s1", "funcd/upper"), "Name"))
	require.Equal(t, name, member(parsed("", "ls", "--filter", "name="+name), "Name"))
	require.Equal(t, "funcd/upper", member(parsed("", "inspect", name), "Config", "Image"))
	require.Equal(t, 9.0, member(parsed("", "update", "--timeout", "9", name), "Timeout"))
	require.Equal(t, "SYNC", member(parsed("sync", "call", "--sync", name), "Output"))
	id, ok := member(parsed("async", "call", name), "CallId").(string)
	require.True(t, ok)
	require.True(t, api.ValidUUID(id))
	eventually(t, "the call finishes, and is the only one", func() bool { // the one before goes when its answer has arrived
		list, ok := parsed("", "status", "--list", name).(map[string]any)["List"].([]any)
		return ok && len(list) == 1 && member(list, "Status") == "FINISHED"
	})
	require.Equal(t, id, member(parsed("", "status", "--list", name), "List", "CallId"))
	for line := range strings.Lines(c.prints(t, "", "logs", "--callid", id, "--output", "json", name)) {
		var e api.Event
		require.NoError(t, json.Unmarshal([]byte(line), &e), line)
		require.Equal(t, id, e.CallID)
	}
	require.Equal(t, "ASYNC", member(parsed("", "get", "--wait", id), "Output"))
	require.Equal(t, "func-default-"+name, member(parsed("", "job", name), "Job", "ID"))
	require.Contains(t, member(parsed("", "open", name), "UI"), name)
	require.Equal(t, []any{name}, parsed("", "rm", name))
	require.NotEmpty(t, member(parsed("", "version"), "ApiVersion"))
}

// TestLogsStreamBy: in a terminal of 80 characters, a person tells the calls apart while they go by.
func TestLogsStreamBy(t *testing.T) {
	t.Parallel()
	const calls, columns = 6, 80
	c := dev.cli(t)
	name, _ := c.make(t, "-l", "funcd.reuse=true", "funcd/upper")
	logs := c.openWide(t, columns, "logs", "-f", name)
	eventually(t, "it follows", logs.connected)
	var callers []*exec.Cmd
	for i := range calls {
		cmd := c.command(t.Context(), "call", name)
		cmd.Stdin = strings.NewReader(strings.Repeat("word ", 20) + strconv.Itoa(i) + "\nanother line")
		require.NoError(t, cmd.Start())
		callers = append(callers, cmd)
	}
	for _, cmd := range callers {
		require.NoError(t, cmd.Wait())
	}
	plain := func() string { return colourForm.ReplaceAllString(logs.shown(), "") }
	eventually(t, "all have finished", func() bool { return strings.Count(plain(), "  FINISHED  ") == calls })
	logs.press(t, ctrlC)
	require.Equal(t, 130, logs.end(t))

	event := regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{3}  ([0-9a-f]{8})  (CALL|PENDING|RUNNING|FINISHED)(  .*)?$`)
	beside := regexp.MustCompile(`^ {34}(stdout|      )  \S`)
	colours, of := map[string]string{}, map[string][]string{}
	shown := strings.Split(strings.TrimSuffix(logs.shown(), "\n"), "\n")
	for i, line := range shown[:len(shown)-1] { // the last is the interrupt
		text := colourForm.ReplaceAllString(line, "")
		require.LessOrEqual(t, len(text), columns, "it is not broken by the terminal: %q", text)
		found := event.FindStringSubmatch(text)
		if found == nil {
			require.Regexp(t, beside, text, "line %d is of the event above it", i)
			continue
		}
		padded := strings.TrimRight(text[24:min(34, len(text))], " ")
		require.Equal(t, found[2], padded)
		if !slices.Contains(of[found[1]], found[2]) {
			of[found[1]] = append(of[found[1]], found[2])
		}
		at := strings.Index(line, found[1])
		colour := last(colourForm.FindAllString(line[:at], -1))
		require.Contains(t, []string{"", colour}, colours[found[1]], "a call keeps its colour")
		colours[found[1]] = colour
	}
	require.Len(t, of, calls)
	for id, events := range of {
		require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, events, id)
	}
}

// TestCompletionInAShell: bash completes what a person begins to type.
func TestCompletionInAShell(t *testing.T) {
	t.Parallel()
	c := dev.cli(t)
	name, _ := c.make(t, "funcd/hello")
	script := `source <(funcd completion bash)
complete_line() {
	COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMPREPLY=()
	read -ra COMP_WORDS <<<"$1"
	[[ $1 == *" " ]] && COMP_WORDS+=("")
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
	__start_funcd
	printf '%s\n' "${COMPREPLY[@]}"
}
_get_comp_words_by_ref() { words=("${COMP_WORDS[@]}") cword=$COMP_CWORD cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}; }
_init_completion() { _get_comp_words_by_ref; }
__ltrim_colon_completions() { :; }
complete_line "$1"`
	for line, want := range map[string]string{
		"funcd cre":                                 "create ",
		"funcd logs --fol":                          "--follow ",
		"funcd create --size m":                     "m1\nm2\nm3",
		"funcd rm " + name[:len(name)-1]:            name,
		"funcd ls --filter la":                      "label=",
		"funcd logs --follow " + name[:len(name)-2]: name,
	} {
		eventually(t, "what follows "+line, func() bool { // a shell waits for names for two seconds at most, and then completes nothing
			cmd := exec.CommandContext(t.Context(), "bash", "-c", script, "bash", line)
			cmd.Env = append(slices.Clone(c.env), "PATH="+root+":"+os.Getenv("PATH"))
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			for want := range strings.Lines(want) {
				if !strings.Contains(string(out), strings.TrimSpace(want)) {
					return false
				}
			}
			return true
		})
	}
}
