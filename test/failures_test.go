//go:build integration

package test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestFailuresOfAFunctionAreToldApart(t *testing.T) {
	t.Parallel()
	entrypoint := func(image string, words ...string) api.Function {
		return api.Function{Config: api.Config{Image: image, Entrypoint: words}}
	}
	for name, c := range map[string]struct {
		function api.Function
		status   int
		message  string
	}{
		"exit status 1":            {program("funcd/fail", "1"), 500, "exit status 1"},
		"exit status 255":          {program("funcd/fail", "255"), 500, "exit status 255"},
		"exit status 137":          {program("funcd/fail", "137"), 500, "exit status 137"},
		"an entrypoint not found":  {entrypoint("funcd/hello", "/bin/none"), 500, "entrypoint not found: "},
		"a name not on the PATH":   {program("funcd/hello", "none"), 500, "entrypoint not found: "},
		"a file not executable":    {entrypoint("funcd/hello", "/etc/hostname"), 500, "the command can't be started: "},
		"killed by SIGKILL":        {program("funcd-test/probe", "kill", "9"), 500, "killed by signal 9 (SIGKILL)"},
		"killed by SIGTERM":        {program("funcd-test/probe", "kill", "15"), 500, "killed by signal 15 (SIGTERM)"},
		"out of memory":            {program("funcd-test/probe", "eat", "0"), 500, "out of memory"},
		"memory within its size":   {program("funcd-test/probe", "eat", "56"), 200, "56 MB"},
		"an output over 1 MiB":     {program("funcd-test/probe", "big", "1048577"), 509, "the output is over its limit"},
		"an output far over 1 MiB": {program("funcd-test/probe", "big", "100000000"), 509, "the output is over its limit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := dev.create(t, c.function)
			call := f.call(t, "")
			out := f.wait(t, call)
			require.Equal(t, c.status, out.status, out.body)
			require.True(t, strings.HasPrefix(out.body, c.message), out.body)
			if c.status == http.StatusOK {
				return
			}
			f.awaitGone(t, call)
			require.Equal(t, http.StatusNotFound, f.output(t, call).status, "a failure is told once")
			failed := last(f.eventsOf(t, call, api.Failed))
			require.Equal(t, strings.TrimSpace(out.body), failed.Message)
			sync := f.sync(t, "")
			require.Equal(t, c.status, sync.status, "a synchronous call has the same answer")
			require.Equal(t, out.body, sync.body)
		})
	}
	t.Run("an output of 1 MiB is whole", func(t *testing.T) {
		t.Parallel()
		out := dev.create(t, program("funcd-test/probe", "big", "1048576")).sync(t, "")
		require.Equal(t, http.StatusOK, out.status)
		require.Len(t, out.body, 1<<20)
	})
	t.Run("a process left behind does not delay the answer", func(t *testing.T) {
		t.Parallel()
		f := dev.create(t, program("funcd-test/probe", "orphan"))
		call := f.call(t, "")
		out := f.wait(t, call)
		require.Equal(t, http.StatusOK, out.status, out.body)
		require.Regexp(t, `^[0-9]+\n$`, out.body)
		require.Less(t, took(f.eventsOf(t, call, api.Finished), api.Running, api.Finished), 2*time.Minute)
	})
}

func TestTimeoutStopsAFunction(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args   []string
		signal api.Signal
		stderr string
		least  time.Duration // from its start to its end
	}{
		"by SIGTERM":                     {[]string{"120"}, "", "got SIGTERM\n", 4 * time.Second},
		"by its own StopSignal":          {[]string{"120"}, "SIGUSR1", "got SIGUSR1\n", 4 * time.Second},
		"by SIGKILL if that is its own":  {[]string{"120"}, "SIGKILL", "", 4 * time.Second},
		"by SIGKILL if it does not obey": {[]string{"-ignore", "120"}, "", "got SIGTERM\n", 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slow := program("funcd/sleep", c.args...)
			slow.Timeout, slow.Config.StopSignal = 4, c.signal // by when it listens for signals
			f := dev.create(t, slow)
			call := f.call(t, "")
			out := f.wait(t, call)
			require.Equal(t, http.StatusGatewayTimeout, out.status, out.body)
			require.Equal(t, "timeout: it ran longer than 4 s\n", out.body)
			f.awaitGone(t, call)
			require.Equal(t, http.StatusNotFound, f.output(t, call).status)
			events := f.eventsOf(t, call, api.Failed)
			require.Equal(t, c.stderr, last(events).ShortStderr)
			ran := took(events, api.Running, api.Failed)
			require.GreaterOrEqual(t, ran, c.least)
			require.Less(t, ran, 100*time.Second, "with what a busy machine needs")
		})
	}
}

// newImage builds an image that no other test has, and returns its name and its id.
func newImage(t *testing.T, repository string) (image string) {
	t.Helper()
	image = repository + ":" + newName(t)
	docker(t, "FROM funcd/hello\nLABEL of="+image+"\n", "build", "--tag", image, "-")
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", "--force", image).Run() })
	return image
}

// newRegistry returns the address of a registry, and what makes it forget its images.
func newRegistry(t *testing.T) (address string, forget *atomic.Bool) {
	t.Helper()
	forget = new(atomic.Bool)
	store := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	empty := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if forget.Load() {
			empty.ServeHTTP(w, r)
			return
		}
		store.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), forget
}

func TestImageThatIsGoneIsNamed(t *testing.T) {
	t.Parallel()
	t.Run("one of this machine", func(t *testing.T) {
		t.Parallel()
		image := newImage(t, "funcd-test/gone")
		f := dev.create(t, cold(program(image)))
		call := f.call(t, "")
		require.Equal(t, "HelloWorld\n", f.wait(t, call).body)
		// While its container is there Docker takes the image's name alone away.
		require.NoError(t, noContainers([]string{f.allocationOf(t, call).ID}))
		docker(t, "", "rmi", "--force", image)
		out := f.sync(t, "")
		require.Equal(t, http.StatusInternalServerError, out.status)
		require.Equal(t, "no such image: "+image+"\n", out.body)
	})
	t.Run("one of a registry", func(t *testing.T) {
		t.Parallel()
		address, forget := newRegistry(t)
		image := newImage(t, address+"/gone")
		docker(t, "", "push", image)
		docker(t, "", "rmi", "--force", image)
		f := dev.create(t, cold(program(image)))
		call := f.call(t, "")
		require.Equal(t, "HelloWorld\n", f.wait(t, call).body, "it is pulled")
		require.NoError(t, noContainers([]string{f.allocationOf(t, call).ID}))
		docker(t, "", "rmi", "--force", image)
		digest := strings.TrimSpace(docker(t, "", "images", "--digests", "--format", "{{.Repository}}@{{.Digest}}", address+"/gone"))
		if digest != "" {
			docker(t, "", "rmi", "--force", digest)
		}
		forget.Store(true)
		call = f.call(t, "")
		out := f.wait(t, call)
		require.Equal(t, http.StatusInternalServerError, out.status)
		require.Equal(t, "no such image: "+image+"\n", out.body)
		require.Equal(t, "no such image: "+image, last(f.eventsOf(t, call, api.Failed)).Message)
	})
}

func TestUnknownImageIsRefusedAtCreate(t *testing.T) {
	t.Parallel()
	address, _ := newRegistry(t)
	name := newName(t)
	for image, want := range map[string]string{
		address + "/none:1":                 "no such image: " + address + "/none:1",
		"127.0.0.1:1/none":                  "the registry 127.0.0.1:1 does not answer",
		"sha256:" + strings.Repeat("0", 64): "no such image: sha256:",
	} {
		a := dev.request(t, http.MethodPost, "/funcs/create", fmt.Sprintf(`{"Name":%q,"Config":{"Image":%q}}`, name, image))
		require.Equal(t, http.StatusBadRequest, a.status, a.body)
		require.Contains(t, a.body, want)
	}
	require.Equal(t, http.StatusNotFound, dev.request(t, http.MethodGet, "/funcs/"+name, "").status)
	require.Empty(t, dev.consulKeys(t, "funcd/functions/default/"+name))
	require.Equal(t, http.StatusNotFound, request(t, http.MethodGet, dev.nomad+jobOf("func-default-"+name), "").status)
}

func TestCallWaitsForCapacityAndSaysSo(t *testing.T) {
	t.Parallel()
	o := beside("capacity")
	o.config += "size \"l3\" {\n  cpu    = 1000000\n  memory = 16384\n}\n" // more than any machine has
	own := startOwn(t, "capacity", o)
	f := own.create(t, api.Function{ContainerSize: "l3", Config: api.Config{Image: "funcd/hello"}})
	call := f.call(t, "")
	f.awaitMessage(t, call, "no capacity in the cluster: ")
	a := own.request(t, http.MethodDelete, "/funcs/"+f.Name, "")
	require.Equal(t, http.StatusConflict, a.status, a.body)
	require.Equal(t, "HelloWorld\n", own.create(t, program("funcd/hello")).sync(t, "").body, "it does not hold up others")
	require.Equal(t, http.StatusAccepted, f.output(t, call).status)

	require.Equal(t, http.StatusOK, request(t, http.MethodDelete, dev.nomad+jobOf(f.childOf(t, call).ID), "").status)
	failed := last(f.eventsOf(t, call, api.Failed))
	require.Contains(t, failed.Message, "stopped in Nomad")
	out := f.wait(t, call)
	require.Equal(t, http.StatusInternalServerError, out.status)
	require.Equal(t, failed.Message+"\n", out.body)
	f.removeEnded(t)
}

func TestCallThatIsStoppedInNomadFails(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"and obeys": {"60"}, "and does not": {"-ignore", "60"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slow := program("funcd/sleep", args...)
			slow.Timeout = 50 // the kill_timeout is 30 s at most
			if len(args) > 1 {
				slow.Timeout = 3
			}
			f := dev.create(t, slow)
			call := f.call(t, "")
			f.eventsOf(t, call, api.Running)
			require.Equal(t, http.StatusOK, request(t, http.MethodDelete, dev.nomad+jobOf(f.childOf(t, call).ID), "").status)
			out := f.wait(t, call)
			if len(args) == 1 {
				require.Equal(t, http.StatusInternalServerError, out.status)
				require.Contains(t, out.body, "stopped in Nomad")
			} else {
				// The Timeout comes in the same second as Nomad's SIGKILL: one of the two is the reason.
				require.Contains(t, []int{http.StatusInternalServerError, http.StatusGatewayTimeout}, out.status, out.body)
			}
			require.NotEmpty(t, last(f.eventsOf(t, call, api.Failed)).Message)
			require.NoError(t, noContainers([]string{f.allocationOf(t, call).ID}))
		})
	}
}

func TestCallsWaitForNomad(t *testing.T) {
	t.Parallel()
	g, server := nomadBehindGate(t)
	o := beside("away")
	o.nomad = server.URL
	own := startOwn(t, "away", o)
	hello, slow := own.create(t, program("funcd/hello")), own.create(t, program("funcd/sleep", "3"))
	running := slow.call(t, "")
	slow.eventsOf(t, running, api.Running)

	g.set(hangUp)
	server.CloseClientConnections()
	call := hello.call(t, "")
	hello.awaitMessage(t, call, "Nomad does not answer")
	ready := own.request(t, http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, ready.status)
	require.Contains(t, ready.body, "nomad: Nomad does not answer")
	require.Equal(t, http.StatusOK, own.request(t, http.MethodGet, "/healthz", "").status)
	out := slow.wait(t, running)
	require.Equal(t, http.StatusOK, out.status, "a call that runs does not need Nomad to end: %s", out.body)

	g.set(nil)
	out = hello.wait(t, call)
	require.Equal(t, http.StatusOK, out.status, out.body)
	require.Equal(t, "HelloWorld\n", out.body)
	require.Equal(t, []string{"CALL", "PENDING", "RUNNING", "FINISHED"}, kinds(hello.eventsOf(t, call, api.Finished)))
	require.Len(t, hello.children(t), 1)
	eventually(t, "readiness", func() bool { return own.request(t, http.MethodGet, "/readyz", "").status == http.StatusOK })
}

// What a server that is not ready lacks is named, and it is ready again when it is there.
func TestReadinessNamesWhatIsAway(t *testing.T) {
	t.Parallel()
	consulGate, consulServer := behindGate(t, "http://"+dev.consul)
	nomadGate, nomadServer := nomadBehindGate(t)
	o := beside("unready")
	o.nomad, o.consul = nomadServer.URL, strings.TrimPrefix(consulServer.URL, "http://")
	own := startOwn(t, "unready", o)
	ready := func() string { return own.request(t, http.MethodGet, "/readyz", "").body }
	says := func(text string) { // a part that is there may take longer than it is asked for, once
		t.Helper()
		eventually(t, text, func() bool { return ready() == text })
	}
	says("ready\n")
	consulGate.set(hangUp)
	consulServer.CloseClientConnections()
	says("not ready; consul: Consul does not answer\n")
	nomadGate.set(hangUp)
	nomadServer.CloseClientConnections()
	both := ready()
	require.Contains(t, both, "; consul: Consul does not answer")
	require.Contains(t, both, "; nomad: Nomad does not answer")
	require.Equal(t, "ok\n", own.request(t, http.MethodGet, "/healthz", "").body)
	consulGate.set(nil)
	nomadGate.set(nil)
	says("ready\n")
}
