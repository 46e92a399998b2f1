package cli

import (
	"io"
	"strconv"
	"strings"
	"unicode"

	"github.com/fatih/color"
	"golang.org/x/term"
)

// isTerminal tells whether what is written to w, or read from it, is a person's terminal.
func isTerminal(w any) bool {
	file, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(file.Fd()))
}

// width returns how many characters a line of the terminal has, 0 if w is none.
func width(w any) int {
	file, ok := w.(interface{ Fd() uintptr })
	if !ok {
		return 0
	}
	columns, _, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// colours tells whether what is written to w may have colours: on a terminal that has them, and unless NO_COLOR is set (no-color.org).
func (a *app) colours(w io.Writer) bool {
	none, _ := a.LookupEnv("NO_COLOR")
	kind, _ := a.LookupEnv("TERM")
	return isTerminal(w) && none == "" && kind != "dumb"
}

// paint returns a function that gives a text these attributes, or leaves it alone.
func paint(really bool, attributes ...color.Attribute) func(text string) string {
	c := color.New(attributes...)
	if !really {
		return func(text string) string { return text }
	}
	c.EnableColor()
	return func(text string) string { return c.Sprint(text) }
}

// printable returns text with all that is not to be seen, such as a line's end or what would steer a terminal, written as in a Go string.
// Names, commands and outputs are other people's.
func printable(text string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(text, "\uFFFD") {
		if unicode.IsGraphic(r) {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRune(r)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

// cut returns at most so many characters of text.
func cut(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	return string(runes[:most-1]) + "…"
}

// wrapped returns text in lines of at most so many characters, broken at spaces where there are some in their second half. What has less room than
// leastWidth is not broken.
func wrapped(text string, most int) []string {
	if most < leastWidth {
		return []string{text}
	}
	var lines []string
	runes := []rune(text)
	for len(runes) > most {
		end, next := most, most
		for i := most; i > most/2; i-- {
			if runes[i] == ' ' {
				end, next = i, i+1
				break
			}
		}
		lines = append(lines, string(runes[:end]))
		runes = runes[next:]
	}
	return append(lines, string(runes))
}

const leastWidth = 20
