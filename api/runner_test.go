package api

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFrameRoundTrip(t *testing.T) {
	t.Parallel()
	head := Assignment{CallID: "c", Command: []string{"cat", "a\nb"}, Env: []string{"A=ä\n"}, Timeout: time.Second, StopSignal: 15,
		KillAfter: time.Millisecond, MaxOutput: 1 << 20}
	big := Assignment{CallID: strings.Repeat("x", 600_000)}
	for name, c := range map[string]struct {
		head Assignment
		body string
	}{
		"no body":                       {head, ""},
		"a body with newlines":          {head, "\n{}\n\x00\xff"},
		"a body of the limit":           {head, strings.Repeat("b", 1<<20)},
		"a head over the read buffer":   {big, "body"},
		"a head and a body, both large": {big, strings.Repeat("b", 1<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var frame bytes.Buffer
			require.NoError(t, WriteFrame(&frame, c.head, []byte(c.body)))
			for way, r := range map[string]io.Reader{
				"whole":          bytes.NewReader(frame.Bytes()),
				"EOF with data":  iotest.DataErrReader(bytes.NewReader(frame.Bytes())),
				"half of a read": iotest.HalfReader(bytes.NewReader(frame.Bytes())),
			} {
				var got Assignment
				body, err := ReadFrame(r, &got, 1<<20)
				require.NoError(t, err, way)
				require.Equal(t, c.head, got, way)
				require.Equal(t, c.body, string(body), way)
			}
		})
	}
}

func TestReadFrameRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		frame string
		code  Code
		why   string
	}{
		"nothing":                   {"", Invalid, "ends within its head"},
		"half a head":               {`{"CallID":"c"`, Invalid, "ends within its head"},
		"a head without a newline":  {`{"CallID":"c"}`, Invalid, "ends within its head"},
		"a head that is no JSON":    {"x\n", Invalid, "is not what it should be"},
		"a head of another type":    {"[]\n", Invalid, "is not what it should be"},
		"an empty head":             {"\nbody", Invalid, "is not what it should be"},
		"a head over the limit":     {`{"CallID":"` + strings.Repeat("x", MaxFrameHead) + "\"}\n", TooLarge, "head of the frame is over 1048576"},
		"a head that never ends":    {strings.Repeat("x", 2*MaxFrameHead), TooLarge, "head of the frame is over"},
		"a body one over the limit": {"{}\n" + strings.Repeat("x", 11), TooLarge, "body of the frame is over 10 bytes"},
		"a body far over the limit": {"{}\n" + strings.Repeat("x", 10_000), TooLarge, "body of the frame is over 10 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var head Result
			body, err := ReadFrame(strings.NewReader(c.frame), &head, 10)
			require.ErrorContains(t, err, c.why)
			require.Equal(t, c.code, CodeOf(err))
			require.Nil(t, body)
		})
	}
}

func TestReadFrameReadsNotMuchMoreThanItsLimits(t *testing.T) {
	t.Parallel()
	for name, frame := range map[string]string{"head": "", "body": "{}\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			counted := &countReader{r: io.MultiReader(strings.NewReader(frame), endless{})}
			var head Result
			_, err := ReadFrame(counted, &head, 1000)
			require.Equal(t, TooLarge, CodeOf(err))
			require.LessOrEqual(t, counted.n, MaxFrameHead+1000+4096)
		})
	}
}

func TestFrameErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	require.ErrorIs(t, WriteFrame(failingWriter{broken}, Result{}, nil), broken)
	require.Error(t, WriteFrame(io.Discard, func() {}, nil))
	for name, r := range map[string]io.Reader{
		"in the head": iotest.ErrReader(broken),
		"in the body": io.MultiReader(strings.NewReader("{}\nbo"), iotest.ErrReader(broken)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var head Result
			_, err := ReadFrame(r, &head, 10)
			require.ErrorIs(t, err, broken, "a broken connection is not a malformed frame")
			require.Equal(t, Internal, CodeOf(err))
		})
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("{}\n"), 0)
	f.Add([]byte("{\"CallID\":\"c\",\"Outcome\":\"exited\",\"Stderr\":\"YQ==\"}\nout"), 3)
	f.Add([]byte("{\"Started\":\"2026-01-02T03:04:05Z\"}\r\n\n"), 1)
	f.Add([]byte("null\nx"), 0)
	f.Fuzz(func(t *testing.T, frame []byte, maxBody int) {
		if maxBody < 0 || maxBody > 1<<20 {
			return
		}
		var head Result
		body, err := ReadFrame(bytes.NewReader(frame), &head, maxBody)
		if err != nil {
			require.Contains(t, []Code{Invalid, TooLarge}, CodeOf(err))
			return
		}
		require.LessOrEqual(t, len(body), maxBody)
		var again bytes.Buffer
		require.NoError(t, WriteFrame(&again, head, body))
		var head2 Result
		body2, err := ReadFrame(&again, &head2, maxBody)
		require.NoError(t, err)
		require.Equal(t, string(body), string(body2))
		// Times are equal as instants; their zones may be held in other ways.
		require.True(t, head.Started.Equal(head2.Started) && head.Ended.Equal(head2.Ended))
		require.Equal(t, string(head.Stderr), string(head2.Stderr))
		head2.Started, head2.Ended, head2.Stderr = head.Started, head.Ended, head.Stderr
		require.Equal(t, head, head2)
	})
}

// endless is a reader that has no end and no newline.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

type countReader struct {
	r io.Reader
	n int
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }
