package httpapi

import (
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/mux"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/httpapi/openapitest"
)

// document is what all answers of the tests' servers are checked against.
var document = func() *openapitest.Document {
	d, err := openapitest.New(openAPI)
	if err != nil {
		panic(err)
	}
	return d
}()

func TestDocumentDescribesTheRoutes(t *testing.T) {
	t.Parallel()
	routes := map[string]bool{}
	pattern := regexp.MustCompile(`\{(\w+):[^/]*\}`)
	router, ok := New(testConfig(newBackend())).Handler(true).(*mux.Router)
	require.True(t, ok)
	require.NoError(t, router.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		methods, err := route.GetMethods()
		if err != nil {
			return nil //nolint:nilerr // a prefix has none
		}
		path, err := route.GetPathTemplate()
		path = pattern.ReplaceAllString(path, "{$1}")
		for _, method := range methods {
			if !strings.HasPrefix(path, "/runner/v1/") { // both of its ends are funcd's own
				routes[method+" "+path] = true
			}
		}
		return err
	}))
	described := map[string]bool{}
	for _, o := range document.Operations() {
		described[o.Method+" "+o.Path] = true
		if o.Versioned {
			described[o.Method+" /v{version}"+o.Path] = true
		}
	}
	require.Equal(t, routes, described)
}

func TestDocumentIsServed(t *testing.T) {
	t.Parallel()
	resp, body := ask(t, serve(t, testConfig(newBackend())), "GET", "/openapi.json", nil)
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	require.Equal(t, string(openAPI), body)
}

func TestDocumentSaysWhatIsSigned(t *testing.T) {
	t.Parallel()
	cfg := testConfig(newBackend())
	cfg.UnsignedAccount = ""
	server := serve(t, cfg)
	for _, o := range document.Operations() {
		resp, body := ask(t, server, o.Method, pathOf(o.Path), nil)
		require.Equal(t, o.Signed, resp.StatusCode == http.StatusUnauthorized, "%s %s: %d %s", o.Method, o.Path, resp.StatusCode, body)
	}
}

// TestFaultsOfEveryRoute: what goes wrong inside is 500 and told to nobody, whatever was asked for. No test of the real stack can cause it.
func TestFaultsOfEveryRoute(t *testing.T) {
	t.Parallel()
	b := newBackend()
	for _, of := range []string{"Credential", "ByUUID"} { // what each request of a group asks for
		b.fail[of] = errors.New("10.0.0.7 refused the token hunter2")
	}
	server := serve(t, testConfig(b))
	key := api.SigningKey{AccessKey: "AKOWNER", Secret: testSecret, Region: "local"}
	for _, o := range document.Operations() {
		if !slices.Contains(o.Statuses, "500") {
			continue
		}
		resp, body := signed(t, server, o.Method, pathOf(o.Path), "", key, time.Now(), nil)
		require.Equal(t, http.StatusInternalServerError, resp.StatusCode, o.ID)
		require.Equal(t, "internal error\n", body, o.ID)
		require.Equal(t, string(api.Internal), resp.Header.Get(api.ErrorHeader), o.ID)
	}
}
