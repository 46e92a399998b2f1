package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/fatih/color"
	"github.com/spf13/cobra"

	"github.com/funcd/funcd/api"
)

func (a *app) logsCommand() *cobra.Command {
	var q api.EventQuery
	var tail string
	var whole bool
	cmd := &cobra.Command{
		Use:   "logs [flags] NAME",
		Short: "Show the events of a function's calls",
		Long: `logs shows what has happened to a function's calls, the oldest first: their arrival, their waiting and why, their start and their end, with the
first 255 bytes of stdin, stdout and stderr.

On a terminal the events are aligned, with the beginning of the call's id and local time. Elsewhere each is one line in the form of the original's
client, with the whole id and UTC.` + byAddress,
		Example: `  funcd logs -f --tail 10 helloworld
  funcd logs --callid 218b7b10-e7f1-4c48-ac3c-66792f8ffc06 helloworld`,
		Args:              needs(cobra.ExactArgs(1), "one NAME"),
		ValidArgsFunction: a.completeNames(1),
	}
	cmd.Flags().StringVar(&q.Call, "callid", "", "only the events of this `call`")
	cmd.Flags().BoolVarP(&q.Follow, "follow", "f", false, "go on with the events that come")
	cmd.Flags().BoolVar(&whole, "no-trunc", false, "show whole call ids on a terminal too")
	cmd.Flags().StringVar(&tail, "tail", "all", "the `number` of events to begin with, the last ones, or all")
	cmd.RunE = a.run(func(ctx context.Context, c *api.Client, args []string) error {
		q.Tail = -1
		if tail != "all" {
			n, err := strconv.Atoi(tail)
			if err != nil || n < 0 {
				return usageErrorf("--tail: %q must be all or a number", tail)
			}
			q.Tail = n
		}
		if q.Call != "" && !api.ValidUUID(q.Call) {
			return usageErrorf("--callid: %q is not the id of a call", q.Call)
		}
		f, err := a.callable(ctx, c, args[0])
		if err != nil {
			return err
		}
		if err := c.Logs(ctx, f.Name, f.UUID, q, a.eventPrinter(whole)); err != nil {
			return named(err, f.Name)
		}
		if q.Follow {
			return &Error{Status: ExitUnavailable, Message: fmt.Sprintf("funcd at %s has ended the stream of events", a.settings.Addr)}
		}
		return nil
	})
	return cmd
}

// eventPrinter returns what prints one event after the other.
func (a *app) eventPrinter(wholeIDs bool) func(api.Event) error {
	switch {
	case a.output.JSON():
		lines := json.NewEncoder(a.Out)
		lines.SetEscapeHTML(false)
		return func(e api.Event) error { return lines.Encode(e) }
	case !isTerminal(a.Out):
		return func(e api.Event) error {
			_, err := fmt.Fprintln(a.Out, eventLine(e))
			return err
		}
	}
	p := &eventColumns{colours: a.colours(a.Out), wholeIDs: wholeIDs, today: time.Now(), zone: time.Local, width: func() int { return width(a.Out) }}
	return func(e api.Event) error {
		_, err := io.WriteString(a.Out, p.lines(e))
		return err
	}
}

// eventLine is an event in the form that the original's client prints, on one line whatever it holds.
func eventLine(e api.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s [%s] CallId: %s", e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), e.Event, e.CallID)
	member := func(name, value string, always bool) {
		if value != "" || always {
			fmt.Fprintf(&b, ", %s: %s", name, printable(value))
		}
	}
	finished, failed := e.Event == string(api.Finished), e.Event == string(api.Failed)
	member("ShortStdin", e.ShortStdin, e.Event == api.Called)
	member("Message", e.Message, failed)
	member("ShortStdout", e.ShortStdout, finished)
	member("ShortStderr", e.ShortStderr, finished)
	return b.String()
}

// eventColumns writes events for a person: what differs from the event before is easy to see.
type eventColumns struct {
	colours  bool
	wholeIDs bool
	today    time.Time // the day that need not be said
	zone     *time.Location
	width    func() int // of the terminal, in which long lines are broken; nil or 0: they are not
}

const (
	shortID    = 8                 // characters of a call's id; the Nomad UI shows as many
	eventWidth = len(api.Finished) // the longest
)

// callColours tell the calls of a busy function apart. Red is for failures.
var callColours = []color.Attribute{color.FgCyan, color.FgMagenta, color.FgBlue, color.FgHiCyan, color.FgHiMagenta, color.FgHiBlue}

var eventColours = map[string]color.Attribute{
	string(api.Pending): color.FgYellow, string(api.Running): color.FgBlue, string(api.Finished): color.FgGreen, string(api.Failed): color.FgRed,
}

// lines returns the event: its time, call and name, and beside them its message and the beginnings of stdin, stdout and stderr.
func (p *eventColumns) lines(e api.Event) string {
	var b strings.Builder
	faint := paint(p.colours, color.Faint)
	at := e.Time.In(p.zone)
	if day := at.Format(time.DateOnly); day != p.today.In(p.zone).Format(time.DateOnly) {
		b.WriteString(faint("--- "+day) + "\n")
		p.today = at
	}
	id := printable(e.CallID)
	if !p.wholeIDs {
		id = id[:min(shortID, len(id))]
	}
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(e.CallID))
	event := printable(e.Event)
	padding := strings.Repeat(" ", max(0, eventWidth-len(event)))
	if colour, ok := eventColours[e.Event]; ok {
		event = paint(p.colours, colour, color.Bold)(event)
	}
	columns := faint(at.Format("15:04:05.000")) + "  " + paint(p.colours, callColours[hash.Sum32()%uint32(len(callColours))])(id) + "  " + event + padding
	indent := strings.Repeat(" ", len("15:04:05.000")+2+len(id)+2+eventWidth)

	type detail struct{ name, text string }
	details := []detail{}
	if e.Message != "" {
		details = append(details, detail{"", printable(e.Message)})
	}
	for _, short := range []detail{{"stdin", e.ShortStdin}, {"stdout", e.ShortStdout}, {"stderr", e.ShortStderr}} {
		if short.text == "" {
			continue
		}
		name := fmt.Sprintf("%-8s", short.name)
		for line := range strings.SplitSeq(strings.TrimSuffix(short.text, "\n"), "\n") {
			details = append(details, detail{name, printable(strings.ReplaceAll(strings.TrimSuffix(line, "\r"), "\t", "    "))})
			name = strings.Repeat(" ", len(name))
		}
	}
	if len(details) == 0 {
		return b.String() + strings.TrimRight(columns, " ") + "\n"
	}
	room := 0
	if p.width != nil {
		room = p.width() - len(indent) - 2
	}
	for _, detail := range details {
		name := detail.name
		for _, text := range wrapped(detail.text, room-len(name)) {
			b.WriteString(columns + "  " + faint(name) + text + "\n")
			columns, name = indent, strings.Repeat(" ", len(name))
		}
	}
	return b.String()
}
