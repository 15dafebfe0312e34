package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
)

// What glibc does when resolv.conf says nothing else (resolv.conf(5): timeout, attempts, ndots of the pod).
const (
	stubTimeout  = 5 * time.Second
	stubAttempts = 2
	stubNdots    = 5
)

// Lookup is what became of one lookup of a name, as a program sees it.
type Lookup struct {
	Name  string
	Began time.Time
	Took  time.Duration
	// Addrs are the addresses found; none, and no Err, means that the name does not exist.
	Addrs []netip.Addr
	Err   error

	// Timeouts is how many times the stub's timer of 5 s ran out. A lookup with at least one is stalled.
	Timeouts int
	Queries  int // questions sent, repetitions included
	TCP      int // of these, by TCP
	// Answers by who gave them: cluster DNS itself, or a server between (see Server).
	FromCluster, FromAgent int
}

// Stalled says that the stub waited a whole timeout at least once: 5 s and more.
func (l Lookup) Stalled() bool { return l.Timeouts > 0 }

// Failed says that the program was told to try again later (EAI_AGAIN).
func (l Lookup) Failed() bool { return l.Err != nil }

// Errors of a lookup, as glibc tells them apart.
var (
	errNoAnswer = errors.New("no answer")             // every attempt ran out of time or was refused
	errServer   = errors.New("the server cannot say") // SERVFAIL, REFUSED, NOTIMP
)

// Lookup resolves a name as getaddrinfo of glibc 2.36 does for a program that has just started: the search list of the pod
// (names of fewer than five dots go through it first), for each candidate A and AAAA from one connected UDP socket by one
// sendmmsg, 5 s for each of two attempts on the same socket, after half an answer one question at a time, a truncated answer
// again by TCP. The context ends it early, with an error.
func (p *Pod) Lookup(ctx context.Context, name string) Lookup {
	l := &lookup{pod: p, ctx: ctx, Lookup: Lookup{Name: name, Began: time.Now()}}
	for _, candidate := range candidates(name) {
		found, err := l.query(candidate)
		if found {
			l.Err = nil
			break
		}
		// After an error of the server the search goes on, and ends with "try again" if nothing is found; "anything else
		// implies that we're done" (res_nsearch).
		if err != nil {
			l.Err = err
		}
		if err != nil && !errors.Is(err, errServer) {
			break
		}
	}
	l.Took = time.Since(l.Began)
	return l.Lookup
}

// candidates are the names that are tried for a name, in order (resolv.conf(5), search and ndots).
func candidates(name string) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	absolute := name + "."
	var names []string
	for _, domain := range SearchList {
		names = append(names, name+"."+domain+".")
	}
	if strings.Count(name, ".") >= stubNdots {
		return append([]string{absolute}, names...)
	}
	return append(names, absolute)
}

// lookup is a Lookup under way.
type lookup struct {
	Lookup
	pod *Pod
	ctx context.Context

	// single: one question at a time, from the first half answer on until the lookup ends (RES_SNGLKUP). reopen: and a new
	// socket for each (RES_SNGLKUPREOP).
	single, reopen bool
}

// pair are the two questions for one name, and what is known of their answers.
type pair struct {
	questions [2]*dns.Msg
	wire      [2][]byte
	answers   [2]*dns.Msg
}

func (p *pair) done() bool { return p.answers[0] != nil && p.answers[1] != nil }

func (p *pair) half() bool { return p.answers[0] != nil || p.answers[1] != nil }

func newPair(name string) (*pair, error) {
	p := &pair{}
	for i, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		m := new(dns.Msg).SetQuestion(name, qtype)
		m.Id = uint16(rand.Uint32())
		if i == 1 && m.Id == p.questions[0].Id {
			m.Id++
		}
		wire, err := m.Pack()
		if err != nil {
			return nil, fmt.Errorf("cannot ask for %q: %w", name, err)
		}
		p.questions[i], p.wire[i] = m, wire
	}
	return p, nil
}

// query asks for one name (res_nsend): found reports whether it has addresses.
func (l *lookup) query(name string) (found bool, err error) {
	p, err := newPair(name)
	if err != nil {
		return false, err
	}
	var conn net.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for attempt := 0; attempt < stubAttempts; {
		if conn == nil {
			if conn, err = l.pod.Dial("udp", netip.AddrPortFrom(VIP, 53)); err != nil {
				return false, err
			}
		}
		err = l.exchange(conn, p)
		switch {
		case err == nil:
			return l.take(p), nil
		case errors.Is(err, errTruncated):
			if err = l.stream(p); err == nil {
				return l.take(p), nil
			}
			attempt++
		case l.ctx.Err() != nil:
			return false, l.ctx.Err()
		case errors.Is(err, errServer) && p.half():
			return l.take(p), nil // the other half is given up
		case errors.Is(err, errHalf) && !l.reopen:
			// The other one is not asked for by itself: both are, one after the other.
			if l.single {
				l.reopen = true
				conn.Close()
				conn = nil
			}
			l.single = true
			p.answers = [2]*dns.Msg{}
		default:
			if !errors.Is(err, errTimeout) {
				conn.Close() // refused, or an error of the server: the next attempt has a socket of its own
				conn = nil
			}
			p.answers = [2]*dns.Msg{}
			attempt++
		}
	}
	if errors.Is(err, errServer) {
		return false, err
	}
	return false, fmt.Errorf("%w: %w", errNoAnswer, err)
}

// How an exchange can end.
var (
	errTimeout   = errors.New("timed out")
	errHalf      = errors.New("one of two answers")
	errTruncated = errors.New("truncated")
)

// exchange sends the questions that have no answer yet and waits for the answers (send_dg).
func (l *lookup) exchange(conn net.Conn, p *pair) error {
	if l.single {
		for i := range p.questions {
			if err := l.send(conn, p.wire[i]); err != nil {
				return err
			}
			if err := l.receive(conn, p, i); err != nil {
				return err
			}
		}
		return nil
	}
	if err := l.send(conn, p.wire[0], p.wire[1]); err != nil {
		return err
	}
	return l.receive(conn, p, -1)
}

// send sends datagrams by one system call, as glibc does.
func (l *lookup) send(conn net.Conn, wires ...[]byte) error {
	batch := make([]ipv4.Message, len(wires))
	for i, wire := range wires {
		batch[i].Buffers = [][]byte{wire}
	}
	packets := ipv4.NewPacketConn(conn.(*net.UDPConn))
	for len(batch) > 0 {
		n, err := packets.WriteBatch(batch, 0)
		if err != nil {
			return err
		}
		l.Queries += n
		batch = batch[n:]
	}
	return nil
}

// receive waits for the answer to question only, or for both (only < 0), until the stub's timer runs out.
func (l *lookup) receive(conn net.Conn, p *pair, only int) error {
	ended := context.AfterFunc(l.ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer ended()
	if err := conn.SetReadDeadline(time.Now().Add(stubTimeout)); err != nil {
		return err
	}
	if l.ctx.Err() != nil {
		return l.ctx.Err()
	}
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, err := conn.Read(buf)
		if isTimeout(err) {
			if l.ctx.Err() != nil {
				return l.ctx.Err()
			}
			l.Timeouts++
			if p.half() {
				return errHalf
			}
			return errTimeout
		}
		if err != nil {
			return err
		}
		i, err := l.accept(p, buf[:n])
		if err != nil {
			return err
		}
		if p.done() || (only >= 0 && i == only) {
			return nil
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// accept files an answer, and returns which question it is for; -1 for what is none.
func (l *lookup) accept(p *pair, wire []byte) (int, error) {
	m := new(dns.Msg)
	if m.Unpack(wire) != nil || !m.Response || len(m.Question) != 1 {
		return -1, nil
	}
	for i, q := range p.questions {
		if m.Id != q.Id || m.Question[0] != q.Question[0] || p.answers[i] != nil {
			continue
		}
		if m.Zero {
			l.FromCluster++
		} else {
			l.FromAgent++
		}
		switch {
		case m.Truncated:
			return i, errTruncated
		case m.Rcode == dns.RcodeServerFailure, m.Rcode == dns.RcodeRefused, m.Rcode == dns.RcodeNotImplemented:
			return i, fmt.Errorf("%w: %s", errServer, dns.RcodeToString[m.Rcode])
		}
		p.answers[i] = m
		return i, nil
	}
	return -1, nil
}

// stream asks both questions over one TCP connection (send_vc).
func (l *lookup) stream(p *pair) error {
	p.answers = [2]*dns.Msg{}
	conn, err := l.pod.Dial("tcp", netip.AddrPortFrom(VIP, 53))
	if err != nil {
		return err
	}
	defer conn.Close()
	ended := context.AfterFunc(l.ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer ended()
	if err := conn.SetDeadline(time.Now().Add(stubTimeout)); err != nil {
		return err
	}
	var both []byte
	for _, wire := range p.wire {
		both = binary.BigEndian.AppendUint16(both, uint16(len(wire)))
		both = append(both, wire...)
	}
	if _, err := conn.Write(both); err != nil {
		return err
	}
	l.Queries += 2
	l.TCP += 2
	for !p.done() {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return l.streamError(err)
		}
		wire := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, wire); err != nil {
			return l.streamError(err)
		}
		if _, err := l.accept(p, wire); err != nil {
			return err
		}
	}
	return nil
}

func (l *lookup) streamError(err error) error {
	if !isTimeout(err) {
		return err
	}
	l.Timeouts++
	return errTimeout
}

// take reads the addresses out of a pair of answers.
func (l *lookup) take(p *pair) (found bool) {
	for _, m := range p.answers {
		for _, rr := range m.Answer {
			var addr netip.Addr
			switch rr := rr.(type) {
			case *dns.A:
				addr, _ = netip.AddrFromSlice(rr.A.To4())
			case *dns.AAAA:
				addr, _ = netip.AddrFromSlice(rr.AAAA)
			}
			if addr.IsValid() {
				l.Addrs = append(l.Addrs, addr)
				found = true
			}
		}
	}
	return found
}

// Answer is what became of one question.
type Answer struct {
	Msg       *dns.Msg
	Took      time.Duration
	FromAgent bool // not from cluster DNS itself
}

// Ask sends one question to the cluster DNS address, by "udp" or "tcp", and waits for its answer; never again on its own.
func (p *Pod) Ask(network, name string, qtype uint16, timeout time.Duration) (Answer, error) {
	began := time.Now()
	conn, err := p.Dial(network, netip.AddrPortFrom(VIP, 53))
	if err != nil {
		return Answer{}, err
	}
	c := &dns.Conn{Conn: conn}
	defer c.Close()
	if err := c.SetDeadline(began.Add(timeout)); err != nil {
		return Answer{}, err
	}
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	if err := c.WriteMsg(q); err != nil {
		return Answer{}, err
	}
	for {
		m, err := c.ReadMsg()
		if err != nil {
			return Answer{}, err
		}
		if m.Id == q.Id {
			return Answer{Msg: m, Took: time.Since(began), FromAgent: !m.Zero}, nil
		}
	}
}
