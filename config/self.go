package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// Self is the set of addresses at which we answer ourselves. Asking one of them would be a loop.
type Self struct {
	Listen []netip.AddrPort // an unspecified address stands for all of this machine
	Own    []netip.Prefix   // interception's own addresses
	VIPs   []netip.Addr     // what interception takes over; kube-proxy's way to them remains open to a last resort
	// IsLocal reports whether an address is one of this machine's. It is asked only for the port of an
	// unspecified Listen. nil: only loopback is.
	IsLocal func(netip.Addr) bool
}

// Self returns the addresses c makes ours. An agent that listens on port 0 appends what it got to Listen.
func (c Config) Self(isLocal func(netip.Addr) bool) Self {
	s := Self{
		Listen:  slices.Clone(c.Listen),
		Own:     []netip.Prefix{c.Intercept.Addresses4, c.Intercept.Addresses6},
		IsLocal: isLocal,
	}
	if c.Intercept.Enabled() {
		s.VIPs = slices.Clone(c.Intercept.VIPs)
	}
	return s
}

// Filter returns u, whose Endpoints have been resolved, without the endpoints and the last resort that are ourselves,
// and a warning for each of those; name is the group's. u itself is not changed. Nothing may be left: then every
// question for the group fails, and for it only.
func (s Self) Filter(name string, u Upstream) (Upstream, []Warning) {
	var warnings []Warning
	path := "upstreams." + name
	drop := func(path string, e netip.AddrPort, lastResort bool) bool {
		why := s.why(e, lastResort)
		if why != "" {
			warnings = append(warnings, Warning{Path: path, Reason: fmt.Sprintf("%s is not asked: %s", e, why)})
		}
		return why != ""
	}
	var kept []netip.AddrPort
	for i, e := range u.Endpoints {
		if !drop(fmt.Sprintf("%s.endpoints[%d]", path, i), e, false) {
			kept = append(kept, e)
		}
	}
	u.Endpoints = kept
	if u.LastResort.IsValid() && drop(path+".lastResort", u.LastResort, true) {
		u.LastResort = netip.AddrPort{}
	}
	return u, warnings
}

// why says in which way e is ourselves, or "".
func (s Self) why(e netip.AddrPort, lastResort bool) string {
	for _, l := range s.Listen {
		if l == e {
			return "dnslet itself listens there"
		}
		if l.Port() == e.Port() && l.Addr().IsUnspecified() && (l.Addr().Is6() || e.Addr().Is4()) && s.local(e.Addr()) {
			return fmt.Sprintf("it is this machine, and dnslet itself listens on %s", l)
		}
	}
	for _, p := range s.Own {
		if p.Contains(e.Addr()) {
			return "it is one of dnslet's own addresses"
		}
	}
	// A VIP as an ordinary endpoint would be intercepted; the last resort has a mark that is let through.
	if !lastResort && e.Port() == DNSPort && slices.Contains(s.VIPs, e.Addr()) {
		return "it is a virtual IP that dnslet answers for; give it as lastResort"
	}
	return ""
}

func (s Self) local(a netip.Addr) bool {
	return a.IsLoopback() || s.IsLocal != nil && s.IsLocal(a)
}

// own reports whether a is in the blocks that interception uses.
func (i Intercept) own(a netip.Addr) bool {
	return i.Addresses4.Contains(a) || i.Addresses6.Contains(a)
}

// Warnings returns what is allowed in c but not what its writer may believe, by the configuration alone: nothing of
// the machine is looked at.
func (c Config) Warnings() []Warning {
	var out []Warning
	self := c.Self(nil)
	for _, name := range sortedKeys(c.Upstreams) {
		_, w := self.Filter(name, c.Upstreams[name])
		out = append(out, w...)
	}
	for _, z := range c.Zones {
		path := fmt.Sprintf("zones[%s]", z.Name)
		// RFC 6761: answered without asking anybody, whatever a zone says.
		if within(z.Name, "localhost.") || within(z.Name, "invalid.") {
			out = append(out, Warning{Path: path, Reason: "has no effect: names in localhost and invalid are answered by dnslet itself (RFC 6761)"})
		}
		if c.Intercept.Enabled() && (z.Upstream != DefaultUpstream || len(z.Hosts) > 0) {
			out = append(out, Warning{Path: path, Reason: "not fail-open: while dnslet does not answer, cluster DNS does, and it may answer these names differently"})
		}
	}
	if a := c.Admin.Listen.Addr(); !a.IsLoopback() {
		out = append(out, Warning{Path: "admin.listen", Reason: "is not on loopback, and has no authentication: who reaches it can read the state and the profiles"})
	}
	return out
}

// empty reports the groups that have neither endpoint nor last resort once what is ourselves is dropped. Groups that
// come from a resolv.conf are not judged: they depend on the machine.
func (c Config) empty() error {
	var errs Errors
	self := c.Self(nil)
	for _, name := range sortedKeys(c.Upstreams) {
		u, _ := self.Filter(name, c.Upstreams[name])
		if u.ResolvConf == "" && len(u.Endpoints) == 0 && !u.LastResort.IsValid() {
			errs = append(errs, Problem{Path: "upstreams." + name, Reason: "nothing is left to ask: every endpoint is dnslet itself", Suggestion: "give the address of another resolver"})
		}
	}
	if errs == nil {
		return nil
	}
	return errs
}
