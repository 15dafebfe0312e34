package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/dnslet/dnslet/cache"
	"github.com/dnslet/dnslet/config"
	"github.com/dnslet/dnslet/node"
	"github.com/dnslet/dnslet/resolver"
	"github.com/dnslet/dnslet/upstream"
)

// upstreams are the groups that a configuration names, kept across reloads: a group that stays keeps what it knows of
// its endpoints, and the cache keeps what was learnt from it.
type upstreams struct {
	log   *slog.Logger
	marks config.Marks // zero where nothing is intercepted: then nobody looks at them

	mu      sync.Mutex // guards what follows
	groups  map[string]*served
	running bool
	parting sync.WaitGroup // groups that are on their way out
	ended   chan struct{}
}

// served is one group and what the agent knows of it beside.
type served struct {
	group     *upstream.Group
	made      config.Upstream // as configured when it was made
	endpoints []netip.AddrPort
	warnings  []string
	life      *group // of group.Run; nil before upstreams.run
}

// partTime is how long a group that no zone uses any more goes on for the questions that it was asked last.
const partTime = 2 * time.Second

func newUpstreams(log *slog.Logger, cfg config.Config) *upstreams {
	u := &upstreams{log: log, groups: map[string]*served{}, ended: make(chan struct{})}
	if cfg.Intercept.Enabled() {
		u.marks = cfg.Intercept.Marks
	}
	return u
}

// isLocal is how config learns which addresses are this machine's.
var isLocal = node.IsLocal

// apply makes the groups be those of cfg and returns the zones that lead to them. What is self is dropped from every
// group, with a warning. On an error nothing has changed.
//
// Nameservers of a resolv.conf are read here. A file that cannot be read leaves a group with the endpoints it had.
func (u *upstreams) apply(cfg config.Config, self config.Self) (*resolver.Zones, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	next := make(map[string]*served, len(cfg.Upstreams))
	var fresh []*served
	abandon := func() {
		for _, s := range fresh {
			s.group.Close()
		}
	}
	for name, want := range cfg.Upstreams {
		s, isNew, err := u.group(name, want, self)
		if err != nil {
			abandon()
			return nil, err
		}
		if isNew {
			fresh = append(fresh, s)
		}
		next[name] = s
	}
	zones, err := zonesOf(cfg, next)
	if err != nil {
		abandon()
		return nil, err
	}
	for name, s := range next {
		if u.running {
			s.start(name, u.log)
		}
		if err := s.group.Update(endpointsOf(s.made.Transport, s.endpoints)); err != nil {
			u.log.Error("cannot change the endpoints of an upstream", "upstream", name, "err", err) // config has checked them: does not happen
		}
	}
	for name, s := range u.groups {
		if next[name] == nil || next[name].group != s.group {
			u.part(s)
		}
	}
	u.groups = next
	return zones, nil
}

// group returns what name is from now on: a new group, or the one there is with other endpoints. It changes neither.
func (u *upstreams) group(name string, want config.Upstream, self config.Self) (s *served, isNew bool, err error) {
	old := u.groups[name]
	resolved, err := want.Resolve()
	warnings := []string{}
	if err != nil {
		warnings = append(warnings, err.Error())
		if old != nil && old.made.ResolvConf == want.ResolvConf {
			resolved.Endpoints = old.endpoints
		}
	}
	kept, dropped := self.Filter(name, resolved)
	for _, w := range dropped {
		warnings = append(warnings, w.Reason)
	}
	made := kept
	made.Endpoints = nil
	made.ResolvConf = want.ResolvConf
	s = &served{made: made, endpoints: kept.Endpoints, warnings: warnings}
	if old != nil && old.made.Transport == made.Transport && old.made.LastResort == made.LastResort {
		s.group, s.life = old.group, old.life
		return s, false, nil
	}
	uc := upstream.DefaultConfig()
	uc.Name, uc.Logger, uc.LastResort = name, u.log, made.LastResort
	uc.Mark, uc.LastResortMark = u.marks.Upstream, u.marks.LastResort
	if s.group, err = upstream.New(uc); err != nil {
		return nil, false, err
	}
	return s, true, nil
}

func endpointsOf(t config.Transport, addrs []netip.AddrPort) []upstream.Endpoint {
	transport := upstream.UDP
	if t == config.TCP {
		transport = upstream.TCP
	}
	out := make([]upstream.Endpoint, len(addrs))
	for i, a := range addrs {
		out[i] = upstream.Endpoint{Addr: a, Transport: transport}
	}
	return out
}

// shortestMaxTTL is the least that the cache takes as a largest TTL: it counts records' TTLs, which are whole seconds.
const shortestMaxTTL = time.Second

// zonesOf turns the configuration's zones into the resolver's. The root goes to the default group unless a zone says
// otherwise.
func zonesOf(cfg config.Config, groups map[string]*served) (*resolver.Zones, error) {
	zones := make([]resolver.Zone, 0, len(cfg.Zones)+1)
	root := false
	for _, z := range cfg.Zones {
		root = root || z.Name == "."
		rz := resolver.Zone{Name: z.Name, Upstream: groups[z.Upstream].group,
			Lifetimes: cache.Lifetimes{MinTTL: z.MinTTL, MaxTTL: max(z.MaxTTL, shortestMaxTTL), MaxNegativeTTL: z.MaxNegativeTTL, StaleFor: cfg.Cache.StaleFor}}
		for _, h := range z.Hosts {
			rz.Hosts = append(rz.Hosts, resolver.Host{Name: h.Name, Addresses: h.Addresses, TTL: h.TTL})
		}
		zones = append(zones, rz)
	}
	if !root {
		c := cfg.Cache
		zones = append(zones, resolver.Zone{Name: ".", Upstream: groups[config.DefaultUpstream].group,
			Lifetimes: cache.Lifetimes{MinTTL: c.MinTTL, MaxTTL: c.MaxTTL, MaxNegativeTTL: c.MaxNegativeTTL, StaleFor: c.StaleFor}})
	}
	z, err := resolver.NewZones(zones)
	if err != nil {
		return nil, fmt.Errorf("cannot apply configuration: %w", err)
	}
	return z, nil
}

// run begins to ask: from here on the groups of now and of every later apply are probed.
func (u *upstreams) run() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.running = true
	for name, s := range u.groups {
		s.start(name, u.log)
	}
}

func (s *served) start(name string, log *slog.Logger) {
	if s.life != nil {
		return
	}
	s.life = newGroup()
	s.life.run(func(ctx context.Context) {
		if err := s.group.Run(ctx); err != nil && ctx.Err() == nil {
			log.Error("upstream ended", "upstream", name, "err", err)
		}
	})
}

// part lets s answer what it was asked last, then ends it. The caller holds mu.
func (u *upstreams) part(s *served) {
	u.parting.Go(func() {
		t := time.NewTimer(partTime)
		defer t.Stop()
		select {
		case <-t.C:
		case <-u.ended:
		}
		s.end()
	})
}

func (s *served) end() {
	if s.life != nil {
		s.life.stop()
	}
	s.group.Close()
}

// stop ends all groups. Nothing may be asked any more.
func (u *upstreams) stop() {
	close(u.ended)
	u.parting.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, s := range u.groups {
		s.end()
	}
}

// names returns the groups' names: the default one, which most questions go to, then the others, sorted.
func (u *upstreams) names() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	isDefault := func(name string) int {
		if name == config.DefaultUpstream {
			return 0
		}
		return 1
	}
	return slices.SortedFunc(maps.Keys(u.groups), func(a, b string) int {
		return cmp.Or(cmp.Compare(isDefault(a), isDefault(b)), cmp.Compare(a, b))
	})
}

// warnings are what is wrong with the groups' endpoints as they are now, by group.
func (u *upstreams) warnings() map[string][]string {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := map[string][]string{}
	for name, s := range u.groups {
		out[name] = s.warnings
	}
	return out
}

// get returns a copy of what is known of a group; ok is false when it has gone.
func (u *upstreams) get(name string) (s served, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p, ok := u.groups[name]
	if !ok {
		return served{}, false
	}
	return *p, true
}

// clusterDNS returns the endpoints of the default group: those whose leg goes without conntrack, and which are never
// intercepted when they ask themselves. They are sorted, so that the same set compares equal.
func (u *upstreams) clusterDNS() []netip.AddrPort {
	s, _ := u.get(config.DefaultUpstream)
	if s.made.ResolvConf != "" {
		return nil // a resolver outside of the cluster: the way to it may need the node's own masquerade
	}
	out := slices.Clone(s.endpoints)
	slices.SortFunc(out, func(a, b netip.AddrPort) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Port(), b.Port()))
	})
	return out
}

// firstAnswer is closed when the default group has answered something for the first time. A reload may put another
// group in its place: ask again.
func (u *upstreams) firstAnswer() <-chan struct{} {
	s, _ := u.get(config.DefaultUpstream)
	return s.group.FirstAnswer()
}
