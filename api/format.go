package api

import (
	"regexp"
	"sync"
)

// format is a regular expression that is compiled when it is used first: funcd-runner imports this package, is started for every container, and
// uses none.
type format func() *regexp.Regexp

func newFormat(expression string) format {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// MatchString tells whether s is of the format.
func (f format) MatchString(s string) bool { return f().MatchString(s) }
