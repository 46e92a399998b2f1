package callbacks

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/funcd/funcd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAddresses(t *testing.T) {
	t.Parallel()
	public := []string{"8.8.8.8", "1.1.1.1", "9.255.255.255", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "223.255.255.255",
		"2606:4700:4700::1111", "2a00:1450:4001:80b::200e", "2001:200::1", "::ffff:8.8.8.8"}
	for _, ip := range public {
		require.True(t, allowed(netip.MustParseAddr(ip), nil), ip)
	}
	for name, ips := range map[string][]string{
		"loopback":       {"127.0.0.1", "127.255.255.254", "::1"},
		"unspecified":    {"0.0.0.0", "0.1.2.3", "::"},
		"private":        {"10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "fc00::1", "fd12:3456::1"},
		"link-local":     {"169.254.0.1", "169.254.169.254", "fe80::1", "fe80::1%eth0", "febf::1"},
		"site-local":     {"fec0::1"},
		"shared":         {"100.64.0.1", "100.127.255.255"},
		"multicast":      {"224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"},
		"broadcast":      {"255.255.255.255", "240.0.0.1"},
		"documentation":  {"192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"},
		"benchmarks":     {"198.18.0.1", "198.19.255.255", "2001:2::1"},
		"assignments":    {"192.0.0.1", "192.0.0.170", "192.88.99.1", "2001:1::1"},
		"IPv4 in IPv6":   {"::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "::127.0.0.1", "::8.8.8.8"},
		"NAT64":          {"64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::808:808", "64:ff9b:1::7f00:1"},
		"6to4":           {"2002:7f00:1::", "2002:808:808::1"},
		"Teredo":         {"2001:0:4136:e378:8000:63bf:3fff:fdd2"},
		"discard":        {"100::1"},
		"segments":       {"5f00::1"},
		"not given out":  {"4000::1", "8000::1"},
		"no address yet": {"::ffff:100.64.0.1"},
	} {
		for _, ip := range ips {
			require.False(t, allowed(netip.MustParseAddr(ip), nil), "%s: %s", name, ip)
		}
	}
	require.False(t, allowed(netip.Addr{}, nil))

	allow := prefixes("10.1.0.0/16", "127.0.0.0/8", "fd00:1::/64")
	for ip, want := range map[string]bool{
		"10.1.2.3": true, "10.2.0.1": false, "::ffff:10.1.2.3": true, "127.0.0.1": true, "::1": false, "fd00:1::5": true, "fd00:2::5": false,
		"fd00:1::5%eth0": true, "64:ff9b::a01:203": false, "8.8.8.8": true,
	} {
		require.Equal(t, want, allowed(netip.MustParseAddr(ip), allow), ip)
	}
	for _, address := range []string{"", "127.0.0.1", "example.com:80", "127.0.0.1:80", "[::1]:80", "[fe80::1%1]:80"} {
		require.ErrorIs(t, control(nil)("tcp", address, nil), errNotAllowed, address)
	}
	require.NoError(t, control(nil)("tcp", "8.8.8.8:80", nil))
}

// newService returns a service that is not running, with the function's secret and the events that it logs.
func newService(t *testing.T, change func(*Config)) (*Service, *fake) {
	t.Helper()
	f := &fake{secret: api.CallbackSecret([]byte("a key of the function's own")), queued: make(chan queued, 100)}
	cfg := Config{
		Queue: f, Functions: f, Events: f, Concurrent: 2, Timeout: 10 * time.Second, Attempts: 3, Pause: time.Second, MaxPause: 3 * time.Second,
		Agent: "funcd/test", Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	return New(cfg), f
}

func local(cfg *Config) { cfg.Allow = prefixes("127.0.0.0/8", "::1/128") }

// TestNoNameLeadsToARefusedAddress has a name's addresses change between two looks: what counts is the one that is connected to.
func TestNoNameLeadsToARefusedAddress(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer receiver.Close()
	at, err := url.Parse(receiver.URL)
	require.NoError(t, err)
	for _, host := range []string{
		"localhost", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "0.0.0.0", "[::]",
	} {
		s, _ := newService(t, nil)
		err := s.send(t.Context(), api.Callback{URL: "http://" + host + ":" + at.Port() + "/"}, nil, api.CallbackSecret([]byte("k")))
		require.Error(t, err, host)
	}
	// As if a name had resolved to a public address when somebody looked, and to this machine's now.
	for _, to := range []string{"127.0.0.1:" + at.Port(), "[::ffff:127.0.0.1]:" + at.Port()} {
		dns := startDNS(t, netip.MustParseAddr("127.0.0.1"))
		s, _ := newService(t, nil)
		dialer := &net.Dialer{Control: control(nil), Resolver: dns}
		s.client.Transport.(*http.Transport).DialContext = dialer.DialContext
		err := s.send(t.Context(), api.Callback{URL: "http://rebind.example:" + at.Port() + "/"}, nil, api.CallbackSecret([]byte("k")))
		require.ErrorIs(t, err, errNotAllowed, to)
		require.Equal(t, "its address is not allowed here", reason(err))

		dialer.Control = control(prefixes("127.0.0.0/8"))
		before := asked.Load()
		require.NoError(t, s.send(t.Context(), api.Callback{URL: "http://rebind.example:" + at.Port() + "/"}, nil, api.CallbackSecret([]byte("k"))))
		require.Equal(t, before+1, asked.Load(), "the name did lead there")
		asked.Store(0)
	}
	require.Zero(t, asked.Load())
}

// startDNS returns a resolver that answers every question for an IPv4 address with this one.
func startDNS(t *testing.T, ip netip.Addr) *net.Resolver {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			question := 12 // the question follows the header: labels to a zero, then its type and its class
			for question < n && buf[question] != 0 {
				question += int(buf[question]) + 1
			}
			if question+5 > n {
				continue
			}
			end := question + 5
			answer := append([]byte{}, buf[:end]...)
			answer[2], answer[3] = 0x81, 0x80                                 // a response, recursion available
			copy(answer[6:12], []byte{0, 0, 0, 0, 0, 0})                      // no records
			if a4 := ip.As4(); buf[question+1] == 0 && buf[question+2] == 1 { // A
				answer[7] = 1
				answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				answer = append(answer, a4[:]...)
			}
			_, _ = server.WriteTo(answer, from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	var inner *httptest.Server
	inner = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1); r.URL.Path == "/" {
			http.Redirect(w, r, inner.URL+"/secret", http.StatusTemporaryRedirect)
		}
	}))
	defer inner.Close()
	s, _ := newService(t, local)
	err := s.send(t.Context(), api.Callback{URL: inner.URL + "/"}, []byte("out"), api.CallbackSecret([]byte("k")))
	require.Equal(t, statusError(307), errorAs(t, err))
	require.Equal(t, "it has answered with 307", reason(err))
	require.EqualValues(t, 1, asked.Load())
}

func errorAs(t *testing.T, err error) statusError {
	t.Helper()
	status, ok := errors.AsType[statusError](err)
	require.True(t, ok, "%v", err)
	return status
}

func TestAddressesAreRefusedAtCreate(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]api.Code{
		"http://10.0.0.1/":                   api.Forbidden,
		"https://127.0.0.1:8443/x":           api.Forbidden,
		"http://169.254.169.254/latest":      api.Forbidden,
		"http://[::1]/":                      api.Forbidden,
		"http://[fe80::1%25eth0]:80/":        api.Forbidden,
		"http://[::ffff:10.0.0.1]/":          api.Forbidden,
		"http://[64:ff9b::7f00:1]/":          api.Forbidden,
		"http://0.0.0.0/":                    api.Forbidden,
		"http://93.184.215.14/":              "",
		"https://[2606:2800:21f::1]/":        "",
		"http://192.168.7.9/":                "", // it is in the networks that are allowed
		"http://localhost/":                  "", // a name is looked at when it is sent
		"http://127.0.0.1.example.com/hooks": "",
		"http://127.1/":                      "",
	} {
		err := Check(target, prefixes("192.168.7.0/24"))
		require.Equal(t, want, api.CodeOf(err), target)
		if want != "" {
			require.Contains(t, api.MessageOf(err), "Config.Labels: funcd.callback: ")
		}
	}
}
