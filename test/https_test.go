//go:build integration

package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// authority signs the certificates of a test.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	file        string
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the authority of a test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a := &authority{key: key, file: filepath.Join(dir, "ca.pem")}
	a.certificate = a.sign(t, template, template, &key.PublicKey)
	writePEM(t, a.file, "CERTIFICATE", a.certificate.Raw)
	return a
}

func (a *authority) sign(t *testing.T, template, parent *x509.Certificate, public *ecdsa.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return certificate
}

// issue makes a directory with a certificate of 127.0.0.1 and its key.
func (a *authority) issue(t *testing.T, dir string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	certificate := a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(serial), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, a.certificate, &key.PublicKey)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(dir, 0o700))
	writePEM(t, filepath.Join(dir, "tls.crt"), "CERTIFICATE", certificate.Raw)
	writePEM(t, filepath.Join(dir, "tls.key"), "PRIVATE KEY", private)
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// TestHTTPS lives on a stack that is reached by HTTPS, also from its containers, and changes its certificate while calls run and are waited for.
func TestHTTPS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	ca.issue(t, filepath.Join(dir, "1"), 11)
	ca.issue(t, filepath.Join(dir, "2"), 12)
	live := filepath.Join(dir, "live")
	require.NoError(t, os.Symlink("1", live))
	free, err := freePorts(1)
	require.NoError(t, err)
	address := "127.0.0.1:" + free[0]
	secure := "https://" + address

	o := beside("https")
	o.noDev = true
	o.config += fmt.Sprintf(`https {
  address   = %q
  cert_file = %q
  key_file  = %q
}
runner {
  mode    = "http"
  address = %q
  ca_file = %q
}
nomad {
  address = %q
}
`, address, live+"/tls.crt", live+"/tls.key", secure, ca.file, dev.nomad)
	config := filepath.Join(dir, "funcd.hcl")
	require.NoError(t, os.WriteFile(config, []byte(o.config), 0o600))
	key, secret := newCredential(t, o, config, "tls")
	own := startOwn(t, "https", o)
	require.Equal(t, http.StatusOK, own.request(t, http.MethodGet, "/healthz", "").status, "HTTP is there too")

	trust := &tls.Config{RootCAs: x509.NewCertPool()}
	trust.RootCAs.AddCert(ca.certificate)
	_, err = (&tls.Dialer{}).DialContext(t.Context(), "tcp", address)
	require.ErrorContains(t, err, "certificate", "by whom the authority is not known")
	own.Client, err = api.NewClient(api.ClientConfig{Address: secure, AccessKey: key, SecretKey: secret, TLS: trust})
	require.NoError(t, err)

	// On the host's network a container reaches funcd where all do here, on loopback.
	onHost := func(image string, cmd ...string) api.Function {
		f := cold(program(image, cmd...))
		f.HostConfig.NetworkMode = "host"
		return f
	}
	upper := own.create(t, onHost("funcd/upper"))
	out, err := own.CallSync(t.Context(), upper.Name, upper.UUID, strings.NewReader("encrypted"), nil)
	require.NoError(t, err)
	require.Equal(t, "ENCRYPTED", string(out))
	call, err := own.Call(t.Context(), upper.Name, upper.UUID, bytes.NewReader(bytes.Repeat([]byte("x"), 1<<20)), nil)
	require.NoError(t, err)
	out, state, err := own.Output(t.Context(), upper.Name, upper.UUID, call, true)
	require.NoError(t, err)
	require.Equal(t, api.Finished, state)
	require.Equal(t, bytes.Repeat([]byte("X"), 1<<20), out)

	// The command line, with what Nomad's takes too.
	c := &cli{[]string{"HOME=" + t.TempDir(), "FUNCD_ADDR=" + secure, "FUNCD_ACCESS_KEY=" + key, "FUNCD_SECRET_KEY=" + secret}}
	require.Equal(t, 7, c.run(t, "", "ls").status, "it trusts nobody unknown")
	c.env = append(c.env, "FUNCD_CACERT="+ca.file)
	require.Contains(t, c.prints(t, "", "ls"), upper.Name)
	require.Equal(t, "ENCRYPTED", c.prints(t, "encrypted", "call", "--sync", upper.Name))

	// What waits while the certificate changes: a call, who waits for it, and who follows its logs, in both ways.
	slow := own.create(t, onHost("funcd/sleep", "600"))
	call, err = own.Call(t.Context(), slow.Name, slow.UUID, nil, nil)
	require.NoError(t, err)
	waited := make(chan error, 1)
	go func() {
		_, _, err := own.Output(t.Context(), slow.Name, slow.UUID, call, true)
		waited <- err
	}()
	events := make(chan api.Event, 100)
	follow, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	followed := make(chan error, 1)
	go func() {
		followed <- own.Logs(follow, slow.Name, slow.UUID, api.EventQuery{Follow: true, Tail: -1}, func(e api.Event) error {
			events <- e
			return nil
		})
	}()
	raw := upgradedOver(t, trust, address, slow.path("logs")+"?follow=1")
	slow.eventsOf(t, call, api.Running)

	serial := func() int64 {
		conn, err := tls.Dial("tcp", address, trust)
		require.NoError(t, err)
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	require.EqualValues(t, 11, serial())
	require.NoError(t, os.Symlink("2", live+".new"))
	require.NoError(t, os.Rename(live+".new", live))
	eventually(t, "the new certificate", func() bool { return serial() == 12 })
	require.NoError(t, own.Cancel(t.Context(), slow.Name, slow.UUID, call))
	require.Equal(t, api.Cancelled, api.CodeOf(<-waited), "the connection is the one before")
	eventually(t, "the end of the call in its logs", func() bool { return (<-events).Event == string(api.Failed) })
	hangUp()
	require.ErrorIs(t, <-followed, context.Canceled)
	require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FAILED"}, kinds(readEvents(t, raw)))

	// A pair that is none changes nothing, and is told once.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "2", "tls.key"), []byte("nonsense"), 0o600))
	complaints := func() int {
		return strings.Count(readFile(t, own.logFile), "the certificate has changed and can't be used, the one before stays")
	}
	eventually(t, "a word about it", func() bool { return complaints() > 0 })
	require.EqualValues(t, 12, serial())
	_, err = own.Function(t.Context(), upper.Name)
	require.NoError(t, err)
	require.Equal(t, 1, complaints())

	// Without HTTP. A broken pair is no start.
	for _, f := range []*function{upper, slow} {
		require.NoError(t, own.ForceRemoveFunction(t.Context(), f.Name))
	}
	require.NoError(t, own.stop(syscall.SIGTERM))
	args := []string{"agent", "--http", "", "--config", config, "--data-dir", own.data()}
	status, stderr := runFuncd(t, args...)
	require.Equal(t, 1, status, stderr)
	require.Contains(t, stderr, "funcd: https.cert_file and https.key_file: ")
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "2")))
	ca.issue(t, filepath.Join(dir, "2"), 13)
	alone := funcd(o, args...)
	var log bytes.Buffer
	alone.Stderr = &log
	require.NoError(t, alone.Start())
	t.Cleanup(func() { _ = alone.Process.Kill() }) // where it has not ended by then
	eventually(t, "a server of HTTPS alone", func() bool {
		functions, err := own.Functions(t.Context(), nil)
		return err == nil && len(functions) == 0
	})
	require.EqualValues(t, 13, serial())
	require.NoError(t, alone.Process.Signal(syscall.SIGTERM))
	require.NoError(t, alone.Wait(), "%s", &log)
	require.NotContains(t, log.String(), " http=")
}

// upgradedOver asks for the logs' raw connection as the original's clients do, over TLS.
func upgradedOver(t *testing.T, trust *tls.Config, address, path string) *bufio.Reader {
	t.Helper()
	conn, err := tls.Dial("tcp", address, trust)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(2*patience)))
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", path, address)
	require.NoError(t, err)
	raw := bufio.NewReader(conn)
	resp, err := http.ReadResponse(raw, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	return raw
}
