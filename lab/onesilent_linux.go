package lab

import (
	"context"
	"errors"
	"slices"
	"time"
)

// oneSilent is an outage of one endpoint: rounds of a healthy phase, a silent one and one after the return, each round with
// another endpoint, so that what a noisy machine adds falls on both sides of the comparison.
type oneSilent struct {
	rate    int // lookups per second, each of two questions
	rounds  int
	healthy time.Duration // and the silent phase, after its first second
	back    time.Duration
}

// What dnslet promises when one of several endpoints goes silent.
const (
	serverTime    = 2 * time.Millisecond // what a server takes for an answer
	laterFactor   = 1.2                  // p99 after the first second, by that of the healthy phase
	firstSecond   = time.Second
	extraUpstream = 0.15 // hedges and samples are a tenth at most, probes and what is lost come on top
)

func (p *play) blackholeOne(ctx context.Context) error {
	if err := p.oneSilent(ctx, WithAgent, oneSilent{rate: 250, rounds: 3, healthy: 10 * time.Second, back: 3 * time.Second}); err != nil {
		return err
	}
	if err := p.oneSilent(ctx, ThroughKubeProxy, oneSilent{rate: 250, rounds: 1, healthy: 3 * time.Second, back: 2 * time.Second}); err != nil {
		return err
	}
	p.judgeOneSilent()
	return nil
}

// oneSilent plays the outage over one of the two paths.
func (p *play) oneSilent(ctx context.Context, path string, s oneSilent) error {
	if path == WithAgent {
		agent, err := p.c.StartAgent(ctx, p.o.Agent)
		if err != nil {
			return err
		}
		defer agent.Kill()
	}
	healthy := Behaviour{Delay: serverTime}
	if err := p.calm(healthy); err != nil {
		return err
	}
	defer p.setAll(healthy)
	round := s.healthy + firstSecond + s.healthy + s.back
	p.say("blackhole-one, %s: %d rounds of %v at %d lookups/s of new names; one endpoint is silent for %v of each",
		path, s.rounds, round, s.rate, firstSecond+s.healthy)
	var marks []mark
	note := func(phase string, n int) { marks = append(marks, p.mark(phase, n)) }
	load := Load{Rate: s.rate, Duration: time.Duration(s.rounds)*round + time.Second, Seed: 3, New: true}
	if path == ThroughKubeProxy {
		load.Seed++ // other names: the endpoints' own caches do not matter here, but they must be new
	}
	done := make(chan []Lookup, 1)
	loadCtx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { done <- load.Run(loadCtx, p.c) }()
	play := func() error {
		for n := range s.rounds {
			silent := p.c.Endpoints[n%len(p.c.Endpoints)]
			for _, step := range []struct {
				phase string
				lasts time.Duration
				do    func()
			}{
				{Healthy, s.healthy, func() {}},
				{FirstSecond, firstSecond, func() { silent.Set(Behaviour{BlackHole: true}) }},
				{Later, s.healthy, func() {}},
				{Returned, s.back, func() { silent.Set(healthy) }},
			} {
				step.do()
				note(step.phase, n+1)
				if !pause(ctx, step.lasts) {
					return ctx.Err()
				}
			}
		}
		note("", 0)
		return nil
	}
	err := play()
	if err != nil {
		stop()
	}
	lookups := <-done
	if err := errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	for i := range marks[:len(marks)-1] {
		p.report.Phases = append(p.report.Phases, phase(path, marks[i], marks[i+1], lookups))
	}
	return nil
}

// mark is the beginning of a phase.
type mark struct {
	phase    string
	round    int
	at       time.Time
	upstream uint64
}

func (p *play) mark(phase string, round int) mark {
	m := mark{phase: phase, round: round, at: time.Now()}
	for _, s := range p.c.Endpoints {
		n := s.Counts()
		m.upstream += n.Pods + n.Others
	}
	return m
}

// phase sums up what was looked up between two marks.
func phase(path string, from, to mark, lookups []Lookup) Phase {
	var within []Lookup
	ph := Phase{Scenario: "blackhole-one", Path: path, Phase: from.phase, Round: from.round, Seconds: to.at.Sub(from.at).Seconds(),
		Upstream: to.upstream - from.upstream}
	for _, l := range lookups {
		if !l.Began.Before(from.at) && l.Began.Before(to.at) {
			within = append(within, l)
			ph.Questions += l.Queries
		}
	}
	ph.Tally, _ = tally(within)
	return ph
}

func (p *play) setAll(b Behaviour) {
	for _, s := range p.c.Endpoints {
		s.Set(b)
	}
}

// judgeOneSilent holds dnslet to what it promises.
func (p *play) judgeOneSilent() {
	var ratios, later, healthy []float64
	var all, proxy Tally
	var slowest, extra float64
	for _, ph := range p.report.Phases {
		sum := &all
		if ph.Path == ThroughKubeProxy {
			sum = &proxy
		} else {
			slowest = max(slowest, ph.Max)
		}
		sum.Lookups, sum.Failed, sum.Wrong, sum.Stalled = sum.Lookups+ph.Lookups, sum.Failed+ph.Failed, sum.Wrong+ph.Wrong, sum.Stalled+ph.Stalled
		switch {
		case ph.Path == ThroughKubeProxy:
		case ph.Phase == Healthy:
			healthy = append(healthy, ph.P99)
		case ph.Phase == Later:
			later = append(later, ph.P99)
			ratios = append(ratios, ph.P99/healthy[len(healthy)-1])
			extra = max(extra, ph.extra())
		}
	}
	r := &p.report
	ratio := median(ratios)
	r.check(ratio <= laterFactor, "blackhole-one: after the first second p99 was %s, %.2f times that of the healthy phase before, %s "+
		"(at most %.1f; medians of %d rounds)", seconds(median(later)), ratio, seconds(median(healthy)), laterFactor, len(ratios))
	r.check(all.Failed == 0 && all.Wrong == 0 && all.Stalled == 0,
		"blackhole-one: with dnslet %d of %d lookups stalled, %d failed, %d were wrong, the longest took %s; through kube-proxy %d of %d "+
			"stalled, %d failed", all.Stalled, all.Lookups, all.Failed, all.Wrong, seconds(slowest), proxy.Stalled, proxy.Lookups, proxy.Failed)
	r.check(extra <= extraUpstream, "blackhole-one: dnslet asked its endpoints %.1f %% more than the pods asked (at most %.0f %%)",
		extra*100, extraUpstream*100)
}

// median returns the middle one, the upper of two; 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
