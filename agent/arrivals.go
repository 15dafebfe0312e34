package agent

import (
	"fmt"
	"sync"
	"time"

	"github.com/dnslet/dnslet/resolver"
)

// The prober asks from this machine, and what a firewall of the node does to its pods' packets it does not see: where one
// drops what comes in for our own addresses, the heartbeat is well and no pod gets an answer. So what the kernel says it
// has given to us is compared with what has arrived.

const (
	// So many questions in a row, over at least arrivalTime, none of which arrived: no burst that a full queue has cost.
	arrivalLost = 5
	arrivalTime = time.Second
	// How long the node is then left to cluster DNS before it is tried again, which costs a few questions each time.
	firstLeave   = time.Minute
	longestLeave = 16 * time.Minute
)

// arrivals is the trial of the node. Its zero value has seen nothing and is content.
type arrivals struct {
	mu      sync.Mutex
	given   uint64    // by the kernel, as of the last look
	arrived uint64    // at our sockets, likewise
	lost    uint64    // given since the last that arrived
	since   time.Time // of the first of those
	leave   time.Duration
	until   time.Time
	reason  string // why the node is left to cluster DNS; empty: it is not
}

// look takes both counts, of the kernel's first, and returns true when the verdict changes. It is called every second.
func (r *arrivals) look(now time.Time, given, arrived uint64) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	more, came := given-r.given, int64(arrived-r.arrived) > 0
	r.given, r.arrived = given, arrived
	if r.reason != "" {
		if now.Before(r.until) {
			return false
		}
		r.reason, r.lost = "", 0
		return true
	}
	switch {
	case came:
		r.lost, r.leave = 0, 0
	case r.lost == 0 && more > 0:
		r.lost, r.since = more, now
	default:
		r.lost += more
	}
	if r.lost < arrivalLost || now.Sub(r.since) < arrivalTime {
		return false
	}
	r.leave = min(max(firstLeave, 2*r.leave), longestLeave)
	r.until = now.Add(r.leave)
	r.reason = fmt.Sprintf("of the last %d questions that the kernel gave to dnslet none has arrived: a firewall or a policy of this node "+
		"drops what pods send to dnslet's own addresses, port 53 (input); let it in, or set intercept.mode to off; tried again every %v",
		r.lost, r.leave)
	return true
}

// verdict is why the node is left to cluster DNS, or "".
func (r *arrivals) verdict() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reason
}

// weigh compares what was given with what has arrived, and leaves the node to cluster DNS when nothing does.
func (t *interception) weigh(now time.Time, stats func() resolver.Stats) {
	in := t.get()
	if in == nil {
		return
	}
	k, err := in.Status()
	if err != nil {
		return // it is said in status
	}
	s := stats() // after the kernel's, so that nothing seems lost that was only on its way
	// A TCP connection counts once, as its SYN does. The prober's own questions are not among those given.
	arrived := s.Queries[resolver.UDP] + s.Events[resolver.ConnAccepted] + s.Events[resolver.ConnRefusedFull] + s.Events[resolver.ConnRefusedShare] - k.Counters.Probes
	if !t.trial.look(now, k.Counters.Served, arrived) {
		return
	}
	if reason := t.trial.verdict(); reason != "" {
		t.log.Error("this node's questions are left to cluster DNS", "reason", reason)
	} else {
		t.log.Info("this node's questions are tried again")
	}
}
