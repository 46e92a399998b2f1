package httpapi

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// signed sends a request that is signed, after change.
func signed(t *testing.T, server *httptest.Server, method, path, body string, key api.SigningKey, at time.Time, change func(*http.Request)) (*http.Response, string) {
	req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	api.Sign(req, []byte(body), key, at)
	if change != nil {
		change(req)
	}
	resp, err := server.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(text)
}

func TestSignature(t *testing.T) {
	t.Parallel()
	owner := api.SigningKey{AccessKey: "AKOWNER", Secret: testSecret, Region: "local"}
	caller := api.SigningKey{AccessKey: "AKCALLER", Secret: testSecret, Region: "local"}
	wrong := api.SigningKey{AccessKey: "AKOWNER", Secret: "another secret", Region: "local"}
	wrongCaller := api.SigningKey{AccessKey: "AKCALLER", Secret: "another secret", Region: "local"}
	unknown := api.SigningKey{AccessKey: "AKNOBODY", Secret: testSecret, Region: "local"}
	unknownEmpty := api.SigningKey{AccessKey: "AKNOBODY", Secret: "", Region: "local"}
	refusals := map[string]bool{}
	for name, c := range map[string]struct {
		key    api.SigningKey
		skew   time.Duration
		change func(*http.Request)
		status int
	}{
		"signed":                               {owner, 0, nil, 200},
		"a slow clock":                         {owner, -4 * time.Minute, nil, 200},
		"a wrong secret":                       {wrong, 0, nil, 401},
		"an unknown key":                       {unknown, 0, nil, 401},
		"an unknown key with an empty secret":  {unknownEmpty, 0, nil, 401},
		"an old request":                       {owner, -6 * time.Minute, nil, 401},
		"a request of the future":              {owner, 6 * time.Minute, nil, 401},
		"no signature":                         {owner, 0, func(r *http.Request) { r.Header.Del("Authorization") }, 401},
		"a signature of another kind":          {owner, 0, func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, 401},
		"another body":                         {owner, 0, func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("{}")), 2 }, 401},
		"another path":                         {owner, 0, func(r *http.Request) { r.URL.Path = "/funcs" }, 401},
		"another method":                       {owner, 0, func(r *http.Request) { r.Method = "PUT" }, 401},
		"a call-only key":                      {caller, 0, nil, 403},
		"a call-only key with a wrong secret":  {wrongCaller, 0, nil, 401},
		"a call-only key that is out of date":  {caller, -6 * time.Minute, nil, 401},
		"an unsigned request with its X-Hyper": {owner, 0, func(r *http.Request) { r.Header.Set("Authorization", "") }, 401},
	} {
		b := newBackend()
		cfg := testConfig(b)
		cfg.UnsignedAccount = ""
		server := serve(t, cfg)
		resp, body := signed(t, server, "GET", "/v1.23/funcs/hello", "", c.key, time.Now().Add(c.skew), c.change)
		require.Equal(t, c.status, resp.StatusCode, "%s: %s", name, body)
		if c.status == 200 {
			require.Equal(t, "owner", b.account)
			continue
		}
		require.Empty(t, b.account, name)
		if c.status == 401 {
			require.Equal(t, string(api.Unauthorized), resp.Header.Get(api.ErrorHeader))
			refusals[body] = true
		}
	}
	require.Equal(t, map[string]bool{refused + "\n": true}, refusals, "one sentence, whatever is wrong")
}

func TestEveryManagementRequestMustBeSigned(t *testing.T) {
	t.Parallel()
	cfg := testConfig(newBackend())
	cfg.UnsignedAccount = ""
	server := serve(t, cfg)
	for _, prefix := range []string{"", "/v1.23", "/v1.0"} {
		for _, request := range []string{"POST /funcs/create", "GET /funcs", "GET /funcs/hello", "PUT /funcs/hello", "DELETE /funcs/hello", "GET /version",
			"GET /info", "GET /images/busybox/json", "GET /images/r.example:5000/team%2Fapp/json"} {
			method, path, _ := strings.Cut(request, " ")
			resp, body := ask(t, server, method, prefix+path, strings.NewReader(createBody))
			require.Equal(t, 401, resp.StatusCode, "%s %s", method, prefix+path)
			require.Equal(t, refused+"\n", body)
		}
	}
	resp, _ := ask(t, server, "POST", callPath, nil)
	require.Equal(t, 200, resp.StatusCode, "the UUID is what a caller needs")
}

// What an operator demands a key for may be signed by any of the function's account, and by nobody else.
func TestSignedCalls(t *testing.T) {
	t.Parallel()
	b := newBackend()
	b.definition.Account = "owner"
	cfg := testConfig(b)
	cfg.UnsignedAccount = ""
	demanded := true
	cfg.SignedCalls = func(account string) bool { return demanded && account == "owner" }
	server := serve(t, cfg)
	requests := []string{
		"POST " + callPath, "GET " + callPath + "/sync", "DELETE " + callPath + "/" + testCall, "GET " + outputPath, "GET " + outputPath + "/wait",
		"GET /logs/hello/" + testUUID, "GET /status/hello/" + testUUID, "GET /status/hello/" + testUUID + "?list=1",
	}
	key := func(accessKey, secret string) api.SigningKey {
		return api.SigningKey{AccessKey: accessKey, Secret: secret, Region: "local"}
	}
	for _, request := range requests {
		method, path, _ := strings.Cut(request, " ")
		resp, body := ask(t, server, method, path, nil)
		require.Equal(t, 401, resp.StatusCode, request)
		require.Equal(t, refused+"\n", body)
		for name, c := range map[string]struct {
			key    api.SigningKey
			skew   time.Duration
			status int
		}{
			"a key":                    {key("AKOWNER", testSecret), 0, 0},
			"a call-only key":          {key("AKCALLER", testSecret), 0, 0},
			"a wrong secret":           {key("AKCALLER", "another"), 0, 401},
			"an old request":           {key("AKOWNER", testSecret), -6 * time.Minute, 401},
			"an unknown key":           {key("AKNOBODY", testSecret), 0, 401},
			"a key of another account": {key("AKOTHER", testSecret), 0, 404},
		} {
			resp, body := signed(t, server, method, path, "payload", c.key, time.Now().Add(c.skew), nil)
			if c.status == 0 {
				require.Less(t, resp.StatusCode, 300, "%s with %s: %s", request, name, body)
				continue
			}
			require.Equal(t, c.status, resp.StatusCode, "%s with %s: %s", request, name, body)
			if c.status == 404 {
				require.Equal(t, "no such function\n", body)
			}
		}
	}
	for _, path := range []string{"/call/hello/" + otherUUID, "/call/other/" + testUUID} {
		resp, body := ask(t, server, "POST", path, nil)
		require.Equal(t, 404, resp.StatusCode)
		require.Equal(t, "no such function\n", body)
	}
	resp, _ := signed(t, server, "POST", callPath, "payload", key("AKOWNER", testSecret), time.Now(),
		func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("Payload")), 7 })
	require.Equal(t, 401, resp.StatusCode, "the payload is signed too")

	// The Go client, whose signature does not reach the function.
	for _, accessKey := range []string{"AKOWNER", "AKCALLER"} {
		c, err := api.NewClient(api.ClientConfig{Address: server.URL, AccessKey: accessKey, SecretKey: testSecret, SignCalls: true})
		require.NoError(t, err)
		b.env = nil
		_, err = c.Call(t.Context(), "hello", testUUID, strings.NewReader("in"), http.Header{"X-Own": {"x"}, "Content-Type": {"text/x"}})
		require.NoError(t, err)
		require.Equal(t, "in", string(b.payload))
		require.Contains(t, b.env, "HTTP_X_OWN=x")
		require.Contains(t, b.env, "CONTENT_TYPE=text/x")
		for _, variable := range b.env {
			require.NotContains(t, variable, "HYPER")
			require.NotContains(t, variable, "AUTHORIZATION")
		}
		_, _, err = c.Output(t.Context(), "hello", testUUID, testCall, true)
		require.NoError(t, err)
		require.NoError(t, c.Logs(t.Context(), "hello", testUUID, api.EventQuery{Tail: -1}, func(api.Event) error { return nil }))
		_, err = c.Status(t.Context(), "hello", testUUID, true)
		require.NoError(t, err)
		_, err = c.Call(t.Context(), "hello", testUUID, strings.NewReader(strings.Repeat("x", api.MaxPayload+1)), nil)
		require.Equal(t, api.TooLarge, api.CodeOf(err))
	}
	plain, err := api.NewClient(api.ClientConfig{Address: server.URL, AccessKey: "AKOWNER", SecretKey: testSecret})
	require.NoError(t, err)
	_, err = plain.Call(t.Context(), "hello", testUUID, nil, nil)
	require.Equal(t, api.Unauthorized, api.CodeOf(err))

	demanded = false
	for _, request := range requests {
		method, path, _ := strings.Cut(request, " ")
		resp, body := ask(t, server, method, path, nil)
		require.Less(t, resp.StatusCode, 300, "%s: %s", request, body)
	}
}

func TestKeyThatCannotBeLookedUpIsNotRefused(t *testing.T) {
	t.Parallel()
	b := newBackend()
	b.fail["Credential"] = api.Errorf(api.Unavailable, "Consul does not answer")
	key := api.SigningKey{AccessKey: "AKOWNER", Secret: testSecret, Region: "local"}
	resp, body := signed(t, serve(t, testConfig(b)), "GET", "/funcs", "", key, time.Now(), nil)
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "Consul does not answer\n", body)
}

func TestSignedBody(t *testing.T) {
	t.Parallel()
	b := newBackend()
	cfg := testConfig(b)
	cfg.UnsignedAccount = ""
	server := serve(t, cfg)
	client, err := api.NewClient(api.ClientConfig{Address: server.URL, AccessKey: "AKOWNER", SecretKey: testSecret})
	require.NoError(t, err)
	f, err := client.CreateFunction(t.Context(), api.Function{Name: "hello", Config: api.Config{Image: "ubuntu"}})
	require.NoError(t, err)
	require.Equal(t, testUUID, f.UUID)
	require.Equal(t, "owner", b.account)
	require.Equal(t, "ubuntu", b.created.Config.Image)

	seconds := 7
	f, err = client.UpdateFunction(t.Context(), "hello", api.FunctionUpdate{Timeout: &seconds, Refresh: true})
	require.NoError(t, err)
	require.Equal(t, 7, f.Timeout)
	require.True(t, b.update.Refresh)
	require.NoError(t, client.RemoveFunction(t.Context(), "hello"))
	list, err := client.Functions(t.Context(), api.Filters{"name": {"ell"}, "label": {"a=b"}})
	require.NoError(t, err)
	require.Len(t, list, 1)
}

// Where unsigned requests are taken, a browser on the same machine can send them for any page that it shows.
func TestUnsignedRequests(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header []string
		status int
	}{
		"of a client":                         {nil, 201},
		"to localhost":                        {[]string{"Host", "localhost:3862"}, 201},
		"to another loopback address":         {[]string{"Host", "127.9.0.1"}, 201},
		"to ::1":                              {[]string{"Host", "[::1]:3862"}, 201},
		"to ::1 without a port":               {[]string{"Host", "[::1]"}, 201},
		"of a page of its own":                {[]string{"Host", "localhost:1", "Origin", "http://localhost:1", "Sec-Fetch-Site", "same-origin"}, 201},
		"of another site's page":              {[]string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, 403},
		"of a page by another port":           {[]string{"Sec-Fetch-Site", "same-site"}, 403},
		"of an old browser":                   {[]string{"Origin", "https://evil.example"}, 403},
		"of a sandboxed page":                 {[]string{"Origin", "null"}, 403},
		"to a name that was rebound":          {[]string{"Host", "evil.example:3862", "Sec-Fetch-Site", "same-origin"}, 403},
		"to a name that begins like loopback": {[]string{"Host", "127.0.0.1.evil.example"}, 403},
		"to an address of the network":        {[]string{"Host", "10.0.0.7:3862"}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBackend()
			resp, body := ask(t, serve(t, testConfig(b)), "POST", "/funcs/create", strings.NewReader(createBody), c.header...)
			require.Equal(t, c.status, resp.StatusCode, body)
			require.Equal(t, c.status == 201, b.created.Name != "")
		})
	}
}

func filterFunctions() map[string]*api.Function {
	return map[string]*api.Function{
		"a": {Name: "hello-a", ContainerSize: "s1", Config: api.Config{Image: "ubuntu", Labels: map[string]string{"team": "red", "x": ""}}},
		"b": {Name: "hello-b", ContainerSize: "s2", Config: api.Config{Image: "ubuntu:latest", Labels: map[string]string{"team": "blue"}}},
		"c": {Name: "other", ContainerSize: "s1", Config: api.Config{Image: "busybox"}},
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``:                                   "a b c",
		`{}`:                                 "a b c",
		`null`:                               "a b c",
		`{"name":{"hello":true}}`:            "a b",
		`{"name":["hello"]}`:                 "a b",
		`{"name":{"hello":true,"oth":true}}`: "a b c",
		`{"name":["hello","oth"]}`:           "a b c",
		`{"name":{"hello":true},"size":{"s1":true}}`: "a",
		`{"size":["s1"],"label":["team=red"]}`:       "a",
		`{"size":{"s1":true,"s2":true}}`:             "a b c",
		`{"image":{"ubuntu":true}}`:                  "a",
		`{"label":{"team":true}}`:                    "a b",
		`{"label":{"team=blue":true}}`:               "b",
		`{"label":{"x=":true}}`:                      "a",
		`{"label":{"x":true}}`:                       "a",
		`{"label":{"tea":true}}`:                     "",
		`{"name":{"HELLO":true}}`:                    "",
		`{"name":{}}`:                                "a b c",
		`{"name":[]}`:                                "a b c",
		`{"name":null}`:                              "a b c",
		`{"name":{"a":true},"label":{"no":true}}`:    "",
		`{"colour":{"red":true}}`:                    "error",
		`{"colour":{}}`:                              "a b c",
		`{"name":"hello"}`:                           "error",
		`{"name":{"hello":"yes"}}`:                   "error",
		`{"name":[1]}`:                               "error",
		`["name"]`:                                   "error",
		`"name"`:                                     "error",
		`{"name":{"hello":true}} {}`:                 "error",
		`{"name`:                                     "error",
		`name=hello`:                                 "error",
		`{"name":{"hello":true},"` + strings.Repeat("k", 300) + `":{"v":true}}`: "error",
	} {
		matches, err := parseFilters(text)
		if want == "error" {
			require.Equal(t, api.Invalid, api.CodeOf(err), text)
			require.Less(t, len(err.Error()), 250)
			continue
		}
		require.NoError(t, err, text)
		var names []string
		functions := filterFunctions()
		for _, name := range slices.Sorted(maps.Keys(functions)) {
			if matches(functions[name]) {
				names = append(names, name)
			}
		}
		require.Equal(t, want, strings.Join(names, " "), text)
	}
}

func FuzzFilters(f *testing.F) {
	for _, text := range []string{``, `{}`, `{"name":{"hello":true}}`, `{"label":["a=b","c"],"size":["s1"]}`, `{"image":{"x":false}}`, `null`, `[`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		matches, err := parseFilters(text)
		if err != nil {
			if api.CodeOf(err) != api.Invalid {
				t.Fatal(err)
			}
			return
		}
		for _, function := range filterFunctions() {
			matches(function)
		}
		matches(&api.Function{})
	})
}
