//go:build integration

package test

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports that are chosen before anybody listens there are below those that the kernel gives to each connection that is made, and below those at
// which Nomad publishes containers: else one that is free when it is chosen may be taken when it is needed, or while a server is started again.
const (
	firstPort = 10000
	lastPort  = 19999
)

// ports knows which are chosen next. None is chosen twice, so that no test meets another's server at its own port.
var ports = struct {
	sync.Mutex
	next, left int
}{next: firstPort + rand.IntN(lastPort-firstPort+1), left: lastPort - firstPort + 1}

// freePorts returns ports of 127.0.0.1, of TCP and UDP, that nothing listens on and that nobody else is given.
func freePorts(n int) ([]string, error) {
	ports.Lock()
	defer ports.Unlock()
	var chosen []string
	for len(chosen) < n {
		if ports.left == 0 {
			return nil, errors.New("all ports for tests are taken")
		}
		port := strconv.Itoa(ports.next)
		ports.left--
		if ports.next++; ports.next > lastPort {
			ports.next = firstPort
		}
		if isFree(port) {
			chosen = append(chosen, port)
		}
	}
	return chosen, nil
}

func isFree(port string) bool {
	address := net.JoinHostPort("127.0.0.1", port)
	tcp, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", address)
	if err != nil {
		return false
	}
	udp.Close()
	return true
}
