package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Env is environment variables, "NAME=value", whose values may be any bytes, as those of HTTP's headers may. Its JSON is an array of strings, but for what is not
// UTF-8, which JSON can't hold: such a variable is an array of one string, its bytes in Base64.
type Env []string

// MarshalJSON returns the variables as they are, which takes no more than for a []string where all are UTF-8.
func (e Env) MarshalJSON() ([]byte, error) {
	if !slices.ContainsFunc(e, isBinary) {
		return json.Marshal([]string(e))
	}
	variables := make([]any, len(e))
	for i, variable := range e {
		variables[i] = variable
		if isBinary(variable) {
			variables[i] = [][]byte{[]byte(variable)}
		}
	}
	return json.Marshal(variables)
}

func isBinary(variable string) bool { return !utf8.ValidString(variable) }

// UnmarshalJSON reads what MarshalJSON returns.
func (e *Env) UnmarshalJSON(text []byte) error {
	if plain := (*[]string)(e); json.Unmarshal(text, plain) == nil {
		return nil
	}
	var variables []json.RawMessage
	if err := json.Unmarshal(text, &variables); err != nil {
		return err
	}
	read := make(Env, len(variables))
	for i, variable := range variables {
		var binary [][]byte
		switch {
		case json.Unmarshal(variable, &read[i]) == nil:
		case json.Unmarshal(variable, &binary) == nil && len(binary) == 1:
			read[i] = string(binary[0])
		default:
			return fmt.Errorf("an environment variable must be a string, or an array of one in Base64: %.100s", variable)
		}
	}
	*e = read
	return nil
}
