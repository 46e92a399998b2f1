package main

import "strings"

// apiAddress is where clients reach the API, as far as that is known before the server listens.
func (c config) apiAddress() string {
	scheme, address := "http://", c.HTTP
	if address == "" && c.HTTPS != nil {
		scheme, address = "https://", c.HTTPS.Address
	}
	switch {
	case c.Address != "":
		return c.Address
	case strings.HasSuffix(address, ":0"):
		return "" // any port that is free
	}
	return scheme + address
}
