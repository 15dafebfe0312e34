package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// prober asks each listener by UDP and by TCP. It works on one thread with sockets that never block: a listener that accepts
// no more must not keep it from asking the others. What it hears decides nothing by itself, the kernel has seen the answer
// when it left; it is told by Status, and by patience.
type prober struct {
	mark     uint32
	question []byte
	life     time.Duration // of a probe, and of an answer: the heartbeat
	targets  []*target
	probes   []*probe
	lapsed   func(*target)
	buf      [512]byte
}

// target is one listener and transport.
type target struct {
	from      netip.Addr
	to        netip.AddrPort
	transport Transport
	patience  patience
	answered  time.Time // last
	alive     bool
	trouble   error // the last thing that went wrong
}

// probe is one question on its way, on a socket of its own: a kept TCP connection would not notice an acceptor that died.
type probe struct {
	target *target
	fd     int
	sent   time.Time
	id     uint16
	asked  bool // the question is written; before that the connection is being made
}

func newProber(cfg *Config, families []*family, lapsed func(*target)) (*prober, error) {
	q, err := question(cfg.ProbeName)
	if err != nil {
		return nil, err
	}
	p := &prober{mark: cfg.Marks.Listener, question: q, life: cfg.Heartbeat, lapsed: lapsed}
	for _, f := range families {
		for _, l := range f.listeners {
			for _, t := range []Transport{UDP, TCP} {
				p.targets = append(p.targets, &target{from: f.prober, to: netip.AddrPortFrom(l.Addr, dnsPort), transport: t})
			}
		}
	}
	return p, nil
}

// stance is what the prober does in a round.
type stance uint8

const (
	rest  stance = iota // we have withdrawn ourselves
	stuck               // the agent makes no progress: a lapse like any other
	ask
)

// tick ends what is too old, notes lapses, and asks every target that patience lets it ask.
func (p *prober) tick(now time.Time, do stance) {
	for i := len(p.probes) - 1; i >= 0; i-- {
		if now.Sub(p.probes[i].sent) > p.life || do != ask {
			p.end(i)
		}
	}
	for _, t := range p.targets {
		switch {
		case do == rest:
			t.alive = false
		case t.alive && now.Sub(t.answered) > p.life:
			t.alive = false
			t.patience.lapsed(now)
			p.lapsed(t)
		}
		if do == ask && t.patience.asks(now) {
			if err := p.send(t, now); err != nil {
				t.trouble = err
			}
		}
	}
}

// send sends one probe, or begins to.
func (p *prober) send(t *target, now time.Time) error {
	kind, proto := unix.SOCK_DGRAM, unix.IPPROTO_UDP
	if t.transport == TCP {
		kind, proto = unix.SOCK_STREAM, unix.IPPROTO_TCP
	}
	fam := unix.AF_INET
	if t.from.Is6() {
		fam = unix.AF_INET6
	}
	fd, err := unix.Socket(fam, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return fmt.Errorf("cannot open a socket: %w", err)
	}
	if err := p.connect(fd, t); err != nil {
		unix.Close(fd)
		return err
	}
	pr := &probe{target: t, fd: fd, sent: now, id: uint16(rand.Uint32())}
	p.probes = append(p.probes, pr)
	if t.transport == UDP {
		return pr.write(p.question)
	}
	return nil
}

func (p *prober) connect(fd int, t *target) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(p.mark)); err != nil {
		return fmt.Errorf("cannot mark a socket: %w", err)
	}
	if t.transport == TCP {
		// Closing resets: ten connections per second would leave as many sockets in TIME_WAIT for a minute each.
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return fmt.Errorf("cannot set linger: %w", err)
		}
	}
	if t.from.Is6() {
		// No interface holds our addresses, and IPv6 asks for one.
		if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
			return fmt.Errorf("cannot set freebind: %w", err)
		}
	}
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(t.from, 0))); err != nil {
		return fmt.Errorf("cannot bind %s: %w", t.from, err)
	}
	if err := unix.Connect(fd, sockaddr(t.to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("cannot connect to %s: %w", t.to, err)
	}
	return nil
}

// ready does what a socket is ready for; true when the probe has ended, answered or not.
func (pr *probe) ready(p *prober, now time.Time) (bool, error) {
	if !pr.asked {
		errno, err := unix.GetsockoptInt(pr.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = unix.Errno(errno)
		}
		if err != nil {
			return true, fmt.Errorf("cannot connect to %s: %w", pr.target.to, err)
		}
		return false, pr.write(p.question)
	}
	n, err := unix.Read(pr.fd, p.buf[:])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return false, nil
	case err != nil:
		return true, fmt.Errorf("cannot read from %s: %w", pr.target.to, err)
	case n == 0:
		return true, fmt.Errorf("%s ended the connection", pr.target.to)
	}
	msg := p.buf[:n]
	if pr.target.transport == TCP {
		msg = msg[min(2, n):] // the answer to one small question comes in one segment
	}
	if !answers(msg, pr.id) {
		return true, fmt.Errorf("%s sent something else than an answer", pr.target.to)
	}
	t := pr.target
	t.answered, t.alive, t.trouble = now, true, nil
	return true, nil
}

func (pr *probe) write(question []byte) error {
	msg := make([]byte, 0, 2+len(question))
	if pr.target.transport == TCP {
		msg = binary.BigEndian.AppendUint16(msg, uint16(len(question)))
	}
	msg = append(msg, question...)
	binary.BigEndian.PutUint16(msg[len(msg)-len(question):], pr.id)
	pr.asked = true
	if _, err := unix.Write(pr.fd, msg); err != nil {
		return fmt.Errorf("cannot write to %s: %w", pr.target.to, err)
	}
	return nil
}

// wait sleeps until a probe or one of the other descriptors is ready, at most for timeout, handles the probes and tells
// which of the others are ready.
func (p *prober) wait(timeout time.Duration, others ...int) ([]bool, error) {
	fds := make([]unix.PollFd, 0, len(others)+len(p.probes))
	for _, fd := range others {
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	for _, pr := range p.probes {
		events := int16(unix.POLLIN)
		if !pr.asked {
			events = unix.POLLOUT
		}
		fds = append(fds, unix.PollFd{Fd: int32(pr.fd), Events: events})
	}
	ready := make([]bool, len(others))
	ms := max(0, (timeout+time.Millisecond-1)/time.Millisecond)
	if _, err := unix.Poll(fds, int(ms)); err != nil {
		if errors.Is(err, unix.EINTR) {
			return ready, nil
		}
		return nil, fmt.Errorf("cannot poll: %w", err)
	}
	for i := range others {
		ready[i] = fds[i].Revents != 0
	}
	now := time.Now()
	for i := len(p.probes) - 1; i >= 0; i-- { // downwards: end takes the last one's place
		if fds[len(others)+i].Revents == 0 {
			continue
		}
		over, err := p.probes[i].ready(p, now)
		if err != nil {
			p.probes[i].target.trouble = err
		}
		if over || err != nil {
			p.end(i)
		}
	}
	return ready, nil
}

// end closes a probe and forgets it.
func (p *prober) end(i int) {
	unix.Close(p.probes[i].fd)
	last := len(p.probes) - 1
	p.probes[i] = p.probes[last]
	p.probes = p.probes[:last]
}

func (p *prober) close() {
	for len(p.probes) > 0 {
		p.end(len(p.probes) - 1)
	}
}

// trouble is the last thing that went wrong with a target that does not answer.
func (p *prober) trouble() string {
	for _, t := range p.targets {
		if !t.alive && t.trouble != nil {
			return t.trouble.Error()
		}
	}
	return ""
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}
