package wire

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// plain packs r as CoreDNS does when nothing forces it to compress.
func plain(t testing.TB, r *dns.Msg) []byte {
	t.Helper()
	r.Compress = false
	b, err := r.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Red when: Compact does nothing, leaves the owner of any of these, or loses a TTL's place.
func TestCompact(t *testing.T) {
	const name = "web.prod.svc.cluster.local."
	var set, chain strings.Builder
	chain.WriteString(name + " 30 IN CNAME edge.example.net.\n")
	for i := range 25 {
		fmt.Fprintf(&set, "%s %d IN A 192.0.2.%d\n", name, 30, i)
		fmt.Fprintf(&chain, "edge.example.net. %d IN A 192.0.2.%d\n", 60, i)
	}
	for what, records := range map[string]string{"set": set.String(), "chain": chain.String()} {
		m := ask(name, dns.TypeA)
		r := respond(t, m, 0, records)
		msg := plain(t, r)
		a := new(Answer)
		if err := a.Parse(msg, Question(pack(t, m))); err != nil {
			t.Fatal(err)
		}
		a.Compact(msg)
		stored := a.Reply()
		stored.Age = 10
		got := reply(t, m, &stored, MinUDP)
		if got.Truncated || len(got.Answer) != len(r.Answer) {
			t.Fatalf("%s: %d of %d records fit into 512 octets", what, len(got.Answer), len(r.Answer))
		}
		for i, rr := range got.Answer {
			r.Answer[i].Header().Ttl -= 10
			if rr.String() != r.Answer[i].String() {
				t.Errorf("%s: got %v, want %v", what, rr, r.Answer[i])
			}
		}
	}
}

// Red when: Compact does not look at rigid, or walkName or walkRecord do not set it.
func TestCompactLeavesWhatIsPointedAt(t *testing.T) {
	m := ask("a.ns.", dns.TypeA)
	// The RDATA of the last record becomes a pointer to its own owner.
	pointing := plain(t, respond(t, m, 0, "a.ns. 60 IN A 192.0.2.1\n--\nother. 60 IN NS other."))
	rdata := len(pointing) - len("\x05other\x00")
	owner := rdata - recordFixed - len("\x05other\x00")
	pointing = append(pointing[:rdata], 0xc0, byte(owner))
	pointing[rdata-1] = 2
	unknown := plain(t, respond(t, m, 0, "a.ns. 60 IN TYPE65280 \\# 2 c00c\na.ns. 60 IN A 192.0.2.1"))
	for _, msg := range [][]byte{pointing, unknown} {
		a := new(Answer)
		if err := a.Parse(msg, Question(pack(t, m))); err != nil {
			t.Fatal(err)
		}
		before := len(a.Tail)
		if a.Compact(msg); len(a.Tail) != before {
			t.Errorf("%x: the tail has %d octets, was %d", msg, len(a.Tail), before)
		}
	}
}
