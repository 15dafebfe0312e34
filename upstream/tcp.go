package upstream

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/dnslet/dnslet/wire"
)

const (
	// tcpConns is how many connections an endpoint gets before questions share one. CoreDNS answers a connection strictly in
	// turn, so a question behind another waits for that one's answer: sharing is for when there is no choice.
	tcpConns = 8
	// tcpConnsPipelined is the same for an endpoint that was seen to answer out of order: there sharing costs nothing.
	tcpConnsPipelined = 2
	// tcpShare is the most questions that wait on one connection.
	tcpShare = 64
	// tcpQuiet is how long a connection may be silent: idle, it is closed before CoreDNS does it (8 s); with a question
	// unanswered for so long it is broken, and its exchange has ended.
	tcpQuiet = 4 * time.Second
	// tcpDial bounds the handshake: two SYNs (the second comes after 1 s), all within the budget.
	tcpDial = 1500 * time.Millisecond
)

var (
	errLength = errors.New("length of a TCP message is below that of a header")
	errQuiet  = errors.New("connection fell silent")
)

// tcpPool is the TCP transport to one endpoint: persistent connections, used one question at a time while that is possible.
type tcpPool struct {
	ep    *endpoint
	group *Group

	mu         sync.Mutex
	conns      []*tcpConn
	outOfOrder bool
	closed     bool
	wg         sync.WaitGroup
}

// tcpConn is one connection, from before its handshake to its end.
type tcpConn struct {
	pool *tcpPool
	out  chan []byte // framed questions; capacity tcpShare, so that who holds a place in waiting never blocks
	stop context.CancelFunc
	done <-chan struct{}

	// Guarded by pool.mu.
	conn    net.Conn // nil until connected
	waiting []*attempt
	served  bool // has answered before: if it ends now, it may have been stale
	ended   bool
}

// ask sends query for a; a's ID is drawn anew, as it must be unique on its connection. On an error nothing was sent.
func (p *tcpPool) ask(a *attempt, query []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.askLocked(a, query, false)
}

func (p *tcpPool) askLocked(a *attempt, query []byte, fresh bool) error {
	if p.closed {
		return ErrClosed
	}
	c := p.choose(fresh)
	if c == nil {
		return ErrOverloaded
	}
	msg := make([]byte, 2+len(query))
	binary.BigEndian.PutUint16(msg, uint16(len(query)))
	copy(msg[2:], query)
	for {
		if _, err := rand.Read(msg[2:4]); err != nil {
			return err
		}
		if a.id = wire.MsgID(msg[2:]); c.find(a.id) < 0 {
			break
		}
	}
	select {
	case c.out <- msg:
	default:
		return ErrOverloaded // only a server that answers what it has not been asked gets here
	}
	if len(c.waiting) == 0 && c.conn != nil {
		_ = c.conn.SetReadDeadline(time.Now().Add(tcpQuiet))
	}
	a.byTCP, a.query = true, msg[2:]
	c.waiting = append(c.waiting, a)
	return nil
}

// choose returns the connection for the next question: an idle one, a new one while that is allowed, or the least loaded.
// A fresh one is asked for after a stale one. Called with mu held.
func (p *tcpPool) choose(fresh bool) *tcpConn {
	var least *tcpConn
	for _, c := range p.conns {
		if least == nil || len(c.waiting) < len(least.waiting) {
			least = c
		}
	}
	allowed := tcpConns
	if p.outOfOrder {
		allowed = tcpConnsPipelined
	}
	switch {
	case fresh || least == nil, len(least.waiting) > 0 && len(p.conns) < allowed:
		return p.connect()
	case len(least.waiting) >= tcpShare:
		return nil
	}
	return least
}

// connect starts a new connection. Called with mu held.
func (p *tcpPool) connect() *tcpConn {
	ctx, cancel := context.WithCancel(context.Background())
	c := &tcpConn{pool: p, out: make(chan []byte, tcpShare), stop: cancel, done: ctx.Done()}
	p.conns = append(p.conns, c)
	p.wg.Go(func() { c.run(ctx) })
	return c
}

// run dials, writes what is asked and ends with the connection.
func (c *tcpConn) run(ctx context.Context) {
	defer c.stop()
	p := c.pool
	p.group.stats.TCPDials.Add(1)
	dialer := net.Dialer{Timeout: tcpDial, KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		if p.ep.mark != 0 {
			if err := setMark(raw, p.ep.mark); err != nil {
				p.group.markRefused(p.ep, err)
			}
		}
		return nil
	}}
	conn, err := dialer.DialContext(ctx, "tcp", p.ep.Addr.String())
	if err != nil {
		c.end(err)
		return
	}
	defer conn.Close()
	p.mu.Lock()
	c.conn = conn
	_ = conn.SetReadDeadline(time.Now().Add(tcpQuiet))
	p.mu.Unlock()
	p.wg.Go(func() { c.read(conn) })
	for {
		select {
		case msg := <-c.out:
			_ = conn.SetWriteDeadline(time.Now().Add(tcpQuiet))
			if _, err := conn.Write(msg); err != nil {
				c.end(err)
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// read takes answers until the connection ends or says something that makes no sense.
func (c *tcpConn) read(conn net.Conn) {
	var (
		r    = bufio.NewReader(conn)
		view wire.Answer
		size [2]byte
		msg  []byte
	)
	for {
		_, err := io.ReadFull(r, size[:])
		n := int(binary.BigEndian.Uint16(size[:]))
		if err == nil && n < wire.HeaderLen {
			err = errLength // whatever follows is not a message boundary
		}
		if err == nil {
			if cap(msg) < n {
				msg = make([]byte, n)
			}
			_, err = io.ReadFull(r, msg[:n])
		}
		if err != nil {
			c.end(err)
			return
		}
		c.answer(&view, msg[:n])
	}
}

// answer finds the question that msg answers. The lock is held throughout: whoever gets the answer and asks again at once
// is to find the connection idle.
func (c *tcpConn) answer(view *wire.Answer, msg []byte) {
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	i := c.find(wire.MsgID(msg))
	if i < 0 {
		p.group.stats.Mismatched.Add(1)
		return
	}
	if !p.group.received(c.waiting[i], view, msg) {
		return
	}
	p.outOfOrder = p.outOfOrder || i > 0
	c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
	c.served = true
	_ = c.conn.SetReadDeadline(time.Now().Add(tcpQuiet))
}

// find returns the place of the question with id, or -1. Called with pool.mu held.
func (c *tcpConn) find(id uint16) int {
	for i, a := range c.waiting {
		if a.id == id {
			return i
		}
	}
	return -1
}

// end takes the connection out of use. Questions on a connection that had served before go to a fresh one, once: the
// server may have closed it while they were under way. Those on a new connection have failed.
func (c *tcpConn) end(err error) {
	c.stop()
	p := c.pool
	p.mu.Lock()
	if c.ended {
		p.mu.Unlock()
		return
	}
	c.ended = true
	conn := c.conn
	for i, o := range p.conns {
		if o == c {
			p.conns = append(p.conns[:i], p.conns[i+1:]...)
			break
		}
	}
	failed := c.waiting
	c.waiting = nil
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		err = errQuiet
	}
	if c.served && !p.closed && err != errQuiet && err != errLength {
		failed = p.redial(failed)
	}
	p.mu.Unlock()
	if conn != nil {
		_ = conn.Close() // ends the reader
	}
	for _, a := range failed {
		p.group.failed(a, err)
	}
}

// redial asks the questions of a stale connection again and returns those that cannot be. Called with mu held.
func (p *tcpPool) redial(stale []*attempt) (failed []*attempt) {
	for i, a := range stale {
		if a.redialed || p.askLocked(a, a.query, i == 0) != nil {
			failed = append(failed, a)
			continue
		}
		a.redialed = true
		p.group.stats.TCPStale.Add(1)
	}
	return failed
}

// count returns the number of connections.
func (p *tcpPool) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// close ends every connection, without waiting for its goroutines.
func (p *tcpPool) close() {
	p.mu.Lock()
	p.closed = true
	conns := append([]*tcpConn(nil), p.conns...)
	p.mu.Unlock()
	for _, c := range conns {
		c.end(ErrClosed)
	}
}
