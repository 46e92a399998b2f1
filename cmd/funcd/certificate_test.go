package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newPair returns a certificate of 127.0.0.1 that has signed itself, and its key, in PEM.
func newPair(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "funcd"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// pairFiles are the two files of a certificate.
type pairFiles struct{ cert, key string }

func writePair(t *testing.T, dir string, serial int64) pairFiles {
	t.Helper()
	f := pairFiles{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
	cert, key := newPair(t, serial)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, os.WriteFile(f.cert, cert, 0o600))
	require.NoError(t, os.WriteFile(f.key, key, 0o600))
	return f
}

func (c *certificate) serial() int64 { return c.current.Load().Leaf.SerialNumber.Int64() }

func TestCertificateChangesWithItsFiles(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	f := writePair(t, t.TempDir(), 1)
	c, err := loadCertificate(f.cert, f.key, slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	require.EqualValues(t, 1, c.serial())
	broken := func() int { return strings.Count(log.String(), "level=ERROR") }
	used := func() int { return strings.Count(log.String(), "the certificate is in use") }
	for range 3 {
		c.look()
	}
	require.EqualValues(t, 1, c.serial())
	require.Equal(t, 1, used(), "nothing has changed")

	cert, key := newPair(t, 2)
	require.NoError(t, os.WriteFile(f.cert, cert, 0o600))
	c.look()
	require.EqualValues(t, 1, c.serial(), "its key has not come yet")
	require.NoError(t, os.WriteFile(f.key, key, 0o600))
	c.look()
	require.EqualValues(t, 2, c.serial())
	require.Zero(t, broken(), "it was whole by the next look")

	for i, breaks := range []func() error{
		func() error { return os.WriteFile(f.cert, []byte("nonsense"), 0o600) },
		func() error { return os.WriteFile(f.cert, nil, 0o600) },
		func() error { return os.Remove(f.key) },
	} {
		require.NoError(t, breaks())
		for range 5 {
			c.look()
			require.EqualValues(t, 2, c.serial(), "the one before stays")
		}
		require.Equal(t, i+1, broken(), "each change is told once: %s", &log)
	}
	writePair(t, filepath.Dir(f.cert), 3)
	c.look()
	require.EqualValues(t, 3, c.serial())
	require.Equal(t, 3, used())
	_, _, private := strings.Cut(log.String(), "PRIVATE")
	require.False(t, private, "a key is not logged")
}

// TestCertificateBehindALink moves on the link as the kubelet does with secrets: the files' own paths never change.
func TestCertificateBehindALink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	point := func(to string) {
		link := filepath.Join(dir, "data.new")
		require.NoError(t, os.Symlink(to, link))
		require.NoError(t, os.Rename(link, filepath.Join(dir, "data")))
	}
	writePair(t, filepath.Join(dir, "1"), 1)
	point("1")
	c, err := loadCertificate(filepath.Join(dir, "data", "tls.crt"), filepath.Join(dir, "data", "tls.key"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	writePair(t, filepath.Join(dir, "2"), 2)
	c.look()
	require.EqualValues(t, 1, c.serial())
	point("2")
	c.look()
	require.EqualValues(t, 2, c.serial())
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "2")))
	c.look()
	require.EqualValues(t, 2, c.serial())
	point("1")
	c.look()
	require.EqualValues(t, 1, c.serial(), "back again")
}

func TestCertificateMustBeThereAtTheStart(t *testing.T) {
	t.Parallel()
	one, two := writePair(t, t.TempDir(), 1), writePair(t, t.TempDir(), 2)
	for name, f := range map[string]pairFiles{
		"no certificate":      {one.cert + ".none", one.key},
		"no key":              {one.cert, one.key + ".none"},
		"another's key":       {one.cert, two.key},
		"the other way round": {one.key, one.cert},
		"a directory":         {filepath.Dir(one.cert), one.key},
	} {
		_, err := loadCertificate(f.cert, f.key, slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, "https.", name)
	}
}
