//go:build integration

package test

import (
	"errors"
	"net/http"
	"os"
	"sync"

	"github.com/funcd/funcd/httpapi/openapitest"
)

// document is funcd's OpenAPI document. Every answer of every stack's API to client is checked against it.
var document = func() *openapitest.Document {
	text, err := os.ReadFile("../httpapi/openapi.json")
	if err != nil {
		panic(err)
	}
	d, err := openapitest.New(text)
	if err != nil {
		panic(err)
	}
	return d
}()

// described knows the stacks' APIs, and what they have answered that the document does not describe.
var described struct {
	sync.Mutex
	hosts map[string]bool
	wrong []error
}

// describe has the answers of an API checked.
func describe(host string) {
	described.Lock()
	defer described.Unlock()
	if described.hosts == nil {
		described.hosts = map[string]bool{}
	}
	described.hosts[host] = true
}

// conceal ends that: another program may be given the port.
func conceal(host string) {
	described.Lock()
	defer described.Unlock()
	delete(described.hosts, host)
}

func isDescribed(req *http.Request) bool {
	described.Lock()
	defer described.Unlock()
	return described.hosts[req.URL.Host]
}

func undescribed(err error) {
	described.Lock()
	defer described.Unlock()
	described.wrong = append(described.wrong, err)
}

// allDescribed is an error if anything was answered that the document does not describe. The test that has asked for it has failed too, unless it
// did not look at the answer.
func allDescribed() error {
	described.Lock()
	defer described.Unlock()
	return errors.Join(described.wrong...)
}
