package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dnslet/dnslet/admin"
	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/config"
	"github.com/dnslet/dnslet/node"
	"github.com/dnslet/dnslet/resolver"
	"github.com/dnslet/dnslet/upstream"
)

// The Agent is admin's Source. HTTP is served from the first moment on, before there is a resolver: started says
// whether the rest is there.

var errStarting = errors.New("the agent is starting")

// Live implements admin.Source: nil while every reader makes progress, and while the agent is still starting. It looks
// at nothing outside of this process.
func (a *Agent) Live() error {
	if !a.isServing() {
		return nil
	}
	err := a.server.Progress()
	if errors.Is(err, resolver.ErrClosed) {
		return nil // the end of an orderly stop
	}
	return err
}

// isServing says whether start has come as far as reading questions.
func (a *Agent) isServing() bool { return a.serving.Load() }

// Ready implements admin.Source. It asks a question at each plain address by UDP and TCP; what is intercepted is asked
// by the prober all the time, so there the kernel's own view is taken.
func (a *Agent) Ready(ctx context.Context) []admin.Check {
	a.mu.Lock()
	phase := a.phase
	a.mu.Unlock()
	if phase == api.Draining {
		return []admin.Check{{Name: "started", Reason: "the agent is stopping"}}
	}
	if !a.isServing() {
		return []admin.Check{{Name: "started", Reason: errStarting.Error()}}
	}
	checks := a.askSelf(ctx)
	up := admin.Check{Name: "upstream", OK: true}
	select {
	case <-a.upstreams.firstAnswer():
	default:
		if phase == api.Starting {
			up = admin.Check{Name: "upstream", Reason: "no answer yet: nothing is taken from cluster DNS"}
		}
	}
	checks = append(checks, up)
	if a.take.get() != nil {
		problem := a.take.check()
		checks = append(checks, admin.Check{Name: "interception", OK: problem == "", Reason: problem})
	}
	// Last, for it is the least telling of what may be in the way.
	if phase == api.Starting {
		return append(checks, admin.Check{Name: "started", Reason: errStarting.Error()})
	}
	return append(checks, admin.Check{Name: "started", OK: true})
}

// askSelf probes every plain address, all at once: one that does not answer must not use up the time of the others.
func (a *Agent) askSelf(ctx context.Context) []admin.Check {
	var checks []admin.Check
	var ask []func()
	var wg sync.WaitGroup
	for _, addr := range a.server.Addrs() {
		if a.take.owns(addr.Addr()) {
			continue
		}
		for _, network := range []string{"udp", "tcp"} {
			i := len(checks)
			checks = append(checks, admin.Check{Name: network + " " + addr.String()})
			ask = append(ask, func() {
				if err := probe(ctx, network, netip.Addr{}, addr); err != nil {
					checks[i].Reason = err.Error()
					return
				}
				checks[i].OK = true
			})
		}
	}
	for _, f := range ask {
		wg.Go(f)
	}
	wg.Wait()
	return checks
}

// EffectiveConfig implements admin.Source.
func (a *Agent) EffectiveConfig() ([]byte, error) { return a.config().YAML(), nil }

// Metrics implements admin.Source.
func (a *Agent) Metrics() admin.Snapshot {
	a.mu.Lock()
	s := admin.Snapshot{
		Version: a.opts.Version, Ready: a.phase == api.Serving,
		Config: admin.Reloads{OK: a.load.OK, Loaded: a.load.Loaded, Accepted: a.load.Reloads, Refused: a.load.Failures, RestartNeeded: len(a.load.RestartFor)},
	}
	a.mu.Unlock()
	if !a.isServing() {
		return s
	}
	s.Resolver, s.Cache = a.server.Stats(), a.cache.Snapshot()
	for _, name := range a.upstreams.names() {
		if u, ok := a.upstreams.get(name); ok {
			s.Upstreams = append(s.Upstreams, admin.Upstream{Name: name, Healthy: u.group.Healthy(), Stats: u.group.Snapshot(), Endpoints: u.group.Status()})
		}
	}
	_, s.Intercept = a.take.status()
	s.Conntrack = conntrack()
	return s
}

// Status implements admin.Source.
func (a *Agent) Status() api.Status {
	a.mu.Lock()
	s := api.Status{
		SchemaVersion: api.SchemaVersion, Version: a.opts.Version, Host: a.host, Kernel: a.kernel, PID: os.Getpid(),
		Started: a.started, UptimeSeconds: time.Since(a.started).Seconds(), Phase: a.phase,
		Config: a.load, Process: a.process(),
		// Lists are there from the first moment on, if empty: readers go through them.
		Checks: []api.Check{}, Listeners: []api.Listener{}, Upstreams: []api.Upstream{}, Zones: []api.Zone{},
	}
	cfg := a.cfg
	a.mu.Unlock()
	s.Config.State = loadState(&s.Config)
	if !a.isServing() {
		s.State, s.Reason = api.Warn, errStarting.Error()
		return s
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	s.Checks = a.Ready(ctx)
	s.Ready = true
	for _, c := range s.Checks {
		s.Ready = s.Ready && c.OK
	}
	s.Interception, _ = a.take.status()
	s.Listeners = a.listeners(s.Checks, &s.Interception)
	s.Queries = a.queries()
	s.Cache = a.cacheStatus()
	for _, name := range a.upstreams.names() {
		if u, ok := a.upstreams.get(name); ok {
			s.Upstreams = append(s.Upstreams, upstreamStatus(name, &u))
		}
	}
	s.Zones = zonesStatus(cfg)
	// What is said of an upstream beside its endpoints need not be said again.
	s.Config.Warnings = slices.DeleteFunc(slices.Clone(s.Config.Warnings), func(w string) bool {
		return slices.ContainsFunc(s.Upstreams, func(u api.Upstream) bool {
			return slices.ContainsFunc(u.Notes, func(n string) bool { return strings.HasSuffix(w, ": "+n) })
		})
	})
	s.Conntrack = conntrack()
	judge(&s)
	return s
}

// judge gives the whole its state, and names the first part that is as bad.
func judge(s *api.Status) {
	s.State = api.OK
	note := func(state, reason string) {
		if state == api.Fail && s.State != api.Fail || state == api.Warn && s.State == api.OK {
			s.State, s.Reason = state, reason
		}
	}
	for _, c := range s.Checks {
		if !c.OK {
			state := api.Fail
			if s.Phase != api.Serving {
				state = api.Warn // not yet, or not any more
			}
			note(state, c.Name+": "+c.Reason)
		}
	}
	note(s.Interception.State, "interception: "+s.Interception.Reason)
	for _, l := range s.Listeners {
		note(l.State, "listener "+l.Addr+": "+l.Error)
	}
	for _, u := range s.Upstreams {
		note(u.State, "upstream "+u.Name+": "+u.Reason)
	}
	note(s.Queries.State, "queries: "+s.Queries.Reason)
	note(s.Config.State, "config: "+configReason(&s.Config))
}

func configReason(c *api.ConfigLoad) string {
	if !c.OK {
		return "the last change was refused"
	}
	return "a change waits for a restart"
}

func loadState(c *api.ConfigLoad) string {
	if !c.OK || len(c.RestartFor) > 0 {
		return api.Warn
	}
	return api.OK
}

// listeners says of each address whether it answers: the plain ones by the checks, ours by the kernel.
func (a *Agent) listeners(checks []admin.Check, in *api.Interception) []api.Listener {
	bad := map[string][]string{}
	for _, c := range checks {
		if network, addr, ok := strings.Cut(c.Name, " "); ok && !c.OK {
			bad[addr] = append(bad[addr], network+": "+c.Reason)
		}
	}
	for _, v := range in.VIPs {
		addr := v.Listener + ":53"
		if strings.Contains(v.Listener, ":") {
			addr = "[" + v.Listener + "]:53"
		}
		if in.Installed && (!v.UDP || !v.TCP) {
			bad[addr] = append(bad[addr], "no heartbeat")
		}
	}
	var out []api.Listener
	for _, addr := range a.server.Addrs() {
		l := api.Listener{Addr: addr.String(), State: api.OK}
		if a.take.owns(addr.Addr()) && !in.Installed {
			l.State, l.Error = api.Skip, "nothing is sent there: there is no interception"
		}
		if why := bad[l.Addr]; why != nil {
			l.State, l.Error = api.Fail, strings.Join(why, ", ")
		}
		out = append(out, l)
	}
	return out
}

func (a *Agent) queries() api.Queries {
	s := a.server.Stats()
	counts := countsOf(s)
	q := api.Queries{
		State: api.OK, UDP: asked(&s, resolver.UDP), TCP: asked(&s, resolver.TCP),
		Stale: counts.Stale, ServFail: counts.ServFail, Shed: counts.Shed, Malformed: s.Sum(resolver.Rejected) + s.Sum(resolver.Dropped),
		InFlight: int64(s.Waiting), TCPConns: int64(s.Conns), Recent: a.recent.until(time.Now(), counts),
	}
	switch r := q.Recent; {
	case r.Shed > 0:
		q.State, q.Reason = api.Warn, "a limit was reached: see limits.inFlight and limits.perSource, or which pod floods"
	case r.ServFail > 0:
		q.State, q.Reason = api.Warn, "no upstream had an answer for some questions"
	case r.Stale > 0:
		q.State, q.Reason = api.Warn, "expired answers stood in for upstreams that did not answer in time"
	}
	return q
}

func (a *Agent) cacheStatus() api.Cache {
	c, s := a.cache.Snapshot(), a.server.Stats()
	out := api.Cache{Entries: c.Entries, Bytes: c.Bytes, Budget: c.Limit, Evictions: c.Evicted, Hits: s.Sum(resolver.Hit)}
	// Whatever else asked the cache for an answer had to wait for an upstream, or was told that none could be had.
	out.Misses = s.Sum(resolver.Miss) + s.Sum(resolver.Stale) + s.Sum(resolver.Failed) + s.Sum(resolver.Shed)
	if all := out.Hits + out.Misses; all > 0 {
		out.HitRatio = float64(out.Hits) / float64(all)
	}
	return out
}

// upstreamStatus puts what a group knows into words.
func upstreamStatus(name string, u *served) api.Upstream {
	out := api.Upstream{Name: name, State: api.OK, Source: u.made.ResolvConf, Notes: u.warnings, Endpoints: []api.Endpoint{}}
	if u.made.LastResort.IsValid() {
		out.LastResort = u.made.LastResort.String()
	}
	var answered uint64
	healthy := 0
	for _, e := range u.group.Status() {
		if e.LastResort {
			out.LastUsed = e.Answered
			continue
		}
		answered += e.Answered
		out.Endpoints = append(out.Endpoints, endpointStatus(&e))
		if e.State != upstream.Down {
			healthy++
		}
	}
	for i := range out.Endpoints {
		if answered > 0 {
			out.Endpoints[i].Share = float64(out.Endpoints[i].Answered) / float64(answered)
		}
	}
	n := len(out.Endpoints)
	out.Reason = fmt.Sprintf("%d of %d endpoints healthy", healthy, n)
	switch {
	case n == 0:
		out.State, out.Reason = api.Fail, "no endpoint to ask"
	case healthy == 0 && out.LastResort != "":
		out.State, out.Reason = api.Fail, "no endpoint answers, only the last resort is left"
	case healthy == 0:
		out.State, out.Reason = api.Fail, "no endpoint answers"
	case healthy < n || len(u.warnings) > 0:
		out.State = api.Warn
	}
	return out
}

func endpointStatus(e *upstream.EndpointStatus) api.Endpoint {
	out := api.Endpoint{
		Addr: e.Endpoint.Addr.String(), Transport: e.Endpoint.Transport.String(), State: api.OK,
		LatencySeconds: e.Latency.Seconds(), Asked: e.Asked, Answered: e.Answered, Unanswered: e.Asked - min(e.Asked, e.Answered),
	}
	ago := "never answered"
	if e.LastAnswer >= 0 {
		ago = fmt.Sprintf("last answer %v ago", e.LastAnswer.Round(time.Second))
	}
	switch e.State {
	case upstream.Suspect:
		out.State, out.Reason = api.Warn, fmt.Sprintf("suspected: lost %d in a row, %s", e.Losses, ago)
	case upstream.Down:
		out.State, out.Reason = api.Fail, "held for dead: "+ago
	}
	return out
}

func zonesStatus(cfg config.Config) []api.Zone {
	out := []api.Zone{}
	for _, z := range cfg.Zones {
		own := z.Upstream != config.DefaultUpstream || len(z.Hosts) > 0
		out = append(out, api.Zone{Name: z.Name, Upstream: z.Upstream, Hosts: len(z.Hosts), FailOpen: !own || !cfg.Intercept.Enabled()})
	}
	return out
}

// process is the agent as the machine sees it. The caller holds mu.
func (a *Agent) process() api.Process {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	return api.Process{
		ResidentBytes: residentBytes(), HeapBytes: heap[0].Value.Uint64(), LimitBytes: a.limits.memory,
		Goroutines: runtime.NumGoroutine(), MaxProcs: runtime.GOMAXPROCS(0), OpenFiles: openFiles(), FileLimit: a.limits.files,
	}
}

// conntrack reads the node's connection table; nil where there is none, or where it does not say.
func conntrack() *api.Conntrack {
	c, err := node.ReadConntrack()
	if err != nil || c.MaxEntries == 0 {
		return nil
	}
	return &api.Conntrack{
		Entries: uint64(c.Entries), Limit: uint64(c.MaxEntries), InsertFailed: uint64(c.InsertFailed),
		Drop: uint64(c.Drop), EarlyDrop: uint64(c.EarlyDrop), ClashResolve: uint64(c.ClashResolve),
	}
}
