package wire

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/miekg/dns"
	"golang.org/x/net/dns/dnsmessage"
)

// Differential fuzzing. miekg/dns (v1) and x/net's dnsmessage are the second
// and third opinion: what all can read must mean the same to all, and what is
// written here must be readable to all.

func seedQueries(f *testing.F) [][]byte {
	var out [][]byte
	for _, tt := range badInput {
		out = append(out, raw(f, tt.hex))
	}
	for _, fx := range fixtures(f) {
		out = append(out, fx.request)
	}
	return out
}

func seedAnswers(f *testing.F) [][]byte {
	var out [][]byte
	for _, tt := range badAnswers {
		out = append(out, raw(f, tt.hex))
	}
	for _, fx := range fixtures(f) {
		out = append(out, fx.response)
	}
	m := ask("a.ns.", dns.TypeA)
	for _, records := range []string{
		"a.ns. 9 IN CNAME b.ns.\nb.ns. 4294967295 IN A 192.0.2.1\nb.ns. 5 IN A 192.0.2.2\n--\nns. 8 IN NS m.ns.\n--\nm.ns. 7 IN A 192.0.2.9",
		"a.ns. 9 IN RRSIG A 8 2 9 20300101000000 20200101000000 1 ns. AAAA\n--\n" + soa,
		"a.ns. 9 IN SRV 1 2 3 x.ns.\na.ns. 9 IN SVCB 1 x.ns. port=53\na.ns. 9 IN TXT a b c",
	} {
		out = append(out, pack(f, withOPT(respond(f, m, 0, records), 1232, true)))
	}
	return out
}

// dottedLabel reports whether a label holds a dot, which dnsmessage does not
// read (golang/go#56246).
func dottedLabel(name []byte) bool { return strings.Contains(NameString(name), `\.`) }

func checkQuestion(t *testing.T, m *dns.Msg, msg, name []byte, typ Type, class Class) {
	t.Helper()
	if len(m.Question) != 1 {
		t.Fatalf("miekg/dns reads %d questions in %x", len(m.Question), msg)
	}
	q := m.Question[0]
	if !bytes.Equal(mustName(t, q.Name), name) || q.Qtype != uint16(typ) || q.Qclass != uint16(class) {
		t.Fatalf("miekg/dns reads %v in %x, we %s %v %v", q, msg, NameString(name), class, typ)
	}
	if dottedLabel(name) {
		return
	}
	var p dnsmessage.Parser
	if _, err := p.Start(msg); err != nil {
		t.Fatalf("dnsmessage does not read %x: %v", msg, err)
	}
	x, err := p.Question()
	if err != nil {
		t.Fatalf("dnsmessage does not read the question of %x: %v", msg, err)
	}
	if len(name) < MaxName && x.Name.String() != plainString(name) || uint16(x.Type) != uint16(typ) || uint16(x.Class) != uint16(class) {
		t.Fatalf("dnsmessage reads %v in %x, we %s %v %v", x, msg, NameString(name), class, typ)
	}
}

// plainString is the unescaped form that dnsmessage keeps names in.
func plainString(name []byte) string {
	if len(name) == 1 {
		return "."
	}
	var b strings.Builder
	for i := 0; name[i] != 0; i += int(name[i]) + 1 {
		b.Write(name[i+1 : i+1+int(name[i])])
		b.WriteByte('.')
	}
	return b.String()
}

func FuzzQuery(f *testing.F) {
	for _, s := range seedQueries(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		q := new(Query)
		v := q.Parse(data)
		m := new(dns.Msg)
		readable := m.Unpack(data) == nil
		if v == Accept {
			if !readable && m.IsEdns0() == nil && data[11] == 0 && data[10] == 0 {
				t.Fatalf("accepted, but miekg/dns does not read %x", data)
			}
			if readable {
				checkQuestion(t, m, data, q.Name, q.Type, q.Class)
				opt := m.IsEdns0()
				if (opt != nil) != q.EDNS || opt != nil && (max(opt.UDPSize(), 512) != q.UDPSize || opt.Do() != q.DO || opt.Version() != q.Version) {
					t.Fatalf("OPT %v in %x, we read %+v", opt, data, q)
				}
				if m.Id != q.ID || m.RecursionDesired != q.RD() || m.CheckingDisabled != q.CD() || m.AuthenticatedData != q.AD() {
					t.Fatalf("header %v in %x, we read %+v", m.MsgHdr, data, q)
				}
			}
			checkUpstream(t, q)
		} else if v == FormErr && readable {
			checkRefusal(t, m)
		}
		checkError(t, data, v)
	})
}

// checkUpstream: what is asked upstream for a question is the same question
// with the same key, without the client's options.
func checkUpstream(t *testing.T, q *Query) {
	t.Helper()
	up := q.AppendUpstream(nil)
	again := accept(t, up)
	if !bytes.Equal(again.Key(), q.Key()) || again.UDPSize != MaxUDP || again.Cookie != nil || again.ECS {
		t.Fatalf("asked upstream: %x for the key %x", up, q.Key())
	}
	checkQuestion(t, unpack(t, up), up, KeyName(q.Key()), q.Type, q.Class)
}

// checkRefusal: a request that miekg/dns reads and writes again in one way only
// is no format error to us, as long as it is one question with at most an OPT
// without options.
func checkRefusal(t *testing.T, m *dns.Msg) {
	t.Helper()
	opt := m.IsEdns0()
	if len(m.Question) != 1 || m.Response || m.Opcode != dns.OpcodeQuery {
		return
	}
	switch Type(m.Question[0].Qtype) {
	case TypeOPT, TypeTSIG:
		return
	}
	m.Answer, m.Ns, m.Extra = nil, nil, nil
	if opt != nil {
		withOPT(m, opt.UDPSize(), opt.Do())
	}
	b, err := m.Pack()
	if err != nil {
		return
	}
	if v := new(Query).Parse(b); v == FormErr || v == Drop {
		t.Fatalf("%v for what miekg/dns writes: %x", v, b)
	}
}

// checkError: every request but a response gets a reply that both can read.
func checkError(t *testing.T, data []byte, v Verdict) {
	t.Helper()
	q, got := fail(t, data, v.RCode(), EDENotReady)
	if v == Drop {
		if len(got) != 0 {
			t.Fatalf("answered %x to %x", got, data)
		}
		return
	}
	m := unpack(t, got)
	if len(got) > MinUDP || m.Id != MsgID(data) || !m.Response || (m.IsEdns0() != nil) != q.EDNS {
		t.Fatalf("answered %x to %x", got, data)
	}
	if q.End > HeaderLen {
		checkQuestion(t, m, got, q.Name, q.Type, q.Class)
	} else if len(m.Question) != 0 {
		t.Fatalf("answered %x to %x", got, data)
	}
	if RCode(m.Rcode) != v.RCode() {
		t.Fatalf("answered %v to %x, which is %v", RCode(m.Rcode), data, v)
	}
}

func FuzzAnswer(f *testing.F) {
	for _, s := range seedAnswers(f) {
		f.Add(s)
	}
	f.Fuzz(checkAnswer)
}

func checkAnswer(t *testing.T, data []byte) {
	t.Helper()
	question := Question(data)
	if question == nil {
		if err := new(Answer).Parse(data, []byte("\x01a\x00\x00\x01\x00\x01")); err == nil && len(data) != HeaderLen {
			t.Fatalf("an answer without the question: %x", data)
		}
		return
	}
	a := new(Answer)
	err := a.Parse(data, question)
	m := new(dns.Msg)
	readable := m.Unpack(data) == nil
	if err != nil {
		if readable {
			checkRejection(t, m)
		}
		return
	}
	checkCounts(t, data, a)
	if !readable {
		return
	}
	all := records(m)
	if len(all) != len(a.TTLs) || len(m.Answer) != int(a.ANCount) || len(m.Ns) != int(a.NSCount) {
		t.Fatalf("%d records in %x, we read %d", len(all), data, len(a.TTLs))
	}
	for i, rr := range all {
		if a.TTLs[i].TTL > refTTL(rr.Header().Ttl) {
			t.Fatalf("record %d of %x has TTL %d, we read %d", i, data, rr.Header().Ttl, a.TTLs[i].TTL)
		}
	}
	for i, x := range all {
		for j, y := range all[:i] {
			if a.TTLs[i].Section == a.TTLs[j].Section && a.TTLs[i].TTL != a.TTLs[j].TTL && x.Header().Rrtype != dns.TypeRRSIG &&
				x.Header().Rrtype != dns.TypeSOA && x.Header().Rrtype == y.Header().Rrtype && x.Header().Class == y.Header().Class &&
				sameName(x.Header().Name, y.Header().Name) {
				t.Fatalf("two TTLs in one RRset of %x: %d and %d", data, a.TTLs[i].TTL, a.TTLs[j].TTL)
			}
		}
	}
	rcode := m.Rcode
	if ref := refer(m, rcode); ref.kind != a.Kind || ref.soa != a.HasSOA || ref.ttl != a.MinTTL || rcode != int(a.RCode) {
		t.Fatalf("%x is %+v, rcode %d; we read %v, SOA %v, TTL %d, %v", data, ref, rcode, a.Kind, a.HasSOA, a.MinTTL, a.RCode)
	}
}

// checkCounts compares with the header and, as far as it goes, with dnsmessage.
func checkCounts(t *testing.T, data []byte, a *Answer) {
	t.Helper()
	if int(a.ANCount)+int(a.NSCount)+int(a.ARCount) != len(a.TTLs) {
		t.Fatalf("%d TTLs for %d+%d+%d records", len(a.TTLs), a.ANCount, a.NSCount, a.ARCount)
	}
	var p dnsmessage.Parser
	if _, err := p.Start(data); err != nil {
		t.Fatalf("dnsmessage does not read %x: %v", data, err)
	}
	if p.SkipAllQuestions() != nil {
		return
	}
	for i := range int(a.ANCount) {
		h, err := p.AnswerHeader()
		if err != nil {
			return // a name with a dot in a label, or many pointers
		}
		if (a.TTLs[i].TTL > h.TTL) || p.SkipAnswer() != nil {
			t.Fatalf("record %d of %x has TTL %d, we read %d", i, data, h.TTL, a.TTLs[i].TTL)
		}
	}
}

// checkRejection: a response that miekg/dns reads and writes anew is an answer
// to us.
func checkRejection(t *testing.T, m *dns.Msg) {
	t.Helper()
	if len(m.Question) != 1 || !m.Response || m.Opcode != dns.OpcodeQuery || m.Question[0].Name == "" {
		return
	}
	opts := 0
	for i, s := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range s {
			h := rr.Header()
			if opt, ok := rr.(*dns.OPT); ok {
				if opts++; i < 2 || opts > 1 || h.Name != "." {
					return
				}
				opt.Option = nil
			}
			// miekg/dns reads RDATA that ends early, as updates have it, as
			// empty fields. Whole is what a zone file can hold.
			if again, err := dns.NewRR(rr.String()); h.Rrtype != dns.TypeOPT && (err != nil || again == nil || h.Rdlength == 0) {
				return
			}
		}
	}
	for _, compress := range []bool{false, true} {
		m.Compress = compress
		b, err := m.Pack()
		if err != nil || len(b) > MaxMsg || Question(b) == nil {
			return
		}
		if new(dns.Msg).Unpack(b) != nil {
			return
		}
		if err := new(Answer).Parse(b, Question(b)); err != nil {
			t.Fatalf("%v: miekg/dns reads %x as %v", err, b, m)
		}
	}
}

func FuzzReply(f *testing.F) {
	for i, s := range seedAnswers(f) {
		f.Add(s, uint32(i*7), NoTTLCap, uint16(512+i), uint32(i), uint8(i))
	}
	f.Fuzz(checkReplyTo)
}

// checkReplyTo answers the question of the response data, asked in another
// case, from data.
func checkReplyTo(t *testing.T, data []byte, age, ttlCap uint32, limit uint16, turn uint32, bits uint8) {
	t.Helper()
	question := Question(data)
	a := new(Answer)
	if question == nil || a.Parse(data, question) != nil || len(data) > 4096 {
		return
	}
	// The request: the same question in another case.
	var req []byte
	if bits&1 != 0 {
		req = AppendQuery(nil, FlagRD, question[:len(question)-4], 0, 0, bits&2 != 0)
	} else {
		req = AppendQuery(nil, FlagRD, question[:len(question)-4], 0, 0, false)
		req = req[:len(req)-optLen]
		req[11] = 0
	}
	copy(req[HeaderLen:], question)
	for i := range question[:len(question)-4] {
		if c := req[HeaderLen+i]; foldByte(c) >= 'a' && foldByte(c) <= 'z' && bits&(1<<(i%8)) != 0 {
			req[HeaderLen+i] ^= 0x20
		}
	}
	msg := within(req, 8192)
	q := new(Query)
	if q.Parse(msg) != Accept {
		return
	}
	r := a.Reply()
	r.Age, r.TTLCap, r.Rotate, r.EDE = age, ttlCap, turn, EDE(bits%25)
	got := q.AppendReply(msg, &r, int(limit))
	if len(got) > max(int(limit), q.End) || !bytes.Equal(Question(got), req[HeaderLen:HeaderLen+len(question)]) {
		t.Fatalf("%d octets, limit %d, question %x", len(got), limit, Question(got))
	}
	checkReply(t, data, got, a, &r)
}

// FuzzBuilt is for what mutating bytes hardly ever comes to: long, well-formed
// responses with CNAME chains, sets of records and shared suffixes. The seed
// decides all.
func FuzzBuilt(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		data := pack(t, build(t, rnd))
		if len(data) > MaxMsg {
			return
		}
		if err := new(Answer).Parse(data, Question(data)); err != nil {
			t.Fatalf("%v: %x", err, data)
		}
		checkAnswer(t, data)
		checkReplyTo(t, data, rnd.Uint32N(100), rnd.Uint32N(60), uint16(rnd.Uint32N(1500)), rnd.Uint32N(40), uint8(rnd.Uint32()))
		checkReplyTo(t, data, 0, NoTTLCap, MaxMsg, rnd.Uint32(), uint8(rnd.Uint32()))
	})
}

// build returns a response that is well-formed, though not always sensible.
func build(t *testing.T, rnd *rand.Rand) *dns.Msg {
	names := []string{"a.ns.", "b.ns.", "c.a.ns.", "A.NS.", "ns.", ".", `w\046x.ns.`, `\000.b.ns.`, "www.example.com.", strings.Repeat("x.", 120) + "ns."}
	name := func() string { return names[rnd.IntN(len(names))] }
	rr := func() dns.RR {
		rdata := []string{
			"A 192.0.2.1", "A 192.0.2.2", "AAAA 2001:db8::1", "CNAME " + name(), "CNAME " + name(), "NS " + name(), "DNAME " + name(),
			"SOA " + name() + " " + name() + " 1 2 3 4 " + strconv.Itoa(rnd.IntN(99)), "TXT a \"b c\"", "SRV 1 2 3 " + name(), "MX 1 " + name(),
			"SVCB 1 " + name() + " port=53", "NSEC " + name() + " A", `NAPTR 1 2 "s" "e" "" ` + name(), "PTR " + name(),
			"RRSIG A 8 2 9 20300101000000 20200101000000 1 " + name() + " AAAA", `TYPE65280 \# 2 c00c`, "CAA 0 issue \"x\"",
		}
		ttl := []uint32{0, 1, 30, 30, 30, 300, 1<<31 - 1, 1 << 31, 1<<32 - 1}[rnd.IntN(9)]
		out := rrs(t, name()+" 1 IN "+rdata[rnd.IntN(len(rdata))])[0]
		out.Header().Ttl = ttl
		return out
	}
	m := new(dns.Msg).SetQuestion(name(), []uint16{dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeANY, dns.TypeSRV}[rnd.IntN(6)])
	r := new(dns.Msg).SetRcode(m, []int{0, 0, 0, 3, 2}[rnd.IntN(5)])
	r.Compress, r.Authoritative, r.AuthenticatedData = rnd.IntN(4) > 0, rnd.IntN(2) > 0, rnd.IntN(2) > 0
	for range rnd.IntN(12) {
		r.Answer = append(r.Answer, rr())
	}
	if rnd.IntN(3) == 0 { // a set of addresses, as a headless service has it
		owner := name()
		for i := range rnd.IntN(40) {
			r.Answer = append(r.Answer, rrs(t, owner+" 30 IN A 192.0.2."+strconv.Itoa(i))...)
		}
	}
	for range rnd.IntN(4) {
		r.Ns = append(r.Ns, rr())
	}
	for range rnd.IntN(4) {
		r.Extra = append(r.Extra, rr())
	}
	if rnd.IntN(2) == 0 {
		withOPT(r, 1232, rnd.IntN(2) == 0, &dns.EDNS0_EDE{InfoCode: 22})
	}
	if rnd.IntN(4) == 0 {
		r.Extra = append(r.Extra, rr())
	}
	return r
}

func FuzzName(f *testing.F) {
	for _, s := range []string{".", "a", "a.", `a\.b.c`, `\000\255.x`, "..", `a\`, "WwW.Example.com", strings.Repeat("a.", 127), strings.Repeat("a", 64)} {
		f.Add(s, []byte(s))
	}
	f.Fuzz(func(t *testing.T, text string, name []byte) {
		if n, err := AppendName(nil, text); err == nil {
			if nameLen(n) != len(n) {
				t.Fatalf("AppendName(%q) = %x", text, n)
			}
			buf := make([]byte, 512)
			// dns.IsFqdn counts backslashes from the start of the rune in
			// front of them, so it errs behind what is not ASCII.
			if strings.IndexFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) >= 0 {
				return
			}
			end, err := dns.PackDomainName(dns.Fqdn(text), buf, 0, nil, false)
			if err == nil && !bytes.Equal(buf[:end], n) {
				t.Fatalf("AppendName(%q) = %x, miekg/dns packs %x", text, n, buf[:end])
			}
		}
		s := NameString(name)
		for i := range len(s) {
			if s[i] < ' ' || s[i] > '~' {
				t.Fatalf("NameString(%x) = %q", name, s)
			}
		}
		if n := nameLen(name); n != 0 && n == len(name) {
			if back, err := AppendName(nil, s); err != nil || !bytes.Equal(back, name) {
				t.Fatalf("%x is %q is %x, %v", name, s, back, err)
			}
			folded := make([]byte, n)
			Fold(folded, name)
			if !bytes.Equal(folded, asciiLower(name)) {
				t.Fatalf("Fold(%x) = %x", name, folded)
			}
		}
	})
}
