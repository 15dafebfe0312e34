package wire

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// Messages in these tests are written by miekg/dns, an independent hand.

func pack(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatalf("cannot pack %v: %v", m, err)
	}
	return b
}

func unpack(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("cannot unpack %x: %v", b, err)
	}
	return m
}

// ask returns a query with ID 0x1234 and RD.
func ask(name string, typ uint16) *dns.Msg {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), typ)
	m.Id = 0x1234
	return m
}

// withOPT adds an OPT to m.
func withOPT(m *dns.Msg, size uint16, do bool, options ...dns.EDNS0) *dns.Msg {
	m.SetEdns0(size, do)
	m.IsEdns0().Option = options
	return m
}

func rrs(t testing.TB, lines ...string) []dns.RR {
	t.Helper()
	var out []dns.RR
	for _, l := range lines {
		rr, err := dns.NewRR(l)
		if err != nil {
			t.Fatalf("cannot read %q: %v", l, err)
		}
		out = append(out, rr)
	}
	return out
}

// respond returns a response to m. records are lines of a zone file; a line
// "--" ends a section.
func respond(t testing.TB, m *dns.Msg, rcode int, records string) *dns.Msg {
	t.Helper()
	r := new(dns.Msg).SetRcode(m, rcode)
	r.Compress = true
	s := 0
	for _, l := range strings.Split(records, "\n") {
		switch l = strings.TrimSpace(l); {
		case l == "":
		case l == "--":
			s++
		default:
			rr := rrs(t, l)
			switch s {
			case 0:
				r.Answer = append(r.Answer, rr...)
			case 1:
				r.Ns = append(r.Ns, rr...)
			default:
				r.Extra = append(r.Extra, rr...)
			}
		}
	}
	return r
}

// within returns a copy of msg in a buffer of size octets.
func within(msg []byte, size int) []byte {
	return append(make([]byte, 0, size), msg...)
}

// accept parses msg, which must be acceptable.
func accept(t testing.TB, msg []byte) *Query {
	t.Helper()
	q := new(Query)
	if v := q.Parse(msg); v != Accept {
		t.Fatalf("Parse(%x) = %v, want accept", msg, v)
	}
	return q
}

// answer parses the response r to m.
func answer(t testing.TB, m, r *dns.Msg) *Answer {
	t.Helper()
	a := new(Answer)
	if err := a.Parse(pack(t, r), Question(pack(t, m))); err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return a
}

// reply answers m with r as the agent would.
func reply(t testing.TB, m *dns.Msg, r *Reply, limit int) *dns.Msg {
	t.Helper()
	msg := within(pack(t, m), 65535)
	return unpack(t, accept(t, msg).AppendReply(msg, r, limit))
}

// fail answers m without records.
func fail(t testing.TB, msg []byte, rc RCode, ede EDE) (*Query, []byte) {
	t.Helper()
	q := new(Query)
	msg = within(msg, 4096)
	q.Parse(msg)
	return q, q.AppendError(msg, rc, ede)
}

func mustName(t testing.TB, text string) []byte {
	t.Helper()
	n, err := AppendName(nil, text)
	if err != nil {
		t.Fatalf("AppendName(%q): %v", text, err)
	}
	return n
}
