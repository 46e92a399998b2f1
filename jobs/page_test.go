package jobs

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestPage(t *testing.T) {
	t.Parallel()
	d := definition(t, `{"Name":"web","Config":{"Image":"ubuntu","Entrypoint":["/bin/sh","-c"],"Cmd":["echo a b","","x"],"Env":["TOKEN=a-secret"]}}`)
	o := testOptions()
	ui := page(d, o)
	require.Equal(t, "Function **web** of account **default**, run by funcd.\n\nCommand `/bin/sh -c \"echo a b\" \"\" x`\n\nImage `ubuntu` (`docker.io/library/ubuntu@sha256:"+
		testSum+"`), size s4, timeout 300 s.", ui.Description)
	require.Empty(t, ui.Links)
	o.APIAddress = "https://funcd.example/"
	ui = page(d, o)
	require.Len(t, ui.Links, 1)
	require.Equal(t, "https://funcd.example/funcs/web", ui.Links[0].URL)
	job, err := Render(d, o)
	require.NoError(t, err)
	require.Equal(t, "/ui/jobs/func-default-web@default", PagePath(job))
}

func FuzzPage(f *testing.F) {
	f.Add("echo", "ubuntu")
	f.Add(strings.Repeat("`", 3000), strings.Repeat("ä", 900))
	f.Add("a `b` \n\xff", "")
	f.Fuzz(func(t *testing.T, command, image string) {
		d := &api.Definition{Account: strings.Repeat("a", 63), Function: api.Function{Name: strings.Repeat("n", 255)}, Image: api.Image{Ref: image}}
		d.Function.Config.Cmd, d.Function.Config.Image = api.StrSlice{command, command}, image
		text := page(d, Options{}).Description
		require.LessOrEqual(t, len(text), maxDescription)
		if utf8.ValidString(image) {
			require.True(t, utf8.ValidString(text))
		}
		_, err := json.Marshal(text)
		require.NoError(t, err)
	})
}
