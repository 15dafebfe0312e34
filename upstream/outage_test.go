package upstream

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// together asks n questions at once and returns what came of each.
func together(t *testing.T, g *Group, n int) (errs []error, slowest time.Duration) {
	t.Helper()
	var (
		mu sync.Mutex
		wg sync.WaitGroup
		q  = query(t, "name.example.")
	)
	for range n {
		wg.Go(func() {
			began := time.Now()
			_, _, err := g.Exchange(context.Background(), q, nil)
			took := time.Since(began)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
			slowest = max(slowest, took)
		})
	}
	wg.Wait()
	return errs, slowest
}

func stateOf(g *Group, i int) State { return g.Status()[i].State }

// One of three endpoints turns into a black hole. It is held for dead within a second of the first loss, and from then on no
// question meets it, so none is slower than before; what it is asked is its probes.
//
// Red when: ejectAfter is 1000; or pick does not look at the state.
func TestBlackHoleIsEjected(t *testing.T) {
	hole := newServer(t, "127.0.0.1", nil)
	g := newGroup(t, udp(hole, newServer(t, "127.0.0.2", nil), newServer(t, "127.0.0.3", nil)), nil)
	run(t, g)
	for range 300 {
		mustAnswer(t, g, "name.example.")
	}
	if hole.asked.Load() < 30 {
		t.Fatalf("the endpoint was asked %d of 300 questions while it was well", hole.asked.Load())
	}
	hole.play(silent)
	for g.Snapshot().Lost == 0 {
		mustAnswer(t, g, "name.example.")
	}
	lost := time.Now()
	for stateOf(g, 0) != Down {
		mustAnswer(t, g, "name.example.")
	}
	if d := time.Since(lost); d > time.Second+slack {
		t.Errorf("held for dead %v after the first loss", d)
	}
	before := g.Snapshot()
	probed := hole.asked.Load() - int64(before.Probes)
	for range 2000 {
		mustAnswer(t, g, "name.example.")
	}
	after := g.Snapshot()
	if after.Lost != before.Lost || after.Retries != before.Retries {
		t.Errorf("after the ejection %d questions were overdue and %d asked again", after.Lost-before.Lost, after.Retries-before.Retries)
	}
	if n := hole.asked.Load() - int64(after.Probes) - probed; n > 1 {
		t.Errorf("after the ejection the dead endpoint was asked %d questions besides its probes", n)
	}
	hole.play(nil)
	back := time.Now()
	until(t, "the endpoint is back in service", func() bool { return stateOf(g, 0) == Up })
	if d := time.Since(back); d > time.Second {
		t.Errorf("back in service %v after it answers again", d)
	}
	if n := g.Snapshot(); n.Ejections != 1 || n.Recoveries != 1 {
		t.Errorf("%d ejections, %d recoveries; want one of each", n.Ejections, n.Recoveries)
	}
}

// Everything is a black hole: each question ends with an error within the budget, sockets and goroutines are bounded, and
// all is well again within a second of the end of the outage, also for the questions that wait.
//
// Red when: recovered does not raise the epoch.
func TestAllBlackHoles(t *testing.T) {
	const bound = 120
	servers := []*server{
		newServer(t, "127.0.0.1", silent), newServer(t, "127.0.0.2", silent), newServer(t, "127.0.0.3", silent),
	}
	last := newServer(t, "127.0.0.4", silent)
	g := newGroup(t, udp(servers...), func(c *Config) { c.LastResort, c.MaxInFlight = last.addr, bound })
	run(t, g)

	goroutines := runtime.NumGoroutine()
	errs, slowest := together(t, g, 3*bound)
	timeouts, overloads := 0, 0
	for _, err := range errs {
		switch {
		case errors.Is(err, ErrTimeout):
			timeouts++
		case errors.Is(err, ErrOverloaded):
			overloads++
		default:
			t.Errorf("error %v", err)
		}
	}
	if timeouts == 0 || overloads == 0 {
		t.Errorf("%d timeouts, %d overloads of %d questions with room for %d", timeouts, overloads, len(errs), bound)
	}
	if slowest > g.cfg.Budget+slack {
		t.Errorf("an Exchange took %v", slowest)
	}
	if n := g.Snapshot(); n.Sockets > bound+60 { // and the probes of four addresses
		t.Errorf("%d sockets are open", n.Sockets)
	}
	if n := runtime.NumGoroutine(); n > goroutines+10 {
		t.Errorf("%d goroutines more than before", n-goroutines)
	}
	until(t, "all are held for dead", func() bool { return !g.Healthy() })
	if last.asked.Load() == 0 {
		t.Error("the last resort was not asked")
	}

	// Questions that wait when the outage ends.
	epoch, asked := g.Epoch(), g.Snapshot().Exchanges
	var wg sync.WaitGroup
	waiting := make(chan error, bound/4)
	for range cap(waiting) {
		wg.Go(func() {
			_, _, err := g.Exchange(context.Background(), query(t, "name.example."), nil)
			waiting <- err
		})
	}
	until(t, "questions wait", func() bool { return g.Snapshot().Exchanges == asked+uint64(cap(waiting)) })
	for _, s := range servers {
		s.play(nil)
	}
	back := time.Now()
	wg.Wait()
	for range cap(waiting) {
		if err := <-waiting; err != nil {
			t.Errorf("a question that waited: %v", err)
		}
	}
	mustAnswer(t, g, "name.example.")
	if d := time.Since(back); d > time.Second {
		t.Errorf("answered %v after the end of the outage", d)
	}
	if g.Epoch() == epoch {
		t.Error("the epoch is the same as during the outage")
	}
	until(t, "all are in service", func() bool {
		return stateOf(g, 0) == Up && stateOf(g, 1) == Up && stateOf(g, 2) == Up
	})
}

// The end of an outage is news for those who wait: they do not find it out by being overdue. And it is noticed, and they
// are asked again, though the lost questions hold all the sockets there may be.
//
// Red when: recovered does not replace the list; reserve has no exception for probes; or onReplaced does not let go of
// what was lost.
func TestEndOfOutageAsksTheWaiting(t *testing.T) {
	s := newServer(t, "127.0.0.1", silent)
	g := newGroup(t, udp(s), func(c *Config) { c.Budget, c.MaxInFlight = time.Minute, 1 })
	knownLatency(g, 5*time.Second) // overdue after 10 s
	e := g.list.Load().all[0]
	for range ejectAfter {
		g.moved(e, e.onLoss(g.now()))
	}
	if g.Healthy() {
		t.Fatal("the only endpoint is lost and the group is healthy")
	}
	done := make(chan error)
	go func() {
		_, _, err := g.Exchange(context.Background(), query(t, "name.example."), nil)
		done <- err
	}()
	until(t, "the question is lost", func() bool { return s.asked.Load() == 1 })
	s.play(nil)
	began := time.Now()
	run(t, g)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > time.Second || g.Snapshot().Lost != 0 {
		t.Errorf("asked again after %v, %d attempts overdue", d, g.Snapshot().Lost)
	}
}

// A probe that finds every socket in use gets one beyond the bound, and gives it back: the next question does not inherit it.
// Else the bound would rise by each probe for as long as a flood meets an outage.
//
// Red when: reserve takes one lingering socket for a question, however far beyond the bound it is.
func TestProbesDoNotRaiseTheBound(t *testing.T) {
	const bound = 4
	s := newServer(t, "127.0.0.1", silent)
	g := newGroup(t, udp(s), func(c *Config) { c.MaxInFlight = bound })
	q := query(t, "name.example.")
	ask := func(p purpose) (*attempt, error) {
		a := &attempt{ep: g.list.Load().all[0], question: wire.Question(q), purpose: p}
		return a, g.udp.ask(a, q)
	}
	var waiting []*attempt
	for round := range 20 {
		probe, err := ask(forHealth)
		if err != nil {
			t.Fatalf("round %d: a probe: %v", round, err)
		}
		g.udp.linger(probe)
		if len(waiting) > 0 { // one of the questions ends
			g.udp.linger(waiting[0])
			waiting = waiting[1:]
		}
		for a, err := ask(forClient); !errors.Is(err, ErrOverloaded); a, err = ask(forClient) {
			if err != nil {
				t.Fatal(err)
			}
			waiting = append(waiting, a)
		}
		if n, lingering := g.udp.count(); n-lingering > bound {
			t.Fatalf("round %d: questions have %d sockets, want at most %d", round, n-lingering, bound)
		}
	}
	if len(waiting) != bound {
		t.Errorf("%d questions wait, want %d", len(waiting), bound)
	}
}

// Red when: run only ever looks at its timer and not at what fails at once: refusals would cost their quarter second.
func TestRefusedFailsOverAtOnce(t *testing.T) {
	closed := newServer(t, "127.0.0.1", nil)
	closed.stop()
	well := newServer(t, "127.0.0.2", nil)
	for _, endpoints := range [][]Endpoint{udp(closed, well), tcp(closed, well)} {
		g := newGroup(t, endpoints, nil)
		for range 20 {
			mustAnswer(t, g, "name.example.")
		}
		if n := g.Snapshot(); n.ConnRefused == 0 || n.Lost != 0 || n.Hedges != 0 {
			t.Errorf("%v: refused %d, overdue %d, hedges %d", endpoints, n.ConnRefused, n.Lost, n.Hedges)
		}
	}
	g := newGroup(t, udp(closed), nil)
	if _, _, _, err := ask(t, g, "name.example."); !errors.Is(err, ErrUnreachable) {
		t.Errorf("only refusals: error %v", err)
	}
}

// Red when: step asks the last resort only when no endpoint is left; or only in the third step.
func TestLastResort(t *testing.T) {
	closed := newServer(t, "127.0.0.1", nil)
	closed.stop()
	last := newServer(t, "127.0.0.9", nil)
	withLast := func(c *Config) { c.LastResort = last.addr }
	for name, endpoints := range map[string][]Endpoint{
		"no endpoint": nil,
		"refused":     udp(closed),
		"silent":      udp(newServer(t, "127.0.0.2", silent), newServer(t, "127.0.0.3", silent), newServer(t, "127.0.0.4", silent)),
		"silent one":  udp(newServer(t, "127.0.0.2", silent)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGroup(t, endpoints, withLast)
			meta := mustAnswer(t, g, "name.example.")
			if !meta.LastResort || meta.Endpoint.Addr != last.addr {
				t.Errorf("answered by %+v", meta)
			}
			if n := g.Snapshot(); n.Retries >= lastResortStep {
				t.Errorf("asked in the step after %d retries", n.Retries)
			}
			if st := g.Status(); !st[len(st)-1].LastResort || st[len(st)-1].Answered == 0 {
				t.Errorf("status %+v", st)
			}
		})
	}
	t.Run("not while an endpoint answers", func(t *testing.T) {
		g := newGroup(t, udp(newServer(t, "127.0.0.2", nil)), withLast)
		run(t, g)
		for range 50 {
			if mustAnswer(t, g, "name.example.").LastResort {
				t.Fatal("the last resort was asked")
			}
		}
	})
}

// A name that is slow at servers which answer others is no reason to go through kube-proxy.
//
// Red when: step asks the last resort without asking heard.
func TestSlowNameDoesNotAskTheLastResort(t *testing.T) {
	last := newServer(t, "127.0.0.9", nil)
	slow := []byte("\x04slow\x07example")
	half := &script{udp: func(s *server, from netip.AddrPort, query []byte) {
		if bytes.Contains(query, slow) {
			timer := time.AfterFunc(1200*time.Millisecond, func() { s.send(from, good(query)) })
			t.Cleanup(func() { timer.Stop() })
			return
		}
		s.send(from, good(query))
	}}
	for _, n := range []int{1, 3} {
		var servers []*server
		for range n {
			servers = append(servers, newServer(t, "127.0.0.2", half))
		}
		g := newGroup(t, udp(servers...), func(c *Config) { c.LastResort = last.addr })
		answered := make(chan Meta, 1)
		go func() {
			_, meta, _, err := ask(t, g, "slow.example.")
			if err != nil {
				t.Errorf("%d endpoints: %v", n, err)
			}
			answered <- meta
		}()
		for waiting := true; waiting; {
			select {
			case meta := <-answered:
				if got := g.Snapshot().LastResort; got != 0 || meta.LastResort {
					t.Errorf("%d endpoints: the last resort was asked %d times", n, got)
				}
				waiting = false
			default:
				mustAnswer(t, g, "fast.example.")
			}
		}
	}
}

// Nor is it an outage, whose end would ask every question that waits once more.
//
// Red when: give does not ask heard.
func TestSlowNameIsNoOutage(t *testing.T) {
	asked := make(chan struct{}, maxAttempts)
	s := newServer(t, "127.0.0.1", &script{udp: func(s *server, from netip.AddrPort, query []byte) {
		if bytes.Contains(query, []byte("\x04slow\x07example")) {
			asked <- struct{}{}
			return
		}
		s.send(from, good(query))
	}})
	g := newGroup(t, udp(s), nil)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, _, err := g.Exchange(ctx, query(t, "slow.example."), nil)
		failed <- err
	}()
	<-asked
	mustAnswer(t, g, "fast.example.")
	if err := <-failed; !errors.Is(err, ErrTimeout) {
		t.Errorf("error %v", err)
	}
	if g.outage.Load() {
		t.Error("a slow name counts as an outage")
	}
}

// Red when: step, when all are held for dead, asks only the last resort; or the last resort only later.
func TestDeadEndpointsAreAskedBesideTheLastResort(t *testing.T) {
	dead := newServer(t, "127.0.0.1", silent)
	last := newServer(t, "127.0.0.2", nil)
	g := newGroup(t, udp(dead), func(c *Config) { c.LastResort = last.addr })
	for stateOf(g, 0) != Down {
		mustAnswer(t, g, "name.example.")
	}
	lost := g.Snapshot().Lost
	if !mustAnswer(t, g, "name.example.").LastResort || g.Snapshot().Lost != lost {
		t.Error("the last resort was asked only when the dead endpoint was overdue")
	}
	before := g.Status()[0].Asked
	dead.play(nil)
	last.play(silent)
	mustAnswer(t, g, "name.example.")
	if n := g.Status()[0].Asked - before; n != 1 {
		t.Errorf("the dead endpoint was asked %d times", n)
	}
	if stateOf(g, 0) != Up {
		t.Error("its answer did not bring it back")
	}
}

// The last resort works where the direct way never did: a group is then of use, and says so.
//
// Red when: probe skips the last resort.
func TestFirstAnswerThroughTheLastResort(t *testing.T) {
	last := newServer(t, "127.0.0.2", nil)
	g := newGroup(t, udp(newServer(t, "127.0.0.1", silent)), func(c *Config) { c.LastResort = last.addr })
	run(t, g)
	<-g.FirstAnswer()
	if last.asked.Load() == 0 {
		t.Error("nobody asked the last resort")
	}
}

// Red when: probeDue asks only what is suspected.
func TestRunAsksBeforeAnyClient(t *testing.T) {
	g := newGroup(t, udp(newServer(t, "127.0.0.1", nil)), nil)
	select {
	case <-g.FirstAnswer():
		t.Fatal("an answer before anything was asked")
	default:
	}
	run(t, g)
	<-g.FirstAnswer()
	until(t, "the endpoint is up", func() bool { return g.Status()[0].LastAnswer >= 0 && g.Healthy() })
}

// Red when: probeQuery always returns ". NS", or always the client's question.
func TestProbesTakeTurns(t *testing.T) {
	s := newServer(t, "127.0.0.1", nil)
	g := newGroup(t, udp(s), nil)
	mustAnswer(t, g, "name.example.")
	seen := make(chan int, 64)
	s.play(&script{udp: func(_ *server, _ netip.AddrPort, query []byte) {
		if query[5] == 1 && query[11] == 0 { // no OPT: a probe
			seen <- len(query)
		}
	}})
	go func() { _, _, _ = g.Exchange(context.Background(), query(t, "name.example."), nil) }()
	run(t, g)
	lengths := map[int]bool{}
	for len(lengths) < 2 {
		lengths[<-seen] = true
	}
	if !lengths[17] || !lengths[17+len("name.example")+1] {
		t.Errorf("probes had lengths %v", lengths)
	}
}

// Red when: New accepts what it cannot ask.
func TestConfig(t *testing.T) {
	ok := DefaultConfig()
	for name, change := range map[string]func(*Config){
		"budget":          func(c *Config) { c.Budget = 0 },
		"sockets":         func(c *Config) { c.MaxInFlight = 0 },
		"probes":          func(c *Config) { c.ProbeEvery = -1 },
		"port 0":          func(c *Config) { c.Endpoints = []Endpoint{{Addr: netip.MustParseAddrPort("192.0.2.1:0")}} },
		"unspecified":     func(c *Config) { c.Endpoints = []Endpoint{{Addr: netip.MustParseAddrPort("[::]:53")}} },
		"multicast":       func(c *Config) { c.LastResort = netip.MustParseAddrPort("224.0.0.1:53") },
		"transport":       func(c *Config) { c.Endpoints = []Endpoint{{netip.MustParseAddrPort("192.0.2.1:53"), 7}} },
		"no address":      func(c *Config) { c.Endpoints = []Endpoint{{}} },
		"last resort's 0": func(c *Config) { c.LastResort = netip.MustParseAddrPort("192.0.2.1:0") },
	} {
		c := ok
		change(&c)
		if g, err := New(c); err == nil {
			g.Close()
			t.Errorf("%s: accepted", name)
		}
	}
	g := newGroup(t, nil, nil)
	if _, _, _, err := ask(t, g, "name.example."); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("a group of nothing: error %v", err)
	}
	if g.Healthy() {
		t.Error("a group of nothing is healthy")
	}
}
