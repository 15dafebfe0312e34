package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// MaxVIPs is how many virtual IPs of one family a block of our own addresses has listeners for.
const MaxVIPs = 10

// What the rules take: endpoints of cluster DNS, and sources in the scope and in the bypass each. Every endpoint may have to
// become a source that is bypassed, too, so fewer sources than package intercept takes.
const (
	MaxEndpoints = 500
	MaxSources   = 1500
)

// kubeMarks are the bits of a packet's mark that kube-proxy (0x4000: masquerade) and the kubelet (0x8000: drop) act on.
const kubeMarks = 0x4000 | 0x8000

// Validate checks the whole before any of it is used: each value as Parse would, and what concerns several keys. Parse
// has called it; who builds a Config in code calls it before use. The error is Errors, without lines. An upstream that is
// ourselves is no error here, see Self.
func (c Config) Validate() error {
	var errs Errors
	table().check(&c, "", &errs)
	v := &validation{}
	v.listen(c)
	v.upstreams(c)
	v.cache(c.Cache)
	v.zones(c)
	v.intercept(c.Intercept)
	v.limits(c.Limits)
	if errs = errs.add(v.errs); len(errs) > 0 {
		return errs
	}
	return nil
}

// add appends those of more that do not follow from a value e has found wrong: at the same key, above or below it.
func (e Errors) add(more Errors) Errors {
	all := slices.Clip(e)
	for _, p := range more {
		if !slices.ContainsFunc(e, func(o Problem) bool { return under(p.Path, o.Path) || under(o.Path, p.Path) }) {
			all = append(all, p)
		}
	}
	return all
}

// under reports whether key a is key b or below it.
func under(a, b string) bool {
	rest, ok := strings.CutPrefix(a, b)
	return ok && b != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

type validation struct{ errs Errors }

func (v *validation) fail(path, suggestion, reason string, args ...any) {
	v.errs = append(v.errs, Problem{Path: path, Reason: fmt.Sprintf(reason, args...), Suggestion: suggestion})
}

// each calls f with every element that was not there before, and reports the others.
func each[V comparable](v *validation, path string, list []V, f func(path string, e V)) {
	for i, e := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		if slices.Contains(list[:i], e) {
			v.fail(at, "remove one", "%v is given twice", e)
			continue
		}
		f(at, e)
	}
}

// collide reports whether one socket at a and one at b cannot be bound both.
func collide(a, b netip.AddrPort) bool {
	if a.Port() != b.Port() || a.Port() == 0 {
		return false
	}
	if a.Addr().IsUnspecified() || b.Addr().IsUnspecified() {
		return a.Addr().Is4() == b.Addr().Is4() || a.Addr().Is6() && a.Addr().IsUnspecified() || b.Addr().Is6() && b.Addr().IsUnspecified()
	}
	return a.Addr() == b.Addr()
}

func (v *validation) listen(c Config) {
	if len(c.Listen) == 0 && !c.Intercept.Enabled() {
		v.fail("listen", "give an address, or intercept.vips", "there is nothing to answer on")
	}
	each(v, "listen", c.Listen, func(path string, l netip.AddrPort) {
		switch {
		case l.Addr().IsMulticast():
			v.fail(path, "", "%s is a multicast address", l.Addr())
		case c.Intercept.own(l.Addr()):
			v.fail(path, "remove it: interception listens there by itself", "%s is in dnslet's own addresses", l.Addr())
		case c.Intercept.Enabled() && slices.Contains(c.Intercept.VIPs, l.Addr()):
			v.fail(path, "remove it: interception answers for it", "%s is a virtual IP and must not be an address of the node", l.Addr())
		case c.Intercept.Enabled() && l.Addr().IsUnspecified() && l.Port() == DNSPort:
			v.fail(path, "name the addresses one by one", "%s takes port 53 of dnslet's own addresses, too", l)
		}
		for _, o := range c.Listen {
			if o != l && l.Addr().IsUnspecified() && collide(l, o) {
				v.fail(path, "remove one", "%s takes %s, too", l, o)
			}
		}
		if collide(l, c.Admin.Listen) {
			v.fail("admin.listen", "use another port", "clashes with listen %s", l)
		}
	})
	if a := c.Admin.Listen.Addr(); a.IsMulticast() || c.Intercept.own(a) {
		v.fail("admin.listen", "use 127.0.0.1 or an address of the node", "%s cannot be served", a)
	}
}

func (v *validation) upstreams(c Config) {
	if _, ok := c.Upstreams[DefaultUpstream]; !ok {
		v.fail("upstreams", "add it", "there is no group %q", DefaultUpstream)
	}
	for _, name := range sortedKeys(c.Upstreams) {
		u, path := c.Upstreams[name], "upstreams."+name
		switch {
		case len(u.Endpoints) > 0 && u.ResolvConf != "":
			v.fail(path, "remove one of them", "has both endpoints and resolvConf")
		case len(u.Endpoints) == 0 && u.ResolvConf == "":
			v.fail(path, "give endpoints or resolvConf", "the group is empty")
		}
		if name == DefaultUpstream && c.Intercept.Enabled() && len(u.Endpoints) > MaxEndpoints {
			v.fail(path+".endpoints", "", "has %d elements: interception takes at most %d", len(u.Endpoints), MaxEndpoints)
		}
		each(v, path+".endpoints", u.Endpoints, func(path string, e netip.AddrPort) { v.asked(path, e) })
		if u.LastResort.IsValid() {
			v.asked(path+".lastResort", u.LastResort)
		}
	}
}

// asked refuses addresses that nobody can answer from. 0.0.0.0 is this host to Linux: say which address is meant.
func (v *validation) asked(path string, e netip.AddrPort) {
	if a := e.Addr(); a.IsMulticast() || a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		v.fail(path, "write the address of a resolver", "%s cannot be asked", a)
	}
}

func (v *validation) cache(c Cache) {
	if c.MinTTL > c.MaxTTL {
		v.fail("cache.minTTL", "", "%s is above cache.maxTTL, %s", formatDuration(c.MinTTL), formatDuration(c.MaxTTL))
	}
}

func (v *validation) zones(c Config) {
	zones, hosts := map[string]string{}, map[string]string{}
	for i, z := range c.Zones {
		if len(v.errs) > maxProblems {
			return // no more is shown
		}
		path := fmt.Sprintf("zones[%d]", i)
		if first, ok := zones[z.Name]; ok {
			v.fail(path+".zone", "merge them", "zone %s is given twice, first as %s", z.Name, first)
		} else {
			zones[z.Name] = path
		}
		if _, ok := c.Upstreams[z.Upstream]; !ok {
			names := sortedKeys(c.Upstreams)
			hint := "there are: " + strings.Join(names, ", ")
			if w := nearest(z.Upstream, names); w != "" {
				hint = fmt.Sprintf("did you mean %q?", w)
			}
			v.fail(path+".upstream", hint, "there is no group %q", z.Upstream)
		}
		if z.MinTTL > z.MaxTTL {
			v.fail(path+".minTTL", "set both in the zone", "%s is above maxTTL, %s", formatDuration(z.MinTTL), formatDuration(z.MaxTTL))
		}
		for j, h := range z.Hosts {
			v.host(fmt.Sprintf("%s.hosts[%d]", path, j), z, h, hosts)
		}
	}
}

func (v *validation) host(path string, z Zone, h Host, seen map[string]string) {
	if first, ok := seen[h.Name]; ok {
		v.fail(path+".name", "merge them", "%s is given twice, first as %s", h.Name, first)
	} else {
		seen[h.Name] = path
	}
	if !within(h.Name, z.Name) {
		hint := "write the whole name, or move it to a zone that holds it"
		if strings.Count(h.Name, ".") == 1 {
			hint = "write " + h.Name + strings.TrimSuffix(z.Name, ".")
		}
		v.fail(path+".name", hint, "%s is not in zone %s", h.Name, z.Name)
	}
	if len(h.Addresses) == 0 {
		v.fail(path+".addresses", "give one, or remove the host", "there is no address")
	}
	each(v, path+".addresses", h.Addresses, func(path string, a netip.Addr) {
		if a.IsMulticast() {
			v.fail(path, "", "%s is a multicast address", a)
		}
	})
}

// within reports whether name is zone or below it; both are absolute and folded.
func within(name, zone string) bool {
	return zone == "." || name == zone || strings.HasSuffix(name, "."+zone)
}

func (v *validation) intercept(i Intercept) {
	if i.Mode == ModeOn && len(i.VIPs) == 0 {
		v.fail("intercept.vips", "give the ClusterIP of the cluster DNS Service", "mode is on, but there is no virtual IP to take over")
	}
	v.block("intercept.addresses4", i.Addresses4, i.Addresses4.Addr().Is4(), "IPv4", 24)
	v.block("intercept.addresses6", i.Addresses6, i.Addresses6.Addr().Is6(), "IPv6", 120)
	count := map[bool]int{}
	each(v, "intercept.vips", i.VIPs, func(path string, vip netip.Addr) {
		switch count[vip.Is4()]++; {
		case vip.IsLoopback() || vip.IsMulticast() || vip.IsUnspecified():
			v.fail(path, "give the ClusterIP of the cluster DNS Service", "%s is no address a Service can have", vip)
		case i.own(vip):
			v.fail(path, "choose another block for intercept.addresses4 or addresses6", "%s is in dnslet's own addresses", vip)
		case count[vip.Is4()] == MaxVIPs+1:
			v.fail(path, "", "there are more than %d virtual IPs of one family: dnslet's own addresses are too few", MaxVIPs)
		}
	})
	v.marks(i.Marks)
	each(v, "intercept.uplinks", i.Uplinks, func(string, string) {})
	v.sources("intercept.scope", i.Scope)
	v.sources("intercept.bypass", i.Bypass)
	each(v, "intercept.scope", i.Scope, func(string, netip.Prefix) {})
	each(v, "intercept.bypass", i.Bypass, func(path string, p netip.Prefix) {
		if slices.Contains(i.Scope, p) {
			v.fail(path, "remove one", "%s is in intercept.scope, too", p)
		}
	})
}

func (v *validation) sources(path string, sources []netip.Prefix) {
	if len(sources) > MaxSources {
		v.fail(path, "write blocks instead of addresses", "has %d elements: interception takes at most %d", len(sources), MaxSources)
	}
}

// block checks a block of our own addresses, of which the longest length allowed has room for the prober and MaxVIPs.
func (v *validation) block(path string, p netip.Prefix, family bool, name string, shortest int) {
	switch a := p.Addr(); {
	case !family:
		v.fail(path, "", "%s is no block of %s addresses", p, name)
	case p.Bits() < shortest || p.Bits() > shortest+4:
		v.fail(path, fmt.Sprintf("use /%d to /%d", shortest, shortest+4), "%s has the wrong size: there must be room for %d virtual IPs", p, MaxVIPs)
	case a.IsLoopback() || a.IsMulticast() || a.IsUnspecified():
		v.fail(path, "", "%s cannot be addresses of this node", p)
	}
}

func (v *validation) marks(m Marks) {
	type mark struct {
		path  string
		value uint32
	}
	all := []mark{{"intercept.marks.listener", m.Listener}, {"intercept.marks.upstream", m.Upstream}, {"intercept.marks.lastResort", m.LastResort}}
	for i, a := range all {
		if a.value&kubeMarks != 0 {
			v.fail(a.path, "use a value without the bits 0x4000 and 0x8000", "%#x is a mark kube-proxy or the kubelet acts on", a.value)
		}
		for _, b := range all[:i] {
			if a.value == b.value {
				v.fail(a.path, "use a value of its own", "%#x is %s, too", a.value, b.path)
			}
		}
	}
}

func (v *validation) limits(l Limits) {
	if l.PerSource > l.InFlight {
		v.fail("limits.perSource", fmt.Sprintf("use at most %d, or raise limits.inFlight", l.InFlight), "%d of one source are more than %d in all", l.PerSource, l.InFlight)
	}
	if l.TCPPerSource > l.TCPConnections {
		v.fail("limits.tcpPerSource", fmt.Sprintf("use at most %d, or raise limits.tcpConnections", l.TCPConnections), "%d of one source are more than %d in all", l.TCPPerSource, l.TCPConnections)
	}
}
