package cli

import (
	"crypto/sha256"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(path, text string) string {
		path = filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	all := `
		# all that there is
		addr            = "https://file:1"
		access_key      = "AKFILE"
		secret_key      = "file"
		region          = "rfile"
		ca_cert         = "file.pem"
		tls_server_name = "name.file"
		tls_skip_verify = true
	`
	home := filepath.Dir(filepath.Dir(filepath.Dir(write("home/.config/funcd/config.hcl", all))))
	xdg := filepath.Dir(filepath.Dir(write("xdg/funcd/config.hcl", `addr = "http://xdg:1"`)))
	other := write("other.hcl", `region = "other"`)
	file := settings{"https://file:1", "AKFILE", "file", "rfile", "file.pem", "name.file", true}
	for name, c := range map[string]struct {
		env  environ
		args []string
		want settings
	}{
		"nothing":                     {environ{}, nil, settings{Addr: DefaultAddr}},
		"no file":                     {environ{"HOME": dir}, nil, settings{Addr: DefaultAddr}},
		"the file":                    {environ{"HOME": home}, nil, file},
		"XDG_CONFIG_HOME":             {environ{"HOME": home, "XDG_CONFIG_HOME": xdg}, nil, settings{Addr: "http://xdg:1"}},
		"a relative XDG_CONFIG_HOME":  {environ{"HOME": home, "XDG_CONFIG_HOME": "xdg"}, nil, file},
		"FUNCD_CONFIG":                {environ{"HOME": home, "FUNCD_CONFIG": other}, nil, settings{Addr: DefaultAddr, Region: "other"}},
		"--config":                    {environ{"HOME": home, "FUNCD_CONFIG": "none"}, []string{"--config", other}, settings{Addr: DefaultAddr, Region: "other"}},
		"an address without a scheme": {environ{"FUNCD_ADDR": "127.0.0.1:1"}, nil, settings{Addr: "http://127.0.0.1:1"}},
		"a socket":                    {environ{"FUNCD_ADDR": "unix:///run/funcd.sock"}, nil, settings{Addr: "unix:///run/funcd.sock"}},
		"the environment over the file": {
			environ{
				"HOME": home, "FUNCD_ADDR": "https://env:1", "FUNCD_ACCESS_KEY": "AKENV", "FUNCD_SECRET_KEY": "env", "FUNCD_REGION": "renv",
				"FUNCD_CACERT": "env.pem", "FUNCD_TLS_SERVER_NAME": "name.env", "FUNCD_SKIP_VERIFY": "false",
			}, nil, settings{"https://env:1", "AKENV", "env", "renv", "env.pem", "name.env", false},
		},
		"flags over the environment": {
			environ{
				"HOME": home, "FUNCD_ADDR": "https://env:1", "FUNCD_ACCESS_KEY": "AKENV", "FUNCD_SECRET_KEY": "env", "FUNCD_REGION": "renv",
				"FUNCD_CACERT": "env.pem", "FUNCD_TLS_SERVER_NAME": "name.env", "FUNCD_SKIP_VERIFY": "true",
			},
			[]string{
				"--addr", "https://flag:1", "--access-key=AKFLAG", "--secret-key", "flag", "--region", "rflag", "--ca-cert", "flag.pem",
				"--tls-server-name", "name.flag", "--tls-skip-verify=false",
			}, settings{"https://flag:1", "AKFLAG", "flag", "rflag", "flag.pem", "name.flag", false},
		},
		"one of each": {
			environ{"HOME": home, "FUNCD_REGION": "renv"}, []string{"--addr", "http://flag:1"},
			settings{"http://flag:1", "AKFILE", "file", "renv", "file.pem", "name.file", true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newApp(Config{LookupEnv: c.env.lookup})
			require.NoError(t, a.connection.Parse(c.args))
			s, err := a.loadSettings()
			require.NoError(t, err)
			require.Equal(t, c.want, s)
		})
	}
}

// The example shows every setting, with its default where there is one.
func TestExample(t *testing.T) {
	t.Parallel()
	const path = "../configs/client.hcl"
	source, err := os.ReadFile(path)
	require.NoError(t, err)
	s, err := readSettings(path, true)
	require.NoError(t, err)
	require.Equal(t, settings{Addr: DefaultAddr, Region: api.DefaultRegion}, s)
	for _, field := range reflect.VisibleFields(reflect.TypeFor[settings]()) {
		key, _, _ := strings.Cut(field.Tag.Get("hcl"), ",")
		require.Regexp(t, `(?m)^(# )?`+key+` += `, string(source))
	}
}

func TestSettingsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		require.NoError(t, os.Chmod(path, mode))
		return path
	}
	const secret = "access_key = \"AK\"\nsecret_key = \"hunter2\"\n"
	for name, c := range map[string]struct {
		env     environ
		message string
	}{
		"a file that is not there":   {environ{"FUNCD_CONFIG": dir + "/none.hcl"}, "none.hcl: no such file"},
		"a directory":                {environ{"FUNCD_CONFIG": dir}, "is a directory"},
		"an unknown key":             {environ{"FUNCD_CONFIG": write("unknown", "addr = \"x\"\nadress = \"y\"\n", 0o600)}, "/unknown:2,1-7: Unsupported argument"},
		"a wrong type":               {environ{"FUNCD_CONFIG": write("type", "tls_skip_verify = \"maybe\"\n", 0o600)}, "/type:1,20-25: Unsuitable value type"},
		"no HCL":                     {environ{"FUNCD_CONFIG": write("nohcl", "addr = \n", 0o600)}, "/nohcl:1,"},
		"too much":                   {environ{"FUNCD_CONFIG": write("long", strings.Repeat("#", maxFile+1), 0o600)}, "is over 1048576 bytes"},
		"a secret for the group":     {environ{"FUNCD_CONFIG": write("group", secret, 0o640)}, "group holds a secret key and others may read it: chmod 600 " + dir + "/group"},
		"a secret for all":           {environ{"FUNCD_CONFIG": write("all", secret, 0o604)}, "holds a secret key and others may read it"},
		"a file that all may write":  {environ{"FUNCD_CONFIG": write("open", "region = \"x\"\n", 0o602)}, "open can be written by everyone: chmod go-w " + dir + "/open"},
		"an address":                 {environ{"FUNCD_ADDR": "ftp://x"}, `--addr: "ftp://x" must be http://host:port`},
		"an address with a path":     {environ{"FUNCD_ADDR": "http://x/y"}, `--addr: "http://x/y" must be`},
		"an access key by itself":    {environ{"FUNCD_ACCESS_KEY": "AK"}, "there is an access key without a secret key: set --secret-key or FUNCD_SECRET_KEY too"},
		"a secret key by itself":     {environ{"FUNCD_SECRET_KEY": "hunter2"}, "there is a secret key without an access key"},
		"an access key with a space": {environ{"FUNCD_ACCESS_KEY": "A K", "FUNCD_SECRET_KEY": "hunter2"}, "--access-key: must be"},
		"a region":                   {environ{"FUNCD_REGION": "a/b"}, `--region: "a/b" must be`},
		"FUNCD_SKIP_VERIFY":          {environ{"FUNCD_SKIP_VERIFY": "maybe"}, `FUNCD_SKIP_VERIFY: "maybe" must be true or false`},
		"no certificates":            {environ{"FUNCD_CACERT": dir + "/none.pem"}, "--ca-cert: open " + dir + "/none.pem: no such file"},
		"certificates that are none": {environ{"FUNCD_CACERT": write("empty.pem", "x", 0o644)}, "--ca-cert: " + dir + "/empty.pem holds no certificate in PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := in(t, c.env, "", "ls")
			requireUsage(t, r, c.message)
			require.NotContains(t, r.err, "hunter2")
		})
	}
	// A file without a secret may be everyone's to read.
	require.Equal(t, ExitUnavailable, in(t, environ{"FUNCD_CONFIG": write("readable", "addr = \"http://127.0.0.1:1\"\n", 0o644)}, "", "ls").status)
}

// FuzzSettings: no configuration file panics, and none leads to a client that is half configured.
func FuzzSettings(f *testing.F) {
	f.Add("addr = \"http://x:1\"\naccess_key = \"A\"\nsecret_key = \"${B}\"\n")
	f.Add("tls_skip_verify = yes\n")
	path := filepath.Join(f.TempDir(), "config.hcl")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := newApp(Config{LookupEnv: environ{"FUNCD_CONFIG": path}.lookup}).connect()
		if (c == nil) == (err == nil) {
			t.Fatal(c, err)
		}
	})
}

func TestRequestsAreSigned(t *testing.T) {
	t.Parallel()
	server := routes{"GET /v1.23/funcs": func(w http.ResponseWriter, r *http.Request) {
		s, err := api.ParseAuthorization(r.Header.Get("Authorization"))
		if err == nil {
			err = s.Verify(r, sha256.Sum256(nil), "hunter2", time.Now())
		}
		if err != nil || s.AccessKey != "AK" || s.Region != "here" {
			refuse(api.Unauthorized, api.NotSigned)(w, r)
			return
		}
		reply(200, "[]")(w, r)
	}}.serve(t)
	env := environ{"FUNCD_ADDR": server.URL, "FUNCD_ACCESS_KEY": "AK", "FUNCD_SECRET_KEY": "hunter2", "FUNCD_REGION": "here"}
	require.Equal(t, result{}, in(t, env, "", "ls", "-q"))
	require.Equal(t, result{status: ExitRefused, err: "funcd: funcd at " + server.URL +
		" does not accept the access key AK: check it, its secret, and this machine's clock\n"}, in(t, env, "", "ls", "--secret-key", "wrong"))
	require.Equal(t, result{status: ExitRefused, err: "funcd: funcd at " + server.URL +
		" wants signed requests: set FUNCD_ACCESS_KEY and FUNCD_SECRET_KEY to a key that funcd credential create has made\n"}, at(t, server, "", "ls"))
}

func TestTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(reply(200, "[]")))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not trust it hang up
	server.StartTLS()
	t.Cleanup(server.Close)
	certificates := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	require.NoError(t, os.WriteFile(certificates, block, 0o644))

	for name, c := range map[string]struct {
		env environ
		err string // after "funcd: "
	}{
		"trusted":                   {environ{"FUNCD_CACERT": certificates}, ""},
		"not verified":              {environ{"FUNCD_SKIP_VERIFY": "1"}, ""},
		"by the certificate's name": {environ{"FUNCD_CACERT": certificates, "FUNCD_TLS_SERVER_NAME": "example.com"}, ""},
		"by another name":           {environ{"FUNCD_CACERT": certificates, "FUNCD_TLS_SERVER_NAME": "other.test"}, "is not trusted: x509: certificate is valid for example.com, "},
		"not trusted":               {environ{}, "is not trusted: x509: certificate signed by unknown authority; set --ca-cert or FUNCD_CACERT to the one that signed it\n"},
	} {
		c.env["FUNCD_ADDR"] = server.URL
		r := in(t, c.env, "", "ls", "-q")
		if c.err == "" {
			require.Equal(t, result{}, r, name)
			continue
		}
		require.Equal(t, ExitUnavailable, r.status)
		require.True(t, strings.HasPrefix(r.err, "funcd: the certificate of funcd at "+server.URL+" "), r.err)
		require.Contains(t, r.err, c.err, name)
	}
	plain := routes{}.serve(t)
	r := in(t, environ{"FUNCD_ADDR": strings.Replace(plain.URL, "http:", "https:", 1)}, "", "ls")
	require.Equal(t, ExitUnavailable, r.status)
	require.Contains(t, r.err, " does not speak TLS; set --addr or FUNCD_ADDR to http://…\n")
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed := "http://" + listener.Addr().String()
	require.NoError(t, listener.Close())
	missing := "unix://" + t.TempDir() + "/none"
	for addr, want := range map[string]string{
		closed:  "funcd: funcd at " + closed + " does not answer: connection refused; is it running? set --addr or FUNCD_ADDR\n",
		missing: "funcd: funcd at " + missing + " does not answer: no such file or directory; is it running? set --addr or FUNCD_ADDR\n",
	} {
		require.Equal(t, result{status: ExitUnavailable, err: want}, in(t, environ{"FUNCD_ADDR": addr}, "", "ls"))
	}
	hangUp := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(hangUp.Close)
	require.Equal(t, result{status: ExitUnavailable, err: "funcd: funcd at " + hangUp.URL + " broke off: EOF\n"}, at(t, hangUp, "", "ls"))
}

// The statuses that the help lists are those that there are.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, status := range statusOf {
		require.Contains(t, ExitStatuses, "\n  "+string(rune('0'+status))+"    ")
	}
	for _, line := range leaves(newApp(Config{}).commands()) {
		r := at(t, nil, "", append(line, "--help")...)
		require.Zero(t, r.status)
		require.Empty(t, r.err)
		own, shared, ok := strings.Cut(r.out, "\nWhich funcd, and as whom:\n")
		require.True(t, ok)
		require.Contains(t, own, "  -o, --output form")
		require.NotContains(t, own, "--addr")
		require.Contains(t, shared, "--addr")
		require.Contains(t, shared, "FUNCD_SKIP_VERIFY")
		for line := range strings.Lines(own) {
			require.LessOrEqual(t, len(line), 150, line)
		}
	}
}

// leaves returns the command lines of the commands that do something.
func leaves(commands []*cobra.Command, above ...string) (lines [][]string) {
	for _, cmd := range commands {
		line := append(slices.Clone(above), cmd.Name())
		if cmd.HasSubCommands() {
			lines = append(lines, leaves(cmd.Commands(), line...)...)
		} else {
			lines = append(lines, line)
		}
	}
	return lines
}
