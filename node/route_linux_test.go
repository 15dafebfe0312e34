package node

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dnslet/dnslet/lab/netns"
)

var (
	all4 = &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	all6 = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
)

// uplinked returns a namespace with two links, eth0 and eth1, each with an IPv4 and an IPv6 address.
func uplinked(t *testing.T) *netns.NS {
	t.Helper()
	netns.Require(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	peer, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, addrs := range map[string][]string{"eth0": {"10.0.0.2/24", "fd00:a::2/64"}, "eth1": {"10.0.1.2/24", "fd00:b::2/64"}} {
		must(netns.Veth(ns, name, peer, "peer-"+name))
		for _, a := range addrs {
			must(ns.AddAddr(name, netip.MustParsePrefix(a)))
		}
		must(ns.SetUp(name))
		must(peer.SetUp("peer-" + name))
	}
	return ns
}

func defaults(t *testing.T, ns *netns.NS) [2][]string {
	t.Helper()
	var got [2][]string
	err := ns.Do(func() (err error) {
		got[0], got[1], err = DefaultRouteInterfaces()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Red when: RT_FILTER_TABLE is left out of the filter, or RT_FILTER_TYPE is.
func TestDefaultRouteInterfaces(t *testing.T) {
	ns := uplinked(t)
	if diff := cmp.Diff([2][]string{}, defaults(t, ns)); diff != "" {
		t.Errorf("without a default route (-want +got):\n%s", diff)
	}
	add := func(dst, via, link string) {
		t.Helper()
		if err := ns.AddRoute(netns.Route{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via), Link: link}); err != nil {
			t.Fatal(err)
		}
	}
	add("0.0.0.0/0", "10.0.0.1", "eth0")
	add("::/0", "fd00:b::1", "eth1")
	add("10.8.0.0/16", "10.0.1.1", "eth1")
	if diff := cmp.Diff([2][]string{{"eth0"}, {"eth1"}}, defaults(t, ns)); diff != "" {
		t.Errorf("one each (-want +got):\n%s", diff)
	}
	link, err := ns.Netlink().LinkByName("eth1")
	if err != nil {
		t.Fatal(err)
	}
	second := &netlink.Route{Dst: all4, Gw: netip.MustParseAddr("10.0.1.1").AsSlice(), LinkIndex: link.Attrs().Index, Table: 100}
	eth0, err := ns.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	// What a transparent proxy has: everything in that table is for this machine itself.
	proxy := &netlink.Route{Dst: all6, LinkIndex: eth0.Attrs().Index, Type: unix.RTN_LOCAL, Table: 101}
	for _, r := range []*netlink.Route{second, proxy} {
		if err := ns.Netlink().RouteAdd(r); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([2][]string{{"eth0", "eth1"}, {"eth1"}}, defaults(t, ns)); diff != "" {
		t.Errorf("with a table of a second card (-want +got):\n%s", diff)
	}
}

// Red when: only the first hop of a route with several is taken.
func TestDefaultRouteOverSeveralHops(t *testing.T) {
	ns := uplinked(t)
	r := &netlink.Route{Dst: all4}
	for _, hop := range []struct{ name, via string }{{"eth0", "10.0.0.1"}, {"eth1", "10.0.1.1"}} {
		link, err := ns.Netlink().LinkByName(hop.name)
		if err != nil {
			t.Fatal(err)
		}
		r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{LinkIndex: link.Attrs().Index, Gw: netip.MustParseAddr(hop.via).AsSlice()})
	}
	if err := ns.Netlink().RouteAdd(r); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([2][]string{{"eth0", "eth1"}, nil}, defaults(t, ns)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Red when: IsLocal looks at the addresses of interfaces only, and misses the local route of interception.
func TestIsLocal(t *testing.T) {
	ns := uplinked(t)
	if err := ns.AddRoute(netns.Route{Dst: netip.MustParsePrefix("169.254.53.48/28"), Link: "lo", Local: true}); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{
		"127.0.0.1": true, "127.0.0.53": true, "::1": true, "10.0.0.2": true, "fd00:a::2": true, "169.254.53.53": true,
		"::ffff:10.0.0.2": true, "10.0.0.1": false, "169.254.53.64": false, "fd00:a::1": false, "192.0.2.1": false, "2001:db8::1": false,
	}
	got := map[string]bool{}
	err := ns.Do(func() error {
		for a := range want {
			got[a] = IsLocal(netip.MustParseAddr(a))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if IsLocal(netip.Addr{}) {
		t.Error("no address at all is local")
	}
}
