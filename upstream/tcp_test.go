package upstream

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// Red when: choose always connects.
func TestTCPConnectionIsKept(t *testing.T) {
	s := newServer(t, "127.0.0.1", nil)
	g := newGroup(t, tcp(s), nil)
	for range 20 {
		mustAnswer(t, g, "name.example.")
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections for 20 questions, one after the other", n)
	}
	if n := s.asked.Load(); n != 0 {
		t.Errorf("%d questions by UDP", n)
	}
}

// gate answers each connection strictly in turn, as CoreDNS does, and only when opened. most is the most questions it saw
// waiting on one connection.
type gate struct {
	open chan struct{}
	mu   sync.Mutex
	most int
	all  int
}

func (p *gate) script(order func(queries [][]byte)) *script {
	return &script{tcp: func(_ *server, conn net.Conn) {
		queries := make(chan []byte, 1000)
		go func() {
			for {
				q, err := readTCP(conn)
				if err != nil {
					close(queries)
					return
				}
				p.mu.Lock()
				p.all++
				p.most = max(p.most, len(queries)+1)
				p.mu.Unlock()
				queries <- q
			}
		}()
		<-p.open
		for q := range queries {
			batch := [][]byte{q}
			for len(queries) > 0 {
				batch = append(batch, <-queries)
			}
			order(batch)
			for _, q := range batch {
				if q != nil && writeTCP(conn, good(q)) != nil {
					return
				}
			}
		}
	}}
}

func (p *gate) seen() (all, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all, p.most
}

func askAll(t *testing.T, g *Group, n int) *sync.WaitGroup {
	t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if _, _, err := g.Exchange(context.Background(), query(t, "name.example."), nil); err != nil {
				t.Error(err)
			}
		})
	}
	return &wg
}

// overtakes reports whether g's first endpoint was seen to answer out of order.
func overtakes(g *Group) bool {
	p := g.list.Load().all[0].tcp
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.outOfOrder
}

// A question behind another waits for that one's answer, so each gets a connection of its own while there are any.
//
// Red when: choose prefers a busy connection to a new one; or tcpConns is no bound.
func TestTCPIsNotPipelinedWithoutNeed(t *testing.T) {
	p := gate{open: make(chan struct{})}
	s := newServer(t, "127.0.0.1", p.script(func([][]byte) {}))
	g := newGroup(t, tcp(s), nil)
	wg := askAll(t, g, tcpConns)
	until(t, "all are asked", func() bool { all, _ := p.seen(); return all == tcpConns })
	if _, most := p.seen(); most != 1 || s.conns.Load() != tcpConns {
		t.Errorf("%d questions shared a connection; %d connections", most, s.conns.Load())
	}
	more := askAll(t, g, 3)
	until(t, "all are asked", func() bool { all, _ := p.seen(); return all == tcpConns+3 })
	if s.conns.Load() != tcpConns {
		t.Errorf("%d connections, bound %d", s.conns.Load(), tcpConns)
	}
	close(p.open)
	wg.Wait()
	more.Wait()
	if overtakes(g) {
		t.Error("held for out of order, though it answers in turn")
	}
}

// Red when: answer does not notice the order; or choose ignores it.
func TestTCPIsPipelinedWhereAnswersOvertake(t *testing.T) {
	p := gate{open: make(chan struct{})}
	s := newServer(t, "127.0.0.1", p.script(func(queries [][]byte) {
		for i, j := 0, len(queries)-1; i < j; i, j = i+1, j-1 {
			queries[i], queries[j] = queries[j], queries[i]
		}
	}))
	g := newGroup(t, tcp(s), nil)
	wg := askAll(t, g, 3*tcpConns)
	until(t, "all are asked", func() bool { all, _ := p.seen(); return all == 3*tcpConns })
	close(p.open)
	wg.Wait()
	if !overtakes(g) {
		t.Fatal("answers overtook each other and nobody noticed")
	}
	s.hangUp()
	until(t, "no connection is left", func() bool { return g.Snapshot().TCPConns == 0 })
	before := s.conns.Load()
	askAll(t, g, 20).Wait()
	if n := s.conns.Load() - before; n > tcpConnsPipelined {
		t.Errorf("%d connections, want at most %d", n, tcpConnsPipelined)
	}
}

// The server closes a kept connection just when it is asked again: nobody notices.
//
// Red when: end does not redial.
func TestTCPStaleConnection(t *testing.T) {
	answerOnce := &script{tcp: func(_ *server, conn net.Conn) {
		q, err := readTCP(conn)
		if err != nil || writeTCP(conn, good(q)) != nil {
			return
		}
		_, _ = readTCP(conn) // the next question meets the end of the connection
	}}
	s := newServer(t, "127.0.0.1", answerOnce)
	g := newGroup(t, tcp(s), nil)
	for range 5 {
		mustAnswer(t, g, "name.example.")
	}
	if n := g.Snapshot(); n.TCPStale == 0 || n.Lost != 0 || n.Retries != 0 || n.OtherErrors != 0 {
		t.Errorf("stale %d, overdue %d, retries %d, errors %d", n.TCPStale, n.Lost, n.Retries, n.OtherErrors)
	}
	if st := g.Status()[0]; st.State != Up || st.Losses != 0 {
		t.Errorf("stale connections were held against the endpoint: %+v", st)
	}
}

// Red when: the reader's end does not take the connection out of the pool.
func TestTCPIdleConnectionClosedByServer(t *testing.T) {
	s := newServer(t, "127.0.0.1", nil)
	g := newGroup(t, tcp(s), nil)
	mustAnswer(t, g, "name.example.")
	s.hangUp()
	until(t, "the connection is gone", func() bool { return g.Snapshot().TCPConns == 0 })
	mustAnswer(t, g, "name.example.")
	if n := g.Snapshot(); n.TCPStale != 0 || n.TCPDials != 2 {
		t.Errorf("stale %d, dials %d; want 0, 2", n.TCPStale, n.TCPDials)
	}
}

// Red when: no read deadline is set.
func TestTCPIdleConnectionIsClosed(t *testing.T) {
	s := newServer(t, "127.0.0.1", nil)
	g := newGroup(t, tcp(s), nil)
	mustAnswer(t, g, "name.example.")
	if g.Snapshot().TCPConns != 1 {
		t.Fatal("the connection is not kept")
	}
	until(t, "the idle connection is closed", func() bool { return g.Snapshot().TCPConns == 0 })
	if st := g.Status()[0]; st.State != Up {
		t.Errorf("idleness was held against the endpoint: %+v", st)
	}
}

// Red when: a length below a header's is read on; or a bad endpoint is waited for while another could be asked.
func TestTCPLies(t *testing.T) {
	raw := func(f func(q []byte) []byte) *script {
		return &script{tcp: func(_ *server, conn net.Conn) {
			for {
				q, err := readTCP(conn)
				if err != nil {
					return
				}
				if _, err := conn.Write(f(q)); err != nil {
					return
				}
			}
		}}
	}
	framed := func(m []byte) []byte { return append([]byte{byte(len(m) >> 8), byte(len(m))}, m...) }
	lies := map[string]struct {
		script *script
		check  func(n Snapshot) bool
	}{
		"length 0":      {raw(func([]byte) []byte { return []byte{0, 0} }), func(n Snapshot) bool { return n.OtherErrors == 1 && n.Lost == 0 }},
		"length 11":     {raw(func([]byte) []byte { return make([]byte, 13) }), func(n Snapshot) bool { return n.Mismatched == 0 }},
		"longer":        {raw(func(q []byte) []byte { m := framed(good(q)); m[0]++; return m }), func(n Snapshot) bool { return n.Lost == 1 }},
		"shorter":       {raw(func(q []byte) []byte { m := framed(good(q)); m[1] -= 4; return m }), func(n Snapshot) bool { return n.Malformed == 1 }},
		"garbage":       {raw(func(q []byte) []byte { return framed(bytes.Repeat([]byte{0x5a}, 99)) }), func(n Snapshot) bool { return n.Mismatched == 1 }},
		"other ID":      {raw(func(q []byte) []byte { m := good(q); m[0]++; return framed(m) }), func(n Snapshot) bool { return n.Mismatched == 1 }},
		"other name":    {raw(func(q []byte) []byte { m := good(q); m[13]++; return framed(m) }), func(n Snapshot) bool { return n.Mismatched == 1 }},
		"silence":       {raw(func([]byte) []byte { return nil }), func(n Snapshot) bool { return n.Lost == 1 }},
		"hangs up":      {&script{tcp: func(_ *server, c net.Conn) { _, _ = readTCP(c) }}, func(n Snapshot) bool { return n.Lost == 0 && n.TCPStale == 0 }},
		"hangs up soon": {&script{tcp: func(_ *server, c net.Conn) {}}, func(n Snapshot) bool { return n.Lost == 0 }},
		"only SERVFAIL": {&script{tcp1: func(q []byte) []byte { return rcode(q, wire.RCodeServFail) }}, func(n Snapshot) bool { return n.Useless == 1 }},
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGroup(t, tcp(newServer(t, "127.0.0.1", lie.script), newServer(t, "127.0.0.2", nil)), nil)
			knownLatency(g, time.Millisecond, 50*time.Millisecond)
			mustAnswer(t, g, "name.example.")
			if n := g.Snapshot(); !lie.check(n) || n.Retries != 1 {
				t.Errorf("counters %+v", n)
			}
		})
	}
}

// Red when: answers are read with one Read.
func TestTCPSlowly(t *testing.T) {
	s := newServer(t, "127.0.0.1", &script{tcp: func(_ *server, conn net.Conn) {
		for {
			q, err := readTCP(conn)
			if err != nil {
				return
			}
			m := good(q)
			for _, b := range append([]byte{0, byte(len(m))}, m...) {
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
			}
		}
	}})
	g := newGroup(t, tcp(s), nil)
	for range 3 {
		mustAnswer(t, g, "name.example.")
	}
}

// Red when: choose has no bound on what waits on a connection.
func TestTCPIsBounded(t *testing.T) {
	s := newServer(t, "127.0.0.1", &script{tcp: func(_ *server, conn net.Conn) {
		for {
			if _, err := readTCP(conn); err != nil {
				return
			}
		}
	}})
	g := newGroup(t, tcp(s), nil)
	errs, slowest := together(t, g, tcpConns*tcpShare+100)
	overloads := 0
	for _, err := range errs {
		if errors.Is(err, ErrOverloaded) {
			overloads++
		} else if !errors.Is(err, ErrTimeout) {
			t.Errorf("error %v", err)
		}
	}
	if overloads < 100 {
		t.Errorf("%d of %d were shed; room for %d", overloads, len(errs), tcpConns*tcpShare)
	}
	if slowest > g.cfg.Budget+slack {
		t.Errorf("an Exchange took %v", slowest)
	}
	if n := s.conns.Load(); n > tcpConns {
		t.Errorf("%d connections", n)
	}
}
