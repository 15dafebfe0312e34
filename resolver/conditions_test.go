package resolver

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/dnslet/dnslet/cache"
	"github.com/dnslet/dnslet/upstream"
)

// The conditions under which an answer may be given from a cache, one test for
// each, through the sockets.

// hand is a clock that a test moves.
type hand struct{ ns atomic.Int64 }

func (h *hand) move(d time.Duration) { h.ns.Add(int64(d)) }

func withHand(h *hand) option {
	h.ns.Store(int64(time.Hour))
	return withCache(func(c *cache.Config) { c.Now = h.ns.Load })
}

// Red when: AppendKey leaves out the DO bit.
func TestKeyTellsApartWhatChangesTheAnswer(t *testing.T) {
	u := &scripted{}
	s := runServer(t, u)
	plain := question("www.example.", dns.TypeA)
	do := question("www.example.", dns.TypeA)
	do.SetEdns0(1232, true)
	cd := question("www.example.", dns.TypeA)
	cd.CheckingDisabled = true
	edns := question("wWw.example.", dns.TypeA)
	edns.SetEdns0(1232, false)
	for i, c := range []struct {
		m    *dns.Msg
		want int // questions upstream so far
	}{{plain, 1}, {do, 2}, {cd, 3}, {edns, 3}, {plain, 3}, {do, 3}, {cd, 3}} {
		s.ask(t, "udp", c.m)
		if n := u.total(); n != c.want {
			t.Errorf("after question %d upstream was asked %d times, want %d", i, n, c.want)
		}
	}
}

// Red when: AppendReply takes AD from the reply whatever the client said.
func TestADOnlyForThoseWhoUnderstandIt(t *testing.T) {
	u := &scripted{handle: func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		r := answerAny(q)
		r.AuthenticatedData = true
		return r, nil
	}}
	s := runServer(t, u)
	if r := s.ask(t, "udp", question("www.example.", dns.TypeA)); r.AuthenticatedData {
		t.Error("AD for a client that did not ask for it")
	}
	m := question("www.example.", dns.TypeA)
	m.AuthenticatedData = true
	if r := s.ask(t, "udp", m); !r.AuthenticatedData {
		t.Error("no AD for a client that asked for it")
	}
}

// Red when: wire.Query.Cacheable forgets RD.
func TestRecursionNotDesiredIsForwardedAndNotKept(t *testing.T) {
	u := &scripted{}
	s := runServer(t, u)
	m := question("www.example.", dns.TypeA)
	m.RecursionDesired = false
	for range 2 {
		if r := s.ask(t, "udp", m); len(r.Answer) != 1 || r.RecursionDesired {
			t.Fatalf("got %v", r)
		}
	}
	if n := u.total(); n != 2 {
		t.Errorf("upstream was asked %d times, want 2", n)
	}
}

// manyAddresses answers with n addresses, 16 octets each, and one more section.
func manyAddresses(n int) func(context.Context, *dns.Msg) (*dns.Msg, error) {
	return func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		r := new(dns.Msg)
		r.SetReply(q)
		for i := range n {
			r.Answer = append(r.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30}, A: net.IPv4(10, 0, byte(i>>8), byte(i))})
		}
		return r, nil
	}
}

// CoreDNS does not compress what fits into the size that we ask with. Old musl never asks again by TCP: it is to get all
// that CoreDNS would have given it.
//
// Red when: wire.Answer.Parse does not shorten.
func TestUncompressedAnswersAreNotCutForIt(t *testing.T) {
	u := &scripted{raw: func(ctx context.Context, query []byte) ([]byte, error) {
		q := new(dns.Msg)
		if err := q.Unpack(query); err != nil {
			return nil, err
		}
		r, err := manyAddresses(25)(ctx, q)
		if err != nil {
			return nil, err
		}
		return r.Pack()
	}}
	s := runServer(t, u)
	for range 2 { // a miss and a hit
		if r := s.ask(t, "udp", question("web.prod.svc.cluster.local.", dns.TypeA)); r.Truncated || len(r.Answer) != 25 {
			t.Errorf("%d of 25 addresses, TC %v", len(r.Answer), r.Truncated)
		}
	}
}

// Red when: Server.send passes MaxMsg as the limit of a UDP reply.
func TestTransportsShareEntriesAndSizeIsSettledPerReply(t *testing.T) {
	u := &scripted{handle: manyAddresses(100)}
	s := runServer(t, u)
	if r := s.ask(t, "tcp", question("many.example.", dns.TypeA)); len(r.Answer) != 100 || r.Truncated {
		t.Errorf("by TCP %d of 100 addresses, TC %v", len(r.Answer), r.Truncated)
	}
	for _, c := range []struct{ size, limit, records int }{
		{0, 512, 30},     // no EDNS: 512 octets, 12 of header and 18 of question
		{100, 512, 29},   // less than 512 means 512; an OPT takes 11
		{700, 700, 41},   // what the client takes
		{4096, 1232, 74}, // never more than this
	} {
		m := question("many.example.", dns.TypeA)
		if c.size > 0 {
			m.SetEdns0(uint16(c.size), false)
		}
		b := exchangeRaw(t, s.dial(t, "udp"), pack(t, m))
		r := unpack(t, b)
		if len(b) > c.limit || !r.Truncated || len(r.Answer) != c.records {
			t.Errorf("size %d: %d octets, TC %v, %d records; want at most %d octets with %d records", c.size, len(b), r.Truncated, len(r.Answer), c.limit, c.records)
		}
	}
	if n := u.total(); n != 1 {
		t.Errorf("upstream was asked %d times, want 1", n)
	}
}

// Red when: settle keeps what cache.Put returns nil for.
func TestNotKept(t *testing.T) {
	for name, spoil := range map[string]func(*dns.Msg){
		"truncated": func(r *dns.Msg) { r.Truncated = true },
		"negative without SOA": func(r *dns.Msg) {
			r.Answer, r.Ns, r.Rcode = nil, nil, dns.RcodeNameError
		},
		"TTL 0":            func(r *dns.Msg) { r.Answer[0].Header().Ttl = 0 },
		"TTL with top bit": func(r *dns.Msg) { r.Answer[0].Header().Ttl = 1 << 31 },
		"for a client subnet": func(r *dns.Msg) {
			r.SetEdns0(1232, false)
			r.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, SourceScope: 24, Address: net.IPv4(10, 0, 0, 0)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := &scripted{handle: func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
				r := answerAny(q)
				spoil(r)
				return r, nil
			}}
			s := runServer(t, u)
			for range 2 {
				s.ask(t, "udp", question("www.example.", dns.TypeA))
			}
			if n := u.total(); n != 2 {
				t.Errorf("upstream was asked %d times, want 2", n)
			}
		})
	}
}

// Red when: answer looks into the cache whatever Cacheable says.
func TestNamesWithZeroOctetsAreForwardedAndNotKept(t *testing.T) {
	u := &scripted{}
	s := runServer(t, u)
	for range 2 {
		if r := s.ask(t, "udp", question(`a\000b.example.`, dns.TypeA)); r.Rcode != dns.RcodeSuccess {
			t.Fatalf("got %v", r)
		}
	}
	if n := u.total(); n != 2 {
		t.Errorf("upstream was asked %d times, want 2", n)
	}
}

// Red when: Entry.Fill leaves Age at 0.
func TestTTLsAge(t *testing.T) {
	var h hand
	s := runServer(t, &scripted{}, withHand(&h))
	var got []uint32
	for _, d := range []time.Duration{0, 10 * time.Second, 1500 * time.Millisecond} {
		h.move(d)
		got = append(got, s.ask(t, "udp", question("www.example.", dns.TypeA)).Answer[0].Header().Ttl)
	}
	if want := []uint32{300, 290, 289}; !cmp.Equal(got, want) {
		t.Errorf("TTLs %v, want %v", got, want)
	}
}

// Red when: the zone's lifetimes are not passed to Put.
func TestNegativesAreKeptForTheLeastOfSOAAndCap(t *testing.T) {
	var h hand
	u := &scripted{}
	s := runServer(t, u, withHand(&h), withCache(func(c *cache.Config) { c.MaxNegativeTTL = 20 * time.Second }))
	r := s.ask(t, "udp", question("nowhere.example.", dns.TypeA)) // the SOA says 30 s
	if r.Rcode != dns.RcodeNameError || len(r.Ns) != 1 || r.Ns[0].Header().Ttl != 20 {
		t.Errorf("got %v", r)
	}
	h.move(19 * time.Second)
	s.ask(t, "udp", question("nowhere.example.", dns.TypeA))
	if n := u.total(); n != 1 {
		t.Errorf("asked %d times within the 20 s, want 1", n)
	}
	h.move(2 * time.Second)
	s.ask(t, "udp", question("nowhere.example.", dns.TypeA))
	if n := u.total(); n != 2 {
		t.Errorf("asked %d times after the 20 s, want 2", n)
	}
}

// Red when: cache.Put stores a failure in place of what may be served stale.
func TestStaleInPlaceOfAFailure(t *testing.T) {
	for _, c := range []struct {
		name, qname string
		ede         uint16
	}{
		{"positive", "www.example.", dns.ExtendedErrorCodeStaleAnswer},
		{"negative", "nowhere.example.", dns.ExtendedErrorCodeStaleNXDOMAINAnswer},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h hand
			var down atomic.Bool
			u := &scripted{handle: func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
				if down.Load() {
					return nil, upstream.ErrUnreachable
				}
				return answerAny(q), nil
			}}
			s := runServer(t, u, withHand(&h))
			fresh := s.ask(t, "udp", question(c.qname, dns.TypeA))
			h.move(10 * time.Minute)
			down.Store(true)
			m := question(c.qname, dns.TypeA)
			m.SetEdns0(1232, false)
			r := s.ask(t, "udp", m)
			if r.Rcode != fresh.Rcode || len(r.Answer) != len(fresh.Answer) || ede(r) != c.ede {
				t.Fatalf("got %v", r)
			}
			for _, rr := range append(r.Answer, r.Ns...) {
				if rr.Header().Ttl > 30 {
					t.Errorf("stale TTL of %d", rr.Header().Ttl)
				}
			}
			if s.ask(t, "udp", m); u.total() != 2 {
				t.Errorf("asked %d times, want 2: upstream failed a moment ago", u.total())
			}
			if st := s.Stats(); st.Sum(Stale) != 2 {
				t.Errorf("%d stale answers counted, want 2", st.Sum(Stale))
			}
		})
	}
}

// Red when: answer treats cache.Failed like cache.Gone.
func TestFailuresAreRemembered(t *testing.T) {
	var h hand
	u := &scripted{handle: func(context.Context, *dns.Msg) (*dns.Msg, error) { return nil, upstream.ErrTimeout }}
	s := runServer(t, u, withHand(&h))
	m := question("www.example.", dns.TypeA)
	m.SetEdns0(1232, false)
	if r := s.ask(t, "udp", m); r.Rcode != dns.RcodeServerFailure || ede(r) != dns.ExtendedErrorCodeNoReachableAuthority {
		t.Errorf("first: got %v", r)
	}
	if r := s.ask(t, "udp", m); r.Rcode != dns.RcodeServerFailure || ede(r) != dns.ExtendedErrorCodeCachedError {
		t.Errorf("second: got %v", r)
	}
	if n := u.total(); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
	h.move(1100 * time.Millisecond)
	if s.ask(t, "udp", m); u.total() != 2 {
		t.Errorf("asked %d times after the failure's 1 s, want 2", u.total())
	}
}

// An outage ends with its cause: what was remembered of it is void.
//
// Red when: answer does not compare epochs.
func TestRecoveryVoidsFailures(t *testing.T) {
	var h hand
	var down atomic.Bool
	down.Store(true)
	u := &scripted{handle: func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		if down.Load() {
			return nil, upstream.ErrTimeout
		}
		return answerAny(q), nil
	}}
	s := runServer(t, u, withHand(&h))
	s.ask(t, "udp", question("www.example.", dns.TypeA))
	down.Store(false)
	if r := s.ask(t, "udp", question("www.example.", dns.TypeA)); r.Rcode != dns.RcodeServerFailure {
		t.Fatalf("the failure is not remembered: %v", r)
	}
	u.epoch.Add(1)
	if r := s.ask(t, "udp", question("www.example.", dns.TypeA)); r.Rcode != dns.RcodeSuccess {
		t.Errorf("after the recovery: %v", r)
	}
}

// Red when: AppendReply adds an OPT whatever the client sent.
func TestEDNSIsHopByHop(t *testing.T) {
	var seen atomic.Pointer[dns.Msg]
	u := &scripted{handle: func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		seen.Store(q)
		r := answerAny(q)
		r.SetEdns0(4096, false)
		r.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: "abcd"}}
		return r, nil
	}}
	s := runServer(t, u)
	if r := s.ask(t, "udp", question("www.example.", dns.TypeA)); r.IsEdns0() != nil {
		t.Errorf("an OPT for a client that sent none: %v", r)
	}
	m := question("two.example.", dns.TypeA)
	m.SetEdns0(4096, false)
	m.IsEdns0().Option = []dns.EDNS0{
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(10, 1, 2, 0)},
		&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("secret")},
	}
	r := s.ask(t, "udp", m)
	opt := r.IsEdns0()
	if opt == nil || opt.UDPSize() != 1232 || opt.Version() != 0 || len(opt.Option) != 0 {
		t.Errorf("got %v, want an OPT of ours without options", r)
	}
	if o := seen.Load().IsEdns0(); o == nil || o.UDPSize() != 1232 || len(o.Option) != 0 {
		t.Errorf("upstream was asked %v, want an OPT of ours without options", seen.Load())
	}
	m.IsEdns0().Option = nil
	m.IsEdns0().SetVersion(1)
	if r := s.ask(t, "udp", m); r.Rcode != dns.RcodeBadVers || r.IsEdns0().Version() != 0 {
		t.Errorf("version 1: got %v, want BADVERS", r)
	}
}

// Red when: send leaves Keepalive as it is for UDP.
func TestKeepaliveOnlyByTCP(t *testing.T) {
	s := runServer(t, &scripted{}, withLimits(func(l *Limits) { l.TCPIdle = 20 * time.Second }))
	m := question("www.example.", dns.TypeA)
	m.SetEdns0(1232, false)
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}}
	for i := range 40 { // a miss and a hit by TCP, then by UDP, with what TCP has used before
		network, want := "tcp", uint16(200)
		if i%4 > 1 {
			network, want = "udp", 0
		}
		var got uint16
		m.Question[0].Name = fmt.Sprintf("www%d.example.", i/2)
		for _, o := range s.ask(t, network, m).IsEdns0().Option {
			if k, ok := o.(*dns.EDNS0_TCP_KEEPALIVE); ok {
				got = k.Timeout
			}
		}
		if got != want {
			t.Errorf("%s: keepalive of %d, want %d", network, got, want)
		}
	}
}

// Red when: Reply.Flags drops AA, or the header copies the upstream's.
func TestHeaderFlags(t *testing.T) {
	u := &scripted{handle: func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		r := answerAny(q)
		r.Authoritative = strings.HasSuffix(q.Question[0].Name, "cluster.local.")
		r.RecursionAvailable = false
		r.Zero = true
		return r, nil
	}}
	s := runServer(t, u)
	for name, aa := range map[string]bool{"web.default.svc.cluster.local.": true, "www.example.": false} {
		for range 2 { // a miss and a hit
			r := s.ask(t, "udp", question(name, dns.TypeA))
			if !r.RecursionAvailable || r.Zero || r.Authoritative != aa || !r.RecursionDesired {
				t.Errorf("%s: got %v; want AA %v, RA, no Z", name, r.MsgHdr, aa)
			}
		}
	}
}

// Red when: send does not turn the records.
func TestAddressesRotate(t *testing.T) {
	s := runServer(t, &scripted{handle: manyAddresses(3)})
	first := map[string]bool{}
	for range 12 {
		r := s.ask(t, "udp", question("headless.example.", dns.TypeA))
		if len(r.Answer) != 3 {
			t.Fatalf("got %v", r)
		}
		first[r.Answer[0].(*dns.A).A.String()] = true
	}
	if len(first) != 3 {
		t.Errorf("12 answers began with only %d of 3 addresses", len(first))
	}
}

// Red when: local leaves ANY to upstream.
func TestANYIsAnsweredMinimally(t *testing.T) {
	u := &scripted{}
	s := runServer(t, u)
	r := s.ask(t, "udp", question("www.example.", dns.TypeANY))
	if len(r.Answer) != 1 || u.total() != 0 {
		t.Fatalf("got %v, upstream asked %d times", r, u.total())
	}
	if h, ok := r.Answer[0].(*dns.HINFO); !ok || h.Cpu != "RFC8482" {
		t.Errorf("got %v, want an HINFO that names RFC 8482", r.Answer[0])
	}
}

// Red when: below compares without the border of a label.
func TestNamesAnsweredHere(t *testing.T) {
	u := &scripted{}
	s := runServer(t, u)
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		want  string
	}{
		{ProbeName, dns.TypeA, dns.RcodeSuccess, "127.0.0.53"},
		{"Probe.DNSlet.INVALID.", dns.TypeA, dns.RcodeSuccess, "127.0.0.53"},
		{ProbeName, dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"localhost.", dns.TypeA, dns.RcodeSuccess, "127.0.0.1"},
		{"a.b.localhost.", dns.TypeAAAA, dns.RcodeSuccess, "::1"},
		{"localhost.", dns.TypeMX, dns.RcodeSuccess, ""},
		{"x.invalid.", dns.TypeA, dns.RcodeNameError, ""},
		{"invalid.", dns.TypeTXT, dns.RcodeNameError, ""},
	} {
		r := s.ask(t, "udp", question(c.name, c.qtype))
		got := ""
		for _, rr := range r.Answer {
			got += strings.TrimPrefix(rr.String(), rr.Header().String())
		}
		if r.Rcode != c.rcode || got != c.want {
			t.Errorf("%s %s: %s %q, want %s %q", c.name, dns.TypeToString[c.qtype], dns.RcodeToString[r.Rcode], got, dns.RcodeToString[c.rcode], c.want)
		}
		if got == "" && len(r.Ns) != 1 {
			t.Errorf("%s %s: no SOA with the negative answer: %v", c.name, dns.TypeToString[c.qtype], r)
		}
	}
	if n := u.total(); n != 0 {
		t.Errorf("upstream was asked %d times", n)
	}
	for _, name := range []string{"notlocalhost.", "localhost.example.", `x\009localhost.`, "probe.dnslet.example."} {
		s.ask(t, "udp", question(name, dns.TypeA))
	}
	if n := u.total(); n != 4 {
		t.Errorf("upstream was asked %d of 4 names that are none of ours", n)
	}
}

// Red when: a reply's rcode is counted under another's.
func TestEveryQuestionHasOneOutcome(t *testing.T) {
	s := runServer(t, &scripted{})
	for i := range 5 {
		s.ask(t, "udp", question(fmt.Sprintf("no-%d.example.", i%3), dns.TypeA))
		s.ask(t, "tcp", question("www.example.", dns.TypeA))
	}
	st := s.Stats()
	for _, n := range []Transport{UDP, TCP} {
		var sum uint64
		for _, o := range st.Outcomes[n] {
			sum += o
		}
		if sum != 5 || st.Queries[n] != 5 {
			t.Errorf("%v: %d questions, %d outcomes, want 5 and 5", n, st.Queries[n], sum)
		}
	}
	if st.RCodes[dns.RcodeNameError] != 5 || st.RCodes[dns.RcodeSuccess] != 5 {
		t.Errorf("rcodes %v", st.RCodes)
	}
	if st.Misses.Count() != 4 || st.Sum(Miss) != 4 || st.Sum(Hit) != 6 {
		t.Errorf("%d misses timed, %d counted, %d hits; want 4, 4, 6", st.Misses.Count(), st.Sum(Miss), st.Sum(Hit))
	}
}
