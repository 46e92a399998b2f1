package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

type fakeJobs struct{ err error }

func (f fakeJobs) Job(d *api.Definition) (api.JobInspect, error) {
	return api.JobInspect{ID: "func-default-" + d.Function.Name, UI: "http://nomad/ui", Job: []byte(`{"ID":"x"}`), HCL: "job {}"}, f.err
}

type oneFunction struct{ Directory }

func (oneFunction) Get(_ context.Context, account, name string) (api.Definition, error) {
	if account != "default" || name != "hello" {
		return api.Definition{}, api.Errorf(api.NotFound, "no such function")
	}
	return api.Definition{Account: account, Function: api.Function{Name: name, UUID: "the-secret"}}, nil
}

func TestFunctionJob(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path   string
		err    error
		status int
	}{
		"a function":          {"/funcs/hello/job", nil, http.StatusOK},
		"behind a version":    {"/v1.23/funcs/hello/job", nil, http.StatusOK},
		"no such function":    {"/funcs/none/job", nil, http.StatusNotFound},
		"one without its job": {"/funcs/hello/job", api.Errorf(api.Invalid, "size s9 is not defined"), http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := New(Config{Directory: oneFunction{}, Jobs: fakeJobs{c.err}, UnsignedAccount: "default", MaxBody: 1 << 10, BodyTime: time.Minute, Logger: slog.New(slog.DiscardHandler)})
			w := httptest.NewRecorder()
			server.Handler(false).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+c.path, nil))
			require.Equal(t, c.status, w.Code, w.Body)
			require.NotContains(t, w.Body.String(), "the-secret")
			if c.status == http.StatusOK {
				require.JSONEq(t, `{"ID":"func-default-hello","Namespace":"","UI":"http://nomad/ui","Job":{"ID":"x"},"HCL":"job {}"}`, w.Body.String())
			}
		})
	}
}
