package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// waitingFor answers at once, but for names under "slow.", which wait for gate.
func waitingFor(gate <-chan struct{}) func(context.Context, *dns.Msg) (*dns.Msg, error) {
	return func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		if dns.IsSubDomain("slow.", q.Question[0].Name) {
			select {
			case <-gate:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return answerAny(q), nil
	}
}

// Red when: tcpConn.answer waits for the flight.
func TestTCPAnswersOutOfOrder(t *testing.T) {
	gate := make(chan struct{})
	s := runServer(t, &scripted{handle: waitingFor(gate)})
	s.ask(t, "tcp", question("www.example.", dns.TypeA)) // now in the cache
	conn := s.dial(t, "tcp")
	msgs := []*dns.Msg{question("a.slow.", dns.TypeA)}
	for range 20 {
		msgs = append(msgs, question("www.example.", dns.TypeA))
	}
	writeTCP(t, conn, msgs...)
	for range 20 {
		if r := readTCP(t, conn); r.Question[0].Name != "www.example." {
			t.Fatalf("a miss came first: %v", r)
		}
	}
	close(gate)
	if r := readTCP(t, conn); r.Id != msgs[0].Id || len(r.Answer) != 1 {
		t.Errorf("got %v", r)
	}
}

// The client may close its side after its questions; the answers still come.
//
// Red when: run closes without waiting for what is pending.
func TestTCPAnswersAfterFIN(t *testing.T) {
	gate := make(chan struct{})
	s := runServer(t, &scripted{handle: waitingFor(gate)})
	conn := s.dial(t, "tcp")
	for i := range 5 {
		writeTCP(t, conn, question(fmt.Sprintf("%d.slow.", i), dns.TypeA))
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all wait", func() bool { return s.Stats().Waiting == 5 })
	close(gate)
	for range 5 {
		if r := readTCP(t, conn); len(r.Answer) != 1 {
			t.Errorf("got %v", r)
		}
	}
	if _, err := tryReadTCP(conn); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: %v, want the end", err)
	}
	eventually(t, "the connection is counted", func() bool { return s.Stats().Events[ConnClosed] == 1 })
}

// Red when: messages that arrive in pieces are parsed piece by piece.
func TestTCPMessagesInPieces(t *testing.T) {
	s := runServer(t, &scripted{})
	conn := s.dial(t, "tcp")
	b := framed(nil, pack(t, question("www.example.", dns.TypeA)))
	b = framed(b, pack(t, question("two.example.", dns.TypeA)))
	for i := range b {
		if _, err := conn.Write(b[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if r := readTCP(t, conn); len(r.Answer) != 1 {
			t.Errorf("got %v", r)
		}
	}
}

// Red when: serve takes any length.
func TestTCPLengthLies(t *testing.T) {
	s := runServer(t, &scripted{})
	for i, size := range []uint16{0, 1, 11, maxRequest + 1, 65535} {
		conn := s.dial(t, "tcp")
		writeTCP(t, conn, question("www.example.", dns.TypeA))
		lie := append(binary.BigEndian.AppendUint16(nil, size), make([]byte, 100)...)
		if _, err := conn.Write(lie); err != nil {
			t.Fatal(err)
		}
		if r := readTCP(t, conn); len(r.Answer) != 1 {
			t.Errorf("the question before the lie: %v", r)
		}
		if _, err := tryReadTCP(conn); err == nil {
			t.Errorf("length %d was answered", size)
		}
		eventually(t, "the lie is counted", func() bool { return s.Stats().Events[ConnLied] == uint64(i+1) })
	}
}

// A length that is more than what follows, or a byte now and then: both end
// after the time a message may take, however often another byte arrives.
//
// Red when: every byte that arrives starts the message's time anew.
func TestTCPSlowLoris(t *testing.T) {
	s := newServer(t, &scripted{})
	s.patience.message = 150 * time.Millisecond
	s.listen(t)
	s.run(t)
	s.ask(t, "tcp", question("www.example.", dns.TypeA))
	beside := s.dial(t, "tcp")

	conn := s.dial(t, "tcp")
	start := time.Now()
	m := question("www.example.", dns.TypeA)
	m.SetEdns0(1232, false)
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 1000)}} // bytes for 10 s
	b := framed(nil, pack(t, m))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, conn)
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ended:
			if took := time.Since(start); took < s.patience.message {
				t.Errorf("ended after %v", took)
			}
			if n := s.Stats().Events[ConnSlow]; n != 1 {
				t.Errorf("%d counted as slow, want 1", n)
			}
			return
		case <-tick.C:
			_, _ = conn.Write(b[i : i+1])
			writeTCP(t, beside, question("www.example.", dns.TypeA))
			readTCP(t, beside)
			if time.Since(start) > 5*time.Second {
				t.Fatal("still open after 5 s of single bytes")
			}
		}
	}
}

// Red when: arm does not use TCPIdle.
func TestTCPIdleEnds(t *testing.T) {
	gate := make(chan struct{})
	s := runServer(t, &scripted{handle: waitingFor(gate)}, withLimits(func(l *Limits) { l.TCPIdle = 50 * time.Millisecond }))
	conn := s.dial(t, "tcp")
	writeTCP(t, conn, question("www.example.", dns.TypeA))
	readTCP(t, conn)
	if _, err := tryReadTCP(conn); !errors.Is(err, io.EOF) {
		t.Fatalf("idle: %v, want the end", err)
	}
	// Waiting for an answer is not being idle.
	conn = s.dial(t, "tcp")
	writeTCP(t, conn, question("a.slow.", dns.TypeA))
	eventually(t, "idle time passes", func() bool { return s.Stats().Waiting == 1 })
	time.AfterFunc(4*s.limits.get().TCPIdle, func() { close(gate) })
	if r := readTCP(t, conn); len(r.Answer) != 1 {
		t.Errorf("got %v", r)
	}
	eventually(t, "both ends are counted", func() bool { return s.Stats().Events[ConnIdle] == 2 })
}

// A client that does not read its answers loses its connection. With hits it
// holds up only itself, for as long as a write may take.
//
// Red when: write has no deadline.
func TestTCPClientThatDoesNotReadHits(t *testing.T) {
	s := newServer(t, &scripted{handle: manyAddresses(3000)}) // 48 KiB each
	s.patience.write = 200 * time.Millisecond
	s.listen(t)
	s.run(t)
	s.ask(t, "tcp", question("big.example.", dns.TypeA))
	unread(t, s, func(int) string { return "big.example." })
}

// With answers of flights it holds up no flight, and what may pile up is bounded.
//
// Red when: reply queues without a bound.
func TestTCPClientThatDoesNotReadMisses(t *testing.T) {
	s := newServer(t, &scripted{handle: manyAddresses(3000)})
	s.patience.write = time.Minute
	s.listen(t)
	s.run(t)
	unread(t, s, func(i int) string { return fmt.Sprintf("n%d.example.", i) })
	if n := s.tcpQueued.Load(); n != 0 {
		t.Errorf("%d bytes counted as queued", n)
	}
}

// unread asks for large answers and reads none until the server gives up.
func unread(t *testing.T, s *testServer, name func(int) string) {
	t.Helper()
	conn := s.dial(t, "tcp").(*net.TCPConn)
	if err := conn.SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		if _, err := conn.Write(framed(nil, pack(t, question(name(i), dns.TypeA)))); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the server has not given up after 10 s")
			}
			break
		}
		if i%100 == 0 {
			if r := s.ask(t, "udp", question("beside.example.", dns.TypeA)); !r.Truncated || len(r.Answer) == 0 {
				t.Fatalf("beside: %v", r)
			}
		}
	}
	eventually(t, "nothing is left", func() bool {
		st := s.Stats()
		return st.Events[ConnStuck] == 1 && st.Conns == 0 && st.Waiting == 0
	})
}

// A client that reads keeps its connection, however much is answered in one moment: after an outage it is all that waits.
//
// Red when: reply counts what is queued without a look at since when.
func TestTCPManyAnswersAtOnce(t *testing.T) {
	const n = 300
	gate := make(chan struct{})
	u := &scripted{handle: func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		<-gate
		return manyAddresses(500)(ctx, q) // 8 KiB each
	}}
	s := runServer(t, u)
	conn := s.dial(t, "tcp")
	for i := range n {
		writeTCP(t, conn, question(fmt.Sprintf("n%d.example.", i), dns.TypeA))
	}
	eventually(t, "all wait", func() bool { return s.Stats().Waiting == n })
	close(gate)
	for i := range n {
		if r, err := tryReadTCP(conn); err != nil || len(r.Answer) != 500 {
			t.Fatalf("after %d answers: %v", i, err)
		}
	}
}

// Red when: welcome does not ask takeConn.
func TestTCPConnectionLimits(t *testing.T) {
	s := runServer(t, &scripted{}, withLimits(func(l *Limits) { l.TCPConns, l.TCPPerSource = 8, 3 }))
	alive := func(c net.Conn) bool {
		if _, err := c.Write(framed(nil, pack(t, question(ProbeName, dns.TypeA)))); err != nil {
			return false
		}
		_, err := tryReadTCP(c)
		return err == nil
	}
	var held []net.Conn
	for i := range 5 {
		c, err := net.Dial("tcp", s.addr.String())
		if err == nil {
			defer c.Close()
			held = append(held, c)
		} // else the RST came before connect returned
		if got, want := err == nil && alive(c), i < 3; got != want {
			t.Errorf("connection %d answers: %v, want %v", i, got, want)
		}
	}
	other := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	c, err := other.Dial("tcp", s.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !alive(c) {
		t.Error("another source is refused")
	}
	held[0].Close()
	eventually(t, "the place is free", func() bool { return s.Stats().Conns == 3 })
	if !alive(s.dial(t, "tcp")) {
		t.Error("the place of a closed connection is not free again")
	}
	if st := s.Stats(); st.Events[ConnRefusedShare] != 2 {
		t.Errorf("%d refused, want 2", st.Events[ConnRefusedShare])
	}
}

// Red when: finish leaves the long deadline of an idle connection in force.
func TestTCPDrain(t *testing.T) {
	gate := make(chan struct{})
	s := runServer(t, &scripted{handle: waitingFor(gate)})
	idle, busy := s.dial(t, "tcp"), s.dial(t, "tcp")
	writeTCP(t, idle, question("www.example.", dns.TypeA))
	readTCP(t, idle)
	writeTCP(t, busy, question("a.slow.", dns.TypeA))
	eventually(t, "it waits", func() bool { return s.Stats().Waiting == 1 })
	drained := make(chan struct{})
	start := time.Now()
	go func() {
		defer close(drained)
		s.Drain(context.Background())
	}()
	if _, err := tryReadTCP(idle); !errors.Is(err, io.EOF) {
		t.Errorf("idle connection: %v, want the end", err)
	}
	close(gate)
	if r := readTCP(t, busy); len(r.Answer) != 1 {
		t.Errorf("got %v", r)
	}
	<-drained
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
	if _, err := net.DialTimeout("tcp", s.addr.String(), time.Second); err == nil {
		t.Error("still accepts")
	}
}

// A connection is opened for a question, and the client may have to wait for its CPU before it sends it.
//
// Red when: call always is lastCall.
func TestTCPDrainWaitsForTheFirstQuestion(t *testing.T) {
	s := runServer(t, &scripted{})
	conn := s.dial(t, "tcp")
	eventually(t, "it is accepted", func() bool { return s.Stats().Conns == 1 })
	go s.Drain(context.Background())
	eventually(t, "the server drains", func() bool { return errors.Is(s.Progress(), ErrClosed) })
	time.AfterFunc(5*lastCall, func() { _, _ = conn.Write(framed(nil, packed(question("www.example.", dns.TypeA)))) })
	if r, err := tryReadTCP(conn); err != nil || len(r.Answer) != 1 {
		t.Errorf("got %v, %v", r, err)
	}
}

// Red when: await only waits.
func TestDrainGivesUp(t *testing.T) {
	hang := make(chan struct{})
	u := &scripted{handle: func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		<-ctx.Done()
		close(hang)
		return nil, ctx.Err()
	}}
	s := runServer(t, u)
	conn := s.dial(t, "udp")
	if _, err := conn.Write(pack(t, question("www.example.", dns.TypeA))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it waits", func() bool { return s.Stats().Waiting == 1 })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	start := time.Now()
	s.Drain(ctx)
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
	<-hang
	b := make([]byte, 512)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	if r := unpack(t, b[:n]); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v", r)
	}
	if err := s.Progress(); !errors.Is(err, ErrClosed) {
		t.Errorf("Progress: %v", err)
	}
	if _, err := s.Lookup(context.Background(), "www.example.", 1); !errors.Is(err, ErrClosed) {
		t.Errorf("Lookup: %v", err)
	}
}

// Red when: messages of exactly the longest length are refused.
func TestLongestRequest(t *testing.T) {
	s := runServer(t, &scripted{})
	m := question("www.example.", dns.TypeA)
	m.SetEdns0(1232, false)
	base := m.Len()
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, maxRequest-base-4)}}
	if n := len(pack(t, m)); n != maxRequest {
		t.Fatalf("made %d octets", n)
	}
	for _, network := range []string{"tcp", "udp"} {
		for range 2 { // a miss and a hit
			if r := s.ask(t, network, m); len(r.Answer) != 1 {
				t.Errorf("%s: got %v", network, r)
			}
		}
	}
}
