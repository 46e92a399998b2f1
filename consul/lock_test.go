package consul

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestRenew: how long a holder of a lock may take itself to be one.
func TestRenew(t *testing.T) {
	t.Parallel()
	answer := func(status int, body string) roundTrip {
		return func(*http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			w.WriteHeader(status)
			_, err := w.WriteString(body)
			return w.Result(), err
		}
	}
	good := answer(http.StatusOK, `[{"ID": "s"}]`)
	hang := roundTrip(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	for name, test := range map[string]struct {
		answers []roundTrip // the last one stays
		lost    time.Duration
	}{
		"is lost when Consul has ended the session":       {[]roundTrip{good, good, answer(http.StatusNotFound, "")}, 3 * renewInterval},
		"is lost at the session's end if nothing answers": {[]roundTrip{good, hang}, renewInterval + sessionTTL},
		"is lost at the session's end if renewals fail":   {[]roundTrip{good, answer(http.StatusInternalServerError, "")}, renewInterval + sessionTTL},
		"is lost a session after its start at the latest": {[]roundTrip{hang}, sessionTTL},
		"outlives two failures":                           {[]roundTrip{good, answer(500, ""), answer(500, ""), good, hang}, 4*renewInterval + sessionTTL},
		"is kept as long as it is renewed":                {[]roundTrip{good}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := 0
				transport := roundTrip(func(r *http.Request) (*http.Response, error) {
					n++
					return test.answers[min(n, len(test.answers))-1](r)
				})
				client, err := consul.NewClient(&consul.Config{Address: "127.0.0.1:1", HttpClient: &http.Client{Transport: transport}})
				require.NoError(t, err)
				c := &Client{api: client, timeout: DefaultTimeout, log: slog.New(slog.DiscardHandler)}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				began := time.Now()
				err = c.renew(ctx, "s", began)
				if test.lost == 0 {
					require.NoError(t, err)
					require.Equal(t, time.Hour, time.Since(began))
				} else {
					require.True(t, errors.Is(err, errLockLost), err)
					require.Equal(t, test.lost, time.Since(began))
				}
			})
		})
	}
}
