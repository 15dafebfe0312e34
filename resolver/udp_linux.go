package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batch is how many datagrams one recvmmsg takes at most. With
	// MSG_WAITFORONE it returns what is there, so a lone packet is not delayed.
	batch = 32
	// udpBuffer holds the longest request we read and the reply that grows in its
	// place. Requests are below 300 bytes, replies at most wire.MaxUDP.
	udpBuffer = maxRequest
	// udpStride sets buffers apart by some cache lines more than a page: 32
	// headers at the same offset of a page would share the few ways of one set.
	udpStride = udpBuffer + 192
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// udpSocket is one bound address and its readers.
//
// The descriptor is in blocking mode and not known to Go's netpoller: the first
// reader's thread sleeps inside recvmmsg and the kernel wakes it there, one
// system call per batch. (The netpoller would be woken for every reply sent,
// too: sock_def_write_space signals EPOLLOUT.) The other readers help when a
// batch comes back full, that is when there is more than one can read. Were
// they all asleep in recvmmsg, each packet would wake another one, alone, and a
// reply would cost a third more CPU; docs/performance.md has the figures.
type udpSocket struct {
	addr    netip.AddrPort
	fd      int
	readers []*udpReader
	ending  atomic.Bool
	full    chan struct{} // wakes one helper
	ended   chan struct{} // closed by end

	// sending is held shared by flights while they send and exclusively by close,
	// so that no reply ever goes to a descriptor number that is somebody else's.
	sending sync.RWMutex
	closed  bool
}

// listenUDP binds addr and prepares n readers.
func (s *Server) listenUDP(addr netip.AddrPort, n int) (*udpSocket, error) {
	family := unix.AF_INET
	if addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	u := &udpSocket{fd: fd, full: make(chan struct{}, 1), ended: make(chan struct{})}
	if err := u.bind(addr, s.mark); err != nil {
		unix.Close(fd)
		return nil, err
	}
	for i := range n {
		u.readers = append(u.readers, newUDPReader(s, u, i))
	}
	return u, nil
}

func (u *udpSocket) bind(addr netip.AddrPort, mark uint32) error {
	if err := prepareSocket(u.fd, addr.Addr().Is6(), mark); err != nil {
		return err
	}
	if err := prepareDatagrams(u.fd, addr.Addr().Is6()); err != nil {
		return err
	}
	if err := unix.Bind(u.fd, sockaddr(addr)); err != nil {
		return os.NewSyscallError("bind", err)
	}
	got, err := unix.Getsockname(u.fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	switch sa := got.(type) {
	case *unix.SockaddrInet4:
		u.addr = netip.AddrPortFrom(addr.Addr(), uint16(sa.Port))
	case *unix.SockaddrInet6:
		u.addr = netip.AddrPortFrom(addr.Addr(), uint16(sa.Port))
	default:
		return fmt.Errorf("socket has an address of type %T", got)
	}
	return nil
}

// udpReader is one thread and all it needs for a batch, allocated once.
//
// Slot i of the receive side is recv[i], whose iovec points at buffer i and
// whose name is addrs[i]. A reply is built in buffer i and sent from there to
// addrs[i], which is handed back to the kernel as it came.
type udpReader struct {
	s    *Server
	sock *udpSocket
	id   int
	act  activity
	desk desk
	// After a stall of the process the queue is old. Only the first reader sees to
	// that.
	seen   uint64 // stalls known of
	old    bool   // the batch in hand was queued during one
	behind bool   // so is what lies behind it

	recv    [batch]mmsghdr
	recvVec [batch]unix.Iovec
	send    [batch]mmsghdr
	sendVec [batch]unix.Iovec
	addrs   [batch]rawAddr
	pool    []byte // batch buffers of udpStride each
}

// rawAddr is a sockaddr as the kernel wrote it.
type rawAddr struct {
	raw unix.RawSockaddrInet6
	len uint32
}

func newUDPReader(s *Server, u *udpSocket, id int) *udpReader {
	r := &udpReader{s: s, sock: u, id: id, pool: make([]byte, batch*udpStride)}
	r.desk.counts = s.stats.sheet()
	for i := range batch {
		r.recvVec[i].Base = &r.buffer(i)[0]
		r.recvVec[i].SetLen(udpBuffer)
		h := &r.recv[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&r.addrs[i].raw))
		h.Namelen = unix.SizeofSockaddrInet6
		h.Iov = &r.recvVec[i]
		h.SetIovlen(1)
		r.send[i].hdr.Iov = &r.sendVec[i]
		r.send[i].hdr.SetIovlen(1)
	}
	return r
}

// buffer returns buffer i with its full capacity.
func (r *udpReader) buffer(i int) []byte {
	return r.pool[i*udpStride : i*udpStride+udpBuffer : i*udpStride+udpBuffer]
}

// run reads, answers and sends until the socket ends.
func (r *udpReader) run() {
	if r.id > 0 {
		r.help()
		return
	}
	// Never unlocked: the thread ends with the reader. It sleeps in the kernel
	// and is woken there, without the scheduler.
	runtime.LockOSThread()
	for {
		flags := uintptr(unix.MSG_WAITFORONE)
		if r.old = r.behind; r.old {
			flags = unix.MSG_DONTWAIT // to see the end of the queue
		}
		r.act.idle()
		n, errno := r.receive(flags)
		now := r.s.clock()
		r.act.busy(now)
		if r.sock.ending.Load() {
			if errno == 0 {
				r.batch(n, now)
			}
			r.drain()
			r.act.idle()
			return
		}
		if errno != 0 {
			r.failed(errno)
			continue
		}
		if r.s.pulse.stalled(now, &r.seen) {
			r.old = true
		}
		if r.old {
			r.lookBehind()
		} else if n == batch {
			r.sock.callHelp()
		}
		r.batch(n, now)
	}
}

// callHelp wakes a helper, if there is one and it has not been called already.
func (u *udpSocket) callHelp() {
	if len(u.readers) > 1 && len(u.full) == 0 {
		select {
		case u.full <- struct{}{}:
		default:
		}
	}
}

// help reads whenever it is called, until the queue is empty.
func (r *udpReader) help() {
	for {
		select {
		case <-r.sock.full:
		case <-r.sock.ended:
			return
		}
		for n := batch; n == batch; {
			var errno unix.Errno
			n, errno = r.receive(unix.MSG_DONTWAIT)
			if errno != 0 {
				break
			}
			now := r.s.clock()
			r.act.busy(now)
			r.batch(n, now)
		}
		r.act.idle()
	}
}

// lookBehind finds out, with an old batch in hand, whether more lies behind it.
// That is before any reply is sent, so what is not there now is new. (The size of
// a batch does not tell: it may have been received before the stop.) Nobody
// helps meanwhile, or a new packet could be taken for an old one.
func (r *udpReader) lookBehind() {
	n, err := unix.IoctlGetInt(r.sock.fd, unix.SIOCINQ)
	r.behind = err == nil && n > 0
}

// receive fills the slots. The call may block, so the scheduler is told.
func (r *udpReader) receive(flags uintptr) (int, unix.Errno) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(r.sock.fd), uintptr(unsafe.Pointer(&r.recv[0])), batch, flags, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// failed notes an error of recvmmsg. The errors that an unconnected UDP socket
// can report (ENOMEM; ENETDOWN or EHOSTUNREACH left by a send) concern a
// moment, not the socket.
func (r *udpReader) failed(errno unix.Errno) {
	if errno == unix.EAGAIN {
		r.behind = false
		return
	}
	r.desk.counts.event(RecvFailed)
	if errno == unix.ENOMEM || errno == unix.ENOBUFS {
		runtime.Gosched() // let something be freed before the next try
	}
}

// drain answers what is still queued on a socket that has been told to end.
// Datagrams of length 0 are what recvmmsg returns after shutdown.
func (r *udpReader) drain() {
	for {
		n, errno := r.receive(unix.MSG_DONTWAIT)
		if errno != 0 || n == 0 {
			return
		}
		any := false
		for i := range n {
			any = any || r.recv[i].n > 0
		}
		r.batch(n, r.s.clock())
		if !any {
			return
		}
	}
}

// batch answers the n datagrams received and sends the replies.
func (r *udpReader) batch(n int, now int64) {
	c := r.desk.counts
	c.batches.Add(1)
	c.queries[UDP].Add(uint64(n))
	replies := 0
	for i := 0; i < n; {
		i, replies = r.fill(i, n, replies, now)
	}
	r.flush(replies)
}

// fill answers datagrams i to n-1 in place and queues the replies behind those
// queued already. It returns early, to be called again, after a panic, which
// costs that one packet its answer from the cache.
func (r *udpReader) fill(i, n, replies int, now int64) (next, queued int) {
	next, queued = i, replies
	defer func() {
		if p := recover(); p != nil {
			if reply := r.desk.panicked(r.buffer(next)[:r.recv[next].n], UDP, p, r.s); reply != nil {
				r.queue(queued, next, reply)
				queued++
			}
			r.reset(next)
			next++
		}
	}()
	for ; next < n; next++ {
		h := &r.recv[next]
		reply := r.one(next, h, now)
		if reply != nil {
			r.queue(queued, next, reply)
			queued++
		}
		r.reset(next)
	}
	return next, queued
}

// one answers datagram i, or returns nil when there is nothing to send now.
func (r *udpReader) one(i int, h *mmsghdr, now int64) []byte {
	pkt := r.buffer(i)[:h.n]
	if h.hdr.Flags&unix.MSG_TRUNC != 0 {
		r.desk.counts.event(RecvTruncated)
		return r.desk.oversized(pkt, UDP)
	}
	reply, need := r.s.answer(&r.desk, pkt, UDP, now)
	if !need {
		return reply
	}
	if r.old {
		r.desk.counts.event(QueueExpired)
		r.desk.counts.outcomes[UDP][Dropped].Add(1)
		return nil
	}
	a, no := r.s.admit(&r.desk, pkt, UDP, r.addrs[i].addr(), now)
	if a == nil {
		return no
	}
	a.sock, a.to = r.sock, r.addrs[i]
	a.to.len = h.hdr.Namelen
	r.s.ask(&r.desk, a)
	return nil
}

// queue makes reply, which lies in buffer i, the reply number k of this batch.
func (r *udpReader) queue(k, i int, reply []byte) {
	r.sendVec[k].Base = &reply[0]
	r.sendVec[k].SetLen(len(reply))
	r.send[k].hdr.Name = r.recv[i].hdr.Name
	r.send[k].hdr.Namelen = r.recv[i].hdr.Namelen
}

// reset makes slot i ready for the next recvmmsg.
func (r *udpReader) reset(i int) {
	r.recv[i].hdr.Namelen = unix.SizeofSockaddrInet6
}

// flush sends the first n queued replies. sendmmsg stops at the first packet
// it cannot send and reports the error only if that is the first of the call:
// so each call begins where the last one stopped, and an error costs exactly
// the packet it belongs to.
func (r *udpReader) flush(n int) {
	for k := 0; k < n; {
		sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(r.sock.fd),
			uintptr(unsafe.Pointer(&r.send[k])), uintptr(n-k), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			k += int(sent)
		case unix.EINTR:
		default:
			r.desk.counts.event(sendEvent(errno))
			k++
		}
	}
}

// sendEvent sorts the errors of a send. None of them says anything about the
// packets beside it: a firewall's EPERM is about one destination.
func sendEvent(err error) Event {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return SendRefused
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
		return SendNoBuffer
	}
	return SendFailed
}

// reply sends msg to a client that had to wait. Called by flights, from any
// goroutine.
func (u *udpSocket) reply(to *rawAddr, msg []byte, c *counters) {
	u.sending.RLock()
	defer u.sending.RUnlock()
	if u.closed {
		return
	}
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(u.fd), uintptr(unsafe.Pointer(&msg[0])), uintptr(len(msg)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(unsafe.Pointer(&to.raw)), uintptr(to.len))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			c.event(sendEvent(errno))
		}
		return
	}
}

// end makes the readers answer what is queued and return. shutdown reports
// ENOTCONN on an unconnected socket and wakes its readers nevertheless
// (inet_shutdown: "hack to wake up other listeners").
func (u *udpSocket) end() {
	u.ending.Store(true)
	close(u.ended)
	_ = unix.Shutdown(u.fd, unix.SHUT_RD)
}

// close releases the descriptor once nobody sends any more.
func (u *udpSocket) close() {
	u.sending.Lock()
	defer u.sending.Unlock()
	if !u.closed {
		u.closed = true
		unix.Close(u.fd)
	}
}

// addr returns the source address, which is all that limits need.
func (a *rawAddr) addr() netip.Addr {
	if a.raw.Family == unix.AF_INET {
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&a.raw)).Addr)
	}
	return netip.AddrFrom16(a.raw.Addr)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	return sa
}
