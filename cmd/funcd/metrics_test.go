package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	read := false
	handler := metricsHandler(func() (api.Status, bool) {
		return api.Status{Total: 10, Pending: 1, Running: 2, Finished: 3, Failed: 4}, read
	})
	get := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code, w.Body.String()
	}
	status, body := get(http.MethodGet, "/metrics")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "\ngo_goroutines ")
	require.Contains(t, body, "\nprocess_resident_memory_bytes ")
	require.NotContains(t, body, "funcd_calls", "not before it is known")
	read = true
	_, body = get(http.MethodGet, "/metrics")
	for _, line := range []string{`funcd_calls{state="PENDING"} 1`, `funcd_calls{state="RUNNING"} 2`, `funcd_calls{state="FINISHED"} 3`, `funcd_calls{state="FAILED"} 4`} {
		require.Contains(t, body, line+"\n")
	}
	status, _ = get(http.MethodPost, "/metrics")
	require.Equal(t, http.StatusMethodNotAllowed, status)
	status, _ = get(http.MethodGet, "/")
	require.Equal(t, http.StatusNotFound, status)
}
