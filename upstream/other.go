//go:build !linux

package upstream

import (
	"errors"
	"net"
	"net/netip"
	"syscall"

	"github.com/dnslet/dnslet/wire"
)

// For development on other systems: package net, and a goroutine per socket.

// maxInFlight stays below the 256 descriptors that macOS grants by default.
func maxInFlight() int { return 64 }

// port is the side of datagrams that differs by operating system.
type port struct {
	attempts map[*attempt]struct{} // guarded by datagrams.mu
}

// handle is an open socket.
type handle struct{ conn net.Conn }

func (h *handle) close() { _ = h.conn.Close() }

type destination struct{ addr netip.AddrPort }

func newDestination(a netip.AddrPort) destination { return destination{a} }

func (p *port) start(*datagrams) error {
	p.attempts = make(map[*attempt]struct{})
	return nil
}

func (p *port) open(d *datagrams, a *attempt, query []byte) error {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(a.ep.dest.addr))
	if err != nil {
		return err
	}
	if a.ep.mark != 0 {
		d.group.markRefused(a.ep, errors.ErrUnsupported)
	}
	a.socket.handle.conn = conn
	if _, err := conn.Write(query); err != nil {
		_ = conn.Close()
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		_ = conn.Close()
		return ErrClosed
	}
	a.socket.open = true
	p.attempts[a] = struct{}{}
	go p.read(d, a, conn)
	return nil
}

// read hands over what comes until the socket is closed, by itself or by somebody else.
func (p *port) read(d *datagrams, a *attempt, conn net.Conn) {
	var view wire.Answer
	buf := make([]byte, wire.MaxMsg)
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		d.arrived(a, &view, buf[:n], err)
		if err != nil {
			return
		}
	}
}

func (p *port) forget(a *attempt) { delete(p.attempts, a) }

// close returns the attempts whose sockets are still open; their readers end as those are closed.
func (p *port) close(d *datagrams) []*attempt {
	d.mu.Lock()
	defer d.mu.Unlock()
	var left []*attempt
	for a := range p.attempts {
		left = append(left, a)
	}
	return left
}

// setMark fails: other systems have no SO_MARK.
func setMark(syscall.RawConn, uint32) error { return errors.ErrUnsupported }
