package resolver

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnslet/dnslet/upstream"
)

// End to end: a client, the resolver, package upstream, and a server on
// loopback that does what the wild does.

// wild is a UDP server whose datagrams a test writes.
type wild struct {
	conn *net.UDPConn
	addr netip.AddrPort
}

// newWild runs handle for every query, one after the other; send sends a
// datagram to the one who asked.
func newWild(t *testing.T, handle func(q *dns.Msg, from netip.AddrPort, send func([]byte))) *wild {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(b[:n]) == nil {
				handle(q, from, func(r []byte) { _, _ = conn.WriteToUDPAddrPort(r, from) })
			}
		}
	})
	t.Cleanup(func() {
		conn.Close()
		wg.Wait()
	})
	return &wild{conn: conn, addr: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
}

// groupOf returns a running upstream group of addrs.
func groupOf(t *testing.T, addrs ...netip.AddrPort) *upstream.Group {
	t.Helper()
	cfg := upstream.DefaultConfig()
	cfg.Name = "test"
	for _, a := range addrs {
		cfg.Endpoints = append(cfg.Endpoints, upstream.Endpoint{Addr: a})
	}
	g, err := upstream.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return g
}

func packed(m *dns.Msg) []byte {
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// poisoned is what an attacker wants to be believed.
func poisoned(q *dns.Msg) *dns.Msg {
	r := answerAny(q)
	if len(r.Answer) == 1 {
		if a, ok := r.Answer[0].(*dns.A); ok {
			a.A = net.IPv4(6, 6, 6, 6)
		}
	}
	return r
}

// Red when: upstream takes the first datagram for the answer, or the question is
// not compared.
func TestSpoofedAnswersAreIgnored(t *testing.T) {
	stranger, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	w := newWild(t, func(q *dns.Msg, from netip.AddrPort, send func([]byte)) {
		_, _ = stranger.WriteToUDPAddrPort(packed(poisoned(q)), from) // the right ID from the wrong place
		id := poisoned(q)
		id.Id ^= 0x5555
		send(packed(id))
		other := poisoned(q)
		other.Question[0].Name = "other.example."
		send(packed(other))
		query := poisoned(q)
		query.Response = false
		send(packed(query))
		send(packed(q)[:11])
		send(packed(answerAny(q)))
	})
	s := runServer(t, groupOf(t, w.addr))
	for _, name := range []string{"www.example.", "two.example."} {
		for range 2 {
			r := s.ask(t, "udp", question(name, dns.TypeA))
			if len(r.Answer) != 1 || !r.Answer[0].(*dns.A).A.Equal(net.IPv4(192, 0, 2, 1)) {
				t.Errorf("got %v", r)
			}
		}
	}
}

// garbage returns what the wild answers to q, by number.
func garbage(q *dns.Msg, i int) []byte {
	good := packed(poisoned(q))
	end := bytes.Index(good, []byte{0, 1, 0, 1}) + 4 // of the question
	switch i {
	case 0: // cut in the answer
		return good[:len(good)-2]
	case 1: // a loop of pointers where the owner should be
		b := append(good[:end:end], 0xc0, byte(end))
		return append(b, good[end+2:]...)
	case 2: // a pointer into the header
		b := append(good[:end:end], 0xc0, 4)
		return append(b, good[end+2:]...)
	case 3: // more records than there are
		b := append([]byte(nil), good...)
		binary.BigEndian.PutUint16(b[6:], 500)
		return b
	case 4: // a record that reaches beyond the end
		b := append([]byte(nil), good...)
		binary.BigEndian.PutUint16(b[len(b)-6:], 60000)
		return b
	case 5: // octets behind the end
		return append(append([]byte(nil), good...), 1, 2, 3)
	default: // the header and the question, then noise
		b := append([]byte(nil), good[:end]...)
		for range 40 {
			b = append(b, byte(rand.Uint32()))
		}
		return b
	}
}

// Garbage is no answer: the client hears SERVFAIL or the word of another
// endpoint, nothing of it is kept, and names beside it are answered.
//
// Red when: settle takes what does not parse.
func TestGarbageFromUpstream(t *testing.T) {
	var mu sync.Mutex
	kind := map[string]int{}
	w := newWild(t, func(q *dns.Msg, _ netip.AddrPort, send func([]byte)) {
		mu.Lock()
		i, bad := kind[q.Question[0].Name]
		mu.Unlock()
		if bad {
			send(garbage(q, i))
			return
		}
		send(packed(answerAny(q)))
	})
	s := runServer(t, groupOf(t, w.addr))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := dns.Fqdn("garbage" + string(rune('a'+i)))
			mu.Lock()
			kind[name] = i
			mu.Unlock()
			start := time.Now()
			r, err := s.try("udp", question(name, dns.TypeA))
			if err != nil || r.Rcode != dns.RcodeServerFailure || len(r.Answer) != 0 {
				t.Errorf("kind %d: %v (%v)", i, r, err)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("kind %d: heard after %v", i, took)
			}
		})
	}
	for range 20 {
		start := time.Now()
		if r := s.ask(t, "udp", question("beside.example.", dns.TypeA)); len(r.Answer) != 1 || time.Since(start) > time.Second {
			t.Errorf("beside it, after %v: %v", time.Since(start), r)
		}
	}
	wg.Wait()
}

// Red when: the parser of answers accepts what upstream's check lets through.
func TestGarbageThatPassesUpstreamIsNotKept(t *testing.T) {
	for i := range 40 {
		u := &scripted{raw: func(_ context.Context, query []byte) ([]byte, error) {
			q := new(dns.Msg)
			if err := q.Unpack(query); err != nil {
				return nil, err
			}
			return garbage(q, i), nil
		}}
		s := newServer(t, u)
		s.listen(t)
		s.run(t)
		r := s.ask(t, "udp", question("www.example.", dns.TypeA))
		if i < 6 && (r.Rcode != dns.RcodeServerFailure || s.Stats().Events[UpstreamGarbage] != 1) {
			t.Errorf("kind %d: %v, %d counted", i, r, s.Stats().Events[UpstreamGarbage])
		}
	}
}

// A truncated answer by UDP is had by TCP, whole.
//
// Red when: upstream hands on what is truncated.
func TestTruncatedUpstreamIsAskedByTCP(t *testing.T) {
	var w *wild
	var ln net.Listener
	for try := 0; ln == nil; try++ { // until a port is free for both
		w = newWild(t, func(q *dns.Msg, _ netip.AddrPort, send func([]byte)) {
			r := new(dns.Msg)
			r.SetReply(q)
			r.Truncated = true
			send(packed(r))
		})
		var err error
		if ln, err = net.Listen("tcp", w.addr.String()); err != nil && try == portTries {
			t.Fatal(err)
		}
	}
	srv := &dns.Server{Listener: ln, Handler: dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		r, _ := manyAddresses(200)(context.Background(), q)
		_ = rw.WriteMsg(r)
	})}
	go func() { _ = srv.ActivateAndServe() }()
	defer func() { _ = srv.Shutdown() }()
	s := runServer(t, groupOf(t, w.addr))
	if r := s.ask(t, "tcp", question("many.example.", dns.TypeA)); len(r.Answer) != 200 {
		t.Errorf("%d of 200 addresses", len(r.Answer))
	}
	if r := s.ask(t, "udp", question("many.example.", dns.TypeA)); !r.Truncated || len(r.Answer) == 0 {
		t.Errorf("by UDP: TC %v with %d addresses", r.Truncated, len(r.Answer))
	}
}

// A server in silence, then not: what waits hears something within 1.8 s, and
// everything is answered within 1 s of its return.
//
// Red when: a failure outlives the epoch in which it was learned.
func TestOutageEndsWithItsCause(t *testing.T) {
	var mu sync.Mutex
	silent := false
	w := newWild(t, func(q *dns.Msg, _ netip.AddrPort, send func([]byte)) {
		mu.Lock()
		defer mu.Unlock()
		if !silent {
			send(packed(answerAny(q)))
		}
	})
	s := runServer(t, groupOf(t, w.addr))
	s.ask(t, "udp", question("known.example.", dns.TypeA))
	mu.Lock()
	silent = true
	mu.Unlock()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			start := time.Now()
			r, err := s.try("udp", question("new"+string(rune('a'+i%26))+".example.", dns.TypeA))
			if err != nil || r.Rcode != dns.RcodeServerFailure {
				t.Errorf("during the outage: %v (%v)", r, err)
			}
			if took := time.Since(start); took > 2*time.Second { // 1.8 s and slack
				t.Errorf("heard only after %v", took)
			}
		})
	}
	if r := s.ask(t, "udp", question("known.example.", dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("a cached name during the outage: %v", r)
	}
	wg.Wait()
	mu.Lock()
	silent = false
	mu.Unlock()
	back := time.Now()
	eventually(t, "names that failed are answered", func() bool {
		r, err := s.try("udp", question("newa.example.", dns.TypeA))
		return err == nil && r.Rcode == dns.RcodeSuccess
	})
	if took := time.Since(back); took > time.Second {
		t.Errorf("answered only %v after the return", took)
	}
}
