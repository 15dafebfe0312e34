package stubs

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/dnslet/dnslet/lab"
)

// broken are names for which cluster DNS itself fails, as it does when its own upstream is gone.
var broken = []string{"broken.example.net.", "broken.shop.svc.cluster.local."}

// asked counts questions by how they were asked.
type asked struct{ UDP, TCP uint64 }

// minus is what was asked since before.
func (a asked) minus(before asked) asked { return asked{a.UDP - before.UDP, a.TCP - before.TCP} }

// clusterDNS answers as CoreDNS does in what a stub resolver can see: AA for the names of the cluster alone, an SOA with every denial,
// aliases followed as far as it knows them, BADVERS, REFUSED to CHAOS and zone transfers, as many records as fit into what is truncated, no
// EDNS option echoed. As the servers of the lab do, it sets the bit Z in all it says, by which its answers are told from an agent's. It
// is the handler of several servers at once.
type clusterDNS struct {
	records map[string][]dns.RR // by owner, absolute and lower case

	podsUDP, podsTCP atomic.Uint64 // questions that came from pods: through kube-proxy
	others           atomic.Uint64 // and from the node's agent
}

func newClusterDNS(t *testing.T, file string) *clusterDNS {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := &clusterDNS{records: map[string][]dns.RR{}}
	zp := dns.NewZoneParser(f, ".", file)
	for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
		owner := strings.ToLower(rr.Header().Name)
		s.records[owner] = append(s.records[owner], rr)
	}
	if err := zp.Err(); err != nil {
		t.Fatal(err)
	}
	return s
}

// replace puts s in the place of a server of the cluster, until the test ends.
func (s *clusterDNS) replace(t *testing.T, old *lab.Server) {
	t.Helper()
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(old.Addr, 53).String()
	var servers [2]dns.Server
	if err := old.NS.Do(func() (err error) {
		if servers[0].PacketConn, err = net.ListenPacket("udp", at); err != nil {
			return err
		}
		servers[1].Listener, err = net.Listen("tcp", at)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for i := range servers {
		started, ended := make(chan struct{}), make(chan error, 1)
		servers[i].Handler = s
		servers[i].NotifyStartedFunc = func() { close(started) }
		go func() { ended <- servers[i].ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			_ = servers[i].Shutdown() // its error is that of a server that has ended, and that is asked for here
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// fromPods returns what pods have asked.
func (s *clusterDNS) fromPods() asked { return asked{s.podsUDP.Load(), s.podsTCP.Load()} }

// ServeDNS implements dns.Handler.
func (s *clusterDNS) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	from := netip.MustParseAddrPort(w.RemoteAddr().String()).Addr()
	tcp := w.RemoteAddr().Network() == "tcp"
	switch {
	case !lab.PodCIDR.Contains(from):
		s.others.Add(1)
	case tcp:
		s.podsTCP.Add(1)
	default:
		s.podsUDP.Add(1)
	}
	reply := new(dns.Msg).SetReply(req)
	reply.Zero = true
	s.fill(reply)
	size := dns.MinMsgSize
	if opt := req.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
		reply.SetEdns0(uint16(size), opt.Do())
		if opt.Version() != 0 {
			reply.Authoritative, reply.Answer, reply.Ns = false, nil, nil
			reply.Rcode = dns.RcodeBadVers
		}
	}
	if tcp {
		size = dns.MaxMsgSize
	}
	reply.Truncate(size)  // compresses what would not fit otherwise, and nothing else, as CoreDNS does
	_ = w.WriteMsg(reply) // a client that has gone is the client's affair
}

// fill answers the question of reply.
func (s *clusterDNS) fill(reply *dns.Msg) {
	q := reply.Question[0]
	if q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		reply.Rcode = dns.RcodeRefused
		return
	}
	name := strings.ToLower(q.Name)
	if slices.Contains(broken, name) {
		reply.Rcode = dns.RcodeServerFailure
		return
	}
	reply.RecursionAvailable = true
	reply.Authoritative = dns.IsSubDomain("cluster.local.", name)
	owner := q.Name
	for range 8 {
		records, exists := s.lookup(strings.ToLower(owner))
		next := ""
		for _, rr := range records {
			alias, _ := rr.(*dns.CNAME)
			if rr.Header().Rrtype != q.Qtype && alias == nil {
				continue
			}
			rr = dns.Copy(rr)
			rr.Header().Name = owner
			reply.Answer = append(reply.Answer, rr)
			if alias != nil && q.Qtype != dns.TypeCNAME {
				next = alias.Target
			}
		}
		if next != "" {
			owner = next
			continue
		}
		if !exists {
			reply.Rcode = dns.RcodeNameError
		}
		if n := len(reply.Answer); n == 0 || reply.Answer[n-1].Header().Rrtype != q.Qtype {
			reply.Ns = append(reply.Ns, s.soa(strings.ToLower(owner)))
		}
		return
	}
}

// lookup returns what a name has, and whether it exists: by itself, by a wildcard, or as an empty non-terminal.
func (s *clusterDNS) lookup(name string) ([]dns.RR, bool) {
	if records, ok := s.records[name]; ok {
		return records, true
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		if records, ok := s.records["*."+parent]; ok {
			return records, true
		}
	}
	for owner := range s.records {
		if dns.IsSubDomain(name, owner) {
			return nil, true
		}
	}
	return nil, false
}

// soa returns that of the zone which holds the name.
func (s *clusterDNS) soa(name string) dns.RR {
	for {
		for _, rr := range s.records[name] {
			if rr.Header().Rrtype == dns.TypeSOA {
				return rr
			}
		}
		_, parent, _ := strings.Cut(name, ".")
		name = dns.Fqdn(parent)
	}
}
