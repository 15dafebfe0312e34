package upstream

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// server is a DNS server of one address, UDP and TCP on the same port, that does as its script says.
type server struct {
	addr   netip.AddrPort
	udp    *net.UDPConn
	tcp    net.Listener
	script atomic.Pointer[script]
	asked  atomic.Int64 // questions received by UDP
	conns  atomic.Int64 // TCP connections accepted
	wg     sync.WaitGroup
	mu     sync.Mutex
	open   map[net.Conn]struct{}
}

// script is how a server behaves; nil members do what a good server does.
type script struct {
	udp  func(s *server, from netip.AddrPort, query []byte)
	tcp  func(s *server, conn net.Conn) // the whole connection
	tcp1 func(query []byte) []byte      // one answer
}

// silent is a black hole.
var silent = &script{udp: func(*server, netip.AddrPort, []byte) {}}

// says makes a server that answers by UDP with what f makes of the query.
func says(f func(query []byte) []byte) *script {
	return &script{udp: func(s *server, from netip.AddrPort, query []byte) { s.send(from, f(query)) }}
}

// after delays a good answer; the test's end cuts it short.
func after(t testing.TB, d time.Duration) *script {
	return &script{udp: func(s *server, from netip.AddrPort, query []byte) {
		timer := time.AfterFunc(d, func() { s.send(from, good(query)) })
		t.Cleanup(func() { timer.Stop() })
	}}
}

// good answers query with one A record, TTL 30.
func good(query []byte) []byte {
	q := wire.Question(query)
	m := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}, q...)
	return append(m, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1)
}

// rcode answers query with nothing but an RCODE.
func rcode(query []byte, rc wire.RCode) []byte {
	return append([]byte{query[0], query[1], 0x81, 0x80 | byte(rc), 0, 1, 0, 0, 0, 0, 0, 0}, wire.Question(query)...)
}

// truncated answers query with TC and no record.
func truncated(query []byte) []byte {
	m := rcode(query, wire.RCodeNoError)
	m[2] |= 0x02
	return m
}

func newServer(t testing.TB, host string, sc *script) *server {
	t.Helper()
	s := &server{open: make(map[net.Conn]struct{})}
	s.play(sc)
	s.listen(t, netip.AddrPortFrom(netip.MustParseAddr(host), 0))
	t.Cleanup(s.stop)
	return s
}

// listen binds UDP and TCP to one port of host.
func (s *server) listen(t testing.TB, at netip.AddrPort) {
	t.Helper()
	for range 20 {
		tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			t.Fatalf("cannot listen: %v", err)
		}
		addr := tcp.Addr().(*net.TCPAddr).AddrPort()
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		if err != nil { // another test has the UDP port
			_ = tcp.Close()
			continue
		}
		s.addr, s.udp, s.tcp = addr, udp, tcp
		s.wg.Go(s.serveUDP)
		s.wg.Go(s.serveTCP)
		return
	}
	t.Fatal("cannot find a port that is free for UDP and TCP")
}

func (s *server) play(sc *script) {
	if sc == nil {
		sc = &script{}
	}
	s.script.Store(sc)
}

func (s *server) stop() {
	_ = s.udp.Close()
	_ = s.tcp.Close()
	s.mu.Lock()
	for c := range s.open {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *server) send(to netip.AddrPort, msg []byte) { _, _ = s.udp.WriteToUDPAddrPort(msg, to) }

func (s *server) serveUDP() {
	buf := make([]byte, 65535)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		sc := s.script.Load()
		s.asked.Add(1) // from here on a new script does not concern this question
		query := bytes.Clone(buf[:n])
		if f := sc.udp; f != nil {
			f(s, from, query)
		} else {
			s.send(from, good(query))
		}
	}
}

func (s *server) serveTCP() {
	for {
		conn, err := s.tcp.Accept()
		if err != nil {
			return
		}
		s.conns.Add(1)
		s.mu.Lock()
		s.open[conn] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() {
			defer conn.Close()
			sc := s.script.Load()
			if sc.tcp != nil {
				sc.tcp(s, conn)
				return
			}
			for {
				query, err := readTCP(conn)
				if err != nil {
					return
				}
				answer := good
				if sc.tcp1 != nil {
					answer = sc.tcp1
				}
				if writeTCP(conn, answer(query)) != nil {
					return
				}
			}
		})
	}
}

// hangUp closes all TCP connections, not the listener.
func (s *server) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		_ = c.Close()
		delete(s.open, c)
	}
}

func readTCP(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

func writeTCP(w io.Writer, msg []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
	return err
}

// query makes a question for an A record, ID 0x1234.
func query(t testing.TB, name string) []byte {
	t.Helper()
	n, err := wire.AppendName(nil, name)
	if err != nil {
		t.Fatalf("cannot write name: %v", err)
	}
	q := wire.AppendQuery(nil, wire.FlagRD, n, wire.TypeA, wire.ClassIN, false)
	wire.SetMsgID(q, 0x1234)
	return q
}

// udp and tcp list servers as endpoints.
func udp(servers ...*server) (es []Endpoint) {
	for _, s := range servers {
		es = append(es, Endpoint{Addr: s.addr})
	}
	return es
}

func tcp(servers ...*server) (es []Endpoint) {
	for _, s := range servers {
		es = append(es, Endpoint{Addr: s.addr, Transport: TCP})
	}
	return es
}

// newGroup returns a group over endpoints that ends with the test; change adjusts its configuration.
func newGroup(t testing.TB, endpoints []Endpoint, change func(*Config)) *Group {
	t.Helper()
	c := DefaultConfig()
	c.Name, c.Endpoints = t.Name(), endpoints
	if change != nil {
		change(&c)
	}
	g, err := New(c)
	if err != nil {
		t.Fatalf("cannot make group: %v", err)
	}
	t.Cleanup(g.Close)
	return g
}

// run starts g.Run until the test ends.
func run(t testing.TB, g *Group) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := g.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// mustAnswer asks and checks that the answer is the good one.
func mustAnswer(t testing.TB, g *Group, name string) Meta {
	t.Helper()
	q := query(t, name)
	answer, meta, err := g.Exchange(context.Background(), q, make([]byte, 0, 4096))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if want := good(q); !bytes.Equal(answer, want) {
		t.Fatalf("%s: answer\n%x, want\n%x", name, answer, want)
	}
	return meta
}

// until waits for an event that other goroutines bring about.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !within(ok) {
		t.Fatalf("not within 10 s: %s", what)
	}
}

// within waits for ok, 10 s at most: far more than anything here takes.
func within(ok func() bool) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// descriptors counts this process's open files.
func descriptors(t testing.TB) int {
	t.Helper()
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("cannot count descriptors: %v", err)
	}
	return len(es)
}
