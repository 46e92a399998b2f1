package api

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// requireInvalid checks that err is one sentence for the caller which starts with the field and says what is allowed.
func requireInvalid(tb testing.TB, err error, field, allowed string) {
	tb.Helper()
	require.Error(tb, err)
	require.Equal(tb, Invalid, CodeOf(err))
	require.True(tb, strings.HasPrefix(err.Error(), field), "%s\nshould start with %s", err, field)
	require.Contains(tb, err.Error(), allowed)
	require.Less(tb, len(err.Error()), 2000, "a wrong value is not given back whole")
}

// create returns the least body with the members put into its parts.
func create(top, config, hostConfig string) string {
	return `{"Name":"n"` + comma(top) + `,"Config":{"Image":"i"` + comma(config) + `},"HostConfig":{"Links":null` + comma(hostConfig) + `}}`
}

func comma(members string) string {
	if members == "" {
		return ""
	}
	return "," + members
}

func TestParseFunctionDefaults(t *testing.T) {
	t.Parallel()
	want := Function{
		Name: "n", ContainerSize: "s4", Timeout: 300,
		Config:     Config{Env: []string{}, Image: "i", StopSignal: "SIGTERM"},
		HostConfig: HostConfig{NetworkMode: "bridge"},
	}
	for name, body := range map[string]string{
		"absent": create("", "", ""),
		"null": create(`"ContainerSize":null,"Timeout":null,"UUID":null,"Created":null,"NetworkingConfig":null`,
			`"Tty":null,"ExposedPorts":null,"Env":null,"Cmd":null,"Entrypoint":null,"WorkingDir":null,"Labels":null,"StopSignal":null`,
			`"PortBindings":null,"PublishAllPorts":null,"VolumesFrom":null,"NetworkMode":null`),
		"empty":                                  create(`"ContainerSize":"","UUID":"","Created":""`, `"Env":[],"WorkingDir":"","StopSignal":""`, `"NetworkMode":""`),
		"the service's own are not the caller's": create(`"UUID":"e62c014e-386c-42ea-8d07-41d44e98cc3d","Created":"2017-03-16T07:05:24.473Z"`, "", ""),
		"unknown members are ignored":            create(`"X":{"Timeout":0}`, `"User":"root"`, `"Memory":5`),
		"Docker's default network":               create("", "", `"NetworkMode":"default"`),
		"space around the object":                " \r\n\t" + create("", "", "") + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := ParseFunction([]byte(body))
			require.NoError(t, err)
			require.Equal(t, want, f)
		})
	}
}

func TestParseFunctionBody(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, want string }{
		"empty":             {"", "the body is empty, it must be a JSON object"},
		"spaces":            {" \n", "the body is empty, it must be a JSON object"},
		"not JSON":          {"Name=n", "the body is not valid JSON: invalid character 'N' looking for beginning of value"},
		"cut off":           {`{"Name":"n"`, "the body is not valid JSON: unexpected EOF"},
		"null":              {" null", "the body must be a JSON object"},
		"an array":          {"[{}]", "the body must be a JSON object, it is a JSON array"},
		"a string":          {`"n"`, "the body must be a JSON object, it is a JSON string"},
		"a number":          {"5", "the body must be a JSON object, it is a JSON number"},
		"two objects":       {create("", "", "") + "{}", "the body holds more than one JSON value"},
		"rest after it":     {create("", "", "") + "x", "the body holds more than one JSON value"},
		"a byte order mark": {"\ufeff" + create("", "", ""), "the body is not valid JSON: invalid character"},
		"an empty object":   {"{}", "Name: is required"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseFunction([]byte(c.body))
			requireInvalid(t, err, c.want, "")
		})
	}
}

func TestParseFunctionTypes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ body, want string }{
		{`{"Name":5}`, "Name: must be a string, it is a JSON number"},
		{`{"Name":["n"]}`, "Name: must be a string, it is a JSON array"},
		{`{"Timeout":"300"}`, "Timeout: must be a whole number of 64 bits, it is a JSON string"},
		{`{"Timeout":1.5}`, "Timeout: must be a whole number of 64 bits, it is a JSON number 1.5"},
		{`{"Timeout":1e3}`, "Timeout: must be a whole number of 64 bits, it is a JSON number 1e3"},
		{`{"Timeout":9223372036854775808}`, "Timeout: must be a whole number of 64 bits, it is a JSON number 9223372036854775808"},
		{`{"Timeout":1` + strings.Repeat("0", 5000) + `}`, "Timeout: must be a whole number of 64 bits, it is a JSON number 1000"},
		{`{"Created":5}`, "Created: must be a time in RFC 3339, it is a JSON number"},
		{`{"Created":"yesterday"}`, "Created: must be a time in RFC 3339, it is a JSON string"},
		{`{"Config":[]}`, "Config: must be an object, it is a JSON array"},
		{`{"Config":"c"}`, "Config: must be an object, it is a JSON string"},
		{`{"Config":{"Tty":1}}`, "Config.Tty: must be true or false, it is a JSON number"},
		{`{"Config":{"ExposedPorts":["80/tcp"]}}`, "Config.ExposedPorts: must be an object of objects, it is a JSON array"},
		{`{"Config":{"ExposedPorts":{"80/tcp":80}}}`, "Config.ExposedPorts: must be an object of objects, it holds a JSON number"},
		{`{"Config":{"Env":"A=b"}}`, "Config.Env: must be an array of strings, it is a JSON string"},
		{`{"Config":{"Env":{"A":"b"}}}`, "Config.Env: must be an array of strings, it is a JSON object"},
		{`{"Config":{"Env":["A=b",5]}}`, "Config.Env: must be an array of strings, it holds a JSON number"},
		{`{"Config":{"Cmd":5}}`, "Config.Cmd: must be a string or an array of strings, it is a JSON number"},
		{`{"Config":{"Cmd":-5}}`, "Config.Cmd: must be a string or an array of strings, it is a JSON number"},
		{`{"Config":{"Cmd":false}}`, "Config.Cmd: must be a string or an array of strings, it is a JSON bool"},
		{`{"Config":{"Cmd":{"a":1}}}`, "Config.Cmd: must be a string or an array of strings, it is a JSON object"},
		{`{"Config":{"Cmd":["a",1]}}`, "Config.Cmd: must be a string or an array of strings, it is a JSON array with other elements"},
		{`{"Config":{"Entrypoint":true}}`, "Config.Entrypoint: must be a string or an array of strings, it is a JSON bool"},
		{`{"Config":{"StopSignal":true}}`, "Config.StopSignal: must be a signal's name or a number from 1 to 64, it is a JSON bool"},
		{`{"Config":{"StopSignal":["TERM"]}}`, "Config.StopSignal: must be a signal's name or a number from 1 to 64, it is a JSON array"},
		{`{"Config":{"StopSignal":-15}}`, "Config.StopSignal: must be a signal's name or a number from 1 to 64, it is a JSON number"},
		{`{"Config":{"StopSignal":1000}}`, "Config.StopSignal: must be a signal's name or a number from 1 to 64, it is a JSON number"},
		{`{"Config":{"Labels":["a=b"]}}`, "Config.Labels: must be an object of strings, it is a JSON array"},
		{`{"Config":{"Labels":{"a.b":1}}}`, "Config.Labels: must be an object of strings, it holds a JSON number"},
		{`{"HostConfig":{"Links":"a:b"}}`, "HostConfig.Links: must be an array of strings, it is a JSON string"},
		{`{"HostConfig":{"PortBindings":{"80/tcp":{}}}}`, "HostConfig.PortBindings: must be an object of arrays, it holds a JSON object"},
		{`{"HostConfig":{"PortBindings":{"80/tcp":["80"]}}}`, "HostConfig.PortBindings: must be an object of arrays, it holds a JSON string"},
		{`{"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":80}]}}}`, "HostConfig.PortBindings.HostPort: must be a string, it is a JSON number"},
		{`{"HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":1}]}}}`, "HostConfig.PortBindings.HostIp: must be a string, it is a JSON number"},
		{`{"HostConfig":{"PublishAllPorts":"true"}}`, "HostConfig.PublishAllPorts: must be true or false, it is a JSON string"},
		{`{"HostConfig":{"NetworkMode":0}}`, "HostConfig.NetworkMode: must be a string, it is a JSON number"},
		{`{"NetworkingConfig":{"EndpointsConfig":5}}`, "NetworkingConfig.EndpointsConfig: must be an object of values, it is a JSON number"},
		{`{"config":{"cmd":5}}`, "Config.Cmd: must be a string or an array of strings, it is a JSON number"},
	} {
		_, err := ParseFunction([]byte(c.body))
		requireInvalid(t, err, c.want, "")
		if len(c.body) < 1000 {
			require.Equal(t, c.want, err.Error())
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, field, allowed string }{
		"name absent":      {`{"Config":{"Image":"i"}}`, "Name:", "is required"},
		"name empty":       {create(`"Name":""`, "", ""), "Name:", "is required"},
		"name 256":         {create(`"Name":"`+strings.Repeat("a", 256)+`"`, "", ""), "Name:", "at most 255 characters"},
		"name 1 MB":        {create(`"Name":"`+strings.Repeat("ä", 1<<20)+`"`, "", ""), "Name:", "at most 255 characters"},
		"name upper case":  {create(`"Name":"Hello"`, "", ""), "Name:", "a-z, 0-9 and -"},
		"name -first":      {create(`"Name":"-a"`, "", ""), "Name:", "begin and end with a letter or a digit"},
		"name last-":       {create(`"Name":"a-"`, "", ""), "Name:", "begin and end with a letter or a digit"},
		"name newline":     {create(`"Name":"a\n"`, "", ""), "Name:", "a-z, 0-9 and -"},
		"name slash":       {create(`"Name":"a/b"`, "", ""), "Name:", "a-z, 0-9 and -"},
		"name _":           {create(`"Name":"a_b"`, "", ""), "Name:", "a-z, 0-9 and -"},
		"size unknown":     {create(`"ContainerSize":"xl"`, "", ""), "ContainerSize:", "s1, s2, s3, s4, m1, m2, m3, l1, l2, l3"},
		"size upper case":  {create(`"ContainerSize":"S4"`, "", ""), "ContainerSize:", "one of s1"},
		"timeout 0":        {create(`"Timeout":0`, "", ""), "Timeout:", "0 must be a number of seconds from 1 to 86400"},
		"timeout -0":       {create(`"Timeout":-0`, "", ""), "Timeout:", "from 1 to 86400"},
		"timeout 0, lower": {create(`"timeout":0`, "", ""), "Timeout:", "from 1 to 86400"},
		"timeout -1":       {create(`"Timeout":-1`, "", ""), "Timeout:", "from 1 to 86400"},
		"timeout 86401":    {create(`"Timeout":86401`, "", ""), "Timeout:", "from 1 to 86400"},
		"timeout 5, 0":     {create(`"Timeout":5,"Timeout":0`, "", ""), "Timeout:", "from 1 to 86400"},

		"image absent": {`{"Name":"n"}`, "Config.Image:", "is required"},
		"image null":   {create("", `"Image":null,"Image":""`, ""), "Config.Image:", "is required"},

		"port 0":        {create("", `"ExposedPorts":{"0/tcp":{}}`, ""), "Config.ExposedPorts:", "a port from 1 to 65535"},
		"port 65536":    {create("", `"ExposedPorts":{"65536/tcp":{}}`, ""), "Config.ExposedPorts:", "a port from 1 to 65535"},
		"port empty":    {create("", `"ExposedPorts":{"":{}}`, ""), "Config.ExposedPorts:", "<port>/<tcp|udp>"},
		"port name":     {create("", `"ExposedPorts":{"http/tcp":{}}`, ""), "Config.ExposedPorts:", "<port>/<tcp|udp>"},
		"port sctp":     {create("", `"ExposedPorts":{"80/sctp":{}}`, ""), "Config.ExposedPorts:", "<port>/<tcp|udp>"},
		"port range":    {create("", `"ExposedPorts":{"80-81/tcp":{}}`, ""), "Config.ExposedPorts:", "<port>/<tcp|udp>"},
		"port negative": {create("", `"ExposedPorts":{"-80/tcp":{}}`, ""), "Config.ExposedPorts:", "<port>/<tcp|udp>"},

		"env without =":    {create("", `"Env":["A=b","PATH"]`, ""), "Config.Env:", `"PATH" must be of the form NAME=value`},
		"env without name": {create("", `"Env":["=b"]`, ""), "Config.Env:", "NAME=value"},
		"env empty":        {create("", `"Env":[""]`, ""), "Config.Env:", "NAME=value"},
		"env null":         {create("", `"Env":[null]`, ""), "Config.Env:", "NAME=value"},
		"env NUL":          {create("", `"Env":["A=\u0000"]`, ""), "Config.Env:", "NAME=value"},
		"env NUL in name":  {create("", `"Env":["\u0000=a"]`, ""), "Config.Env:", "NAME=value"},

		"cmd NUL":               {create("", `"Cmd":["a","\u0000"]`, ""), "Config.Cmd:", "can't hold a NUL byte"},
		"entrypoint NUL":        {create("", `"Entrypoint":"\u0000"`, ""), "Config.Entrypoint:", "can't hold a NUL byte"},
		"entrypoint empty":      {create("", `"Entrypoint":["","x"]`, ""), "Config.Entrypoint:", "first element can't be empty"},
		"workdir relative":      {create("", `"WorkingDir":"a"`, ""), "Config.WorkingDir:", "an absolute path"},
		"workdir NUL":           {create("", `"WorkingDir":"/\u0000"`, ""), "Config.WorkingDir:", "an absolute path"},
		"workdir interpolation": {create("", `"WorkingDir":"/${NOMAD_SECRETS_DIR}"`, ""), "Config.WorkingDir:", "without ${…}"},
		"label without name":    {create("", `"Labels":{"":"v"}`, ""), "Config.Labels:", "name can't be empty"},
		"signal unknown":        {create("", `"StopSignal":"SIGNONE"`, ""), "Config.StopSignal:", "a signal's name or a number from 1 to 64"},
		"signal 0":              {create("", `"StopSignal":0`, ""), "Config.StopSignal:", "from 1 to 64"},
		"signal 65":             {create("", `"StopSignal":65`, ""), "Config.StopSignal:", "from 1 to 64"},
		"signal -9":             {create("", `"StopSignal":"-9"`, ""), "Config.StopSignal:", "from 1 to 64"},

		"link empty":          {create("", "", `"Links":[""]`), "HostConfig.Links:", "name:alias"},
		"link without alias":  {create("", "", `"Links":["a:"]`), "HostConfig.Links:", "name:alias"},
		"link without name":   {create("", "", `"Links":[":a"]`), "HostConfig.Links:", "name:alias"},
		"link of three":       {create("", "", `"Links":["a:b:c"]`), "HostConfig.Links:", "name:alias"},
		"binding of port 0":   {create("", "", `"PortBindings":{"0/tcp":[]}`), "HostConfig.PortBindings:", "a port from 1 to 65535"},
		"binding to 0":        {create("", "", `"PortBindings":{"80/tcp":[{"HostPort":"0"}]}`), "HostConfig.PortBindings:", "from 1 to 65535, or empty for any"},
		"binding to 65536":    {create("", "", `"PortBindings":{"80/tcp":[{"HostPort":"65536"}]}`), "HostConfig.PortBindings:", "from 1 to 65535"},
		"binding to a name":   {create("", "", `"PortBindings":{"80/tcp":[{"HostPort":"http"}]}`), "HostConfig.PortBindings:", "from 1 to 65535"},
		"label empty":         {create("", `"Labels":{"":"x"}`, ""), "Config.Labels:", "can't be empty"},
		"label replaced":      {create("", `"Labels":{"a":"${NOMAD_TOKEN_funcd}"}`, ""), "Config.Labels:", `"a" can't hold ${…}`},
		"label name replaced": {create("", `"Labels":{"${node.class}":""}`, ""), "Config.Labels:", "can't hold ${…}"},
		"label with NUL":      {create("", `"Labels":{"a":"\u0000"}`, ""), "Config.Labels:", "NUL"},
		"labels too long":     {create("", `"Labels":{"a":"`+strings.Repeat("x", MaxLabels)+`"}`, ""), "Config.Labels:", "at most 32768 bytes"},
		"volumes empty":       {create("", "", `"VolumesFrom":[""]`), "HostConfig.VolumesFrom:", "name[:ro|rw]"},
		"volumes mode":        {create("", "", `"VolumesFrom":["a:z"]`), "HostConfig.VolumesFrom:", "name[:ro|rw]"},
		"volumes empty mode":  {create("", "", `"VolumesFrom":["a:"]`), "HostConfig.VolumesFrom:", "name[:ro|rw]"},
		"network unknown":     {create("", "", `"NetworkMode":"mine"`), "HostConfig.NetworkMode:", "bridge, host, none or container:<name|id>"},
		"network container":   {create("", "", `"NetworkMode":"container:"`), "HostConfig.NetworkMode:", "container:<name|id>"},
		"links, host":         {create("", "", `"Links":["a:b"],"NetworkMode":"host"`), "HostConfig.Links:", "with NetworkMode host"},
		"links, none":         {create("", "", `"Links":["a:b"],"NetworkMode":"none"`), "HostConfig.Links:", "with NetworkMode none"},
		"links, container":    {create("", "", `"Links":["a:b"],"NetworkMode":"container:c"`), "HostConfig.Links:", "with NetworkMode container"},
		"ports, container":    {create("", "", `"PublishAllPorts":true,"NetworkMode":"container:c"`), "HostConfig.PortBindings:", "with NetworkMode container"},
		"bindings, container": {create("", "", `"PortBindings":{"80/tcp":[]},"NetworkMode":"container:c"`), "HostConfig.PortBindings:", "with NetworkMode container"},
		"exposed, container":  {create("", `"ExposedPorts":{"80/tcp":{}}`, `"NetworkMode":"container:c"`), "Config.ExposedPorts:", "with NetworkMode container"},
		"network container /": {create("", "", `"NetworkMode":"container:a/b"`), "HostConfig.NetworkMode:", "container:<name|id>"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseFunction([]byte(c.body))
			requireInvalid(t, err, c.field, c.allowed)
		})
	}
}

func TestValidateDoesNotTellAValueOfEnv(t *testing.T) {
	t.Parallel()
	_, err := ParseFunction([]byte(create("", `"Env":["TOKEN=secret\u0000"]`, "")))
	requireInvalid(t, err, "Config.Env:", `"TOKEN"`)
	require.NotContains(t, err.Error(), "secret")
}

func TestValidateAccepts(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"name of 1":           create(`"Name":"0"`, "", ""),
		"name of 255":         create(`"Name":"`+strings.Repeat("a-", 127)+`a"`, "", ""),
		"timeout 1":           create(`"Timeout":1`, "", ""),
		"timeout 86400":       create(`"Timeout":86400`, "", ""),
		"ports":               create("", `"ExposedPorts":{"1/tcp":{},"65535/udp":{},"80":{}}`, ""),
		"env":                 create("", `"Env":["A=","A=b=c","a.b-c d=e"]`, ""),
		"image with tag":      create("", `"Image":"registry.example.com:5000/a/b:1.0"`, ""),
		"image with digest":   create("", `"Image":"a@sha256:`+strings.Repeat("0", 64)+`"`, ""),
		"image by id":         create("", `"Image":"`+strings.Repeat("0", 64)+`"`, ""),
		"no entrypoint":       create("", `"Entrypoint":[]`, ""),
		"an empty entrypoint": create("", `"Entrypoint":""`, ""),
		"arguments":           create("", `"Entrypoint":["/bin/sh","-c"],"Cmd":["","ä\n"]`, ""),
		"working directory":   create("", `"WorkingDir":"/a/../$b/${"`, ""),
		"signal by number":    create("", `"StopSignal":9`, ""),
		"signal real-time":    create("", `"StopSignal":"RTMIN+1"`, ""),
		"labels":              create("", `"Labels":{"a":"$b ${ $${} {c}","sh_hyper_noauto_volume":"true","sh_hyper_sg_web":"yes"}`, ""),
		"labels of the most":  create("", `"Labels":{"a":"`+strings.Repeat("x", MaxLabels-1)+`"}`, ""),
		"links":               create("", "", `"Links":["a:b","a_b.c-d"]`),
		"port bindings":       create("", "", `"PortBindings":{"80/tcp":[{"HostPort":"8080"},{"HostPort":""},{}],"81/udp":[],"82":null}`),
		"volumes":             create("", "", `"VolumesFrom":["a","b:ro","c:rw"]`),
		"host network":        create("", "", `"NetworkMode":"host"`),
		"no network":          create("", "", `"NetworkMode":"none"`),
		"network of another":  create("", "", `"NetworkMode":"container:abc"`),
		"endpoints":           create(`"NetworkingConfig":{"EndpointsConfig":{"a":null,"b":[1]}}`, "", ""),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := ParseFunction([]byte(body))
			require.NoError(t, err)
			requireSurvives(t, f)
		})
	}
	for _, size := range Sizes {
		f, err := ParseFunction([]byte(create(`"ContainerSize":"`+size+`"`, "", "")))
		require.NoError(t, err)
		require.Equal(t, size, f.ContainerSize)
	}
}

// TestDuplicateMembers: the last one counts, as everywhere where encoding/json reads; objects are merged.
func TestDuplicateMembers(t *testing.T) {
	t.Parallel()
	f, err := ParseFunction([]byte(`{"Name":"a","Config":{"Image":"i","Env":["A=1","B=2"],"Cmd":["a","b"]},"Timeout":0,"Timeout":7,
		"Name":"b","Config":{"Env":["C=3"],"Cmd":"c","Entrypoint":["e"],"Entrypoint":null},"name":"c"}`))
	require.NoError(t, err)
	require.Equal(t, Function{
		Name: "c", ContainerSize: "s4", Timeout: 7,
		Config:     Config{Image: "i", Env: []string{"C=3"}, Cmd: StrSlice{"c"}, StopSignal: "SIGTERM"},
		HostConfig: HostConfig{NetworkMode: "bridge"},
	}, f)
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	before, err := ParseFunction([]byte(create(`"Timeout":7`, `"Env":["A=b"],"Cmd":"c"`, "")))
	require.NoError(t, err)
	before.UUID = "e62c014e-386c-42ea-8d07-41d44e98cc3d"
	for name, c := range map[string]struct {
		body    string
		change  func(f *Function)
		refresh bool
	}{
		"nothing":         {`{}`, func(*Function) {}, false},
		"nulls":           {`{"ContainerSize":null,"Timeout":null,"Config":{"Env":null},"Refresh":null}`, func(*Function) {}, false},
		"a null Config":   {`{"Config":null}`, func(*Function) {}, false},
		"size":            {`{"ContainerSize":"l3"}`, func(f *Function) { f.ContainerSize = "l3" }, false},
		"timeout":         {`{"Timeout":86400}`, func(f *Function) { f.Timeout = 86400 }, false},
		"env":             {`{"Config":{"Env":["B=c","C="]}}`, func(f *Function) { f.Config.Env = []string{"B=c", "C="} }, false},
		"env cleared":     {`{"Config":{"Env":[]}}`, func(f *Function) { f.Config.Env = []string{} }, false},
		"refresh":         {`{"Refresh":true}`, func(*Function) {}, true},
		"what is no part": {`{"Name":"other","UUID":"x","Config":{"Image":"other","Cmd":["other"]},"HostConfig":5}`, func(*Function) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := ParseUpdate([]byte(c.body))
			require.NoError(t, err)
			require.Equal(t, c.refresh, u.Refresh)
			after, err := u.Apply(before)
			require.NoError(t, err)
			want := before
			c.change(&want)
			require.Equal(t, want, after)
			require.NotNil(t, after.Config.Env, "never null on the wire")
		})
	}
	require.Equal(t, []string{"A=b"}, before.Config.Env)

	for body, want := range map[string]string{
		``:                        "the body is empty",
		`[]`:                      "the body must be a JSON object",
		`null`:                    "the body must be a JSON object",
		`{"Timeout":0}`:           "Timeout: 0 must be a number of seconds from 1 to 86400",
		`{"Timeout":86401}`:       "Timeout: 86401 must be",
		`{"Timeout":"1"}`:         "Timeout: must be a whole number of 64 bits, it is a JSON string",
		`{"ContainerSize":""}`:    `ContainerSize: "" must be one of s1`,
		`{"ContainerSize":1}`:     "ContainerSize: must be a string, it is a JSON number",
		`{"Config":{"Env":"A"}}`:  "Config.Env: must be an array of strings, it is a JSON string",
		`{"Config":{"Env":[1]}}`:  "Config.Env: must be an array of strings, it holds a JSON number",
		`{"Config":{"Env":[""]}}`: `Config.Env: "" must be of the form NAME=value`,
		`{"Config":[]}`:           "Config: must be an object, it is a JSON array",
		`{"Refresh":"true"}`:      "Refresh: must be true or false, it is a JSON string",
	} {
		u, err := ParseUpdate([]byte(body))
		if err == nil {
			_, err = u.Apply(before)
		}
		requireInvalid(t, err, want, "")
	}
}

func TestValidAccount(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"default": true, "a": true, "0_": true, strings.Repeat("a", 63): true,
		"": false, "_a": false, "a-b": false, "A": false, "a.b": false, "a\n": false, "ä": false, strings.Repeat("a", 64): false,
	} {
		require.Equal(t, want, ValidAccount(name), "%q", name)
	}
}

func TestValidUUID(t *testing.T) {
	t.Parallel()
	const id = "e62c014e-386c-42ea-8d07-41d44e98cc3d"
	for s, want := range map[string]bool{
		id: true, "": false, id[1:]: false, id + "0": false, "{" + id + "}": false, "urn:uuid:" + id: false,
		strings.ReplaceAll(id, "-", ""): false, strings.ReplaceAll(id, "-", "/"): false, "g" + id[1:]: false,
	} {
		require.Equal(t, want, ValidUUID(s), "%q", s)
	}
}

// requireSurvives checks that f is the same function after it was stored.
func requireSurvives(tb testing.TB, f Function) {
	tb.Helper()
	stored, err := json.Marshal(f)
	require.NoError(tb, err)
	again, err := ParseFunction(stored)
	require.NoError(tb, err)
	// An empty list and none are the same on the wire, so the wire is what is compared.
	text, err := json.Marshal(again)
	require.NoError(tb, err)
	require.Equal(tb, string(stored), string(text))
}

func FuzzParseFunction(f *testing.F) {
	f.Add(readTestdata(f, "create.json"))
	f.Add(readTestdata(f, "created.json"))
	f.Add([]byte(create(`"Timeout":1,"NetworkingConfig":{"EndpointsConfig":{"a":[1,"<"]}}`,
		`"Cmd":"a","Entrypoint":["b",null],"StopSignal":9,"ExposedPorts":{"80":{}},"Labels":{"a":"\ud800"},"Env":["A=b"],"WorkingDir":"/"`,
		`"PortBindings":{"80/udp":[{"HostIp":"::1","HostPort":"1"}]},"VolumesFrom":["a:ro"],"NetworkMode":"container:a"`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		parsed, err := ParseFunction(body)
		if err != nil {
			require.Equal(t, Invalid, CodeOf(err))
			return
		}
		require.NoError(t, parsed.Validate())
		require.NotNil(t, parsed.Config.Env)
		requireSurvives(t, parsed)
	})
}

func FuzzParseUpdate(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"ContainerSize":"s3","Timeout":5,"Config":{"Env":["A=b",null]},"Refresh":true}`))
	f.Add([]byte(`{"Config":{"Env":[]},"config":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		update, err := ParseUpdate(body)
		if err != nil {
			require.Equal(t, Invalid, CodeOf(err))
			return
		}
		text, err := json.Marshal(update)
		require.NoError(t, err)
		again, err := ParseUpdate(text)
		require.NoError(t, err)
		require.Equal(t, update, again)

		before, err := ParseFunction([]byte(create("", "", "")))
		require.NoError(t, err)
		if after, err := update.Apply(before); err == nil {
			requireSurvives(t, after)
		} else {
			require.Equal(t, Invalid, CodeOf(err))
		}
	})
}
