package wire

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// fixtures are the messages that nearly all of a node's traffic is like.
type fixture struct {
	what     string
	request  []byte
	response []byte
}

func fixtures(t testing.TB) []fixture {
	var set strings.Builder
	set.WriteString("www.example.com. 300 IN CNAME edge.example.net.\n")
	for i := range 10 {
		fmt.Fprintf(&set, "edge.example.net. 60 IN A 192.0.2.%d\n", i)
	}
	tests := []struct {
		what    string
		m       *dns.Msg
		rcode   int
		records string
	}{
		{"service", ask("web.default.svc.cluster.local.", dns.TypeA), 0, "web.default.svc.cluster.local. 30 IN A 172.20.0.77"},
		{"ndots", withOPT(ask("api.example.com.default.svc.cluster.local.", dns.TypeAAAA), 1232, false), 3,
			"--\ncluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 30"},
		{"chain10", withOPT(ask("www.example.com.", dns.TypeA), 1232, false), 0, set.String()},
	}
	var out []fixture
	for _, tt := range tests {
		r := respond(t, tt.m, tt.rcode, tt.records)
		withOPT(r, 1232, false)
		out = append(out, fixture{tt.what, pack(t, tt.m), pack(t, r)})
	}
	return out
}

// Red when: anything on the way from request to reply escapes to the heap.
func TestNoAllocation(t *testing.T) {
	for _, f := range fixtures(t) {
		q, a := new(Query), new(Answer)
		buf := make([]byte, 4096)
		up := make([]byte, 0, 512)
		key := make([]byte, 0, MaxKey)
		question := Question(f.request)
		if err := a.Parse(f.response, question); err != nil {
			t.Fatal(err)
		}
		stored := a.Reply()
		stored.TTLs = append([]TTL(nil), a.TTLs...)
		stored.Rotate, stored.EDE, stored.Age = 3, EDEStale, 2
		name := make([]byte, 0, 4*MaxName)
		paths := map[string]func(){
			"Query.Parse":     func() { q.Parse(f.request) },
			"Answer.Parse":    func() { _ = a.Parse(f.response, question) },
			"AppendReply":     func() { n := copy(buf, f.request); q.Parse(buf[:n]); q.AppendReply(buf[:n], &stored, 1232) },
			"AppendReply cut": func() { n := copy(buf, f.request); q.Parse(buf[:n]); q.AppendReply(buf[:n], &stored, 100) },
			"AppendError":     func() { n := copy(buf, f.request); q.Parse(buf[:n]); q.AppendError(buf[:n], 2, 23) },
			"AppendUpstream":  func() { q.Parse(f.request); q.AppendUpstream(up) },
			"AppendKey":       func() { AppendKey(key, question[:len(question)-4], 1, 1, FlagRD, true) },
			"IsReplyTo":       func() { IsReplyTo(f.response, f.request) },
			"AppendNameString": func() {
				AppendNameString(name, question[:len(question)-4])
			},
		}
		for what, path := range paths {
			if n := testing.AllocsPerRun(100, path); n != 0 {
				t.Errorf("%s, %s: %v allocations", f.what, what, n)
			}
		}
		for _, bad := range badInput {
			msg := raw(t, bad.hex)
			if n := testing.AllocsPerRun(10, func() { n := copy(buf, msg); q.Parse(buf[:n]); q.AppendError(buf[:n], 1, 0) }); n != 0 {
				t.Errorf("%s: %v allocations", bad.what, n)
			}
		}
		for _, bad := range badAnswers {
			msg := raw(t, bad.hex)
			if n := testing.AllocsPerRun(10, func() { _ = a.Parse(msg, msg[12:22]) }); n != 0 {
				t.Errorf("%s: %v allocations", bad.what, n)
			}
		}
	}
}

func BenchmarkParse(b *testing.B) {
	for _, f := range fixtures(b) {
		b.Run(f.what, func(b *testing.B) {
			b.ReportAllocs()
			q := new(Query)
			for b.Loop() {
				if q.Parse(f.request) != Accept {
					b.Fatal("not accepted")
				}
			}
		})
	}
}

func BenchmarkAnswerParse(b *testing.B) {
	for _, f := range fixtures(b) {
		b.Run(f.what, func(b *testing.B) {
			b.ReportAllocs()
			a := new(Answer)
			q := Question(f.request)
			for b.Loop() {
				if a.Parse(f.response, q) != nil {
					b.Fatal("not accepted")
				}
			}
		})
	}
}

func BenchmarkAppendReply(b *testing.B) {
	for _, f := range fixtures(b) {
		b.Run(f.what, func(b *testing.B) {
			b.ReportAllocs()
			q, a := new(Query), new(Answer)
			buf := make([]byte, 4096)
			if err := a.Parse(f.response, Question(f.request)); err != nil {
				b.Fatal(err)
			}
			r := a.Reply()
			msg := buf[:copy(buf, f.request)]
			q.Parse(msg)
			for b.Loop() {
				r.Age++
				r.Rotate++
				q.AppendReply(msg, &r, 1232)
			}
		})
	}
}

func BenchmarkFold(b *testing.B) {
	name := mustName(b, "API.example.com.default.svc.cluster.local")
	dst := make([]byte, len(name))
	b.ReportAllocs()
	for b.Loop() {
		Fold(dst, name)
	}
}
