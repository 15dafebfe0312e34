package intercept_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dnslet/dnslet/lab/netns"
)

// A TCP connection with steady traffic ends where it began: with the agent, though it lapses and withdraws; with cluster DNS,
// though the agent comes.
//
// Red when: stream looks at @alive, or does not look at @flows.
func TestConnectionStaysWhereItBegan(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config())
	type conn struct {
		net.Conn
		of   string
		with byte
	}
	var conns []conn
	open := func(with byte) {
		t.Helper()
		for name, ns := range map[string]*netns.NS{"pod": w.pods[0], "node": w.node} {
			for _, vip := range []netip.Addr{vip4, vip6} {
				c, err := dial(ns, "tcp", vip, netip.Addr{}, 0)
				w.must(err)
				t.Cleanup(func() { c.Close() })
				conns = append(conns, conn{c, fmt.Sprintf("%s to %s", name, vip), with})
			}
		}
	}
	talk := func(when string) {
		t.Helper()
		for range 20 {
			for _, c := range conns {
				if who, err := exchange(c.Conn, 1, time.Second); who != c.with {
					t.Fatalf("%s, connection of %s: answered by %d, %v; want %d", when, c.of, who, err, c.with)
				}
			}
		}
	}
	for _, vip := range []netip.Addr{vip4, vip6} {
		w.until(w.pods[0], "tcp", vip, agentIs, back)
	}
	open(agentIs)
	talk("in service")
	stuck := errors.New("stuck")
	a.beat.Store(&stuck)
	w.until(w.pods[0], "tcp", vip4, cluster, withdrawn)
	w.until(w.node, "tcp", vip6, cluster, withdrawn)
	open(cluster)
	talk("after a lapse")
	a.beat.Store(nil)
	w.until(w.pods[0], "tcp", vip4, agentIs, back)
	w.until(w.node, "tcp", vip6, agentIs, back)
	talk("back again")
	w.must(a.i.Withdraw())
	w.expect(w.pods[0], "tcp", vip4, cluster)
	w.expect(w.node, "tcp", vip6, cluster)
	talk("withdrawn")
	for _, c := range conns { // orderly ends, by both sides: no reset
		w.must(c.Conn.(*net.TCPConn).CloseWrite())
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || err.Error() != "EOF" {
			t.Errorf("connection of %s ended with %v", c.of, err)
		}
	}
}

// client asks by UDP and TCP in turn, from a socket that hears everybody, until it is told to stop.
type client struct {
	ns     *netns.NS
	vip    netip.Addr
	rounds atomic.Int64
	lost   []string
	by     [3]int
}

func (c *client) run(stop <-chan struct{}) {
	for n := uint16(1); ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		who, err := c.udp(n, 2*time.Second)
		c.note("udp", who, err)
		who, err = askTCP(c.ns, c.vip)
		c.note("tcp", who, err)
		c.rounds.Add(1)
	}
}

func (c *client) note(network string, who byte, err error) {
	c.by[who]++
	if who == nobody {
		c.lost = append(c.lost, fmt.Sprintf("%s: %v", network, err))
	}
}

// udp asks from a socket that is not connected, so that an answer from a wrong address is seen and not dropped.
func (c *client) udp(id uint16, within time.Duration) (byte, error) {
	var s *net.UDPConn
	err := c.ns.Do(func() (err error) { s, err = net.ListenUDP("udp", nil); return err })
	if err != nil {
		return nobody, err
	}
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(within))
	if _, err := s.WriteToUDPAddrPort(query(id), netip.AddrPortFrom(c.vip, 53)); err != nil {
		return nobody, err
	}
	var buf [512]byte
	n, from, err := s.ReadFromUDPAddrPort(buf[:])
	switch {
	case err != nil:
		return nobody, err
	case from.Addr().Unmap() != c.vip || from.Port() != 53:
		return nobody, fmt.Errorf("answer from %s", from)
	}
	return buf[n-1], nil
}

func askTCP(ns *netns.NS, vip netip.Addr) (byte, error) {
	c, err := dial(ns, "tcp", vip, netip.Addr{}, 0)
	if err != nil {
		return nobody, err
	}
	defer c.Close()
	return exchange(c, 9, 2*time.Second)
}

// The orderly stop under load: no question is lost, no answer comes from another address than the VIP.
//
// Red when: Withdraw removes the tables at once, or Close does before clients were answered.
func TestWithdrawUnderLoad(t *testing.T) {
	w := newWorld(t)
	before := w.dump()
	a := w.agent(config(patient))
	var clients []*client
	for _, vip := range vips {
		for _, ns := range []*netns.NS{w.pods[0], w.pods[1], w.node} {
			clients = append(clients, &client{ns: ns, vip: vip})
		}
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	for _, c := range clients {
		running.Go(func() { c.run(stop) })
	}
	// A client that has begun and ended a round since has nothing on its way from before.
	rounds := func(n int64) {
		begin := make([]int64, len(clients))
		for i, c := range clients {
			begin[i] = c.rounds.Load()
		}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i, c := range clients {
			for c.rounds.Load() < begin[i]+n {
				<-tick.C
			}
		}
	}
	rounds(20)
	w.must(a.i.Withdraw())
	rounds(20)
	w.must(a.stop())
	rounds(20)
	close(stop)
	running.Wait()
	var by [3]int
	for _, c := range clients {
		for who, n := range c.by {
			by[who] += n
		}
		for _, l := range c.lost {
			t.Errorf("lost, %s: %s", c.vip, l)
		}
	}
	t.Logf("%d by the agent, %d by cluster DNS, %d lost", by[agentIs], by[cluster], by[nobody])
	if by[agentIs] == 0 || by[cluster] == 0 {
		t.Errorf("answered by %v", by)
	}
	w.same(before)
}

// Withdraw is final for answers that are still on their way to the prober, until Install.
//
// Red when: Withdraw does not clear chain probed and Run goes on asking.
func TestWithdrawAndInstallAgain(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config(patient))
	open, err := dial(w.pods[0], "tcp", vip4, netip.Addr{}, 0)
	w.must(err)
	defer open.Close()
	for range 3 {
		w.must(a.i.Withdraw())
		for _, vip := range vips {
			w.expect(w.pods[0], "udp", vip, cluster)
			w.expect(w.node, "tcp", vip, cluster)
		}
		if s := a.status(t); !s.Withdrawn || s.Reason == "" {
			t.Errorf("status after Withdraw: %+v", s)
		}
		w.must(a.i.Install())
		w.until(w.pods[0], "udp", vip4, agentIs, back)
		if who, err := exchange(open, 1, time.Second); who != agentIs {
			t.Errorf("open connection: answered by %d, %v", who, err)
		}
	}
}

// Closing twice, closing what was never installed, and installing what is closed are errors or nothing, never harm.
//
// Red when: Close does not remove the route.
func TestCloseTwice(t *testing.T) {
	w := newWorld(t)
	before := w.dump()
	a := w.agent(config(patient))
	w.must(a.stop())
	w.must(a.i.Close())
	w.same(before)
	if err := a.i.Install(); err == nil {
		t.Error("installed after Close")
	}
	w.same(before)
}
