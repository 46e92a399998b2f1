package openapitest

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const document = `{
  "openapi": "3.1.0",
  "paths": {
    "/things/{name}": {
      "servers": [{"url": "/"}, {"url": "/v{version}"}],
      "get": {"operationId": "thing", "security": [{"signature": []}], "responses": {
        "200": {"description": "it", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
        "202": {"description": "later", "content": {"text/plain": {"schema": {"type": "string"}}}},
        "404": {"$ref": "#/components/responses/NotFound"}}},
      "delete": {"responses": {"204": {"description": "gone"}}}},
    "/things/all": {"get": {"responses": {
      "200": {"description": "all", "content": {"application/x-ndjson": {"x-lines": true, "schema": {"$ref": "#/components/schemas/Thing"}}}}}}},
    "/images/{ref}/json": {"get": {"responses": {"204": {"description": "it is there"}}}}
  },
  "components": {
    "headers": {"Kind": {"required": true, "schema": {"enum": ["none"]}}},
    "responses": {"NotFound": {"description": "none", "headers": {"Kind": {"$ref": "#/components/headers/Kind"}}, "content": {"text/plain": {}}}},
    "schemas": {"Thing": {"type": "object", "required": ["Name"], "properties": {"Name": {"type": "string"}}}}
  }
}`

func TestTransport(t *testing.T) {
	t.Parallel()
	d, err := New([]byte(document))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		method, path, kind string
		status             int
		body               string
		header             string
		wrong              string // a part of the error; none if empty
	}{
		"as described":                      {"GET", "/things/a", "application/json", 200, `{"Name":"a"}` + "\n", "", ""},
		"behind a version":                  {"GET", "/v1.2/things/a", "application/json", 200, `{"Name":"a"}`, "", ""},
		"text":                              {"GET", "/things/a", "text/plain; charset=utf-8", 202, "later", "", ""},
		"without a body":                    {"DELETE", "/things/a", "", 204, "", "", ""},
		"an error":                          {"GET", "/things/a", "text/plain", 404, "none", "none", ""},
		"lines":                             {"GET", "/things/all", "application/x-ndjson", 200, `{"Name":"a"}` + "\n" + `{"Name":"b"}` + "\n", "", ""},
		"slashes in an image's name":        {"GET", "/images/a/b:c/json", "", 204, "", "", ""},
		"nothing there":                     {"GET", "/none", "text/plain", 404, "none", "", ""},
		"a method that is none of it":       {"PUT", "/things/a", "text/plain", 405, "no", "", ""},
		"a status that is not described":    {"GET", "/things/a", "text/plain", 201, "", "", "no such answer"},
		"another media type":                {"GET", "/things/a", "text/html", 200, "", "", "Content-Type"},
		"a member that is not described":    {"GET", "/things/a", "application/json", 200, `{"Name":"a","Size":1}`, "", "additional properties 'Size' not allowed"},
		"a member that is missing":          {"GET", "/things/a", "application/json", 200, `{}`, "", "missing property 'Name'"},
		"a member of another type":          {"GET", "/things/a", "application/json", 200, `{"Name":1}`, "", "got number, want string"},
		"two values":                        {"GET", "/things/a", "application/json", 200, `{"Name":"a"}{"Name":"a"}`, "", "not as described"},
		"no JSON":                           {"GET", "/things/a", "application/json", 200, ``, "", "not as described"},
		"a second line that is wrong":       {"GET", "/things/all", "application/x-ndjson", 200, `{"Name":"a"}` + "\n{}\n", "", "missing property 'Name'"},
		"a body where there is none":        {"DELETE", "/things/a", "", 204, "x", "", "has a body"},
		"a header that is wrong":            {"GET", "/things/a", "text/plain", 404, "none", "some", "header Kind"},
		"a header that is missing":          {"GET", "/things/a", "text/plain", 404, "none", "", "header Kind"},
		"something at a path of no one":     {"GET", "/none", "text/plain", 200, "", "", "no operation is described"},
		"something for a method of no one":  {"PUT", "/things/a", "text/plain", 404, "", "", "no operation is described"},
		"a version where there is none":     {"GET", "/v1.2/things/all/x", "application/x-ndjson", 200, "", "", "no operation is described"},
		"a parameter in place of a literal": {"DELETE", "/things/all", "", 200, "", "", "DELETE /things/{name} has no such answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var reported error
			transport := d.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
				return &http.Response{
					StatusCode: c.status, Header: http.Header{"Content-Type": {c.kind}, "Kind": {c.header}},
					Body: io.NopCloser(strings.NewReader(c.body)), ContentLength: -1,
				}, nil
			}), func(*http.Request) bool { return true }, func(err error) { reported = err })
			req, err := http.NewRequestWithContext(t.Context(), c.method, "http://funcd"+c.path, nil)
			require.NoError(t, err)
			resp, err := transport.RoundTrip(req)
			if err == nil {
				var read []byte
				read, err = io.ReadAll(resp.Body)
				require.Equal(t, c.body, string(read))
				require.NoError(t, resp.Body.Close(), "it is told once")
			}
			require.Equal(t, reported, err)
			if c.wrong == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.wrong)
		})
	}
}

// TestBodyThatIsClosedEarly: what was read of a stream is checked, and what broke off is nobody's fault.
func TestBodyThatIsClosedEarly(t *testing.T) {
	t.Parallel()
	d, err := New([]byte(document))
	require.NoError(t, err)
	for text, wrong := range map[string]bool{`{"Name":"a"}` + "\n" + `{"Na`: false, `{"Size":"a"}` + "\n" + `{"Na`: true} {
		resp := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/x-ndjson"}}}
		check, err := d.Check("GET", "/things/all", resp)
		require.NoError(t, err)
		b := &body{ReadCloser: io.NopCloser(strings.NewReader(text + "…")), length: -1, check: check, report: func(error) {}}
		_, err = io.ReadFull(b, make([]byte, len(text)))
		require.NoError(t, err)
		require.Equal(t, wrong, b.Close() != nil)
	}
}

func TestOperations(t *testing.T) {
	t.Parallel()
	d, err := New([]byte(document))
	require.NoError(t, err)
	require.Equal(t, []Operation{
		{"", "GET", "/things/all", false, false, []string{"200"}},
		{"", "GET", "/images/{ref}/json", false, false, []string{"204"}},
		{"", "DELETE", "/things/{name}", true, false, []string{"204"}},
		{"thing", "GET", "/things/{name}", true, true, []string{"200", "202", "404"}},
	}, d.Operations())
}

func TestDocumentThatIsWrong(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"no JSON":              `{`,
		"a reference to none":  strings.Replace(document, "responses/NotFound\"", "responses/None\"", 1),
		"a schema that is not": strings.Replace(document, `"Name": {"type": "string"}`, `"Name": {"type": "text"}`, 1),
	} {
		_, err := New([]byte(text))
		require.Error(t, err, name)
	}
}
