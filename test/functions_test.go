//go:build integration

package test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// haveUbuntu makes sure that Docker has an image named ubuntu with an echo in it, for the example of the Func create page.
func haveUbuntu(t *testing.T) {
	t.Helper()
	if exec.CommandContext(t.Context(), "docker", "image", "inspect", "ubuntu").Run() == nil {
		return
	}
	docker(t, "", "tag", "funcd/hello", "ubuntu")
	t.Cleanup(func() {
		if out, err := exec.Command("docker", "rmi", "ubuntu").CombinedOutput(); err != nil {
			t.Errorf("the tag ubuntu is left: %s", out)
		}
	})
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

func TestExampleOfTheCreatePageAnswersHelloWorld(t *testing.T) {
	t.Parallel()
	haveUbuntu(t)
	a := dev.request(t, http.MethodPost, "/funcs/create", readFile(t, "../api/testdata/create.json"), "Content-Type", "application/json")
	require.Equal(t, http.StatusCreated, a.status, a.body)
	require.Equal(t, "application/json", a.header.Get("Content-Type"))
	var got, want map[string]any
	require.NoError(t, json.Unmarshal([]byte(a.body), &got))
	require.NoError(t, json.Unmarshal([]byte(readFile(t, "../api/testdata/created.json")), &want))
	require.True(t, api.ValidUUID(got["UUID"].(string)), got["UUID"])
	created, err := time.Parse("2006-01-02T15:04:05.000Z", got["Created"].(string))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), created, time.Minute)
	got["UUID"], got["Created"] = want["UUID"], want["Created"]
	require.Equal(t, want, got)

	var f function
	require.NoError(t, json.Unmarshal([]byte(a.body), &f.Function))
	f.on = dev
	out := f.sync(t, "")
	require.Equal(t, http.StatusOK, out.status, out.body)
	require.Equal(t, "HelloWorld\n", out.body)

	var stored api.Definition
	value := request(t, http.MethodGet, "http://"+dev.consul+"/v1/kv/funcd/functions/default/helloworld?raw", "")
	require.Equal(t, http.StatusOK, value.status, "the definition is in Consul's KV")
	require.NoError(t, json.Unmarshal([]byte(value.body), &stored))
	require.Equal(t, f.Function, stored.Function)

	var registered struct {
		Type             string
		ParameterizedJob *struct{}
		TaskGroups       []struct {
			Count            int
			RestartPolicy    struct{ Attempts int }
			ReschedulePolicy struct {
				Attempts  int
				Unlimited bool
			}
			Tasks []struct {
				Driver      string
				KillSignal  string
				KillTimeout time.Duration
				Resources   struct{ CPU, MemoryMB int }
			}
		}
	}
	dev.nomadGet(t, jobOf("func-default-helloworld"), &registered)
	require.Equal(t, "batch", registered.Type)
	require.NotNil(t, registered.ParameterizedJob)
	require.Len(t, registered.TaskGroups, 1)
	group := registered.TaskGroups[0]
	require.Equal(t, 1, group.Count)
	require.Zero(t, group.RestartPolicy.Attempts, "Nomad never runs a call again by itself")
	require.Zero(t, group.ReschedulePolicy.Attempts)
	require.False(t, group.ReschedulePolicy.Unlimited)
	require.Len(t, group.Tasks, 1)
	task := group.Tasks[0]
	require.Equal(t, "docker", task.Driver)
	require.Equal(t, "SIGTERM", task.KillSignal)
	require.Equal(t, 30*time.Second, task.KillTimeout)
	require.Equal(t, 500, task.Resources.CPU)
	require.GreaterOrEqual(t, task.Resources.MemoryMB, 512, "the function has all of its size's memory")
	require.Len(t, f.children(t), 1, "the call was one dispatch of it")
}

// What a function's owner keeps to itself is in Consul only: the UUID, which is the right to call it, and its environment.
func TestSecretsStayOutOfNomadAndLogs(t *testing.T) {
	t.Parallel()
	const secret, payload = "hunter2-of-the-function", "hunter3-of-the-caller"
	hold := program("funcd/sleep", "600")
	hold.Config.Env = []string{"PASSWORD=" + secret}
	f := dev.create(t, hold)
	call := f.call(t, payload)
	f.eventsOf(t, call, api.Running)
	allocation := f.allocationOf(t, call)
	container := containerOf(t, allocation.ID)
	child := f.childOf(t, call)
	require.Equal(t, http.StatusNotFound, f.on.request(t, http.MethodGet, "/call/wrong/"+f.UUID, "").status, "a request that may be logged")

	for what, text := range map[string]string{
		"the job":         request(t, http.MethodGet, dev.nomad+jobOf(f.job()), "").body,
		"the call's job":  request(t, http.MethodGet, dev.nomad+jobOf(child.ID), "").body,
		"its evaluations": request(t, http.MethodGet, dev.nomad+jobOf(child.ID)+"/evaluations", "").body,
		"its allocation":  request(t, http.MethodGet, dev.nomad+"/v1/allocation/"+allocation.ID, "").body,
		"its container":   docker(t, "", "inspect", container),
		"funcd's log":     readFile(t, dev.logFile),
		"Nomad's log":     readFile(t, dev.data()+"/nomad.log"),
		"Consul's log":    readFile(t, dev.data()+"/consul.log"),
	} {
		require.NotEmpty(t, text, what)
		for _, hidden := range []string{f.UUID, secret, payload} {
			require.NotContains(t, text, hidden, what)
		}
	}
	request(t, http.MethodDelete, dev.nomad+jobOf(child.ID), "")
	f.wait(t, call)
	require.NotContains(t, readFile(t, dev.logFile), f.UUID, "also after the call")
}

func TestFunctionsAreListedNewestFirstAndFiltered(t *testing.T) {
	t.Parallel()
	prefix := newName(t)
	make := func(name, image, size string, labels map[string]string) string {
		return dev.create(t, api.Function{Name: prefix + name, ContainerSize: size, Config: api.Config{Image: image, Labels: labels}}).Name
	}
	a := make("-a", "funcd/hello", "s1", map[string]string{"tier": "front", "team": "x"})
	b := make("-b", "funcd/upper", "s2", map[string]string{"tier": "back"})
	c := make("-c", "funcd/hello", "s2", nil)

	list := func(path, filters string) []string {
		if filters != "" {
			path += "?filters=" + url.QueryEscape(filters)
		}
		a := dev.request(t, http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, a.status, a.body)
		var functions []api.Function
		require.NoError(t, json.Unmarshal([]byte(a.body), &functions))
		names := []string{}
		for _, f := range functions {
			if strings.HasPrefix(f.Name, prefix) {
				names = append(names, f.Name)
			}
		}
		return names
	}
	for _, path := range []string{"/funcs", "/v1.23/funcs", "/v1.18/funcs"} {
		require.Equal(t, []string{c, b, a}, list(path, ""), path)
	}
	for filters, want := range map[string][]string{
		`{"name":{"` + prefix + `":true}}`:                                    {c, b, a},
		`{"name":{"` + b + `":true,"` + a + `":true}}`:                        {b, a},
		`{"image":{"funcd/hello":true}}`:                                      {c, a},
		`{"size":{"s2":true}}`:                                                {c, b},
		`{"size":{"s2":true},"image":{"funcd/hello":true}}`:                   {c},
		`{"label":{"tier":true}}`:                                             {b, a},
		`{"label":{"tier=back":true}}`:                                        {b},
		`{"label":{"tier=front":true,"tier=back":true},"size":{"s1":true}}`:   {a},
		`{"name":["` + c + `"]}`:                                              {c},
		`{"name":{"no-such-function":true}}`:                                  {},
		`{"name":{"` + prefix + `":true},"image":{"funcd/no-image-at":true}}`: {},
	} {
		require.Equal(t, want, list("/funcs", filters), filters)
	}
	for _, filters := range []string{`{"colour":{"red":true}}`, `{`, `[]`, `{"name":5}`} {
		a := dev.request(t, http.MethodGet, "/funcs?filters="+url.QueryEscape(filters), "")
		require.Equal(t, http.StatusBadRequest, a.status, filters)
		require.Contains(t, a.body, "filters:")
	}
}

func TestEveryManagementPathHasVersions(t *testing.T) {
	t.Parallel()
	name := newName(t)
	body := `{"Name":"` + name + `","Config":{"Image":"funcd/hello"}}`
	for _, step := range []struct{ method, path, body string }{
		{http.MethodPost, "/funcs/create", body},
		{http.MethodGet, "/funcs", ""},
		{http.MethodGet, "/funcs/" + name, ""},
		{http.MethodPut, "/funcs/" + name, `{"Timeout":5}`},
		{http.MethodGet, "/version", ""},
		{http.MethodDelete, "/funcs/" + name, ""},
	} {
		for _, version := range []string{"1.24", "2.0", "1.100"} {
			newer := dev.request(t, step.method, "/v"+version+step.path, step.body)
			require.Equal(t, http.StatusBadRequest, newer.status, "%s %s", step.method, step.path)
			require.Contains(t, newer.body, "client is newer than server")
		}
		served := dev.request(t, step.method, "/v1.23"+step.path, step.body)
		require.Less(t, served.status, 300, "%s %s: %s", step.method, step.path, served.body)
	}
	require.Equal(t, http.StatusNotFound, dev.request(t, http.MethodGet, "/funcs/"+name, "").status)

	var version map[string]string
	require.NoError(t, json.Unmarshal([]byte(dev.request(t, http.MethodGet, "/version", "").body), &version))
	require.Equal(t, "1.23", version["ApiVersion"])
	require.NotEmpty(t, version["Version"])
	require.NotEmpty(t, version["KernelVersion"])
}

func TestUpdateChangesWhatItNamesAndNothingElse(t *testing.T) {
	t.Parallel()
	f := dev.create(t, cold(api.Function{Config: api.Config{Image: "funcd/env", Env: []string{"COLOUR=blue"}}}))
	put := func(body string) api.Function {
		a := dev.request(t, http.MethodPut, "/funcs/"+f.Name, body)
		require.Equal(t, http.StatusOK, a.status, a.body)
		var updated, read api.Function
		require.NoError(t, json.Unmarshal([]byte(a.body), &updated))
		require.NoError(t, json.Unmarshal([]byte(dev.request(t, http.MethodGet, "/funcs/"+f.Name, "").body), &read))
		require.Equal(t, updated, read, "what is read is what was answered")
		return updated
	}
	want := f.Function
	require.Equal(t, want, put(`{}`))
	want.Timeout = 7
	require.Equal(t, want, put(`{"Timeout":7,"Config":{}}`), "an absent Env stays")
	want.ContainerSize = "s2"
	require.Equal(t, want, put(`{"ContainerSize":"s2","Config":{"Env":null}}`))
	require.Contains(t, f.sync(t, "").body, "COLOUR=blue")
	want.Config.Env = []string{}
	require.Equal(t, want, put(`{"Config":{"Env":[]}}`), "an empty Env clears it")
	require.NotContains(t, f.sync(t, "").body, "COLOUR")

	var registered struct {
		TaskGroups []struct {
			Tasks []struct {
				KillTimeout time.Duration
				Resources   struct{ CPU int }
			}
		}
	}
	dev.nomadGet(t, jobOf(f.job()), &registered)
	require.Equal(t, 200, registered.TaskGroups[0].Tasks[0].Resources.CPU)
	require.Equal(t, 7*time.Second, registered.TaskGroups[0].Tasks[0].KillTimeout)

	for _, body := range []string{`{"Timeout":0}`, `{"ContainerSize":"xl"}`, `{"Config":{"Env":["A"]}}`, `{`, ``} {
		require.Equal(t, http.StatusBadRequest, dev.request(t, http.MethodPut, "/funcs/"+f.Name, body).status, body)
	}
	require.Equal(t, want, put(`{}`), "a refused update changes nothing")
	require.Equal(t, http.StatusNotFound, dev.request(t, http.MethodPut, "/funcs/no-such-function", `{}`).status)
}

func TestRefreshChangesTheAddressAndKeepsTheCalls(t *testing.T) {
	t.Parallel()
	f := dev.create(t, program("funcd/hello"))
	old := *f
	call := f.call(t, "")
	f.eventsOf(t, call, api.Finished)
	updated, err := dev.UpdateFunction(t.Context(), f.Name, api.FunctionUpdate{Refresh: true})
	require.NoError(t, err)
	require.NotEqual(t, f.UUID, updated.UUID)
	f.UUID = updated.UUID
	require.Equal(t, old.Function.Created, updated.Created)

	for _, path := range []string{old.path("call"), old.path("call", "sync"), old.path("output", call), old.path("output", call, "wait"), old.path("logs")} {
		require.Equal(t, http.StatusNotFound, dev.request(t, http.MethodGet, path, "").status, "the old address is unknown")
	}
	require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, kinds(f.events(t, "?callid="+call)))
	require.Equal(t, "HelloWorld\n", f.output(t, call).body)
	require.Equal(t, "HelloWorld\n", f.sync(t, "").body)
}

func TestCallFinishesWithWhatItStartedWith(t *testing.T) {
	t.Parallel()
	f := dev.create(t, program("funcd/sleep", "4"))
	call := f.call(t, "")
	f.eventsOf(t, call, api.Running)
	one := 1
	updated, err := dev.UpdateFunction(t.Context(), f.Name, api.FunctionUpdate{Timeout: &one, Refresh: true})
	require.NoError(t, err)
	f.Function = updated
	out := f.wait(t, call)
	require.Equal(t, http.StatusOK, out.status, out.body)
	require.Equal(t, "slept for 4 seconds\n", out.body)
	require.Equal(t, http.StatusGatewayTimeout, f.sync(t, "").status, "the next call has the new Timeout")
}

func TestDeleteLeavesNothing(t *testing.T) {
	t.Parallel()
	f := dev.create(t, program("funcd-test/probe", "ready")) // it ends when it is told to
	sum := sha256.Sum256([]byte(f.UUID))
	keys := []string{"funcd/functions/default/" + f.Name, "funcd/addresses/" + hex.EncodeToString(sum[:])}
	require.Subset(t, dev.consulKeys(t, "funcd/"), keys)
	call := f.call(t, "")
	for _, state := range []api.State{api.Pending, api.Running} {
		f.eventsOf(t, call, state)
		a := dev.request(t, http.MethodDelete, "/funcs/"+f.Name, "")
		require.Equal(t, http.StatusConflict, a.status, "a call of it has not ended: %s", a.body)
	}
	allocation := f.allocationOf(t, call)
	container := containerOf(t, allocation.ID)
	awaitSaid(t, container, "ready")
	docker(t, "", "kill", "--signal", "USR1", container)
	f.eventsOf(t, call, api.Finished)
	f.removeEnded(t)

	for path, method := range map[string]string{
		"/funcs/" + f.Name:       http.MethodGet,
		f.path("call"):           http.MethodPost,
		f.path("output", call):   http.MethodGet,
		f.path("logs"):           http.MethodGet,
		"/v1.23/funcs/" + f.Name: http.MethodDelete,
	} {
		require.Equal(t, http.StatusNotFound, dev.request(t, method, path, "").status, path)
	}
	require.Equal(t, http.StatusNotFound, request(t, http.MethodGet, dev.nomad+jobOf(f.job()), "").status)
	require.Empty(t, f.dispatches(t))
	for _, key := range dev.consulKeys(t, "funcd/") {
		require.False(t, slices.Contains(keys, key), "%s is left in Consul", key)
	}
	require.NoError(t, noContainers([]string{allocation.ID}))

	again := dev.create(t, api.Function{Name: f.Name, Config: api.Config{Image: "funcd/hello"}})
	require.NotEqual(t, f.UUID, again.UUID)
	require.Equal(t, http.StatusNotFound, again.output(t, call).status, "calls of the old one are not the new one's")
	require.Empty(t, again.events(t, ""))
	require.Equal(t, "HelloWorld\n", again.sync(t, "").body)
}

func TestCreateThatFailsHalfwayLeavesNothing(t *testing.T) {
	t.Parallel()
	g, server := nomadBehindGate(t)
	o := beside("halfway")
	o.nomad = server.URL
	own := startOwn(t, "halfway", o)
	body := `{"Name":"halfway","ContainerSize":"s1","Config":{"Image":"funcd/hello"}}`
	isRegistration := func(r *http.Request) bool {
		return (r.Method == http.MethodPut || r.Method == http.MethodPost) && r.URL.Path == "/v1/jobs"
	}
	for name, refuse := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"Nomad answers 500": func(w http.ResponseWriter, r *http.Request) bool {
			if isRegistration(r) {
				http.Error(w, "made to fail", http.StatusInternalServerError)
			}
			return isRegistration(r)
		},
		"Nomad hangs up":     func(w http.ResponseWriter, r *http.Request) bool { return isRegistration(r) && hangUp(w, r) },
		"Nomad is not there": hangUp,
	} {
		g.set(refuse)
		a := own.request(t, http.MethodPost, "/funcs/create", body)
		require.Equal(t, http.StatusServiceUnavailable, a.status, "%s: %s", name, a.body)
		require.Equal(t, http.StatusNotFound, own.request(t, http.MethodGet, "/funcs/halfway", "").status, name)
		require.Equal(t, "[]\n", own.request(t, http.MethodGet, "/funcs", "").body, name)
		require.Empty(t, own.consulKeys(t, "halfway/functions/"), name)
		require.Empty(t, own.consulKeys(t, "halfway/addresses/"), name)
		g.set(nil)
		require.Equal(t, http.StatusNotFound, request(t, http.MethodGet, dev.nomad+jobOf("func-default-halfway"), "").status, name)
	}
	f := own.create(t, cold(api.Function{Name: "halfway", Config: api.Config{Image: "funcd/hello"}}))
	require.Equal(t, "HelloWorld\n", f.sync(t, "").body)

	// An update that can't be registered is taken back too.
	g.set(func(w http.ResponseWriter, r *http.Request) bool { return isRegistration(r) && hangUp(w, r) })
	require.Equal(t, http.StatusServiceUnavailable, own.request(t, http.MethodPut, "/funcs/halfway", `{"Timeout":5,"Refresh":true}`).status)
	g.set(nil)
	read, err := own.Function(t.Context(), "halfway")
	require.NoError(t, err)
	require.Equal(t, f.Function, read)
	require.Equal(t, "HelloWorld\n", f.sync(t, "").body)
}
