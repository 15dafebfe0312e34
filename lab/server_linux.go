package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dnslet/dnslet/lab/netns"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Behaviour is how a scripted server treats questions. The zero value answers all of them at once.
type Behaviour struct {
	Delay time.Duration // before every answer
	// UpstreamDelay is how long the server's own upstream takes: before the answers of zones with Upstream set that it has
	// not heard within their TTL.
	UpstreamDelay time.Duration
	Loss          float64        // share of questions that are never answered, 0 to 1
	BlackHole     bool           // no question is answered; the sockets stay open
	RCodes        map[string]int // names, absolute and lower case, that are answered with an rcode instead
	// Ignore, where given, says which questions are never answered. It is called by several goroutines at once.
	Ignore func(dns.Question) bool
}

// ServerCounts are questions a server has read since it was started or Reset.
type ServerCounts struct {
	Pods   uint64 // whose source is a pod: they came through kube-proxy
	Others uint64 // whose source is anything else: the agent of a node
	TCP    uint64 // of both, by TCP
}

// Server is a scripted cluster DNS server on a node of its own. Its methods may be called by anybody at any time.
//
// It sets the reserved bit Z (RFC 1035 section 4.1.1) in everything it says. Resolvers clear it, stubs do not look at it: so a
// client of the lab knows whether an answer came from cluster DNS itself or from something between.
type Server struct {
	Addr netip.Addr
	NS   *netns.NS // of its node

	zones     []Zone
	behaviour atomic.Pointer[Behaviour]

	pods, others, tcp atomic.Uint64

	mu    sync.Mutex
	heard map[dns.Question]time.Time // names of upstream zones: until when they are known
	rng   *rand.Rand
	down  []func() error // ends the listeners; empty: not running
	stop  chan struct{}  // closed with the listeners: answers that are still due are dropped
}

// NewServer starts a server on port 53 of an address of the namespace, by UDP and TCP. The caller closes it.
func NewServer(ns *netns.NS, addr netip.Addr, zones []Zone) (*Server, error) {
	s := &Server{Addr: addr, NS: ns, zones: zones, rng: rand.New(rand.NewPCG(uint64(addr.As4()[3]), 0))}
	s.behaviour.Store(&Behaviour{})
	if err := s.Start(); err != nil {
		return nil, err
	}
	return s, nil
}

// Set changes how questions that come from now on are treated.
func (s *Server) Set(b Behaviour) { s.behaviour.Store(&b) }

// Reset empties what was heard from upstream, and the counts.
func (s *Server) Reset() {
	s.mu.Lock()
	s.heard = nil
	s.mu.Unlock()
	s.pods.Store(0)
	s.others.Store(0)
	s.tcp.Store(0)
}

// Counts returns how many questions were read.
func (s *Server) Counts() ServerCounts {
	return ServerCounts{Pods: s.pods.Load(), Others: s.others.Load(), TCP: s.tcp.Load()}
}

// Start opens the sockets of a server that was closed.
func (s *Server) Start() error {
	at := netip.AddrPortFrom(s.Addr, 53).String()
	var packets net.PacketConn
	var streams net.Listener
	err := s.NS.Do(func() (err error) {
		if packets, err = net.ListenPacket("udp", at); err != nil {
			return err
		}
		if err = deepen(packets.(*net.UDPConn)); err != nil {
			packets.Close()
			return err
		}
		if streams, err = net.Listen("tcp", at); err != nil {
			packets.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", at, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = make(chan struct{})
	for _, srv := range []*dns.Server{
		{PacketConn: packets, Handler: dns.HandlerFunc(s.serve)},
		{Listener: streams, Handler: dns.HandlerFunc(s.serve)},
	} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		ended := make(chan error, 1)
		go func() { ended <- srv.ActivateAndServe() }()
		<-started
		s.down = append(s.down, func() error { return errors.Join(srv.Shutdown(), <-ended) })
	}
	return nil
}

// serverQueue is what the queue of a server's socket may take: here all servers wait for the same few CPUs as the clients, and
// are not to lose for that what servers with CPUs of their own would have read.
const serverQueue = 4 << 20

// deepen makes the queue that deep; as an ordinary user only as deep as the machine allows everybody (net.core.rmem_max).
func deepen(conn *net.UDPConn) error {
	if err := conn.SetReadBuffer(serverQueue); err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, serverQueue) // EPERM: see above
	})
}

// Close ends the server: its port is closed, and what it still owed is not answered. Start brings it back.
func (s *Server) Close() error {
	s.mu.Lock()
	down, stop := s.down, s.stop
	s.down, s.stop = nil, nil
	s.mu.Unlock()
	if len(down) == 0 {
		return nil
	}
	close(stop)
	var errs []error
	for _, end := range down {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

func (s *Server) serve(w dns.ResponseWriter, req *dns.Msg) {
	from, tcp := source(w)
	if PodCIDR.Contains(from) {
		s.pods.Add(1)
	} else {
		s.others.Add(1)
	}
	if tcp {
		s.tcp.Add(1)
	}
	b := s.behaviour.Load()
	if b.BlackHole || (b.Loss > 0 && s.chance() < b.Loss) {
		return
	}
	reply, upstream := s.reply(req, b)
	if b.Ignore != nil && len(req.Question) == 1 && b.Ignore(req.Question[0]) {
		return
	}
	if delay := b.Delay + s.wait(req.Question, upstream, b); delay > 0 && !s.sleep(delay) {
		return
	}
	if !tcp {
		size := dns.MinMsgSize
		if opt := req.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
		reply.Truncate(size)
	}
	_ = w.WriteMsg(reply) // a client that has gone is the client's affair
}

// reply makes the answer, and returns the zone it is from if the server has to ask its upstream for that.
func (s *Server) reply(req *dns.Msg, b *Behaviour) (*dns.Msg, *Zone) {
	reply := new(dns.Msg).SetReply(req)
	reply.RecursionAvailable = true
	reply.Zero = true // see Server
	reply.Compress = true
	if opt := req.IsEdns0(); opt != nil {
		reply.SetEdns0(opt.UDPSize(), opt.Do())
	}
	if len(req.Question) != 1 {
		reply.Rcode = dns.RcodeFormatError
		return reply, nil
	}
	q := req.Question[0]
	if rcode, ok := b.RCodes[strings.ToLower(q.Name)]; ok {
		reply.Rcode = rcode
		return reply, nil
	}
	z := find(s.zones, strings.ToLower(q.Name))
	if z == nil {
		reply.Rcode = dns.RcodeRefused
		return reply, nil
	}
	z.answer(reply, q)
	if !z.Upstream {
		return reply, nil
	}
	return reply, z
}

// wait returns how long the server's own upstream keeps it waiting for this question, and remembers that it has heard then.
func (s *Server) wait(question []dns.Question, z *Zone, b *Behaviour) time.Duration {
	if z == nil || b.UpstreamDelay == 0 {
		return 0
	}
	q, now := question[0], time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if until, ok := s.heard[q]; ok && now.Before(until) {
		// Known, or asked for already: the answer comes when the first one does.
		return max(0, until.Add(-time.Duration(z.TTL)*time.Second).Sub(now))
	}
	if s.heard == nil {
		s.heard = make(map[dns.Question]time.Time)
	}
	s.heard[q] = now.Add(b.UpstreamDelay + time.Duration(z.TTL)*time.Second)
	return b.UpstreamDelay
}

// sleep waits, and reports false if the server was closed meanwhile.
func (s *Server) sleep(d time.Duration) bool {
	s.mu.Lock()
	stop := s.stop
	s.mu.Unlock()
	if stop == nil {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-stop:
		return false
	}
}

func (s *Server) chance() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.Float64()
}

func source(w dns.ResponseWriter) (addr netip.Addr, tcp bool) {
	switch a := w.RemoteAddr().(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap(), false
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap(), true
	}
	return netip.Addr{}, false
}
