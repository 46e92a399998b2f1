package api

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func readTestdata(tb testing.TB, name string) []byte {
	text, err := os.ReadFile("testdata/" + name)
	require.NoError(tb, err)
	return text
}

// TestCreateExample: the documented request becomes the documented answer, compared after decoding.
func TestCreateExample(t *testing.T) {
	t.Parallel()
	f, err := ParseFunction(readTestdata(t, "create.json"))
	require.NoError(t, err)
	f.UUID = "e62c014e-386c-42ea-8d07-41d44e98cc3d"
	f.Created = Timestamp{time.Date(2017, 3, 16, 8, 5, 24, 473_999_999, time.FixedZone("CET", 3600))}
	answer, err := json.Marshal(f)
	require.NoError(t, err)
	require.JSONEq(t, string(readTestdata(t, "created.json")), string(answer))

	var decoded Function
	require.NoError(t, json.Unmarshal(readTestdata(t, "created.json"), &decoded))
	f.Created = Timestamp{time.Date(2017, 3, 16, 7, 5, 24, 473e6, time.UTC)}
	require.Equal(t, f, decoded)
}

func TestFunctionJSONHasEveryMember(t *testing.T) {
	t.Parallel()
	const body = `{"Name":"n","ContainerSize":"m1","Timeout":7,"UUID":"e62c014e-386c-42ea-8d07-41d44e98cc3d","Created":"2017-03-16T07:05:24.473Z",
		"Config":{"Tty":true,"ExposedPorts":{"80/tcp":{}},"Env":["A=b=c"],"Cmd":["c"],"Image":"i","Entrypoint":["e"],"WorkingDir":"/w",
			"Labels":{"k":"v"},"StopSignal":"9"},
		"HostConfig":{"Links":["a:b"],"PortBindings":{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"},{"HostPort":""}]},
			"PublishAllPorts":true,"VolumesFrom":["v:ro"],"NetworkMode":"host"},
		"NetworkingConfig":{"EndpointsConfig":{"net":{"any":1}}}}`
	var f Function
	require.NoError(t, json.Unmarshal([]byte(body), &f)) // not one that could be created: some of them exclude each other
	text, err := json.Marshal(f)
	require.NoError(t, err)
	require.JSONEq(t, body, string(text))
}

func TestStrSlice(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]StrSlice{
		`"echo a  b"`:   {"echo a  b"}, // never split
		`""`:            {""},
		`"\u00e4\n"`:    {"ä\n"},
		`[]`:            {},
		`["a"]`:         {"a"},
		`["a","b c"]`:   {"a", "b c"},
		` [ "a" , "b"]`: {"a", "b"},
		`null`:          nil,
	} {
		var got StrSlice
		require.NoError(t, json.Unmarshal([]byte(text), &got), text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{`1`, `true`, `{}`, `[1]`, `["a",["b"]]`, `["a",{}]`} {
		var got StrSlice
		require.Error(t, json.Unmarshal([]byte(text), &got), text)
	}
	overwritten := StrSlice{"old", "older"}
	require.NoError(t, json.Unmarshal([]byte(`"new"`), &overwritten))
	require.Equal(t, StrSlice{"new"}, overwritten)
}

func TestSignalJSON(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Signal{
		`"SIGTERM"`: "SIGTERM", `"term"`: "term", `"15"`: "15", `15`: "15", `0`: "0", `null`: "", `""`: "",
	} {
		var got Signal
		require.NoError(t, json.Unmarshal([]byte(text), &got), text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{`-1`, `1.5`, `1e1`, `256`, `99999999999999999999`, `true`, `{}`, `["TERM"]`} {
		var got Signal
		require.Error(t, json.Unmarshal([]byte(text), &got), text)
	}
}

func TestSignalParseAndName(t *testing.T) {
	t.Parallel()
	for signal, want := range map[Signal]struct {
		number int
		name   string
	}{
		"SIGTERM": {15, "SIGTERM"}, "TERM": {15, "SIGTERM"}, "sigterm": {15, "SIGTERM"}, "15": {15, "SIGTERM"}, "9": {9, "SIGKILL"},
		"6": {6, "SIGABRT"}, "IOT": {6, "SIGABRT"}, "17": {17, "SIGCHLD"}, "RTMIN": {34, "SIGRTMIN"}, "64": {64, "SIGRTMAX"},
		"RTMIN+3": {37, "SIGRTMIN+3"}, "33": {33, "33"}, "1": {1, "SIGHUP"},
	} {
		number, err := signal.Parse()
		require.NoError(t, err, signal)
		require.Equal(t, want.number, int(number), signal)
		require.Equal(t, want.name, signal.Name(), signal)
	}
	for _, signal := range []Signal{"", "0", "-9", "65", "255", "SIG", "SIGNAL", "SIGSIGTERM", "15 ", "1.5"} {
		_, err := signal.Parse()
		require.Error(t, err, signal)
		require.Equal(t, string(signal), signal.Name())
	}
}

func TestTimestamp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		at   time.Time
		want string
	}{
		"milliseconds are cut, not rounded": {time.Date(2017, 3, 16, 7, 5, 24, 473_999_999, time.UTC), `"2017-03-16T07:05:24.473Z"`},
		"zeros are written":                 {time.Date(2017, 3, 16, 7, 5, 24, 0, time.UTC), `"2017-03-16T07:05:24.000Z"`},
		"another zone becomes UTC":          {time.Date(2017, 1, 1, 0, 30, 0, 0, time.FixedZone("", 3600)), `"2016-12-31T23:30:00.000Z"`},
		"no time":                           {time.Time{}, `"0001-01-01T00:00:00.000Z"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := json.Marshal(Timestamp{c.at})
			require.NoError(t, err)
			require.Equal(t, c.want, string(text))
			var again Timestamp
			require.NoError(t, json.Unmarshal(text, &again))
			require.True(t, again.Equal(c.at.Truncate(time.Millisecond)))
		})
	}
	for _, text := range []string{`null`, `""`} {
		var got Timestamp
		require.NoError(t, json.Unmarshal([]byte(text), &got), text)
		require.True(t, got.IsZero(), text)
	}
	var got Timestamp
	require.NoError(t, json.Unmarshal([]byte(`"2017-03-16T08:05:24.4735+01:00"`), &got))
	require.Equal(t, int64(1489647924473500), got.UnixMicro())
	for _, text := range []string{`5`, `true`, `{}`, `"yesterday"`, `"2017-03-16"`, `"2017-03-16T07:05:24"`} {
		require.Error(t, json.Unmarshal([]byte(text), &got), text)
	}
}

func words(text string) StrSlice {
	switch text {
	case "":
		return nil
	case "[]":
		return StrSlice{}
	case `[""]`:
		return StrSlice{""}
	}
	return strings.Fields(text)
}

// An Entrypoint that says that there is to be none is another than one that says nothing, also when it was kept.
func TestEmptyEntrypointIsKept(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{`[]`: `[]`, `[""]`: `[""]`, `""`: `[""]`, `null`: ``, `["a"]`: `["a"]`} {
		f, err := ParseFunction([]byte(`{"Name":"a","Config":{"Image":"i","Entrypoint":` + text + `}}`))
		require.NoError(t, err)
		kept, err := json.Marshal(f)
		require.NoError(t, err)
		if want == "" {
			require.NotContains(t, string(kept), "Entrypoint")
			continue
		}
		require.Contains(t, string(kept), `"Entrypoint":`+want)
		var read Function
		require.NoError(t, json.Unmarshal(kept, &read))
		require.Equal(t, f.Config.Entrypoint, read.Config.Entrypoint)
	}
}

// TestCommand: https://docs.docker.com/reference/dockerfile/#understand-how-cmd-and-entrypoint-interact, with the function in the place of
// docker run's options.
func TestCommand(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, entrypoint, cmd, imageEntrypoint, imageCmd, want string // words with a space between
	}{
		{"nothing at all", "", "", "", "", ""},
		{"the image's command", "", "", "", "ic", "ic"},
		{"the image's entrypoint", "", "", "ie", "", "ie"},
		{"the image's entrypoint and command", "", "", "ie 1", "ic", "ie 1 ic"},
		{"a command alone", "", "c 1", "", "", "c 1"},
		{"a command over the image's", "", "c", "", "ic 1", "c"},
		{"a command after the image's entrypoint", "", "c", "ie", "ic", "ie c"},
		{"an entrypoint leaves out both of the image's", "e", "", "ie", "ic", "e"},
		{"an entrypoint and a command", "e", "c", "ie", "ic", "e c"},
		{"an empty entrypoint", "[]", "", "ie", "ic 1", "ic 1"},
		{"an empty entrypoint and a command", "[]", "c 1", "ie", "ic", "c 1"},
		{"an entrypoint of an empty word", `[""]`, "", "ie", "ic", ""},
		{"an entrypoint of an empty word and a command", `[""]`, "c 1", "ie", "ic", "c 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := Definition{
				Function: Function{Config: Config{Entrypoint: words(c.entrypoint), Cmd: words(c.cmd)}},
				Image:    Image{Entrypoint: strings.Fields(c.imageEntrypoint), Cmd: strings.Fields(c.imageCmd)},
			}
			got := d.Command()
			require.Equal(t, strings.Fields(c.want), got)

			// What is returned is the caller's to change.
			for i := range got {
				got[i] = "changed"
			}
			_ = append(got, "changed")
			require.Equal(t, strings.Fields(c.want), d.Command())
		})
	}
}
