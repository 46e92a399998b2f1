//go:build integration

package test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// TestBadInputIsRefusedAndNothingStored has a funcd of its own, so that all that is stored is what it leaves.
func TestBadInputIsRefusedAndNothingStored(t *testing.T) {
	t.Parallel()
	own := startOwn(t, "input", beside("input"))
	f := own.create(t, program("funcd/hello"))
	stored := func() []string {
		return append(own.consulKeys(t, "input/functions/"), own.consulKeys(t, "input/addresses/")...)
	}
	listed, before := own.request(t, http.MethodGet, "/funcs", "").body, stored()
	require.Len(t, before, 2)

	body := func(top, config, host string) string {
		return fmt.Sprintf(`{"Name":"bad"%s,"Config":{"Image":"funcd/hello"%s},"HostConfig":{"Links":null%s}}`, top, config, host)
	}
	for name, c := range map[string]struct{ body, field, allowed string }{
		"no name":           {`{"Config":{"Image":"funcd/hello"}}`, "Name:", "is required"},
		"a name too long":   {body(`,"Name":"`+strings.Repeat("a", 256)+`"`, "", ""), "Name:", "at most 255 characters"},
		"a name with _":     {body(`,"Name":"a_b"`, "", ""), "Name:", "a-z, 0-9 and -"},
		"a name's type":     {body(`,"Name":5`, "", ""), "Name:", "must be a string"},
		"a size":            {body(`,"ContainerSize":"xl"`, "", ""), "ContainerSize:", "s1, s2, s3, s4, m1, m2, m3, l1, l2, l3"},
		"a timeout of 0":    {body(`,"Timeout":0`, "", ""), "Timeout:", "from 1 to 86400"},
		"a timeout too big": {body(`,"Timeout":86401`, "", ""), "Timeout:", "from 1 to 86400"},
		"a timeout's type":  {body(`,"Timeout":"5"`, "", ""), "Timeout:", "a whole number"},
		"no image":          {`{"Name":"bad","Config":{}}`, "Config.Image:", "is required"},
		"an image":          {body("", `,"Image":"No Image"`, ""), "Config.Image:", ""},
		"env":               {body("", `,"Env":["A"]`, ""), "Config.Env:", "NAME=value"},
		"env's type":        {body("", `,"Env":"A=b"`, ""), "Config.Env:", "an array of strings"},
		"cmd":               {body("", `,"Cmd":{"a":"b"}`, ""), "Config.Cmd:", "a string or an array of strings"},
		"entrypoint":        {body("", `,"Entrypoint":[1]`, ""), "Config.Entrypoint:", "a string or an array of strings"},
		"a port":            {body("", `,"ExposedPorts":{"99999/tcp":{}}`, ""), "Config.ExposedPorts:", "a port from 1 to 65535"},
		"a directory":       {body("", `,"WorkingDir":"srv"`, ""), "Config.WorkingDir:", "an absolute path"},
		"labels":            {body("", `,"Labels":["a"]`, ""), "Config.Labels:", "an object of strings"},
		"a signal":          {body("", `,"StopSignal":"SIGNONE"`, ""), "Config.StopSignal:", "a signal's name or a number from 1 to 64"},
		"tty":               {body("", `,"Tty":"yes"`, ""), "Config.Tty:", "true or false"},
		"a link":            {body("", "", `,"Links":["a:b:c"]`), "HostConfig.Links:", "name:alias"},
		"a binding":         {body("", "", `,"PortBindings":{"80/tcp":[{"HostPort":"http"}]}`), "HostConfig.PortBindings:", "from 1 to 65535"},
		"all ports":         {body("", "", `,"PublishAllPorts":1`), "HostConfig.PublishAllPorts:", "true or false"},
		"volumes":           {body("", "", `,"VolumesFrom":["a:x"]`), "HostConfig.VolumesFrom:", "name[:ro|rw]"},
		"a network":         {body("", "", `,"NetworkMode":"mine"`), "HostConfig.NetworkMode:", "bridge, host, none"},
		"endpoints":         {body(`,"NetworkingConfig":{"EndpointsConfig":5}`, "", ""), "NetworkingConfig.EndpointsConfig:", "an object"},
		"no body":           {"", "the body is empty", ""},
		"no JSON":           {"Name=bad", "the body is not valid JSON", ""},
		"JSON cut off":      {`{"Name":"bad"`, "the body is not valid JSON", ""},
		"JSON twice":        {body("", "", "") + "{}", "the body holds more than one JSON value", ""},
		"an array":          {"[]", "the body must be a JSON object", ""},
	} {
		a := own.request(t, http.MethodPost, "/funcs/create", c.body)
		require.Equal(t, http.StatusBadRequest, a.status, "%s: %s", name, a.body)
		require.True(t, strings.HasPrefix(a.body, c.field), "%s: %s", name, a.body)
		require.Contains(t, a.body, c.allowed, name)
		require.True(t, strings.HasPrefix(a.header.Get("Content-Type"), "text/plain"), name)
	}

	taken := own.request(t, http.MethodPost, "/funcs/create", `{"Name":"`+f.Name+`","Config":{"Image":"funcd/upper"}}`)
	require.Equal(t, http.StatusConflict, taken.status)
	require.Contains(t, taken.body, f.Name)

	other, none := dev.create(t, program("funcd/hello")), uuid.NewString()
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{http.MethodGet, "/funcs/none", 404},
		{http.MethodPut, "/funcs/none", 400}, // its body is looked at first, and is empty
		{http.MethodDelete, "/funcs/none", 404},
		{http.MethodGet, "/funcs/UPPER%2Fcase", 404},
		{http.MethodPost, "/call/" + f.Name + "/" + none, 404},
		{http.MethodPost, "/call/none/" + f.UUID, 404},
		{http.MethodPost, "/call/none/" + f.UUID + "/sync", 404},
		{http.MethodPost, "/call/" + f.Name + "/no-uuid", 404},
		{http.MethodPost, "/call/" + other.Name + "/" + f.UUID, 404},
		{http.MethodPost, other.path("call"), 404}, // another funcd's
		{http.MethodGet, "/output/none/" + f.UUID + "/" + none, 404},
		{http.MethodGet, f.path("output", none), 404},
		{http.MethodGet, f.path("output", none, "wait"), 404},
		{http.MethodGet, f.path("output", "no-id"), 404},
		{http.MethodGet, "/logs/none/" + f.UUID, 404},
		{http.MethodGet, "/", 404},
		{http.MethodGet, "/none", 404},
		{http.MethodGet, "/v1.23/none", 404},
		{http.MethodPost, f.path("call", "async"), 405}, // where a call of that id is cancelled
		{http.MethodGet, "/runner/v1/next", 404},        // it is on the socket only
		{http.MethodPatch, f.path("call"), 405},
		{http.MethodPost, "/funcs", 405},
		{http.MethodDelete, "/funcs", 405},
		{http.MethodPatch, "/funcs/" + f.Name, 405},
		{http.MethodPost, f.path("output", none), 405},
		{http.MethodPut, f.path("logs"), 405},
	} {
		a := own.request(t, c.method, c.path, "")
		require.Equal(t, c.status, a.status, "%s %s: %s", c.method, c.path, a.body)
	}
	require.Equal(t, own.request(t, http.MethodPost, "/call/none/"+f.UUID, "").body, own.request(t, http.MethodPost, "/call/"+f.Name+"/"+none, "").body,
		"a wrong name and a wrong UUID have one answer")

	for _, path := range []string{"/funcs/create", "/funcs/" + f.Name, f.path("call"), f.path("call", "sync")} {
		requireTooLarge(t, own, path)
	}

	require.Equal(t, listed, own.request(t, http.MethodGet, "/funcs", "").body)
	require.Equal(t, before, stored())
	require.Empty(t, f.events(t, ""), "no call was made")
	require.Empty(t, f.dispatches(t))
	require.Equal(t, http.StatusNotFound, request(t, http.MethodGet, dev.nomad+jobOf("func-default-bad"), "").status)
	require.NoError(t, own.RemoveFunction(t.Context(), f.Name), "no call is in its queue")
}

// requireTooLarge checks that a body over 1 MiB is refused before it has come, or as soon as too much of it has.
func requireTooLarge(t *testing.T, s *stack, path string) {
	t.Helper()
	method := http.MethodPost
	if strings.HasPrefix(path, "/funcs/") && !strings.HasSuffix(path, "/create") {
		method = http.MethodPut
	}
	require.Equal(t, http.StatusRequestEntityTooLarge, s.request(t, method, path, strings.Repeat(" ", 1<<20+1)).status, path)

	for framing, chunked := range map[string]bool{"Content-Length: 10737418240": false, "Transfer-Encoding: chunked": true} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		_, err = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", method, path, conn.RemoteAddr(), framing)
		require.NoError(t, err)
		endless := make(chan int, 1)
		go func() {
			sent := 0
			for chunk := fmt.Sprintf("%x\r\n%s\r\n", 1<<16, strings.Repeat("x", 1<<16)); chunked; sent += 1 << 16 {
				if _, err := conn.Write([]byte(chunk)); err != nil {
					break
				}
			}
			endless <- sent
		}()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err, "%s %s", path, framing)
		resp.Body.Close()
		require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode, "%s %s", path, framing)
		require.True(t, resp.Close, "the connection can't be used again")
		require.Less(t, <-endless, 64<<20, "what funcd has read, with what the kernel holds for it")
	}
}

func TestPayloadOfTheLimitIsTaken(t *testing.T) {
	t.Parallel()
	f := dev.create(t, program("funcd/upper"))
	id, err := dev.Call(t.Context(), f.Name, f.UUID, strings.NewReader(strings.Repeat("a", 1<<20)), nil)
	require.NoError(t, err)
	require.Len(t, f.wait(t, id).body, 1<<20)
	_, err = dev.Call(t.Context(), f.Name, f.UUID, strings.NewReader(strings.Repeat("a", 1<<20+1)), nil)
	require.Equal(t, api.TooLarge, api.CodeOf(err))
}
