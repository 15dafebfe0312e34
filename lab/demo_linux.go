package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/dnslet/dnslet/lab/netns"
	"github.com/dnslet/dnslet/node"
)

// The sizes of the demo: small enough for two CPUs, which clients, servers, kube-proxy's rules and the agent share.
const (
	demoPods      = 3
	demoEndpoints = 3
	demoRate      = 100 // lookups per second; an external one is up to ten questions

	quietTime = 5 * time.Second
	raceTime  = 10 * time.Second
	// slowUpstream is longer than the second for which the kernel repairs a clash, and shorter than any client's patience.
	slowUpstream = 1500 * time.Millisecond

	faultAt   = 2 * time.Second
	stopFor   = 6 * time.Second // longer than the stub's timer, so that nobody is saved by the agent going on
	killFor   = 3 * time.Second
	afterward = 4 * time.Second
)

// What dnslet promises about a fault. Lookups are 10 ms apart, and no time is measured closer than that.
const (
	takenOverWithin = 600 * time.Millisecond // after SIGSTOP: a heartbeat of 500 ms, and a probe
	killedOutage    = 300 * time.Millisecond // after kill -9: the next lookup, when the kernel has closed the sockets
	backWithin      = 3 * time.Second        // after SIGCONT; after a start, which has to hear from an endpoint first
)

// Demo plays the scenarios that are meant for it (see List) and draws the picture, and returns the exit code: 0, or 1 when dnslet did not keep a promise, which
// the report says. It runs itself in a user namespace where it has to: it is called once, early, by the whole program (see
// netns.Enter). The end of ctx ends it early, with an error.
func Demo(ctx context.Context, o Options) (int, error) {
	var names []string
	for _, s := range List() {
		if s.Demo {
			names = append(names, s.Name)
		}
	}
	return Run(ctx, o, names...)
}

// Run plays some scenarios, in the order of List, as Demo does its own.
func Run(ctx context.Context, o Options, names ...string) (int, error) {
	if err := checkNames(names); err != nil {
		return 2, err
	}
	inside, code, err := netns.Enter()
	if !inside || err != nil {
		if err != nil {
			code = 1
		}
		return code, err
	}
	p := &play{o: o, began: time.Now()}
	if err := p.run(ctx, names); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("interrupted, all that was made is gone: %w", ctx.Err())
		}
		return 1, err
	}
	if err := p.report.write(o.Out, o.Output); err != nil {
		return 1, err
	}
	if o.SVG != "" {
		if err := os.WriteFile(o.SVG, picture(&p.report), 0o644); err != nil {
			return 1, fmt.Errorf("cannot write the picture: %w", err)
		}
		p.say("the picture is in %s", o.SVG)
	}
	if p.report.Missed() {
		return 1, nil
	}
	return 0, nil
}

// play is a Run under way.
type play struct {
	o      Options
	began  time.Time
	c      *Cluster
	report Report
}

// say writes a line of progress.
func (p *play) say(format string, args ...any) {
	fmt.Fprintf(p.o.Progress, "[%3.0f s] %s\n", time.Since(p.began).Seconds(), fmt.Sprintf(format, args...))
}

func (p *play) run(ctx context.Context, names []string) (err error) {
	if err := p.describe(); err != nil {
		return err
	}
	defer func() {
		if p.c != nil {
			err = errors.Join(err, p.c.Close())
		}
	}()
	for _, s := range []struct {
		name string
		pods int
		play func(context.Context) error
	}{
		{"quiet", demoPods, p.quiet},
		{"race-slow", demoPods, p.raceSlow},
		{"stop", demoPods, p.stop},
		{"kill9", demoPods, p.kill9},
		{"blackhole-one", demoPods, p.blackholeOne},
		{"blackhole-all", allSilentPods, p.blackholeAll},
	} {
		if !slices.Contains(names, s.name) {
			continue
		}
		if err := p.build(s.pods); err != nil {
			return err
		}
		if err := s.play(ctx); err != nil {
			return fmt.Errorf("cannot play %s: %w", s.name, err)
		}
	}
	return nil
}

// build makes the cluster, unless there is one of this size.
func (p *play) build(pods int) error {
	if p.c != nil {
		if len(p.c.Pods) == pods {
			return nil
		}
		c := p.c
		p.c = nil
		if err := c.Close(); err != nil {
			return err
		}
	}
	p.say("building a cluster: a node with %d pods, %d cluster DNS servers on other nodes, all in namespaces without a name; "+
		"what is started dies with this process, Ctrl-C leaves nothing", pods, demoEndpoints)
	c, err := New(Config{Pods: pods, Endpoints: demoEndpoints})
	if err != nil {
		return err
	}
	p.c = c
	return nil
}

func (p *play) describe() error {
	release, err := node.KernelRelease()
	if err != nil {
		return err
	}
	user, err := node.InUserNamespace()
	if err != nil {
		return err
	}
	p.report = Report{SchemaVersion: 1, Kernel: release, As: "as root", Pods: demoPods, Endpoints: demoEndpoints, Rate: demoRate,
		Paths: []Path{}, Faults: []Fault{}, Phases: []Phase{}, Outages: []Outage{}, Checks: []Check{}}
	if user {
		p.report.As = "as an ordinary user, in a user namespace"
	}
	return nil
}

// calm puts the cluster back to where every run begins: servers that know nothing from upstream, no conntrack entries.
func (p *play) calm(b Behaviour) error {
	for _, s := range p.c.Endpoints {
		s.Reset()
		s.Set(b)
	}
	return p.c.flushConntrack()
}

func (p *play) quiet(ctx context.Context) error {
	for _, path := range []string{ThroughKubeProxy, WithAgent} {
		if err := p.path(ctx, "quiet", path, quietTime, Behaviour{}, false); err != nil {
			return err
		}
	}
	p.judgePath("quiet")
	return nil
}

func (p *play) raceSlow(ctx context.Context) error {
	for _, path := range []string{ThroughKubeProxy, WithAgent} {
		if err := p.path(ctx, "race-slow", path, raceTime, Behaviour{UpstreamDelay: slowUpstream}, true); err != nil {
			return err
		}
	}
	p.judgePath("race-slow")
	return nil
}

// path runs the load over one of the two paths.
func (p *play) path(ctx context.Context, scenario, path string, d time.Duration, b Behaviour, hold bool) (err error) {
	if path == WithAgent {
		agent, err := p.c.StartAgent(ctx, p.o.Agent)
		if err != nil {
			return err
		}
		defer agent.Kill()
	}
	if err := p.calm(b); err != nil {
		return err
	}
	result := Path{Scenario: scenario, Path: path}
	var h *Hold
	if hold {
		h, err = p.c.StartHold()
		if errors.Is(err, ErrNoQueue) {
			result.HeldNot = ErrNoQueue.Error()
		} else if err != nil {
			return err
		} else {
			defer h.Close()
		}
	}
	meter, err := p.c.Meter()
	if err != nil {
		return err
	}
	p.say("%s, %s: %v at %d lookups/s, then until the last one has ended", scenario, path, d, demoRate)
	lookups := Load{Rate: demoRate, Duration: d, Seed: 1}.Run(ctx, p.c)
	counters, err := meter.Stop()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	result.Counters = counters
	result.Tally, result.took = tally(lookups)
	if h != nil {
		result.Held = h.Stats().Pairs
	}
	p.report.Paths = append(p.report.Paths, result)
	p.say("%s, %s: %d of %d lookups stalled, p99 %s", scenario, path, result.Stalled, result.Lookups, seconds(result.P99))
	return nil
}

// judgePath holds dnslet to what it promises, and says whether the incident happened at all.
func (p *play) judgePath(scenario string) {
	var proxy, agent Path
	for _, path := range p.report.Paths {
		switch {
		case path.Scenario == scenario && path.Path == ThroughKubeProxy:
			proxy = path
		case path.Scenario == scenario:
			agent = path
		}
	}
	r := &p.report
	r.check(agent.Stalled == 0 && agent.Failed == 0 && agent.Wrong == 0,
		"%s: with dnslet %d of %d lookups stalled, %d failed, %d were wrong; through kube-proxy %d stalled, %d failed",
		scenario, agent.Stalled, agent.Lookups, agent.Failed, agent.Wrong, proxy.Stalled, proxy.Failed)
	r.check(agent.NewEntries == 0 && agent.Clashes == 0,
		"%s: with dnslet %d new conntrack entries and %d clashes; through kube-proxy %d and %d",
		scenario, agent.NewEntries, agent.Clashes, proxy.NewEntries, proxy.Clashes)
	r.check(agent.ByAgent == 1, "%s: dnslet gave %s of the answers", scenario, percent(agent.ByAgent))
}

func (p *play) stop(ctx context.Context) error {
	return p.fault(ctx, "stop", fmt.Sprintf("SIGSTOP, %.0f s", stopFor.Seconds()), stopFor, takenOverWithin,
		func(a *Agent) error { return a.Signal(syscall.SIGSTOP) },
		func(a *Agent) (*Agent, error) { return a, a.Signal(syscall.SIGCONT) })
}

func (p *play) kill9(ctx context.Context) error {
	return p.fault(ctx, "kill9", fmt.Sprintf("kill -9, %.0f s", killFor.Seconds()), killFor, killedOutage,
		func(a *Agent) error { return a.Kill() },
		func(*Agent) (*Agent, error) { return p.c.launch(p.o.Agent) })
}

// fault runs the load while the agent is broken after faultAt and mended lasting later.
func (p *play) fault(ctx context.Context, scenario, what string, lasting, within time.Duration,
	breakIt func(*Agent) error, mend func(*Agent) (*Agent, error)) error {
	agent, err := p.c.StartAgent(ctx, p.o.Agent)
	if err != nil {
		return err
	}
	defer func() { agent.Kill() }()
	if err := p.calm(Behaviour{}); err != nil {
		return err
	}
	p.say("%s: %v at %d lookups/s; the agent suffers %s, after %v", scenario, faultAt+lasting+afterward, demoRate, what, faultAt)
	load := Load{Rate: demoRate, Duration: faultAt + lasting + afterward, Seed: 2}
	done := make(chan []Lookup, 1)
	go func() { done <- load.Run(ctx, p.c) }()
	var broken, mended time.Time
	faults := func() error {
		if !pause(ctx, faultAt) {
			return ctx.Err()
		}
		broken = time.Now()
		if err := breakIt(agent); err != nil {
			return err
		}
		if !pause(ctx, lasting) {
			return ctx.Err()
		}
		mended = time.Now()
		again, err := mend(agent)
		if err == nil {
			agent = again
		}
		return err
	}
	err = faults()
	lookups := <-done
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	f := Fault{Scenario: scenario, What: what, Outage: outage(lookups).Seconds(),
		TakenOver: first(lookups, broken, false), Back: first(lookups, mended, true)}
	f.Tally, _ = tally(lookups)
	p.report.Faults = append(p.report.Faults, f)
	p.say("%s: outage %s, %d of %d lookups stalled", scenario, seconds(f.Outage), f.Stalled, f.Lookups)
	p.judgeFault(f, within)
	return nil
}

func (p *play) judgeFault(f Fault, within time.Duration) {
	r := &p.report
	r.check(f.TakenOver >= 0 && f.TakenOver <= within.Seconds() && f.Outage <= within.Seconds(),
		"%s: cluster DNS answered after %s, the longest outage was %s (at most %s)", f.What, seconds(f.TakenOver), seconds(f.Outage),
		seconds(within.Seconds()))
	r.check(f.Back >= 0 && f.Back <= backWithin.Seconds(), "%s: dnslet answered again after %s (at most %s)", f.What, seconds(f.Back),
		seconds(backWithin.Seconds()))
	r.check(f.Failed == 0 && f.Wrong == 0, "%s: %d lookups failed, %d were wrong; %d asked just then stalled", f.What, f.Failed, f.Wrong, f.Stalled)
}

// pause waits; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
