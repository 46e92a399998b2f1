package main

import "strings"

// apiAddress is where clients reach the API, as far as that is known before the server listens.
func (c config) apiAddress() string {
	switch {
	case c.Address != "":
		return c.Address
	case strings.HasSuffix(c.HTTP, ":0"):
		return "" // any port that is free
	}
	return "http://" + c.HTTP
}
