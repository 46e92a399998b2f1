package calls

import "github.com/funcd/funcd/api"

// maxToken is the longest id that subjects take. A UUID has 36 characters, an account at most 63.
const maxToken = 128

// checkIDs refuses ids that can't be one token of a subject and a part of a stream's name: a dot would be two tokens, * and > would stand for
// the calls, functions and accounts of others. What comes from outside is checked before; this is where it would do harm. The error is of code Invalid.
func checkIDs(ids ...string) error {
	for _, id := range ids {
		if !isToken(id) {
			return api.Errorf(api.Invalid, "%.100q can't be the id of a call, a function or an account", id)
		}
	}
	return nil
}

func isToken(id string) bool {
	for i := range len(id) {
		c := id[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return id != "" && len(id) <= maxToken
}
