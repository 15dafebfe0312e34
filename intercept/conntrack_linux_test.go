package intercept_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"

	"github.com/dnslet/dnslet/intercept"
)

// newFlows runs fn and returns the conntrack entries that the node made meanwhile, as its NEW events tell.
func (w *world) newFlows(fn func()) []string {
	w.t.Helper()
	var c *conntrack.Conn
	events := make(chan conntrack.Event, 4096)
	var failed chan error
	w.must(w.node.Do(func() (err error) {
		if c, err = conntrack.Dial(&netlink.Config{}); err != nil {
			return err
		}
		failed, err = c.Listen(events, 1, []netfilter.NetlinkGroup{netfilter.GroupCTNew})
		return err
	}))
	defer c.Close()
	fn()
	// Events come in order: after that of a flow of our own there are no others to wait for.
	w.must(w.node.Do(func() error {
		s, err := net.Dial("udp", "10.98.0.2:9")
		if err != nil {
			return err
		}
		defer s.Close()
		_, err = s.Write([]byte("the end"))
		return err
	}))
	var flows []string
	late := time.After(5 * time.Second)
	for {
		select {
		case e := <-events:
			to := e.Flow.TupleOrig
			if to.Proto.DestinationPort == 9 {
				return flows
			}
			flows = append(flows, fmt.Sprintf("%s:%d -> %s:%d protocol %d", to.IP.SourceAddress, to.Proto.SourcePort,
				to.IP.DestinationAddress, to.Proto.DestinationPort, to.Proto.Protocol))
		case err := <-failed:
			w.t.Fatalf("conntrack events: %v", err)
		case <-late:
			w.t.Fatal("the last conntrack event did not come")
		}
	}
}

// entries returns what conntrack holds about DNS now.
func (w *world) entries() []string {
	w.t.Helper()
	var out []string
	w.must(w.node.Do(func() error {
		c, err := conntrack.Dial(&netlink.Config{})
		if err != nil {
			return err
		}
		defer c.Close()
		flows, err := c.Dump(nil)
		for _, f := range flows {
			if p := f.TupleOrig.Proto; p.DestinationPort == 53 || p.SourcePort == 53 {
				out = append(out, fmt.Sprintf("%s -> %s", f.TupleOrig.IP.SourceAddress, f.TupleOrig.IP.DestinationAddress))
			}
		}
		return err
	}))
	return out
}

// Neither a lookup that the agent serves, nor its prober, nor its upstream leg makes a conntrack entry. kube-proxy's way does,
// and the agent's own sockets do without our rules.
//
// Red when: any untrack of the rules is left out.
func TestNoConntrack(t *testing.T) {
	w := newWorld(t)
	lookups := func(n int, who byte) {
		for range n {
			for _, vip := range vips {
				for _, network := range []string{"udp", "tcp"} {
					w.expect(w.pods[0], network, vip, who)
					w.expect(w.node, network, vip, who)
				}
			}
		}
	}
	upstream := func(n int) {
		for range n {
			for _, e := range endpoints {
				for _, network := range []string{"udp", "tcp"} {
					if who, err := askFrom(w.node, network, e.Addr(), netip.Addr{}, 0x54); who != cluster {
						t.Errorf("endpoint %s by %s: answered by %d, %v", e, network, who, err)
					}
				}
			}
		}
	}
	if flows := w.newFlows(func() { lookups(1, cluster); upstream(1) }); len(flows) != 16+4 {
		t.Errorf("without an agent, %d entries, want %d: %q", len(flows), 16+4, flows)
	}
	w = newWorld(t) // a connection that ends late leaves an entry behind
	var a *agent
	flows := w.newFlows(func() {
		a = w.agent(config(patient))
		lookups(40, agentIs)
		upstream(80)
	})
	if len(flows) > 0 {
		t.Errorf("with the agent, %d entries: %q", len(flows), flows[:min(len(flows), 8)])
	}
	if found := w.entries(); len(found) > 0 {
		t.Errorf("with the agent, conntrack holds %q", found)
	}
	if c := a.status(t).Counters; c.Upstream == 0 || c.Probes == 0 || c.Stray > 0 {
		t.Errorf("counters %+v", c)
	}

	// Beside it, kube-proxy's way to the same endpoint is tracked as ever, and answered.
	w.must(a.i.SetBypass(prefixes("10.97.0.0/24", "fd00:97::/64")))
	flows = w.newFlows(func() {
		for _, vip := range vips {
			w.expect(w.pods[0], "udp", vip, cluster)
			w.expect(w.pods[0], "tcp", vip, cluster)
		}
		upstream(1)
	})
	if len(flows) != 8 || slices.ContainsFunc(flows, func(f string) bool { return f[:5] != "10.97" && f[:7] != "fd00:97" }) {
		t.Errorf("a bypassed pod beside the upstream leg: %q", flows)
	}
}

// Endpoints that come later are untracked too, and those that went are tracked again.
//
// Red when: SetEndpoints does not fill the set endpoints.
func TestEndpointsChange(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config(patient, func(c *intercept.Config) { c.Endpoints = nil }))
	one := func() {
		if who, err := askFrom(w.node, "udp", endpoints[0].Addr(), netip.Addr{}, 0x54); who != cluster {
			t.Errorf("answered by %d, %v", who, err)
		}
	}
	if flows := w.newFlows(one); len(flows) != 1 {
		t.Errorf("before: %q", flows)
	}
	w.must(a.i.SetEndpoints(endpoints))
	if flows := w.newFlows(one); len(flows) != 0 {
		t.Errorf("with the endpoint: %q", flows)
	}
	w.must(a.i.SetEndpoints(nil))
	if flows := w.newFlows(one); len(flows) != 1 {
		t.Errorf("after: %q", flows)
	}
}
