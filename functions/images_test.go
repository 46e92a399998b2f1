package functions

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func (f *fakes) Resolve(ctx context.Context, account, ref string) (api.Image, error) {
	return f.resolve(ctx, "Images.Resolve", account, ref)
}

func (f *fakes) ResolveFromRegistry(ctx context.Context, account, ref string) (api.Image, error) {
	return f.resolve(ctx, "Images.ResolveFromRegistry", account, ref)
}

// resolve finds the account's image, else everybody's.
func (f *fakes) resolve(ctx context.Context, operation, account, ref string) (image api.Image, err error) {
	var ok bool
	err = f.do(ctx, operation, func() {
		if image, ok = f.images[account+" "+ref]; !ok {
			image, ok = f.images[ref]
		}
	})
	if err == nil && !ok {
		err = api.Errorf(api.Invalid, "no such image: %s", ref)
	}
	return image, err
}

func TestCreateLooksForTheImageAsItsAccount(t *testing.T) {
	t.Parallel()
	f := newFakes()
	private := api.Image{Ref: "private@sha256:4", Cmd: []string{"sh"}}
	f.images["acme private"] = private
	fn := hello()
	fn.Config.Image = "private"
	_, err := f.service().Create(t.Context(), "other", fn)
	requireCode(t, api.Invalid, err)
	require.Empty(t, f.defs)
	_, err = f.service().Create(t.Context(), "acme", fn)
	require.NoError(t, err)
	require.Equal(t, private, f.defs["acme/hello"].Image)
}

func TestPull(t *testing.T) {
	t.Parallel()
	pushed := api.Image{Ref: "busybox@sha256:9", ID: "sha256:9", Cmd: []string{"ash"}}
	f, s, before := created(t)
	first := f.defs["acme/hello"]
	f.images["acme busybox"] = pushed

	timeout := 7
	_, err := s.Update(t.Context(), "acme", "hello", api.FunctionUpdate{Timeout: &timeout})
	require.NoError(t, err)
	require.Equal(t, first.Image, f.defs["acme/hello"].Image, "a push alone changes nothing")
	require.NotContains(t, f.done, "Images.ResolveFromRegistry")

	got, err := s.Update(t.Context(), "acme", "hello", api.FunctionUpdate{Pull: true})
	require.NoError(t, err)
	before.Timeout = timeout
	require.Equal(t, before, got)
	require.Equal(t, pushed, f.defs["acme/hello"].Image)
	require.Equal(t, first.Revision+2, f.defs["acme/hello"].Revision)
	require.Equal(t, first.Revision+2, f.registered["acme/hello"])
	require.Contains(t, f.done, "Images.ResolveFromRegistry")
	require.NotContains(t, f.done, "Images.Resolve", "the daemon's image may be the old one")
}

func TestPullOfALocalImage(t *testing.T) {
	t.Parallel()
	f := newFakes()
	f.images["busybox"] = api.Image{Ref: "sha256:2", ID: "sha256:2", Local: true, Cmd: []string{"sh"}}
	s := f.service()
	_, err := s.Create(t.Context(), "acme", hello())
	require.NoError(t, err)
	built := api.Image{Ref: "sha256:3", ID: "sha256:3", Local: true, Cmd: []string{"sh"}}
	f.images["busybox"], f.done = built, nil
	_, err = s.Update(t.Context(), "acme", "hello", api.FunctionUpdate{Pull: true})
	require.NoError(t, err)
	require.Equal(t, built, f.defs["acme/hello"].Image)
	require.NotContains(t, f.done, "Images.ResolveFromRegistry")
}

func TestPullFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(f *fakes)
		code    api.Code
		message string
	}{
		"the image is gone": {func(f *fakes) { delete(f.images, "busybox") }, api.Invalid, "no such image: busybox"},
		"the image has no command any more": {func(f *fakes) { f.images["busybox"] = api.Image{Ref: "busybox@sha256:9"} }, api.Invalid,
			"Config.Cmd: is required, as image busybox has no command of its own"},
		"the store is away": {func(f *fakes) { f.fail["Store.Get"] = errAway }, api.Unavailable, "away"},
		"the cluster is away": {func(f *fakes) {
			f.images["busybox"] = api.Image{Ref: "busybox@sha256:9", Cmd: []string{"sh"}}
			f.fail["Cluster.Register"] = errAway
		}, api.Unavailable, "away"},
		"the function is another": {func(f *fakes) {
			f.images["busybox"] = api.Image{Ref: "busybox@sha256:9", Cmd: []string{"sh"}}
			f.before = func(operation string) {
				if operation == "Store.Update" {
					f.before = nil
					d := f.defs["acme/hello"]
					d.ID = "another"
					f.defs["acme/hello"] = d
				}
			}
		}, api.NotFound, "removed meanwhile"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, s, before := created(t)
			image := f.defs["acme/hello"].Image
			c.prepare(f)
			_, err := s.Update(t.Context(), "acme", "hello", api.FunctionUpdate{Pull: true})
			requireCode(t, c.code, err)
			require.ErrorContains(t, err, c.message)
			require.Equal(t, image, f.defs["acme/hello"].Image)
			require.Equal(t, before, f.defs["acme/hello"].Function)
		})
	}
	_, s, _ := created(t)
	_, err := s.Update(t.Context(), "acme", "none", api.FunctionUpdate{Pull: true})
	requireCode(t, api.NotFound, err)
}
