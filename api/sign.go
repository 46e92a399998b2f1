package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The headers of a signed request, beside Authorization.
const (
	DateHeader          = "X-Hyper-Date"           // when it was signed, as 20060102T150405Z
	ContentSHA256Header = "X-Hyper-Content-Sha256" // the SHA-256 of its body in hex
)

// MaxClockSkew is how far the date of a signed request may be from the server's, in either direction.
const MaxClockSkew = 5 * time.Minute

// NotSigned is the one sentence that every refused signature is answered with, whatever is wrong with it.
const NotSigned = "the request is not signed as it should be"

// SignatureScheme is the first word of a signed request's Authorization header.
const SignatureScheme = "HYPER-HMAC-SHA256"

const (
	signatureTime = "20060102T150405Z"
	signatureEnd  = "hyper/hyper_request" // of every scope
)

var (
	scopeWordFormat    = newFormat(`^[!-+.0-~-]{1,128}$`) // ASCII that can be seen, without the separators / and ,
	scopeDateFormat    = newFormat(`^[0-9]{8}$`)
	signedHeaderFormat = newFormat(`^[a-z0-9_.-]+$`)
	sha256Format       = newFormat(`^[0-9a-f]{64}$`)
)

// SigningKey is a credential as its owner uses it.
type SigningKey struct {
	AccessKey string
	Secret    string
	Region    string // of the credential scope, unless the request's host has the form <region>.hyper.sh
}

// Signature is what the Authorization header of a signed request says.
type Signature struct {
	AccessKey     string
	Date          string   // of the scope, yyyymmdd
	Region        string   // of the scope; any is accepted, as the signature covers it
	SignedHeaders []string // in lower case, sorted, each once
	MAC           [sha256.Size]byte
}

// Sign sets the headers X-Hyper-Date, X-Hyper-Content-Sha256 and Authorization of an outgoing request. What it signs must be in place
// before: method, URL, Host, Content-Type and every header that starts with X-Hyper-. body is all that r.Body will send.
func Sign(r *http.Request, body []byte, key SigningKey, now time.Time) {
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	date, bodySum := now.UTC().Format(signatureTime), sha256.Sum256(body)
	r.Header.Set(DateHeader, date)
	r.Header.Set(ContentSHA256Header, hex.EncodeToString(bodySum[:]))

	s := Signature{AccessKey: key.AccessKey, Date: date[:8], Region: regionOf(host, key.Region), SignedHeaders: []string{"host"}}
	for name := range r.Header {
		if name = strings.ToLower(name); mustBeSigned(name) {
			s.SignedHeaders = append(s.SignedHeaders, name)
		}
	}
	slices.Sort(s.SignedHeaders)
	s.MAC = s.mac(s.canonicalRequest(r, canonicalPath(r.URL.Path), signedHosts(host)[0], r.URL.Query()), date, key.Secret)
	r.Header.Set("Authorization", s.String())
}

// ParseAuthorization reads an Authorization header. The error is of code Unauthorized with the message NotSigned; its cause, for the log
// only, says what is wrong.
func ParseAuthorization(header string) (Signature, error) {
	if header == "" {
		return Signature{}, notSigned("no Authorization header")
	}
	list, ok := strings.CutPrefix(header, SignatureScheme+" ")
	parts := strings.Split(list, ",")
	if !ok || len(parts) != 3 {
		return Signature{}, notSigned("Authorization is not %s with Credential, SignedHeaders and Signature", SignatureScheme)
	}
	var credential, names, mac string
	for _, part := range parts {
		switch name, value, _ := strings.Cut(strings.TrimSpace(part), "="); name {
		case "Credential":
			credential = value
		case "SignedHeaders":
			names = value
		case "Signature":
			mac = value
		default:
			return Signature{}, notSigned("Authorization has an unknown part %.50q", name)
		}
	}

	var s Signature
	scope := strings.SplitN(credential, "/", 4)
	if len(scope) != 4 || !scopeWordFormat.MatchString(scope[0]) || !scopeDateFormat.MatchString(scope[1]) ||
		!scopeWordFormat.MatchString(scope[2]) || scope[3] != signatureEnd {
		return Signature{}, notSigned("Credential %.300q is not <access key>/<yyyymmdd>/<region>/%s", credential, signatureEnd)
	}
	s.AccessKey, s.Date, s.Region = scope[0], scope[1], scope[2]

	s.SignedHeaders = strings.Split(names, ";")
	for i, name := range s.SignedHeaders {
		if !signedHeaderFormat.MatchString(name) || i > 0 && name <= s.SignedHeaders[i-1] {
			return Signature{}, notSigned("SignedHeaders %.300q is not a sorted list of header names in lower case", names)
		}
	}
	for _, name := range []string{"host", "x-hyper-date"} {
		if !s.signs(name) {
			return Signature{}, notSigned("SignedHeaders is without %s", name)
		}
	}

	sum, err := hex.DecodeString(mac)
	if err != nil || len(sum) != len(s.MAC) {
		return Signature{}, notSigned("Signature %.100q is not a SHA-256 in hex", mac)
	}
	copy(s.MAC[:], sum)
	return s, nil
}

// String returns the Authorization header that s stands for.
func (s Signature) String() string {
	return fmt.Sprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%x",
		SignatureScheme, s.AccessKey, s.scope(), strings.Join(s.SignedHeaders, ";"), s.MAC)
}

// Verify checks that s signs the request r with a body of the SHA-256 bodySum: VerifyHead and VerifyBody in one, for who has the body already.
func (s Signature) Verify(r *http.Request, bodySum [sha256.Size]byte, secret string, now time.Time) error {
	if err := s.VerifyHead(r, secret, now); err != nil {
		return err
	}
	return VerifyBody(r, bodySum)
}

// VerifyHead checks that s signs the request r as the server got it, its path still with the version prefix, with the secret of s.AccessKey
// and at most MaxClockSkew from now. The body's hash is what the header X-Hyper-Content-Sha256 claims: nothing of the body is read, and what is read of it
// later counts only after VerifyBody. The error is like ParseAuthorization's.
//
// The time that it takes does not depend on the secret. For an access key that nobody has, a caller verifies with any other secret before it
// refuses, so that the time does not tell which keys exist.
func (s Signature) VerifyHead(r *http.Request, secret string, now time.Time) error {
	for name, values := range r.Header {
		switch lower := strings.ToLower(name); {
		case mustBeSigned(lower) && !s.signs(lower):
			return notSigned("the header %.100q is sent and not signed", name)
		case len(values) > 1 && s.signs(lower):
			// Only the first of them is signed: another could be added on the way.
			return notSigned("the signed header %.100q is sent more than once", name)
		}
	}

	date := r.Header.Get(DateHeader)
	at, err := time.Parse(signatureTime, date)
	switch {
	case err != nil || len(date) != len(signatureTime): // time.Parse takes a fraction of a second too
		return notSigned("%s %.50q is not a date of the form %s", DateHeader, date, signatureTime)
	case date[:8] != s.Date:
		return notSigned("%s %s is not of the scope's date %s", DateHeader, date, s.Date)
	case at.Sub(now).Abs() > MaxClockSkew:
		return notSigned("%s %s is more than %s from the server's %s", DateHeader, date, MaxClockSkew, now.UTC().Format(signatureTime))
	}

	if claimed := r.Header.Get(ContentSHA256Header); !sha256Format.MatchString(claimed) {
		return notSigned("%s %.100q is not a SHA-256 in hex", ContentSHA256Header, claimed)
	}
	// Request.URL.Query leaves out what it can't read, so that more could be added to a signed query.
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return notSigned("the query is malformed: %w", err)
	}
	for _, path := range signedPaths(r.URL) {
		for _, host := range signedHosts(r.Host) {
			if mac := s.mac(s.canonicalRequest(r, path, host, query), date, secret); hmac.Equal(mac[:], s.MAC[:]) {
				return nil
			}
		}
	}
	return notSigned("Signature is not the one of the request with the secret of %s", s.AccessKey)
}

// VerifyBody checks that a body of the SHA-256 bodySum is the one that the head of the request r claims, which VerifyHead must have passed. The error is
// like ParseAuthorization's.
func VerifyBody(r *http.Request, bodySum [sha256.Size]byte) error {
	claimed, is := r.Header.Get(ContentSHA256Header), hex.EncodeToString(bodySum[:])
	if !hmac.Equal([]byte(claimed), []byte(is)) {
		return notSigned("%s is %.100q, the body's is %s", ContentSHA256Header, claimed, is)
	}
	return nil
}

func (s *Signature) scope() string { return s.Date + "/" + s.Region + "/" + signatureEnd }

func (s *Signature) signs(header string) bool {
	_, ok := slices.BinarySearch(s.SignedHeaders, header)
	return ok
}

// canonicalRequest returns all of a request that is signed, with its path in canonical form and the body's hash as its header gives it.
func (s *Signature) canonicalRequest(r *http.Request, path, host string, query url.Values) string {
	var b strings.Builder
	method := r.Method
	if method == "" { // of an outgoing request: GET
		method = http.MethodGet
	}
	b.WriteString(method + "\n" + path + "\n")
	b.WriteString(strings.ReplaceAll(query.Encode(), "+", "%20") + "\n")
	for _, name := range s.SignedHeaders {
		value := host
		if name != "host" {
			value = strings.TrimSpace(r.Header.Get(name))
		}
		b.WriteString(name + ":" + value + "\n")
	}
	b.WriteString("\n" + strings.Join(s.SignedHeaders, ";") + "\n" + r.Header.Get(ContentSHA256Header))
	return b.String()
}

// mac returns the signature of a canonical request.
func (s *Signature) mac(canonical, date, secret string) [sha256.Size]byte {
	key := []byte("HYPER" + secret)
	for word := range strings.SplitSeq(s.scope(), "/") {
		key = hmacSHA256(key, word)
	}
	sum := sha256.Sum256([]byte(canonical))
	return [sha256.Size]byte(hmacSHA256(key, SignatureScheme+"\n"+date+"\n"+s.scope()+"\n"+hex.EncodeToString(sum[:])))
}

func hmacSHA256(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func mustBeSigned(header string) bool {
	return header == "content-type" || header == "content-md5" || strings.HasPrefix(header, "x-hyper-")
}

// canonicalPath leaves out empty segments and encodes the others, with no slash in front.
func canonicalPath(path string) string {
	var segments []string
	for segment := range strings.SplitSeq(path, "/") {
		if segment != "" {
			segments = append(segments, encoded(segment))
		}
	}
	return strings.Join(segments, "/")
}

// encoded encodes all of a segment but A-Za-z0-9-_.~
func encoded(segment string) string { return strings.ReplaceAll(url.QueryEscape(segment), "+", "%20") }

// signedPaths returns the canonical forms that a client may have signed a path in. They differ only where a slash was sent as %2F, as in the name of
// an image: it is a slash to clients that sign what they have decoded, and part of a segment to those that sign what they send.
func signedPaths(u *url.URL) []string {
	paths := []string{canonicalPath(u.Path)}
	if u.RawPath == "" { // nothing is encoded that need not be
		return paths
	}
	var segments []string
	for segment := range strings.SplitSeq(u.EscapedPath(), "/") {
		text, err := url.PathUnescape(segment)
		if err != nil {
			return paths
		}
		if text != "" {
			segments = append(segments, encoded(text))
		}
	}
	if path := strings.Join(segments, "/"); path != paths[0] {
		paths = append(paths, path)
	}
	return paths
}

// signedHosts returns the forms in which a client may have signed a Host header, the right one first: ports 80 and 443 are left out, any
// other stays, but some clients leave out every port.
func signedHosts(host string) []string {
	switch name, port := cutPort(host); port {
	case "", "80", "443":
		return []string{name}
	default:
		return []string{host, name}
	}
}

// cutPort splits host at its port, which may be missing. An IPv6 address keeps its brackets.
func cutPort(host string) (name, port string) {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host[:i], host[i+1:]
	}
	return host, ""
}

// regionOf returns <r> for a host <r>.hyper.sh, as that API's own clients do, and otherwise for any other host.
func regionOf(host, otherwise string) string {
	name, _ := cutPort(host)
	if region, ok := strings.CutSuffix(name, ".hyper.sh"); ok && region != "" && !strings.Contains(region, ".") {
		return region
	}
	return otherwise
}

func notSigned(format string, args ...any) error {
	return Wrap(Unauthorized, fmt.Errorf(format, args...), NotSigned)
}
