package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

const soa = "ns. 300 IN SOA m. r. 1 2 3 4 30\n"

// Condition 6 of the fast path (RFC 2308): what an answer is, and how long it
// holds. Red when: kindOfNoError stops following CNAMEs, classify ignores the
// SOA's MINIMUM or its TTL, or takes a negative answer without SOA for cacheable.
func TestAnswerKind(t *testing.T) {
	tests := []struct {
		what    string
		qtype   uint16
		rcode   int
		records string
		kind    Kind
		ttl     uint32
		soa     bool
	}{
		{"positive", dns.TypeA, 0, "a.ns. 60 IN A 192.0.2.1\na.ns. 50 IN A 192.0.2.2", Positive, 50, false},
		{"positive, other case", dns.TypeA, 0, "A.nS. 60 IN A 192.0.2.1", Positive, 60, false},
		{"positive behind a CNAME", dns.TypeA, 0, "a.ns. 9 IN CNAME b.ns.\nb.ns. 60 IN A 192.0.2.1", Positive, 9, false},
		{"positive behind CNAMEs in disorder", dns.TypeA, 0, "c.ns. 60 IN A 192.0.2.1\nb.ns. 70 IN CNAME c.ns.\na.ns. 80 IN CNAME b.ns.", Positive, 60, false},
		{"positive with NS and SOA", dns.TypeA, 0, "a.ns. 60 IN A 192.0.2.1\n--\n" + soa, Positive, 60, true},
		{"CNAME asked for", dns.TypeCNAME, 0, "a.ns. 9 IN CNAME b.ns.", Positive, 9, false},
		{"ANY", dns.TypeANY, 0, "a.ns. 9 IN TXT x", Positive, 9, false},
		{"NXDOMAIN", dns.TypeA, 3, "--\n" + soa, NXDomain, 30, true},
		{"NXDOMAIN, SOA TTL below MINIMUM", dns.TypeA, 3, "--\nns. 7 IN SOA m. r. 1 2 3 4 30", NXDomain, 7, true},
		{"NXDOMAIN behind a CNAME", dns.TypeA, 3, "a.ns. 9 IN CNAME b.ns.\n--\n" + soa, NXDomain, 9, true},
		{"NXDOMAIN without SOA", dns.TypeA, 3, "", NXDomain, 0, false},
		{"NODATA", dns.TypeA, 0, "--\n" + soa, NoData, 30, true},
		{"NODATA behind a CNAME", dns.TypeA, 0, "a.ns. 99 IN CNAME b.ns.\n--\n" + soa, NoData, 30, true},
		{"NODATA behind two CNAMEs", dns.TypeA, 0, "a.ns. 99 IN CNAME b.ns.\nb.ns. 20 IN CNAME c.ns.\n--\n" + soa, NoData, 20, true},
		{"NODATA with SOA and NS", dns.TypeA, 0, "--\nns. 9 IN NS m.\n" + soa, NoData, 30, true},
		{"NODATA without SOA", dns.TypeA, 0, "", NoData, 0, false},
		{"CNAME alone", dns.TypeA, 0, "a.ns. 9 IN CNAME b.ns.", NoData, 0, false},
		{"SOA in the answer does not count", dns.TypeA, 3, soa, NXDomain, 0, false},
		{"referral", dns.TypeA, 0, "--\nns. 9 IN NS m.", Other, 0, false},
		{"records of another name", dns.TypeA, 0, "b.ns. 9 IN A 192.0.2.1", Other, 0, false},
		{"records of another type", dns.TypeA, 0, "a.ns. 9 IN AAAA 2001:db8::1", Other, 0, false},
		{"another class", dns.TypeA, 0, "a.ns. 9 HS A 192.0.2.1", Other, 0, false},
		{"CNAME loop", dns.TypeA, 0, "a.ns. 9 IN CNAME b.ns.\nb.ns. 9 IN CNAME a.ns.\n--\n" + soa, Other, 0, true},
		{"SERVFAIL", dns.TypeA, 2, "", Failure, 0, false},
		{"REFUSED", dns.TypeA, 5, "", Failure, 0, false},
		{"FORMERR", dns.TypeA, 1, "", Failure, 0, false},
		{"NOTIMP with SOA", dns.TypeA, 4, "--\n" + soa, Failure, 0, true},
		{"YXDOMAIN", dns.TypeA, 6, "", Failure, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			m := ask("a.ns.", tt.qtype)
			a := answer(t, m, respond(t, m, tt.rcode, tt.records))
			if a.Kind != tt.kind || a.MinTTL != tt.ttl || a.HasSOA != tt.soa || int(a.RCode) != tt.rcode {
				t.Errorf("%v, MinTTL %d, SOA %v, %v; want %v, %d, %v, %v",
					a.Kind, a.MinTTL, a.HasSOA, a.RCode, tt.kind, tt.ttl, tt.soa, RCode(tt.rcode))
			}
		})
	}
}

func ttls(a *Answer) string {
	var s []string
	for _, t := range a.TTLs {
		s = append(s, fmt.Sprintf("%d:%d", t.Section, t.TTL))
	}
	return strings.Join(s, " ")
}

// Condition 5 of the fast path: one TTL per RRset, the least; the top bit means
// 0; condition 6: the SOA of a negative answer keeps no longer than the answer.
// Red when: note does not look at the top bit, sameSet ignores the owner or the
// covered type, or classify leaves the SOA's TTL as it is.
func TestAnswerTTLs(t *testing.T) {
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "a.ns. %d IN A 192.0.2.%d\n", 100+i, i%256)
		}
		return b.String()
	}
	tests := []struct{ what, records, want string }{
		{"one set", "a.ns. 9 IN A 192.0.2.1\na.ns. 5 IN A 192.0.2.2\na.ns. 7 IN A 192.0.2.3", "0:5 0:5 0:5"},
		{"owners in two cases", "a.ns. 9 IN A 192.0.2.1\nA.NS. 5 IN A 192.0.2.2", "0:5 0:5"},
		{"chain and set", "a.ns. 9 IN CNAME b.ns.\nb.ns. 5 IN A 192.0.2.2\nb.ns. 3 IN A 192.0.2.3", "0:9 0:3 0:3"},
		{"a set not in one run", "a.ns. 9 IN A 192.0.2.1\na.ns. 8 IN TXT x\na.ns. 5 IN A 192.0.2.2", "0:5 0:8 0:5"},
		{"same type, other owner", "a.ns. 9 IN A 192.0.2.1\nb.ns. 5 IN A 192.0.2.2", "0:9 0:5"},
		{"sections apart", "a.ns. 9 IN A 192.0.2.1\n--\nns. 8 IN NS a.ns.\n--\na.ns. 5 IN A 192.0.2.1", "0:9 1:8 2:5"},
		{"top bit", "a.ns. 2147483648 IN A 192.0.2.1", "0:0"},
		{"all bits", "a.ns. 4294967295 IN A 192.0.2.1", "0:0"},
		{"largest", "a.ns. 2147483647 IN A 192.0.2.1", "0:2147483647"},
		{"top bit in a set", "a.ns. 4294967295 IN A 192.0.2.1\na.ns. 5 IN A 192.0.2.2", "0:0 0:0"},
		{"signatures of two types", "a.ns. 9 IN A 192.0.2.1\na.ns. 9 IN RRSIG A 8 2 9 20300101000000 20200101000000 1 ns. AAAA\n" +
			"a.ns. 5 IN RRSIG TXT 8 2 9 20300101000000 20200101000000 1 ns. AAAA", "0:9 0:9 0:5"},
		{"SOA of a positive answer", "a.ns. 9 IN A 192.0.2.1\n--\n" + soa, "0:9 1:300"},
		{"SOA of a negative answer", "--\n" + soa, "1:30"},
		{"SOA with MINIMUM's top bit", "--\nns. 300 IN SOA m. r. 1 2 3 4 4294967295", "1:0"},
		{"more records than are compared", many(257), strings.TrimSpace(strings.Repeat("0:100 ", 257))},
	}
	for _, tt := range tests {
		m := ask("a.ns.", dns.TypeA)
		if got := ttls(answer(t, m, respond(t, m, 0, tt.records))); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.what, got, tt.want)
		}
	}
}

// Condition 12 of the fast path: the upstream's OPT is stripped, its bits of the
// RCODE are used. Red when: walk leaves the OPT in the tail or in ARCount, or
// opt does not add the upper bits.
func TestAnswerWithoutOPT(t *testing.T) {
	m := ask("a.ns.", dns.TypeA)
	r := respond(t, m, 0, "a.ns. 9 IN A 192.0.2.1\n--\nns. 8 IN NS m.ns.\n--\nm.ns. 7 IN A 192.0.2.9")
	bare := answer(t, m, r)
	withOPT(r, 4096, true, &dns.EDNS0_EDE{InfoCode: 22, ExtraText: "x"}, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "01020304050607080102030405060708"})
	a := answer(t, m, r)
	if string(a.Tail) != string(bare.Tail) || a.ARCount != 1 || len(a.TTLs) != 3 {
		t.Errorf("tail %x (%d additional), want %x", a.Tail, a.ARCount, bare.Tail)
	}
	if !a.EDNS || a.EDE != EDENoReachableAuthority || a.ECSScope != 0 {
		t.Errorf("EDNS %v, EDE %v, scope %d", a.EDNS, a.EDE, a.ECSScope)
	}
	r.IsEdns0().SetExtendedRcode(16)
	r.Rcode = 16
	if a = answer(t, m, r); a.RCode != RCodeBadVers || a.Kind != Failure {
		t.Errorf("RCODE %v, %v; want BADVERS, failure", a.RCode, a.Kind)
	}
}

// What follows an OPT goes with it, and the rest stays readable: pointers go
// backwards. Red when: walk sets the tail's end behind the last record.
func TestAnswerOPTIsNotLast(t *testing.T) {
	m := ask("a.ns.", dns.TypeA)
	r := respond(t, m, 0, "a.ns. 9 IN A 192.0.2.1\n--\n--\nx.ns. 7 IN A 192.0.2.8")
	withOPT(r, 1232, false)
	r.Extra = append(r.Extra, rrs(t, "y.x.ns. 7 IN A 192.0.2.9")...)
	a := answer(t, m, r)
	if a.ARCount != 1 || len(a.TTLs) != 2 || !a.EDNS {
		t.Fatalf("%d additional, TTLs %s", a.ARCount, ttls(a))
	}
	if want := "\x01x\xc0\x0e\x00\x01\x00\x01\x00\x00\x00\x07\x00\x04\xc0\x00\x02\x08"; !strings.HasSuffix(string(a.Tail), want) {
		t.Errorf("tail %x does not end with x.ns.", a.Tail)
	}
	rep := a.Reply()
	got := reply(t, m, &rep, MaxMsg)
	if len(got.Answer) != 1 || len(got.Extra) != 1 || got.Extra[0].Header().Name != "x.ns." {
		t.Errorf("reply %v", got)
	}
}

// Conditions 2 and 17 of the fast path: what must never be stored says so.
// Red when: Parse does not set Truncated, or opt does not read the scope.
func TestAnswerNeverToBeStored(t *testing.T) {
	m := ask("a.ns.", dns.TypeA)
	r := respond(t, m, 0, "a.ns. 9 IN A 192.0.2.1")
	r.Truncated = true
	withOPT(r, 1232, false, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, SourceScope: 20, Address: []byte{192, 0, 2, 0}})
	a := answer(t, m, r)
	if !a.Truncated || a.ECSScope != 20 {
		t.Errorf("Truncated %v, scope %d; want true, 20", a.Truncated, a.ECSScope)
	}
}

// Condition 3 of the fast path: the question is compared folded, and nothing
// else passes. Red when: matchQuestion compares bytes, or leaves out the type.
func TestAnswerToAnotherQuestion(t *testing.T) {
	m := ask("a.ns.", dns.TypeA)
	tests := []struct {
		what   string
		change func(*dns.Msg)
		want   error
	}{
		{"same", func(*dns.Msg) {}, nil},
		{"case", func(r *dns.Msg) { r.Question[0].Name = "A.nS." }, nil},
		{"name", func(r *dns.Msg) { r.Question[0].Name = "b.ns." }, ErrMismatch},
		{"longer name", func(r *dns.Msg) { r.Question[0].Name = "a.ns.x." }, ErrMismatch},
		{"shorter name", func(r *dns.Msg) { r.Question[0].Name = "ns." }, ErrMismatch},
		{"type", func(r *dns.Msg) { r.Question[0].Qtype = dns.TypeAAAA }, ErrMismatch},
		{"class", func(r *dns.Msg) { r.Question[0].Qclass = dns.ClassCHAOS }, ErrMismatch},
		{"query", func(r *dns.Msg) { r.Response = false }, ErrMismatch},
		{"opcode", func(r *dns.Msg) { r.Opcode = dns.OpcodeNotify }, ErrMismatch},
		{"no question", func(r *dns.Msg) { r.Question = nil }, ErrMismatch},
		{"two questions", func(r *dns.Msg) { r.Question = append(r.Question, r.Question[0]) }, ErrMismatch},
	}
	for _, tt := range tests {
		r := respond(t, m, 0, "")
		tt.change(r)
		if err := new(Answer).Parse(pack(t, r), Question(pack(t, m))); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.what, err, tt.want)
		}
	}
	a := new(Answer)
	if err := a.Parse(raw(t, "0000 8185 0000 0000 0000 0000"), Question(pack(t, m))); err != nil || a.Kind != Failure || a.RCode != RCodeRefused {
		t.Errorf("bare REFUSED: %v, %v, %v", err, a.Kind, a.RCode)
	}
}

// response returns a response with raw records behind the question a.ns. A IN,
// which is at 12 to 21; records start at 22.
func response(an, ns, ar int, records string) string {
	return fmt.Sprintf("0000 8180 0001 %04x %04x %04x 0161 026e73 00 0001 0001 %s", an, ns, ar, records)
}

// badAnswers is shared with the fuzz targets' seeds.
var badAnswers = []struct {
	what string
	hex  string
	ok   bool
}{
	{"A", response(1, 0, 0, "c00c 0001 0001 00000009 0004 c0000201"), true},
	{"no record", response(1, 0, 0, ""), false},
	{"counts of 65535", response(65535, 65535, 65535, ""), false},
	{"fixed part cut off", response(1, 0, 0, "c00c 0001 0001 00000009 00"), false},
	{"RDATA cut off", response(1, 0, 0, "c00c 0001 0001 00000009 0004 c00002"), false},
	{"octet too many", response(1, 0, 0, "c00c 0001 0001 00000009 0004 c0000201 00"), false},
	{"A of 5", response(1, 0, 0, "c00c 0001 0001 00000009 0005 c000020100"), false},
	{"A of 0", response(1, 0, 0, "c00c 0001 0001 00000009 0000"), false},
	{"AAAA of 4", response(1, 0, 0, "c00c 001c 0001 00000009 0004 c0000201"), false},
	{"owner points at itself", response(1, 0, 0, "c016 0001 0001 00000009 0004 c0000201"), false},
	{"owner points at its own label", response(1, 0, 0, "0161 c016 0001 0001 00000009 0004 c0000201"), false},
	{"owner points forwards", response(1, 0, 0, "c020 0001 0001 00000009 0004 c0000201"), false},
	{"owner points into the header", response(1, 0, 0, "c004 0001 0001 00000009 0004 c0000201"), false},
	{"owner points into a label", response(1, 0, 0, "c00d 0001 0001 00000009 0004 c0000201"), false},
	{"owner points at the question's type", response(1, 0, 0, "c012 0001 0001 00000009 0004 c0000201"), false},
	{"owner points at the question's root", response(1, 0, 0, "c011 0001 0001 00000009 0004 c0000201"), true},
	{"owner points at a second label", response(1, 0, 0, "c00e 0001 0001 00000009 0004 c0000201"), true},
	{"owner points at a TTL", response(2, 0, 0, "c00c 0001 0001 00000009 0004 c0000201 c01a 0001 0001 00000009 0004 c0000201"), false},
	{"owner points at an address", response(2, 0, 0, "c00c 0001 0001 00000009 0004 01610000 c022 0001 0001 00000009 0004 c0000201"), false},
	{"owner points at a pointer", response(2, 0, 0, "c00c 0001 0001 00000009 0004 c0000201 c016 0001 0001 00000009 0004 c0000201"), true},
	{"pointer cut in two", response(1, 0, 0, "c0"), false},
	{"reserved label type", response(1, 0, 0, "8161 00 0001 0001 00000009 0004 c0000201"), false},
	{"no root", response(1, 0, 0, "0161"), false},
	{"CNAME", response(1, 0, 0, "c00c 0005 0001 00000009 0004 0162 c00e"), true},
	{"CNAME longer than its RDATA", response(1, 0, 0, "c00c 0005 0001 00000009 0002 0162 c00e"), false},
	{"CNAME shorter than its RDATA", response(1, 0, 0, "c00c 0005 0001 00000009 0005 0162 c00e 00"), false},
	{"CNAME of 0", response(1, 0, 0, "c00c 0005 0001 00000009 0000"), false},
	{"CNAME loops", response(1, 0, 0, "c00c 0005 0001 00000009 0004 0162 c022"), false},
	{"SOA cut off", response(0, 1, 0, "c00e 0006 0001 00000009 0003 00 00 00"), false},
	{"MX of 2", response(1, 0, 0, "c00c 000f 0001 00000009 0002 0001"), false},
	{"NAPTR", response(1, 0, 0, "c00c 0023 0001 00000009 000a 0001 0001 0173 0165 00 00"), true},
	{"NAPTR's strings too long", response(1, 0, 0, "c00c 0023 0001 00000009 0008 0001 0001 0173 ff65"), false},
	{"unknown type with a wild RDATA", response(1, 0, 0, "c00c ff00 0001 00000009 0004 c0ffffff"), true},
	{"OPT", response(0, 0, 1, optHex), true},
	{"two OPTs", response(0, 0, 2, optHex+optHex), false},
	{"OPT as an answer", response(1, 0, 0, optHex), false},
	{"OPT as authority", response(0, 1, 0, optHex), false},
	{"OPT with an owner", response(0, 0, 1, "c00c 0029 04d0 00000000 0000"), false},
	{"OPT cut off", response(0, 0, 1, "00 0029 04d0 00000000 0004 0000"), false},
	{"option longer than the OPT", response(0, 0, 1, "00 0029 04d0 00000000 0004 000f 0002"), false},
	{"EDE of 1", response(0, 0, 1, "00 0029 04d0 00000000 0005 000f 0001 00"), false},
	{"ECS of 3", response(0, 0, 1, "00 0029 04d0 00000000 0007 0008 0003 000118"), false},
	{"OPT of version 1 with odd options", response(0, 0, 1, "00 0029 04d0 00010000 0001 ff"), true},
	{"malformed behind the OPT", response(0, 0, 2, optHex+"c0ff 0001 0001 00000009 0004 c0000201"), false},
}

// Red when: walkName accepts a target that is not marked, walkRecord does not
// compare the end of the RDATA, or walk that of the message.
func TestMalformedAnswers(t *testing.T) {
	q := raw(t, "0161 026e73 00 0001 0001")
	a := new(Answer)
	for _, tt := range badAnswers {
		err := a.Parse(raw(t, tt.hex), q)
		if tt.ok && err != nil || !tt.ok && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ok %v", tt.what, err, tt.ok)
		}
	}
}

// A name may be put together from many pieces, but not grow beyond 255 octets,
// nor take thousands of steps. Red when: walkName does not add what a pointer
// leads to, or expandedLen does not count pointers.
func TestNamesOfManyPieces(t *testing.T) {
	q := raw(t, "0161 026e73 00 0001 0001")
	build := func(n int, piece string) []byte {
		msg := raw(t, response(n, 0, 0, ""))
		at := HeaderLen
		for range n {
			next := len(msg)
			msg = append(msg, piece...)
			msg = binary.BigEndian.AppendUint16(msg, uint16(0xc000|at))
			msg = append(msg, raw(t, "0001 0001 00000009 0004 c0000201")...)
			at = next
		}
		return msg
	}
	tests := []struct {
		what  string
		n     int
		piece string
		ok    bool
	}{
		{"125 labels on top of two", 124, "\x01x", true}, // 124*2 + 6 = 254
		{"one more", 125, "\x01x", false},
		{"pointers to pointers", 127, "", true},
		{"too many of them", 128, "", false},
		{"thousands", 1300, "", false},
	}
	for _, tt := range tests {
		if err := new(Answer).Parse(build(tt.n, tt.piece), q); (err == nil) != tt.ok {
			t.Errorf("%s: %v, want ok %v", tt.what, err, tt.ok)
		}
	}
}

// Every type with names in its RDATA that a compressed name may refer to.
// Red when: rdataShape loses a type.
func TestNamesInRDATA(t *testing.T) {
	records := []string{
		"NS x.t.", "MD x.t.", "MF x.t.", "CNAME x.t.", "SOA x.t. r. 1 2 3 4 5", "MB x.t.", "MG x.t.", "MR x.t.",
		"PTR x.t.", "MINFO x.t. r.", "MX 1 x.t.", "RP x.t. r.", "AFSDB 1 x.t.", "RT 1 x.t.",
		"PX 1 x.t. r.", "SRV 1 2 3 x.t.", `NAPTR 1 2 "s" "e" "" x.t.`, "KX 1 x.t.", "DNAME x.t.",
		"RRSIG A 8 2 9 20300101000000 20200101000000 1 x.t. AAAA", "NSEC x.t. A", "TALINK x.t. r.",
		"SVCB 1 x.t. port=53", "HTTPS 1 x.t. alpn=h2", "LP 1 x.t.",
	}
	for _, rr := range records {
		m := ask("a.ns.", dns.TypeA)
		msg := pack(t, respond(t, m, 0, "a.ns. 9 IN "+rr))
		at := strings.Index(string(msg), "\x01x\x01t\x00")
		if at < 0 {
			t.Fatalf("%s: no target in %x", rr, msg)
		}
		msg[7]++
		msg = binary.BigEndian.AppendUint16(msg, uint16(0xc000|at))
		msg = append(msg, raw(t, "0001 0001 00000009 0004 c0000201")...)
		a := new(Answer)
		if err := a.Parse(msg, Question(pack(t, m))); err != nil {
			t.Errorf("%s: a pointer to its target: %v", rr, err)
		}
	}
}

// Red when: reset forgets a field that the second message does not set.
func TestAnswerForgetsTheLastMessage(t *testing.T) {
	m := ask("a.ns.", dns.TypeA)
	r := respond(t, m, 3, "a.ns. 9 IN CNAME b.ns.\n--\n"+soa)
	r.Truncated = true
	withOPT(r, 1232, false, &dns.EDNS0_EDE{InfoCode: 22}, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceScope: 20, Address: []byte{0, 0, 0, 0}})
	a := answer(t, m, r)
	if err := a.Parse(raw(t, "0000 8182 0000 0000 0000 0000"), Question(pack(t, m))); err != nil {
		t.Fatal(err)
	}
	if a.ANCount != 0 || a.NSCount != 0 || a.ARCount != 0 || len(a.Tail) != 0 || len(a.TTLs) != 0 || a.MinTTL != 0 ||
		a.HasSOA || a.Truncated || a.EDNS || a.ECSScope != 0 || a.EDE != EDENone || a.RCode != RCodeServFail {
		t.Errorf("left from the message before: %+v", a)
	}
	// The names of the message before are no targets in the next.
	q := raw(t, "0161 026e73 00 0001 0001")
	if err := a.Parse(raw(t, response(1, 0, 0, "c00c 0005 0001 00000009 0005 0162 0178 00")), q); err != nil {
		t.Fatal(err)
	}
	next := response(2, 0, 0, "c00c ff00 0001 00000009 0005 0162 0178 00 c022 0001 0001 00000009 0004 c0000201")
	if err := a.Parse(raw(t, next), q); !errors.Is(err, ErrMalformed) {
		t.Errorf("a pointer to a name of the message before: %v", err)
	}
}
