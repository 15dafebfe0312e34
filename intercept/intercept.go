// Package intercept makes the DNS queries of a node's pods, and of the node itself, reach the agent on that node without
// conntrack and without DNAT, in a way that fails open whatever happens to the agent: the kernel decides per packet, by
// evidence that only a working agent can give, and otherwise leaves the packet to kube-proxy as if the agent were not there.
//
// The life of an interception, in the order in which the agent calls it:
//
//	plan, err := NewPlan(cfg)    // pure: which address of ours stands for which VIP, and the rules as data
//	i, err := Prepare(plan)      // the local route: sockets on plan.Listeners() can be bound, with Marks.Listener
//	err = i.Install()            // the table, one atomic transaction
//	err = i.Run(ctx, beat)       // the prober; nothing is intercepted before the agent answers it
//	err = i.Withdraw()           // new questions go to cluster DNS; what is open or queued still finishes
//	err = i.Close()              // table, then route
//
// How it works is told in rules.go, beside the rules themselves.
//
// The package reads and writes nftables (its own tables only), one route per family and sockets of its prober. It does not
// listen, resolve, watch the cluster, read configuration files, run another program or change anything else of the node.
package intercept

import (
	"errors"
	"net/netip"
	"time"
)

// Errors that callers branch on.
var (
	// ErrOwned says that a table of our name belongs to a live process other than this one.
	ErrOwned = errors.New("the interception table belongs to another live process")
	// ErrUnsupported is returned by everything that needs a kernel on systems other than Linux.
	ErrUnsupported = errors.New("interception needs Linux")
)

// Marks are the firewall marks (SO_MARK) by which the rules know our own sockets.
type Marks struct {
	Listener   uint32 // sockets that answer on the listener addresses, and the prober's
	Upstream   uint32 // connected sockets that ask cluster DNS endpoints directly
	LastResort uint32 // sockets that ask the VIP through kube-proxy; never intercepted
}

// Config is what an interception is made of. Start from Default: no field has a meaning for its zero value, except that
// empty lists are empty lists.
type Config struct {
	VIPs      []netip.Addr     // cluster DNS addresses whose port 53 is intercepted, at most ten per family
	Block4    netip.Prefix     // own IPv4 addresses, /24 to /28: +1 prober, +5 and up one listener per VIP
	Block6    netip.Prefix     // own IPv6 addresses, /120 to /124, likewise
	Marks     Marks            // all different, none zero
	Endpoints []netip.AddrPort // cluster DNS endpoints: asked untracked; as sources, never ours
	Uplinks   []string         // interfaces whose packets are never ours; empty: those of the default routes, watched
	Scope     []netip.Prefix   // sources that may be intercepted; empty: all
	Bypass    []netip.Prefix   // sources that are never intercepted
	Rate      uint32           // questions (datagrams and SYNs) per source and second; the excess goes to kube-proxy
	Heartbeat time.Duration    // an agent that has not answered its prober for so long is withdrawn by the kernel
	Table     string           // name of the nftables tables, one per family
	ProbeName string           // qname that the prober asks, presentation form; answered by the reader itself
}

// Default returns the configuration of a node without VIPs or endpoints.
func Default() Config {
	return Config{
		Block4:    netip.MustParsePrefix("169.254.53.48/28"),
		Block6:    netip.MustParsePrefix("fd64:6e73:6c65:74::30/124"),
		Marks:     Marks{Listener: 0x53, Upstream: 0x54, LastResort: 0x55},
		Rate:      20000,
		Heartbeat: 500 * time.Millisecond,
		Table:     "dnslet",
		ProbeName: "probe.dnslet.invalid.",
	}
}

// Listener is one address that the agent answers on, port 53, UDP and TCP. Sockets need SO_MARK Marks.Listener, and
// IP_FREEBIND or IPV6_FREEBIND: no interface holds the address.
type Listener struct {
	VIP  netip.Addr // what clients ask
	Addr netip.Addr // what the agent binds
}

// Transport is UDP or TCP.
type Transport uint8

// The transports, numbered as in the IP header.
const (
	TCP Transport = 6
	UDP Transport = 17
)

func (t Transport) String() string {
	switch t {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return "unknown"
}

// Alive is the kernel's view of one listener and transport: whether new questions are given to it now.
type Alive struct {
	Listener
	Transport Transport
	Alive     bool
}

// Counters count packets per decision, since Install, over both families.
type Counters struct {
	Matched    uint64 // questions and TCP packets to a VIP that were looked at, pods and node
	Served     uint64 // datagrams and SYNs given to the agent
	Stream     uint64 // later packets of TCP connections that the agent accepted
	Answers    uint64 // packets that left with the VIP as their source again
	Unserved   uint64 // left to kube-proxy: not alive, no socket of ours, or our route is gone
	Limited    uint64 // left to kube-proxy: above Rate
	Bypassed   uint64 // left to kube-proxy: source in Bypass
	OutOfScope uint64 // left to kube-proxy: source not in Scope
	Resolvers  uint64 // left to kube-proxy: a cluster DNS endpoint asked the VIP
	Uplink     uint64 // left to kube-proxy: came from an uplink
	Loopback   uint64 // left to kube-proxy: the node's own, from a loopback address
	LastResort uint64 // left to kube-proxy: our own last resort
	Upstream   uint64 // packets of the upstream leg that were not tracked, both ways
	Probes     uint64 // answers to the prober that renewed the heartbeat
	Direct     uint64 // dropped: somebody addressed our own addresses
	Stray      uint64 // dropped: left from our addresses and was no DNS answer (an ICMP error)
}

// Status is a snapshot for people and metrics.
type Status struct {
	Installed     bool     // the tables are in the kernel
	Owned         bool     // the kernel removes them when this process ends, and nobody else can
	Withdrawn     bool     // after Withdraw
	Alive         []Alive  // per listener and transport
	Counters      Counters // zero when not installed
	Uplinks       []string // in force
	RouteRestored uint64   // times that our route had gone and was put back
	TableRestored uint64   // times that un-owned tables had been flushed by somebody and were put back
	Lapses        uint64   // times that a listener and transport stopped answering the prober
	Missing       []string // kernel features that this node lacks, each with what is lost
	Reason        string   // why not everything is intercepted now; empty when all is well
}
