package runner

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// A server that is frozen, or whose host has vanished, holds its connections and says nothing more.
func TestAConnectionToASilentServerEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sends func(w *bufio.Writer) // of the server, before it falls silent
		ask   func(s *stream) error
	}{
		"a confirmation": {func(*bufio.Writer) {}, (*stream).confirm},
		"a result":       {func(*bufio.Writer) {}, func(s *stream) error { return s.deliver(&api.Result{CallID: "c"}, make([]byte, 1<<20), true) }},
		"the half of a call": {
			func(w *bufio.Writer) { _, _ = w.Write([]byte{api.MessageCall}) },
			func(s *stream) error {
				_, _, err := s.call(context.Background())
				return err
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				defer theirs.Close()
				go func() {
					w := bufio.NewWriter(theirs)
					c.sends(w)
					_ = w.Flush()
					_, _ = io.Copy(io.Discard, theirs)
				}()
				began := time.Now()
				require.Error(t, c.ask(newStream(ours)))
				require.Equal(t, answerTime, time.Since(began))
			})
		})
	}
	t.Run("which may be silent until it has a call", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer theirs.Close()
			go func() {
				time.Sleep(time.Hour)
				w := bufio.NewWriter(theirs)
				_ = api.WriteMessage(w, api.MessageCall, &api.Assignment{CallID: "c"}, []byte("payload"))
			}()
			assignment, payload, err := newStream(ours).call(t.Context())
			require.NoError(t, err)
			require.Equal(t, "c", assignment.CallID)
			require.Equal(t, "payload", string(payload))
		})
	})
}

// The kernel takes some of what is sent for such a server, and then no more.
func TestARequestToASilentServerEnds(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(l *link) error{
		"a confirmation": func(l *link) error {
			return l.confirm(context.Background(), &api.Assignment{CallID: "c", Function: "f"})
		},
		"a result": func(l *link) error {
			return l.deliver(context.Background(), &api.Result{CallID: "c"}, make([]byte, 1<<20), true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l, err := newLink(Config{Address: "http://funcd", Token: "token", Patience: answerTime})
				require.NoError(t, err)
				asked := 0
				l.client.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
					asked++
					ours, theirs := net.Pipe()
					t.Cleanup(func() { theirs.Close() })
					return ours, nil
				}
				began := time.Now()
				require.ErrorIs(t, ask(l), errGaveUp)
				require.Equal(t, 2, asked, "it is asked again, as another server may be there")
				require.Less(t, time.Since(began), 2*answerTime+time.Second)
				l.client.CloseIdleConnections()
			})
		})
	}
}
