package resolver

import (
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
	"time"

	"github.com/dnslet/dnslet/wire"
)

// TCP per RFC 7766: many questions on one connection, answered as the answers
// come. A connection has one goroutine, which reads and writes hits; answers
// that had to wait come from flights, are queued, and are written by a second
// goroutine that lives as long as the queue. So a miss never holds up a hit, and
// a client that does not read holds up nobody else's flight.

const (
	// tcpQueues is what all connections together may have queued beyond the
	// kernel's buffers, and none may have more than is still free for all the
	// others (as with quota). That is room for a client that reads and whose
	// questions are answered in one moment, many at a time. Who has taken nothing
	// for tcpSlack is held to tcpQueue.
	tcpQueues = 8 << 20
	tcpQueue  = 64 << 10
	tcpSlack  = time.Second
	// tcpBatch is the buffer in which replies to pipelined questions are collected
	// for one write. Longer replies get a buffer of their own.
	tcpBatch = 16 << 10
	// crowded is the share of TCPConns, in percent, above which idle connections
	// are ended early (RFC 7766 section 6.2.3 lets a server under pressure), and
	// crowdedIdle how early.
	crowded     = 75
	crowdedIdle = 2 * time.Second
	// lastCall is how long a connection that has been asked to end is still read:
	// for what was sent before that, and is on its way. One that has asked nothing
	// yet is read for firstCall: it has been opened for a question, and the client
	// may have to wait for a CPU to send it.
	lastCall  = 20 * time.Millisecond
	firstCall = 500 * time.Millisecond
	// farewell is how long what the client still sends is read and discarded after
	// our FIN. Closing at once would answer it by RST, which takes back answers
	// that the client has not read yet.
	farewell = 200 * time.Millisecond
)

// patience is how long a connection may keep us waiting in the middle of
// something. Tests are less patient.
type patience struct {
	// message is for one message, from its first to its last byte. A stub sends
	// it in one segment; a slow-loris sends a byte now and then.
	message time.Duration
	// write is for a client that leaves its receive window closed.
	write time.Duration
}

func defaultPatience() patience {
	return patience{message: 5 * time.Second, write: 5 * time.Second}
}

// tcpListener accepts connections on one address.
type tcpListener struct {
	addr netip.AddrPort
	ln   *net.TCPListener
	act  activity
}

func (s *Server) listenTCP(addr netip.AddrPort) (*tcpListener, error) {
	var lc net.ListenConfig
	lc.KeepAlive = -1         // idle connections end by TCPIdle
	lc.SetMultipathTCP(false) // the interception matches plain TCP sockets by mark
	lc.Control = func(_, _ string, rc syscall.RawConn) error {
		var err error
		if cerr := rc.Control(func(fd uintptr) { err = prepareSocket(int(fd), addr.Addr().Is6(), s.mark) }); cerr != nil {
			return cerr
		}
		return err
	}
	network := "tcp4"
	if addr.Addr().Is6() {
		network = "tcp6"
	}
	ln, err := lc.Listen(context.Background(), network, addr.String())
	if err != nil {
		return nil, err
	}
	return &tcpListener{addr: addr, ln: ln.(*net.TCPListener)}, nil
}

// Waits of an acceptor that cannot accept: out of descriptors or memory. The
// connections wait in the kernel's queue meanwhile.
const (
	acceptBackoff    = 5 * time.Millisecond
	acceptBackoffMax = 100 * time.Millisecond
)

// run accepts until the listener is told to end and has been emptied.
func (l *tcpListener) run(s *Server) {
	defer s.work.Done()
	backoff := acceptBackoff
	for {
		l.act.idle()
		nc, err := l.ln.AcceptTCP()
		l.act.busy(s.clock())
		switch {
		case err == nil:
			backoff = acceptBackoff
			s.welcome(nc)
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			l.act.idle()
			return
		default:
			s.stats.shared.event(AcceptFailed)
			l.act.idle()
			t := time.NewTimer(backoff)
			select {
			case <-t.C:
			case <-s.draining:
				t.Stop()
			}
			backoff = min(2*backoff, acceptBackoffMax)
		}
	}
}

// end lets run take what is in the accept queue and return. The time is for
// handshakes that are under way.
func (l *tcpListener) end() { _ = l.ln.SetDeadline(time.Now().Add(50 * time.Millisecond)) }

func (l *tcpListener) close() { _ = l.ln.Close() }

// tcpConn is one connection.
type tcpConn struct {
	s   *Server
	nc  *net.TCPConn
	src netip.Addr

	writing sync.Mutex // held during a write to nc

	mu      sync.Mutex // guards what follows
	settled sync.Cond  // pending or sender went down, or dead up
	pending int        // askers that wait for a flight
	queue   []byte     // answers of flights, with length prefixes
	sender  bool       // a goroutine is writing queue
	since   int64      // since when it writes what it has now
	asked   bool       // a question has come
	dead    bool       // nothing more is read or written
	why     Event      // what killed it, if dead
	ending  bool       // asked to end as soon as all is answered

	in [2 + maxRequest]byte
}

// welcome starts a connection, or refuses it.
func (s *Server) welcome(nc *net.TCPConn) {
	src := nc.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
	if r := s.limits.takeConn(src); r != admitted {
		if r == refusedFull {
			s.stats.shared.event(ConnRefusedFull)
		} else {
			s.stats.shared.event(ConnRefusedShare)
		}
		_ = nc.SetLinger(0) // RST: no TIME_WAIT for what never was
		_ = nc.Close()
		return
	}
	s.stats.shared.event(ConnAccepted)
	c := &tcpConn{s: s, nc: nc, src: src}
	c.settled.L = &c.mu
	s.mu.Lock()
	s.conns[c] = struct{}{}
	c.ending = s.state != lifeRunning
	s.mu.Unlock()
	s.work.Add(1)
	go c.run()
}

// run reads questions until the connection ends, then sees to it that every
// question has its answer.
func (c *tcpConn) run() {
	defer c.s.work.Done()
	why := c.read()
	c.mu.Lock()
	for !c.dead && (c.pending > 0 || c.sender) {
		c.settled.Wait()
	}
	polite := !c.dead
	if c.dead {
		why = c.why
	}
	c.dead = true
	c.mu.Unlock()
	c.s.stats.shared.event(why)
	if polite {
		c.leave()
	}
	_ = c.nc.Close()
	c.s.limits.conns.give(c.src)
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
}

// read answers questions until there are no more and says why.
func (c *tcpConn) read() Event {
	var n int              // bytes of an incomplete message in c.in
	var complete time.Time // by when it must be complete
	asked := false
	for {
		if n == 0 {
			complete = time.Time{}
		} else if complete.IsZero() {
			complete = time.Now().Add(c.s.patience.message)
		}
		ending, dead := c.arm(asked, complete)
		if dead {
			return ConnBroken
		}
		m, err := c.nc.Read(c.in[n:])
		n += m
		if m > 0 {
			used, ok := c.serve(c.in[:n])
			if !ok {
				return ConnLied
			}
			if used > 0 {
				n = copy(c.in[:], c.in[used:n])
				asked, complete = true, time.Time{}
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if n > 0 && !time.Now().Before(complete) {
				return ConnSlow
			}
			if ending || (n == 0 && !c.busy()) {
				return ConnIdle
			}
		case errors.Is(err, io.EOF) && n == 0:
			return ConnClosed
		default:
			if !errors.Is(err, io.EOF) {
				c.kill(ConnBroken)
			}
			return ConnBroken
		}
	}
}

// arm sets the deadline of the next read and says whether the connection has
// been asked to end, in which case only what has already arrived is read, or is
// dead, in which case nothing is.
func (c *tcpConn) arm(asked bool, complete time.Time) (ending, dead bool) {
	idle := c.s.idleTime()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return c.ending, true
	}
	c.asked = asked
	if c.ending {
		idle = c.call()
	}
	d := time.Now().Add(idle)
	if !complete.IsZero() && (complete.Before(d) || !c.ending) {
		d = complete
	}
	_ = c.nc.SetReadDeadline(d)
	return c.ending, false
}

// idleTime is for how long a connection may ask nothing, now.
func (s *Server) idleTime() time.Duration {
	l := s.limits.get()
	if used, _ := s.limits.conns.load(); used*100 > l.TCPConns*crowded {
		return min(l.TCPIdle, crowdedIdle)
	}
	return l.TCPIdle
}

// keepalive is what the edns-tcp-keepalive option says: for how long a client
// may keep a connection idle, in 100 ms (RFC 7828 section 3.1).
func (s *Server) keepalive() uint16 {
	return uint16(s.limits.get().TCPIdle / (100 * time.Millisecond))
}

// busy reports whether answers are still owed.
func (c *tcpConn) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pending > 0 || c.sender
}

// finish asks the connection to end as soon as it owes nothing.
func (c *tcpConn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending = true
	if !c.dead {
		_ = c.nc.SetReadDeadline(time.Now().Add(c.call()))
	}
}

// call is for how long a connection that is ending is still read. The caller
// holds mu.
func (c *tcpConn) call() time.Duration {
	if c.asked {
		return lastCall
	}
	return firstCall
}

// kill ends the connection at once, for the reason given; answers that are owed
// are discarded.
func (c *tcpConn) kill(why Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.die(why)
}

func (c *tcpConn) die(why Event) {
	if c.dead {
		return
	}
	c.dead, c.why = true, why
	c.s.tcpQueued.Add(-int64(len(c.queue)))
	c.queue = nil
	c.settled.Broadcast()
	_ = c.nc.SetDeadline(time.Unix(1, 0)) // whoever reads or writes returns
}

// leave says goodbye: FIN, then discard what the client has sent meanwhile.
func (c *tcpConn) leave() {
	if c.nc.CloseWrite() != nil {
		return
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(farewell))
	for range 16 { // 64 KiB; who sends more is not a stub
		if _, err := c.nc.Read(c.in[:]); err != nil {
			return
		}
	}
}

// tcpDesk is what a connection works with while it has something to answer.
type tcpDesk struct {
	desk desk
	out  [tcpBatch]byte
}

var tcpDesks = sync.Pool{New: func() any { return new(tcpDesk) }}

// serve answers every whole message in in and returns how many bytes those are;
// false means that what follows cannot be a message.
func (c *tcpConn) serve(in []byte) (used int, ok bool) {
	w := tcpDesks.Get().(*tcpDesk)
	defer tcpDesks.Put(w)
	w.desk.counts = &c.s.stats.shared
	w.desk.keepalive = c.s.keepalive()
	now := c.s.clock()
	out := w.out[:0]
	for len(in)-used >= 2 {
		size := int(binary.BigEndian.Uint16(in[used:]))
		if size < wire.HeaderLen || size > maxRequest {
			c.write(out)
			return used, false
		}
		if len(in)-used-2 < size {
			break
		}
		msg := in[used+2 : used+2+size]
		used += 2 + size
		if cap(out)-len(out) < 2+size+wire.MaxUDP {
			c.write(out)
			out = out[:0]
		}
		at := len(out) + 2
		pkt := out[at : at+size : cap(out)]
		copy(pkt, msg)
		reply := c.answer(&w.desk, pkt, now)
		switch {
		case len(reply) == 0:
		case &reply[0] == &pkt[0]:
			out = out[:at+len(reply)]
			binary.BigEndian.PutUint16(out[at-2:], uint16(len(reply)))
		default:
			c.write(out)
			out = out[:0]
			c.write(framed(nil, reply))
		}
	}
	c.write(out)
	return used, true
}

// answer answers the request in pkt, or makes it wait for a flight.
func (c *tcpConn) answer(d *desk, pkt []byte, now int64) (reply []byte) {
	d.counts.queries[TCP].Add(1)
	defer func() {
		if p := recover(); p != nil {
			reply = d.panicked(pkt, TCP, p, c.s)
		}
	}()
	reply, ask := c.s.answer(d, pkt, TCP, now)
	if !ask {
		return reply
	}
	a, no := c.s.admit(d, pkt, TCP, c.src, now)
	if a == nil {
		return no
	}
	c.mu.Lock()
	c.pending++
	c.mu.Unlock()
	a.conn = c
	c.s.ask(d, a)
	return nil
}

func framed(dst, msg []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(msg)))
	return append(dst, msg...)
}

// write sends b, which it does not keep. A client that does not take it in time
// is given up.
func (c *tcpConn) write(b []byte) {
	if len(b) == 0 {
		return
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	dead := c.dead
	if !dead {
		_ = c.nc.SetWriteDeadline(time.Now().Add(c.s.patience.write))
	}
	c.mu.Unlock()
	if dead {
		return
	}
	if _, err := c.nc.Write(b); err != nil {
		why := ConnBroken
		if errors.Is(err, os.ErrDeadlineExceeded) {
			why = ConnStuck
		}
		c.kill(why)
	}
}

// reply queues an answer for a client that waited. Called by flights.
func (c *tcpConn) reply(msg []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return
	}
	need, now := 2+len(msg), c.s.clock()
	room := tcpQueues - c.s.tcpQueued.Load()
	if now-c.since > int64(tcpSlack) {
		room = min(room, tcpQueue)
	}
	if c.sender && int64(len(c.queue)+need) > room {
		c.die(ConnStuck)
		return
	}
	c.s.tcpQueued.Add(int64(need))
	c.queue = framed(c.queue, msg)
	if !c.sender {
		c.sender, c.since = true, now
		c.s.work.Add(1)
		go c.send()
	}
}

// send writes the queue until it is empty.
func (c *tcpConn) send() {
	defer c.s.work.Done()
	for {
		c.mu.Lock()
		out := c.queue
		c.queue, c.since = nil, c.s.clock()
		if len(out) == 0 {
			c.sender = false
			c.settled.Broadcast()
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		c.write(out)
		c.s.tcpQueued.Add(-int64(len(out)))
	}
}

// answered notes that one asker less waits.
func (c *tcpConn) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending--; c.pending == 0 {
		c.settled.Broadcast()
	}
	if c.pending < 0 {
		panic(fmt.Sprintf("connection of %v owes %d answers", c.src, c.pending))
	}
}
