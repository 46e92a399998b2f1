package runner

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/funcd/funcd/api"
)

// maxPayload is over any payload that a funcd server takes; its own limit is the one that matters.
const maxPayload = 64 << 20

// answerTime is how long funcd may take to answer, and what is sent may take on its way. It holds a request for a call for half as long.
const answerTime = time.Minute

// link is the runner's side of the endpoints that api/runner.go names.
type link struct {
	cfg    Config
	name   string // of this runner, for api.RunnerHeader
	base   string
	client *http.Client
	stream *stream // over which calls come; nil while they come by requests
}

func newLink(cfg Config) (*link, error) {
	l := &link{cfg: cfg, name: rand.Text(), base: strings.TrimSuffix(cfg.Address, "/")}
	transport := &http.Transport{MaxIdleConns: 1, IdleConnTimeout: 90 * time.Second, DisableCompression: true, ResponseHeaderTimeout: answerTime, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(true) // a connection of HTTP/2 can't be upgraded
	if path, ok := strings.CutPrefix(cfg.Address, "unix://"); ok {
		l.base = "http://funcd"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
	} else if !strings.HasPrefix(cfg.Address, "http://") && !strings.HasPrefix(cfg.Address, "https://") {
		return nil, fmt.Errorf("%s=%q must begin with unix://, http:// or https://", AddressVariable, cfg.Address)
	}
	if cfg.CA != "" {
		transport.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool()}
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM([]byte(cfg.CA)) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", CAVariable)
		}
	}
	l.client = &http.Client{Transport: transport}
	return l, nil
}

// call returns the next call that is the container's. Errors are those of next.
func (l *link) call(ctx context.Context) (*api.Assignment, []byte, error) {
	for {
		assignment, payload, err := l.next(ctx)
		if err != nil || !assignment.Confirm {
			return assignment, payload, err
		}
		// It may have been given to another container if this one was slow. From here on nothing but an answer ends the wait: the call may
		// be this container's already.
		if err := l.confirm(context.WithoutCancel(ctx), assignment); err == nil {
			return assignment, payload, nil
		} else if !errors.Is(err, errNoCall) {
			return nil, nil, err
		}
	}
}

// confirm returns nil if the call is this container's, and errNoCall if it is not.
func (l *link) confirm(ctx context.Context, a *api.Assignment) error {
	if l.stream != nil {
		err := l.stream.confirm()
		if err == nil || errors.Is(err, errNoCall) {
			return err
		}
		l.hangUp() // it may be this container's call: that is asked again
	}
	query := url.Values{"function": {a.Function}, "call": {a.CallID}}
	return l.insist(ctx, func() (again bool, err error) {
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		resp, err := l.post(ctx, api.RunnerBeginPath+"?"+query.Encode(), nil)
		if err != nil {
			return true, err
		}
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusNoContent:
			return false, nil
		case http.StatusGone:
			return false, errNoCall
		}
		return retryable(resp.StatusCode), answerError(resp)
	})
}

// next asks for the call until there is an answer. The error is errNoCall if there will be none, or the last one when funcd was away for
// longer than the runner's patience.
func (l *link) next(ctx context.Context) (assignment *api.Assignment, payload []byte, err error) {
	err = l.insist(ctx, func() (again bool, err error) {
		if l.stream == nil {
			resp, err := l.askNext(ctx)
			if err != nil {
				return true, err
			}
			if conn, ok := resp.Body.(io.ReadWriteCloser); ok && resp.StatusCode == http.StatusSwitchingProtocols {
				l.stream = newStream(conn)
			} else {
				defer resp.Body.Close()
				defer time.AfterFunc(answerTime, func() { resp.Body.Close() }).Stop()
				assignment, payload, again, err = readNext(resp)
				return again, err
			}
		}
		assignment, payload, err = l.stream.call(ctx)
		if err == nil || errors.Is(err, errNoCall) {
			return false, err
		}
		lived := l.stream.lived()
		l.hangUp()
		if lived > steady { // funcd was there
			err = errors.Join(errAskAgain, err)
		}
		return true, err
	})
	return assignment, payload, err
}

// askNext sends one request for a call. Any call may come over a connection that stays.
func (l *link) askNext(ctx context.Context) (*http.Response, error) {
	req, err := l.request(ctx, api.RunnerNextPath+"?"+l.query().Encode(), nil)
	if err != nil {
		return nil, err
	}
	if l.cfg.Call == "" {
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", api.RunnerUpgrade)
	}
	return l.client.Do(req)
}

func readNext(resp *http.Response) (assignment *api.Assignment, payload []byte, again bool, err error) {
	switch resp.StatusCode {
	case http.StatusOK:
		assignment = new(api.Assignment)
		// A frame that breaks off means that the server died after it had written down that this container has the call. It knows
		// the container on the next request, and hands the call over again.
		payload, err = api.ReadFrame(resp.Body, assignment, maxPayload)
		return assignment, payload, true, err
	case http.StatusNoContent:
		return nil, nil, true, errAskAgain
	case http.StatusGone:
		return nil, nil, false, errNoCall
	}
	return nil, nil, retryable(resp.StatusCode), answerError(resp)
}

// hangUp ends the connection over which calls come, if there is one.
func (l *link) hangUp() {
	if l.stream != nil {
		l.stream.close()
		l.stream = nil
	}
}

// deliver hands in the result until funcd has it. It returns nil too if funcd does not want it any more, and errNoCall if the container is to
// end. last tells that the container takes no more calls.
func (l *link) deliver(ctx context.Context, result *api.Result, stdout []byte, last bool) error {
	if l.stream != nil {
		err := l.stream.deliver(result, stdout, last)
		if err == nil || errors.Is(err, errNoCall) {
			return err
		}
		l.hangUp()
	}
	var frame bytes.Buffer
	if err := api.WriteFrame(&frame, result, stdout); err != nil {
		return err
	}
	return l.insist(ctx, func() (again bool, err error) {
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		resp, err := l.post(ctx, api.RunnerResultPath, bytes.NewReader(frame.Bytes()))
		if err != nil {
			return true, err
		}
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusNoContent, http.StatusGone:
			return false, nil
		case http.StatusResetContent:
			return false, errNoCall
		}
		return retryable(resp.StatusCode), answerError(resp)
	})
}

// query says what the container was started as, and for which call.
func (l *link) query() url.Values {
	query := url.Values{"function": {l.cfg.Function}, "revision": {l.cfg.Revision}, "job": {l.cfg.Job}}
	if l.cfg.Call != "" {
		query.Set("call", l.cfg.Call)
	}
	return query
}

func (l *link) post(ctx context.Context, path string, body io.Reader) (*http.Response, error) {
	req, err := l.request(ctx, path, body)
	if err != nil {
		return nil, err
	}
	return l.client.Do(req)
}

func (l *link) request(ctx context.Context, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.base+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+l.cfg.Token)
	req.Header.Set(api.RunnerHeader, l.name)
	return req, nil
}

// errAskAgain is a proper answer that has no call: funcd is there.
var errAskAgain = errors.New("no call yet")

// steady is how long a connection must have stayed for its end to be no failure of funcd's to answer.
const steady = 2 * time.Second

// errGaveUp is joined to the last error when funcd was away for longer than the runner's patience.
var errGaveUp = errors.New("no funcd server has answered for too long")

// insist repeats try until it says not to, ctx ends, or it has failed for as long as the runner's patience lasts.
func (l *link) insist(ctx context.Context, try func() (again bool, err error)) error {
	const first, most = 20 * time.Millisecond, 2 * time.Second
	wait, since := first, time.Now()
	for {
		again, err := try()
		if err == nil || !again {
			return err
		}
		if errors.Is(err, errAskAgain) {
			wait, since = first, time.Now()
		} else if time.Since(since) > l.cfg.Patience {
			return fmt.Errorf("%w: %w", errGaveUp, err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
			wait = min(2*wait, most)
		}
	}
}

// retryable tells a fault of the service, which may pass, from an answer to this request, which will not change.
func retryable(status int) bool {
	return status >= 500 || status == http.StatusTooManyRequests
}

func answerError(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return fmt.Errorf("funcd answered %s: %s", resp.Status, bytes.TrimSpace(text))
}
