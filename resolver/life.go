package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Start and stop. A stop loses nothing that has been received: what is queued
// is read and answered, what waits for upstream gets its answer, TCP
// connections end after their last answer, and the UDP readers, on whom new
// questions may still come, are the last to end.

var errNotRunning = errors.New("resolver does not run yet")

// stopWait is how long Run waits for Drain when its context ends first.
const stopWait = 3 * time.Second

// Listen binds UDP and TCP on each of addrs: all of them, or none and an error.
// A port of 0 becomes one that is free for both. The address itself is the
// source of every reply, so it must be one (not 0.0.0.0 or ::); it need not
// exist yet. While the server runs, new addresses are served at once.
func (s *Server) Listen(addrs []netip.AddrPort) error {
	var udp []*udpSocket
	var tcp []*tcpListener
	for _, addr := range addrs {
		u, t, err := s.listen(addr)
		if err != nil {
			closeAll(udp, tcp)
			return fmt.Errorf("cannot listen on %v: %w", addr, err)
		}
		udp, tcp = append(udp, u), append(tcp, t)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state > lifeRunning {
		closeAll(udp, tcp)
		return ErrClosed
	}
	s.udp, s.tcp = append(s.udp, udp...), append(s.tcp, tcp...)
	if s.state == lifeRunning {
		s.start(udp, tcp)
	}
	return nil
}

// portTries is how often another free UDP port is tried because TCP's is taken.
const portTries = 16

func (s *Server) listen(addr netip.AddrPort) (*udpSocket, *tcpListener, error) {
	if !addr.IsValid() || addr.Addr().IsUnspecified() || addr.Addr().Is4In6() {
		return nil, nil, errors.New("not a single address: replies would not come from the address that was asked")
	}
	tries := 1
	if addr.Port() == 0 {
		tries = portTries
	}
	for {
		u, err := s.listenUDP(addr, s.readers)
		if err != nil {
			return nil, nil, err
		}
		t, err := s.listenTCP(u.addr)
		if err == nil {
			return u, t, nil
		}
		u.close()
		if tries--; tries == 0 {
			return nil, nil, err
		}
	}
}

func closeAll(udp []*udpSocket, tcp []*tcpListener) {
	for _, t := range tcp {
		t.close()
	}
	for _, u := range udp {
		u.close()
	}
}

// Addrs returns the addresses that are bound, by UDP and TCP alike.
func (s *Server) Addrs() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	addrs := make([]netip.AddrPort, 0, len(s.udp))
	for _, u := range s.udp {
		addrs = append(addrs, u.addr)
	}
	return addrs
}

// Run serves until Drain has ended it, and returns nil. When ctx ends first, it
// drains for up to 3 s. A Server runs once: after that Run returns ErrClosed.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.state != lifeNew {
		s.mu.Unlock()
		return ErrClosed
	}
	s.state = lifeRunning
	s.pulse.beat(s.clock())
	s.start(s.udp, s.tcp)
	s.mu.Unlock()

	beat, stop := context.WithCancel(context.Background())
	defer stop()
	go s.pulse.run(beat, s.clock)

	select {
	case <-s.drained:
	case <-ctx.Done():
		wait, cancel := context.WithTimeout(context.Background(), stopWait)
		defer cancel()
		s.Drain(wait)
	}
	return nil
}

// start begins to read. The caller holds mu.
func (s *Server) start(udp []*udpSocket, tcp []*tcpListener) {
	for _, u := range udp {
		for _, r := range u.readers {
			s.work.Add(1)
			go func() {
				defer s.work.Done()
				r.run()
			}()
		}
	}
	for _, t := range tcp {
		s.work.Add(1)
		go t.run(s)
	}
}

// Drain ends the server: it answers what is queued and in flight, ends TCP
// connections after their last answer, and closes the sockets. When ctx ends
// first, those who still wait hear SERVFAIL and connections are cut. Drain
// returns when everything is released; called again, it waits for the first
// call.
func (s *Server) Drain(ctx context.Context) {
	s.mu.Lock()
	first, ran := s.state < lifeDraining, s.state == lifeRunning
	if first {
		s.state = lifeDraining
		close(s.draining)
	}
	udp, tcp := s.udp, s.tcp
	conns := make([]*tcpConn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	if !first {
		<-s.drained
		return
	}
	if ran {
		for _, t := range tcp {
			t.end()
		}
		for _, c := range conns {
			c.finish()
		}
		s.quiet(ctx)
		for _, u := range udp {
			u.end()
		}
		s.await(ctx)
	}
	closeAll(udp, tcp)
	s.cancel()
	s.mu.Lock()
	s.state = lifeClosed
	s.mu.Unlock()
	close(s.drained)
}

// quiet waits for a moment in which nobody waits for upstream, or as long as it
// takes to answer those who wait now.
func (s *Server) quiet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, clientWait)
	defer cancel()
	s.limits.askers.waitEmpty(ctx)
}

// await waits until all goroutines have ended, and makes them end when ctx does.
func (s *Server) await(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		s.work.Wait()
		close(done)
	}()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	s.cancel()
	s.mu.Lock()
	for c := range s.conns {
		c.kill(ConnBroken)
	}
	s.mu.Unlock()
	<-done
}
