package jobs

import (
	"encoding/json"
	"testing"

	"github.com/hashicorp/hcl/v2"
	hcljson "github.com/hashicorp/hcl/v2/json"
	"github.com/stretchr/testify/require"
	"github.com/zclconf/go-cty/cty"
)

// evaluated returns a setting of the docker driver as Nomad's clients evaluate it: as JSON in which texts are templates of HCL.
func evaluated(t *testing.T, setting any) (cty.Value, hcl.Diagnostics) {
	text, err := json.Marshal(map[string]any{"setting": setting})
	require.NoError(t, err)
	file, diagnostics := hcljson.Parse(text, "")
	if diagnostics.HasErrors() {
		return cty.NilVal, diagnostics
	}
	attributes, diagnostics := file.Body.JustAttributes()
	require.False(t, diagnostics.HasErrors(), diagnostics)
	value, diagnostics := attributes["setting"].Expr.Value(&hcl.EvalContext{Variables: map[string]cty.Value{
		"SECRET": cty.StringVal("the secret"),
		"env":    cty.MapVal(map[string]cty.Value{"SECRET": cty.StringVal("the secret")}),
	}})
	require.False(t, diagnostics.HasErrors(), diagnostics)
	return value, nil
}

func TestDriverEvaluatesNothingOfAFunction(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`${ SECRET }`, `${env["SECRET"]}`, `$${ SECRET }`, `$$${ SECRET }`, `%{ if true }${ SECRET }%{ endif }`, `%%{ SECRET }`, `%${ SECRET }`, `$%{ SECRET }`,
		`${~ SECRET ~}`, `$b ${ $${} {c}`, `%{`, `$`,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			d := definition(t, `{"Name":"a","Config":{"Image":"ubuntu"}}`)
			d.Function.Config.WorkingDir = "/" + text
			d.Function.Config.Labels = map[string]string{"of " + text: text}
			require.NoError(t, d.Function.Validate())
			job, err := Render(d, testOptions())
			require.NoError(t, err)
			config := job.TaskGroups[0].Tasks[0].Config
			directory, diagnostics := evaluated(t, config["work_dir"])
			require.False(t, diagnostics.HasErrors(), diagnostics)
			require.Equal(t, "/"+text, directory.AsString())
			list, diagnostics := evaluated(t, config["labels"])
			require.False(t, diagnostics.HasErrors(), diagnostics)
			labels := list.AsValueSlice()[0].AsValueMap()
			require.Len(t, labels, 1)
			require.Equal(t, text, labels["of "+text].AsString())
		})
	}
}

func FuzzDriverTakesTextLiterally(f *testing.F) {
	for _, text := range []string{"${ a }", "$${", "%%{~", "$%{}", `\${"`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		before, err := json.Marshal(text) // which has no invalid UTF-8, nor line separators as they are
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(before, &text))
		value, diagnostics := evaluated(t, literal(text))
		if diagnostics.HasErrors() {
			return // HCL does not take every text as JSON, whatever is in it: not one that begins with U+0600
		}
		require.Equal(t, cty.StringVal(text), value) // HCL normalizes text (NFC)
	})
}
