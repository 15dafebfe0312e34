package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Limits bound what clients can make the server hold. DefaultLimits gives the
// values of a node agent; every field must be set.
type Limits struct {
	InFlight     int           // askers waiting for an upstream answer, all sources together
	PerSource    int           // of those, the most that one source address may have
	TCPConns     int           // open TCP connections, all sources together
	TCPPerSource int           // of those, the most from one source address
	TCPIdle      time.Duration // a TCP connection that asks nothing for this long is closed
}

// MaxTCPIdle is the longest TCPIdle allowed. The interception keeps a
// connection where it began for 2 minutes after its last packet; one that
// outlived that would meet kube-proxy in its middle and be reset.
const MaxTCPIdle = 110 * time.Second

// DefaultLimits returns limits for a node of some hundred pods: 4096 waiting
// askers are a burst of every pod asking ten names at once, a source's 512 let
// a crawler ask 2,500 new names per second at 200 ms each.
func DefaultLimits() Limits {
	return Limits{InFlight: 4096, PerSource: 512, TCPConns: 1024, TCPPerSource: 128, TCPIdle: 30 * time.Second}
}

// Validate says what is wrong with l.
func (l Limits) Validate() error {
	switch {
	case l.InFlight < 1 || l.PerSource < 1 || l.TCPConns < 1 || l.TCPPerSource < 1:
		return errors.New("every limit must be at least 1")
	case l.PerSource > l.InFlight:
		return fmt.Errorf("one source's %d askers exceed the %d of all", l.PerSource, l.InFlight)
	case l.TCPPerSource > l.TCPConns:
		return fmt.Errorf("one source's %d TCP connections exceed the %d of all", l.TCPPerSource, l.TCPConns)
	case l.TCPIdle <= 0 || l.TCPIdle > MaxTCPIdle:
		return fmt.Errorf("TCP idle timeout %v is not within (0, %v]", l.TCPIdle, MaxTCPIdle)
	}
	return nil
}

// Bytes is the most memory that the server holds for clients under l, the cache
// apart: what waits, what is asked, what is connected, and what is written. It is
// live memory; the collector lets the heap grow beyond it as GOGC and GOMEMLIMIT
// say. The sockets' queues in the kernel (4 MiB for each UDP address) come on
// top. TestSoakBlackHole holds the server to it.
func (l Limits) Bytes() int64 {
	asker := int64(unsafe.Sizeof(asker{})) + maxRequest // a request beyond inlineRequest is kept apart
	flight := int64(unsafe.Sizeof(bench{})) + flightBytes
	conn := int64(unsafe.Sizeof(tcpConn{})+unsafe.Sizeof(tcpDesk{})) + connBytes
	return int64(l.InFlight)*(asker+flight) + int64(l.TCPConns)*conn + tcpQueues
}

const (
	// flightBytes is what a flight takes besides its bench: the stacks of its
	// goroutine and of upstream's, contexts, timers, sockets, the table's entry.
	flightBytes = 24 << 10
	// connBytes is what a connection takes besides its own struct and buffer: two
	// stacks, net's structures, and the answer that may exceed tcpQueue.
	connBytes = 24 << 10
)

// quota counts how much of one thing all sources together and each source have.
//
// A source may have at most perSource, and never more than is still free for
// all the others together: one flood thus ends at half of the whole, two at a
// third each, and a quiet source always finds room (dynamic thresholds as
// shared-memory switches use them, Choudhury and Hahne, 1998).
type quota struct {
	mu    sync.Mutex
	used  int
	peak  int
	empty chan struct{}      // closed when used is 0, if somebody waits for that
	bySrc map[netip.Addr]int // only sources that hold something: bounded by used
}

// take admits one more of src, or says why not.
func (q *quota) take(src netip.Addr, all, perSource int) refusal {
	q.mu.Lock()
	defer q.mu.Unlock()
	free := all - q.used
	if free <= 0 {
		return refusedFull
	}
	n := q.bySrc[src]
	if n >= perSource || n >= free {
		return refusedShare
	}
	if q.bySrc == nil {
		q.bySrc = make(map[netip.Addr]int)
	}
	q.bySrc[src] = n + 1
	q.used++
	q.peak = max(q.peak, q.used)
	return admitted
}

// give returns what take admitted.
func (q *quota) give(src netip.Addr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used--
	if n := q.bySrc[src]; n > 1 {
		q.bySrc[src] = n - 1
	} else {
		delete(q.bySrc, src)
	}
	if q.used == 0 && q.empty != nil {
		close(q.empty)
		q.empty = nil
	}
}

// waitEmpty waits for a moment in which nothing is held, or for ctx.
func (q *quota) waitEmpty(ctx context.Context) {
	q.mu.Lock()
	if q.used == 0 {
		q.mu.Unlock()
		return
	}
	if q.empty == nil {
		q.empty = make(chan struct{})
	}
	empty := q.empty
	q.mu.Unlock()
	select {
	case <-empty:
	case <-ctx.Done():
	}
}

func (q *quota) load() (used, peak int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.used, q.peak
}

// refusal is why something was not admitted.
type refusal uint8

const (
	admitted     refusal = iota
	refusedFull          // nothing is free for anybody
	refusedShare         // this source has its share
)

// admission is the one place that says yes or no to work that outlives a
// packet: askers waiting for upstream, and TCP connections.
type admission struct {
	limits atomic.Pointer[Limits]
	askers quota
	conns  quota
}

func newAdmission(l Limits) *admission {
	a := &admission{}
	a.set(l)
	return a
}

func (a *admission) set(l Limits) { a.limits.Store(&l) }

func (a *admission) get() Limits { return *a.limits.Load() }

func (a *admission) takeAsker(src netip.Addr) refusal {
	l := a.limits.Load()
	return a.askers.take(src, l.InFlight, l.PerSource)
}

func (a *admission) takeConn(src netip.Addr) refusal {
	l := a.limits.Load()
	return a.conns.take(src, l.TCPConns, l.TCPPerSource)
}
