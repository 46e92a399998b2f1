package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/spf13/pflag"

	"github.com/funcd/funcd/api"
)

// DefaultAddr is where funcd listens if it is not told otherwise.
const DefaultAddr = "http://127.0.0.1:3862"

// settings say which server the commands talk to, and as whom. Each comes from its flag, else from its environment variable, else from the
// configuration file. They are the keys of that file.
type settings struct {
	Addr          string `hcl:"addr,optional"`
	AccessKey     string `hcl:"access_key,optional"`
	SecretKey     string `hcl:"secret_key,optional"`
	Region        string `hcl:"region,optional"`
	CACert        string `hcl:"ca_cert,optional"`
	TLSServerName string `hcl:"tls_server_name,optional"`
	TLSSkipVerify bool   `hcl:"tls_skip_verify,optional"`
}

// connectionFlags are the flags of settings, as they were given.
type connectionFlags struct {
	settings
	config string
	set    *pflag.FlagSet
}

func (f *connectionFlags) flagSet() *pflag.FlagSet {
	f.set = pflag.NewFlagSet("", pflag.ContinueOnError)
	f.set.SortFlags = false
	f.set.StringVar(&f.Addr, "addr", "", "its `address`: http://host:port, https://host:port or unix:///path; FUNCD_ADDR (default "+DefaultAddr+")")
	f.set.StringVar(&f.AccessKey, "access-key", "", "the access `key` that signs requests; FUNCD_ACCESS_KEY")
	f.set.StringVar(&f.SecretKey, "secret-key", "", "its `secret`, which others on this machine can see here; FUNCD_SECRET_KEY")
	f.set.StringVar(&f.Region, "region", "", "the `region` of the signature; FUNCD_REGION (default "+api.DefaultRegion+")")
	f.set.StringVar(&f.CACert, "ca-cert", "", "`file` of the certificates to trust, in place of the system's; FUNCD_CACERT")
	f.set.StringVar(&f.TLSServerName, "tls-server-name", "", "the `name` in its certificate; FUNCD_TLS_SERVER_NAME")
	f.set.BoolVar(&f.TLSSkipVerify, "tls-skip-verify", false, "trust any certificate; FUNCD_SKIP_VERIFY")
	f.set.StringVar(&f.config, "config", "", "configuration `file` for all of these; FUNCD_CONFIG (default ~/.config/funcd/config.hcl)")
	return f.set
}

// connect returns a client of the server that flags, environment and configuration file name. It does not connect yet.
func (a *app) connect() (*api.Client, error) {
	s, err := a.loadSettings()
	if err != nil {
		return nil, &Error{Status: ExitUsage, Message: err.Error(), Err: err}
	}
	a.settings = s
	trust, err := s.tls()
	if err != nil {
		return nil, &Error{Status: ExitUsage, Message: err.Error(), Err: err}
	}
	switch {
	case s.AccessKey == "" && s.SecretKey != "":
		return nil, usageErrorf("there is a secret key without an access key: set --access-key or FUNCD_ACCESS_KEY too")
	case s.AccessKey != "" && s.SecretKey == "":
		return nil, usageErrorf("there is an access key without a secret key: set --secret-key or FUNCD_SECRET_KEY too")
	}
	c, err := api.NewClient(api.ClientConfig{Address: s.Addr, AccessKey: s.AccessKey, SecretKey: s.SecretKey, Region: s.Region, SignCalls: true, TLS: trust})
	if err != nil {
		message := api.MessageOf(err)
		for field, flag := range map[string]string{"Address": "--addr", "AccessKey": "--access-key", "Region": "--region"} {
			if rest, ok := strings.CutPrefix(message, field+":"); ok {
				message = flag + ":" + rest
			}
		}
		return nil, &Error{Status: ExitUsage, Message: message, Err: err}
	}
	return c, nil
}

func (a *app) loadSettings() (settings, error) {
	env := func(name string) string {
		value, _ := a.LookupEnv(name)
		return value
	}
	file, must := first(a.flags.config, env("FUNCD_CONFIG")), true
	if file == "" {
		file, must = defaultFile(env), false
	}
	s, err := readSettings(file, must)
	if err != nil {
		return settings{}, err
	}
	s.Addr = first(a.flags.Addr, env("FUNCD_ADDR"), s.Addr, DefaultAddr)
	s.AccessKey = first(a.flags.AccessKey, env("FUNCD_ACCESS_KEY"), s.AccessKey)
	s.SecretKey = first(a.flags.SecretKey, env("FUNCD_SECRET_KEY"), s.SecretKey)
	s.Region = first(a.flags.Region, env("FUNCD_REGION"), s.Region)
	s.CACert = first(a.flags.CACert, env("FUNCD_CACERT"), s.CACert)
	s.TLSServerName = first(a.flags.TLSServerName, env("FUNCD_TLS_SERVER_NAME"), s.TLSServerName)
	if text := env("FUNCD_SKIP_VERIFY"); text != "" {
		if s.TLSSkipVerify, err = strconv.ParseBool(text); err != nil {
			return settings{}, fmt.Errorf("FUNCD_SKIP_VERIFY: %q must be true or false", text)
		}
	}
	if a.flags.set.Changed("tls-skip-verify") {
		s.TLSSkipVerify = a.flags.TLSSkipVerify
	}
	if !strings.Contains(s.Addr, "://") { // as Consul's client takes it
		s.Addr = "http://" + s.Addr
	}
	return s, nil
}

// first returns the first of the values that is not empty.
func first(values ...string) string {
	for _, value := range values {
		if value != "" {
			return value
		}
	}
	return ""
}

// defaultFile is where the configuration file is by the XDG Base Directory Specification, or nothing if that can't be told.
func defaultFile(env func(string) string) string {
	dir := env("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) { // "All paths set in these environment variables must be absolute."
		home := env("HOME")
		if home == "" {
			return ""
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "funcd", "config.hcl")
}

// readSettings reads the configuration file. It may be missing, unless it must be there. As ssh does with its keys, it refuses one with a
// secret that others can read.
func readSettings(path string, must bool) (settings, error) {
	var s settings
	if path == "" {
		return s, nil
	}
	file, err := os.Open(path)
	if !must && errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return s, err
	}
	source, err := readAll(file, path)
	if err != nil {
		return s, err
	}
	parsed, diagnostics := hclparse.NewParser().ParseHCL(source, path)
	if !diagnostics.HasErrors() {
		diagnostics = append(diagnostics, gohcl.DecodeBody(parsed.Body, nil, &s)...)
	}
	if diagnostics.HasErrors() {
		return s, firstOf(diagnostics)
	}
	switch mode := info.Mode().Perm(); {
	case mode&0o002 != 0:
		return s, fmt.Errorf("%s can be written by everyone: chmod go-w %[1]s", path)
	case mode&0o077 != 0 && s.SecretKey != "":
		return s, fmt.Errorf("%s holds a secret key and others may read it: chmod 600 %[1]s", path)
	}
	return s, nil
}

// maxFile bounds what is read of a file that a command line names.
const maxFile = 1 << 20

func readAll(file *os.File, path string) ([]byte, error) {
	source, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(source) > maxFile {
		err = fmt.Errorf("%s is over %d bytes", path, maxFile)
	}
	return source, err
}

// firstOf returns the first error, with the file and the line.
func firstOf(diagnostics hcl.Diagnostics) error { return diagnostics.Errs()[0] }

// tls returns nil if nothing was set.
func (s settings) tls() (*tls.Config, error) {
	if s.CACert == "" && s.TLSServerName == "" && !s.TLSSkipVerify {
		return nil, nil
	}
	c := &tls.Config{ServerName: s.TLSServerName, InsecureSkipVerify: s.TLSSkipVerify}
	if s.CACert != "" {
		certificates, err := os.ReadFile(s.CACert)
		if err != nil {
			return nil, fmt.Errorf("--ca-cert: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(certificates) {
			return nil, fmt.Errorf("--ca-cert: %s holds no certificate in PEM", s.CACert)
		}
	}
	return c, nil
}
