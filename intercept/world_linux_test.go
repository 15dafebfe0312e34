package intercept_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/dnslet/dnslet/lab/netns"
)

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		os.Exit(helper())
	}
	os.Exit(netns.Main(m))
}

// Who answered a question: the last byte of the A record in the answer.
const (
	nobody  = 0
	agentIs = 1
	cluster = 2
)

var (
	vip4, vip4b = netip.MustParseAddr("172.20.0.10"), netip.MustParseAddr("172.20.0.11")
	vip6, vip6b = netip.MustParseAddr("fd00:20::a"), netip.MustParseAddr("fd00:20::b")
	vips        = []netip.Addr{vip4, vip4b, vip6, vip6b}
	endpoints   = []netip.AddrPort{netip.MustParseAddrPort("10.98.0.2:53"), netip.MustParseAddrPort("[fd00:98::2]:53")}
)

// world is a node that forwards, two pods, and a cluster DNS endpoint behind the node's uplink, with kube-proxy's way to it.
//
//	pod0 10.97.0.2, pod1 10.97.1.2 --- node --- eth0 10.98.0.1 --- wan 10.98.0.2 (cluster DNS)
type world struct {
	t    *testing.T
	node *netns.NS
	pods []*netns.NS
	wan  *netns.NS
}

func newWorld(t *testing.T) *world {
	t.Helper()
	netns.Require(t)
	w := &world{t: t, node: newNS(t), wan: newNS(t)}
	w.must(w.node.Sysctl("net.ipv4.ip_forward", "1"))
	w.must(w.node.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	w.must(w.node.Sysctl("net.ipv4.conf.all.rp_filter", "1")) // the strictest that nodes have
	w.wire(w.wan, "eth0", "10.98.0.1/24", "10.98.0.2/24", "fd00:98::1/64", "fd00:98::2/64")
	w.must(w.node.AddRoute(netns.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.98.0.2")}))
	w.must(w.node.AddRoute(netns.Route{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd00:98::2")}))
	for k := range 2 {
		pod := newNS(t)
		w.wire(pod, fmt.Sprintf("pod%d", k), fmt.Sprintf("10.97.%d.1/24", k), fmt.Sprintf("10.97.%d.2/24", k),
			fmt.Sprintf("fd00:97:%d::1/64", k), fmt.Sprintf("fd00:97:%d::2/64", k))
		w.pods = append(w.pods, pod)
	}
	// Between pod1 and the node checksums are real, as on a link that cannot compute them: a wrong one is seen.
	w.must(w.pods[1].Do(func() error { return checksumsInSoftware("eth0") }))
	w.must(w.node.Do(func() error { return checksumsInSoftware("pod1") }))
	w.must(w.node.Do(kubeProxy))
	w.must(w.node.Do(firewall))
	serve(t, w.wan, netip.MustParseAddrPort("[::]:53"), 0, cluster)
	return w
}

func newNS(t *testing.T) *netns.NS {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	// Link-local addresses, which neighbour discovery asks from, are usable at once.
	if err := ns.Sysctl("net.ipv6.conf.default.accept_dad", "0"); err != nil {
		t.Fatal(err)
	}
	return ns
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// wire connects a namespace to the node, whose side of the pair gets the name, and makes the node its default gateway.
func (w *world) wire(ns *netns.NS, name, here4, there4, here6, there6 string) {
	w.t.Helper()
	w.must(netns.Veth(w.node, name, ns, "eth0"))
	for _, p := range []string{here4, here6} {
		w.must(w.node.AddAddr(name, netip.MustParsePrefix(p)))
	}
	for _, p := range []string{there4, there6} {
		w.must(ns.AddAddr("eth0", netip.MustParsePrefix(p)))
	}
	w.must(ns.AddRoute(netns.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParsePrefix(here4).Addr()}))
	w.must(ns.AddRoute(netns.Route{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParsePrefix(here6).Addr()}))
}

// checksumsInSoftware is `ethtool -K LINK tx off`.
func checksumsInSoftware(link string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	off := struct{ cmd, value uint32 }{unix.ETHTOOL_STXCSUM, 0}
	req := struct { // struct ifreq, netdevice(7)
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		rest [16]byte
	}{data: unsafe.Pointer(&off)}
	copy(req.name[:], link)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return fmt.Errorf("cannot turn checksum offload of %s off: %w", link, errno)
	}
	return nil
}

// kubeProxy writes what kube-proxy does for the VIPs: DNAT to the endpoint, for pods and for the node itself.
func kubeProxy() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, fam := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		table := c.AddTable(&nftables.Table{Name: "kube-proxy", Family: fam})
		for name, hook := range map[string]*nftables.ChainHook{"prerouting": nftables.ChainHookPrerouting, "output": nftables.ChainHookOutput} {
			ch := c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityNATDest})
			for _, vip := range vips {
				if vip.Is6() == (fam == nftables.TableFamilyIPv6) {
					c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: dnat(vip)})
				}
			}
		}
	}
	return c.Flush()
}

// firewall drops what conntrack calls invalid, as many nodes do: a packet in the middle of a connection that is untracked
// otherwise. Untracked packets are not invalid.
func firewall() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, fam := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		table := c.AddTable(&nftables.Table{Name: "firewall", Family: fam})
		ch := c.AddChain(&nftables.Chain{Name: "input", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
		c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, expr.CtStateBitINVALID), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	return c.Flush()
}

func dnat(vip netip.Addr) []expr.Any {
	offset, to, fam := uint32(16), endpoints[0].Addr(), uint32(unix.NFPROTO_IPV4)
	if vip.Is6() {
		offset, to, fam = 24, endpoints[1].Addr(), unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(vip.BitLen() / 8)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: vip.AsSlice()},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 53}},
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: fam, RegAddrMin: 1, RegAddrMax: 1},
	}
}

// server answers every question with one A record that tells who it is.
type server struct {
	who     byte
	udp     *net.UDPConn
	tcp     *net.TCPListener
	deafUDP gate
	deafTCP gate
	wg      sync.WaitGroup
	mu      sync.Mutex
	conns   map[net.Conn]bool
}

// gate is open or shut; pass waits while it is shut.
type gate struct {
	mu   sync.Mutex
	shut chan struct{}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == nil {
		g.shut = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

func (g *gate) pass() {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		<-shut
	}
}

func serve(t *testing.T, ns *netns.NS, at netip.AddrPort, mark int, who byte) *server {
	t.Helper()
	s, err := listen(ns.Do, at, mark, who)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

func listen(in func(func() error) error, at netip.AddrPort, mark int, who byte) (*server, error) {
	s := &server{who: who, conns: map[net.Conn]bool{}}
	err := in(func() error {
		lc := net.ListenConfig{Control: marked(mark)}
		pc, err := lc.ListenPacket(context.Background(), "udp", at.String())
		if err != nil {
			return err
		}
		l, err := lc.Listen(context.Background(), "tcp", at.String())
		if err != nil {
			pc.Close()
			return err
		}
		s.udp, s.tcp = pc.(*net.UDPConn), l.(*net.TCPListener)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.wg.Go(s.serveUDP)
	s.wg.Go(s.serveTCP)
	return s, nil
}

// marked sets SO_MARK and lets a socket bind addresses that no interface holds.
func marked(mark int) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) {
			if mark != 0 {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
			}
			if network == "udp6" || network == "tcp6" {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1))
			}
		})
		return errors.Join(ctlErr, err)
	}
}

func (s *server) serveUDP() {
	var buf [4096]byte
	for {
		s.deafUDP.pass()
		n, from, err := s.udp.ReadFromUDPAddrPort(buf[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		s.deafUDP.pass()
		if err == nil && n > 12 {
			_, _ = s.udp.WriteToUDPAddrPort(reply(buf[:n], s.who), from)
		}
	}
}

func (s *server) serveTCP() {
	for {
		s.deafTCP.pass()
		c, err := s.tcp.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		s.wg.Go(func() {
			defer func() {
				c.Close()
				s.mu.Lock()
				delete(s.conns, c)
				s.mu.Unlock()
			}()
			for {
				msg, err := readTCP(c)
				if err != nil {
					return
				}
				s.deafTCP.pass()
				if writeTCP(c, reply(msg, s.who)) != nil {
					return
				}
			}
		})
	}
}

// serves tells whether a connection from there is open.
func (s *server) serves(from netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.RemoteAddr().String() == from.String() {
			return true
		}
	}
	return false
}

// stop ends the server, connections included.
func (s *server) stop() {
	s.deafUDP.open()
	s.deafTCP.open()
	s.udp.Close()
	s.tcp.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func reply(q []byte, who byte) []byte {
	out := bytes.Clone(q)
	out[2] |= 0x80
	binary.BigEndian.PutUint16(out[6:], 1)
	return append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, who)
}

func readTCP(c net.Conn) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(n[:]))
	_, err := io.ReadFull(c, msg)
	return msg, err
}

func writeTCP(c net.Conn, msg []byte) error {
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
	return err
}

func query(id uint16) []byte {
	return append(binary.BigEndian.AppendUint16(nil, id), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4, 't', 'e', 's', 't', 0, 0, 1, 0, 1)
}

// dial opens a client's socket in ns to vip:53. Bind may be invalid; mark may be 0.
func dial(ns *netns.NS, network string, vip netip.Addr, bind netip.Addr, mark int) (net.Conn, error) {
	return dialWithin(time.Second, ns, network, vip, bind, mark)
}

func dialWithin(within time.Duration, ns *netns.NS, network string, vip netip.Addr, bind netip.Addr, mark int) (net.Conn, error) {
	var c net.Conn
	err := ns.Do(func() (err error) {
		d := net.Dialer{Timeout: within, Control: marked(mark)}
		if bind.IsValid() && network == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(bind, 0))
		} else if bind.IsValid() {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(bind, 0))
		}
		c, err = d.Dial(network, netip.AddrPortFrom(vip, 53).String())
		return err
	})
	return c, err
}

// exchange asks one question on an open socket and tells who answered within the time.
func exchange(c net.Conn, id uint16, within time.Duration) (byte, error) {
	_ = c.SetDeadline(time.Now().Add(within))
	var msg []byte
	var err error
	if _, tcp := c.(*net.TCPConn); tcp {
		if err = writeTCP(c, query(id)); err == nil {
			msg, err = readTCP(c)
		}
	} else {
		if _, err = c.Write(query(id)); err == nil {
			buf := make([]byte, 512)
			var n int
			n, err = c.Read(buf)
			msg = buf[:n]
		}
	}
	switch {
	case err != nil:
		return nobody, err
	case len(msg) < 16 || binary.BigEndian.Uint16(msg) != id:
		return nobody, errors.New("not the answer to the question")
	}
	return msg[len(msg)-1], nil
}

// ask is one lookup, as a stub resolver makes it: a new socket, one question.
func ask(ns *netns.NS, network string, vip netip.Addr) (byte, error) {
	return askFrom(ns, network, vip, netip.Addr{}, 0)
}

func askFrom(ns *netns.NS, network string, vip, bind netip.Addr, mark int) (byte, error) {
	c, err := dial(ns, network, vip, bind, mark)
	if err != nil {
		return nobody, err
	}
	defer c.Close()
	return exchange(c, 7, patience)
}

// patience is how long a client waits for an answer; short, so that a withdrawal is seen soon after it happened.
const patience = 100 * time.Millisecond

// expect fails the test when another than who answers a lookup.
func (w *world) expect(ns *netns.NS, network string, vip netip.Addr, who byte) {
	w.t.Helper()
	got, err := ask(ns, network, vip)
	if got != who || err != nil {
		w.t.Errorf("%s lookup of %s: answered by %d (%v), want %d", network, vip, got, err, who)
	}
}

// until asks again and again until who answers, and returns how long that took and how many lookups nobody answered.
func (w *world) until(ns *netns.NS, network string, vip netip.Addr, who byte, within time.Duration) (time.Duration, int) {
	w.t.Helper()
	begin, lost := time.Now(), 0
	for {
		got, err := ask(ns, network, vip)
		switch took := time.Since(begin); {
		case got == who:
			return took, lost
		case got == nobody:
			lost++
			fallthrough
		default:
			if took > within {
				w.t.Fatalf("%s lookup of %s: answered by %d (%v) after %s, want %d", network, vip, got, err, took, who)
			}
		}
	}
}
