package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// allSilent is an outage of every endpoint under a flood.
type allSilent struct {
	rate   int // questions per second, of all pods together
	before time.Duration
	settle time.Duration // memory has settled when it has not grown by more than settledGrowth for so long
	// The outage ends when memory has settled, but not before shortest and not after longest.
	shortest, longest time.Duration
	after             time.Duration
}

const (
	allSilentPods = 10 // as many as it takes to fill every place for questions that wait
	settledGrowth = 0.02

	answerWithin = 1800 * time.Millisecond
	// impatience is when the least patient of the usual stubs, c-ares, asks again. Between the two is the time that a reply
	// waits for one of this machine's CPUs.
	impatience    = 2 * time.Second
	allBackWithin = time.Second
	nearlyAll     = 0.999 // a kernel that is flooded may drop a datagram
	mostInTime    = 0.99  // and a machine that does other things, too, be late
)

// The outage outlasts the 30 s for which the known names may be kept: after that they are answered with what has expired.
func (p *play) blackholeAll(ctx context.Context) error {
	return p.allSilent(ctx, allSilent{rate: 20000, before: 3 * time.Second, settle: 20 * time.Second,
		shortest: 40 * time.Second, longest: 90 * time.Second, after: 5 * time.Second})
}

// allSilent plays the outage: first known names only, so that they are in the cache; then every endpoint goes silent, and most
// questions are for names that nobody has asked for, some for the same names, which fail again and again; then the endpoints are back, and pods ask for the names that failed,
// for those that did not, and, at a rate that servers can bear, for new ones.
func (p *play) allSilent(ctx context.Context, s allSilent) error {
	agent, err := p.c.StartAgent(ctx, p.o.Agent)
	if err != nil {
		return err
	}
	defer agent.Kill()
	healthy := Behaviour{Delay: serverTime}
	if err := p.calm(healthy); err != nil {
		return err
	}
	defer p.setAll(healthy)
	f, err := p.c.newFlood(s.rate)
	if err != nil {
		return err
	}
	f.ask(mix{of: 1})
	floodCtx, stop := context.WithCancel(ctx)
	defer stop()
	done, began := make(chan []asked, 1), make(chan struct{})
	go func() { done <- f.run(floodCtx, func() { close(began) }) }()
	<-began
	o := Outage{Scenario: "blackhole-all", Pods: len(p.c.Pods), Rate: s.rate}
	silentAt, backAt, err := p.flooded(ctx, agent, f, s, healthy, &o)
	stop()
	all := <-done
	if err := errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	status, err := agent.Status(ctx)
	if err != nil {
		return err
	}
	if _, o.Peak, err = agent.Memory(); err != nil {
		return err
	}
	o.Ceiling, o.FileLimit, o.Lapses = status.Process.LimitBytes, status.Process.FileLimit, status.Interception.Lapses
	o.sum(all, silentAt, backAt)
	p.report.Outages = append(p.report.Outages, o)
	p.judgeAllSilent(o)
	return nil
}

// flooded makes the outage happen and watches the agent's memory; the times it returns are the flood's.
func (p *play) flooded(ctx context.Context, agent *Agent, f *flood, s allSilent, healthy Behaviour, o *Outage) (silentAt, backAt time.Duration, err error) {
	p.say("blackhole-all: %d pods ask %d questions/s, first for %d known names", o.Pods, s.rate, knownNames)
	if !pause(ctx, s.before) {
		return 0, 0, ctx.Err()
	}
	w := &watch{agent: agent}
	if err := w.sample(0); err != nil {
		return 0, 0, err
	}
	p.setAll(Behaviour{BlackHole: true})
	f.ask(mix{of: 20, new: 14, again: 4})
	silentAt = f.now()
	p.say("blackhole-all: every endpoint is silent; of ten questions seven are for new names, two for %d that fail again "+
		"and again, one for a known one, until memory has settled", againNames)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for at := time.Duration(0); at < s.longest && (at < s.shortest || !o.Settled); {
		select {
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		case <-agent.ended:
			return 0, 0, fmt.Errorf("the agent ended: %w\n%s", agent.err, agent.log)
		case <-tick.C:
		}
		at = f.now() - silentAt
		if err := w.sample(at); err != nil {
			return 0, 0, err
		}
		o.Settled = w.settled(s.settle)
		if len(w.samples)%10 == 0 {
			p.say("blackhole-all: %s resident", mebibytes(w.samples[len(w.samples)-1].Resident))
		}
	}
	o.Memory = w.samples
	p.setAll(healthy)
	backAt = f.now()
	f.ask(mix{of: 50, new: 1, again: 24})
	p.say("blackhole-all: the endpoints are back; pods ask for known names, for those that failed again and again, and for new ones")
	if !pause(ctx, s.after) {
		return 0, 0, ctx.Err()
	}
	return silentAt, backAt, nil
}

// watch collects samples of the agent.
type watch struct {
	agent   *Agent
	samples []Memory
	cpu     time.Duration
}

func (w *watch) sample(at time.Duration) error {
	resident, _, err := w.agent.Memory()
	if err != nil {
		return err
	}
	files, err := w.agent.Files()
	if err != nil {
		return err
	}
	cpu, err := w.agent.CPU()
	if err != nil {
		return err
	}
	m := Memory{At: at.Seconds(), Resident: resident, Files: files}
	if len(w.samples) > 0 {
		m.CPU = (cpu - w.cpu).Seconds()
	}
	w.cpu = cpu
	w.samples = append(w.samples, m)
	return nil
}

// settled reports whether the most memory seen has not grown by more than settledGrowth within the last d.
func (w *watch) settled(d time.Duration) bool {
	last := w.samples[len(w.samples)-1].At
	var before, all int64
	for _, m := range w.samples {
		if m.At <= last-d.Seconds()+0.1 {
			before = max(before, m.Resident)
		}
		all = max(all, m.Resident)
	}
	// The first sample is of before the outage.
	return last >= d.Seconds()+1 && float64(all) <= float64(before)*(1+settledGrowth)
}

// namesAre says what kinds of names are.
var namesAre = map[nameKind]string{knownName: "known before", newName: "new", againName: "failing"}

// sum files what became of the questions, and when the last one failed that was asked after the return.
func (o *Outage) sum(all []asked, silentAt, backAt time.Duration) {
	type group struct {
		phase string
		kind  nameKind
		stale bool
	}
	groups := map[group][]asked{}
	var during int
	for _, a := range all {
		g := group{beforeOutage, a.kind, a.ede == wire.EDEStale}
		switch {
		case a.at >= backAt:
			g.phase = afterOutage
			if !a.good || a.took > answerWithin {
				o.Back = max(o.Back, (a.at - backAt).Seconds())
			}
		case a.at >= silentAt:
			g.phase = duringOutage
			during++
		}
		groups[g] = append(groups[g], a)
	}
	o.Seconds = (backAt - silentAt).Seconds()
	o.Asked = float64(during) / o.Seconds
	for _, phase := range []string{beforeOutage, duringOutage, afterOutage} {
		for _, kind := range []nameKind{knownName, againName, newName} {
			for _, stale := range []bool{false, true} {
				if g := groups[group{phase, kind, stale}]; len(g) > 0 {
					n := namesAsked(phase, namesAre[kind], g)
					if n.Stale = stale; stale {
						n.Names += ", expired"
					}
					o.Names = append(o.Names, n)
				}
			}
		}
	}
}

func namesAsked(phase, names string, questions []asked) NamesAsked {
	n := NamesAsked{Phase: phase, Names: names, Asked: len(questions), Reasons: map[string]int{}}
	var took []time.Duration
	for _, a := range questions {
		if a.took < 0 {
			n.Silent++
			continue
		}
		took = append(took, a.took)
		if a.took > impatience {
			n.Late++
		}
		if a.ede != wire.EDENone {
			n.Reasons[a.ede.String()]++
		}
		if a.foreign {
			n.Others++
		}
		switch {
		case a.good:
			n.Answered++
		case a.rcode == wire.RCodeServFail:
			n.ServFail++
			if a.ede != wire.EDENone {
				n.Why++
			}
		}
	}
	slices.Sort(took)
	n.P50, n.P99, n.Max = quantile(took, 0.5).Seconds(), quantile(took, 0.99).Seconds(), quantile(took, 1).Seconds()
	return n
}

// judgeAllSilent holds dnslet to what it promises.
func (p *play) judgeAllSilent(o Outage) {
	var known, fresh NamesAsked // known: expired ones, too; fresh: all that nobody can answer
	for _, n := range o.Names {
		switch {
		case n.Phase != duringOutage:
		case n.Names == namesAre[newName], n.Names == namesAre[againName]:
			fresh.Asked, fresh.Silent, fresh.Late = fresh.Asked+n.Asked, fresh.Silent+n.Silent, fresh.Late+n.Late
			fresh.ServFail, fresh.Why = fresh.ServFail+n.ServFail, fresh.Why+n.Why
			fresh.P99, fresh.Max = max(fresh.P99, n.P99), max(fresh.Max, n.Max)
		default:
			known.Asked, known.Answered, known.P99 = known.Asked+n.Asked, known.Answered+n.Answered, max(known.P99, n.P99)
		}
	}
	r := &p.report
	r.check(o.Peak <= o.Ceiling && o.Ceiling > 0, "blackhole-all: at most %s were resident, the ceiling is %s", mebibytes(o.Peak), mebibytes(o.Ceiling))
	r.check(o.Settled, "blackhole-all: memory settled while %.0f questions/s were asked for %.0f s", o.Asked, o.Seconds)
	r.check(known.answered() >= nearlyAll, "blackhole-all: %s of %d questions for known names were answered, 99 %% of them within %s (at least %s)",
		percent(known.answered()), known.Asked, seconds(known.P99), percent(nearlyAll))
	replied := share(fresh.Asked-fresh.Silent, fresh.Asked)
	r.check(replied >= nearlyAll && fresh.Why == fresh.ServFail, "blackhole-all: %s of %d questions for other names got a reply, %d of %d "+
		"SERVFAIL gave a reason (at least %s, all)", percent(replied), fresh.Asked, fresh.Why, fresh.ServFail, percent(nearlyAll))
	r.check(fresh.inTime() >= mostInTime, "blackhole-all: %s of them within %v, 99 %% within %s, the last within %s (at least %s)",
		percent(fresh.inTime()), impatience, seconds(fresh.P99), seconds(fresh.Max), percent(mostInTime))
	r.check(o.Back <= allBackWithin.Seconds(), "blackhole-all: every question asked later than %s after the endpoints' return was answered (at most %s)",
		seconds(o.Back), seconds(allBackWithin.Seconds()))
}
