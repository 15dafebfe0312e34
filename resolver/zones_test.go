package resolver

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/dnslet/dnslet/cache"
	"github.com/dnslet/dnslet/wire"
)

// Red when: NewZones lets the first match win.
func TestZones(t *testing.T) {
	root, corp, eu := &scripted{}, &scripted{}, &scripted{}
	s := runServer(t, root, withZone(Zone{Name: "corp.example.", Upstream: corp}), withZone(Zone{Name: "EU.corp.example.", Upstream: eu}))
	for name, want := range map[string]*scripted{
		"corp.example.":      corp,
		"www.CORP.example.":  corp,
		"a.eu.corp.example.": eu,
		"xcorp.example.":     root,
		"example.":           root,
		".":                  root,
	} {
		before := want.total()
		s.ask(t, "udp", question(name, dns.TypeA))
		if want.total() != before+1 {
			t.Errorf("%s went elsewhere", name)
		}
	}
}

// Red when: SetZones does not flush.
func TestChangedZonesForgetTheirAnswers(t *testing.T) {
	root, old, corp := &scripted{}, &scripted{}, &scripted{}
	s := runServer(t, root, withZone(Zone{Name: "corp.example.", Upstream: old}))
	ask := func() {
		s.ask(t, "udp", question("www.corp.example.", dns.TypeA))
		s.ask(t, "udp", question("www.example.", dns.TypeA))
	}
	ask()
	z, err := NewZones([]Zone{
		{Name: ".", Upstream: root, Lifetimes: s.cache.Lifetimes()},
		{Name: "corp.example.", Upstream: corp, Lifetimes: s.cache.Lifetimes()},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.SetZones(z)
	ask()
	if old.total() != 1 || corp.total() != 1 || root.total() != 1 {
		t.Errorf("the old upstream was asked %d times, the new one %d, the other zone's %d; want 1 each", old.total(), corp.total(), root.total())
	}
}

// Red when: join takes any flight for the question.
func TestQuestionAfterAReloadDoesNotJoinAnOlderFlight(t *testing.T) {
	gate := make(chan struct{})
	old := &scripted{handle: func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		<-gate
		return poisoned(q), nil
	}}
	root := &scripted{}
	s := runServer(t, old)
	first := s.dial(t, "udp")
	if _, err := first.Write(pack(t, question("www.example.", dns.TypeA))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first waits", func() bool { return s.Stats().Waiting == 1 })
	z, err := NewZones([]Zone{{Name: ".", Upstream: root, Lifetimes: s.cache.Lifetimes()}})
	if err != nil {
		t.Fatal(err)
	}
	s.SetZones(z)
	release := sync.OnceFunc(func() { close(gate) })
	defer release()
	time.AfterFunc(time.Second, release) // so that a test that is red does not wait for ever
	want := answerAny(question("www.example.", dns.TypeA)).Answer[0].String()
	if r := s.ask(t, "udp", question("www.example.", dns.TypeA)); r.Answer[0].String() != want {
		t.Errorf("got %v", r)
	}
	release()
	b := make([]byte, 512)
	if _, err := first.Read(b); err != nil {
		t.Errorf("the first, which the reload overtook: %v", err)
	}
	if r := s.ask(t, "udp", question("www.example.", dns.TypeA)); r.Answer[0].String() != want {
		t.Errorf("the late answer has been kept: %v", r)
	}
	eventually(t, "no flight is left", func() bool {
		left := 0
		for i := range s.table.shards {
			sh := &s.table.shards[i]
			sh.mu.Lock()
			left += len(sh.m)
			sh.mu.Unlock()
		}
		return left == 0
	})
}

// The zones change between the look at them and the Put of what came from the old upstream, so the flush finds nothing.
//
// Red when: keep does not look at the zones again.
func TestAnswerThatIsKeptDuringAReloadIsFlushed(t *testing.T) {
	var s *testServer
	root, old := &scripted{}, &scripted{}
	var calls, reloads atomic.Int32 // of the clock since the old upstream has answered: the second one is keep's
	old.handle = func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		calls.Store(1)
		return poisoned(q), nil
	}
	var next *Zones
	clock := func() int64 {
		if n := calls.Load(); n > 0 && calls.Add(1) == 3 {
			s.SetZones(next)
			reloads.Add(1)
		}
		return int64(time.Hour)
	}
	s = newServer(t, old, withCache(func(c *cache.Config) { c.Now = clock }))
	s.run(t)
	var err error
	if next, err = NewZones([]Zone{{Name: ".", Upstream: root, Lifetimes: s.cache.Lifetimes()}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := s.Lookup(context.Background(), "www.example.", wire.TypeA); err != nil {
			t.Fatal(err)
		}
	}
	if reloads.Load() != 1 || root.total() != 1 {
		t.Errorf("%d reloads, and the new upstream was asked %d times; want 1 and 1", reloads.Load(), root.total())
	}
}

func TestZonesThatCannotBe(t *testing.T) {
	u := &scripted{}
	l := cache.Lifetimes{MaxTTL: time.Hour}
	for name, zones := range map[string][]Zone{
		"no root":      {{Name: "example.", Upstream: u, Lifetimes: l}},
		"twice":        {{Name: ".", Upstream: u, Lifetimes: l}, {Name: ".", Upstream: u, Lifetimes: l}},
		"no upstream":  {{Name: ".", Lifetimes: l}},
		"no lifetimes": {{Name: ".", Upstream: u}},
		"bad name":     {{Name: "a..b", Upstream: u, Lifetimes: l}},
		"bare host":    {{Name: ".", Upstream: u, Lifetimes: l, Hosts: []Host{{Name: "x.", TTL: time.Second}}}},
		"host twice":   {{Name: ".", Upstream: u, Lifetimes: l, Hosts: []Host{hostOf("x.", "192.0.2.1"), hostOf("X.", "192.0.2.2")}}},
		"negative TTL": {{Name: ".", Upstream: u, Lifetimes: l, Hosts: []Host{{Name: "x.", Addresses: hostOf("", "192.0.2.1").Addresses, TTL: -1}}}},
	} {
		if _, err := NewZones(zones); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Red when: a type that a host has not is forwarded.
func TestHosts(t *testing.T) {
	u := &scripted{}
	z := Zone{Name: "lan.", Upstream: u, Hosts: []Host{
		hostOf("db.lan.", "192.0.2.10", "192.0.2.11", "2001:db8::10"),
		hostOf("v4.lan.", "192.0.2.10"),
	}}
	s := runServer(t, u, withZone(z))
	records := func(name string, qtype uint16) (rdata []string) {
		r := s.ask(t, "udp", question(name, qtype))
		if r.Rcode != dns.RcodeSuccess || !r.Authoritative {
			t.Errorf("%s: got %v", name, r)
		}
		for _, rr := range r.Answer {
			if rr.Header().Ttl != 60 {
				t.Errorf("TTL %d, want 60", rr.Header().Ttl)
			}
			rdata = append(rdata, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
		if len(r.Answer) == 0 && len(r.Ns) != 1 {
			t.Errorf("%s: NODATA without SOA", name)
		}
		return rdata
	}
	if got := records("DB.lan.", dns.TypeA); len(got) != 2 {
		t.Errorf("A: %v", got)
	}
	if got := records("db.lan.", dns.TypeAAAA); !cmp.Equal(got, []string{"2001:db8::10"}) {
		t.Errorf("AAAA: %v", got)
	}
	for _, c := range []struct {
		name  string
		qtype uint16
	}{{"v4.lan.", dns.TypeAAAA}, {"db.lan.", dns.TypeTXT}} {
		if got := records(c.name, c.qtype); got != nil {
			t.Errorf("%v: %v, want NODATA", c, got)
		}
	}
	for _, reverse := range []string{"10.2.0.192.in-addr.arpa.", "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."} {
		if got := records(reverse, dns.TypePTR); !cmp.Equal(got, []string{"db.lan."}) {
			t.Errorf("PTR %s: %v", reverse, got)
		}
	}
	if n := u.total(); n != 0 {
		t.Errorf("upstream was asked: %v", u.asked)
	}
	if st := s.Stats(); st.Sum(Static) == 0 || st.Sum(Static) != st.Queries[UDP] {
		t.Errorf("%d of %d counted as static", st.Sum(Static), st.Queries[UDP])
	}
}
