package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// patience is what a lookup waits for its answer. Real stubs wait 5 s; one second tells the same and keeps the run short.
const patience = time.Second

// who answered.
const (
	byDnslet  = "dnslet"
	byCluster = "cluster DNS"
)

// lookup is one question and what became of it.
type lookup struct {
	at    time.Time
	took  time.Duration
	who   string
	wrong bool // an answer came from another address than the VIP
	err   error
}

// client asks from one place by one transport.
type client struct {
	name    string
	network string // udp or tcp
	from    *sockets
	vip     netip.AddrPort
}

// ask asks once, on a socket of its own.
func (c *client) ask(qname string) lookup {
	l := lookup{at: time.Now()}
	query := new(dns.Msg).SetQuestion(qname, dns.TypeA)
	var answer *dns.Msg
	if c.network == "udp" {
		answer, l.wrong, l.err = c.exchangeUDP(query)
	} else {
		answer, l.err = c.exchangeTCP(query)
	}
	l.took = time.Since(l.at)
	if l.err == nil {
		l.who, l.err = answeredBy(answer)
	}
	return l
}

// answeredBy tells by the address who answered whoami; any other name needs only a good answer.
func answeredBy(m *dns.Msg) (string, error) {
	if m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0 {
		return "", fmt.Errorf("answered with %s and %d records", dns.RcodeToString[m.Rcode], len(m.Answer))
	}
	a, ok := m.Answer[0].(*dns.A)
	if !ok {
		return "", errors.New("answered with no address")
	}
	switch a.A.String() {
	case whoamiDnslet:
		return byDnslet, nil
	case whoamiCluster:
		return byCluster, nil
	}
	return "", nil
}

func (c *client) exchangeUDP(query *dns.Msg) (answer *dns.Msg, wrong bool, err error) {
	conn, err := c.from.udp()
	if err != nil {
		return nil, false, err
	}
	defer conn.Close()
	packet, err := query.Pack()
	if err != nil {
		return nil, false, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.WriteToUDPAddrPort(packet, c.vip); err != nil {
		return nil, false, err
	}
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return nil, wrong, err
		}
		if from != c.vip { // a connected socket would never have seen it: the lookup would have been lost
			wrong = true
			continue
		}
		answer = new(dns.Msg)
		if err := answer.Unpack(buf[:n]); err != nil {
			return nil, wrong, err
		}
		if answer.Id == query.Id {
			return answer, wrong, nil
		}
	}
}

// connect makes a TCP connection to the VIP.
func (c *client) connect() (net.Conn, error) {
	fd, err := c.from.tcp()
	if err != nil {
		return nil, err
	}
	sa := &unix.SockaddrInet4{Addr: c.vip.Addr().As4(), Port: int(c.vip.Port())}
	if err := unix.Connect(fd, sa); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot connect: %w", err)
	}
	file := os.NewFile(uintptr(fd), "tcp")
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	file.SetDeadline(time.Now().Add(patience))
	var connectErr error
	if err := raw.Write(func(fd uintptr) bool {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = unix.Errno(errno)
		}
		if err == nil {
			_, err = unix.Getpeername(int(fd))
			if errors.Is(err, unix.ENOTCONN) {
				return false // still in the handshake
			}
		}
		connectErr = err
		return true
	}); err != nil {
		return nil, fmt.Errorf("cannot connect: %w", err)
	}
	if connectErr != nil {
		return nil, fmt.Errorf("cannot connect: %w", connectErr)
	}
	return net.FileConn(file)
}

func (c *client) exchangeTCP(query *dns.Msg) (*dns.Msg, error) {
	conn, err := c.connect()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return exchangeOn(conn, query)
}

func exchangeOn(conn net.Conn, query *dns.Msg) (*dns.Msg, error) {
	packet, err := query.Pack()
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, err
	}
	answer := new(dns.Msg)
	if err := answer.Unpack(buf); err != nil {
		return nil, err
	}
	if answer.Id != query.Id {
		return nil, errors.New("the answer is to another question")
	}
	return answer, nil
}

// load asks whoami by every client, each at its own pace, until it is stopped.
type load struct {
	stop    context.CancelFunc
	wg      sync.WaitGroup
	mu      sync.Mutex
	lookups map[string][]lookup // by client
}

func startLoad(ctx context.Context, every time.Duration, clients []*client) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{stop: cancel, lookups: map[string][]lookup{}}
	for _, c := range clients {
		l.wg.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					// Never one after the other: a lookup that waits must not keep the next from being asked.
					l.wg.Go(func() {
						got := c.ask(whoami)
						l.mu.Lock()
						l.lookups[c.name] = append(l.lookups[c.name], got)
						l.mu.Unlock()
					})
				}
			}
		})
	}
	return l
}

// end stops asking, waits for what is asked, and returns all lookups in the order of their start.
func (l *load) end() map[string][]lookup {
	l.stop()
	l.wg.Wait()
	for _, ls := range l.lookups {
		slices.SortFunc(ls, func(a, b lookup) int { return a.at.Compare(b.at) })
	}
	return l.lookups
}

// streamResult is the life of one TCP connection.
type streamResult struct {
	asked, answered, late int
	lived                 time.Duration
	err                   error // what ended it before its time
}

// stream keeps one connection and asks a question each 50 ms until ctx ends.
func (c *client) stream(ctx context.Context) streamResult {
	begin := time.Now()
	conn, err := c.connect()
	if err != nil {
		return streamResult{err: err}
	}
	defer conn.Close()
	var r streamResult
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.lived = time.Since(begin)
			return r
		case <-tick.C:
		}
		r.asked++
		asked := time.Now()
		query := new(dns.Msg).SetQuestion(whoami, dns.TypeA)
		if _, err := exchangeOn(conn, query); err != nil {
			r.lived, r.err = time.Since(begin), err
			return r
		}
		r.answered++
		if time.Since(asked) > 50*time.Millisecond {
			r.late++
		}
	}
}
