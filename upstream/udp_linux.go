package upstream

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dnslet/dnslet/wire"
)

// A UDP question opens a socket and closes it soon after. Here that is plain system calls, and one epoll instance watches
// all sockets: one that lingers costs no goroutine, and on a busy node one wake-up serves many answers (a whole Exchange
// then costs less CPU than package net's dial, write and read alone: BenchmarkExchangeUDPParallel, BenchmarkDialUDPParallel).
// The epoll instance is itself watched by the runtime's poller, so no thread is bound.

const (
	// receiveBuffer is SO_RCVBUF of a socket that is to receive one answer; the kernel doubles it. Enough for one
	// datagram of 4 KiB with its overhead, and little enough that a server gone mad fills no memory.
	receiveBuffer = 8 << 10
	// pollBatch is how many sockets are served per epoll_wait.
	pollBatch = 64
)

// port is the Linux side of datagrams.
type port struct {
	epoll *os.File
	fd    int
	done  chan struct{} // closed when the reader has ended

	byFD []*attempt // guarded by datagrams.mu
}

// handle is an open socket. The lock keeps a reader from using a number that has been closed and given out again.
type handle struct {
	mu sync.Mutex
	fd int // -1: closed
}

func (h *handle) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd >= 0 {
		_ = unix.Close(h.fd)
		h.fd = -1
	}
}

// start makes the epoll instance and starts its reader.
func (p *port) start(d *datagrams) error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("cannot create epoll instance: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else os.File would not give it to the runtime's poller
		_ = unix.Close(fd)
		return fmt.Errorf("cannot make epoll instance non-blocking: %w", err)
	}
	p.fd, p.epoll, p.done = fd, os.NewFile(uintptr(fd), "epoll"), make(chan struct{})
	raw, err := p.epoll.SyscallConn()
	if err != nil {
		_ = p.epoll.Close()
		return fmt.Errorf("cannot watch epoll instance: %w", err)
	}
	go func() {
		defer close(p.done)
		p.read(d, raw)
	}()
	return nil
}

// read serves sockets until the epoll instance is closed.
func (p *port) read(d *datagrams, raw syscall.RawConn) {
	var (
		events [pollBatch]unix.EpollEvent
		buf    = make([]byte, wire.MaxMsg)
		view   wire.Answer
	)
	_ = raw.Read(func(fd uintptr) (done bool) {
		for {
			n, err := unix.EpollWait(int(fd), events[:], 0)
			if err != nil && err != unix.EINTR {
				return true
			}
			if n <= 0 {
				return false // wait: the runtime watches edges, so everything must have been served before
			}
			for i := range events[:n] {
				p.serve(d, int(events[i].Fd), buf, &view)
			}
		}
	})
}

// serve reads one datagram of socket fd. More of them show up in the next epoll_wait, after everybody else's turn.
func (p *port) serve(d *datagrams, fd int, buf []byte, view *wire.Answer) {
	d.mu.Lock()
	var a *attempt
	if fd < len(p.byFD) {
		a = p.byFD[fd]
	}
	d.mu.Unlock()
	if a == nil {
		return // closed between epoll_wait and here
	}
	h := &a.socket.handle
	h.mu.Lock()
	if h.fd != fd {
		h.mu.Unlock()
		return
	}
	n, err := unix.Read(fd, buf)
	h.mu.Unlock()
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	d.arrived(a, view, buf[:max(n, 0)], err)
}

// open opens a's socket and sends query from it.
func (p *port) open(d *datagrams, a *attempt, query []byte) error {
	ep := a.ep
	fd, err := unix.Socket(ep.dest.family(), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if ep.mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(ep.mark)); err != nil {
			d.group.markRefused(ep, err)
		}
	}
	// Neither of these two can fail on a UDP socket, and without them the socket still serves.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	_ = ep.dest.reportErrors(fd)
	if err := ep.dest.connect(fd); err != nil {
		_ = unix.Close(fd)
		return os.NewSyscallError("connect", err)
	}
	if _, err := unix.Write(fd, query); err != nil {
		_ = unix.Close(fd)
		return os.NewSyscallError("write", err)
	}
	a.socket.handle.fd = fd
	if err := p.watch(d, a, fd); err != nil {
		_ = unix.Close(fd)
		return err
	}
	return nil
}

// watch hands the socket to the reader; an answer that is already there is reported at once.
func (p *port) watch(d *datagrams, a *attempt, fd int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	for len(p.byFD) <= fd {
		p.byFD = append(p.byFD, nil)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	p.byFD[fd] = a
	a.socket.open = true
	return nil
}

// forget makes the reader ignore a. Called with datagrams.mu held, before the socket is closed.
func (p *port) forget(a *attempt) { p.byFD[a.socket.handle.fd] = nil }

// close ends the reader and returns the attempts whose sockets are still open. Called after datagrams.closed was set.
func (p *port) close(d *datagrams) []*attempt {
	_ = p.epoll.Close()
	<-p.done
	d.mu.Lock()
	defer d.mu.Unlock()
	var left []*attempt
	for _, a := range p.byFD {
		if a != nil {
			left = append(left, a)
		}
	}
	return left
}

// destination is an address as connect(2) takes it, made once per endpoint.
type destination struct {
	raw [unix.SizeofSockaddrInet6]byte
	len uintptr
}

func newDestination(a netip.AddrPort) destination {
	var d destination
	ip := a.Addr()
	if ip.Is4() {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&d.raw))
		sa.Family, sa.Addr = unix.AF_INET, ip.As4()
		d.len = unix.SizeofSockaddrInet4
	} else {
		sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&d.raw))
		sa.Family, sa.Addr, sa.Scope_id = unix.AF_INET6, ip.As16(), zoneIndex(ip.Zone())
		d.len = unix.SizeofSockaddrInet6
	}
	binary.BigEndian.PutUint16(d.raw[2:], a.Port()) // the port lies there in both
	return d
}

// zoneIndex returns the interface index that a zone of an address stands for, 0 if there is none.
func zoneIndex(zone string) uint32 {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	return 0
}

func (d *destination) family() int {
	if d.len == unix.SizeofSockaddrInet4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// connect is connect(2) without the conversion that x/sys does into memory shared by all callers of one Sockaddr. It
// never blocks for UDP.
func (d *destination) connect(fd int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&d.raw)), d.len)
	if errno != 0 {
		return errno
	}
	return nil
}

// reportErrors makes the kernel report unreachable hosts and networks too, not only unreachable ports (ip(7)).
func (d *destination) reportErrors(fd int) error {
	if d.family() == unix.AF_INET {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
}

// setMark is what TCP connections are marked with before they connect.
func setMark(raw syscall.RawConn, mark uint32) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	})
	if err != nil {
		return err
	}
	return failed
}
