// Package openapitest checks answers of an HTTP API against the OpenAPI 3.1 document that describes it. It is for tests only, and knows as much of
// OpenAPI as funcd's document uses.
package openapitest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Document is an OpenAPI document that answers can be checked against.
type Document struct {
	paths []path // those with fewer parameters first, as they go before the others
}

// path is a path of the document with its operations by method.
type path struct {
	template   string
	matches    *regexp.Regexp // an escaped path, without a version
	versioned  bool
	operations map[string]operation // by method
}

type operation struct {
	Operation
	answers map[string]answer // by status
}

// answer is one described answer.
type answer struct {
	header  map[string]header
	content map[string]media // by media type; empty: the answer has no body
}

type header struct {
	schema   *jsonschema.Schema
	required bool
}

type media struct {
	schema *jsonschema.Schema // nil: text
	lines  bool               // a JSON value a line, in place of one
}

// Operation is a method of a path.
type Operation struct {
	ID        string
	Method    string
	Path      string   // as the document has it
	Versioned bool     // the path may have a version before it
	Signed    bool     // it asks for a signature, always
	Statuses  []string // of the answers that are described
}

// version is what stands before a path whose servers have one.
var version = regexp.MustCompile(`^/v[0-9]+\.[0-9]+/`)

// New reads a document. Objects of its schemas have no members but those that it names, unless additionalProperties says so: a member that
// an answer has and the document has not is found.
func New(text []byte) (*Document, error) {
	var raw struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, err
	}
	whole, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	closeObjects(whole)
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("openapi.json", whole); err != nil {
		return nil, err
	}
	r := reader{whole, compiler}
	d := &Document{}
	for template, item := range raw.Paths {
		p := path{template: template, operations: map[string]operation{}}
		pattern := regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllStringFunc(regexp.QuoteMeta(template), func(parameter string) string {
			if parameter == `\{ref\}` {
				return `.+` // an image's name has slashes
			}
			return `[^/]+`
		})
		p.matches = regexp.MustCompile("^" + pattern + "$")
		p.versioned = bytes.Contains(item["servers"], []byte(`"/v{version}"`))
		for method := range item {
			if method == "servers" || method == "parameters" {
				continue
			}
			described, pointer, err := r.at("#/paths/" + escape(template) + "/" + method)
			if err != nil {
				return nil, err
			}
			answers, err := r.answers(pointer + "/responses")
			if err != nil {
				return nil, err
			}
			security, _ := described["security"].([]any)
			unsigned := slices.ContainsFunc(security, func(way any) bool { return len(way.(map[string]any)) == 0 })
			method = strings.ToUpper(method)
			id, _ := described["operationId"].(string)
			o := Operation{id, method, template, p.versioned, len(security) > 0 && !unsigned, slices.Sorted(maps.Keys(answers))}
			p.operations[method] = operation{o, answers}
		}
		d.paths = append(d.paths, p)
	}
	slices.SortFunc(d.paths, func(a, b path) int {
		return cmp.Or(strings.Count(a.template, "{")-strings.Count(b.template, "{"), strings.Compare(a.template, b.template))
	})
	return d, nil
}

// closeObjects adds "additionalProperties": false to every schema that names its properties and says nothing of others.
func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, named := v["properties"].(map[string]any); named && v["additionalProperties"] == nil {
			v["additionalProperties"] = false
		}
		for _, member := range v {
			closeObjects(member)
		}
	case []any:
		for _, element := range v {
			closeObjects(element)
		}
	}
}

// reader finds its way in a document by JSON pointers.
type reader struct {
	whole    any
	compiler *jsonschema.Compiler
}

func escape(token string) string {
	return strings.ReplaceAll(strings.ReplaceAll(token, "~", "~0"), "/", "~1")
}

// at returns the object at a pointer, and the pointer to it that has no reference in its way.
func (r reader) at(pointer string) (map[string]any, string, error) {
	found := r.whole
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "#/"), "/") {
		object, _ := found.(map[string]any)
		found = object[strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")]
	}
	object, ok := found.(map[string]any)
	if !ok {
		return nil, "", fmt.Errorf("%s is no object", pointer)
	}
	if to, ok := object["$ref"].(string); ok {
		return r.at(to)
	}
	return object, pointer, nil
}

func (r reader) answers(pointer string) (map[string]answer, error) {
	responses, pointer, err := r.at(pointer)
	if err != nil {
		return nil, err
	}
	all := map[string]answer{}
	for status := range responses {
		response, pointer, err := r.at(pointer + "/" + status)
		if err != nil {
			return nil, err
		}
		a := answer{header: map[string]header{}, content: map[string]media{}}
		headers, _ := response["headers"].(map[string]any)
		for name := range headers {
			described, pointer, err := r.at(pointer + "/headers/" + escape(name))
			if err != nil {
				return nil, err
			}
			schema, err := r.compiler.Compile("openapi.json" + pointer + "/schema")
			if err != nil {
				return nil, err
			}
			required, _ := described["required"].(bool)
			a.header[name] = header{schema, required}
		}
		content, _ := response["content"].(map[string]any)
		for kind := range content {
			described, pointer, err := r.at(pointer + "/content/" + escape(kind))
			if err != nil {
				return nil, err
			}
			var m media
			m.lines, _ = described["x-lines"].(bool)
			if strings.Contains(kind, "json") {
				if m.schema, err = r.compiler.Compile("openapi.json" + pointer + "/schema"); err != nil {
					return nil, err
				}
			}
			a.content[kind] = m
		}
		all[status] = a
	}
	return all, nil
}

// Operations returns all that the document describes.
func (d *Document) Operations() []Operation {
	var all []Operation
	for _, p := range d.paths {
		for _, method := range slices.Sorted(maps.Keys(p.operations)) {
			all = append(all, p.operations[method].Operation)
		}
	}
	return all
}

// Find returns the operation that a request is for. known tells whether the path is one of the document's, whatever the method.
func (d *Document) Find(method, escapedPath string) (o Operation, known, ok bool) {
	found, known, ok := d.find(method, escapedPath)
	return found.Operation, known, ok
}

func (d *Document) find(method, escapedPath string) (o operation, known, ok bool) {
	for _, p := range d.paths {
		at := escapedPath
		if p.versioned && version.MatchString(at) {
			at = at[strings.Index(at[1:], "/")+1:]
		}
		if !p.matches.MatchString(at) {
			continue
		}
		if o, ok := p.operations[method]; ok {
			return o, true, true
		}
		known = true
	}
	return operation{}, known, false
}

// unmatched are the answers to what no operation is for, as the document's own description says.
var unmatched = answer{content: map[string]media{"text/plain": {}, "application/json": {}}}

// Check checks an answer's status, headers and media type. body checks its body when as much of it has been read as there is; it may be nil.
func (d *Document) Check(method, escapedPath string, resp *http.Response) (body func(read []byte, whole bool) error, err error) {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s %s, status %d: %w", method, escapedPath, resp.StatusCode, fmt.Errorf(format, args...))
	}
	o, known, found := d.find(method, escapedPath)
	var a answer
	switch status := resp.StatusCode; {
	case found:
		var described bool
		if a, described = o.answers[fmt.Sprint(status)]; !described {
			return nil, wrong("%s %s has no such answer", o.Method, o.Path)
		}
	case known && status == http.StatusMethodNotAllowed, !known && status == http.StatusNotFound:
		a = unmatched
	case !known && status == http.StatusMovedPermanently:
		return nil, nil
	default:
		return nil, wrong("no operation is described")
	}
	for name, h := range a.header {
		if resp.Header.Get(name) == "" && !h.required {
			continue
		}
		if err := h.schema.Validate(resp.Header.Get(name)); err != nil {
			return nil, wrong("the header %s: %w", name, err)
		}
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	m, described := a.content[kind]
	switch {
	case len(a.content) == 0 && resp.StatusCode == http.StatusSwitchingProtocols:
		return nil, nil
	case len(a.content) == 0:
		return func(read []byte, _ bool) error {
			if len(read) > 0 {
				return wrong("the answer has a body")
			}
			return nil
		}, nil
	case !described:
		return nil, wrong("the Content-Type %q is not one of %v", kind, slices.Sorted(maps.Keys(a.content)))
	case m.schema == nil:
		return nil, nil
	}
	return func(read []byte, whole bool) error {
		if err := m.check(read, whole); err != nil {
			return wrong("the body is not as described: %w: %.300q", err, read)
		}
		return nil
	}, nil
}

// check checks what was read of a body.
func (m media) check(read []byte, whole bool) error {
	if !m.lines {
		if !whole {
			return nil
		}
		return m.value(read)
	}
	for line := range bytes.Lines(read) {
		if !bytes.HasSuffix(line, []byte("\n")) && !whole {
			return nil // it broke off
		}
		if err := m.value(line); err != nil {
			return err
		}
	}
	return nil
}

func (m media) value(text []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return m.schema.Validate(v)
}

// Transport checks every answer of base to a request that applies. An answer that the document does not describe is an error of the request, or of
// reading its body, and is passed to report too, for those that nobody looks at.
func (d *Document) Transport(base http.RoundTripper, applies func(*http.Request) bool, report func(error)) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err != nil || !applies(req) {
			return resp, err
		}
		check, err := d.Check(req.Method, req.URL.EscapedPath(), resp)
		if err != nil {
			report(err)
			resp.Body.Close()
			return nil, err
		}
		if check != nil {
			resp.Body = &body{ReadCloser: resp.Body, length: resp.ContentLength, check: check, report: report}
		}
		return resp, nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

// body checks what was read of it at its end, or when it is closed.
type body struct {
	io.ReadCloser
	length  int64 // -1: not known
	read    []byte
	check   func(read []byte, whole bool) error
	report  func(error)
	checked bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read = append(b.read, p[:n]...)
	if errors.Is(err, io.EOF) {
		if wrong := b.end(true); wrong != nil {
			return n, wrong
		}
	}
	return n, err
}

func (b *body) Close() error {
	return errors.Join(b.end(int64(len(b.read)) == b.length), b.ReadCloser.Close())
}

func (b *body) end(whole bool) error {
	if b.checked {
		return nil
	}
	b.checked = true
	err := b.check(b.read, whole)
	if err != nil {
		b.report(err)
	}
	return err
}
