package agent

import (
	"context"
	"sync"
	"time"

	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/resolver"
)

// recent remembers the counters of the last minute, so that status can tell what happens now from what happened once.
type recent struct {
	mu      sync.Mutex
	samples []sample // oldest first
}

type sample struct {
	at     time.Time
	counts api.Recent // since the start; Seconds unused
}

const (
	sampleEvery = 5 * time.Second
	recentSpan  = time.Minute
)

// sample adds to a.recent until ctx ends.
func (a *Agent) sample(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	a.recent.add(time.Now(), countsOf(a.server.Stats()))
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			a.recent.add(now, countsOf(a.server.Stats()))
		}
	}
}

func countsOf(s resolver.Stats) api.Recent {
	return api.Recent{
		Queries: asked(&s, resolver.UDP) + asked(&s, resolver.TCP),
		Stale:   s.Sum(resolver.Stale), ServFail: s.Sum(resolver.Failed) + s.Sum(resolver.Panicked), Shed: s.Sum(resolver.Shed),
	}
}

// asked counts clients' questions that have been answered or dropped. What is answered without a look at the cache is
// left out: that is the prober's heartbeat, ten a second and virtual IP, which on a quiet node would be all there is to see.
func asked(s *resolver.Stats, t resolver.Transport) (n uint64) {
	for o, count := range s.Outcomes[t] {
		if resolver.Outcome(o) != resolver.Local {
			n += count
		}
	}
	return n
}

func (r *recent) add(now time.Time, counts api.Recent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = append(r.samples, sample{now, counts})
	for len(r.samples) > 1 && now.Sub(r.samples[0].at) > recentSpan {
		r.samples = r.samples[1:]
	}
}

// until returns what was counted between the oldest sample and now.
func (r *recent) until(now time.Time, counts api.Recent) api.Recent {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.samples) == 0 {
		return api.Recent{}
	}
	old := r.samples[0]
	return api.Recent{
		Seconds: now.Sub(old.at).Seconds(),
		Queries: counts.Queries - old.counts.Queries, Stale: counts.Stale - old.counts.Stale,
		ServFail: counts.ServFail - old.counts.ServFail, Shed: counts.Shed - old.counts.Shed,
	}
}
