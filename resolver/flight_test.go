package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnslet/dnslet/cache"
	"github.com/dnslet/dnslet/upstream"
	"github.com/dnslet/dnslet/wire"
)

func hostOf(name string, addrs ...string) Host {
	h := Host{Name: name, TTL: time.Minute}
	for _, a := range addrs {
		h.Addresses = append(h.Addresses, netip.MustParseAddr(a))
	}
	return h
}

// Red when: join never finds the flight that is there.
func TestOneQuestionForManyAskers(t *testing.T) {
	const askers = 200
	gate := make(chan struct{})
	u := &scripted{handle: func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		<-gate
		return answerAny(q), nil
	}}
	s := runServer(t, u)
	conn := s.dial(t, "udp")
	sent := map[uint16]string{}
	for i := range askers {
		m := question([]string{"www.example.", "WWW.example.", "wWw.ExAmPlE."}[i%3], dns.TypeA)
		m.Id = uint16(1000 + i)
		if i%2 == 0 {
			m.SetEdns0(1232, false)
		}
		sent[m.Id] = m.Question[0].Name
		if _, err := conn.Write(pack(t, m)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all wait", func() bool { return s.Stats().Waiting == askers })
	close(gate)
	b := make([]byte, 4096)
	for range askers {
		n, err := conn.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		r := unpack(t, b[:n])
		if len(r.Answer) != 1 || r.Question[0].Name != sent[r.Id] || (r.IsEdns0() != nil) != (r.Id%2 == 0) {
			t.Fatalf("got %v", r)
		}
		delete(sent, r.Id)
	}
	if n := u.total(); n != 1 {
		t.Errorf("upstream was asked %d times, want 1", n)
	}
	eventually(t, "all is given back", func() bool { st := s.Stats(); return st.Waiting == 0 && st.Flights == 0 })
	if st := s.Stats(); st.Events[FlightJoined] != askers-1 {
		t.Errorf("%d joined, want %d", st.Events[FlightJoined], askers-1)
	}
}

// bubble runs a server without sockets in a bubble of synthetic time.
func bubble(t *testing.T, u *scripted, f func(t *testing.T, s *testServer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, u)
		done := make(chan error, 1)
		go func() { done <- s.Run(context.Background()) }()
		synctest.Wait()
		f(t, s)
		s.Drain(context.Background())
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// lookup returns what came and after how long.
func lookup(t *testing.T, s *testServer, name string) (*dns.Msg, LookupResult, time.Duration) {
	t.Helper()
	start := time.Now()
	r, err := s.Lookup(context.Background(), name, wire.TypeA)
	if err != nil {
		t.Error(err)
		return new(dns.Msg), r, 0
	}
	return unpack(t, r.Message), r, time.Since(start)
}

// Fresh first: while an endpoint is healthy the client waits as long as it can.
//
// Red when: fly arms the timer without asking Healthy.
func TestStaleAfterTheWholeWaitWhileHealthy(t *testing.T) {
	u := &scripted{}
	bubble(t, u, func(t *testing.T, s *testServer) {
		lookup(t, s, "www.example.")
		time.Sleep(10 * time.Minute)
		u.does(silence)
		m, r, took := lookup(t, s, "www.example.")
		if r.Outcome != Stale || len(m.Answer) != 1 || m.Answer[0].Header().Ttl > 30 || took != clientWait {
			t.Errorf("%v after %v: %v; want a stale answer after %v", r.Outcome, took, m, clientWait)
		}
	})
}

// Red when: staleAfter is not counted from the question, or joiners wait anew.
func TestStaleAtOnceWhenAllAreDead(t *testing.T) {
	u := &scripted{}
	bubble(t, u, func(t *testing.T, s *testServer) {
		lookup(t, s, "www.example.")
		time.Sleep(10 * time.Minute)
		u.does(silence)
		u.sick.Store(true)
		if _, r, took := lookup(t, s, "www.example."); r.Outcome != Stale || took != staleAfter {
			t.Errorf("%v after %v, want stale after %v", r.Outcome, took, staleAfter)
		}
		if _, r, took := lookup(t, s, "www.example."); r.Outcome != Stale || took != 0 {
			t.Errorf("a second asker: %v after %v, want stale at once", r.Outcome, took)
		}
		if n := u.total(); n != 2 {
			t.Errorf("upstream was asked %d times, want 2: the flight goes on", n)
		}
	})
}

// Red when: serveStale ends the flight.
func TestFreshAnswerAfterStaleOneIsKept(t *testing.T) {
	u := &scripted{}
	bubble(t, u, func(t *testing.T, s *testServer) {
		lookup(t, s, "www.example.")
		time.Sleep(10 * time.Minute)
		u.sick.Store(true)
		u.does(func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
			time.Sleep(time.Second)
			return answerAny(q), nil
		})
		if _, r, _ := lookup(t, s, "www.example."); r.Outcome != Stale {
			t.Errorf("%v, want stale", r.Outcome)
		}
		time.Sleep(time.Second)
		if m, r, _ := lookup(t, s, "www.example."); r.Outcome != Hit || m.Answer[0].Header().Ttl != 300 {
			t.Errorf("%v %v, want a hit with the new TTL", r.Outcome, m)
		}
	})
}

// Red when: the flight's context has no deadline.
func TestSomethingIsSaidInTime(t *testing.T) {
	u := &scripted{handle: silence}
	bubble(t, u, func(t *testing.T, s *testServer) {
		m, r, took := lookup(t, s, "www.example.")
		if r.Outcome != Failed || m.Rcode != dns.RcodeServerFailure || took != clientWait {
			t.Errorf("%v %v after %v, want SERVFAIL after %v", r.Outcome, m, took, clientWait)
		}
	})
}

// Red when: State's Prefetch is treated like Fresh.
func TestPrefetch(t *testing.T) {
	u := &scripted{}
	bubble(t, u, func(t *testing.T, s *testServer) {
		for range 5 {
			lookup(t, s, "www.example.")
		}
		time.Sleep(295 * time.Second) // of 300
		if _, r, took := lookup(t, s, "www.example."); r.Outcome != Hit || took != 0 {
			t.Errorf("%v after %v, want a hit at once", r.Outcome, took)
		}
		synctest.Wait()
		if n := u.total(); n != 2 {
			t.Fatalf("upstream was asked %d times, want 2", n)
		}
		time.Sleep(10 * time.Second)
		if m, r, _ := lookup(t, s, "www.example."); r.Outcome != Hit || m.Answer[0].Header().Ttl != 290 {
			t.Errorf("%v %v, want a hit of the new answer", r.Outcome, m)
		}
		if st := s.Stats(); st.Events[Prefetched] != 1 || st.Waiting != 0 {
			t.Errorf("%d prefetches, %d waiting; want 1, 0", st.Events[Prefetched], st.Waiting)
		}
	})
}

// Red when: settle remembers ErrOverloaded.
func TestOurOwnTroubleIsNotRemembered(t *testing.T) {
	u := &scripted{handle: func(context.Context, *dns.Msg) (*dns.Msg, error) { return nil, upstream.ErrOverloaded }}
	bubble(t, u, func(t *testing.T, s *testServer) {
		if _, r, _ := lookup(t, s, "www.example."); r.Outcome != Shed {
			t.Errorf("%v, want shed", r.Outcome)
		}
		u.does(nil)
		if _, r, _ := lookup(t, s, "www.example."); r.Outcome != Miss {
			t.Errorf("%v, want a miss", r.Outcome)
		}
	})
}

// Red when: orStale returns the failure.
func TestStaleInPlaceOfOurOwnTrouble(t *testing.T) {
	u := &scripted{}
	bubble(t, u, func(t *testing.T, s *testServer) {
		lookup(t, s, "www.example.")
		time.Sleep(10 * time.Minute)
		u.does(func(context.Context, *dns.Msg) (*dns.Msg, error) { return nil, upstream.ErrOverloaded })
		if m, r, _ := lookup(t, s, "www.example."); r.Outcome != Stale || len(m.Answer) != 1 {
			t.Errorf("%v %v, want what has expired", r.Outcome, m)
		}
	})
}

// Red when: settle puts an answer of a zone's former upstream.
func TestAnswerOfAFormerZoneIsNotKept(t *testing.T) {
	u, next := &scripted{}, &scripted{}
	bubble(t, u, func(t *testing.T, s *testServer) {
		u.does(func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
			z, err := NewZones([]Zone{{Name: ".", Upstream: next, Lifetimes: s.cache.Lifetimes()}})
			if err != nil {
				return nil, err
			}
			s.SetZones(z)
			return answerAny(q), nil
		})
		lookup(t, s, "www.example.")
		lookup(t, s, "www.example.")
		if next.total() != 1 {
			t.Errorf("the new upstream was asked %d times, want 1", next.total())
		}
	})
}

// A fault costs the packet it meets its answer, and nothing else.
//
// Red when: ask does not release the asker, or holds the shard's lock.
func TestPanicOnTheReader(t *testing.T) {
	bad := &panicky{}
	s := runServer(t, &scripted{}, withZone(Zone{Name: "bad.example.", Upstream: bad}))
	for _, network := range []string{"udp", "tcp"} {
		for range 3 {
			if r := s.ask(t, network, question("www.bad.example.", dns.TypeA)); r.Rcode != dns.RcodeServerFailure {
				t.Errorf("%s: got %v", network, r)
			}
		}
		if r := s.ask(t, network, question("www.example.", dns.TypeA)); r.Rcode != dns.RcodeSuccess {
			t.Errorf("%s: beside it: %v", network, r)
		}
	}
	st := s.Stats()
	if n := st.Sum(Panicked); n != 6 {
		t.Errorf("%d panics counted, want 6", n)
	}
	// An asker is let go after its answer is sent: the client may be faster.
	eventually(t, "no asker is left", func() bool { return s.Stats().Waiting == 0 })
}

// panicky fails on the reader in Epoch.
type panicky struct{ scripted }

func (*panicky) Epoch() uint64 { panic(errBroken) }

// Red when: exchange does not recover.
func TestPanicInAFlight(t *testing.T) {
	u := &scripted{handle: func(context.Context, *dns.Msg) (*dns.Msg, error) { panic(errBroken) }}
	s := runServer(t, u)
	if r := s.ask(t, "udp", question("www.example.", dns.TypeA)); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v", r)
	}
	eventually(t, "all is given back", func() bool { st := s.Stats(); return st.Waiting == 0 && st.Flights == 0 })
	if st := s.Stats(); st.Sum(Panicked) != 1 {
		t.Errorf("%d panics counted, want 1", st.Sum(Panicked))
	}
}

// Red when: deliver recovers only once for all.
func TestPanicAtDeliveryConcernsOneAsker(t *testing.T) {
	s := newServer(t, &scripted{})
	good := pack(t, question("www.example.", dns.TypeA))
	var results []chan LookupResult
	var list *asker
	for i := range 3 {
		if s.limits.takeAsker(netip.Addr{}) != admitted {
			t.Fatal("not admitted")
		}
		a := &asker{kind: Internal, result: make(chan LookupResult, 1), next: list}
		a.n = copy(a.inline[:], good)
		if i == 1 {
			a.n -= 3 // no longer a question
		}
		results, list = append(results, a.result), a
	}
	a := wire.Answer{Kind: wire.NoData}
	e := s.cache.NewEntry([]byte("\x00\x00\x01\x00\x01\x00"), &a, 0, cache.PutOptions{})
	s.deliverAlone(list, e, Miss)
	for i, want := range []Outcome{Miss, Panicked, Miss} {
		if r := <-results[i]; r.Outcome != want {
			t.Errorf("asker %d: %v, want %v", i, r.Outcome, want)
		}
	}
	if st := s.Stats(); st.Waiting != 0 {
		t.Errorf("%d askers left", st.Waiting)
	}
}

// Red when: takeAsker ignores the limits, or release forgets to give back.
func TestLimitsShed(t *testing.T) {
	u := &scripted{handle: silence}
	s := runServer(t, u, withLimits(func(l *Limits) { l.InFlight, l.PerSource = 40, 10 }))
	conn := s.dial(t, "udp")
	for i := range 30 {
		m := question(fmt.Sprintf("w%d.example.", i), dns.TypeA)
		m.SetEdns0(1232, false)
		if _, err := conn.Write(pack(t, m)); err != nil {
			t.Fatal(err)
		}
	}
	shed := 0
	b := make([]byte, 4096)
	for range 20 { // at once, the other 10 wait
		n, err := conn.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		if r := unpack(t, b[:n]); r.Rcode == dns.RcodeServerFailure && ede(r) == dns.ExtendedErrorCodeNetworkError {
			shed++
		}
	}
	st := s.Stats()
	if shed != 20 || st.Waiting != 10 || st.Events[ShedShare] != 20 {
		t.Errorf("%d shed by SERVFAIL with EDE 23, %d counted, %d wait; want 20, 20, 10", shed, st.Events[ShedShare], st.Waiting)
	}
	if r := s.ask(t, "udp", question(ProbeName, dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("the probe is limited: %v", r)
	}
}

// Red when: take compares with perSource only.
func TestFloodsLeaveRoom(t *testing.T) {
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }
	for floods := 1; floods <= 4; floods++ {
		var q quota
		held := make([]int, floods)
		for range 4000 {
			for i := range floods {
				if q.take(addr(i), 1000, 1000) == admitted {
					held[i]++
				}
			}
		}
		for i, n := range held {
			if want := 1000 / (floods + 1); n < want-1 || n > want+1 {
				t.Errorf("%d floods: flood %d holds %d of 1000, want about %d", floods, i, n, want)
			}
		}
		for i := range 100 {
			if q.take(addr(100+i), 1000, 1000) != admitted {
				t.Errorf("%d floods: quiet source %d finds no room", floods, i)
				break
			}
		}
	}
}

// Red when: quota.give does not forget sources.
func TestQuotaHoldsOnlyWhoHolds(t *testing.T) {
	var q quota
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			src := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			for range 1000 {
				if q.take(src, 4, 4) == admitted {
					q.give(src)
				}
			}
		})
	}
	wg.Wait()
	if used, peak := q.load(); used != 0 || peak > 4 || len(q.bySrc) != 0 {
		t.Errorf("%d used, peak %d, %d sources left", used, peak, len(q.bySrc))
	}
}

// Red when: shed ignores what has expired.
func TestStaleRatherThanShed(t *testing.T) {
	var h hand
	u := &scripted{}
	s := runServer(t, u, withHand(&h), withLimits(func(l *Limits) { l.InFlight, l.PerSource = 1, 1 }))
	s.ask(t, "udp", question("www.example.", dns.TypeA))
	h.move(10 * time.Minute)
	u.does(silence)
	if _, err := s.dial(t, "udp").Write(pack(t, question("blocks.example.", dns.TypeA))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one waits", func() bool { return s.Stats().Waiting == 1 })
	r := s.ask(t, "udp", question("www.example.", dns.TypeA))
	if len(r.Answer) != 1 || r.Answer[0].Header().Ttl != 30 {
		t.Errorf("got %v, want the stale answer", r)
	}
}

// A process that is stopped while it waits finds its time gone and perhaps an answer it had no time to read.
//
// Red when: settle does not look at how long the flight took.
func TestStoppedProcessRemembersNoFailure(t *testing.T) {
	var h hand
	u := &scripted{}
	s := runServer(t, u, withHand(&h))
	u.does(func(context.Context, *dns.Msg) (*dns.Msg, error) {
		h.move(3 * time.Second)
		return nil, upstream.ErrTimeout
	})
	if r := s.ask(t, "udp", question("www.example.", dns.TypeA)); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v", r)
	}
	u.does(nil)
	if r := s.ask(t, "udp", question("www.example.", dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("the failure is remembered: %v", r)
	}
}
