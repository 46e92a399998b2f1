package nomad

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// placed returns a client of the Nomad at the address with the options changed.
func placed(t *testing.T, address string, change func(*jobs.Options)) *Client {
	o := jobs.Options{
		Sizes: jobs.DefaultSizes(), Runner: jobs.Runner{SocketDir: "/x"}, MaxKillTimeout: time.Second,
		Placement: jobs.Placement{Priority: 50, Datacenters: []string{"*"}},
		Accounts:  map[string]jobs.Placement{"team": {Namespace: "team", Priority: 50, Datacenters: []string{"*"}}, "same": {Priority: 60, Datacenters: []string{"*"}}},
	}
	if change != nil {
		change(&o)
	}
	c, err := New(Config{Address: address, Timeout: 20 * time.Second, Logger: slog.New(slog.DiscardHandler), Options: o, Variables: true})
	require.NoError(t, err)
	t.Cleanup(c.nomad.Close)
	c.SetCluster(testCluster)
	return c
}

// namespaced is a Nomad that has jobs in namespaces and notes where it is asked for what.
type namespaced struct {
	mu      sync.Mutex
	jobs    []*nomad.JobListStub
	asked   []string // "METHOD path namespace"
	invalid []string // what it says of each job that it is to validate
	nodes   []nomad.NodeListStub
	refuse  int // the status of every answer, if not 0
}

func (n *namespaced) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	namespace := r.URL.Query().Get("namespace")
	n.asked = append(n.asked, r.Method+" "+r.URL.Path+" "+namespace)
	var answer any
	switch {
	case n.refuse != 0:
		http.Error(w, "no", n.refuse)
		return
	case r.URL.Path == "/v1/jobs" && r.Method == http.MethodGet:
		list := []*nomad.JobListStub{}
		for _, job := range n.jobs {
			parents := r.URL.Query().Get("filter") == `ParentID == ""`
			if (namespace == "*" || job.Namespace == namespace) && strings.HasPrefix(job.ID, r.URL.Query().Get("prefix")) && (!parents || job.ParentID == "") {
				list = append(list, job)
			}
		}
		answer = list
	case strings.HasPrefix(r.URL.Path, "/v1/vars"), strings.HasSuffix(r.URL.Path, "/allocations"), strings.HasSuffix(r.URL.Path, "/evaluations"):
		answer = []string{}
	case r.URL.Path == "/v1/validate/job":
		answer = nomad.JobValidateResponse{ValidationErrors: n.invalid}
	case r.URL.Path == "/v1/nodes":
		answer = n.nodes
	case r.Method == http.MethodDelete:
		id, _ := url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), "/v1/job/"))
		n.jobs = slices.DeleteFunc(n.jobs, func(job *nomad.JobListStub) bool { return job.ID == id && job.Namespace == namespace })
		answer = struct{}{}
	default:
		answer = struct{}{}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func newNamespaced(t *testing.T, change func(*jobs.Options), list ...*nomad.JobListStub) (*namespaced, *Client) {
	n := &namespaced{jobs: list, nodes: []nomad.NodeListStub{{Datacenter: "dc1"}, {Datacenter: "eu-1"}}}
	server := httptest.NewServer(n)
	t.Cleanup(server.Close)
	return n, placed(t, server.URL, change)
}

func in(namespace string, job *nomad.JobListStub) *nomad.JobListStub {
	job.Namespace = namespace
	return job
}

// All that is done to an account's jobs is done in its namespace.
func TestNamespacesOfAccounts(t *testing.T) {
	t.Parallel()
	for account, namespace := range map[string]string{"team": "team", "same": "default", "other": "default"} {
		n, c := newNamespaced(t, nil)
		d := testDefinition()
		d.Account = account
		job := jobs.ID(account, "hello") + "/dispatch-1"
		for what, do := range map[string]func() error{
			"register":  func() error { return c.Register(t.Context(), d) },
			"dispatch":  func() error { _, err := c.Dispatch(t.Context(), account, "hello", "call", 0); return err },
			"slot":      func() error { _, err := c.DispatchSlot(t.Context(), account, "hello"); return err },
			"stop":      func() error { return c.Stop(t.Context(), job) },
			"purge":     func() error { return c.Purge(t.Context(), job) },
			"drift":     func() error { _, err := c.Drifted(t.Context(), d); return err },
			"ended":     func() error { _, _, err := c.Ended(t.Context(), job); return err },
			"remove":    func() error { return c.Remove(t.Context(), account, "hello", "f") },
			"login":     func() error { return c.writeLogin(t.Context(), job, &api.RegistryAuth{}) },
			"forget":    func() error { return c.removeLogin(t.Context(), job) },
			"resources": func() error { _, err := c.Resources(t.Context(), account); return err },
			"refresh":   func() error { return c.refresh(t.Context(), job) },
			"pull":      func() error { c.forgetPull(t.Context(), jobs.PullID(account, "0123"), true); return nil },
		} {
			n.asked = nil
			require.NoError(t, do(), what)
			require.NotEmpty(t, n.asked, what)
			for _, asked := range n.asked {
				if !strings.HasPrefix(asked, "GET /v1/nodes ") {
					require.True(t, strings.HasSuffix(asked, " "+namespace), "%s of %s: %s", what, account, asked)
				}
			}
		}
		shown, err := c.Job(d)
		require.NoError(t, err)
		require.Equal(t, namespace, shown.Namespace)
		require.True(t, strings.HasSuffix(shown.UI, "/ui/jobs/func-"+account+"-hello@"+namespace), shown.UI)
	}
}

func TestListsAreOfAllNamespaces(t *testing.T) {
	t.Parallel()
	ours, mine := in("team", parent("team", "hello", "f1")), in("default", parent("acme", "hello", "f2"))
	strange := in("default", parent("team", "hello", "f3")) // whoever may submit jobs there has made it
	slot := in("team", child(ours, "slot-1", "running", jobs.MetaSlot, "1"))
	n, c := newNamespaced(t, nil, ours, mine, strange, slot,
		in("team", child(ours, "1", "dead", jobs.MetaCall, "c1")), in("default", child(mine, "2", "dead", jobs.MetaCall, "c2")), in("default", child(strange, "3", "dead")))
	require.Equal(t, []string{"default", "team"}, c.namespaces())
	list, err := c.FunctionJobs(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"f1", "f2"}, []string{list[0].Function, list[1].Function})
	require.Len(t, list, 2)
	slots, err := c.Slots(t.Context())
	require.NoError(t, err)
	require.Len(t, slots, 1)
	require.Equal(t, slot.ID, slots[0].Job)
	n.jobs = slices.DeleteFunc(n.jobs, func(job *nomad.JobListStub) bool { return job.Status != "dead" })
	ended, err := c.EndedJobs(t.Context())
	require.NoError(t, err)
	require.Len(t, ended, 2)
	n.refuse = http.StatusInternalServerError
	_, err = c.FunctionJobs(t.Context())
	require.Equal(t, api.Unavailable, api.CodeOf(err))
}

func TestMisplacedJobsAreRemovedWhenTheyHaveEnded(t *testing.T) {
	t.Parallel()
	old, now := in("before", parent("team", "hello", "f1")), in("team", parent("team", "hello", "f1"))
	busy := in("before", parent("team", "busy", "f2"))
	foreign := in("before", parent("team", "foreign", "f3", jobs.MetaCluster, "another"))
	n, c := newNamespaced(t, nil, old, now, busy, foreign, in("before", child(old, "1", "dead")), in("team", child(now, "1", "dead")),
		in("before", child(busy, "1", "dead")), in("before", child(busy, "2", "running")))
	require.NoError(t, c.RemoveMisplaced(t.Context()))
	var left []string
	for _, job := range n.jobs {
		left = append(left, job.Namespace+" "+job.ID)
	}
	require.Equal(t, []string{
		"team func-team-hello", "before func-team-busy", "before func-team-foreign", "team func-team-hello/dispatch-1",
		"before func-team-busy/dispatch-1", "before func-team-busy/dispatch-2",
	}, left)
	require.Equal(t, api.Unavailable, api.CodeOf(newClient(t, "http://127.0.0.1:1").RemoveMisplaced(t.Context())), "whose jobs there are is not known")
}

func everySizeIn(pool string, sizes map[string]jobs.Size) map[string]jobs.Size {
	moved := map[string]jobs.Size{}
	for name, size := range sizes {
		size.NodePool = pool
		moved[name] = size
	}
	return moved
}

func TestCheckPlacement(t *testing.T) {
	t.Parallel()
	n, c := newNamespaced(t, nil)
	require.NoError(t, c.CheckPlacement(t.Context()))
	require.Equal(t, []string{"GET /v1/nodes default", "PUT /v1/validate/job default", "PUT /v1/validate/job default", "PUT /v1/validate/job team"}, n.asked)

	for name, wrong := range map[string]struct {
		invalid []string
		change  func(*jobs.Options)
		want    string
	}{
		"a namespace": {[]string{`job "func-none-none" is in nonexistent namespace "x"`, "more"}, nil, `Nomad has no namespace "x"`},
		"a node pool": {[]string{`job "func-none-none" is in nonexistent node pool "x"`}, nil, `Nomad has no node pool "x"`},
		"all else": {[]string{"Task group call validation failed: 2 errors occurred:\n\t* Constraint 1 validation failed: 1 error occurred:\n\t* Semver is invalid: much\n\n", "b"}, nil,
			"Nomad refuses its jobs: Semver is invalid: much; b"},
		"a size's":          {[]string{`job "func-none-none" is in nonexistent node pool "x"`}, func(o *jobs.Options) { o.Sizes = everySizeIn("x", o.Sizes) }, `size "l3": Nomad has no node pool "x"`},
		"a datacenter":      {nil, func(o *jobs.Options) { o.Datacenters = []string{"eu-*", "us-*"} }, `Nomad has no node in the datacenter "us-*"`},
		"one of an account": {nil, func(o *jobs.Options) { o.Accounts["team"] = jobs.Placement{Priority: 50, Datacenters: []string{"dc"}} }, `account "team": Nomad has no node in the datacenter "dc"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, c := newNamespaced(t, wrong.change)
			n.invalid = wrong.invalid
			err := c.CheckPlacement(t.Context())
			require.Equal(t, api.Invalid, api.CodeOf(err))
			require.Equal(t, wrong.want, api.MessageOf(err))
		})
	}
	n.nodes = nil
	require.NoError(t, c.CheckPlacement(t.Context()), "nodes that are not there yet may be in any datacenter")
	n.refuse = http.StatusForbidden
	err := c.CheckPlacement(t.Context())
	require.Equal(t, api.Invalid, api.CodeOf(err))
	require.ErrorContains(t, err, `Nomad has no namespace "default", or refuses funcd's token there`)
	n.refuse = http.StatusInternalServerError
	require.Equal(t, api.Unavailable, api.CodeOf(c.CheckPlacement(t.Context())))
	require.Equal(t, api.Unavailable, api.CodeOf(placed(t, "http://127.0.0.1:1", nil).CheckPlacement(t.Context())))
}

// An identity of a job by the name of a function's is one in the account's namespace only.
func TestIdentityIsOfTheAccountsNamespace(t *testing.T) {
	t.Parallel()
	key := newEd25519(t, "k1")
	_, c := newNamespaced(t, nil)
	c.identity.keys.Keys = append(c.identity.keys.Keys, key.public())
	token := func(namespace, job string) string {
		return key.sign(t, claims(func(c map[string]any) { c["nomad_namespace"], c["nomad_job_id"] = namespace, job }))
	}
	for _, good := range []string{token("team", "func-team-hello"), token("default", "func-acme-hello"), token("default", "func-same-hello")} {
		_, err := c.Identify(t.Context(), good)
		require.NoError(t, err)
	}
	for _, bad := range []string{token("default", "func-team-hello"), token("team", "func-acme-hello"), token("before", "func-team-hello")} {
		_, err := c.Identify(t.Context(), bad)
		require.Equal(t, api.Unauthorized, api.CodeOf(err))
	}
}

func TestEventsOfAnotherNamespaceAreNotOfTheJob(t *testing.T) {
	t.Parallel()
	_, c := newNamespaced(t, nil)
	job := "func-team-hello/dispatch-1"
	updates, stop := c.Watch(t.Context(), testDefinition(), job)
	defer stop()
	for len(updates) > 0 {
		<-updates
	}
	event := func(namespace string) {
		alloc := nomad.Allocation{ID: "a1", JobID: job, Namespace: namespace, ClientStatus: "failed", ModifyIndex: 1 << 40, CreateIndex: 1 << 40}
		c.event(namespace, &nomad.Event{Topic: nomad.TopicAllocation, Payload: map[string]any{"Allocation": alloc}})
	}
	event("default")
	require.Empty(t, updates)
	event("team")
	require.Equal(t, "a1", (<-updates).Allocation)
}
