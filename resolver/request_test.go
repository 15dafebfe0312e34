package resolver

import (
	"context"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// Red when: reject takes a response for a question.
func TestBadRequests(t *testing.T) {
	u := &scripted{}
	s := runServer(t, u)
	good := pack(t, question("www.example.", dns.TypeA))
	change := func(f func(b []byte) []byte) []byte { return f(append([]byte(nil), good...)) }
	edns := question("www.example.", dns.TypeA)
	edns.SetEdns0(1232, false)
	withOPT := pack(t, edns)
	long := append([]byte(nil), good[:12]...)
	for range 5 {
		long = append(append(long, 63), strings.Repeat("x", 63)...)
	}
	long = append(long, 0, 0, 1, 0, 1)
	for _, c := range []struct {
		name  string
		pkt   []byte
		rcode int // -1: nothing comes back
	}{
		{"a response", change(func(b []byte) []byte { b[2] |= 0x80; return b }), -1},
		{"shorter than a header", good[:11], -1},
		{"nothing at all", []byte{}, -1},
		{"no question", change(func(b []byte) []byte { b[5] = 0; return b[:12] }), dns.RcodeFormatError},
		{"two questions", change(func(b []byte) []byte { b[5] = 2; return append(b, b[12:]...) }), dns.RcodeFormatError},
		{"cut in the question", good[:len(good)-3], dns.RcodeFormatError},
		{"octets behind the end", append(append([]byte(nil), good...), 0), dns.RcodeFormatError},
		{"a name that points at itself", change(func(b []byte) []byte { b[12], b[13] = 0xc0, 12; return b }), dns.RcodeFormatError},
		{"a name of 320 octets", long, dns.RcodeFormatError},
		{"an answer in a query", change(func(b []byte) []byte { b[7] = 1; return b }), dns.RcodeFormatError},
		{"an OPT that ends too early", withOPT[:len(withOPT)-1], dns.RcodeFormatError},
		{"two OPTs", func() []byte {
			b := append([]byte(nil), withOPT...)
			b[11] = 2
			return append(b, b[len(b)-11:]...)
		}(), dns.RcodeFormatError},
		{"STATUS", change(func(b []byte) []byte { b[2] |= 2 << 3; return b }), dns.RcodeNotImplemented},
		{"NOTIFY", change(func(b []byte) []byte { b[2] |= 4 << 3; return b }), dns.RcodeNotImplemented},
		{"UPDATE", change(func(b []byte) []byte { b[2] |= 5 << 3; return b }), dns.RcodeNotImplemented},
		{"opcode 15", change(func(b []byte) []byte { b[2] |= 15 << 3; return b }), dns.RcodeNotImplemented},
		{"AXFR", pack(t, question("example.", dns.TypeAXFR)), dns.RcodeRefused},
		{"IXFR", pack(t, question("example.", dns.TypeIXFR)), dns.RcodeRefused},
		{"CHAOS", func() []byte {
			m := question("version.bind.", dns.TypeTXT)
			m.Question[0].Qclass = dns.ClassCHAOS
			return pack(t, m)
		}(), dns.RcodeRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := s.Stats()
			conn := s.dial(t, "udp")
			if c.rcode < 0 {
				noReply(t, conn, c.pkt)
			} else {
				r := exchangeRaw(t, conn, c.pkt)
				if got := int(r[3] & 15); got != c.rcode || r[0] != c.pkt[0] || r[1] != c.pkt[1] || r[2]&0x80 == 0 {
					t.Errorf("got %x, want rcode %s", r, dns.RcodeToString[c.rcode])
				}
			}
			want := before.Sum(Rejected) + 1
			if c.rcode < 0 {
				want--
			}
			after := s.Stats()
			if after.Sum(Rejected) != want || after.Sum(Rejected)+after.Sum(Dropped) != before.Sum(Rejected)+before.Sum(Dropped)+1 {
				t.Error("not counted, or as something else")
			}
		})
	}
	if n := u.total(); n != 0 {
		t.Errorf("upstream was asked %d times: %v", n, u.asked)
	}
}

// Unknown types and classes are forwarded: it is upstream that knows them.
//
// Red when: Parse refuses types that it has no name for.
func TestUnknownTypesAndClasses(t *testing.T) {
	u := &scripted{handle: func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		r := new(dns.Msg)
		return r.SetRcode(q, dns.RcodeNotImplemented), nil
	}}
	s := runServer(t, u)
	for i, q := range []dns.Question{
		{Name: "x.example.", Qtype: 64321, Qclass: dns.ClassINET},
		{Name: "x.example.", Qtype: dns.TypeA, Qclass: dns.ClassHESIOD},
	} {
		m := question("x.example.", dns.TypeA)
		m.Question[0] = q
		if r := s.ask(t, "udp", m); r.Rcode != dns.RcodeNotImplemented || u.total() != i+1 {
			t.Errorf("%v: got %v, upstream asked %d times", q, r, u.total())
		}
	}
}

// Red when: the reader's buffer is shorter than what MSG_TRUNC is checked for.
func TestDatagramLongerThanTheBuffer(t *testing.T) {
	s := runServer(t, &scripted{})
	for _, size := range []int{maxRequest + 1, 9000, 60000} {
		b := append(pack(t, question("www.example.", dns.TypeA)), make([]byte, size)...)[:size]
		r := exchangeRaw(t, s.dial(t, "udp"), b)
		if r[3]&15 != dns.RcodeFormatError || len(r) > 512 {
			t.Errorf("%d octets were answered by %x", size, r)
		}
	}
	if st := s.Stats(); st.Events[RecvTruncated] != 3 {
		t.Errorf("%d counted, want 3", st.Events[RecvTruncated])
	}
}
