package httpapi

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/funcd/funcd/api"
)

// bodyPart is how much of a body must come within the time for it, in bytes.
const bodyPart = 64 << 10

// readBody returns the request's body, for which it takes memory as it comes. The errors are takeBody's.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, from sender) (body []byte, err error) {
	err = s.takeBody(w, r, from, func(in io.Reader) error {
		size := bodyPart
		if r.ContentLength >= 0 {
			size = min(int(r.ContentLength), bodyPart)
		}
		body = make([]byte, 0, size)
		for {
			if len(body) == cap(body) {
				body = slices.Grow(body, len(body))
			}
			n, err := in.Read(body[len(body):cap(body)])
			body = body[:len(body)+n]
			if err == io.EOF || int64(len(body)) == r.ContentLength {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return body, nil
}

// skipBody reads the body of a request that needs none. Before that net/http does not see that a client has gone, and whoever waits for something would wait
// for nobody. It keeps nothing of it. The errors are takeBody's.
func (s *Server) skipBody(w http.ResponseWriter, r *http.Request, from sender) error {
	return s.takeBody(w, r, from, func(in io.Reader) error {
		_, err := io.Copy(io.Discard, in)
		return err
	})
}

// takeBody has take read the request's body to its end, and, for one that was signed, checks that it is the body that was. The error is of code TooLarge for
// one over MaxBody, of which no more than that is read, BodyTimeout for one of which a part did not come in its time, Invalid for one that broke off,
// and Unauthorized for another than was signed.
func (s *Server) takeBody(w http.ResponseWriter, r *http.Request, from sender, take func(io.Reader) error) error {
	tooLarge := api.Errorf(api.TooLarge, "the body is over %d bytes", s.cfg.MaxBody)
	if r.ContentLength > int64(s.cfg.MaxBody) {
		// What comes anyway is not read: the connection can't be used again.
		w.Header().Set("Connection", "close")
		return tooLarge
	}
	sum := sha256.New()
	if r.ContentLength != 0 {
		var in io.Reader = &timedBody{w: w, in: http.MaxBytesReader(w, r.Body, int64(s.cfg.MaxBody)), each: s.cfg.BodyTime}
		if from.signed {
			in = io.TeeReader(in, sum)
		}
		err := take(in)
		if _, over := errors.AsType[*http.MaxBytesError](err); over {
			return tooLarge
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			w.Header().Set("Connection", "close")
			return api.Wrap(api.BodyTimeout, err, fmt.Sprintf("the body did not come in time: each %d bytes of it may take %s", bodyPart, s.cfg.BodyTime))
		}
		if err != nil {
			return api.Wrap(api.Invalid, err, "the body broke off")
		}
		// The call may take longer than its body, and its reader's end is known by reading.
		setReadDeadline(w, time.Time{})
	}
	if !from.signed {
		return nil
	}
	if err := api.VerifyBody(r, [sha256.Size]byte(sum.Sum(nil))); err != nil {
		return api.Wrap(api.Unauthorized, err, refused)
	}
	return nil
}

// timedBody is a body each part of which must come within the time for it.
type timedBody struct {
	w          http.ResponseWriter
	in         io.Reader
	each       time.Duration // the time for a part
	read, next int           // how many bytes have come, and where the next part begins
}

func (b *timedBody) Read(p []byte) (int, error) {
	if b.read >= b.next {
		setReadDeadline(b.w, time.Now().Add(b.each))
		b.next = b.read + bodyPart
	}
	n, err := b.in.Read(p)
	b.read += n
	return n, err
}

// setReadDeadline bounds what is read of the request. Not every listener can have it; those of an http.Server can.
func setReadDeadline(w http.ResponseWriter, at time.Time) {
	_ = http.NewResponseController(w).SetReadDeadline(at)
}
