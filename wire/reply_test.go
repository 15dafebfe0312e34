package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// addresses returns a reply with n A records, TTL 60, of the qname.
func addresses(n int) Reply {
	var addrs []netip.Addr
	for i := range n {
		addrs = append(addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	return AddressReply(TypeA, addrs, 60)
}

func hosts(m *dns.Msg) (last []byte) {
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			last = append(last, a.A[len(a.A)-1])
		}
	}
	return last
}

// Conditions 1 (AD), 21 (AA) and 22 (RA, Z) of the fast path.
// Red when: flags drops RD, CD or the opcode, AppendReply shows AD to who did
// not ask, or copies the request's Z, AA or TC.
func TestReplyHeader(t *testing.T) {
	const opcodeStatus = 2 << 11
	tests := []struct {
		what      string
		req, stat uint16 // flags of the request, of the stored answer
		do        bool
		want      uint16
	}{
		{"plain", 0, 0, false, FlagQR | FlagRA},
		{"RD and CD are the request's", FlagRD | FlagCD, 0, false, FlagQR | FlagRA | FlagRD | FlagCD},
		{"RD and CD are not the answer's", 0, FlagRD | FlagCD, false, FlagQR | FlagRA},
		{"AA is the answer's", 0, FlagAA, false, FlagQR | FlagRA | FlagAA},
		{"TC is the answer's", 0, FlagTC, false, FlagQR | FlagRA | FlagTC},
		{"AA, TC, RA and Z of a request mean nothing", FlagAA | FlagTC | FlagRA | FlagZ, 0, false, FlagQR | FlagRA},
		{"Z of the answer", 0, FlagZ, false, FlagQR | FlagRA},
		{"AD, not asked for", FlagRD, FlagAD, false, FlagQR | FlagRA | FlagRD},
		{"AD, asked for by AD", FlagAD, FlagAD, false, FlagQR | FlagRA | FlagAD},
		{"AD, asked for by DO", 0, FlagAD, true, FlagQR | FlagRA | FlagAD},
		{"AD asked for, not there", FlagAD, 0, true, FlagQR | FlagRA},
	}
	for _, tt := range tests {
		m := ask("a.ns.", dns.TypeA)
		if tt.do {
			withOPT(m, 1232, true)
		}
		msg := within(pack(t, m), 4096)
		binary.BigEndian.PutUint16(msg[2:], tt.req)
		q := accept(t, msg)
		got := q.AppendReply(msg, &Reply{Flags: tt.stat}, 512)
		if MsgID(got) != 0x1234 || MsgFlags(got) != tt.want {
			t.Errorf("%s: ID %x, flags %04x, want %04x", tt.what, MsgID(got), MsgFlags(got), tt.want)
		}
	}
	_, got := fail(t, raw(t, "1234 1110 0001 0000 0000 0000"+webHex), RCodeNotImp, EDENone)
	if want := FlagQR | opcodeStatus | FlagRD | FlagRA | FlagCD | uint16(RCodeNotImp); MsgFlags(got) != want {
		t.Errorf("NOTIMP: flags %04x, want %04x", MsgFlags(got), want)
	}
}

// Condition 3 of the fast path: the client's case comes back.
// Red when: AppendReply writes the folded name.
func TestReplyKeepsTheQuestion(t *testing.T) {
	m := ask("wEb.Ns.", dns.TypeA)
	msg := within(pack(t, m), 512)
	want := bytes.Clone(Question(msg))
	r := addresses(1)
	got := accept(t, msg).AppendReply(msg, &r, 512)
	if !bytes.Equal(Question(got), want) || &got[0] != &msg[0] {
		t.Errorf("question %x, want %x in place", Question(got), want)
	}
	if a := unpack(t, got).Answer; len(a) != 1 || a[0].Header().Name != "wEb.Ns." {
		t.Errorf("answer %v", a)
	}
}

// Conditions 5 and 7 of the fast path: what is left of the TTL, at most 30 when
// stale, never below 0. Red when: AppendReply does not subtract Age, wraps
// around, or ignores TTLCap.
func TestReplyTTL(t *testing.T) {
	for _, tt := range []struct{ age, ttlCap, want uint32 }{
		{0, NoTTLCap, 60}, {1, NoTTLCap, 59}, {59, NoTTLCap, 1}, {60, NoTTLCap, 0}, {61, NoTTLCap, 0},
		{1<<32 - 1, NoTTLCap, 0}, {0, 30, 30}, {45, 30, 15}, {0, 0, 0},
	} {
		r := addresses(3)
		r.Age, r.TTLCap = tt.age, tt.ttlCap
		for _, rr := range reply(t, ask("a.", 1), &r, 512).Answer {
			if rr.Header().Ttl != tt.want {
				t.Errorf("age %d, cap %d: TTL %d, want %d", tt.age, tt.ttlCap, rr.Header().Ttl, tt.want)
			}
		}
	}
	r := addresses(1)
	r.Age = 7
	reply(t, ask("a.", 1), &r, 512)
	if got := binary.BigEndian.Uint32(r.Tail[r.TTLs[0].Off:]); got != 60 {
		t.Errorf("the stored tail was changed: TTL %d", got)
	}
}

// Conditions 12 (OPT only to OPT, ours), 15 (keepalive), 16 (no cookie), 17 (no
// ECS), 18 (no padding), 20 (EDE) and 22 (extended RCODE only with OPT) of the
// fast path. Red when: putOPT writes an OPT to who sent none, does not echo DO,
// echoes an option, or sends keepalive to who did not ask.
func TestReplyOPT(t *testing.T) {
	all := []dns.EDNS0{
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, Address: []byte{0, 0, 0, 0}},
		&dns.EDNS0_PADDING{Padding: make([]byte, 30)},
		&dns.EDNS0_NSID{Code: dns.EDNS0NSID},
		&dns.EDNS0_LOCAL{Code: 65001, Data: []byte{1}},
	}
	asksKeepalive := &dns.EDNS0_LOCAL{Code: dns.EDNS0TCPKEEPALIVE}
	tests := []struct {
		what string
		m    *dns.Msg
		r    Reply
		want string
	}{
		{"no OPT", ask("a.", 1), Reply{EDE: EDEStale, Keepalive: 100}, "none"},
		{"OPT", withOPT(ask("a.", 1), 4096, false), Reply{}, "1232 v0 do=false NOERROR"},
		{"DO", withOPT(ask("a.", 1), 512, true), Reply{}, "1232 v0 do=true NOERROR"},
		{"options are not echoed", withOPT(ask("a.", 1), 4096, false, all...), Reply{Keepalive: 100}, "1232 v0 do=false NOERROR"},
		{"EDE", withOPT(ask("a.", 1), 4096, false), Reply{EDE: EDEStaleNXDomain, RCode: RCodeNXDomain}, "1232 v0 do=false NXDOMAIN ede=19"},
		{"keepalive", withOPT(ask("a.", 1), 4096, false, asksKeepalive), Reply{Keepalive: 100}, "1232 v0 do=false NOERROR keepalive=100"},
		{"keepalive by UDP", withOPT(ask("a.", 1), 4096, false, asksKeepalive), Reply{}, "1232 v0 do=false NOERROR"},
		{"EDE and keepalive", withOPT(ask("a.", 1), 4096, true, asksKeepalive), Reply{Keepalive: 1, EDE: 22, RCode: 2}, "1232 v0 do=true SERVFAIL ede=22 keepalive=1"},
		{"extended RCODE", withOPT(ask("a.", 1), 4096, false), Reply{RCode: 0x123}, "1232 v0 do=false RCODE291"},
	}
	for _, tt := range tests {
		got := reply(t, tt.m, &tt.r, 512)
		if s := optString(got); s != tt.want {
			t.Errorf("%s: %s, want %s", tt.what, s, tt.want)
		}
	}
	if got := reply(t, ask("a.", 1), &Reply{RCode: 0x123}, 512); got.Rcode != dns.RcodeServerFailure {
		t.Errorf("extended RCODE without OPT: %v, want SERVFAIL", got.Rcode)
	}
}

func optString(m *dns.Msg) string {
	if len(m.Extra) == 0 {
		return "none"
	}
	opt := m.IsEdns0()
	s := fmt.Sprintf("%d v%d do=%v %v", opt.UDPSize(), opt.Version(), opt.Do(), RCode(m.Rcode))
	for _, o := range opt.Option {
		switch o := o.(type) {
		case *dns.EDNS0_EDE:
			s += fmt.Sprintf(" ede=%d%s", o.InfoCode, o.ExtraText)
		case *dns.EDNS0_TCP_KEEPALIVE:
			s += fmt.Sprintf(" keepalive=%d", o.Timeout)
		default:
			s += fmt.Sprintf(" option=%d", o.Option())
		}
	}
	return s
}

// Conditions 2 and 13 of the fast path, and what stubs without TCP need: a reply
// that does not fit keeps whole records, answers first, with TC.
// Red when: fit stops one record early or late, or AppendReply forgets TC.
func TestTruncation(t *testing.T) {
	r := addresses(40)
	for limit := 20; limit <= 700; limit++ {
		got := reply(t, ask("a.ns.", dns.TypeA), &r, limit)
		fits := min(40, max(0, limit-12-10)/16)
		if len(got.Answer) != fits || got.Truncated != (fits < 40) {
			t.Fatalf("limit %d: %d records, TC %v; want %d", limit, len(got.Answer), got.Truncated, fits)
		}
		if !slices.Equal(hosts(got), hosts(reply(t, ask("a.ns.", dns.TypeA), &r, MaxMsg))[:fits]) {
			t.Fatalf("limit %d: not the leading records", limit)
		}
	}
	// What CoreDNS leaves of 40 in 512 octets, and musl before 1.2.4 lives off.
	if got := reply(t, ask("many.default.svc.cluster.local.", dns.TypeA), &r, 512); len(got.Answer) != 29 {
		t.Errorf("%d A of 40 in 512 octets, want 29", len(got.Answer))
	}
	withEDNS := reply(t, withOPT(ask("a.ns.", dns.TypeA), 512, false), &r, 512)
	if len(withEDNS.Answer) != (512-22-11)/16 || withEDNS.IsEdns0() == nil || !withEDNS.Truncated {
		t.Errorf("with EDNS: %d records, OPT %v", len(withEDNS.Answer), withEDNS.IsEdns0())
	}
}

// Red when: AppendReply sets TC for additional records, or keeps some of them.
func TestTruncationBySection(t *testing.T) {
	m := ask("a.ns.", dns.TypeA)
	a := answer(t, m, respond(t, m, 0, `a.ns. 9 IN A 192.0.2.1
		a.ns. 9 IN A 192.0.2.2
		--
		ns. 9 IN NS m.ns.
		--
		m.ns. 9 IN A 192.0.2.8
		m.ns. 9 IN A 192.0.2.9`))
	r := a.Reply()
	full := HeaderLen + 10 + len(r.Tail)
	for _, tt := range []struct {
		limit      int
		an, ns, ar int
		tc         bool
	}{
		{full, 2, 1, 2, false},
		{full - 1, 2, 1, 0, false},
		{full - 32, 2, 1, 0, false},
		{full - 33, 2, 0, 0, true},
		{22 + 32, 2, 0, 0, true},
		{22 + 31, 1, 0, 0, true},
		{22, 0, 0, 0, true},
		{0, 0, 0, 0, true},
	} {
		got := reply(t, m, &r, tt.limit)
		if len(got.Answer) != tt.an || len(got.Ns) != tt.ns || len(got.Extra) != tt.ar || got.Truncated != tt.tc {
			t.Errorf("limit %d: %d/%d/%d TC %v, want %d/%d/%d TC %v", tt.limit, len(got.Answer), len(got.Ns), len(got.Extra),
				got.Truncated, tt.an, tt.ns, tt.ar, tt.tc)
		}
	}
}

// A buffer without room is a lower limit, never an allocation or a panic.
// Red when: AppendReply or AppendError slices beyond the capacity.
func TestReplyWithoutRoom(t *testing.T) {
	r := addresses(5)
	for _, m := range []*dns.Msg{ask("a.ns.", 1), withOPT(ask("a.ns.", 1), 1232, true)} {
		packed := pack(t, m)
		for room := range 150 {
			msg := within(packed, len(packed)+room)
			got := unpack(t, accept(t, msg).AppendReply(msg, &r, MaxMsg))
			if got.Truncated != (len(got.Answer) < 5) {
				t.Errorf("room %d: %d records, TC %v", room, len(got.Answer), got.Truncated)
			}
			q := new(Query)
			msg = within(packed, len(packed)+room)
			q.Parse(msg)
			if got := unpack(t, q.AppendError(msg, RCodeServFail, EDENetworkError)); (got.IsEdns0() != nil) != q.EDNS {
				t.Errorf("room %d: OPT %v, want %v", room, got.IsEdns0(), q.EDNS)
			}
		}
	}
}

// The order of equal records is not frozen, nothing else moves.
// Red when: rotate turns another section, loses a record, or moves TTLs.
func TestRotation(t *testing.T) {
	m := ask("a.ns.", dns.TypeA)
	a := answer(t, m, respond(t, m, 0, `a.ns. 99 IN CNAME b.ns.
		b.ns. 9 IN A 192.0.2.1
		b.ns. 9 IN A 192.0.2.2
		B.NS. 9 IN A 192.0.2.3
		c.ns. 9 IN A 192.0.2.7
		c.ns. 9 IN A 192.0.2.8
		--
		ns. 9 IN NS b.ns.
		--
		b.ns. 9 IN A 192.0.2.1
		b.ns. 9 IN A 192.0.2.2`))
	r := a.Reply()
	first := reply(t, m, &r, MaxMsg)
	for k, want := range [][]byte{{1, 2, 3, 7, 8}, {2, 3, 1, 7, 8}, {3, 1, 2, 7, 8}, {1, 2, 3, 7, 8}, {2, 3, 1, 7, 8}} {
		r.Rotate = uint32(k)
		got := reply(t, m, &r, MaxMsg)
		if !slices.Equal(hosts(got), want) {
			t.Errorf("rotated by %d: %v, want %v", k, hosts(got), want)
		}
		for i, rr := range got.Answer {
			if rr.Header().Name != first.Answer[i].Header().Name || rr.Header().Ttl != first.Answer[i].Header().Ttl {
				t.Errorf("rotated by %d: %v", k, rr)
			}
		}
		if diff := cmp.Diff(first.Ns, got.Ns); diff != "" {
			t.Errorf("authority changed: %s", diff)
		}
		if diff := cmp.Diff(first.Extra, got.Extra); diff != "" {
			t.Errorf("additional changed: %s", diff)
		}
		if got.Answer[0].(*dns.CNAME).Target != "b.ns." {
			t.Errorf("CNAME moved: %v", got.Answer[0])
		}
	}
	// Cut short, the reply still shows every record in its turn.
	seen := map[byte]bool{}
	short := addresses(40)
	for k := range uint32(40) {
		short.Rotate = k
		got := reply(t, m, &short, 512)
		if len(got.Answer) != 30 || got.Answer[0].(*dns.A).A[3] != byte(k) {
			t.Errorf("rotated by %d: %v", k, hosts(got))
		}
		for _, h := range hosts(got) {
			seen[h] = true
		}
	}
	if len(seen) != 40 {
		t.Errorf("%d of 40 records seen", len(seen))
	}
	six := AddressReply(TypeAAAA, []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}, 5)
	six.Rotate = 1<<32 - 1
	if got := reply(t, ask("a.", dns.TypeAAAA), &six, 512); got.Answer[0].(*dns.AAAA).AAAA.String() != "2001:db8::2" {
		t.Errorf("AAAA not rotated: %v", got)
	}
}

// Every verdict has an answer that both libraries can read, but for what must
// not be answered. Conditions 4 and 12 (BADVERS) of the fast path.
// Red when: AppendError answers a response, or repeats a question that it could
// not read.
func TestErrorForEveryVerdict(t *testing.T) {
	for _, tt := range badInput {
		t.Run(tt.what, func(t *testing.T) {
			in := raw(t, tt.hex)
			q, got := fail(t, in, tt.want.RCode(), EDENotSupported)
			if tt.want == Drop {
				if len(got) != 0 {
					t.Errorf("answered %x", got)
				}
				return
			}
			m := unpack(t, got)
			if m.Id != 0x1234 || !m.Response || RCode(m.Rcode) != tt.want.RCode() || len(got) > 512 {
				t.Errorf("reply %v", m.MsgHdr)
			}
			if want := Question(in); q.End > HeaderLen && !bytes.Equal(Question(got), want) {
				t.Errorf("question %x, want %x", Question(got), want)
			} else if q.End == HeaderLen && len(m.Question) != 0 {
				t.Errorf("question %v to none", m.Question)
			}
			if (m.IsEdns0() != nil) != q.EDNS {
				t.Errorf("OPT %v, request had one: %v", m.IsEdns0(), q.EDNS)
			}
		})
	}
	_, got := fail(t, raw(t, "1234 0100 0001 0000 0000 0001"+webHex+"00 0029 04d0 00010000 0000"), RCodeBadVers, EDENone)
	if s := optString(unpack(t, got)); s != "1232 v0 do=false BADVERS" {
		t.Errorf("BADVERS: %s", s)
	}
	// dig and kdig tell an unparsed query by its ID alone.
	_, got = fail(t, raw(t, "1234 0100 0000 0000 0000 0000"), RCodeFormErr, EDENone)
	if want := raw(t, "1234 8181 0000 0000 0000 0000"); !bytes.Equal(got, want) {
		t.Errorf("FORMERR: %x, want %x", got, want)
	}
}

// Red when: Verdict's zero value is answered.
func TestQueryNeverParsedIsNeverAnswered(t *testing.T) {
	q := new(Query)
	if got := q.AppendError(raw(t, plainHex), RCodeServFail, EDENone); len(got) != 0 || q.Verdict() != Drop {
		t.Errorf("%v, answered %x", q.Verdict(), got)
	}
}

// Answers made here. Condition 11 of the fast path: ANY by RFC 8482.
// Red when: a synthetic record's RDLENGTH, type or section is wrong.
func TestSyntheticReplies(t *testing.T) {
	addrs := []netip.Addr{
		netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:192.0.2.2"), netip.MustParseAddr("2001:db8::1"),
	}
	tests := []struct {
		what  string
		qtype uint16
		r     Reply
		want  string
	}{
		{"A", dns.TypeA, AddressReply(TypeA, addrs, 5), "a.ns. 5 IN A 192.0.2.1; a.ns. 5 IN A 192.0.2.2"},
		{"AAAA", dns.TypeAAAA, AddressReply(TypeAAAA, addrs, 5), "a.ns. 5 IN AAAA 2001:db8::1"},
		{"no address", dns.TypeMX, AddressReply(TypeMX, addrs, 5), ""},
		{"PTR", dns.TypePTR, NameReply(TypePTR, mustName(t, "localhost"), 5), "a.ns. 5 IN PTR localhost."},
		{"CNAME", dns.TypeA, NameReply(TypeCNAME, mustName(t, "b.ns"), 5), "a.ns. 5 IN CNAME b.ns."},
		{"ANY", dns.TypeANY, AnyReply(3600), `a.ns. 3600 IN HINFO "RFC8482" ""`},
		{"NXDOMAIN", dns.TypeA, NegativeReply(RCodeNXDomain, mustName(t, "ns"), 30), "NXDOMAIN -- ns. 30 IN SOA ns. nobody.invalid. 1 3600 1200 604800 30"},
		{"NODATA", dns.TypeA, NegativeReply(RCodeNoError, mustName(t, "a.ns"), 30), "-- a.ns. 30 IN SOA a.ns. nobody.invalid. 1 3600 1200 604800 30"},
		{"NXDOMAIN of the root", dns.TypeA, NegativeReply(RCodeNXDomain, []byte{0}, 30), "NXDOMAIN -- . 30 IN SOA . nobody.invalid. 1 3600 1200 604800 30"},
	}
	for _, tt := range tests {
		m := ask("a.ns.", tt.qtype)
		got := reply(t, m, &tt.r, 512)
		var s []string
		if got.Rcode != 0 {
			s = append(s, RCode(got.Rcode).String())
		}
		var recs []string
		for _, rr := range got.Answer {
			recs = append(recs, strings.ReplaceAll(rr.String(), "\t", " "))
		}
		if len(recs) > 0 {
			s = append(s, strings.Join(recs, "; "))
		}
		for _, rr := range got.Ns {
			s = append(s, "--", strings.ReplaceAll(rr.String(), "\t", " "))
		}
		if g := strings.Join(s, " "); g != tt.want {
			t.Errorf("%s: %s, want %s", tt.what, g, tt.want)
		}
		// What is made here is an answer in our own eyes as well.
		msg := within(pack(t, m), 4096)
		msg = accept(t, msg).AppendReply(msg, &tt.r, 512)
		a := new(Answer)
		if err := a.Parse(msg, Question(msg)); err != nil {
			t.Errorf("%s: %v", tt.what, err)
		}
		for i := range a.TTLs {
			if got := binary.BigEndian.Uint32(a.Tail[a.TTLs[i].Off:]); got != a.TTLs[i].TTL {
				t.Errorf("%s: TTL %d at its offset, want %d", tt.what, got, a.TTLs[i].TTL)
			}
			a.TTLs[i].Off = tt.r.TTLs[min(i, len(tt.r.TTLs)-1)].Off // Parse spells owners shorter
		}
		if diff := cmp.Diff(a.TTLs, tt.r.TTLs); diff != "" && len(a.TTLs)+len(tt.r.TTLs) > 0 {
			t.Errorf("%s: TTLs (-parsed +made): %s", tt.what, diff)
		}
	}
	if r := AddressReply(TypeA, make([]netip.Addr, 3), 5); r.AN != 0 {
		t.Error("an invalid address has a record")
	}
	if r := AddressReply(TypeA, slices.Repeat(addrs[:1], 2000), 5); r.AN != maxSynthetic || int(r.AN) != len(r.TTLs) {
		t.Errorf("%d records of 2000", r.AN)
	}
}
