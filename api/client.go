package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
)

// DefaultRegion is the region that a client signs with if it is set to none. The server accepts any.
const DefaultRegion = "local"

const (
	maxAnswer       = 64 << 20 // bytes of an answer: a list of thousands of functions, or an output under a raised limit
	maxErrorMessage = 64 << 10 // bytes of an error's sentence
)

// ClientConfig says which server a Client talks to, and as whom.
type ClientConfig struct {
	Address    string       // http://host:port, https://host:port or unix:///path/of/a/socket
	AccessKey  string       // signs the management requests; if empty they are sent unsigned
	SecretKey  string       // of AccessKey
	Region     string       // of the signature; DefaultRegion if empty
	SignCalls  bool         // signs calls, and requests for outputs, logs and states, too: for a server that wants them signed
	TLS        *tls.Config  // for https; the system's certificate authorities if nil. Not used with a Transport in HTTPClient.
	HTTPClient *http.Client // for a proxy or timeout of its own; for unix its Transport is not used. May be nil.
}

// ErrNoAnswer is in the chain of the errors of a Client that did not get an answer from the server, or not a whole one. Unavailable
// without it is what the server said.
var ErrNoAnswer = errors.New("no answer")

// Client is a client of the Func API. It may be used by many goroutines.
//
// Its methods return errors of type *Error: those of the server with their code and message, and Unavailable for a server that does not
// answer, with context.Canceled or context.DeadlineExceeded in the chain where that is why. No answer does not mean that nothing happened.
type Client struct {
	address string // as configured, for messages
	base    string // the URL that paths are appended to
	key     SigningKey
	calls   bool // are signed too
	http    *http.Client
}

// NewClient returns a client; it does not connect yet. Errors are of code Invalid and name the field.
func NewClient(cfg ClientConfig) (*Client, error) {
	c := &Client{address: cfg.Address, key: SigningKey{AccessKey: cfg.AccessKey, Secret: cfg.SecretKey, Region: cfg.Region}}
	c.calls = cfg.SignCalls && cfg.AccessKey != ""
	if c.key.Region == "" {
		c.key.Region = DefaultRegion
	}
	switch {
	case cfg.AccessKey != "" && cfg.SecretKey == "":
		return nil, Errorf(Invalid, "SecretKey: is required with an AccessKey")
	case cfg.AccessKey != "" && !scopeWordFormat.MatchString(cfg.AccessKey):
		return nil, Errorf(Invalid, "AccessKey: must be at most 128 characters of ASCII without spaces, / and ,")
	case !scopeWordFormat.MatchString(c.key.Region):
		return nil, Errorf(Invalid, "Region: %.100q must be at most 128 characters of ASCII without spaces, / and ,", c.key.Region)
	}

	c.http = &http.Client{}
	if cfg.HTTPClient != nil {
		*c.http = *cfg.HTTPClient
	}
	if c.http.CheckRedirect == nil {
		// A request that was moved would be signed for another path, and a POST would become a GET.
		c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	u, err := url.Parse(cfg.Address)
	switch {
	case err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil &&
		(u.Path == "" || u.Path == "/") && u.RawQuery == "" && u.Fragment == "":
		c.base = u.Scheme + "://" + u.Host
		if c.http.Transport == nil {
			transport := newTransport()
			transport.TLSClientConfig = cfg.TLS.Clone()
			c.http.Transport = transport
		}
	case err == nil && u.Scheme == "unix" && u.Host == "" && path.IsAbs(u.Path):
		c.base = "http://localhost"
		transport := newTransport()
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", u.Path)
		}
		c.http.Transport = transport
	default:
		return nil, Errorf(Invalid, "Address: %.300q must be http://host:port, https://host:port or unix:///path", cfg.Address)
	}
	return c, nil
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 100,
		IdleConnTimeout:     90 * time.Second,
		// The headers of a call become its environment: none that the caller did not ask for.
		DisableCompression: true,
	}
}

// CreateFunction creates f and returns it with its defaults, UUID and time of creation. A ContainerSize, Timeout and so on of zero mean
// the default. Errors: Invalid, Conflict for a name that is taken.
func (c *Client) CreateFunction(ctx context.Context, f Function) (Function, error) {
	if f.Timeout == 0 { // on the wire only an absent one is the default
		f.Timeout = DefaultTimeout
	}
	var created Function
	err := c.manage(ctx, http.MethodPost, []string{"funcs", "create"}, nil, f, &created)
	return created, err
}

// Filters selects functions: by name (a substring), label ("key" or "key=value"), size or image. A function matches if each key has a value
// that matches. Empty means all functions.
type Filters map[string][]string

// Functions returns the functions that match the filters, newest first.
func (c *Client) Functions(ctx context.Context, filters Filters) ([]Function, error) {
	var query url.Values
	if len(filters) > 0 {
		sets := make(map[string]map[string]bool, len(filters))
		for key, values := range filters {
			sets[key] = make(map[string]bool, len(values))
			for _, value := range values {
				sets[key][value] = true
			}
		}
		text, err := json.Marshal(sets)
		if err != nil {
			return nil, Errorf(Internal, "encoding the filters: %w", err)
		}
		query = url.Values{"filters": {string(text)}}
	}
	var list []Function
	err := c.manage(ctx, http.MethodGet, []string{"funcs"}, query, nil, &list)
	return list, err
}

// Function returns the function of this name. Errors: NotFound.
func (c *Client) Function(ctx context.Context, name string) (Function, error) {
	var f Function
	err := c.manage(ctx, http.MethodGet, []string{"funcs", name}, nil, nil, &f)
	return f, err
}

// UpdateFunction changes a function and returns it as it is afterwards. Errors: Invalid, NotFound.
func (c *Client) UpdateFunction(ctx context.Context, name string, update FunctionUpdate) (Function, error) {
	var f Function
	err := c.manage(ctx, http.MethodPut, []string{"funcs", name}, nil, update, &f)
	return f, err
}

// FunctionOfCall returns the function that a call belongs to. Errors: NotFound.
func (c *Client) FunctionOfCall(ctx context.Context, callID string) (Function, error) {
	var f Function
	err := c.manage(ctx, http.MethodGet, []string{"funcs", "call", callID}, nil, nil, &f)
	return f, err
}

// RemoveFunction removes a function. Errors: NotFound, Conflict while a call of it is being executed.
func (c *Client) RemoveFunction(ctx context.Context, name string) error {
	return c.manage(ctx, http.MethodDelete, []string{"funcs", name}, nil, nil, nil)
}

// ForceRemoveFunction removes a function also while calls of it are being executed; they are cancelled. Errors: NotFound.
func (c *Client) ForceRemoveFunction(ctx context.Context, name string) error {
	return c.manage(ctx, http.MethodDelete, []string{"funcs", name}, url.Values{"force": {"1"}}, nil, nil)
}

// Call queues a call and returns its id once it is durably queued. The payload is given to the function's stdin, and the header to its
// environment, both may be nil. The payload is closed if it is an io.Closer. Errors: NotFound, TooLarge, Unavailable if the queue is full.
func (c *Client) Call(ctx context.Context, name, uuid string, payload io.Reader, header http.Header) (callID string, err error) {
	_, answer, err := c.call(ctx, http.MethodPost, []string{"call", name, uuid}, payload, header)
	if err != nil {
		return "", err
	}
	var id CallID
	if err := c.decode(answer, &id); err != nil {
		return "", err
	}
	if id.CallID == "" {
		return "", Errorf(Internal, "the answer of %s is without a CallId", c.address)
	}
	return id.CallID, nil
}

// CallSync is Call and then blocks until the call has ended. It returns what the function wrote to stdout. Errors: those of Call, and
// CallFailed, CallTimeout, OutputTooLarge and Cancelled.
func (c *Client) CallSync(ctx context.Context, name, uuid string, payload io.Reader, header http.Header) ([]byte, error) {
	status, out, err := c.call(ctx, http.MethodPost, []string{"call", name, uuid, "sync"}, payload, header)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, Errorf(Internal, "%s answered a synchronous call with the status %d", c.address, status)
	}
	return out, nil
}

// Output returns where a call stands, and what it wrote to stdout if it is Finished; with wait it blocks until the call has ended. A call is
// removed once its output has been delivered. The state is Failed with an error of code CallFailed, CallTimeout, OutputTooLarge or Cancelled,
// and empty with any other: NotFound, Expired.
func (c *Client) Output(ctx context.Context, name, uuid, callID string, wait bool) (out []byte, state State, err error) {
	segments := []string{"output", name, uuid, callID}
	if wait {
		segments = append(segments, "wait")
	}
	status, out, err := c.call(ctx, http.MethodGet, segments, nil, nil)
	switch CodeOf(err) {
	case "":
	case CallFailed, CallTimeout, OutputTooLarge, Cancelled:
		return nil, Failed, err
	default:
		return nil, "", err
	}
	switch status {
	case http.StatusOK:
		return out, Finished, nil
	case http.StatusCreated:
		return nil, Running, nil
	case http.StatusAccepted:
		return nil, Pending, nil
	}
	return nil, "", Errorf(Internal, "%s answered with the status %d", c.address, status)
}

// manage makes a management request: in, if not nil, is sent as JSON, and the answer is decoded into out, if not nil.
func (c *Client) manage(ctx context.Context, method string, segments []string, query url.Values, in, out any) error {
	req, err := c.managementRequest(ctx, method, segments, query, nil, in)
	if err != nil {
		return err
	}
	_, answer, err := c.send(req)
	if err != nil || out == nil {
		return err
	}
	return c.decode(answer, out)
}

// managementRequest returns a request that is signed, if there is a key to sign it with. The header may be nil.
func (c *Client) managementRequest(ctx context.Context, method string, segments []string, query url.Values, header http.Header, in any) (*http.Request, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, Errorf(Invalid, "encoding the request: %w", err)
		}
	}
	target, err := c.url("/v"+Version, segments)
	if err != nil {
		return nil, err
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, Wrap(Invalid, err, "the request can't be made")
	}
	if header != nil {
		req.Header = header.Clone()
	}
	req.Header.Set("Content-Type", "application/json")
	if c.key.AccessKey != "" {
		Sign(req, body, c.key, time.Now())
	}
	return req, nil
}

// call makes a request of the call group, which needs no signature: the UUID is the secret.
func (c *Client) call(ctx context.Context, method string, segments []string, payload io.Reader, header http.Header) (int, []byte, error) {
	req, err := c.callRequest(ctx, method, segments, nil, payload, header)
	if err != nil {
		return 0, nil, err
	}
	return c.send(req)
}

func (c *Client) callRequest(ctx context.Context, method string, segments []string, query url.Values, payload io.Reader, header http.Header) (*http.Request, error) {
	target, err := c.url("", segments)
	if err != nil {
		return nil, err
	}
	var signed []byte // what is signed is read before it is sent
	if c.calls && payload != nil {
		if signed, err = readPayload(payload); err != nil {
			return nil, err
		}
		payload = bytes.NewReader(signed)
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, payload)
	if err != nil {
		return nil, Wrap(Invalid, err, "the request can't be made")
	}
	if header != nil {
		req.Header = header.Clone()
	}
	if c.calls {
		Sign(req, signed, c.key, time.Now())
	}
	return req, nil
}

// readPayload reads a payload as a whole and closes it, as sending it would.
func readPayload(payload io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(payload, MaxPayload+1))
	if closer, ok := payload.(io.Closer); ok {
		err = errors.Join(err, closer.Close())
	}
	if err != nil {
		return nil, Wrap(Invalid, err, "the payload can't be read")
	}
	if len(body) > MaxPayload {
		return nil, Errorf(TooLarge, "the payload is over %d bytes", MaxPayload)
	}
	return body, nil
}

// url joins the segments, each of which stays one whatever is in it.
func (c *Client) url(prefix string, segments []string) (string, error) {
	var b strings.Builder
	b.WriteString(c.base + prefix)
	for _, segment := range segments {
		if segment == "" || segment == "." || segment == ".." {
			return "", Errorf(Invalid, "%q can't be a name, a UUID, a call id or a part of an image's name", segment)
		}
		b.WriteString("/" + url.PathEscape(segment))
	}
	return b.String(), nil
}

// send returns the status and the body of a 2xx answer, and an *Error for anything else.
func (c *Client) send(req *http.Request) (int, []byte, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, c.unanswered(req, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return 0, nil, readError(resp)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, c.unanswered(req, err)
	}
	if len(answer) > maxAnswer {
		return 0, nil, Errorf(TooLarge, "the answer of %s is over %d bytes", c.address, maxAnswer)
	}
	return resp.StatusCode, answer, nil
}

// unanswered is the error for a request without a whole answer.
func (c *Client) unanswered(req *http.Request, err error) error {
	// The text of a url.Error has the whole URL, and with it a function's UUID, which is a secret.
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	// net/http says why a context ended, which may be anything, but not that it did.
	if ended := req.Context().Err(); ended != nil && !errors.Is(err, ended) {
		err = fmt.Errorf("%w: %w", ended, err)
	}
	return Wrap(Unavailable, noAnswer{err}, fmt.Sprintf("%s does not answer", c.address))
}

// noAnswer is why there was no answer, marked as ErrNoAnswer.
type noAnswer struct{ error }

func (e noAnswer) Unwrap() error        { return e.error }
func (e noAnswer) Is(target error) bool { return target == ErrNoAnswer }

// readError returns the error that an answer stands for.
func readError(resp *http.Response) *Error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorMessage))
	message := strings.TrimSpace(strings.ToValidUTF8(string(text), "\uFFFD"))
	if message == "" {
		message = fmt.Sprintf("the server answered %s", resp.Status)
	}
	// err is why the message may not be a whole one; the code stands without it.
	return Wrap(codeOf(resp.StatusCode, resp.Header.Get(ErrorHeader)), err, message)
}

func (c *Client) decode(answer []byte, v any) error {
	if err := json.Unmarshal(answer, v); err != nil {
		return Wrap(Internal, err, fmt.Sprintf("the answer of %s is not the JSON that it should be", c.address))
	}
	return nil
}
