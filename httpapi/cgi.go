package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/funcd/funcd/api"
)

// cgiEnv returns the request as environment variables by RFC 3875, sorted. Proxy is left out, as HTTP_PROXY would send the function's own requests to
// whoever called it (httpoxy, CVE-2016-5385), and so are headers with an underscore in their name, which could pass for those with
// a hyphen that a proxy in front has set. A signature is for funcd, and who has it could send the request again.
func cgiEnv(r *http.Request, length int) []string {
	env := []string{
		"REQUEST_METHOD=" + r.Method,
		"QUERY_STRING=" + r.URL.RawQuery,
		"HTTP_HOST=" + r.Host,
	}
	if length > 0 || r.Header.Get("Content-Length") != "" {
		env = append(env, "CONTENT_LENGTH="+strconv.Itoa(length))
	}
	signed := strings.HasPrefix(r.Header.Get("Authorization"), api.SignatureScheme+" ")
	for name, values := range r.Header {
		if strings.Contains(name, "_") || signed && (name == "Authorization" || strings.HasPrefix(name, "X-Hyper-")) {
			continue
		}
		switch name {
		case "Proxy", "Host", "Content-Length":
			continue
		case "Content-Type":
			env = append(env, "CONTENT_TYPE="+strings.Join(values, ", "))
		default:
			env = append(env, "HTTP_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+strings.Join(values, ", "))
		}
	}
	slices.Sort(env)
	return env
}
