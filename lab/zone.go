package lab

import (
	"hash/fnv"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Zone is what a scripted server knows of a part of the name space.
type Zone struct {
	Origin string // absolute, lower case
	TTL    uint32 // of every record, seconds
	// Upstream says that the server has to ask its own upstream for these names, and keeps what it hears for TTL.
	Upstream bool
	// Hosts are the names that exist, relative to the origin, and their addresses.
	Hosts map[string][]netip.Addr
	// Every says that every name below the origin exists, with one address of each family made from the name.
	Every bool
}

// The domains of every cluster, and the names used by the demo.
const (
	clusterDomain = "cluster.local."
	cloudDomain   = "eu-west-1.compute.internal."
)

// SearchList is what the kubelet writes into the resolv.conf of a pod in the namespace default, beside ndots:5.
var SearchList = []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local", "eu-west-1.compute.internal"}

// ClusterZones are the zones of the cluster DNS servers: the cluster's own names, the cloud's, which are known at once, and
// the internet's (example.com, example.net, nothing else), for which the server asks its upstream. TTLs are CoreDNS's, as kubeadm sets them.
func ClusterZones() []Zone {
	services := map[string][]netip.Addr{
		"kubernetes.default.svc":   {netip.MustParseAddr("172.20.0.1")},
		"kube-dns.kube-system.svc": {VIP},
	}
	for i, name := range []string{"web", "api", "db", "cache", "queue", "auth", "search", "mail"} {
		addr := netip.AddrFrom4([4]byte{172, 20, 1, byte(i + 1)})
		services[name+".default.svc"] = []netip.Addr{addr}
		services[name+".shop.svc"] = []netip.Addr{addr.Next()}
	}
	// A headless Service too large for an answer of 512 octets.
	for i := range 40 {
		many := services["many.shop.svc"]
		many = append(many, netip.AddrFrom4([4]byte{10, 244, 9, byte(i + 1)}))
		services["many.shop.svc"] = append(many, netip.AddrFrom16([16]byte{0xfd, 0x24, 0x40, 15: byte(i + 1)}))
	}
	return []Zone{
		{Origin: clusterDomain, TTL: 30, Hosts: services},
		{Origin: cloudDomain, TTL: 60, Hosts: map[string][]netip.Addr{"ip-10-0-0-1": {NodeAddr}}},
		{Origin: "example.com.", TTL: 30, Upstream: true, Every: true},
		{Origin: "example.net.", TTL: 30, Upstream: true, Every: true},
		{Origin: ".", TTL: 30, Upstream: true}, // denies everything else
	}
}

// find returns the zone with the longest origin that holds the name.
func find(zones []Zone, qname string) *Zone {
	var best *Zone
	for i := range zones {
		z := &zones[i]
		if dns.IsSubDomain(z.Origin, qname) && (best == nil || len(z.Origin) > len(best.Origin)) {
			best = z
		}
	}
	return best
}

// answer fills in the reply to a question that falls into the zone: its records, or a denial with the zone's SOA in the
// authority section (RFC 2308), as CoreDNS gives it.
func (z *Zone) answer(reply *dns.Msg, q dns.Question) {
	reply.Authoritative = !z.Upstream
	addrs, exists := z.lookup(strings.ToLower(q.Name))
	for _, a := range addrs {
		head := dns.RR_Header{Name: q.Name, Class: dns.ClassINET, Ttl: z.TTL}
		switch {
		case q.Qtype == dns.TypeA && a.Is4():
			head.Rrtype = dns.TypeA
			reply.Answer = append(reply.Answer, &dns.A{Hdr: head, A: a.AsSlice()})
		case q.Qtype == dns.TypeAAAA && a.Is6():
			head.Rrtype = dns.TypeAAAA
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: head, AAAA: a.AsSlice()})
		}
	}
	if !exists {
		reply.Rcode = dns.RcodeNameError
	}
	if len(reply.Answer) == 0 {
		reply.Ns = append(reply.Ns, z.soa())
	}
}

// lookup returns the addresses of a name and whether the name exists. A name above one that exists exists, too, as an empty
// non-terminal (RFC 4592 section 2.2.2).
func (z *Zone) lookup(qname string) ([]netip.Addr, bool) {
	if qname == z.Origin {
		return nil, true
	}
	relative := strings.TrimSuffix(strings.TrimSuffix(qname, z.Origin), ".")
	if z.Every {
		return addressesOf(relative), true
	}
	if addrs, ok := z.Hosts[relative]; ok {
		return addrs, true
	}
	for name := range z.Hosts {
		if strings.HasSuffix(name, "."+relative) {
			return nil, true
		}
	}
	return nil, false
}

func (z *Zone) soa() dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: z.Origin, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: z.TTL},
		Ns:  dns.Fqdn("ns.dns." + strings.TrimSuffix(z.Origin, ".")), Mbox: dns.Fqdn("hostmaster." + strings.TrimSuffix(z.Origin, ".")),
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: z.TTL,
	}
}

// addressesOf makes one address of each family, in the ranges for documentation and benchmarks (RFC 2544, RFC 3849).
func addressesOf(name string) []netip.Addr {
	h := fnv.New32a()
	h.Write([]byte(name))
	s := h.Sum32()
	return []netip.Addr{
		netip.AddrFrom4([4]byte{198, 18, byte(s >> 8), byte(s)}),
		netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 12: byte(s >> 24), 13: byte(s >> 16), 14: byte(s >> 8), 15: byte(s)}),
	}
}
