package intercept_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/dnslet/dnslet/lab/netns"
)

// life returns how long the flow of a connection from a pod stays in a set; 0: it is not there.
func (w *world) life(set string, c net.Conn) time.Duration {
	w.t.Helper()
	from := netip.MustParseAddrPort(c.LocalAddr().String())
	key := binary.BigEndian.AppendUint16(from.Addr().AsSlice(), from.Port())
	var out time.Duration
	w.must(w.node.Do(func() error {
		nft, err := nftables.New()
		if err != nil {
			return err
		}
		elems, err := nft.GetSetElements(&nftables.Set{Name: set, Table: &nftables.Table{Name: "dnslet", Family: nftables.TableFamilyIPv4}})
		for _, e := range elems {
			if bytes.HasPrefix(e.Key, key) {
				out = e.Expires
			}
		}
		return err
	}))
	return out
}

// A connection lives in @flows, renewed by its packets from the short life of a handshake on, and moves to @closing at its end.
//
// Red when: stream looks a flow up and does not renew it, or does not take it out at a FIN.
func TestFlowsLiveWithTheirConnections(t *testing.T) {
	w := newWorld(t)
	w.agent(config(patient))
	c, err := dial(w.pods[0], "tcp", vip4, netip.Addr{}, 0)
	w.must(err)
	defer c.Close()
	if who, err := exchange(c, 1, time.Second); who != agentIs {
		t.Fatalf("answered by %d, %v", who, err)
	}
	if life := w.life("flows", c); life < 100*time.Second {
		t.Errorf("an established connection lives %s in @flows", life)
	}
	w.must(c.(*net.TCPConn).CloseWrite())
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || err.Error() != "EOF" {
		t.Errorf("the connection ended with %v", err)
	}
	if flow, closing := w.life("flows", c), w.life("closing", c); flow != 0 || closing == 0 || closing > 10*time.Second {
		t.Errorf("a closed connection lives %s in @flows and %s in @closing", flow, closing)
	}
}

// A client may take the port of a connection that it has just ended, or that it has forgotten without a word, for one that is
// not ours any more. What the kernel remembers of the old one must not lead the new one astray.
//
// Red when: handshake or node_handshake does not remove the flow from @flows, or from @closing.
func TestPortIsUsedAgain(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config(patient))
	port := uint16(20000)
	for name, c := range map[string]struct {
		ns     *netns.NS
		source string
	}{"pod": {w.pods[0], "10.97.0.2"}, "node": {w.node, "10.98.0.1"}} {
		for _, silent := range []bool{false, true} {
			port++
			from := netip.AddrPortFrom(netip.MustParseAddr(c.source), port)
			old := w.connect(c.ns, from)
			if who, err := exchange(old, 1, time.Second); who != agentIs {
				t.Errorf("%s: first connection answered by %d (%v)", name, who, err)
			}
			w.must(abandon(old, silent))
			w.must(a.i.SetBypass([]netip.Prefix{netip.PrefixFrom(from.Addr(), 32)}))
			again := w.connect(c.ns, from)
			for range 2 {
				if who, err := exchange(again, 2, time.Second); who != cluster {
					t.Errorf("%s, silent %v: second connection answered by %d (%v)", name, silent, who, err)
				}
			}
			w.must(again.Close())
			w.must(a.i.SetBypass(nil))
		}
	}
}

// A reset is the last packet of its connection and is not sent again. The node's firewall drops what conntrack calls invalid.
//
// Red when: stream tracks the packet that ends a connection.
func TestResetReachesTheAgent(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config(patient))
	for _, from := range []netip.AddrPort{netip.MustParseAddrPort("10.97.0.2:20009"), netip.MustParseAddrPort("10.98.0.1:20009")} {
		ns := w.pods[0]
		if from.Addr().String() == "10.98.0.1" {
			ns = w.node
		}
		c := w.connect(ns, from)
		if who, err := exchange(c, 1, time.Second); who != agentIs {
			t.Fatalf("answered by %d (%v)", who, err)
		}
		w.must(abandon(c, false))
		for begin := time.Now(); a.servers[0].serves(from); <-time.After(10 * time.Millisecond) {
			if time.Since(begin) > 2*time.Second {
				t.Fatalf("the agent still holds the connection from %v", from)
			}
		}
	}
}

// connect opens a TCP connection to vip4 from an address and port.
func (w *world) connect(ns *netns.NS, from netip.AddrPort) *net.TCPConn {
	w.t.Helper()
	var c net.Conn
	w.must(ns.Do(func() (err error) {
		d := net.Dialer{Timeout: time.Second, LocalAddr: net.TCPAddrFromAddrPort(from)}
		c, err = d.Dial("tcp", netip.AddrPortFrom(vip4, 53).String())
		return err
	}))
	return c.(*net.TCPConn)
}

// abandon ends a connection with a reset, or, silent, forgets it without a packet, as a machine does that is restarted.
func abandon(c *net.TCPConn, silent bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if silent {
		err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) })
	}
	return errors.Join(err, failed, c.SetLinger(0), c.Close())
}
