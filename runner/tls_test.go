package runner

import (
	"context"
	"encoding/pem"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestHTTPSTrustsWhatTheJobSays(t *testing.T) {
	t.Parallel()
	f := newFuncd(t, "args", "a")
	server := httptest.NewUnstartedServer(f)
	server.EnableHTTP2 = true // which the runner does not take
	server.StartTLS()
	t.Cleanup(server.Close)
	authority := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))

	o := f.start(func(c *Config) { c.Address, c.CA = server.URL, authority }).wait(t)
	require.NoError(t, o.err)
	require.Equal(t, api.Exited, o.result.Outcome)

	f.result = nil
	o = f.start(func(c *Config) { c.Address, c.Patience = server.URL, time.Millisecond }).wait(t)
	require.ErrorContains(t, o.err, "certificate", "a container's image trusts nobody")
	require.Nil(t, o.result)

	_, err := Run(context.Background(), Config{Address: server.URL, Token: "t", CA: "nonsense"}, nil)
	require.ErrorContains(t, err, "FUNCD_CA holds no certificate in PEM")
}
