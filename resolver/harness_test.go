package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnslet/dnslet/cache"
	"github.com/dnslet/dnslet/upstream"
)

// scripted is an Upstream that does what a test says.
type scripted struct {
	// handle answers, or fails, or waits for ctx. nil: answerAny.
	handle func(ctx context.Context, q *dns.Msg) (*dns.Msg, error)
	raw    func(ctx context.Context, query []byte) ([]byte, error) // instead of handle
	sick   atomic.Bool
	epoch  atomic.Uint64

	mu    sync.Mutex
	asked []string // qname/type of every question, in order
}

func (u *scripted) Healthy() bool { return !u.sick.Load() }
func (u *scripted) Epoch() uint64 { return u.epoch.Load() }

func (u *scripted) Exchange(ctx context.Context, query, buf []byte) ([]byte, upstream.Meta, error) {
	var m dns.Msg
	if err := m.Unpack(query); err != nil {
		return nil, upstream.Meta{}, err
	}
	u.mu.Lock()
	u.asked = append(u.asked, m.Question[0].Name+"/"+dns.TypeToString[m.Question[0].Qtype])
	handle := u.handle
	u.mu.Unlock()
	if u.raw != nil {
		b, err := u.raw(ctx, query)
		return b, upstream.Meta{}, err
	}
	if handle == nil {
		handle = func(_ context.Context, q *dns.Msg) (*dns.Msg, error) { return answerAny(q), nil }
	}
	r, err := handle(ctx, &m)
	if err != nil {
		return nil, upstream.Meta{}, err
	}
	r.Compress = true
	b, err := r.PackBuffer(buf)
	return b, upstream.Meta{}, err
}

// does changes what is answered from now on.
func (u *scripted) does(handle func(ctx context.Context, q *dns.Msg) (*dns.Msg, error)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.handle = handle
}

// count is how often name (with its type) was asked.
func (u *scripted) count(question string) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, a := range u.asked {
		if a == question {
			n++
		}
	}
	return n
}

func (u *scripted) total() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.asked)
}

// answerAny answers every A and AAAA with one address, names that begin with
// "no" with NXDOMAIN, other types with NODATA.
func answerAny(q *dns.Msg) *dns.Msg {
	r := new(dns.Msg)
	r.SetReply(q)
	name := q.Question[0].Name
	switch t := q.Question[0].Qtype; {
	case strings.HasPrefix(strings.ToLower(name), "no"):
		r.Rcode = dns.RcodeNameError
		r.Ns = []dns.RR{soaRR()}
	case t == dns.TypeA:
		r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: 300}, A: net.IPv4(192, 0, 2, 1)}}
	case t == dns.TypeAAAA:
		r.Answer = []dns.RR{&dns.AAAA{Hdr: dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: 300}, AAAA: net.ParseIP("2001:db8::1")}}
	default:
		r.Ns = []dns.RR{soaRR()}
	}
	return r
}

func soaRR() dns.RR {
	rr, err := dns.NewRR("example. 60 IN SOA ns.example. host.example. 1 3600 600 86400 30")
	if err != nil {
		panic(err)
	}
	return rr
}

// silence waits for the end of ctx and answers nothing, as a black hole.
func silence(ctx context.Context, _ *dns.Msg) (*dns.Msg, error) {
	<-ctx.Done()
	return nil, upstream.ErrTimeout
}

// testServer is a Server with everything that a test may want to change.
type testServer struct {
	*Server
	cache *cache.Cache
	addr  netip.AddrPort
}

type option func(*Config, *cache.Config, *[]Zone)

func withLimits(change func(*Limits)) option {
	return func(c *Config, _ *cache.Config, _ *[]Zone) { change(&c.Limits) }
}

func withCache(change func(*cache.Config)) option {
	return func(_ *Config, c *cache.Config, _ *[]Zone) { change(c) }
}

func withZone(z Zone) option {
	return func(_ *Config, _ *cache.Config, zones *[]Zone) { *zones = append(*zones, z) }
}

// newServer makes a server that listens on 127.0.0.1 but does not run.
func newServer(t testing.TB, u Upstream, opts ...option) *testServer {
	t.Helper()
	cfg := Config{Limits: DefaultLimits(), Readers: 2, Logger: slog.New(slog.DiscardHandler)}
	cc := cache.Default()
	zones := []Zone{{Name: ".", Upstream: u}}
	for _, o := range opts {
		o(&cfg, &cc, &zones)
	}
	c, err := cache.New(cc)
	if err != nil {
		t.Fatal(err)
	}
	for i := range zones {
		if zones[i].Lifetimes == (cache.Lifetimes{}) {
			zones[i].Lifetimes = c.Lifetimes()
		}
	}
	cfg.Cache = c
	if cfg.Zones, err = NewZones(zones); err != nil {
		t.Fatal(err)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if cc.Now != nil {
		s.pulse.limit = math.MaxInt64 // a clock that a test moves is no stall
	}
	return &testServer{Server: s, cache: c}
}

// runServer makes a server and runs it until the test ends.
func runServer(t testing.TB, u Upstream, opts ...option) *testServer {
	t.Helper()
	s := newServer(t, u, opts...)
	s.listen(t)
	s.run(t)
	return s
}

func (s *testServer) listen(t testing.TB) {
	t.Helper()
	if err := s.Listen([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}); err != nil {
		t.Fatal(err)
	}
	s.addr = s.Addrs()[0]
}

func (s *testServer) run(t testing.TB) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background()) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Drain(ctx)
		if ctx.Err() != nil {
			t.Error("the server did not drain within 10 s")
		}
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	eventually(t, "the server runs", func() bool { return !errors.Is(s.Progress(), errNotRunning) })
}

// question is a query as glibc sends it.
func question(name string, t uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), t)
	return m
}

// ask sends m by UDP or TCP and returns the reply; it fails the test without.
func (s *testServer) ask(t testing.TB, network string, m *dns.Msg) *dns.Msg {
	t.Helper()
	r, err := s.try(network, m)
	if err != nil {
		t.Fatalf("no reply to %v by %s: %v", m.Question, network, err)
	}
	return r
}

func (s *testServer) try(network string, m *dns.Msg) (*dns.Msg, error) {
	c := dns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: 4096}
	r, _, err := c.Exchange(m, s.addr.String())
	return r, err
}

// dial opens a UDP or TCP connection that is closed when the test ends.
func (s *testServer) dial(t testing.TB, network string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, s.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// exchangeRaw sends one datagram of any content and returns what comes back.
func exchangeRaw(t testing.TB, c net.Conn, pkt []byte) []byte {
	t.Helper()
	if _, err := c.Write(pkt); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 65536)
	n, err := c.Read(b)
	if err != nil {
		t.Fatalf("no reply: %v", err)
	}
	return b[:n]
}

// noReply checks that pkt is answered by nothing: a probe sent right after it on
// the same socket is the first thing that comes back.
func noReply(t testing.TB, c net.Conn, pkt []byte) {
	t.Helper()
	if _, err := c.Write(pkt); err != nil {
		t.Fatal(err)
	}
	probe := pack(t, question(ProbeName, dns.TypeA))
	got := exchangeRaw(t, c, probe)
	if binary.BigEndian.Uint16(got) != binary.BigEndian.Uint16(probe) {
		t.Errorf("%x was answered by %x", pkt, got)
	}
}

func pack(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unpack(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%x is no message: %v", b, err)
	}
	return m
}

// writeTCP and readTCP move one message with its length prefix.
func writeTCP(t testing.TB, c io.Writer, msgs ...*dns.Msg) {
	t.Helper()
	var b []byte
	for _, m := range msgs {
		b = framed(b, pack(t, m))
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func readTCP(t testing.TB, c io.Reader) *dns.Msg {
	t.Helper()
	m, err := tryReadTCP(c)
	if err != nil {
		t.Fatalf("no reply by TCP: %v", err)
	}
	return m
}

func tryReadTCP(c io.Reader) (*dns.Msg, error) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		return nil, fmt.Errorf("%x is no message: %w", b, err)
	}
	return m, nil
}

// eventually waits for a condition that no event announces: it yields, and gives
// up after 10 s.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
		time.Sleep(time.Millisecond) // a yield that leaves the other side its CPU
	}
}

// ede returns the extended error of a reply, 0 for none.
func ede(m *dns.Msg) uint16 {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return e.InfoCode
			}
		}
	}
	return 0
}

var errBroken = errors.New("broken on purpose")
