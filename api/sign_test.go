package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// vector is one request of testdata/signature.json with the headers that a right client sends.
type vector struct {
	Name, Method, URL, Date, ContentType, Body, AccessKey, SecretKey, Region string
	WantAuthorization, WantContentSha256                                     string
}

func vectors(tb testing.TB) []vector {
	text, err := os.ReadFile("testdata/signature.json")
	require.NoError(tb, err)
	var list []vector
	require.NoError(tb, json.Unmarshal(text, &list))
	require.NotEmpty(tb, list)
	return list
}

func (v vector) now(tb testing.TB) time.Time {
	now, err := time.Parse(signatureTime, v.Date)
	require.NoError(tb, err)
	return now
}

func (v vector) key() SigningKey { return SigningKey{v.AccessKey, v.SecretKey, v.Region} }

// received is the vector's request as a server gets it.
func (v vector) received() *http.Request {
	r := httptest.NewRequest(v.Method, v.URL, strings.NewReader(v.Body))
	r.Header.Set("Content-Type", v.ContentType)
	r.Header.Set(DateHeader, v.Date)
	r.Header.Set(ContentSHA256Header, v.WantContentSha256)
	r.Header.Set("Authorization", v.WantAuthorization)
	return r
}

// check does what a server does with a request.
func check(r *http.Request, body, secret string, now time.Time) error {
	s, err := ParseAuthorization(r.Header.Get("Authorization"))
	if err != nil {
		return err
	}
	return s.Verify(r, sha256.Sum256([]byte(body)), secret, now)
}

func requireNotSigned(tb testing.TB, err error, why string) {
	tb.Helper()
	var e *Error
	require.ErrorAs(tb, err, &e)
	require.Equal(tb, Unauthorized, e.Code)
	require.Equal(tb, NotSigned, e.Message, "the caller must not be told what is wrong")
	require.ErrorContains(tb, e.Err, why)
}

func TestSignatureVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			r, err := http.NewRequest(v.Method, v.URL, strings.NewReader(v.Body))
			require.NoError(t, err)
			r.Header.Set("Content-Type", v.ContentType)
			Sign(r, []byte(v.Body), v.key(), v.now(t))
			require.Equal(t, v.Date, r.Header.Get(DateHeader))
			require.Equal(t, v.WantContentSha256, r.Header.Get(ContentSHA256Header))
			require.Equal(t, v.WantAuthorization, r.Header.Get("Authorization"))

			require.NoError(t, check(v.received(), v.Body, v.SecretKey, v.now(t)))
			s, err := ParseAuthorization(v.WantAuthorization)
			require.NoError(t, err)
			require.Equal(t, v.AccessKey, s.AccessKey)
			require.Equal(t, v.WantAuthorization, s.String())
		})
	}
}

func TestVerifyRefusesAChangedRequest(t *testing.T) {
	t.Parallel()
	const mac = "Signature is not the one"
	for name, c := range map[string]struct {
		change func(r *http.Request)
		why    string
	}{
		"method":               {func(r *http.Request) { r.Method = http.MethodDelete }, mac},
		"path":                 {func(r *http.Request) { r.URL.Path += "x" }, mac},
		"version prefix":       {func(r *http.Request) { r.URL.Path = strings.TrimPrefix(r.URL.Path, "/v1.23") }, mac},
		"query":                {func(r *http.Request) { r.URL.RawQuery = "a=1" }, mac},
		"unreadable query":     {func(r *http.Request) { r.URL.RawQuery = "a;b" }, "the query is malformed"},
		"host":                 {func(r *http.Request) { r.Host = "127.0.0.2:8443" }, mac},
		"port":                 {func(r *http.Request) { r.Host = "127.0.0.1:8444" }, mac},
		"content type":         {func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, mac},
		"no content type":      {func(r *http.Request) { r.Header.Del("Content-Type") }, mac},
		"two content types":    {func(r *http.Request) { r.Header.Add("Content-Type", "text/plain") }, "more than once"},
		"two dates":            {func(r *http.Request) { r.Header.Add(DateHeader, "20260102T030405Z") }, "more than once"},
		"unsigned x-hyper-*":   {func(r *http.Request) { r.Header.Set("X-Hyper-Tenant", "other") }, "sent and not signed"},
		"unsigned md5":         {func(r *http.Request) { r.Header.Set("Content-Md5", "x") }, "sent and not signed"},
		"date of the same day": {func(r *http.Request) { r.Header.Set(DateHeader, "20260102T030406Z") }, mac},
		"date of another day":  {func(r *http.Request) { r.Header.Set(DateHeader, "20260103T030405Z") }, "the scope's date 20260102"},
		"no date":              {func(r *http.Request) { r.Header.Del(DateHeader) }, "is not a date"},
		"date in another form": {func(r *http.Request) { r.Header.Set(DateHeader, "20260102T030405.0Z") }, "is not a date"},
		"body hash":            {func(r *http.Request) { r.Header.Set(ContentSHA256Header, strings.Repeat("0", 64)) }, mac},
		"no body hash":         {func(r *http.Request) { r.Header.Del(ContentSHA256Header) }, "is not a SHA-256 in hex"},
		"body hash in capitals": {func(r *http.Request) {
			r.Header.Set(ContentSHA256Header, strings.ToUpper(r.Header.Get(ContentSHA256Header)))
		}, "is not a SHA-256 in hex"},
		"access key":             {authorization("AKEXAMPLE", "AKEXAMPLF"), ""}, // belongs to another secret, which is the caller's to look up
		"region":                 {authorization("us-west-1", "us-west-2"), mac},
		"signature":              {authorization("Signature=2c", "Signature=2d"), mac},
		"no signed content type": {authorization("content-type;", ""), "sent and not signed"},
		"no signed body hash":    {authorization("x-hyper-content-sha256;", ""), "sent and not signed"},
		"no signed host":         {authorization(";host", ""), "without host"},
		"no signed date":         {authorization(";x-hyper-date", ""), "without x-hyper-date"},
		"one more signed header": {authorization("x-hyper-date", "x-hyper-date;x-other"), mac},
		"no authorization":       {func(r *http.Request) { r.Header.Del("Authorization") }, "no Authorization header"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vectors(t)[1]
			secret := v.SecretKey
			if name == "access key" {
				secret = "secret-of-another-key"
			}
			r := v.received()
			c.change(r)
			requireNotSigned(t, check(r, v.Body, secret, v.now(t)), c.why)
		})
	}

	v := vectors(t)[1]
	requireNotSigned(t, check(v.received(), v.Body+" ", v.SecretKey, v.now(t)), "the body's is")
	requireNotSigned(t, check(v.received(), v.Body, v.SecretKey+"x", v.now(t)), mac)
	requireNotSigned(t, check(v.received(), v.Body, "", v.now(t)), mac)
}

// A request's head is verified before anything of its body has come.
func TestTheHeadIsVerifiedWithoutTheBody(t *testing.T) {
	t.Parallel()
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			r := v.received()
			r.Body = nil // to be read
			s, err := ParseAuthorization(r.Header.Get("Authorization"))
			require.NoError(t, err)
			require.NoError(t, s.VerifyHead(r, v.SecretKey, v.now(t)))
			requireNotSigned(t, s.VerifyHead(r, v.SecretKey+"x", v.now(t)), "Signature is not the one")
			require.NoError(t, VerifyBody(r, sha256.Sum256([]byte(v.Body))))
			requireNotSigned(t, VerifyBody(r, sha256.Sum256([]byte(v.Body+" "))), "the body's is")
			r.Header.Del(ContentSHA256Header)
			requireNotSigned(t, VerifyBody(r, sha256.Sum256([]byte(v.Body))), "the body's is")
		})
	}
}

// authorization returns a change of the Authorization header.
func authorization(from, to string) func(r *http.Request) {
	return func(r *http.Request) {
		r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), from, to, 1))
	}
}

func TestVerifyClock(t *testing.T) {
	t.Parallel()
	v := vectors(t)[0]
	for name, c := range map[string]struct {
		off time.Duration
		ok  bool
	}{
		"5 min behind is accepted":          {-MaxClockSkew, true},
		"5 min ahead is accepted":           {MaxClockSkew, true},
		"a little over 5 min behind is not": {-MaxClockSkew - time.Millisecond, false},
		"a little over 5 min ahead is not":  {MaxClockSkew + time.Millisecond, false},
		"a year is not":                     {365 * 24 * time.Hour, false},
		"more than a Duration holds is not": {1<<63 - 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := check(v.received(), v.Body, v.SecretKey, v.now(t).Add(c.off))
			if c.ok {
				require.NoError(t, err)
				return
			}
			requireNotSigned(t, err, "more than 5m0s from the server's")
		})
	}
}

// TestVerifyHostForms: what a client connects to, what it signs as host, and whether that is accepted.
func TestVerifyHostForms(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		host, signed string
		ok           bool
	}{
		"port stays":                   {"f.example.com:8443", "f.example.com:8443", true},
		"every port dropped":           {"f.example.com:8443", "f.example.com", true},
		"another port":                 {"f.example.com:8443", "f.example.com:8444", false},
		"443 dropped":                  {"f.example.com:443", "f.example.com", true},
		"80 dropped":                   {"f.example.com:80", "f.example.com", true},
		"443 stays":                    {"f.example.com:443", "f.example.com:443", false},
		"no port":                      {"f.example.com", "f.example.com", true},
		"a port that was not sent":     {"f.example.com", "f.example.com:8443", false},
		"another host":                 {"f.example.com:8443", "g.example.com", false},
		"IPv6 with its port":           {"[::1]:8443", "[::1]:8443", true},
		"IPv6 without its port":        {"[::1]:8443", "[::1]", true},
		"IPv6 that never had one":      {"[::1]", "[::1]", true},
		"IPv6 that was cut in its end": {"[::1]", "[:", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Unix(1767323045, 0)
			r := httptest.NewRequest(http.MethodGet, "/funcs", nil)
			r.Host = c.host
			Sign(r, nil, SigningKey{"AK", "secret", "local"}, now)
			s, err := ParseAuthorization(r.Header.Get("Authorization"))
			require.NoError(t, err)
			s.MAC = s.mac(s.canonicalRequest(r, canonicalPath(r.URL.Path), c.signed, nil), r.Header.Get(DateHeader), "secret")
			err = s.Verify(r, sha256.Sum256(nil), "secret", now)
			if c.ok {
				require.NoError(t, err)
				return
			}
			requireNotSigned(t, err, "Signature is not the one")
		})
	}
}

func TestSignCoversOtherHeaders(t *testing.T) {
	t.Parallel()
	now := time.Unix(1767323045, 0)
	r := httptest.NewRequest(http.MethodPost, "/images/create?fromImage=a%2Fb", strings.NewReader("x"))
	r.Header.Set("X-Hyper-Tenant", " t ")
	r.Header.Set("Content-Md5", "nB7dHEh0lPx6tsqZ2CTGgA==")
	r.Header.Set("X-Registry-Auth", "not signed")
	Sign(r, []byte("x"), SigningKey{"AK", "secret", "local"}, now)
	require.Contains(t, r.Header.Get("Authorization"), "SignedHeaders=content-md5;host;x-hyper-content-sha256;x-hyper-date;x-hyper-tenant,")
	require.NoError(t, check(r, "x", "secret", now))
	r.Header.Set("X-Registry-Auth", "may change")
	require.NoError(t, check(r, "x", "secret", now))
	r.Header.Set("X-Hyper-Tenant", "u")
	requireNotSigned(t, check(r, "x", "secret", now), "Signature is not the one")
}

func TestCanonicalPath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"":                           "",
		"/":                          "",
		"//funcs///a/":               "funcs/a",
		"/images/reg:5000/a@b/json":  "images/reg%3A5000/a%40b/json",
		"/a b/ä+~_.-":                "a%20b/%C3%A4%2B~_.-",
		"/" + string([]byte{255, 0}): "%FF%00",
	} {
		require.Equal(t, want, canonicalPath(path), "%q", path)
	}
}

func TestRegionOf(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"us-west-1.hyper.sh":     "us-west-1",
		"us-west-1.hyper.sh:443": "us-west-1",
		"hyper.sh":               "set",
		".hyper.sh":              "set",
		"a.b.hyper.sh":           "set",
		"us-west-1.hyper.sh.org": "set",
		"127.0.0.1:3862":         "set",
	} {
		require.Equal(t, want, regionOf(host, "set"), host)
	}
}

func TestParseAuthorizationRefuses(t *testing.T) {
	t.Parallel()
	const (
		credential = "Credential=AK/20260102/local/hyper/hyper_request"
		headers    = "SignedHeaders=host;x-hyper-date"
	)
	signature := "Signature=" + strings.Repeat("0", 64)
	good := SignatureScheme + " " + credential + ", " + headers + ", " + signature
	_, err := ParseAuthorization(good)
	require.NoError(t, err)
	_, err = ParseAuthorization(SignatureScheme + " " + signature + "," + headers + ",  " + credential)
	require.NoError(t, err, "order and spaces don't matter")

	for name, c := range map[string]struct{ from, to, why string }{
		"another scheme":          {"HYPER-", "AWS4-", "is not HYPER-HMAC-SHA256"},
		"a part less":             {", " + headers, "", "is not HYPER-HMAC-SHA256"},
		"a part more":             {headers, headers + ", x=y", "is not HYPER-HMAC-SHA256"},
		"a part twice":            {headers, credential, "SignedHeaders"},
		"an unknown part":         {"SignedHeaders", "Signedheaders", `unknown part "Signedheaders"`},
		"no access key":           {"AK/", "/", "Credential"},
		"a space in the key":      {"AK/", "A K/", "Credential"},
		"a slash in the key":      {"AK/", "A/K/", "Credential"},
		"a long key":              {"AK/", strings.Repeat("A", 129) + "/", "Credential"},
		"no region":               {"/local/", "//", "Credential"},
		"a date that is short":    {"20260102", "2026012", "Credential"},
		"a date with letters":     {"20260102", "2026o102", "Credential"},
		"another service":         {"/hyper/", "/s3/", "Credential"},
		"another end":             {"hyper_request", "aws4_request", "Credential"},
		"a longer scope":          {"hyper_request", "hyper_request/x", "Credential"},
		"no headers":              {"host;x-hyper-date", "", "SignedHeaders"},
		"no host":                 {"host;", "", "without host"},
		"no date header":          {";x-hyper-date", "", "without x-hyper-date"},
		"headers in disorder":     {"host;x-hyper-date", "x-hyper-date;host", "sorted list"},
		"a header twice":          {"host;", "host;host;", "sorted list"},
		"a header in upper case":  {"host", "Host", "sorted list"},
		"a header with a newline": {"host", "a\n;host", "sorted list"},
		"a signature not in hex":  {"Signature=00", "Signature=0x", "in hex"},
		"a short signature":       {"Signature=00", "Signature=", "in hex"},
		"a long signature":        {"Signature=00", "Signature=0000", "in hex"},
		"no signature":            {signature, "Signature=", "in hex"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := strings.Replace(good, c.from, c.to, 1)
			require.NotEqual(t, good, changed)
			_, err := ParseAuthorization(changed)
			requireNotSigned(t, err, c.why)
		})
	}
}

func FuzzSignature(f *testing.F) {
	for _, v := range vectors(f) {
		r := v.received()
		f.Add(v.WantAuthorization, v.Method, r.URL.Path, r.URL.RawQuery, r.Host, "X-Hyper-Other", v.Date, []byte(v.Body))
	}
	f.Fuzz(func(t *testing.T, header, method, path, query, host, name, date string, body []byte) {
		now := time.Unix(1767323045, 0)
		r := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}, Host: host, Header: http.Header{}}
		r.Header.Set(DateHeader, date)
		r.Header.Set(name, date)
		sum := sha256.Sum256(body)
		r.Header.Set(ContentSHA256Header, hex.EncodeToString(sum[:]))
		if s, err := ParseAuthorization(header); err == nil {
			require.Error(t, s.Verify(r, sum, "a secret that no seed was signed with", now))
			again, err := ParseAuthorization(s.String())
			require.NoError(t, err)
			require.Equal(t, s, again)
		}

		// Whatever the request is, its own signature is accepted, and no other secret's.
		if _, err := url.ParseQuery(query); err != nil || host == "" || !signedHeaderFormat.MatchString(strings.ToLower(name)) {
			return
		}
		r.Header.Del("Authorization")
		Sign(r, body, SigningKey{"AK", "secret", "local"}, now)
		s, err := ParseAuthorization(r.Header.Get("Authorization"))
		if err != nil { // the host may be one that names a region which is none
			return
		}
		if method != "" {
			require.NoError(t, s.Verify(r, sum, "secret", now))
		}
		require.Error(t, s.Verify(r, sum, "secrets", now))
	})
}

// BenchmarkVerify is all that a server does for the signature of a small request. It must stay under 100 µs.
func BenchmarkVerify(b *testing.B) {
	v := vectors(b)[1]
	r, now, body := v.received(), v.now(b), []byte(v.Body)
	b.ReportAllocs()
	for b.Loop() {
		s, err := ParseAuthorization(r.Header.Get("Authorization"))
		if err == nil {
			err = s.Verify(r, sha256.Sum256(body), v.SecretKey, now)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func TestSignedPath(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sent, signed string
		ok           bool
	}{
		"a slash":                             {"/v1.23/images/r:5000/team/app/json", "v1.23/images/r%3A5000/team/app/json", true},
		"an encoded slash that was decoded":   {"/images/team%2Fapp/json", "images/team/app/json", true},
		"an encoded slash as it was sent":     {"/images/team%2Fapp/json", "images/team%2Fapp/json", true},
		"an encoded slash in small letters":   {"/images/team%2fapp/json", "images/team%2Fapp/json", true},
		"a slash that was signed encoded":     {"/images/team/app/json", "images/team%2Fapp/json", false},
		"another image":                       {"/images/team%2Fapp/json", "images/team%2Fother/json", false},
		"an encoded slash that is encoded":    {"/images/team%252Fapp/json", "images/team%252Fapp/json", true},
		"an encoded slash that is not":        {"/images/team%252Fapp/json", "images/team%2Fapp/json", false},
		"what need not be encoded":            {"/images/%74eam/app/json", "images/team/app/json", true},
		"a space":                             {"/images/a%20b/json", "images/a%20b/json", true},
		"an empty segment is none":            {"/images//team%2Fapp/json", "images/team%2Fapp/json", true},
		"an encoded slash that begins a path": {"/%2Fimages/app/json", "images/app/json", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Unix(1767323045, 0)
			r := httptest.NewRequest(http.MethodGet, c.sent, nil)
			Sign(r, nil, SigningKey{"AK", "secret", "local"}, now)
			s, err := ParseAuthorization(r.Header.Get("Authorization"))
			require.NoError(t, err)
			s.MAC = s.mac(s.canonicalRequest(r, c.signed, r.Host, nil), r.Header.Get(DateHeader), "secret")
			err = s.Verify(r, sha256.Sum256(nil), "secret", now)
			if c.ok {
				require.NoError(t, err)
				return
			}
			requireNotSigned(t, err, "Signature is not the one")
		})
	}
}
