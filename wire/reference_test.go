package wire

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/net/dns/dnsmessage"
)

// reference is what an Answer should say, worked out on miekg's structs.
type reference struct {
	kind Kind
	soa  bool
	ttl  uint32
}

func refTTL(ttl uint32) uint32 {
	if ttl >= 1<<31 {
		return 0
	}
	return ttl
}

func refer(m *dns.Msg, rcode int) reference {
	var ref reference
	var firstSOA *dns.SOA
	for _, rr := range m.Ns {
		if s, ok := rr.(*dns.SOA); ok && firstSOA == nil {
			ref.soa, firstSOA = true, s
		}
	}
	q := m.Question[0]
	switch rcode {
	case dns.RcodeNameError:
		ref.kind = NXDomain
	case dns.RcodeSuccess:
		ref.kind = referNoError(m, q, ref.soa)
	default:
		ref.kind = Failure
	}
	if ref.kind == Failure || ref.kind == Other || ref.kind != Positive && !ref.soa {
		return ref
	}
	ref.ttl = 1<<31 - 1
	if ref.kind != Positive {
		ref.ttl = min(refTTL(firstSOA.Hdr.Ttl), refTTL(firstSOA.Minttl))
		for _, rr := range m.Ns { // one TTL per RRset, also for several SOAs
			if s, ok := rr.(*dns.SOA); ok && s.Hdr.Class == firstSOA.Hdr.Class && sameName(s.Hdr.Name, firstSOA.Hdr.Name) {
				ref.ttl = min(ref.ttl, refTTL(s.Hdr.Ttl))
			}
		}
	}
	for _, rr := range m.Answer {
		ref.ttl = min(ref.ttl, refTTL(rr.Header().Ttl))
	}
	return ref
}

func sameName(a, b string) bool { return dns.CanonicalName(a) == dns.CanonicalName(b) }

func referNoError(m *dns.Msg, q dns.Question, soa bool) Kind {
	name := q.Name
	hops := 0
	for ; hops < maxHops; hops++ {
		next := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if !sameName(h.Name, name) || h.Class != q.Qclass && q.Qclass != dns.ClassANY {
				continue
			}
			if h.Rrtype == q.Qtype || q.Qtype == dns.TypeANY {
				return Positive
			}
			if c, ok := rr.(*dns.CNAME); ok {
				next = c.Target
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	switch {
	case hops == maxHops || hops == 0 && len(m.Answer) > 0:
		return Other
	case soa || len(m.Answer) > 0:
		return NoData
	}
	for _, rr := range m.Ns {
		if rr.Header().Rrtype == dns.TypeNS {
			return Other
		}
	}
	return NoData
}

// records returns all records of m up to an OPT.
func records(m *dns.Msg) []dns.RR {
	all := append(append([]dns.RR(nil), m.Answer...), m.Ns...)
	for _, rr := range m.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			break
		}
		all = append(all, rr)
	}
	return all
}

// checkReply compares the reply with the response that it was made from.
func checkReply(t *testing.T, data, got []byte, a *Answer, r *Reply) {
	t.Helper()
	// Our own eyes: the tail is as valid as before.
	b := new(Answer)
	if err := b.Parse(got, Question(got)); err != nil {
		t.Fatalf("%x cannot be read again: %v", got, err)
	}
	if b.ANCount > a.ANCount || b.NSCount > a.NSCount || b.ARCount > a.ARCount {
		t.Fatalf("more records in %x than in %x", got, data)
	}
	if cut := b.ANCount < a.ANCount || b.NSCount < a.NSCount; b.Truncated != (cut || a.Truncated) {
		t.Fatalf("TC %v in %x, made from %x", b.Truncated, got, data)
	}
	m := new(dns.Msg)
	if m.Unpack(data) != nil {
		return
	}
	back := new(dns.Msg)
	if err := back.Unpack(got); err != nil {
		t.Fatalf("miekg/dns reads %x, but not the reply %x: %v", data, got, err)
	}
	was, is := records(m), records(back)
	if len(was) < len(is) {
		t.Fatalf("more records in %x than in %x", got, data)
	}
	for i, rr := range is {
		want := uint32(0)
		if a.TTLs[i].TTL > r.Age {
			want = min(a.TTLs[i].TTL-r.Age, r.TTLCap)
		}
		if rr.Header().Ttl != want {
			t.Fatalf("record %d of %x: TTL %d, want %d", i, got, rr.Header().Ttl, want)
		}
		w := was[i]
		if a.TTLs[i].Spin {
			w = turned(was, a, i, r.Rotate)
		}
		if wildNames(w.Header().Rrtype) {
			continue
		}
		if !dns.IsDuplicate(rr, w) && !equalButCase(rr, w) {
			t.Fatalf("record %d: %v, want %v\nreply %x\nfrom %x", i, rr, w, got, data)
		}
	}
	checkMessage(t, data, got)
}

// turned is the record whose address stands in place i once the set is turned.
func turned(was []dns.RR, a *Answer, i int, turn uint32) dns.RR {
	first, n := -1, 0
	for j := range a.TTLs {
		if a.TTLs[j].Spin {
			if first < 0 {
				first = j
			}
			n++
		}
	}
	return was[first+(i-first+int(turn%uint32(n)))%n]
}

// wildNames are types with names in places that are not looked into; none may
// be compressed (RFC 3597 section 4), so only a forged one could change with a
// TTL or the client's case.
func wildNames(t uint16) bool {
	switch t {
	case dns.TypeIPSECKEY, dns.TypeAMTRELAY, dns.TypeHIP, dns.TypeTKEY, dns.TypeTSIG, dns.TypeOPT:
		return true
	}
	return false
}

// equalButCase compares text forms; IsDuplicate knows no names in the RDATA of
// unknown types and minds empty ones.
func equalButCase(a, b dns.RR) bool {
	x, y := dns.Copy(a), dns.Copy(b)
	x.Header().Ttl, y.Header().Ttl = 0, 0
	return strings.EqualFold(x.String(), y.String())
}

// checkMessage: what dnsmessage reads in data it reads in the reply.
func checkMessage(t *testing.T, data, got []byte) {
	t.Helper()
	var was, is dnsmessage.Message
	if was.Unpack(data) != nil {
		return
	}
	if err := is.Unpack(got); err != nil {
		t.Fatalf("dnsmessage reads %x, but not the reply %x: %v", data, got, err)
	}
	if len(is.Answers) > len(was.Answers) || len(is.Authorities) > len(was.Authorities) {
		t.Fatalf("more records in %x than in %x", got, data)
	}
	for i := range is.Answers {
		x, y := is.Answers[i].Header, was.Answers[i].Header
		if !strings.EqualFold(x.Name.String(), y.Name.String()) || x.Type != y.Type || x.Class != y.Class {
			t.Fatalf("answer %d: %v, want %v", i, x, y)
		}
	}
}
