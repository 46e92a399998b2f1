package nomad

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

const testCluster = "f0b1c2d3-0000-4000-8000-000000000001"

// jobStore is a Nomad that holds jobs.
type jobStore struct {
	mu      sync.Mutex
	jobs    []*nomad.JobListStub
	diff    string // type of the next plan's
	planned *nomad.Job
	purged  []string
	pages   int
}

func (s *jobStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), "/v1/job/"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var answer any
	switch {
	case r.URL.Path == "/v1/jobs":
		answer = s.list(w, r.URL.Query())
	case strings.HasSuffix(id, "/plan"):
		var request nomad.JobPlanRequest
		_ = json.NewDecoder(r.Body).Decode(&request)
		s.planned = request.Job
		answer = nomad.JobPlanResponse{Diff: &nomad.JobDiff{Type: s.diff}}
	case r.Method == http.MethodDelete:
		if r.URL.Query().Get("purge") != "true" {
			http.Error(w, "not a purge", http.StatusBadRequest)
			return
		}
		s.purged = append(s.purged, id)
		answer = nomad.JobDeregisterResponse{}
	default:
		for _, job := range s.jobs {
			if job.ID == id {
				answer = nomad.Job{ID: &job.ID, Meta: job.Meta}
			}
		}
	}
	if answer == nil {
		http.Error(w, "job not found", http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// list does what Nomad does with the filters and pages that the client asks for.
func (s *jobStore) list(w http.ResponseWriter, query url.Values) []*nomad.JobListStub {
	list := []*nomad.JobListStub{}
	for _, job := range s.jobs {
		parents := !strings.Contains(query.Get("filter"), `ParentID != ""`)
		dead := strings.Contains(query.Get("filter"), `Status == "dead"`)
		if strings.HasPrefix(job.ID, query.Get("prefix")) && (query.Get("filter") == "" || parents == (job.ParentID == "")) && (!dead || job.Status == "dead") {
			list = append(list, job)
		}
	}
	if query.Get("per_page") == "" {
		return list
	}
	const page = 2
	w.Header().Set("X-Nomad-Index", "1")
	w.Header().Set("X-Nomad-LastContact", "0")
	w.Header().Set("X-Nomad-KnownLeader", "true")
	s.pages++
	for i, job := range list {
		if job.ID == query.Get("next_token") {
			list = list[i:]
			break
		}
	}
	if len(list) > page {
		w.Header().Set("X-Nomad-NextToken", list[page].ID)
		list = list[:page]
	}
	return list
}

func parent(account, name, function string, meta ...string) *nomad.JobListStub {
	m := map[string]string{jobs.MetaAccount: account, jobs.MetaName: name, jobs.MetaFunction: function, jobs.MetaRevision: "3", jobs.MetaCluster: testCluster}
	for i := 0; i < len(meta); i += 2 {
		m[meta[i]] = meta[i+1]
	}
	return &nomad.JobListStub{ID: jobs.ID(account, name), Status: "running", Meta: m, JobModifyIndex: 7, ModifyIndex: 8}
}

func child(of *nomad.JobListStub, id, status string, meta ...string) *nomad.JobListStub {
	c := parent(of.Meta[jobs.MetaAccount], of.Meta[jobs.MetaName], of.Meta[jobs.MetaFunction], meta...)
	c.ID, c.ParentID, c.Status, c.SubmitTime = of.ID+"/dispatch-"+id, of.ID, status, time.Second.Nanoseconds()
	return c
}

func newJobStore(t *testing.T, list ...*nomad.JobListStub) (*jobStore, *Client) {
	s := &jobStore{jobs: list, diff: "None"}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	c := newClient(t, server.URL)
	c.SetCluster(testCluster)
	return s, c
}

func TestFunctionJobsAreThoseOfThisCluster(t *testing.T) {
	t.Parallel()
	stopped := parent("acme", "stopped", "f2")
	stopped.Stop = true
	renamed := parent("acme", "other", "f5")
	renamed.ID = "func-acme-renamed"
	foreign := parent("acme", "foreign", "f3", jobs.MetaCluster, "another")
	unmarked := parent("acme", "unmarked", "f4")
	delete(unmarked.Meta, jobs.MetaCluster)
	hello := parent("acme", "hello", "f1")
	s, c := newJobStore(t, hello, stopped, foreign, unmarked, renamed, parent("acme", "odd", "f6", jobs.MetaRevision, "x"),
		child(hello, "1", "running"), &nomad.JobListStub{ID: "func-somebody-elses"})
	list, err := c.FunctionJobs(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, []api.FunctionJob{
		{Account: "acme", Name: "hello", Function: "f1", Revision: 3, Index: 7},
		{Account: "acme", Name: "stopped", Function: "f2", Revision: 3, Index: 7, Stopped: true},
		{Account: "acme", Name: "odd", Function: "f6", Index: 7},
	}, list)

	unknown := newClient(t, "http://127.0.0.1:1")
	_, err = unknown.FunctionJobs(t.Context())
	require.Equal(t, api.Unavailable, api.CodeOf(err), "whose jobs there are is not known")
	_, err = unknown.EndedJobs(t.Context())
	require.Equal(t, api.Unavailable, api.CodeOf(err))
	require.Empty(t, s.purged)
}

func TestEndedJobsOfAllPages(t *testing.T) {
	t.Parallel()
	hello := parent("acme", "hello", "f1")
	s, c := newJobStore(t, hello, child(hello, "1", "dead", jobs.MetaCall, "c1"), child(hello, "2", "running"), child(hello, "3", "dead"),
		child(hello, "4", "dead", jobs.MetaCluster, "another"), child(hello, "5", "dead"), child(hello, "6", "dead"))
	list, err := c.EndedJobs(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 4)
	require.Equal(t, api.EndedJob{
		Account: "acme", Name: "hello", Function: "f1", Job: "func-acme-hello/dispatch-1", Call: "c1", Submitted: time.Unix(1, 0), Order: 8,
	}, list[0])
	require.Empty(t, list[1].Call)
	require.Equal(t, "func-acme-hello/dispatch-6", list[3].Job)
	require.Equal(t, 3, s.pages, "of two jobs each")
}

func TestRemovePurgesChildrenFirst(t *testing.T) {
	t.Parallel()
	hello := parent("acme", "hello", "f1")
	s, c := newJobStore(t, hello, child(hello, "1", "dead"), child(hello, "2", "running"), child(parent("acme", "hello", "f0"), "3", "dead"),
		parent("acme", "hello2", "f2"))
	require.NoError(t, c.Remove(t.Context(), "acme", "hello", "f1"))
	require.Equal(t, []string{"func-acme-hello/dispatch-1", "func-acme-hello/dispatch-2", "func-acme-hello"}, s.purged)

	s.purged = nil
	require.NoError(t, c.Remove(t.Context(), "acme", "hello", "f9"))
	require.Empty(t, s.purged, "another function has the name now")
	s.jobs = nil
	require.NoError(t, c.Remove(t.Context(), "acme", "hello", "f1"))
}

func TestPurgesAreBoundInTheirRate(t *testing.T) {
	t.Parallel()
	s, c := newJobStore(t)
	c.upkeep.SetLimit(20)
	c.upkeep.SetBurst(1)
	began := time.Now()
	for range 5 {
		require.NoError(t, c.Purge(t.Context(), "func-a-b/dispatch-1"))
	}
	require.GreaterOrEqual(t, time.Since(began), 4*time.Second/20-10*time.Millisecond)
	require.Len(t, s.purged, 5)
}

func TestDrift(t *testing.T) {
	t.Parallel()
	s, c := newJobStore(t)
	for diff, want := range map[string]bool{"None": false, "Added": true, "Edited": true} {
		s.mu.Lock()
		s.diff = diff
		s.mu.Unlock()
		drifted, err := c.Drifted(t.Context(), testDefinition())
		require.NoError(t, err)
		require.Equal(t, want, drifted, diff)
		require.Equal(t, "func-default-hello", *s.planned.ID)
		require.Equal(t, testCluster, s.planned.Meta[jobs.MetaCluster])
	}
	wrong := testDefinition()
	wrong.Function.ContainerSize = "none"
	_, err := c.Drifted(t.Context(), wrong)
	require.Equal(t, api.Invalid, api.CodeOf(err))
}

func TestEnded(t *testing.T) {
	t.Parallel()
	at := func(second int64) time.Time { return time.Unix(second, 0) }
	alloc := func(status string, modified int64, finished time.Time) *nomad.AllocationListStub {
		a := &nomad.AllocationListStub{ClientStatus: status, ModifyTime: at(modified).UnixNano()}
		if !finished.IsZero() {
			a.TaskStates = map[string]*nomad.TaskState{jobs.TaskName: {FinishedAt: finished.UTC()}}
		}
		return a
	}
	for name, c := range map[string]struct {
		allocations []*nomad.AllocationListStub
		end         time.Time
		ok          bool
	}{
		"never begun":             {nil, time.Time{}, true},
		"complete":                {[]*nomad.AllocationListStub{alloc("complete", 9, at(5))}, at(5), true},
		"failed before its start": {[]*nomad.AllocationListStub{alloc("failed", 9, time.Time{})}, at(9), true},
		"the latest of two":       {[]*nomad.AllocationListStub{alloc("complete", 9, at(5)), alloc("lost", 7, time.Time{})}, at(7), true},
		"told to stop":            {[]*nomad.AllocationListStub{alloc("running", 9, time.Time{})}, time.Time{}, false},
		"one of two is there":     {[]*nomad.AllocationListStub{alloc("complete", 9, at(5)), alloc("pending", 9, time.Time{})}, time.Time{}, false},
		"not heard of":            {[]*nomad.AllocationListStub{alloc("unknown", 9, time.Time{})}, time.Time{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, client := newFake(t)
			f.allocations = c.allocations
			end, ok, err := client.Ended(t.Context(), testJob)
			require.NoError(t, err)
			require.Equal(t, c.ok, ok)
			if c.ok {
				require.True(t, c.end.Equal(end), "%s", end)
			}
		})
	}
	f, client := newFake(t)
	f.status = 500
	_, _, err := client.Ended(t.Context(), testJob)
	require.Equal(t, api.Unavailable, api.CodeOf(err))
}
