package intercept

import (
	"net/netip"
	"slices"
	"time"
)

// The rules, for one family. `dnslet status` and Plan.String print them in the words of nft; testdata/plan.txt shows them whole.
//
//  1. In raw, before conntrack, a question to VIP:53 gets one of our own addresses as its destination and is not tracked; the
//     answer gets the VIP back on its way out. It is stateless and per packet, so nothing sticks to a dead agent. `accept`
//     means: on to whatever the node does with the packet next, kube-proxy when we have left it alone.
//  2. A question is ours only while, for its listener and transport, an answer to the prober was seen within the heartbeat
//     (@alive), our address is local (fib), and a socket with our mark will receive it. The output hook cannot look for a
//     socket; there the owned table and @alive stand alone.
//  3. @alive is renewed by the kernel, in chain probed, when it sees our answer to the prober's own address. Only sockets with
//     our mark may ask from there: a stranger's question must not keep a withdrawn agent alive.
//  4. TCP: the SYN decides, and @flows keeps the connection where it began. No condition is looked at again: a packet in the
//     middle of a connection that fell to kube-proxy would be translated as a new flow and reset. In particular the third
//     packet of a handshake meets a request socket, which has no mark to match.
//  5. Sets of flows are keyed by source, port and VIP: a client may use one port towards two VIPs.
//  6. The upstream leg, straight to the endpoints, is not tracked: our mark on the way out, a socket with our mark on the way
//     back, so that answers to flows that kube-proxy translated are left to conntrack.

// rawPriority is just before raw (-300) and conntrack (-200), so that nobody's raw rules see the VIP rewritten only halfway.
const rawPriority = -301

const (
	// A connection whose handshake does not end is forgotten soon: one pod's SYNs must not fill the set for two minutes.
	handshakeLife = 10 * time.Second
	// An established connection may be idle for so long. Listeners end idle connections earlier.
	flowLife = 2 * time.Minute
	// The last ACKs and retransmissions after FIN or RST.
	closingLife = 10 * time.Second
	// The limit of a source is forgotten after so long without a question.
	rateLife = 10 * time.Second
	setSize  = 65536
)

// feature is what a kernel may lack.
type feature uint8

const (
	noFeature     feature = iota
	featureOwner          // NFT_TABLE_F_OWNER, Linux 5.12
	featureSocket         // nft_socket
	featureFib            // nft_fib
)

// rule is the terms of one rule. Without the feature that it needs, the whole rule is left out; a single term that needs a
// missing feature is left out alone.
type rule struct {
	needs feature
	terms []term
}

var (
	flowKey    = key{saddr, sport, daddr}
	questionTo = key{daddr, l4proto, dport}
	answerFrom = key{saddr, l4proto, sport}
	accept     = verdict{kind: "accept"}
	drop       = verdict{kind: "drop"}
)

func jump(to string) verdict { return verdict{"jump", to} }
func goTo(to string) verdict { return verdict{"goto", to} }
func all(terms ...term) rule { return rule{terms: terms} }
func exactly(f *family, x field, a netip.Addr) term {
	return inPrefix{field: x, prefix: netip.PrefixFrom(a, a.BitLen())}
}

// counterNames are the counters of each table, in the order of Counters.
var counterNames = []string{"matched", "served", "stream", "answers", "unserved", "limited", "bypassed", "scope",
	"resolvers", "uplink", "loopback", "lastresort", "upstream", "probes", "direct", "stray"}

func newTable(cfg *Config, f *family) *table {
	t := &table{name: cfg.Table, family: f, counters: counterNames, sets: newSets(cfg, f)}
	t.chains = append(t.chains, podChains(cfg, f)...)
	t.chains = append(t.chains, commonChains(cfg)...)
	t.chains = append(t.chains, nodeChains(cfg, f)...)
	t.chains = append(t.chains, answerChains(f)...)
	return t
}

func newSets(cfg *Config, f *family) []*set {
	addr, service := []kind{kindAddr}, []kind{kindAddr, kindProto, kindPort}
	flow := []kind{kindAddr, kindPort, kindAddr}
	listeners := &set{name: "listeners", types: addr, mapped: true}
	vips := &set{name: "vips", types: addr, mapped: true}
	services := &set{name: "services", types: service}
	ours := &set{name: "ours", types: service}
	for _, l := range f.listeners {
		listeners.elems = append(listeners.elems, elem{addr: l.VIP, to: l.Addr})
		vips.elems = append(vips.elems, elem{addr: l.Addr, to: l.VIP})
		for _, p := range []Transport{UDP, TCP} {
			services.elems = append(services.elems, elem{addr: l.VIP, proto: p, port: dnsPort})
			ours.elems = append(ours.elems, elem{addr: l.Addr, proto: p, port: dnsPort})
		}
	}
	return []*set{
		listeners, vips, services, ours,
		{name: "alive", types: []kind{kindAddr, kindProto}, dynamic: true, timeout: cfg.Heartbeat, size: 64},
		{name: "flows", types: flow, dynamic: true, timeout: flowLife, size: setSize},
		{name: "closing", types: flow, dynamic: true, timeout: closingLife, size: setSize},
		{name: "rate", types: addr, dynamic: true, timeout: rateLife, size: setSize},
		{name: "endpoints", types: service, elems: endpointElems(f, cfg.Endpoints)},
		{name: "resolvers", types: addr, elems: resolverElems(f, cfg.Endpoints)},
		{name: "uplinks", types: []kind{kindLink}, elems: linkElems(cfg.Uplinks)},
		{name: "bypass", types: addr, interval: true, elems: prefixElems(f, cfg.Bypass)},
		{name: "scope", types: addr, interval: true, elems: scopeElems(f, cfg.Scope)},
	}
}

// podChains decide about what comes in by an interface.
func podChains(cfg *Config, f *family) []*chain {
	return append([]*chain{
		{name: "prerouting", typ: "filter", hook: "prerouting", priority: rawPriority, rules: []rule{
			all(inPrefix{field: daddr, prefix: f.block}, notFrom{"lo"}, count{"direct"}, drop),
			{featureSocket, []term{inSet{answerFrom, "endpoints"}, socketIs{cfg.Marks.Upstream}, count{"upstream"}, untrack{}, accept}},
			all(inSet{questionTo, "services"}, goTo("questions")),
		}},
		{name: "questions", about: "questions and TCP packets to a VIP", rules: []rule{
			all(fromLink{"lo"}, accept), // the node's own were decided in chain node
			all(count{"matched"}),
			all(fromLinks{"uplinks"}, count{"uplink"}, accept),
			all(isProto{UDP}, goTo("datagram")),
			all(flagsAre{fin | syn | rst | ack, syn}, goTo("handshake")),
			all(goTo("stream")),
		}},
	}, deciders("", socketIs{cfg.Marks.Listener})...)
}

// deciders give a datagram or a connection to us, or leave it alone. receiver is how the chain knows that a socket of ours will
// receive it: on the way in only, as the output hook cannot look for one.
func deciders(prefix string, receiver ...term) []*chain {
	served := all(slices.Concat([]term{inSet{key{daddr, l4proto}, "alive"}, isLocal{}}, receiver, []term{count{"served"}, untrack{}, accept})...)
	return []*chain{
		{name: prefix + "datagram", rules: []rule{
			all(jump("screen")),
			all(translate{daddr, "listeners"}),
			served,
			all(translate{daddr, "vips"}),
			all(count{"unserved"}),
		}},
		{name: prefix + "handshake", about: "the SYN decides", rules: []rule{
			all(remove{"flows", flowKey}),
			all(remove{"closing", flowKey}),
			all(jump("screen")),
			// The element is made before the conditions are known, since its key is the VIP that clients see, and taken
			// away again when they do not hold. A full set ends the rule: the connection is kube-proxy's.
			all(update{"flows", flowKey, handshakeLife}, translate{daddr, "listeners"}),
			served,
			all(translate{daddr, "vips"}),
			all(remove{"flows", flowKey}),
			all(count{"unserved"}),
		}},
	}
}

// commonChains serve pods and the node alike.
func commonChains(cfg *Config) []*chain {
	return []*chain{
		{name: "screen", about: "sources that are never ours, or not now", rules: []rule{
			all(inSet{key{saddr}, "resolvers"}, count{"resolvers"}, accept),
			all(inSet{key{saddr}, "bypass"}, count{"bypassed"}, accept),
			all(notInSet{key{saddr}, "scope"}, count{"scope"}, accept),
			all(overLimit{cfg.Rate}, count{"limited"}, accept),
		}},
		{name: "stream", about: "a connection stays where it began", rules: []rule{
			// What moves a connection puts it into @closing before it takes it out of @flows, so who looks on another CPU
			// looks the other way round: else a packet finds it in neither, and is tracked.
			all(inSet{flowKey, "flows"}, flagsAny{fin | rst}, update{"closing", flowKey, 0}, remove{"flows", flowKey},
				translate{daddr, "listeners"}, count{"stream"}, untrack{}, accept),
			// Looking an element up does not lengthen its life: renew it, or it ends under a living connection.
			all(inSet{flowKey, "flows"}, update{"flows", flowKey, 0}, translate{daddr, "listeners"}, count{"stream"}, untrack{}, accept),
			all(inSet{flowKey, "closing"}, translate{daddr, "listeners"}, count{"stream"}, untrack{}, accept),
		}},
	}
}

// nodeChains decide about what processes of the node itself send. A chain of type route: with another destination the packet
// needs another route.
func nodeChains(cfg *Config, f *family) []*chain {
	return append([]*chain{
		{name: "node", typ: "route", hook: "output", priority: rawPriority, rules: []rule{
			{featureSocket, []term{inSet{questionTo, "endpoints"}, isMark{cfg.Marks.Upstream}, count{"upstream"}, untrack{}, accept}},
			all(inPrefix{field: daddr, prefix: f.block}, goTo("own")),
			all(inSet{questionTo, "services"}, goTo("node_questions")),
		}},
		{name: "own", about: "nobody but the prober asks our addresses", rules: []rule{
			all(exactly(f, saddr, f.prober), isMark{cfg.Marks.Listener}, isLocal{}, untrack{}, accept),
			all(exactly(f, daddr, f.prober), inPrefix{field: saddr, prefix: f.block}, accept), // chain probed goes on
			all(count{"direct"}, drop),
		}},
		{name: "node_questions", rules: []rule{
			all(count{"matched"}),
			all(isMark{cfg.Marks.LastResort}, count{"lastresort"}, accept),
			// kube-proxy and the kubelet drop what a loopback address sends to another one: our answer could not return.
			all(inPrefix{field: saddr, prefix: f.loopback}, count{"loopback"}, accept),
			all(isProto{UDP}, goTo("node_datagram")),
			all(flagsAre{fin | syn | rst | ack, syn}, goTo("node_handshake")),
			all(goTo("stream")),
		}},
	}, deciders("node_")...)
}

// answerChains see what leaves from our addresses.
func answerChains(f *family) []*chain {
	return []*chain{
		{name: "answers", typ: "filter", hook: "output", priority: rawPriority, rules: []rule{
			all(inPrefix{field: saddr, prefix: f.block, not: true}, accept),
			all(exactly(f, daddr, f.prober), goTo("probed")),
			all(exactly(f, saddr, f.prober), inPrefix{field: daddr, prefix: f.block}, accept), // chain own let it pass
			all(inSet{answerFrom, "ours"}, translate{saddr, "vips"}, count{"answers"}, untrack{}, accept),
			all(count{"stray"}, drop), // ICMP errors from an address that the client has never asked
		}},
		{name: "probed", about: "the agent answers: it is alive", rules: []rule{
			all(isProto{UDP}, inSet{answerFrom, "ours"}, update{"alive", key{saddr, l4proto}, 0}, count{"probes"}),
			all(flagsAre{fin | syn | rst | psh, psh}, inSet{answerFrom, "ours"}, update{"alive", key{saddr, l4proto}, 0}, count{"probes"}),
			all(untrack{}, accept),
		}},
	}
}

func endpointElems(f *family, endpoints []netip.AddrPort) []elem {
	var out []elem
	for _, e := range distinct(endpoints) {
		if f.holds(e.Addr()) {
			out = append(out, elem{addr: e.Addr(), proto: UDP, port: e.Port()}, elem{addr: e.Addr(), proto: TCP, port: e.Port()})
		}
	}
	return out
}

func resolverElems(f *family, endpoints []netip.AddrPort) []elem {
	addrs := make([]netip.Addr, len(endpoints))
	for i, e := range endpoints {
		addrs[i] = e.Addr()
	}
	var out []elem
	for _, a := range distinct(addrs) {
		if f.holds(a) {
			out = append(out, elem{addr: a})
		}
	}
	return out
}

func linkElems(names []string) []elem {
	var out []elem
	for _, n := range distinct(names) {
		out = append(out, elem{link: n})
	}
	return out
}

// prefixElems leaves out prefixes that another one contains: the kernel refuses elements that overlap.
func prefixElems(f *family, prefixes []netip.Prefix) []elem {
	var kept []netip.Prefix
	for _, p := range prefixes {
		if p = p.Masked(); f.holds(p.Addr()) {
			kept = append(kept, p)
		}
	}
	slices.SortFunc(kept, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []elem
	for _, p := range kept {
		// Sorted so, whatever contains p came before it, and nothing that p does not lie in came between.
		if n := len(out); n == 0 || !out[n-1].prefix.Overlaps(p) {
			out = append(out, elem{prefix: p})
		}
	}
	return out
}

// scopeElems spells "everybody" out, so that the rules are the same with and without a scope and it can change in one
// transaction. A scope that names only the other family leaves this one empty.
func scopeElems(f *family, scope []netip.Prefix) []elem {
	if len(scope) == 0 {
		return []elem{{prefix: f.all}}
	}
	return prefixElems(f, scope)
}

// distinct keeps the first of equal values.
func distinct[T comparable](in []T) []T {
	seen := make(map[T]bool, len(in))
	var out []T
	for _, v := range in {
		if !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}
