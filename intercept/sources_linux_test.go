package intercept_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/dnslet/dnslet/intercept"
)

func prefixes(ps ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range ps {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// A source in Bypass is kube-proxy's with its next question and its next connection; the open connection stays.
//
// Red when: screen does not look at @bypass.
func TestBypass(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config(patient))
	open, err := dial(w.pods[0], "tcp", vip4, netip.Addr{}, 0)
	w.must(err)
	defer open.Close()
	talk := func() {
		t.Helper()
		if who, err := exchange(open, 1, time.Second); who != agentIs {
			t.Errorf("open connection: answered by %d, %v", who, err)
		}
	}
	talk()
	// Overlapping prefixes are one: the kernel would refuse them.
	w.must(a.i.SetBypass(prefixes("10.97.0.0/24", "10.97.0.2/32", "10.97.0.0/24", "fd00:97::/64")))
	for _, vip := range vips {
		for _, network := range []string{"udp", "tcp"} {
			w.expect(w.pods[0], network, vip, cluster)
			w.expect(w.pods[1], network, vip, agentIs)
			w.expect(w.node, network, vip, agentIs)
		}
	}
	talk()
	w.must(a.i.SetBypass(nil))
	w.expect(w.pods[0], "udp", vip4, agentIs)
	w.expect(w.pods[0], "tcp", vip6, agentIs)
	talk()
	if c := a.status(t).Counters; c.Bypassed == 0 {
		t.Errorf("counters %+v", c)
	}
}

// Only sources in Scope are intercepted, of both families; an empty scope is everybody.
//
// Red when: screen does not look at @scope, or scopeElems gives nothing for an empty scope.
func TestScope(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config(patient, func(c *intercept.Config) { c.Scope = prefixes("10.97.1.2/32") }))
	for _, network := range []string{"udp", "tcp"} {
		w.expect(w.pods[0], network, vip4, cluster)
		w.expect(w.pods[1], network, vip4, agentIs)
		w.expect(w.pods[1], network, vip6, cluster)
		w.expect(w.node, network, vip4, cluster)
	}
	if c := a.status(t).Counters; c.OutOfScope == 0 {
		t.Errorf("counters %+v", c)
	}
	w.must(a.i.SetScope(nil))
	for _, vip := range vips {
		w.expect(w.pods[0], "udp", vip, agentIs)
		w.expect(w.node, "tcp", vip, agentIs)
	}
	if err := a.i.SetScope([]netip.Prefix{{}}); err == nil {
		t.Error("an invalid scope was accepted")
	}
	w.expect(w.pods[0], "udp", vip4, agentIs)
}

// The largest plan is one transaction too, and so is its change.
//
// Red when: fill puts all elements into one message, or maxSources is ten times as large.
func TestLargestPlan(t *testing.T) {
	w := newWorld(t)
	var sources []netip.Prefix
	var many []netip.AddrPort
	for n := range 2000 {
		// Every other address: neighbours stay apart, each an interval of its own.
		sources = append(sources, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0xaa, 14: byte(n >> 7), 15: byte(n << 1)}), 128))
	}
	for n := range 500 {
		many = append(many, netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, 0xbb, 14: byte(n >> 8), 15: byte(n)}), 53))
	}
	a := w.agent(config(patient, func(c *intercept.Config) { c.Bypass, c.Scope, c.Endpoints = sources, sources, many }))
	w.expect(w.pods[0], "udp", vip6, cluster)
	w.must(a.i.SetScope(nil))
	w.expect(w.pods[0], "udp", vip6, agentIs)
	w.must(a.i.SetBypass(append(sources[:1999:1999], prefixes("fd00:97::/64")...)))
	w.expect(w.pods[0], "udp", vip6, cluster)
	w.expect(w.pods[1], "udp", vip6, agentIs)
}

// What a source asks above its rate goes to kube-proxy, and is answered there; others are not touched.
//
// Red when: screen does not look at the rate, or drops the excess.
func TestRate(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config(patient, func(c *intercept.Config) { c.Rate = 40 })) // and a burst of 10
	for _, network := range []string{"udp", "tcp"} {
		var by [3]int
		for range 150 {
			who, _ := ask(w.pods[0], network, vip4)
			by[who]++
		}
		t.Logf("%s: %d by the agent, %d by cluster DNS, %d lost", network, by[agentIs], by[cluster], by[nobody])
		if by[agentIs] == 0 || by[cluster] == 0 || by[nobody] != 0 {
			t.Errorf("%s: %v", network, by)
		}
		w.expect(w.pods[1], network, vip4, agentIs)
	}
	if c := a.status(t).Counters; c.Limited == 0 || c.Served == 0 {
		t.Errorf("counters %+v", c)
	}
}

// Never ours: cluster DNS endpoints asking the VIP, what comes from an uplink, the node's loopback addresses, and our own
// last resort.
//
// Red when: screen does not look at @resolvers; questions not at @uplinks; node_questions not at the loopback or the mark.
func TestNeverOurs(t *testing.T) {
	w := newWorld(t)
	self := netip.MustParseAddrPort("10.97.1.2:53")
	a := w.agent(config(patient, func(c *intercept.Config) { c.Endpoints = append(c.Endpoints, self) }))

	w.expect(w.pods[1], "udp", vip4, cluster)
	w.expect(w.pods[1], "tcp", vip4, cluster)
	w.expect(w.pods[1], "udp", vip6, agentIs)
	w.must(a.i.SetEndpoints(endpoints))
	w.expect(w.pods[1], "udp", vip4, agentIs)

	for _, vip := range []netip.Addr{vip4, vip6} {
		for _, network := range []string{"udp", "tcp"} {
			if who, err := askFrom(w.node, network, vip, netip.Addr{}, 0x55); who != cluster {
				t.Errorf("last resort to %s by %s: answered by %d, %v", vip, network, who, err)
			}
		}
	}

	// As kube-proxy's iptables mode sets it. Without it the node cannot send from 127.0.0.1 to a VIP at all.
	w.must(w.node.Sysctl("net.ipv4.conf.all.route_localnet", "1"))
	// These two have no way back here, answered by whom they may be: the counters tell who was asked.
	before := a.status(t).Counters
	w.must(w.wan.AddAddr("eth0", netip.MustParsePrefix("10.98.0.3/24")))
	stranger := netip.MustParseAddr("10.98.0.3")
	if who, _ := askFrom(w.wan, "udp", vip4, stranger, 0); who == agentIs {
		t.Error("a stranger beyond the uplink was answered by the agent")
	}
	if who, _ := askFrom(w.node, "udp", vip4, netip.MustParseAddr("127.0.0.1"), 0); who == agentIs {
		t.Error("127.0.0.1 was answered by the agent")
	}
	c := a.status(t).Counters
	if c.Uplink != before.Uplink+1 || c.Loopback != before.Loopback+1 || c.Served != before.Served || c.Resolvers == 0 || c.LastResort == 0 {
		t.Errorf("counters %+v, before %+v", c, before)
	}
}

// With kube-proxy in IPVS mode the VIP is an address of the node, and what is left to kube-proxy comes by lo once more. Seen
// there a second time it must not be taken over after all: the last resort would ask ourselves.
//
// Red when: questions does not leave alone what comes from lo.
func TestVIPIsAnAddressOfTheNode(t *testing.T) {
	w := newWorld(t)
	vip := netip.MustParseAddr("172.20.0.12") // unknown to the rules of kubeProxy
	w.must(w.node.AddAddr("lo", netip.PrefixFrom(vip, 32)))
	serve(t, w.node, netip.AddrPortFrom(vip, 53), 0, cluster) // in place of IPVS
	a := w.agent(config(patient, func(c *intercept.Config) { c.VIPs = append(c.VIPs, vip) }))
	for _, network := range []string{"udp", "tcp"} {
		w.expect(w.pods[0], network, vip, agentIs)
		w.expect(w.node, network, vip, agentIs)
		if who, err := askFrom(w.node, network, vip, netip.Addr{}, 0x55); who != cluster {
			t.Errorf("last resort by %s: answered by %d (%v)", network, who, err)
		}
		if who, err := askFrom(w.node, network, vip, netip.MustParseAddr("127.0.0.1"), 0); who != cluster {
			t.Errorf("from loopback by %s: answered by %d (%v)", network, who, err)
		}
	}
	w.must(a.i.Withdraw())
	for _, network := range []string{"udp", "tcp"} {
		w.expect(w.pods[0], network, vip, cluster)
		w.expect(w.node, network, vip, cluster)
	}
}

// Nobody is answered on our own addresses, and nobody but the prober can keep the agent alive.
//
// Red when: prerouting lets @direct pass, or chain own does not look at the mark.
func TestOwnAddressesAnswerNobody(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config())
	own := a.plan.Listeners()
	for _, l := range own {
		for k, ns := range append(w.pods, w.node, w.wan) {
			c := client{ns: ns, vip: l.Addr}
			// Whatever comes back, from whatever address, is too much.
			if who, err := c.udp(1, patience); who != nobody || !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, syscall.EPERM) {
				t.Errorf("udp to %s from %d: answered by %d, %v", l.Addr, k, who, err)
			}
		}
	}
	for _, l := range own {
		for _, network := range []string{"udp", "tcp"} {
			for k, ns := range append(w.pods, w.node, w.wan) {
				c, err := dialWithin(patience, ns, network, l.Addr, netip.Addr{}, 0)
				if err != nil {
					continue
				}
				if who, _ := exchange(c, 1, patience); who != nobody || network == "tcp" {
					t.Errorf("%s to %s from %d: connected, answered by %d", network, l.Addr, k, who)
				}
				c.Close()
			}
		}
	}
	a.cancel() // the prober is gone
	w.must(<-a.ran)
	a.cancel = nil
	for _, prober := range a.plan.Probers() {
		for _, l := range own {
			if who, _ := askFrom(w.node, "udp", l.Addr, prober, 0); l.Addr.Is4() == prober.Is4() && who != nobody {
				t.Errorf("%s asked as the prober and was answered by %d", l.Addr, who)
			}
		}
	}
	w.until(w.pods[0], "udp", vip4, cluster, withdrawn)
	if c := a.status(t).Counters; c.Direct == 0 {
		t.Errorf("counters %+v", c)
	}
}

// The uplinks are those of the default routes, as they change, unless they are configured.
//
// Red when: look does not call uplinks.
func TestUplinksFollowDefaultRoutes(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config(patient))
	if got := a.status(t).Uplinks; len(got) != 1 || got[0] != "eth0" {
		t.Errorf("uplinks %q", got)
	}
	w.expect(w.pods[0], "udp", vip4, agentIs)
	link, err := w.node.Netlink().LinkByName("pod0")
	w.must(err)
	second := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IPv4(10, 97, 0, 2), Priority: 500}
	// A second default route goes by pod0's interface: what comes in there is a stranger's.
	w.must(w.node.Netlink().RouteAdd(second))
	w.until(w.pods[0], "udp", vip4, cluster, 2*time.Second)
	w.must(w.node.Netlink().RouteDel(second))
	w.until(w.pods[0], "udp", vip4, agentIs, 2*time.Second)
}
