package jobs

import (
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
)

// maxDescription is what Nomad takes (MaxDescriptionCharacters in its structs.go, which counts bytes). A longer one would be refused with
// the whole job.
const maxDescription = 1000

// page is what the Nomad UI shows on top of the job's page, as Markdown. The command is in it, and so is seen by everyone who may read jobs; the environment
// is not.
func page(d *api.Definition, o Options) *nomad.JobUIConfig {
	f := &d.Function
	before := fmt.Sprintf("Function **%s** of account **%s**, run by funcd.\n\n", f.Name, d.Account)
	after := fmt.Sprintf("\n\nImage %s (%s), size %s, timeout %d s.", code(cut(f.Config.Image, 200)), code(cut(d.Image.Ref, 300)), f.ContainerSize, f.Timeout)
	// The fence of a command that is full of backticks is longer than the command.
	room := max(0, maxDescription-len(before)-len(after)-len("Command ")-2*len(" ` "))
	command := code(cut(commandLine(d.Command()), room))
	for room > 0 && len(before)+len("Command ")+len(command)+len(after) > maxDescription {
		room /= 2
		command = code(cut(commandLine(d.Command()), room))
	}
	ui := &nomad.JobUIConfig{Description: cut(before+"Command "+command+after, maxDescription)}
	if o.APIAddress != "" {
		ui.Links = []*nomad.JobUILink{{Label: "funcd", URL: strings.TrimSuffix(o.APIAddress, "/") + "/funcs/" + url.PathEscape(f.Name)}}
	}
	return ui
}

// commandLine writes a command so that its words can be told apart.
func commandLine(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = word
		if word == "" || strings.ContainsAny(word, " \t\r\n\"'\\") || !utf8.ValidString(word) {
			quoted[i] = fmt.Sprintf("%q", word)
		}
	}
	return strings.Join(quoted, " ")
}

// code is text as code in Markdown: between more backticks than it has in a row.
func code(text string) string {
	longest, run := 0, 0
	for _, r := range text {
		if run++; r != '`' {
			run = 0
		}
		longest = max(longest, run)
	}
	fence := strings.Repeat("`", longest+1)
	if strings.HasPrefix(text, "`") || strings.HasSuffix(text, "`") || text == "" {
		text = " " + text + " "
	}
	return fence + text + fence
}

// cut returns at most the first n bytes of text, with … in place of what is left out.
func cut(text string, n int) string {
	const more = "…"
	if len(text) <= n {
		return text
	}
	n = max(0, n-len(more))
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + more
}

// PagePath is the path of the job's page in Nomad's UI.
func PagePath(job *nomad.Job) string {
	namespace := nomad.DefaultNamespace
	if job.Namespace != nil {
		namespace = *job.Namespace
	}
	return "/ui/jobs/" + url.PathEscape(*job.ID) + "@" + url.PathEscape(namespace)
}
