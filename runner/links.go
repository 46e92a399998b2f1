package runner

import (
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/funcd/funcd/api"
)

// hostsFile is what the container looks names up in. That of a function with links may be written by any user.
const hostsFile = "/etc/hosts"

// ownHosts are the lines that Docker begins every container's file with.
const ownHosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::0	ip6-localnet
ff00::0	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// writeHosts makes the call's links known by their names, in place of those of the call before.
func writeHosts(file string, a *api.Assignment) error {
	if len(a.Hosts) == 0 {
		return nil
	}
	text := ownHosts + strings.Join(a.Hosts, "\n") + "\n"
	if host, err := os.Hostname(); err == nil {
		if ip := ownAddress(); ip != nil {
			text += ip.String() + "\t" + host + "\n"
		}
	}
	// It is a mount of its own, so it is written in place.
	if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
		return fmt.Errorf("the links can't be written down: %v", err) // not %w: a folder that is not there is no missing command
	}
	return nil
}

// ownAddress returns the container's address in its network, nil if it has none.
func ownAddress() net.IP {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, address := range addresses {
		if network, ok := address.(*net.IPNet); ok && network.IP.IsGlobalUnicast() {
			return network.IP
		}
	}
	return nil
}
