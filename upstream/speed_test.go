package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// knownLatency makes g believe that its endpoints answer in d.
func knownLatency(g *Group, d ...time.Duration) {
	for i, e := range g.list.Load().all {
		e.mu.Lock()
		for range latencyMin {
			e.latency.add(d[i])
		}
		e.health.heard = true
		e.sampled = g.now()
		e.publish()
		e.mu.Unlock()
	}
}

// saveHedges fills the budget of extra questions.
func saveHedges(g *Group, n int) {
	g.extra.Lock()
	defer g.extra.Unlock()
	g.extra.hedges.saved = n * budgetCost
}

// Slow by its own standards: a second endpoint is asked; its answer wins. The first one's socket stays until the late
// answer is there, which counts for its latency.
//
// Red when: leave closes sockets; or tryHedge never hedges.
func TestHedge(t *testing.T) {
	late := make(chan func(), 1)
	slow := newServer(t, "127.0.0.1", &script{udp: func(s *server, from netip.AddrPort, query []byte) {
		late <- func() { s.send(from, good(query)) }
	}})
	fast := newServer(t, "127.0.0.2", nil)
	g := newGroup(t, udp(slow, fast), nil)
	knownLatency(g, time.Millisecond, 20*time.Millisecond) // so the first one is asked first
	saveHedges(g, 1)
	meta := mustAnswer(t, g, "name.example.")
	if !meta.Hedged || meta.Endpoint.Addr != fast.addr {
		t.Errorf("meta %+v; want a hedge at %v", meta, fast.addr)
	}
	n := g.Snapshot()
	if n.Hedges != 1 || n.HedgeWins != 1 || n.Lost != 0 || n.Retries != 0 {
		t.Errorf("hedges %d, won %d, overdue %d, retries %d", n.Hedges, n.HedgeWins, n.Lost, n.Retries)
	}
	until(t, "only the loser's socket is open, and lingers", func() bool {
		n := g.Snapshot()
		return n.Sockets == 1 && n.Lingering == 1
	})
	before := g.Status()[0]
	(<-late)()
	until(t, "the loser's socket is closed by its answer", func() bool { return g.Snapshot().Sockets == 0 })
	after := g.Status()[0]
	if after.Answered != before.Answered+1 || after.Latency <= before.Latency {
		t.Errorf("the late answer was not counted: before %+v, after %+v", before, after)
	}
	until(t, "it counts as late", func() bool { return g.Snapshot().Late == 1 })
}

// The first endpoint fails while the hedge is under way: that one is waited for, no third is asked.
//
// Red when: judge steps without a look at what is under way.
func TestHedgeIsEnough(t *testing.T) {
	var failFirst func()
	hedged := make(chan struct{})
	first := newServer(t, "127.0.0.1", &script{udp: func(s *server, from netip.AddrPort, query []byte) {
		failFirst = func() { s.send(from, rcode(query, wire.RCodeServFail)) }
		close(hedged)
	}})
	third := newServer(t, "127.0.0.3", nil)
	second := newServer(t, "127.0.0.2", nil)
	g := newGroup(t, udp(first, second, third), nil)
	second.play(&script{udp: func(s *server, from netip.AddrPort, query []byte) {
		<-hedged
		failFirst()
		if !within(func() bool { return g.Snapshot().Useless == 1 }) {
			t.Error("the first answer was not judged")
		}
		s.send(from, good(query))
	}})
	knownLatency(g, time.Millisecond, 20*time.Millisecond, 90*time.Millisecond)
	saveHedges(g, 1)
	meta := mustAnswer(t, g, "name.example.")
	if !meta.Hedged || meta.Endpoint.Addr != second.addr || third.asked.Load() != 0 {
		t.Errorf("meta %+v; the third endpoint was asked %d times", meta, third.asked.Load())
	}
}

// Red when: sweep does nothing.
func TestLingerEnds(t *testing.T) {
	s := newServer(t, "127.0.0.1", silent)
	g := newGroup(t, udp(s), func(c *Config) { c.Budget = 30 * time.Millisecond })
	began := time.Now()
	if _, _, _, err := ask(t, g, "name.example."); !errors.Is(err, ErrTimeout) {
		t.Fatalf("error %v", err)
	}
	if n := g.Snapshot(); n.Lingering == 0 || n.Lingering != n.Sockets {
		t.Errorf("%d of %d sockets linger", n.Lingering, n.Sockets)
	}
	until(t, "lingering ends", func() bool { return g.Snapshot().Sockets == 0 })
	if d := time.Since(began); d < 2*time.Second {
		t.Errorf("lingering ended after %v", d)
	}
}

// An endpoint that is slow for everybody must not double the load.
//
// Red when: tryHedge does not ask the budget.
func TestHedgesAreBounded(t *testing.T) {
	a, b := newServer(t, "127.0.0.1", after(t, 4*time.Millisecond)), newServer(t, "127.0.0.2", after(t, 4*time.Millisecond))
	g := newGroup(t, udp(a, b), nil)
	const questions = 300
	for range questions {
		for _, e := range g.list.Load().all {
			e.p95.Store(int64(time.Millisecond)) // whatever was learnt: each question is slower than that
		}
		mustAnswer(t, g, "name.example.")
	}
	n := g.Snapshot()
	if n.Hedges == 0 || n.Asked > questions*110/100+budgetBurst {
		t.Errorf("%d hedges, %d attempts for %d questions", n.Hedges, n.Asked, questions)
	}
}

// Nobody waits for a slow endpoint, so only samples tell when it is fast again.
//
// Red when: sample never asks; or wantsSample asks without a pause.
func TestSlowEndpointIsSampled(t *testing.T) {
	s := newServer(t, "127.0.0.1", nil)
	slow := newServer(t, "127.0.0.2", after(t, 60*time.Millisecond))
	g := newGroup(t, udp(s, slow), nil)
	knownLatency(g, 100*time.Microsecond, 60*time.Millisecond)
	g.extra.hedges.earn = 0 // hedges would do as samples
	began := time.Now()
	for g.Snapshot().Samples < 2 {
		mustAnswer(t, g, "name.example.")
		if time.Since(began) > 10*time.Second {
			t.Fatalf("not sampled twice within 10 s: %+v %+v", g.Snapshot(), g.Status())
		}
	}
	if d := time.Since(began); d < sampleEvery {
		t.Errorf("two samples within %v", d)
	}
	if n := g.Snapshot(); n.Samples+n.Hedges > n.Exchanges/10+budgetBurst {
		t.Errorf("%d samples and %d hedges for %d questions", n.Samples, n.Hedges, n.Exchanges)
	}
	slow.play(nil)
	until(t, "the endpoint is as good as the other again", func() bool {
		g.list.Load().all[1].mu.Lock()
		g.list.Load().all[1].sampled = 0 // no need to wait out the pauses
		g.list.Load().all[1].mu.Unlock()
		mustAnswer(t, g, "name.example.")
		return g.Status()[1].Latency < 2*time.Millisecond
	})
}

// Red when: onReplaced does not look at who is gone: the question would wait until it is overdue.
func TestUpdateInMidQuery(t *testing.T) {
	for name, endpoints := range map[string]func(...*server) []Endpoint{"udp": udp, "tcp": tcp} {
		t.Run(name, func(t *testing.T) {
			got := make(chan struct{}, 16)
			hang := &script{
				udp: func(*server, netip.AddrPort, []byte) { got <- struct{}{} },
				tcp: func(_ *server, conn net.Conn) {
					_, _ = readTCP(conn)
					got <- struct{}{}
					_, _ = conn.Read(make([]byte, 1))
				},
			}
			g := newGroup(t, endpoints(newServer(t, "127.0.0.1", hang)), nil)
			next := newServer(t, "127.0.0.2", nil)
			go func() {
				<-got
				if err := g.Update(endpoints(next)); err != nil {
					t.Error(err)
				}
			}()
			if meta := mustAnswer(t, g, "name.example."); meta.Endpoint.Addr != next.addr {
				t.Errorf("answered by %v", meta.Endpoint)
			}
			if n := g.Snapshot(); n.Lost != 0 || n.Replaced != 1 {
				t.Errorf("%d attempts overdue, %d replaced; want 0, 1", n.Lost, n.Replaced)
			}
		})
	}
}

// Red when: merge makes every endpoint anew.
func TestUpdateKeepsWhatIsKnown(t *testing.T) {
	a, b := newServer(t, "127.0.0.1", nil), newServer(t, "127.0.0.2", nil)
	g := newGroup(t, udp(a), nil)
	mustAnswer(t, g, "name.example.")
	if err := g.Update(udp(b, a, b)); err != nil {
		t.Fatal(err)
	}
	st := g.Status()
	if len(st) != 2 || st[0].Endpoint.Addr != b.addr || st[0].Answered != 0 || st[1].Answered != 1 {
		t.Errorf("status %+v", st)
	}
	if err := g.Update([]Endpoint{{}}); err == nil || len(g.Status()) != 2 {
		t.Errorf("an unusable list: error %v, %d endpoints", err, len(g.Status()))
	}
	if err := g.Update(udp(b)); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		mustAnswer(t, g, "name.example.")
	}
	if a.asked.Load() != 1 {
		t.Errorf("the removed endpoint was asked %d times", a.asked.Load()-1)
	}
}

// A new endpoint is probed, so that it is known before it is needed.
//
// Red when: Update does not wake Run.
func TestUpdateProbesTheNew(t *testing.T) {
	g := newGroup(t, udp(newServer(t, "127.0.0.1", nil)), func(c *Config) { c.ProbeEvery = time.Hour })
	run(t, g)
	<-g.FirstAnswer()
	s := newServer(t, "127.0.0.2", nil)
	if err := g.Update(append(udp(s), g.Status()[0].Endpoint)); err != nil {
		t.Fatal(err)
	}
	until(t, "the new endpoint was heard", func() bool { return g.Status()[0].LastAnswer >= 0 })
}

// Red when: Close does not wake those who wait.
func TestCloseEndsEverything(t *testing.T) {
	var asked atomic.Int64
	s := newServer(t, "127.0.0.1", &script{udp: func(*server, netip.AddrPort, []byte) { asked.Add(1) }})
	g := newGroup(t, udp(s), func(c *Config) { c.Budget = time.Hour })
	done := make(chan error)
	go func() {
		_, _, err := g.Exchange(context.Background(), query(t, "name.example."), nil)
		done <- err
	}()
	until(t, "it is asked", func() bool { return asked.Load() > 0 })
	g.Close()
	g.Close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("the waiting Exchange: %v", err)
	}
	if _, _, _, err := ask(t, g, "name.example."); !errors.Is(err, ErrClosed) {
		t.Errorf("an Exchange afterwards: %v", err)
	}
	if err := g.Update(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("an Update afterwards: %v", err)
	}
	if n := g.Snapshot(); n.Sockets != 0 {
		t.Errorf("%d sockets are open", n.Sockets)
	}
}

// Red when: Close leaves the kept connections alone: it would wait until they are closed for being idle.
func TestCloseEndsTCP(t *testing.T) {
	g := newGroup(t, tcp(newServer(t, "127.0.0.1", nil)), nil)
	mustAnswer(t, g, "name.example.")
	began := time.Now()
	g.Close()
	if d := time.Since(began); d > tcpQuiet/2 || g.Snapshot().TCPConns != 0 {
		t.Errorf("Close took %v and left %d connections", d, g.Snapshot().TCPConns)
	}
}
