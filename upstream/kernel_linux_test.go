package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dnslet/dnslet/lab/netns"
)

func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }

func newNS(t *testing.T) *netns.NS {
	t.Helper()
	netns.Require(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// askIn asks from within ns and expects that no endpoint is reachable, at once.
func askIn(t *testing.T, ns *netns.NS, g *Group) {
	t.Helper()
	q := query(t, "name.example.")
	err := ns.Do(func() error {
		_, _, err := g.Exchange(context.Background(), q, nil)
		return err
	})
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("error %v", err)
	}
	if n := g.Snapshot(); n.Lost != 0 {
		t.Errorf("%d attempts were waited for", n.Lost)
	}
}

var nowhere = []Endpoint{{Addr: netip.MustParseAddrPort("192.0.2.1:53")}, {Addr: netip.MustParseAddrPort("192.0.2.2:53")}}

// Red when: count does not know ENETUNREACH.
func TestNoRoute(t *testing.T) {
	g := newGroup(t, nowhere, nil)
	askIn(t, newNS(t), g)
	if n := g.Snapshot(); n.Unreachable != 2 {
		t.Errorf("counters %+v", n)
	}
	if stateOf(g, 0) != Suspect {
		t.Errorf("state %v", stateOf(g, 0))
	}
}

// Red when: count does not know EACCES.
func TestProhibited(t *testing.T) {
	ns := newNS(t)
	for _, e := range nowhere {
		ip := net.IP(e.Addr.Addr().AsSlice())
		route := &netlink.Route{Dst: &net.IPNet{IP: ip, Mask: net.CIDRMask(32, 32)}, Type: unix.RTN_PROHIBIT}
		if err := ns.Netlink().RouteAdd(route); err != nil {
			t.Fatal(err)
		}
	}
	g := newGroup(t, nowhere, nil)
	askIn(t, ns, g)
	if n := g.Snapshot(); n.NotPermitted != 2 {
		t.Errorf("counters %+v", n)
	}
}

// A router on the way says that it knows no way: an ICMP error that connected sockets do not report unless asked to.
//
// Red when: reportErrors does nothing.
func TestRouterSaysUnreachable(t *testing.T) {
	here, router := newNS(t), newNS(t)
	steps := []func() error{
		func() error { return netns.Veth(here, "eth0", router, "eth0") },
		func() error { return here.AddAddr("eth0", netip.MustParsePrefix("10.9.0.1/24")) },
		func() error { return router.AddAddr("eth0", netip.MustParsePrefix("10.9.0.2/24")) },
		func() error { return router.Sysctl("net.ipv4.ip_forward", "1") },
		func() error {
			return here.AddRoute(netns.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.9.0.2")})
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	g := newGroup(t, nowhere[:1], nil)
	askIn(t, here, g)
	if n := g.Snapshot(); n.Unreachable != 1 {
		t.Errorf("counters %+v", n)
	}
}

// Red when: the marks of endpoints and last resort are mixed up, or TCP has none.
func TestMarks(t *testing.T) {
	netns.Require(t) // without CAP_NET_ADMIN there is nothing to see
	mark := func(s *server) *atomic.Uint32 {
		var seen atomic.Uint32
		raw, err := s.udp.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = raw.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVMARK, 1); err != nil {
				t.Skipf("cannot receive marks: %v", err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return &seen
	}
	endpoint, last := bareUDP(t), bareUDP(t)
	seen, seenLast := mark(endpoint), mark(last)
	go echoMark(endpoint.udp, seen, false)
	go echoMark(last.udp, seenLast, true)
	g := newGroup(t, udp(endpoint), func(c *Config) {
		c.Mark, c.LastResort, c.LastResortMark = 0x54, last.addr, 0x55
	})
	mustAnswer(t, g, "name.example.")
	if seen.Load() != 0x54 || seenLast.Load() != 0x55 {
		t.Errorf("marks %#x and %#x, want 0x54 and 0x55", seen.Load(), seenLast.Load())
	}
	if st := g.Status(); !st[0].Marked || !st[1].Marked {
		t.Errorf("status %+v", st)
	}

	byTCP := newGroup(t, tcp(newServer(t, "127.0.0.1", nil)), func(c *Config) { c.Mark = 0x54 })
	mustAnswer(t, byTCP, "name.example.")
	pool := byTCP.list.Load().all[0].tcp
	pool.mu.Lock()
	defer pool.mu.Unlock()
	raw, err := pool.conns[0].conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		if v, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK); err != nil || v != 0x54 {
			t.Errorf("the TCP connection has mark %#x, error %v", v, err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// bareUDP is a server without anybody who reads.
func bareUDP(t *testing.T) *server {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &server{udp: conn, addr: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
}

// echoMark notes the mark of what it receives, and answers if it is to.
func echoMark(conn *net.UDPConn, seen *atomic.Uint32, answer bool) {
	buf, oob := make([]byte, 512), make([]byte, 128)
	for {
		n, noob, _, from, err := conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return
		}
		messages, _ := syscall.ParseSocketControlMessage(oob[:noob])
		for _, m := range messages {
			if m.Header.Type == unix.SO_MARK && len(m.Data) >= 4 {
				seen.Store(uint32(m.Data[0]) | uint32(m.Data[1])<<8)
			}
		}
		if answer {
			_, _ = conn.WriteToUDPAddrPort(good(buf[:n]), from)
		}
	}
}

// An ordinary user may not mark sockets; the group works all the same and says so.
//
// Red when: open returns the error of SO_MARK.
func TestMarkRefused(t *testing.T) {
	s := newServer(t, "127.0.0.1", nil)
	g := newGroup(t, udp(s), func(c *Config) { c.Mark = 0x54 })
	q, done := query(t, "name.example."), make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and its lost capabilities with it
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			done <- err
			return
		}
		_, _, err := g.Exchange(context.Background(), q, nil)
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := g.Snapshot(); n.MarkRefused != 1 || g.Status()[0].Marked {
		t.Errorf("refused %d, status %+v", n.MarkRefused, g.Status())
	}
}

// No descriptor is left: questions are shed, nothing is held against the endpoint, and all is well when there are some again.
//
// Red when: isLocal does not know EMFILE.
func TestNoDescriptors(t *testing.T) {
	s := newServer(t, "127.0.0.1", nil)
	g := newGroup(t, udp(s), nil)
	mustAnswer(t, g, "name.example.")
	until(t, "the socket is closed", func() bool { return g.Snapshot().Sockets == 0 })
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	low := was
	low.Cur = uint64(descriptors(t)) + 20
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var taken []int
	restore := func() {
		for _, fd := range taken {
			_ = unix.Close(fd)
		}
		taken = nil
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	}
	defer restore()
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == unix.EMFILE {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, fd)
	}
	_, _, _, err := ask(t, g, "name.example.")
	n, st := g.Snapshot(), g.Status()[0]
	restore()
	if !errors.Is(err, ErrOverloaded) || n.NoDescriptors != 1 || st.State != Up {
		t.Errorf("error %v, counted %d, state %v", err, n.NoDescriptors, st.State)
	}
	mustAnswer(t, g, "name.example.")
}

// Whatever has been going on, nothing is left behind.
//
// Red when: datagrams.close does not close what lingers.
func TestNothingLeaks(t *testing.T) {
	servers := []*server{
		newServer(t, "127.0.0.1", nil), newServer(t, "127.0.0.2", silent), newServer(t, "127.0.0.3", says(truncated)),
	}
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	for range 3 {
		c := DefaultConfig()
		c.Budget = 300 * time.Millisecond
		c.Endpoints = append(udp(servers...), tcp(servers[0])...)
		g, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		together(t, g, 200)
		if err := g.Update(udp(servers[1])); err != nil {
			t.Fatal(err)
		}
		together(t, g, 20)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range servers {
		s.hangUp()
	}
	until(t, "goroutines are as many as before", func() bool { return runtime.NumGoroutine() <= goroutines })
	until(t, "files are as many as before", func() bool { return descriptors(t) <= files })
}
