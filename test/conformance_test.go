//go:build integration

package test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/httpapi/openapitest"
)

// signer makes requests that are signed with a key of its own.
type signer struct {
	on  *stack
	key api.SigningKey
}

func (s signer) request(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.on.url+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	api.Sign(req, []byte(body), s.key, time.Now())
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// create creates a function of the signer's account.
func (s signer) create(t *testing.T, f api.Function) *function {
	t.Helper()
	if f.Name == "" {
		f.Name = newName(t)
	}
	if f.Timeout == 0 {
		f.Timeout = api.DefaultTimeout
	}
	f.ContainerSize = "s1"
	body, err := json.Marshal(f)
	require.NoError(t, err)
	a := s.request(t, http.MethodPost, "/funcs/create", string(body))
	require.Equal(t, http.StatusCreated, a.status, a.body)
	made := &function{on: s.on}
	require.NoError(t, json.Unmarshal([]byte(a.body), &made.Function))
	return made
}

// bury makes a call that fails, of a function whose dead letters are kept, and returns its id when there is one of it.
func (s signer) bury(t *testing.T, f *function) string {
	t.Helper()
	call := f.call(t, "their-payload")
	eventually(t, "a dead letter", func() bool { return s.request(t, http.MethodGet, "/dead/"+call, "").status == http.StatusOK })
	return call
}

// newSigned starts a stack that wants signed requests, with a signer for each account. The one of the name "call-only" may not manage functions.
func newSigned(t *testing.T, name string, o options, accounts ...string) (*stack, map[string]signer) {
	t.Helper()
	o.noDev = true
	config := filepath.Join(t.TempDir(), "funcd.hcl")
	require.NoError(t, os.WriteFile(config, []byte(o.config), 0o600))
	keys := map[string]api.SigningKey{}
	for _, account := range accounts {
		of, more := account, []string{}
		if account == "call-only" {
			of, more = accounts[0], []string{"--call-only"}
		}
		key, secret := newCredential(t, o, config, of, more...)
		keys[account] = api.SigningKey{AccessKey: key, Secret: secret, Region: "local"}
	}
	o.config += fmt.Sprintf("nomad {\n  address = %q\n}\n", o.nomad)
	own := startOwn(t, name, o)
	signers := map[string]signer{}
	for account, key := range keys {
		signers[account] = signer{own, key}
	}
	return own, signers
}

// cutOff makes a request whose body breaks off. It is signed, as nothing is read of a body that is not let in.
func (s signer) cutOff(t *testing.T, method, path string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.on.url+path, nil)
	require.NoError(t, err)
	api.Sign(req, []byte("half done"), s.key, time.Now())
	head := &strings.Builder{}
	require.NoError(t, req.Header.Write(head))
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.on.url, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: 9\r\n\r\nhalf", method, path, req.Host, head)
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	return readAnswer(t, conn, method, path)
}

// readAnswer reads an answer from a raw connection.
func readAnswer(t *testing.T, conn net.Conn, method, path string) answer {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = document.Check(method, strings.Split(path, "?")[0], resp)
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// isFault tells whether no request of this test and no part that is away causes an answer. Those of 500 that are no call's are in TestFaultsOfEveryRoute of httpapi.
func isFault(o openapitest.Operation, status string) bool {
	if status == "403" && !o.Signed {
		return true // of a browser at a server of --dev whose calls must be signed: TestUnsignedRequests of httpapi
	}
	if status == "408" {
		return true // of a body that comes too slowly: TestSlowBodies of cmd/funcd
	}
	return status == "500" && !slices.Contains(o.Statuses, "504")
}

// TestConformance has a case for each operation and status of the OpenAPI document, the management group's with and without a version. A new one
// without a case fails it.
func TestConformance(t *testing.T) {
	t.Parallel()
	const maxOutput = 64 << 10
	consulGate, consulServer := behindGate(t, "http://"+dev.consul)
	nomadGate, nomadServer := nomadBehindGate(t)
	o := beside("conformance")
	o.nomad, o.consul = nomadServer.URL, strings.TrimPrefix(consulServer.URL, "http://")
	o.config += fmt.Sprintf("limits {\n  output = %d\n  stored_outputs = %d\n}\naccount \"guarded\" {\n  signed_calls = true\n}\n", maxOutput, 2*maxOutput)
	own, signers := newSigned(t, "conformance", o, "owner", "call-only", "guarded")
	owner, guarded := signers["owner"], signers["guarded"].create(t, program("funcd/hello"))

	reused := func(f api.Function) *function {
		f.Config.Labels = map[string]string{"funcd.reuse": "true"}
		return owner.create(t, f)
	}
	long := cold(program("funcd/sleep", "7200")) // on a slow machine all this takes longer than the default Timeout
	long.Timeout = 7200
	late := program("funcd/sleep", "60")
	late.Timeout = 1
	cat, fails, slow := reused(program("funcd-test/probe", "cat")), reused(program("funcd/fail", "3")), owner.create(t, cold(late))
	big, runs := reused(program("funcd-test/probe", "big", strconv.Itoa(maxOutput+1))), owner.create(t, long)
	running := runs.call(t, "")
	runs.eventsOf(t, running, api.Running)
	dies := program("funcd/fail", "3")
	dies.Config.Labels = map[string]string{"funcd.dead": "true"}
	buried := owner.create(t, dies)
	full := strings.Repeat("x", maxOutput)
	registry := newOwnRegistry(t, nil)
	registry.push(t, "team/app:1")
	image := registry.host + "/team/app"

	none := uuid.NewString()
	fill := func(path, name, uuid, call string) string {
		return strings.NewReplacer("{name}", name, "{uuid}", uuid, "{call}", call, "{ref}", image+":none").Replace(path)
	}
	type run func(t *testing.T, prefix string) answer
	manage := func(method, path, body string) run {
		return func(t *testing.T, prefix string) answer { return owner.request(t, method, prefix+path, body) }
	}
	ask := func(method, path, body string) run {
		return func(t *testing.T, _ string) answer { return own.request(t, method, path, body) }
	}
	// ended is the answer to a call of the function that has ended, by /output or /output/…/wait.
	ended := func(f *function, kind api.State, wait bool) run {
		return func(t *testing.T, _ string) answer {
			call := f.call(t, "")
			if wait {
				return f.wait(t, call)
			}
			f.eventsOf(t, call, kind)
			return f.output(t, call)
		}
	}
	// letter is the answer to a request for the dead letter of a call that has failed.
	letter := func(method, more string) run {
		return func(t *testing.T, prefix string) answer {
			return owner.request(t, method, prefix+"/dead/"+owner.bury(t, buried)+more, "")
		}
	}
	// expired is the answer to a call whose output has made room for others.
	expired := func(wait bool) run {
		return func(t *testing.T, _ string) answer {
			f := owner.create(t, program("funcd-test/probe", "cat"))
			first := f.call(t, full)
			for range 3 {
				f.eventsOf(t, f.call(t, full), api.Finished)
			}
			f.eventsOf(t, first, api.Finished)
			if wait {
				return f.wait(t, first)
			}
			return f.output(t, first)
		}
	}
	cases := map[string]run{
		"createFunction/201": func(t *testing.T, prefix string) answer {
			return owner.request(t, http.MethodPost, prefix+"/funcs/create", `{"Name":"`+newName(t)+`","Config":{"Image":"funcd/hello"}}`)
		},
		"createFunction/400": manage("POST", "/funcs/create", `{"Name":"_","Config":{"Image":"funcd/hello"}}`),
		"createFunction/409": manage("POST", "/funcs/create", `{"Name":"`+cat.Name+`","Config":{"Image":"funcd/hello"}}`),
		"listFunctions/200":  manage("GET", "/funcs?filters=%7B%22name%22%3A%7B%22"+cat.Name+"%22%3Atrue%7D%7D", ""),
		"listFunctions/400":  manage("GET", "/funcs?filters=x", ""),

		"inspectFunction/200":       manage("GET", "/funcs/"+cat.Name, ""),
		"inspectFunction/404":       manage("GET", "/funcs/none", ""),
		"inspectJob/200":            manage("GET", "/funcs/"+cat.Name+"/job", ""),
		"inspectJob/404":            manage("GET", "/funcs/none/job", ""),
		"inspectFunctionOfCall/200": manage("GET", "/funcs/call/"+running, ""),
		"inspectFunctionOfCall/404": manage("GET", "/funcs/call/"+none, ""),
		"updateFunction/200":        manage("PUT", "/funcs/"+big.Name, `{"Timeout":60}`),
		"updateFunction/400":        manage("PUT", "/funcs/"+big.Name, `{"Timeout":0}`),
		"updateFunction/404":        manage("PUT", "/funcs/none", `{}`),
		"removeFunction/204": func(t *testing.T, prefix string) answer {
			return owner.request(t, http.MethodDelete, prefix+"/funcs/"+owner.create(t, program("funcd/hello")).Name, "")
		},
		"removeFunction/404": manage("DELETE", "/funcs/none", ""),
		"removeFunction/409": manage("DELETE", "/funcs/"+runs.Name, ""),

		"listDeadLetters/200":   manage("GET", "/dead?function="+buried.Name, ""),
		"listDeadLetters/404":   manage("GET", "/dead?function=none", ""),
		"inspectDeadLetter/200": letter("GET", ""),
		"inspectDeadLetter/404": manage("GET", "/dead/"+none, ""),
		"removeDeadLetter/204":  letter("DELETE", ""),
		"removeDeadLetter/404":  manage("DELETE", "/dead/"+none, ""),
		"requeueDeadLetter/200": letter("POST", "/requeue"),
		"requeueDeadLetter/404": manage("POST", "/dead/"+none+"/requeue", ""),

		"inspectImage/200": manage("GET", "/images/"+image+":1/json", ""),
		"inspectImage/400": manage("GET", "/images/Wrong/json", ""),
		"inspectImage/404": manage("GET", "/images/"+image+":none/json", ""),
		"pullImage/200":    manage("POST", "/images/create?fromImage="+image+"&tag=1", ""),
		"pullImage/400":    manage("POST", "/images/create", ""),
		"version/200":      manage("GET", "/version", ""),
		"info/200":         manage("GET", "/info", ""),

		"cancelCall/204": func(t *testing.T, _ string) answer {
			return own.request(t, http.MethodDelete, runs.path("call", runs.call(t, "")), "")
		},
		"cancelCall/409": func(t *testing.T, _ string) answer {
			call := cat.call(t, "")
			cat.eventsOf(t, call, api.Finished)
			return own.request(t, http.MethodDelete, cat.path("call", call), "")
		},
		"output/200":     ended(cat, api.Finished, false),
		"output/201":     ask("GET", runs.path("output", running), ""),
		"output/410":     expired(false),
		"output/500":     ended(fails, api.Failed, false),
		"output/504":     ended(slow, api.Failed, false),
		"output/509":     ended(big, api.Failed, false),
		"outputWait/200": ended(cat, api.Finished, true),
		"outputWait/410": expired(true),
		"outputWait/500": ended(fails, api.Failed, true),
		"outputWait/504": ended(slow, api.Failed, true),
		"outputWait/509": ended(big, api.Failed, true),
		"logs/101": func(t *testing.T, _ string) answer {
			conn, err := net.Dial("tcp", strings.TrimPrefix(own.url, "http://"))
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
			_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: funcd\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", runs.path("logs"))
			require.NoError(t, err)
			return readAnswer(t, conn, http.MethodGet, runs.path("logs"))
		},
		"logs/200":    ask("GET", runs.path("logs"), ""),
		"logs/400":    ask("GET", runs.path("logs")+"?tail=x", ""),
		"status/200":  ask("GET", runs.path("status")+"?list=1", ""),
		"healthz/200": ask("GET", "/healthz", ""),
		"readyz/200": func(t *testing.T, _ string) (a answer) {
			eventually(t, "readiness", func() bool { // a part that is there may take longer than it is asked for, once
				a = own.request(t, http.MethodGet, "/readyz", "")
				return a.status == http.StatusOK
			})
			return a
		},
		"readyz/400":  ask("GET", "/readyz?exclude=etcd", ""),
		"openapi/200": ask("GET", "/openapi.json", ""),
	}
	for id, method := range map[string]string{"": "POST", "ByGet": "GET", "ByPut": "PUT", "ByDelete": "DELETE"} {
		cases["call"+id+"/200"] = ask(method, cat.path("call"), "payload")
		cases["callSync"+id+"/200"] = ask(method, cat.path("call", "sync"), "payload")
		cases["callSync"+id+"/500"] = ask(method, fails.path("call", "sync"), "")
		cases["callSync"+id+"/504"] = ask(method, slow.path("call", "sync"), "")
		cases["callSync"+id+"/509"] = ask(method, big.path("call", "sync"), "")
		// Twice with one Idempotency-Key.
		twice := func(path, first, second string) run {
			return func(t *testing.T, _ string) answer {
				key := uuid.NewString()
				require.Equal(t, http.StatusOK, own.request(t, method, path, first, "Idempotency-Key", key).status)
				return own.request(t, method, path, second, "Idempotency-Key", key)
			}
		}
		cases["call"+id+"/422"] = twice(cat.path("call"), "one", "another")
		cases["callSync"+id+"/422"] = twice(cat.path("call", "sync"), "one", "another")
		cases["callSync"+id+"/410"] = func(t *testing.T, _ string) (a answer) {
			key := uuid.NewString()
			again := func() answer {
				return own.request(t, method, cat.path("call", "sync"), "one", "Idempotency-Key", key)
			}
			require.Equal(t, http.StatusOK, again().status)
			eventually(t, "the end of the call", func() bool { // who has its answer may know that before the server does
				a = again()
				return a.status != http.StatusOK
			})
			return a
		}
	}
	// away are those for which Consul and Nomad do not answer: a call waits, and what is not known can't be said not to be there.
	away := map[string]run{
		"output/202": func(t *testing.T, _ string) answer { return runs.output(t, runs.call(t, "")) },
		"readyz/503": ask("GET", "/readyz", ""),
	}
	// What all operations have in common.
	for _, o := range document.Operations() {
		known, unknown := fill(o.Path, cat.Name, cat.UUID, none), fill(o.Path, cat.Name, none, none)
		for _, status := range o.Statuses {
			id, who := o.ID+"/"+status, owner
			if !o.Signed && (status == "400" || status == "401" || status == "413") {
				known, who = fill(o.Path, guarded.Name, guarded.UUID, none), signers["guarded"] // whose calls must be signed
			}
			_, there := cases[id]
			switch _, apart := away[id]; {
			case there || apart:
			case status == "400":
				cases[id] = func(t *testing.T, prefix string) answer { return who.cutOff(t, o.Method, prefix+known) }
			case status == "401":
				cases[id] = func(t *testing.T, prefix string) answer { return own.request(t, o.Method, prefix+known, "") }
			case status == "403" && o.Signed:
				cases[id] = func(t *testing.T, prefix string) answer {
					return signers["call-only"].request(t, o.Method, prefix+known, "")
				}
			case status == "404" && !o.Signed:
				cases[id] = ask(o.Method, unknown, "")
			case status == "413":
				cases[id] = func(t *testing.T, prefix string) answer {
					return who.request(t, o.Method, prefix+known, strings.Repeat(" ", 1<<20+1))
				}
			case status == "503" && o.Signed:
				away[id] = func(t *testing.T, prefix string) answer {
					key := api.SigningKey{AccessKey: "AK" + strings.ToUpper(none[:8]), Secret: "secret", Region: "local"}
					return signer{own, key}.request(t, o.Method, prefix+known, "")
				}
			case status == "503":
				away[id] = ask(o.Method, unknown, "")
			}
		}
	}

	described := map[string]bool{}
	group := func(name string, of map[string]run) {
		t.Run(name, func(t *testing.T) {
			for _, o := range document.Operations() {
				prefixes := []string{""}
				if o.Versioned {
					prefixes = []string{"", "/v1.23"}
				}
				for _, status := range o.Statuses {
					id := o.ID + "/" + status
					do, ok := of[id]
					described[id] = described[id] || ok || isFault(o, status)
					if !ok {
						continue
					}
					for _, prefix := range prefixes {
						t.Run(id+prefix, func(t *testing.T) {
							t.Parallel()
							a := do(t, prefix)
							require.Equal(t, status, strconv.Itoa(a.status), "%s %s%s: %.300s", o.Method, prefix, o.Path, a.body)
							if a.status == http.StatusUnauthorized {
								require.Equal(t, "the request is not signed by a valid access key\n", a.body)
							}
						})
					}
				}
			}
		})
	}
	group("with all that it needs", cases)
	consulGate.set(hangUp)
	nomadGate.set(hangUp)
	consulServer.CloseClientConnections()
	nomadServer.CloseClientConnections()
	group("without Consul and Nomad", away)
	consulGate.set(nil)
	nomadGate.set(nil)
	eventually(t, "readiness", func() bool { return own.request(t, http.MethodGet, "/readyz", "").status == http.StatusOK })
	require.Equal(t, http.StatusNoContent, owner.request(t, http.MethodDelete, "/funcs/"+runs.Name+"?force=1", "").status)
	for id, ok := range described {
		require.True(t, ok, "%s has no case", id)
	}
	for id := range cases {
		require.Contains(t, described, id, "it is not in the document")
	}
}
