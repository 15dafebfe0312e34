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

	// By UDP it is one socket for all questions: when the process has no descriptors left its readers still answer, and
	// UDP must not be withdrawn because the prober cannot open one.
	fd int // -1: none yet
	id uint16
}

// probe is one question on its way by TCP, on a connection of its own: a kept one would not notice an acceptor that died.
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
				p.targets = append(p.targets, &target{from: f.prober, to: netip.AddrPortFrom(l.Addr, dnsPort), transport: t, fd: -1, id: uint16(rand.Uint32())})
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

// send asks one question, or begins to.
func (p *prober) send(t *target, now time.Time) error {
	if t.transport == TCP {
		fd, err := p.open(t)
		if err == nil {
			t.id++
			p.probes = append(p.probes, &probe{target: t, fd: fd, sent: now, id: t.id})
		}
		return err
	}
	if t.fd < 0 {
		fd, err := p.open(t)
		if err != nil {
			return err
		}
		t.fd = fd
	}
	t.id++
	return p.write(t, t.fd, t.id)
}

// open makes a socket towards the target.
func (p *prober) open(t *target) (int, error) {
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
		return -1, fmt.Errorf("cannot open a socket: %w", err)
	}
	if err := p.connect(fd, t); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
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
		pr.asked = true
		return false, p.write(pr.target, pr.fd, pr.id)
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
	// The answer to one small question comes in one segment.
	if !answers(p.buf[min(2, n):n], pr.id) {
		return true, fmt.Errorf("%s sent something else than an answer", pr.target.to)
	}
	pr.target.heard(now)
	return true, nil
}

func (t *target) heard(now time.Time) { t.answered, t.alive, t.trouble = now, true, nil }

// read takes all answers by UDP. One that is late, but not older than a heartbeat, is an answer.
func (p *prober) read(t *target, now time.Time) error {
	for {
		n, err := unix.Read(t.fd, p.buf[:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("cannot read from %s: %w", t.to, err)
		}
		for age := range uint16(probesPerHeartbeat + 1) {
			if answers(p.buf[:n], t.id-age) {
				t.heard(now)
			}
		}
	}
}

func (p *prober) write(t *target, fd int, id uint16) error {
	msg := make([]byte, 0, 2+len(p.question))
	if t.transport == TCP {
		msg = binary.BigEndian.AppendUint16(msg, uint16(len(p.question)))
	}
	msg = append(msg, p.question...)
	binary.BigEndian.PutUint16(msg[len(msg)-len(p.question):], id)
	if _, err := unix.Write(fd, msg); err != nil {
		return fmt.Errorf("cannot write to %s: %w", t.to, err)
	}
	return nil
}

// wait sleeps until a probe or wake is ready, at most for timeout, and handles the probes.
func (p *prober) wait(timeout time.Duration, wake int) error {
	fds := p.pollSet(wake)
	if _, err := unix.Poll(fds, milliseconds(timeout)); err != nil {
		if errors.Is(err, unix.EINTR) {
			return nil
		}
		return fmt.Errorf("cannot poll: %w", err)
	}
	now := time.Now()
	fds = fds[1:]
	for i, t := range p.targets {
		if fds[i].Revents != 0 {
			if err := p.read(t, now); err != nil {
				t.trouble = err
			}
		}
	}
	fds = fds[len(p.targets):]
	for i := len(p.probes) - 1; i >= 0; i-- { // downwards: end takes the last one's place
		if fds[i].Revents == 0 {
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
	return nil
}

// pollSet is wake, then one for each target (poll passes over -1), then one for each probe.
func (p *prober) pollSet(wake int) []unix.PollFd {
	fds := make([]unix.PollFd, 0, 1+len(p.targets)+len(p.probes))
	fds = append(fds, unix.PollFd{Fd: int32(wake), Events: unix.POLLIN})
	for _, t := range p.targets {
		fds = append(fds, unix.PollFd{Fd: int32(t.fd), Events: unix.POLLIN})
	}
	for _, pr := range p.probes {
		events := int16(unix.POLLIN)
		if !pr.asked {
			events = unix.POLLOUT
		}
		fds = append(fds, unix.PollFd{Fd: int32(pr.fd), Events: events})
	}
	return fds
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
	for _, t := range p.targets {
		if t.fd >= 0 {
			unix.Close(t.fd)
			t.fd = -1
		}
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
