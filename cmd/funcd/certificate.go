package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// certificatePeriod is how often the files of a certificate are read, of which a few kilobytes are all: whether they were written to, replaced, or are
// behind a link that was moved on makes no difference then.
const certificatePeriod = 2 * time.Second

// certificate is what the HTTPS listener shows: what its files hold, also after they have changed. Connections keep what they have begun with.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]

	found string // by the last look
	told  bool   // found is broken, and the log says so
}

// loadCertificate reads the pair, which must be a whole one.
func loadCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log.With("component", "https", "cert_file", certFile)}
	pair, found, err := c.read()
	if err != nil {
		return nil, err
	}
	c.found = found
	c.use(pair)
	return c, nil
}

// config is that of a listener which shows the certificate.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}

// look takes what the files hold now, if it has changed. A pair that can't be used leaves the one before. It is said once, and only if it is the same at
// the second look: the two files may be replaced one after the other.
func (c *certificate) look() {
	pair, found, err := c.read()
	again := found == c.found
	if !again {
		c.found, c.told = found, false
	}
	switch {
	case err != nil && again && !c.told:
		c.log.Error("the certificate has changed and can't be used, the one before stays", "error", err)
		c.told = true
	case err == nil && !again:
		c.use(pair)
	}
}

func (c *certificate) use(pair *tls.Certificate) {
	c.current.Store(pair)
	level := slog.LevelInfo
	if time.Now().After(pair.Leaf.NotAfter) {
		level = slog.LevelWarn
	}
	c.log.Log(context.Background(), level, "the certificate is in use", "serial", pair.Leaf.SerialNumber.Text(16), "names", pair.Leaf.DNSNames, "expires", pair.Leaf.NotAfter)
}

// read returns the pair, and what was found: another text for each other content of the files, also where that is no pair.
func (c *certificate) read() (pair *tls.Certificate, found string, err error) {
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return nil, err.Error(), cannot("https.cert_file", c.certFile, err)
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return nil, err.Error(), cannot("https.key_file", c.keyFile, err)
	}
	certSum, keySum := sha256.Sum256(cert), sha256.Sum256(key)
	found = hex.EncodeToString(append(certSum[:], keySum[:]...))
	p, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, found, fmt.Errorf("https.cert_file and https.key_file: %s and %s: %w", c.certFile, c.keyFile, err)
	}
	return &p, found, nil
}
