//go:build !linux

package resolver

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// udpSocket and its readers where there is no recvmmsg: one datagram at a time
// through the net package. It behaves as the Linux one does, but it is not fast.
type udpSocket struct {
	addr    netip.AddrPort
	nc      *net.UDPConn
	readers []*udpReader
	ending  atomic.Bool
	once    sync.Once
}

// rawAddr is where a reply goes.
type rawAddr struct{ addr netip.AddrPort }

type udpReader struct {
	s      *Server
	sock   *udpSocket
	act    activity
	desk   desk
	seen   uint64
	buffer [maxRequest]byte
}

func (s *Server) listenUDP(addr netip.AddrPort, n int) (*udpSocket, error) {
	network := "udp4"
	if addr.Addr().Is6() {
		network = "udp6"
	}
	nc, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	bound := netip.AddrPortFrom(addr.Addr(), nc.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	u := &udpSocket{addr: bound, nc: nc}
	for range n {
		r := &udpReader{s: s, sock: u}
		r.desk.counts = s.stats.sheet()
		u.readers = append(u.readers, r)
	}
	return u, nil
}

// run reads, answers and sends until the socket ends and its queue is empty.
func (r *udpReader) run() {
	// Without batches there is no telling when the queue has been read to its
	// end: what is read within a second after a stall counts as old.
	var old int64
	for {
		r.act.idle()
		n, from, err := r.sock.nc.ReadFromUDPAddrPort(r.buffer[:])
		now := r.s.clock()
		r.act.busy(now)
		switch {
		case err == nil:
			if r.s.pulse.stalled(now, &r.seen) {
				old = now + int64(time.Second)
			}
			r.datagram(r.buffer[:n], from, now, now < old)
		case r.sock.ending.Load(), errors.Is(err, net.ErrClosed):
			r.act.idle()
			return
		default:
			r.desk.counts.event(RecvFailed)
		}
	}
}

func (r *udpReader) datagram(pkt []byte, from netip.AddrPort, now int64, behind bool) {
	c := r.desk.counts
	c.batches.Add(1)
	c.queries[UDP].Add(1)
	to := rawAddr{from}
	defer func() {
		if p := recover(); p != nil {
			r.sock.reply(&to, r.desk.panicked(pkt, UDP, p, r.s), c)
		}
	}()
	reply, ask := r.s.answer(&r.desk, pkt, UDP, now)
	switch {
	case !ask:
	case behind:
		c.event(QueueExpired)
		c.outcomes[UDP][Dropped].Add(1)
	default:
		var a *asker
		if a, reply = r.s.admit(&r.desk, pkt, UDP, from.Addr().WithZone(""), now); a != nil {
			a.sock, a.to = r.sock, to
			r.s.ask(&r.desk, a)
		}
	}
	r.sock.reply(&to, reply, c)
}

// reply sends msg, if there is one. Called by readers and flights.
func (u *udpSocket) reply(to *rawAddr, msg []byte, c *counters) {
	if len(msg) == 0 {
		return
	}
	if _, err := u.nc.WriteToUDPAddrPort(msg, to.addr); err != nil && !errors.Is(err, net.ErrClosed) {
		c.event(SendFailed)
	}
}

// end makes the readers return once the queue is empty.
func (u *udpSocket) end() {
	u.ending.Store(true)
	_ = u.nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
}

func (u *udpSocket) close() { u.once.Do(func() { _ = u.nc.Close() }) }

// prepareSocket has nothing to prepare here.
func prepareSocket(int, bool, uint32) error { return nil }
