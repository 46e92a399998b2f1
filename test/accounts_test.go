//go:build integration

package test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

var parameters = regexp.MustCompile(`\{(\w+)\}`)

// TestAccountsCannotReachEachOther asks for everything of one account's with the key and the UUIDs of another, by every operation of the document. Each
// answer is the one for what does not exist, to the letter.
func TestAccountsCannotReachEachOther(t *testing.T) {
	t.Parallel()
	own, signers := newSigned(t, "accounts", beside("accounts"), "theirs", "mine")
	them, me := signers["theirs"], signers["mine"]
	name := "name-" + uuid.NewString()
	theirs, mine := them.create(t, api.Function{Name: name, Config: api.Config{Image: "funcd/upper"}}), me.create(t, program("funcd/hello"))
	private := them.create(t, cold(program("funcd/sleep", "600")))
	finished, running := theirs.call(t, "their-payload"), private.call(t, "")
	theirs.eventsOf(t, finished, api.Finished)
	private.eventsOf(t, running, api.Running)
	dies := program("funcd/fail")
	dies.Config.Labels = map[string]string{"funcd.dead": "true"}
	buried := them.create(t, dies)
	dead := them.bury(t, buried)
	before := them.request(t, http.MethodGet, "/funcs", "").body
	secrets := []string{theirs.Name, theirs.UUID, private.Name, private.UUID, buried.Name, finished, running, dead, "their-payload", "THEIR-PAYLOAD"}

	bodies := map[string]string{
		"createFunction": `{"Name":"` + newName(t) + `","Config":{"Image":"funcd/hello"}}`,
		"updateFunction": `{"Timeout":5,"Refresh":true}`,
	}
	// address is what a path is filled with. An answer may hold what was asked for, and nothing else of it.
	type address struct{ name, uuid, call string }
	ask := func(id, method, path string, a address) answer {
		path = strings.NewReplacer("{name}", a.name, "{uuid}", a.uuid, "{call}", a.call, "{ref}", "funcd/hello").Replace(path)
		got := me.request(t, method, path, bodies[id])
		got.body = strings.NewReplacer(a.name, "<name>", a.uuid, "<uuid>", a.call, "<call>").Replace(got.body)
		got.header.Del("Date")
		return got
	}
	none := func() address { return address{"name-" + uuid.NewString(), uuid.NewString(), uuid.NewString()} }
	for _, o := range document.Operations() {
		var attempts []address
		with := map[string]bool{}
		for _, match := range parameters.FindAllStringSubmatch(o.Path, -1) {
			with[match[1]] = true
		}
		delete(with, "ref") // images are the cluster's; an account's logins for them are TestLoginsOfAccounts'
		nothing := none()
		switch {
		case len(with) == 0:
			if o.ID == "pullImage" {
				continue // it asks for no account's anything
			}
			prefixes := []string{""}
			if o.Versioned && o.ID != "createFunction" {
				prefixes = append(prefixes, "/v1.23")
			}
			for _, prefix := range prefixes {
				var a answer
				eventually(t, "an answer to "+o.ID, func() bool {
					a = ask(o.ID, o.Method, prefix+o.Path, nothing)
					return o.ID != "readyz" || a.status < 300 // a part that is there may take longer than it is asked for, once
				})
				require.Less(t, a.status, 300, "%s: %s", o.ID, a.body)
				for _, secret := range secrets {
					require.NotContains(t, a.body, secret, o.ID)
				}
			}
			continue
		case o.Signed && with["name"] && len(with) == 1:
			attempts = []address{{theirs.Name, nothing.uuid, nothing.call}, {name: private.Name, uuid: nothing.uuid, call: nothing.call}}
			nothing.name = "name-" + uuid.NewString()
		case o.Signed && with["call"] && len(with) == 1:
			attempts = []address{{nothing.name, nothing.uuid, finished}, {nothing.name, nothing.uuid, running}, {nothing.name, nothing.uuid, dead}}
		case with["name"] && with["uuid"] && !with["call"]:
			attempts = []address{{theirs.Name, mine.UUID, finished}, {theirs.Name, nothing.uuid, finished}, {mine.Name, theirs.UUID, finished}}
		case with["name"] && with["uuid"] && with["call"] && len(with) == 3:
			attempts = []address{{theirs.Name, mine.UUID, finished}, {theirs.Name, nothing.uuid, finished}, {mine.Name, theirs.UUID, running}}
			// With an address of its own it gets to calls, but not to theirs.
			ofMine := ask(o.ID, o.Method, o.Path, address{mine.Name, mine.UUID, nothing.call})
			require.Equal(t, http.StatusNotFound, ofMine.status, "%s: %s", o.ID, ofMine.body)
			for _, call := range []string{finished, running} {
				require.Equal(t, ofMine, ask(o.ID, o.Method, o.Path, address{mine.Name, mine.UUID, call}), o.ID)
			}
		default:
			require.Fail(t, "this test knows no way to ask for something of another account", "%s %s", o.ID, o.Path)
		}
		prefixes := []string{""}
		if o.Versioned {
			prefixes = []string{"", "/v1.23"}
		}
		for _, prefix := range prefixes {
			want := ask(o.ID, o.Method, prefix+o.Path, nothing)
			require.Equal(t, http.StatusNotFound, want.status, "%s: %s", o.ID, want.body)
			for _, a := range attempts {
				require.Equal(t, want, ask(o.ID, o.Method, prefix+o.Path, a), "%s %s%s", o.ID, prefix, o.Path)
			}
		}
	}
	for _, query := range []string{"?force=1", "?filters=%7B%22name%22%3A%7B%22" + theirs.Name + "%22%3Atrue%7D%7D"} {
		a := me.request(t, http.MethodGet, "/funcs"+query, "")
		require.NotContains(t, a.body, theirs.UUID, query)
	}
	require.Equal(t, http.StatusNotFound, me.request(t, http.MethodDelete, "/funcs/"+theirs.Name+"?force=1", "").status)
	letters := me.request(t, http.MethodGet, "/dead?function="+buried.Name, "")
	require.Equal(t, http.StatusNotFound, letters.status)
	require.Equal(t, strings.ReplaceAll(letters.body, buried.Name, "none"), me.request(t, http.MethodGet, "/dead?function=none", "").body)
	require.Empty(t, mine.events(t, "?callid="+finished))
	var info api.Info
	require.NoError(t, json.Unmarshal([]byte(me.request(t, http.MethodGet, "/info", "").body), &info))
	require.Equal(t, 2, info.Functions, "its own, and the one that it has created here")

	// Nothing of theirs has changed.
	require.Equal(t, before, them.request(t, http.MethodGet, "/funcs", "").body)
	require.Equal(t, api.Status{Total: 1, Finished: 1}, theirs.status(t, ""))
	require.Equal(t, http.StatusOK, them.request(t, http.MethodGet, "/dead/"+dead, "").status)
	require.Equal(t, "THEIR-PAYLOAD", theirs.output(t, finished).body)
	require.Equal(t, http.StatusCreated, private.output(t, running).status)
	require.Equal(t, http.StatusNoContent, own.request(t, http.MethodDelete, private.path("call", running), "").status)
}

// TestAccountsMayUseOneName: each acts on its own.
func TestAccountsMayUseOneName(t *testing.T) {
	t.Parallel()
	own, signers := newSigned(t, "names", beside("names"), "first", "second")
	name := newName(t)
	made := map[string]*function{}
	for account, word := range map[string]string{"first": "one", "second": "two"} {
		f := program("funcd/hello", "echo", word)
		f.Name = name
		made[account] = signers[account].create(t, cold(f))
	}
	first, second := made["first"], made["second"]
	require.NotEqual(t, first.UUID, second.UUID)
	require.Equal(t, http.StatusConflict, signers["first"].request(t, http.MethodPost, "/funcs/create", `{"Name":"`+name+`","Config":{"Image":"funcd/hello"}}`).status)
	for word, f := range map[string]*function{"one\n": first, "two\n": second} {
		require.Equal(t, word, f.sync(t, "").body)
		call := f.call(t, "")
		require.Equal(t, word, last(f.eventsOf(t, call, api.Finished)).ShortStdout)
		require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, kinds(f.events(t, "?callid="+call)))
		require.Equal(t, word, f.wait(t, call).body)
	}
	for account, f := range made {
		var list []api.Function
		require.NoError(t, json.Unmarshal([]byte(signers[account].request(t, http.MethodGet, "/funcs", "").body), &list))
		require.Equal(t, []api.Function{f.Function}, list, account)
		own.nomadGet(t, jobOf("func-"+account+"-"+name), &job{})
	}

	updated := signers["second"].request(t, http.MethodPut, "/funcs/"+name, `{"Timeout":7,"Config":{"Env":["A=b"]}}`)
	require.Equal(t, http.StatusOK, updated.status, updated.body)
	var read api.Function
	require.NoError(t, json.Unmarshal([]byte(signers["first"].request(t, http.MethodGet, "/funcs/"+name, "").body), &read))
	require.Equal(t, first.Function, read)
	require.Equal(t, http.StatusNoContent, signers["second"].request(t, http.MethodDelete, "/funcs/"+name, "").status)
	require.Equal(t, http.StatusNotFound, second.sync(t, "").status)
	require.Equal(t, "one\n", first.sync(t, "").body)
}
