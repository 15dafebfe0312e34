package upstream

import (
	"sync"
	"sync/atomic"
	"time"
)

// endpoint is a server and all that is known of it. It outlives the lists it is in: a question under way keeps it.
type endpoint struct {
	Endpoint
	lastResort bool
	mark       uint32
	dest       destination // Addr as the kernel wants it
	tcp        *tcpPool
	gone       atomic.Bool // no longer in the group's list

	asked, answered atomic.Uint64
	probes          int // of Run alone
	markRefused     atomic.Bool

	mu      sync.Mutex
	health  health
	latency latency
	sampled int64 // when latency was last fed, or a sample last asked for
	probed  int64 // when the probe was sent that is still unanswered; 0: none

	// What ranking reads, without the lock. They may be of different moments; nothing depends on it.
	state     atomic.Uint32
	ewma, p95 atomic.Int64
}

func newEndpoint(e Endpoint, mark uint32) *endpoint {
	return &endpoint{Endpoint: e, mark: mark, dest: newDestination(e.Addr)}
}

// publish makes health and latency visible to ranking. Called with mu held.
func (e *endpoint) publish() {
	e.state.Store(uint32(e.health.state()))
	e.ewma.Store(int64(e.latency.ewma))
	e.p95.Store(int64(e.latency.p95))
}

// change is how an observation moved an endpoint's state.
type change struct{ from, to State }

// onAnswer notes a response that came at now to a question asked at sent; sample tells whether its time says something about
// the endpoint's speed.
func (e *endpoint) onAnswer(sent, now int64, sample bool) change {
	e.answered.Add(1)
	e.mu.Lock()
	defer e.mu.Unlock()
	from := e.health.state()
	e.health.answered(now)
	e.probed = 0
	if sample {
		e.latency.add(time.Duration(now - sent))
		e.sampled = now
	}
	e.publish()
	return change{from, Up}
}

// onLoss notes that a question asked at sent failed or is overdue.
func (e *endpoint) onLoss(sent int64) change {
	e.mu.Lock()
	defer e.mu.Unlock()
	from := e.health.state()
	e.health.lost(sent)
	e.publish()
	return change{from, e.health.state()}
}

// answeredSince reports whether an answer to anything has come at or after the given time.
func (e *endpoint) answeredSince(at int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.health.heard && e.health.asof >= at
}

// onUseless notes that another endpoint had a good answer where this one had SERVFAIL or the like: it falls behind in
// rank until better samples come.
func (e *endpoint) onUseless() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.latency.penalize(overdueFloor)
	e.publish()
}

// wantsSample reports, once per interval, that nothing was learnt of this endpoint's speed for so long.
func (e *endpoint) wantsSample(now int64, every time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.health.state() != Up || now-e.sampled < int64(every) {
		return false
	}
	e.sampled = now
	return true
}

// probeDue reports whether a probe is to be sent now, and whether one will be later; every is the pause between two. An
// earlier probe that is still unanswered is a loss, which may have changed the state.
func (e *endpoint) probeDue(now int64, every time.Duration) (due, pending bool, ch change) {
	e.mu.Lock()
	defer e.mu.Unlock()
	from := e.health.state()
	ch = change{from, from}
	if from == Up && e.health.heard {
		return false, false, ch
	}
	if e.probed != 0 {
		if now-e.probed < int64(every) {
			return false, true, ch
		}
		e.health.lost(e.probed)
		e.publish()
		ch.to = e.health.state()
	}
	e.probed = now
	return true, true, ch
}

func (e *endpoint) status(now int64) EndpointStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := EndpointStatus{
		Endpoint: e.Endpoint, LastResort: e.lastResort, State: e.health.state(),
		Latency: e.latency.ewma, P95: e.latency.p95, Losses: e.health.losses,
		Asked: e.asked.Load(), Answered: e.answered.Load(),
		LastAnswer: -1, Marked: e.mark != 0 && !e.markRefused.Load(),
	}
	if e.health.heard {
		s.LastAnswer = time.Duration(now - e.health.asof)
	}
	return s
}
