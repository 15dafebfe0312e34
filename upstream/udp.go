package upstream

import (
	"sync"
	"time"

	"github.com/dnslet/dnslet/wire"
)

const (
	// lingerFor is how long a socket stays open after nobody waits for it, so that a late answer meets a socket: without
	// one it would make a conntrack entry, and an ICMP error to the server. CoreDNS gives its own upstream 2 s per try.
	lingerFor = 2200 * time.Millisecond
	// sweepEvery is how often expired sockets are looked for, while there are any.
	sweepEvery = 250 * time.Millisecond
)

// socket is the UDP socket of one attempt: fresh, so that port and ID are both unpredictable (RFC 5452 section 9.2), and
// connected, so that the kernel drops what comes from elsewhere and reports ICMP errors.
type socket struct {
	handle handle

	// Guarded by datagrams.mu.
	open       bool
	until      int64 // when lingering ends
	prev, next *attempt
}

// datagrams is the UDP transport: all UDP sockets of a group, at most max. Waiting ones are closed by their answer or by
// nobody; those that linger are in a queue, oldest first, and make room when the bound is reached.
type datagrams struct {
	max   int
	clock func() int64
	group *Group
	port  port // what differs by operating system

	mu         sync.Mutex
	closed     bool
	opened     int
	lingering  int
	head, tail *attempt // of the lingering queue
	sweeper    *time.Timer
}

// ask sends query, which has a's ID, from a socket of its own. On an error nothing is open and nothing is reported to the group.
func (d *datagrams) ask(a *attempt, query []byte) error {
	if err := d.reserve(a.purpose == forHealth); err != nil {
		return err
	}
	if err := d.port.open(d, a, query); err != nil {
		d.mu.Lock()
		d.opened--
		d.mu.Unlock()
		return err
	}
	return nil
}

// reserve makes room for one more socket, at the cost of those that have lingered longest if need be. A probe always gets
// one: it is what ends the congestion. It goes beyond the bound where all the others are waited for; what then comes back
// within the bound is the next that is not a probe, so that probes do not raise it one by one.
func (d *datagrams) reserve(probe bool) error {
	var room [4]*attempt // as good as always it is one
	oldest := room[:0]
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return ErrClosed
	}
	excess := d.opened + 1 - d.max
	if excess > d.lingering && !probe {
		d.mu.Unlock()
		return ErrOverloaded
	}
	for ; excess > 0 && d.head != nil; excess-- {
		oldest = append(oldest, d.head)
		d.forget(d.head)
	}
	d.opened++
	d.mu.Unlock()
	for _, a := range oldest {
		a.socket.handle.close()
	}
	return nil
}

// forget takes a out of all books; its handle is then to be closed. Called with mu held.
func (d *datagrams) forget(a *attempt) {
	s := &a.socket
	s.open = false
	d.opened--
	d.port.forget(a)
	if s.until != 0 {
		d.unlink(a)
	}
}

// end closes the socket of a and reports whether it was lingering. It may be repeated.
func (d *datagrams) end(a *attempt) (lingered bool) {
	d.mu.Lock()
	open := a.socket.open
	lingered = open && a.socket.until != 0
	if open {
		d.forget(a)
	}
	d.mu.Unlock()
	if open {
		a.socket.handle.close()
	}
	return lingered
}

// linger keeps the socket of a, for which nobody waits any more, open for a while.
func (d *datagrams) linger(a *attempt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &a.socket
	if !s.open || s.until != 0 {
		return
	}
	s.until = d.clock() + int64(lingerFor)
	if s.prev = d.tail; d.tail != nil {
		d.tail.socket.next = a
	} else {
		d.head = a
		d.sweeper.Reset(sweepEvery)
	}
	d.tail = a
	d.lingering++
}

// unlink takes a out of the lingering queue. Called with mu held.
func (d *datagrams) unlink(a *attempt) {
	s := &a.socket
	if s.prev != nil {
		s.prev.socket.next = s.next
	} else {
		d.head = s.next
	}
	if s.next != nil {
		s.next.socket.prev = s.prev
	} else {
		d.tail = s.prev
	}
	s.prev, s.next, s.until = nil, nil, 0
	d.lingering--
}

// sweep closes what has lingered long enough.
func (d *datagrams) sweep() {
	for now := d.clock(); ; {
		d.mu.Lock()
		a := d.head
		if a == nil || a.socket.until > now {
			if a != nil && !d.closed {
				d.sweeper.Reset(sweepEvery)
			}
			d.mu.Unlock()
			return
		}
		d.forget(a)
		d.mu.Unlock()
		a.socket.handle.close()
	}
}

// arrived is called by the port with each datagram that came for a, in a buffer of the port's, or the error that came
// instead. view is the caller's scratch.
func (d *datagrams) arrived(a *attempt, view *wire.Answer, msg []byte, err error) {
	if err != nil {
		d.end(a)
		d.group.failed(a, err)
		return
	}
	if d.group.received(a, view, msg) && d.end(a) && a.purpose == forClient {
		d.group.stats.Late.Add(1)
	}
}

// count returns the number of open sockets, and how many of them linger.
func (d *datagrams) count() (open, lingering int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opened, d.lingering
}

// close closes every socket and ends the port.
func (d *datagrams) close() {
	d.mu.Lock()
	d.closed = true
	d.sweeper.Stop()
	d.mu.Unlock()
	for _, a := range d.port.close(d) {
		d.end(a)
	}
}
