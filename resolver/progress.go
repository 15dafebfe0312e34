package resolver

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// stallAfter is how long a reader may be busy with one batch before Progress
// reports it. A batch takes 0.1 ms; 200 ms is a reader that hangs, or a process
// without CPU, and with the interception's own half second of patience the
// node's lookups are elsewhere before a stub has asked again.
const stallAfter = 200 * time.Millisecond

// activity is one reader's or acceptor's state word: 0 while it waits in the
// kernel for the next packet or connection (which is progress, however long),
// else the time in ns since which it has been busy.
type activity struct {
	since atomic.Int64
	_     [56]byte // the word is written twice per batch: alone on its cache line
}

func (a *activity) busy(now int64) { a.since.Store(now) }
func (a *activity) idle()          { a.since.Store(0) }

// stuck returns for how long a has been busy if that is longer than stallAfter.
func (a *activity) stuck(now int64) (time.Duration, bool) {
	since := a.since.Load()
	d := time.Duration(now - since)
	return d, since != 0 && d > stallAfter
}

// Progress returns nil while every UDP reader and every TCP acceptor makes
// progress: it waits in the kernel for packets, or has been busy with a batch
// for no longer than 200 ms. An acceptor that is out of descriptors and waits
// to try again does make progress (its state is in Stats: AcceptFailed); new
// connections, the TCP probe's among them, see for themselves.
//
// It is meant to be asked every 100 ms, from one goroutine or many.
func (s *Server) Progress() error {
	s.mu.Lock()
	state, udp, tcp := s.state, s.udp, s.tcp
	s.mu.Unlock()
	switch state {
	case lifeNew:
		return errNotRunning
	case lifeDraining, lifeClosed:
		return ErrClosed
	}
	now := s.clock()
	for _, u := range udp {
		for i := range u.readers {
			if d, stuck := u.readers[i].act.stuck(now); stuck {
				return fmt.Errorf("reader %d of %v/udp has been busy for %v", i, u.addr, d.Round(time.Millisecond))
			}
		}
	}
	for _, t := range tcp {
		if d, stuck := t.act.stuck(now); stuck {
			return fmt.Errorf("acceptor of %v/tcp has been busy for %v", t.addr, d.Round(time.Millisecond))
		}
	}
	return nil
}

// pulse notices that the whole process did not run: stopped by a signal, frozen
// with its cgroup, or without CPU. What lies in the receive queues afterwards
// is old, and its senders have gone elsewhere.
type pulse struct {
	limit  time.Duration // a longer gap is a stall
	mu     sync.Mutex    // held when a gap is counted
	last   atomic.Int64  // the last beat, ns
	stalls atomic.Uint64 // gaps seen
	ended  atomic.Int64  // when the last of them was seen, ns
}

// beatEvery is the pulse's interval; a gap of pulseGap counts as a stall. That
// is just above the 1.8 s within which we promise an answer: whoever has waited
// for longer has asked again, or somebody else.
const (
	beatEvery = 100 * time.Millisecond
	pulseGap  = 2 * time.Second
)

func (p *pulse) run(ctx context.Context, clock func() int64) {
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			p.beat(clock())
		}
	}
}

// beat notes that the process runs at now. Whoever is the first to do so after a
// gap counts it, and last changes only afterwards: who sees a new last sees the
// new count.
func (p *pulse) beat(now int64) {
	if !p.gap(now) {
		p.last.Store(now)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gap(now) {
		p.ended.Store(now)
		p.stalls.Add(1)
		p.last.Store(now)
	}
}

func (p *pulse) gap(now int64) bool {
	last := p.last.Load()
	return last != 0 && now-last > int64(p.limit)
}

// stalled says, once for each stall, that the process has not run for a while
// until now; seen is what the reader remembers. Who was idle when the stall ended
// has been woken by a packet that came later. Without a stall it costs two loads
// per batch.
func (p *pulse) stalled(now int64, seen *uint64) bool {
	if p.gap(now) { // the reader has woken before the pulse did
		p.beat(now)
	}
	n := p.stalls.Load()
	if n == *seen {
		return false
	}
	*seen = n
	return now-p.ended.Load() <= int64(beatEvery)
}
