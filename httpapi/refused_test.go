package httpapi

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// unread is a body that nobody may read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body is read")
	return 0, io.EOF
}

func (unread) Close() error { return nil }

// refusal is a request that is refused: what is done to it before it is sent, and the answer's status.
type refusal struct {
	send   func(*http.Request)
	status int
}

// pathOf returns a path of the document for what the backend has.
func pathOf(template string) string {
	return strings.NewReplacer("{name}", testName, "{uuid}", testUUID, "{call}", testCall, "{ref}", "ubuntu").Replace(template)
}

func signingKey(accessKey, secret string) api.SigningKey {
	return api.SigningKey{AccessKey: accessKey, Secret: secret, Region: "local"}
}

// Whoever has no key, or none for what is asked for, must not fill the memory: nothing of the body is read.
func TestNothingIsReadForWhoIsRefused(t *testing.T) {
	t.Parallel()
	owner := signingKey("AKOWNER", testSecret)
	signedBy := func(key api.SigningKey, skew time.Duration, change func(*http.Request)) func(*http.Request) {
		return func(r *http.Request) {
			api.Sign(r, []byte(createBody), key, time.Now().Add(skew))
			if change != nil {
				change(r)
			}
		}
	}
	asIs := func(*http.Request) {}
	wrong := map[string]refusal{
		"unsigned":                  {asIs, 401},
		"of another scheme":         {func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, 401},
		"with a wrong secret":       {signedBy(signingKey("AKOWNER", "another secret"), 0, nil), 401},
		"of an unknown key":         {signedBy(signingKey("AKNOBODY", testSecret), 0, nil), 401},
		"of an unknown, empty key":  {signedBy(signingKey("AKNOBODY", ""), 0, nil), 401},
		"old":                       {signedBy(owner, -6*time.Minute, nil), 401},
		"of the future":             {signedBy(owner, 6*time.Minute, nil), 401},
		"another path":              {signedBy(owner, 0, func(r *http.Request) { r.URL.Path += "/" + testName }), 401},
		"another query":             {signedBy(owner, 0, func(r *http.Request) { r.URL.RawQuery = "x=y" }), 401},
		"another hash":              {signedBy(owner, 0, func(r *http.Request) { r.Header.Set(api.ContentSHA256Header, strings.Repeat("0", 64)) }), 401},
		"without a hash":            {signedBy(owner, 0, func(r *http.Request) { r.Header.Del(api.ContentSHA256Header) }), 401},
		"with a header unsigned":    {signedBy(owner, 0, func(r *http.Request) { r.Header.Set("X-Hyper-Other", "x") }), 401},
		"with a header of the body": {signedBy(owner, 0, func(r *http.Request) { r.Header.Set("Content-Md5", "x") }), 401},
	}
	refuse := func(t *testing.T, cfg Config, method, path string, c refusal) {
		t.Helper()
		for _, length := range []int64{int64(len(createBody)), int64(cfg.MaxBody) + 1, -1} {
			r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
			r.Host = "127.0.0.1:3862"
			c.send(r)
			r.Body, r.ContentLength = unread{t}, length
			w := httptest.NewRecorder()
			New(cfg).Handler(true).ServeHTTP(w, r)
			require.Equal(t, c.status, w.Code, "%s %s: %s", method, path, w.Body)
			if c.status == 401 && !strings.HasPrefix(path, "/runner/") {
				require.Equal(t, refused+"\n", w.Body.String())
			}
		}
	}
	guarded := func(b *backend) Config {
		b.definition.Account = "owner"
		cfg := testConfig(b)
		cfg.UnsignedAccount = ""
		cfg.SignedCalls = func(string) bool { return true }
		return cfg
	}

	for name, c := range wrong {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := guarded(newBackend())
			for _, o := range document.Operations() {
				if o.Signed || strings.Contains(o.Path, "{uuid}") {
					if name == "another path" && o.ID != "listFunctions" {
						continue // it would be no path of the document
					}
					refuse(t, cfg, o.Method, pathOf(o.Path), c)
				}
			}
		})
	}
	for name, c := range map[string]struct {
		method, path string
		refusal
	}{
		"a newer client":                      {"POST", "/v1.24/funcs/create", refusal{signedBy(owner, 0, nil), 400}},
		"a call-only key that manages":        {"POST", "/funcs/create", refusal{signedBy(signingKey("AKCALLER", testSecret), 0, nil), 403}},
		"a key of another account that calls": {"POST", callPath, refusal{signedBy(signingKey("AKOTHER", testSecret), 0, nil), 404}},
		"the same and waits":                  {"POST", callPath + "/sync", refusal{signedBy(signingKey("AKOTHER", testSecret), 0, nil), 404}},
		"the same and fetches":                {"GET", outputPath + "/wait", refusal{signedBy(signingKey("AKOTHER", testSecret), 0, nil), 404}},
		"a function that is not there":        {"POST", "/call/hello/" + otherUUID, refusal{signedBy(owner, 0, nil), 404}},
		"logs of such a function":             {"GET", "/logs/hello/" + otherUUID, refusal{signedBy(owner, 0, nil), 404}},
		"a path that is not there":            {"POST", "/", refusal{asIs, 404}},
		"a method that is not there":          {"PATCH", "/funcs", refusal{asIs, 405}},
		"a container without a token":         {"POST", nextPath, refusal{asIs, 401}},
		"a slot without a token":              {"POST", slotNextPath, refusal{asIs, 401}},
		"a slot that begins without a token":  {"POST", beginPath, refusal{asIs, 401}},
		"a result without a token":            {"POST", resultPath, refusal{asIs, 401}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refuse(t, guarded(newBackend()), c.method, c.path, c.refusal)
		})
	}
	// A server that takes unsigned requests, from its own machine.
	for name, c := range map[string]refusal{
		"to a name that was rebound": {func(r *http.Request) { r.Host = "evil.example" }, 403},
		"of another site's page":     {func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 403},
		"signed, by another secret":  wrong["with a wrong secret"],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refuse(t, testConfig(newBackend()), "POST", "/funcs/create", c)
		})
	}
	t.Run("a key that can't be looked up", func(t *testing.T) {
		t.Parallel()
		b := newBackend()
		b.fail["Credential"] = api.Errorf(api.Unavailable, "Consul does not answer")
		refuse(t, guarded(b), "POST", "/funcs/create", refusal{signedBy(owner, 0, nil), 503})
	})
}

// A client that asks before it sends a body is told no at once.
func TestARefusedBodyIsNotAskedFor(t *testing.T) {
	t.Parallel()
	cfg := testConfig(newBackend())
	cfg.UnsignedAccount = ""
	cfg.SignedCalls = func(string) bool { return true }
	server := serve(t, cfg)
	for _, request := range []string{"POST /funcs/create", "POST " + callPath, "POST " + callPath + "/sync", "GET " + outputPath + "/wait"} {
		_, in := raw(t, server, request+" HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
		resp, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, 401, resp.StatusCode, request)
		require.True(t, resp.Close, "what is sent anyway can't be taken for the next request")
	}
}

// A head that is signed as it should be lets no other body in.
func TestAnotherBodyThanTheSignedIsRefused(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]func() (io.Reader, int64){
		"of its length":             func() (io.Reader, int64) { return strings.NewReader(createBody[1:] + "x"), int64(len(createBody)) },
		"a longer one":              func() (io.Reader, int64) { return strings.NewReader(createBody + " "), int64(len(createBody)) + 1 },
		"a shorter one":             func() (io.Reader, int64) { return strings.NewReader("{}"), 2 },
		"none":                      func() (io.Reader, int64) { return http.NoBody, 0 },
		"in chunks":                 func() (io.Reader, int64) { return unsized(createBody + " "), -1 },
		"none in chunks":            func() (io.Reader, int64) { return unsized(""), -1 },
		"the signed one":            func() (io.Reader, int64) { return strings.NewReader(createBody), int64(len(createBody)) },
		"the signed one, in chunks": func() (io.Reader, int64) { return unsized(createBody), -1 },
	} {
		for _, request := range []string{
			"POST /funcs/create", "PUT /v1.23/funcs/hello", "DELETE /funcs/hello", "POST " + callPath, "PUT " + callPath + "/sync", "DELETE " + callPath + "/" + testCall,
			"GET " + outputPath, "GET " + outputPath + "/wait", "GET " + logsPath, "GET " + statusPath,
		} {
			t.Run(fmt.Sprintf("%s, %s", name, request), func(t *testing.T) {
				t.Parallel()
				b := newBackend()
				b.definition.Account = "owner"
				cfg := testConfig(b)
				cfg.UnsignedAccount = ""
				cfg.SignedCalls = func(string) bool { return true }
				method, path, _ := strings.Cut(request, " ")
				resp, body := signed(t, serve(t, cfg), method, path, createBody, signingKey("AKOWNER", testSecret), time.Now(), func(r *http.Request) {
					body, length := sent()
					r.Body, r.ContentLength, r.GetBody = io.NopCloser(body), length, nil
				})
				if strings.HasPrefix(name, "the signed one") {
					require.Less(t, resp.StatusCode, 300, body)
					return
				}
				require.Equal(t, 401, resp.StatusCode, body)
				require.Equal(t, refused+"\n", body)
				require.Zero(t, b.cancelled)
				require.Empty(t, b.account+string(b.payload)+b.created.Name)
				require.Empty(t, b.delivered)
			})
		}
	}
}
