package callbacks

import (
	"errors"
	"net/netip"
	"net/url"
	"syscall"

	"github.com/funcd/funcd/api"
)

// errNotAllowed is why nothing was sent to an address.
var errNotAllowed = errors.New("its address is not allowed here")

// The addresses that are no host's on the internet, beside those that netip knows: from IANA's special-purpose address registries, and those that
// carry an IPv4 address, which would be another way to each of them.
var special = prefixes(
	"0.0.0.0/8",       // this network, RFC 791
	"100.64.0.0/10",   // shared by carriers' NAT, RFC 6598
	"192.0.0.0/24",    // IETF protocol assignments, RFC 6890
	"192.0.2.0/24",    // documentation, RFC 5737
	"192.88.99.0/24",  // 6to4 relays, RFC 7526
	"198.18.0.0/15",   // benchmarks, RFC 2544
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"240.0.0.0/4",     // reserved, and 255.255.255.255
	"2001::/23",       // IETF protocol assignments, with Teredo, RFC 2928
	"2001:db8::/32",   // documentation, RFC 3849
	"2002::/16",       // 6to4, RFC 3056
	"3fff::/20",       // documentation, RFC 9637
)

// global holds all IPv6 addresses that were given out so far. What is outside, such as NAT64's 64:ff9b::/96 and 64:ff9b:1::/48, is special.
var global = netip.MustParsePrefix("2000::/3")

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func within(ip netip.Addr, list []netip.Prefix) bool {
	for _, prefix := range list {
		if prefix.Contains(ip) {
			return true
		}
	}
	return false
}

// allowed tells whether callbacks may go to the address: a public one, or one in allow. An IPv4 address within an IPv6 one (::ffff:0:0/96) is that
// IPv4 address, as it is for the kernel.
func allowed(ip netip.Addr, allow []netip.Prefix) bool {
	ip = ip.Unmap().WithZone("")
	if !ip.IsValid() {
		return false
	}
	if within(ip, allow) {
		return true
	}
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !within(ip, special) && (ip.Is4() || global.Contains(ip))
}

// control is a net.Dialer's Control. It is asked when a name has been resolved, with the very address that is connected to, so that no answer of
// the DNS, at whatever time, leads past it.
func control(allow []netip.Prefix) func(network, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil || !allowed(to.Addr(), allow) {
			return errNotAllowed
		}
		return nil
	}
}

// Check refuses a callback whose URL has an address in it that it may never go to: better when the function is created than at each call. What a name
// leads to is known when it is sent. The error is of code Forbidden.
func Check(target string, allow []netip.Prefix) error {
	u, err := url.Parse(target)
	if err != nil {
		return api.Wrap(api.Invalid, err, "the callback is not a URL")
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if err == nil && !allowed(ip, allow) {
		return api.Errorf(api.Forbidden, "Config.Labels: funcd.callback: %s is an address that nothing is sent to here (callbacks.allow)", u.Hostname())
	}
	return nil
}
