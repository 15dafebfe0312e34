// Package resolver is the hot path: it owns the sockets that pods ask, answers
// from the cache in place, and turns what is not cached into one upstream
// question for any number of askers.
//
// Read answer.go first: the life of a cache hit, from the bytes of a request to
// the bytes of its reply, is in that one file. flight.go is what happens when
// nothing is cached, udp_linux.go and tcp.go are how packets come and go,
// limits.go says who may have how much, progress.go how the rest of the agent
// knows that the path is alive.
//
// It does not choose or watch upstream endpoints (package upstream), does not
// store or age answers (package cache), knows no packet format (package wire),
// makes no rules that lead packets here (package intercept), and neither logs
// nor exports metrics per query: it counts, and Stats is read by others.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dnslet/dnslet/cache"
)

// ProbeName is answered on the reader that received it, by UDP and TCP alike,
// and is never cached, forwarded or limited: whoever gets an answer to it knows
// that the very path of a pod's query works. The answer is one A record,
// 127.0.0.53, with a TTL of 0; other types get NODATA.
const ProbeName = "probe.dnslet.invalid."

// ErrClosed is returned by what needs an open Server once it has been drained.
var ErrClosed = errors.New("resolver is closed")

// Config is what New needs. Every field is read; DefaultLimits and
// DefaultReaders give the values that fit a node agent.
type Config struct {
	Cache   *cache.Cache
	Zones   *Zones
	Limits  Limits
	Readers int    // per UDP address, at least 1; all but the first only help under load
	Mark    uint32 // SO_MARK of the listening sockets, 0 for none
	Logger  *slog.Logger
}

// DefaultReaders is the number of reader threads per UDP address: one, and a
// second that helps when the first reads full batches; never more than the
// machine has CPUs, because an agent must leave those to the pods.
func DefaultReaders() int { return min(2, runtime.NumCPU()) }

// Server answers DNS questions on a set of addresses.
//
// The order of its life is New, Listen, Run; Drain ends it. SetZones,
// SetLimits, Lookup, Progress and Stats may be called at any time from any
// goroutine.
type Server struct {
	cache   *cache.Cache
	clock   func() int64 // the cache's: ns, monotonic
	log     *slog.Logger
	mark    uint32
	readers int

	zones  atomic.Pointer[Zones]
	limits *admission
	table  flightTable
	stats  statsBook

	mu    sync.Mutex // guards what follows
	udp   []*udpSocket
	tcp   []*tcpListener
	conns map[*tcpConn]struct{}
	state lifeState

	draining chan struct{} // closed when Drain begins
	drained  chan struct{} // closed when it has released everything

	pulse     pulse
	patience  patience
	tcpQueued atomic.Int64 // bytes of answers that TCP clients have not taken yet

	// work counts readers, acceptors, connections, flights and lookups. What
	// starts another is counted itself, so it only reaches 0 for good.
	work   sync.WaitGroup
	base   context.Context // of every flight; ends when Drain gives up waiting
	cancel context.CancelFunc
}

type lifeState uint8

const (
	lifeNew lifeState = iota
	lifeRunning
	lifeDraining
	lifeClosed
)

// New returns a Server that has no socket yet.
func New(c Config) (*Server, error) {
	switch {
	case c.Cache == nil:
		return nil, errors.New("cannot make resolver: no cache")
	case c.Zones == nil:
		return nil, errors.New("cannot make resolver: no zones")
	case c.Readers < 1:
		return nil, fmt.Errorf("cannot make resolver: %d readers", c.Readers)
	case c.Logger == nil:
		return nil, errors.New("cannot make resolver: no logger")
	}
	if err := c.Limits.Validate(); err != nil {
		return nil, fmt.Errorf("cannot make resolver: %w", err)
	}
	s := &Server{
		cache:    c.Cache,
		clock:    c.Cache.Now,
		patience: defaultPatience(),
		log:      c.Logger,
		mark:     c.Mark,
		readers:  c.Readers,
		limits:   newAdmission(c.Limits),
		conns:    make(map[*tcpConn]struct{}),
		draining: make(chan struct{}),
		drained:  make(chan struct{}),
	}
	s.table.init()
	s.pulse.limit = pulseGap
	s.zones.Store(c.Zones)
	s.base, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// SetZones puts another snapshot in force for every question from now on.
// Answers that were cached under an upstream which is no longer the one for
// their name are flushed; those of unchanged zones stay.
func (s *Server) SetZones(z *Zones) {
	old := s.zones.Swap(z)
	s.cache.Flush(func(name []byte) bool { return old.match(name).differs(z.match(name)) })
}

// SetLimits changes the limits for what is admitted from now on; nothing that
// is under way is ended by it.
func (s *Server) SetLimits(l Limits) error {
	if err := l.Validate(); err != nil {
		return fmt.Errorf("cannot set limits: %w", err)
	}
	s.limits.set(l)
	return nil
}

// clientWait is how long a client may wait for anything at all: c-ares asks
// again after 2 s, musl after 2.5 s, glibc after 5 s, and an answer that comes
// after the second question is answered twice or not at all.
const clientWait = 1800 * time.Millisecond
