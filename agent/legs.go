package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/dnslet/dnslet/config"
	"github.com/dnslet/dnslet/resolver"
	"github.com/dnslet/dnslet/upstream"
	"github.com/dnslet/dnslet/wire"
)

// The way to an endpoint goes without conntrack, and that may be what keeps its answers away: a firewall that lets
// answers in by the state of their connection sees none, a masquerade is not undone. So an endpoint that is held for
// dead is asked once more as any program of the node would ask, tracked. If that works, and goes on not working
// otherwise, the endpoint is asked tracked from then on: worse than promised, better than not at all, and said in status.

const (
	legEvery = time.Second // between two looks
	// An endpoint that has just come back answers both ways: the group's own probes, four a second, see it by then.
	legSettle = time.Second
	// What cluster DNS answers by itself, without asking on: whatever the cluster's domain, it is in its own zone or
	// denied within milliseconds, most times.
	legName = "kubernetes.default.svc.cluster.local."
)

// tend looks after the ways to us and to the endpoints until ctx ends.
func (t *interception) tend(ctx context.Context, u *upstreams, stats func() resolver.Stats) {
	tick := time.NewTicker(legEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		t.weigh(time.Now(), stats)
		if t.get() == nil {
			continue
		}
		for _, e := range t.suspects(u) {
			if ctx.Err() == nil && answersTracked(ctx, e) && wait(ctx, legSettle) && slices.Contains(t.suspects(u), e) && answersTracked(ctx, e) {
				t.track(e.Addr)
			}
		}
	}
}

// suspects are the endpoints that are asked untracked and held for dead.
func (t *interception) suspects(u *upstreams) []upstream.Endpoint {
	s, ok := u.get(config.DefaultUpstream)
	if !ok {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []upstream.Endpoint
	for _, e := range s.group.Status() {
		if !e.LastResort && e.State == upstream.Down && slices.Contains(t.untracked(), e.Endpoint.Addr) {
			out = append(out, e.Endpoint)
		}
	}
	return out
}

// answersTracked asks e from an unmarked socket, which the rules leave alone. Any answer will do.
func answersTracked(ctx context.Context, e upstream.Endpoint) bool {
	c := upstream.DefaultConfig()
	c.Name, c.Endpoints, c.Budget = "tracked", []upstream.Endpoint{e}, time.Second
	g, err := upstream.New(c)
	if err != nil {
		return false
	}
	defer g.Close()
	name, err := wire.AppendName(nil, legName)
	if err != nil {
		return false
	}
	_, _, err = g.Exchange(ctx, wire.AppendQuery(nil, wire.FlagRD, name, wire.TypeA, wire.ClassIN, false), make([]byte, wire.MaxUDP))
	return err == nil
}

// untracked are the endpoints whose way goes without conntrack. The caller holds mu.
func (t *interception) untracked() []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(t.endpoints), func(e netip.AddrPort) bool { return slices.Contains(t.tracked, e) })
}

// bypassed are the sources that are never ours: those of the configuration, and cluster DNS itself where the rules do not
// know it by being an endpoint. The caller holds mu.
func (t *interception) bypassed() []netip.Prefix {
	out := slices.Clone(t.bypass)
	for _, e := range t.endpoints {
		if slices.Contains(t.tracked, e) {
			p := netip.PrefixFrom(e.Addr(), e.Addr().BitLen())
			if !slices.ContainsFunc(out, p.Overlaps) {
				out = append(out, p)
			}
		}
	}
	return out
}

// track asks e through conntrack from now on.
func (t *interception) track(e netip.AddrPort) {
	in := t.get()
	if in == nil {
		return
	}
	t.mu.Lock()
	t.tracked = append(t.tracked, e)
	endpoints, bypass := t.untracked(), t.bypassed()
	t.mu.Unlock()
	if err := in.SetEndpoints(endpoints); err != nil {
		t.log.Error("endpoint cannot be asked through conntrack", "endpoint", e, "err", err)
		return
	}
	if err := in.SetBypass(bypass); err != nil {
		t.log.Error("endpoint is not bypassed", "endpoint", e, "err", err)
	}
	t.log.Warn("endpoint answers only through conntrack, and is asked so", "endpoint", e)
}

// legNotes says in words which endpoints are asked through conntrack. The caller holds mu.
func (t *interception) legNotes() []string {
	var out []string
	for _, e := range t.endpoints {
		if slices.Contains(t.tracked, e) {
			out = append(out, fmt.Sprintf("%v is asked through conntrack: its answers to untracked questions do not come back (a stateful firewall or a masquerade on the way)", e))
		}
	}
	return out
}

// wait waits for d; false: ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
