package resolver

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// Transport is how a question came.
type Transport uint8

const (
	UDP Transport = iota
	TCP
	Internal // Lookup and prefetch
	NumTransports
)

func (t Transport) String() string {
	return [...]string{"udp", "tcp", "internal"}[t]
}

// Outcome is what became of a question. Every question that is not dropped has
// exactly one, so their sum is the number of replies.
type Outcome uint8

const (
	Hit      Outcome = iota // a fresh entry of the cache
	Stale                   // an expired entry, because upstream did not answer in time
	Miss                    // the answer of an upstream, asked for this question or for one like it
	Static                  // a host of the configuration
	Local                   // the probe, special-use names, ANY, CHAOS
	Rejected                // not a question we take: FORMERR, NOTIMP, REFUSED, BADVERS
	Shed                    // SERVFAIL because a limit was reached
	Failed                  // SERVFAIL because upstream gave nothing usable
	Panicked                // SERVFAIL because of a fault of ours
	Dropped                 // no reply: a response, too short, or too old to be waited for
	NumOutcomes
)

func (o Outcome) String() string {
	return [...]string{"hit", "stale", "miss", "static", "local", "rejected", "shed", "failed", "panicked", "dropped"}[o]
}

// Event counts what is not a question: the troubles of sockets and connections.
type Event uint8

const (
	SendRefused      Event = iota // EPERM: a firewall or policy forbids this reply
	SendNoBuffer                  // ENOBUFS, EAGAIN: the way out is full
	SendFailed                    // any other error of a send
	RecvFailed                    // an error of a receive
	RecvTruncated                 // a datagram longer than the receive buffer
	QueueExpired                  // dropped: waited in the queue while the process was stopped
	ShedFull                      // shed because nothing was free for anybody
	ShedShare                     // shed because its source had its share
	FlightStarted                 // upstream questions begun
	FlightJoined                  // askers that found their question already asked
	Prefetched                    // of FlightStarted, those begun before anybody had to wait
	UpstreamGarbage               // upstream responses that cannot be parsed or do not match
	ConnAccepted                  // TCP connections accepted
	ConnRefusedFull               // closed at once: too many connections
	ConnRefusedShare              // closed at once: too many connections of that source
	ConnClosed                    // ended by the client, between messages
	ConnIdle                      // closed after asking nothing for TCPIdle, or because the server ends
	ConnSlow                      // closed because a message took too long to arrive
	ConnLied                      // closed because a length prefix is below a header or above what we take
	ConnStuck                     // closed because the client did not read its answers
	ConnBroken                    // ended by an error or by FIN within a message
	AcceptFailed                  // errors of accept, out of descriptors included
	NumEvents
)

func (e Event) String() string {
	return [...]string{
		"send_refused", "send_no_buffer", "send_failed", "recv_failed", "recv_truncated", "queue_expired",
		"shed_full", "shed_share", "flight_started", "flight_joined", "prefetched", "upstream_garbage",
		"conn_accepted", "conn_refused_full", "conn_refused_share", "conn_closed", "conn_idle", "conn_slow", "conn_lied",
		"conn_stuck", "conn_broken", "accept_failed",
	}[e]
}

// numRCodes covers what a cache or an upstream can say without surprise; the
// last slot counts everything above.
const numRCodes = 24

// numKinds covers wire.Kind, whose values are small and dense.
const numKinds = 8

// counters is what one reader counts. Only its owner adds (a few uncontended
// atomic adds per packet, single digits of ns each), anybody may load. The pad
// keeps two readers' counters off one cache line.
type counters struct {
	queries  [NumTransports]atomic.Uint64
	batches  atomic.Uint64
	outcomes [NumTransports][NumOutcomes]atomic.Uint64
	kinds    [numKinds]atomic.Uint64
	rcodes   [numRCodes]atomic.Uint64
	verdicts [16]atomic.Uint64
	events   [NumEvents]atomic.Uint64
	_        [64]byte
}

func (c *counters) event(e Event) { c.events[e].Add(1) }

// Stats is a copy of every counter since the start, and of the present load.
// It comes from Server.Stats; counters of different kinds may be a few packets
// apart from each other because nothing stops while they are read.
type Stats struct {
	Queries  [NumTransports]uint64              // questions received
	Batches  uint64                             // recvmmsg calls that returned packets: Queries[UDP]/Batches is the batch size
	Outcomes [NumTransports][NumOutcomes]uint64 // what became of them
	Kinds    [numKinds]uint64                   // by wire.Kind of the entry, for Hit, Stale and Miss
	RCodes   [numRCodes]uint64                  // replies by wire.RCode; the last slot holds all higher ones
	Verdicts [16]uint64                         // requests that were not accepted, by wire.Verdict
	Events   [NumEvents]uint64
	Misses   Latency // from question to reply, of what was answered by upstream, stale, failed

	Waiting, PeakWaiting int // askers that wait for upstream now, and the most ever
	Flights              int // upstream questions under way now
	Conns, PeakConns     int // TCP connections open now, and the most ever
}

// Sum adds the outcomes o over all transports.
func (s *Stats) Sum(o Outcome) (n uint64) {
	for t := range s.Outcomes {
		n += s.Outcomes[t][o]
	}
	return n
}

// Latency is a histogram. Buckets[i] counts durations up to LatencyBound(i),
// not cumulated; the last bucket has no bound.
type Latency struct {
	Buckets [numLatency]uint64
	Sum     time.Duration
}

// Count is the number of durations seen.
func (l *Latency) Count() (n uint64) {
	for _, b := range l.Buckets {
		n += b
	}
	return n
}

// LatencyBound is the upper bound of bucket i: 128 us doubled i times, which
// puts the client's 1.8 s below the last bound, 2.1 s.
func LatencyBound(i int) time.Duration { return 128 * time.Microsecond << i }

// numLatency buckets: 15 with a bound, 128 us to 2.1 s, and one without.
const numLatency = 16

type latency struct {
	buckets [numLatency]atomic.Uint64
	sum     atomic.Int64
}

func (l *latency) add(d time.Duration) {
	d = max(d, 1)
	i := bits.Len64(uint64((d - 1) / (128 * time.Microsecond)))
	l.buckets[min(i, numLatency-1)].Add(1)
	l.sum.Add(int64(d))
}

// statsBook holds every counter set that was ever handed out, so that nothing
// counted is lost when a reader ends.
type statsBook struct {
	mu      sync.Mutex
	sheets  []*counters
	shared  counters // flights, TCP connections: not per packet of a hit, so shared
	misses  latency
	flights atomic.Int64
}

// sheet returns counters for one more owner.
func (b *statsBook) sheet() *counters {
	c := &counters{}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sheets = append(b.sheets, c)
	return c
}

// Stats returns what was counted so far.
func (s *Server) Stats() Stats {
	var out Stats
	b := &s.stats
	b.mu.Lock()
	sheets := append([]*counters{&b.shared}, b.sheets...)
	b.mu.Unlock()
	for _, c := range sheets {
		c.addTo(&out)
	}
	for i := range b.misses.buckets {
		out.Misses.Buckets[i] = b.misses.buckets[i].Load()
	}
	out.Misses.Sum = time.Duration(b.misses.sum.Load())
	out.Waiting, out.PeakWaiting = s.limits.askers.load()
	out.Conns, out.PeakConns = s.limits.conns.load()
	out.Flights = int(b.flights.Load())
	return out
}

func (c *counters) addTo(s *Stats) {
	for t := range c.queries {
		s.Queries[t] += c.queries[t].Load()
		for o := range c.outcomes[t] {
			s.Outcomes[t][o] += c.outcomes[t][o].Load()
		}
	}
	s.Batches += c.batches.Load()
	for i := range c.kinds {
		s.Kinds[i] += c.kinds[i].Load()
	}
	for i := range c.rcodes {
		s.RCodes[i] += c.rcodes[i].Load()
	}
	for i := range c.verdicts {
		s.Verdicts[i] += c.verdicts[i].Load()
	}
	for i := range c.events {
		s.Events[i] += c.events[i].Load()
	}
}
