package nomad

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// withLogins gives the client one login, for r.example, that the test may change.
func withLogins(client *Client) *api.RegistryAuth {
	login := &api.RegistryAuth{Username: "me", Password: "secret"}
	client.cfg.Variables = true
	client.cfg.Logins = func(account, image string) (string, *api.RegistryAuth, error) {
		registry, _, _ := strings.Cut(image, "/")
		switch {
		case login.Password == "unreadable":
			return "", nil, errors.New("unreadable")
		case account != "default" || registry != "r.example" || login.Password == "":
			return registry, nil, nil
		}
		given := *login
		return registry, &given, nil
	}
	return login
}

func privateDefinition() *api.Definition {
	d := testDefinition()
	d.Image.Ref = "r.example/app@sha256:0"
	return d
}

const testVariable = "nomad/jobs/func-default-hello"

func TestRegisterGivesALogin(t *testing.T) {
	t.Parallel()
	f, client := newPullNomad(t)
	withLogins(client)
	require.NoError(t, client.Register(t.Context(), privateDefinition()))
	require.Contains(t, f.variables[testVariable], `"Items":{"password":"secret","username":"me"}`)
	job := f.jobs["func-default-hello"]
	require.NotContains(t, job, "secret")
	require.Contains(t, job, `"funcd_login":"r.example"`)
	require.Contains(t, job, `"password":"${FUNCD_REGISTRY_PASSWORD}"`)

	f.variables["nomad/jobs/func-default-hello2"] = "another function's"
	require.NoError(t, client.Remove(t.Context(), "default", "hello", "f"))
	require.Equal(t, map[string]string{"nomad/jobs/func-default-hello2": "another function's"}, f.variables)
	require.Empty(t, f.jobs)
}

func TestRegisterGivesNoLogin(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Client, *api.Definition){
		"another registry":   func(_ *Client, d *api.Definition) { d.Image.Ref = "other.example/app@sha256:0" },
		"a local image":      func(_ *Client, d *api.Definition) { d.Image.Ref, d.Image.Local = "sha256:0", true },
		"another account":    func(_ *Client, d *api.Definition) { d.Account = "other" },
		"it is switched off": func(c *Client, _ *api.Definition) { c.cfg.Variables = false },
		"there are none":     func(c *Client, _ *api.Definition) { c.cfg.Logins = nil },
	} {
		f, client := newPullNomad(t)
		withLogins(client)
		d := privateDefinition()
		change(client, d)
		require.NoError(t, client.Register(t.Context(), d), name)
		require.Empty(t, f.variables, name)
		require.Len(t, f.jobs, 1, name)
		for _, job := range f.jobs {
			require.NotContains(t, job, "funcd_login", name)
			require.NotContains(t, job, "FUNCD_REGISTRY", name)
		}
	}
}

func TestRegisterFailsWithoutItsLogin(t *testing.T) {
	t.Parallel()
	f, client := newPullNomad(t)
	login := withLogins(client)
	f.fail["PUT /v1/var"] = 403
	err := client.Register(t.Context(), privateDefinition())
	require.Equal(t, api.Unavailable, api.CodeOf(err))
	require.ErrorContains(t, err, "writing a login for a registry: Nomad refuses funcd's token")
	require.NoError(t, client.Remove(t.Context(), "default", "hello", "f"))

	delete(f.fail, "PUT /v1/var")
	d := privateDefinition()
	d.Function.Name = strings.Repeat("a", 200)
	require.Equal(t, api.Invalid, api.CodeOf(client.Register(t.Context(), d)))
	require.NoError(t, client.Remove(t.Context(), "default", d.Function.Name, "f"))
	login.Password = "unreadable"
	require.Error(t, client.Register(t.Context(), privateDefinition()))
	require.Empty(t, f.jobs)
}

// A function whose login has changed is as good as not registered, so that it is registered again.
func TestFunctionJobsKnowLogins(t *testing.T) {
	t.Parallel()
	f, client := newPullNomad(t)
	login := withLogins(client)
	client.SetCluster(testCluster)
	require.NoError(t, client.Register(t.Context(), privateDefinition()))
	registered := func(c *Client) bool {
		t.Helper()
		list, err := c.FunctionJobs(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 1)
		return list[0].Revision == 1
	}
	require.True(t, registered(client))

	login.Password = "changed"
	require.False(t, registered(client))
	require.NoError(t, client.Register(t.Context(), privateDefinition()))
	require.True(t, registered(client))
	require.Contains(t, f.variables[testVariable], "changed")

	login.Password = "unreadable"
	require.True(t, registered(client), "what was given stays")
	login.Password = "changed"

	// A server that has just begun gives it once more: the one before may have died in between.
	again := newClient(t, client.nomad.Address())
	again.SetCluster(testCluster)
	again.cfg.Variables, again.cfg.Logins = true, client.cfg.Logins
	require.False(t, registered(again))
	require.NoError(t, again.Register(t.Context(), privateDefinition()))
	require.True(t, registered(again))

	login.Password = "" // it was taken out of the configuration
	require.False(t, registered(client))
	require.NoError(t, client.Register(t.Context(), privateDefinition()))
	require.True(t, registered(client))
	require.NotContains(t, f.jobs["func-default-hello"], "FUNCD_REGISTRY")
	require.NoError(t, client.Remove(t.Context(), "default", "hello", "f"))
	require.Empty(t, f.variables, "also of a function that had a login before")
}

// A function that is created while another of its name is removed keeps what it is given.
func TestRemoveLeavesTheLoginOfAnother(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]string{
		"before its job is looked at": "GET /v1/job/func-default-hello", "before its job is purged": "DELETE /v1/job/func-default-hello",
		"before the login is removed": "DELETE /v1/var/" + testVariable,
	} {
		f, client := newPullNomad(t)
		withLogins(client)
		require.NoError(t, client.Register(t.Context(), privateDefinition()))
		f.before = func(request string) {
			if request == at {
				f.write(testVariable, "another's")
			}
		}
		require.NoError(t, client.Remove(t.Context(), "default", "hello", "f"), name)
		require.Equal(t, map[string]string{testVariable: "another's"}, f.variables, name)
	}
}
