package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

const (
	headerHex = "1234 0100 0001 0000 0000 0000"
	plainHex  = "1234 0100 0001 0000 0000 0000" + webHex
	webHex    = "03 776562 02 6e73 00 0001 0001" // web.ns A IN
	optHex    = "00 0029 04d0 00000000 0000"     // size 1232, no options
)

func raw(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// edns returns a query whose OPT has these option bytes.
func edns(options string) string {
	n := len(strings.Join(strings.Fields(options), "")) / 2
	return "1234 0100 0001 0000 0000 0001" + webHex +
		"00 0029 04d0 00000000" + hex.EncodeToString([]byte{byte(n >> 8), byte(n)}) + options
}

// badInput is shared with the fuzz targets' seeds. Conditions of the fast path:
// 4 (QDCOUNT, compressed questions, opcodes, QR), 12 (version).
var badInput = []struct {
	what string
	hex  string
	want Verdict
}{
	{"plain", plainHex, Accept},
	{"plain with OPT", edns(""), Accept},
	{"empty", "", Drop},
	{"shorter than a header", "1234 0100 0001 0000 0000 00", Drop},
	{"QR=1", "1234 8100 0001 0000 0000 0000" + webHex, Drop},
	{"QR=1 and nonsense", "1234 ffff ffff ffff ffff ffff", Drop},
	{"QDCOUNT 0", "1234 0100 0000 0000 0000 0000", FormErr},
	{"QDCOUNT 2", "1234 0100 0002 0000 0000 0000" + webHex + webHex, FormErr},
	{"QDCOUNT 65535", "1234 0100 ffff 0000 0000 0000" + webHex, FormErr},
	{"no question", headerHex, FormErr},
	{"question cut in the name", headerHex + "03 7765", FormErr},
	{"question cut in the class", headerHex + "00 0001 00", FormErr},
	{"pointer as a question", headerHex + "c00c 0001 0001", FormErr},
	{"pointer into the header", headerHex + "c000 0001 0001", FormErr},
	{"pointer behind a label", headerHex + "03 776562 c00c 0001 0001", FormErr},
	{"reserved label type 01", headerHex + "41" + strings.Repeat("61", 65) + "00 0001 0001", FormErr},
	{"reserved label type 10", headerHex + "81 61 00 0001 0001", FormErr},
	{"name of 255", headerHex + strings.Repeat("3f"+strings.Repeat("61", 63), 3) + "3d" + strings.Repeat("61", 61) + "00 0001 0001", Accept},
	{"name of 256", headerHex + strings.Repeat("3f"+strings.Repeat("61", 63), 3) + "3e" + strings.Repeat("61", 62) + "00 0001 0001", FormErr},
	{"name of 127 labels", headerHex + strings.Repeat("01 61", 127) + "00 0001 0001", Accept},
	{"zero octet in a label", headerHex + "03 770062 00 0001 0001", Accept},
	{"trailing octet", plainHex + "00", FormErr},
	{"ANCOUNT 1", "1234 0100 0001 0001 0000 0000" + webHex + "c00c 0001 0001 00000000 0004 7f000001", FormErr},
	{"NSCOUNT 1", "1234 0100 0001 0000 0001 0000" + webHex + "c00c 0001 0001 00000000 0004 7f000001", FormErr},
	{"counts of 65535", "1234 0100 0001 0000 0000 ffff" + webHex, FormErr},
	{"opcode STATUS", "1234 1000 0001 0000 0000 0000" + webHex, NotImp},
	{"opcode NOTIFY", "1234 2400 0001 0000 0000 0000" + webHex, NotImp},
	{"opcode UPDATE", "1234 2800 0001 0000 0001 0000" + webHex + "c00c 0001 0001 00000000 0004 7f000001", NotImp},
	{"opcode DSO, no question", "1234 3000 0000 0000 0000 0000", NotImp},
	{"opcode 15", "1234 7800 0001 0000 0000 0000" + webHex, NotImp},
	{"class CH", headerHex + "03 776562 00 0010 0003", Refused},
	{"class HS", headerHex + "03 776562 00 0001 0004", Accept},
	{"class ANY", headerHex + "03 776562 00 0001 00ff", Accept},
	{"class 0", headerHex + "03 776562 00 0001 0000", Accept},
	{"type 0", headerHex + "03 776562 00 0000 0001", Accept},
	{"type 65280", headerHex + "03 776562 00 ff00 0001", Accept},
	{"type OPT", headerHex + "03 776562 00 0029 0001", FormErr},
	{"type TSIG", headerHex + "03 776562 00 00fa 0001", FormErr},
	{"type TKEY", headerHex + "03 776562 00 00f9 0001", NotImp},
	{"type MAILB", headerHex + "03 776562 00 00fd 0001", NotImp},
	{"type ANY", headerHex + "03 776562 00 00ff 0001", Accept},
	{"type AXFR", headerHex + "03 776562 00 00fc 0001", Refused},
	{"type IXFR with its SOA", "1234 0000 0001 0000 0001 0000 00 00fb 0001" +
		"00 0006 0001 00000000 0016 00 00 00000001 00000000 00000000 00000000 00000000", Refused},
	{"Z bit and RA", "1234 01c0 0001 0000 0000 0000" + webHex, Accept},
	{"TSIG", "1234 0100 0001 0000 0000 0001" + webHex + "01 6b 00 00fa 00ff 00000000 0000", NotAuth},
	{"additional A", "1234 0100 0001 0000 0000 0001" + webHex + "c00c 0001 0001 00000000 0004 7f000001", Accept},
	{"additional A cut off", "1234 0100 0001 0000 0000 0001" + webHex + "c00c 0001 0001 00000000 0004 7f0000", FormErr},
	{"additional owner points forwards", "1234 0100 0001 0000 0000 0001" + webHex + "c0ff 0001 0001 00000000 0000", FormErr},
	{"additional owner points at itself", "1234 0100 0001 0000 0000 0001" + webHex + "c018 0001 0001 00000000 0000", FormErr},
	{"OPT second", "1234 0100 0001 0000 0000 0002" + webHex + "c00c 0001 0001 00000000 0004 7f000001" + optHex, Accept},
	{"two OPTs", "1234 0100 0001 0000 0000 0002" + webHex + optHex + optHex, FormErr},
	{"OPT not owned by the root", "1234 0100 0001 0000 0000 0001" + webHex + "01 61 00 0029 04d0 00000000 0000", FormErr},
	{"OPT owned by a pointer", "1234 0100 0001 0000 0000 0001" + webHex + "c013 0029 04d0 00000000 0000", FormErr},
	{"OPT cut off", "1234 0100 0001 0000 0000 0001" + webHex + "00 0029 04d0 00000000 00", FormErr},
	{"OPT longer than the message", "1234 0100 0001 0000 0000 0001" + webHex + "00 0029 04d0 00000000 ffff", FormErr},
	{"OPT announced, not there", "1234 0100 0001 0000 0000 0001" + webHex, FormErr},
	{"OPT there, not announced", plainHex + optHex, FormErr},
	{"octet behind the OPT", "1234 0100 0001 0000 0000 0001" + webHex + optHex + "00", FormErr},
	{"EDNS version 1", "1234 0100 0001 0000 0000 0001" + webHex + "00 0029 04d0 00010000 0000", BadVers},
	{"EDNS version 255 with odd options", "1234 0100 0001 0000 0000 0001" + webHex + "00 0029 04d0 00ff0000 0001 ff", BadVers},
	{"EDNS size 0", "1234 0100 0001 0000 0000 0001" + webHex + "00 0029 0000 00000000 0000", Accept},
	{"option header cut off", edns("000a 00"), FormErr},
	{"option longer than the OPT", edns("000a 0009 0102030405060708"), FormErr},
	{"unknown option", edns("fde9 0003 010203"), Accept},
	{"cookie of 8", edns("000a 0008 0102030405060708"), Accept},
	{"cookie of 7", edns("000a 0007 01020304050607"), FormErr},
	{"cookie of 12", edns("000a 000c 010203040506070809101112"), FormErr},
	{"cookie of 41", edns("000a 0029" + strings.Repeat("00", 41)), FormErr},
	{"ECS", edns("0008 0007 0001 18 00 c00002"), Accept},
	{"ECS of no address", edns("0008 0004 0001 00 00"), Accept},
	{"ECS with too little address", edns("0008 0006 0001 18 00 c000"), FormErr},
	{"ECS with bits behind the prefix", edns("0008 0007 0001 17 00 c00003"), FormErr},
	{"ECS prefix of 33", edns("0008 0009 0001 21 00 c000020100"), FormErr},
	{"ECS with a scope", edns("0008 0007 0001 18 18 c00002"), FormErr},
	{"ECS of an unknown family", edns("0008 0005 0009 08 00 c0"), FormErr},
	{"keepalive with a value", edns("000b 0002 0064"), Accept},
}

// Red when: parse returns Accept in place of any verdict above, or stops
// comparing the end of the last record with the end of the message.
func TestQueryVerdicts(t *testing.T) {
	for _, tt := range badInput {
		t.Run(tt.what, func(t *testing.T) {
			q := new(Query)
			if got := q.Parse(raw(t, tt.hex)); got != tt.want || q.Verdict() != tt.want {
				t.Errorf("Parse = %v, want %v", got, tt.want)
			}
			if tt.want != Accept && len(q.Key()) != 0 {
				t.Errorf("a key without an acceptable question: %x", q.Key())
			}
		})
	}
}

// Red when: reset forgets a field (take out any one line of it).
func TestParseForgetsTheLastRequest(t *testing.T) {
	q := new(Query)
	q.Parse(raw(t, edns("000a 0008 0102030405060708 0008 0004 0001 00 00 000b 0000 000c 0000 0003 0000")))
	if q.Cookie == nil || !q.ECS || !q.Keepalive || !q.Padding || !q.NSID || !q.EDNS {
		t.Fatalf("options not seen: %+v", q)
	}
	q.Parse(nil)
	if q.ID != 0 || q.Flags != 0 || q.Name != nil || q.Type != 0 || q.Class != 0 || q.End != HeaderLen ||
		q.EDNS || q.UDPSize != MinUDP || q.DO || q.Version != 0 || q.Cookie != nil || q.ECS || q.Keepalive ||
		q.Padding || q.NSID || q.Cacheable() || len(q.Key()) != 0 || q.Verdict() != Drop {
		t.Errorf("left from the request before: %+v", q)
	}
}

// Red when: Parse copies Name, or reads DO, CD or the cookie from the wrong place.
func TestQueryFields(t *testing.T) {
	m := withOPT(ask("WeB.Ns.", dns.TypeAAAA), 4096, true, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"})
	m.CheckingDisabled = true
	msg := pack(t, m)
	q := accept(t, msg)
	if q.ID != 0x1234 || NameString(q.Name) != "WeB.Ns." || q.Type != TypeAAAA || q.Class != ClassIN ||
		q.End != 12+8+4 || !q.EDNS || q.UDPSize != 4096 || !q.DO || !q.RD() || !q.CD() || q.AD() ||
		!bytes.Equal(q.Cookie, []byte{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("Parse = %+v", q)
	}
	if &q.Name[0] != &msg[HeaderLen] {
		t.Error("Name is not a slice of the message")
	}
}

// Condition 13 of the fast path: never above what the client takes, never above
// 1232. Red when: UDPLimit returns UDPSize, or opt stores a size below 512.
func TestUDPLimit(t *testing.T) {
	for _, tt := range []struct {
		size uint16
		want int
	}{{0, 512}, {511, 512}, {512, 512}, {1000, 1000}, {1232, 1232}, {4096, 1232}, {65535, 1232}} {
		if got := accept(t, pack(t, withOPT(ask("a.", 1), tt.size, false))).UDPLimit(); got != tt.want {
			t.Errorf("size %d: limit %d, want %d", tt.size, got, tt.want)
		}
	}
	if got := accept(t, pack(t, ask("a.", 1))).UDPLimit(); got != 512 {
		t.Errorf("without EDNS: limit %d, want 512", got)
	}
}

// Condition 1 of the fast path: the key is folded name, type, class, DO, CD and
// RD; neither EDNS nor AD nor case nor size are in it.
// Red when: setKey copies the name without Fold, or keyBits loses a bit.
func TestKey(t *testing.T) {
	base := func() *dns.Msg { return ask("WeB.ns.", dns.TypeA) }
	key := func(m *dns.Msg) string { return string(accept(t, pack(t, m)).Key()) }
	same := map[string]func(*dns.Msg){
		"case":           func(m *dns.Msg) { m.Question[0].Name = "wEb.NS." },
		"ID":             func(m *dns.Msg) { m.Id = 7 },
		"AD":             func(m *dns.Msg) { m.AuthenticatedData = true },
		"EDNS":           func(m *dns.Msg) { withOPT(m, 1232, false) },
		"EDNS with size": func(m *dns.Msg) { withOPT(m, 4096, false) },
	}
	other := map[string]func(*dns.Msg){
		"name":  func(m *dns.Msg) { m.Question[0].Name = "wab.ns." },
		"type":  func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
		"class": func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassHESIOD },
		"RD":    func(m *dns.Msg) { m.RecursionDesired = false },
		"CD":    func(m *dns.Msg) { m.CheckingDisabled = true },
		"DO":    func(m *dns.Msg) { withOPT(m, 1232, true) },
	}
	want := key(base())
	for what, change := range same {
		m := base()
		change(m)
		if key(m) != want {
			t.Errorf("%s changes the key", what)
		}
	}
	seen := map[string]string{want: "base"}
	for what, change := range other {
		m := base()
		change(m)
		k := key(m)
		if seen[k] != "" {
			t.Errorf("%s: the key of %s", what, seen[k])
		}
		seen[k] = what
	}
	m := withOPT(base(), 1232, true)
	m.CheckingDisabled = true
	k := []byte(key(m))
	flags, do := KeyFlags(k)
	if NameString(KeyName(k)) != "web.ns." || KeyType(k) != TypeA || KeyClass(k) != ClassIN || flags != FlagRD|FlagCD || !do {
		t.Errorf("key %x reads as %v %v %v %x %v", k, KeyName(k), KeyType(k), KeyClass(k), flags, do)
	}
	if got := AppendKey(nil, mustName(t, "WEB.ns"), TypeA, ClassIN, FlagRD|FlagCD|FlagAD, true); !bytes.Equal(got, k) {
		t.Errorf("AppendKey = %x, Parse makes %x", got, k)
	}
	if KeyName([]byte("short")) != nil || KeyType(nil) != 0 || KeyClass(nil) != 0 {
		t.Error("what is no key reads as one")
	}
}

// Conditions 1 (RD=0), 4 (zero octets), 11 (ANY) and 17 (ECS) of the fast path.
// Red when: KeyCacheable drops any of its terms, or setKey forgets ECS.
func TestCacheable(t *testing.T) {
	tests := []struct {
		what string
		hex  string
		want bool
	}{
		{"plain", plainHex, true},
		{"EDNS with an unknown option", edns("fde9 0000"), true},
		{"cookie", edns("000a 0008 0102030405060708"), true},
		{"root", headerHex + "00 0002 0001", true},
		{"unknown type", headerHex + "00 ff00 0001", true},
		{"RD=0", "1234 0000 0001 0000 0000 0000" + webHex, false},
		{"zero octet in a label", headerHex + "03 770062 00 0001 0001", false},
		{"zero octet ends a label", headerHex + "03 776200 00 0001 0001", false},
		{"ECS", edns("0008 0004 0001 00 00"), false},
		{"class HS", headerHex + "00 0001 0004", false},
		{"class ANY", headerHex + "00 0001 00ff", false},
		{"type 0", headerHex + "00 0000 0001", false},
		{"type ANY", headerHex + "00 00ff 0001", false},
		{"type 128", headerHex + "00 0080 0001", false},
		{"refused", headerHex + "00 00fc 0001", false},
	}
	for _, tt := range tests {
		q := new(Query)
		q.Parse(raw(t, tt.hex))
		if got := q.Cacheable(); got != tt.want {
			t.Errorf("%s: Cacheable = %v, want %v", tt.what, got, tt.want)
		}
		if got := KeyCacheable(q.Key()); got != (tt.want || q.ECS) {
			t.Errorf("%s: KeyCacheable = %v, want %v", tt.what, got, tt.want || q.ECS)
		}
	}
}

// Conditions 12, 16 and 17 of the fast path: EDNS is hop by hop, no cookie and
// no client subnet goes upstream.
// Red when: AppendUpstream copies the request, or AppendQuery loses DO.
func TestUpstreamQuery(t *testing.T) {
	for _, do := range []bool{false, true} {
		for _, cd := range []bool{false, true} {
			for _, rd := range []bool{false, true} {
				m := withOPT(ask("WeB.Ns.", dns.TypeSRV), 4096, do,
					&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
					&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, Address: net.IPv4zero})
				m.CheckingDisabled, m.RecursionDesired = cd, rd
				up := accept(t, pack(t, m)).AppendUpstream(nil)
				got := unpack(t, up)
				opt := got.IsEdns0()
				if len(got.Extra) != 1 || opt == nil || opt.UDPSize() != MaxUDP || opt.Do() != do || opt.Version() != 0 || len(opt.Option) != 0 {
					t.Errorf("OPT sent upstream: %v", opt)
				}
				if got.Id != 0 || got.Response || got.CheckingDisabled != cd || got.RecursionDesired != rd || !got.AuthenticatedData {
					t.Errorf("header sent upstream: %v", got.MsgHdr)
				}
				if q := got.Question; len(q) != 1 || q[0] != (dns.Question{Name: "web.ns.", Qtype: dns.TypeSRV, Qclass: dns.ClassINET}) {
					t.Errorf("question sent upstream: %v", q)
				}
			}
		}
	}
}

// Condition 19 of the fast path: match ID and question, ignore the rest.
// Red when: matchQuestion does not compare type and class, or IsReplyTo the ID.
func TestIsReplyTo(t *testing.T) {
	m := ask("web.ns.", dns.TypeA)
	query := pack(t, m)
	good := pack(t, respond(t, m, dns.RcodeSuccess, "web.ns. 5 IN A 192.0.2.1"))
	change := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] ^= v
		return b
	}
	tests := []struct {
		what string
		resp []byte
		want bool
	}{
		{"the response", good, true},
		{"in another case", change(13, 0x20), true},
		{"another ID", change(1, 1), false},
		{"the query itself", query, false},
		{"opcode", change(2, 0x10), false},
		{"another name", change(13, 1), false},
		{"another type", change(21, 1), false},
		{"another class", change(23, 2), false},
		{"QDCOUNT 2", change(5, 3), false},
		{"cut off in the question", good[:20], false},
		{"bare SERVFAIL", raw(t, "1234 8182 0000 0000 0000 0000"), true},
		{"bare FORMERR", raw(t, "1234 8181 0000 0000 0000 0000"), true},
		{"bare NOERROR", raw(t, "1234 8180 0000 0000 0000 0000"), false},
		{"bare NXDOMAIN", raw(t, "1234 8183 0000 0000 0000 0000"), false},
		{"SERVFAIL without a question, with more", raw(t, "1234 8182 0000 0000 0000 0000 00"), false},
		{"nothing", nil, false},
	}
	for _, tt := range tests {
		if got := IsReplyTo(tt.resp, query); got != tt.want {
			t.Errorf("%s: IsReplyTo = %v, want %v", tt.what, got, tt.want)
		}
	}
	if IsReplyTo(good, nil) || IsReplyTo(good, query[:14]) {
		t.Error("a reply to no query")
	}
}

// Red when: SetMsgID writes to a message without a header.
func TestMsgAccessors(t *testing.T) {
	msg := raw(t, plainHex)
	SetMsgID(msg, 0xbeef)
	if MsgID(msg) != 0xbeef || MsgFlags(msg) != FlagRD || len(Question(msg)) != 12 {
		t.Errorf("ID %x flags %x question %x", MsgID(msg), MsgFlags(msg), Question(msg))
	}
	short := msg[:11]
	SetMsgID(short, 1)
	if MsgID(short) != 0 || MsgFlags(short) != 0 || Question(short) != nil || binary.BigEndian.Uint16(short) != 0xbeef {
		t.Error("a message without a header is read or written")
	}
}
