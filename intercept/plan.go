package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Where our own addresses lie in a block: the prober at +1, listeners from +5 on, so that with the default block the agent
// answers on 169.254.53.53, .54 and so on up to .62, one for each VIP. The rest of the block is held back.
const (
	proberOffset   = 1
	listenerOffset = 5
	maxListeners   = 10
)

// A transaction is one message to the kernel, which takes at most 416 KiB of one (twice the default of net.core.wmem_max). The
// rules take 60, an endpoint 100 bytes, a source of IPv6 64.
const (
	maxEndpoints = 500
	maxSources   = 2000 // of Scope, and of Bypass
)

// dnsPort is the port of the VIPs and of the listeners. Endpoints have their own.
const dnsPort = 53

// Plan is everything that will be written to the kernel, as data. It is immutable and safe for concurrent use.
type Plan struct {
	cfg       Config
	listeners []Listener
	families  []*family
	tables    []*table
}

// NewPlan checks cfg, gives each VIP an address of ours and writes the rules down. It reads nothing from the machine.
func NewPlan(cfg Config) (*Plan, error) {
	cfg = cfg.clone()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("cannot plan the interception: %w", err)
	}
	p := &Plan{cfg: cfg}
	for _, f := range []*family{newFamily4(cfg.Block4), newFamily6(cfg.Block6)} {
		for _, vip := range cfg.VIPs {
			if f.holds(vip) {
				f.listeners = append(f.listeners, Listener{VIP: vip, Addr: f.address(listenerOffset + len(f.listeners))})
			}
		}
		if len(f.listeners) > maxListeners {
			return nil, fmt.Errorf("cannot plan the interception: %d VIPs of family %s, at most %d fit", len(f.listeners), f, maxListeners)
		}
		// A family without a VIP still gets its table where an endpoint of it is asked: that leg is untracked as well.
		if len(f.listeners) == 0 && !slices.ContainsFunc(cfg.Endpoints, func(e netip.AddrPort) bool { return f.holds(e.Addr()) }) {
			continue
		}
		p.families = append(p.families, f)
		p.listeners = append(p.listeners, f.listeners...)
		p.tables = append(p.tables, newTable(&p.cfg, f))
	}
	return p, nil
}

// Config returns a copy of what the plan was made from.
func (p *Plan) Config() Config { return p.cfg.clone() }

// Listeners returns the addresses to bind, one per VIP, IPv4 before IPv6.
func (p *Plan) Listeners() []Listener { return slices.Clone(p.listeners) }

// Probers returns the addresses that the prober asks from, one per family of the VIPs. Questions from them are the agent's own.
func (p *Plan) Probers() []netip.Addr {
	var out []netip.Addr
	for _, f := range p.families {
		if len(f.listeners) > 0 {
			out = append(out, f.prober)
		}
	}
	return out
}

// String prints the plan in the words of nft, for people: the local routes as comments, then the tables.
func (p *Plan) String() string {
	var b strings.Builder
	for i, t := range p.tables {
		if i > 0 {
			b.WriteByte('\n')
		}
		if len(p.families[i].listeners) > 0 {
			fmt.Fprintf(&b, "# route: local %s dev lo table local\n", p.families[i].block)
		}
		t.print(&b)
	}
	return b.String()
}

func (c Config) clone() Config {
	c.VIPs, c.Endpoints, c.Uplinks = slices.Clone(c.VIPs), slices.Clone(c.Endpoints), slices.Clone(c.Uplinks)
	c.Scope, c.Bypass = slices.Clone(c.Scope), slices.Clone(c.Bypass)
	return c
}

// validate reports the first thing that would make rules that are wrong or that the kernel refuses.
func (c *Config) validate() error {
	if err := validBlock(c.Block4, 24, 28, c.Block4.Addr().Is4()); err != nil {
		return fmt.Errorf("own IPv4 addresses %s: %w", c.Block4, err)
	}
	if err := validBlock(c.Block6, 120, 124, c.Block6.Addr().Is6() && !c.Block6.Addr().Is4In6()); err != nil {
		return fmt.Errorf("own IPv6 addresses %s: %w", c.Block6, err)
	}
	m := c.Marks
	if m.Listener == 0 || m.Upstream == 0 || m.LastResort == 0 || m.Listener == m.Upstream || m.Listener == m.LastResort || m.Upstream == m.LastResort {
		return fmt.Errorf("marks %#x, %#x, %#x: must be different and not zero", m.Listener, m.Upstream, m.LastResort)
	}
	if c.Rate == 0 {
		return errors.New("rate 0: would intercept nothing")
	}
	if c.Heartbeat < 100*time.Millisecond || c.Heartbeat > 10*time.Second {
		return fmt.Errorf("heartbeat %s: must be between 100ms and 10s", c.Heartbeat)
	}
	if !validTable(c.Table) {
		return fmt.Errorf("table name %q: must be 1 to 64 letters, digits, '_' or '-', and begin with a letter", c.Table)
	}
	if _, err := question(c.ProbeName); err != nil {
		return fmt.Errorf("probe name %q: %w", c.ProbeName, err)
	}
	for _, u := range c.Uplinks {
		if u == "" || len(u) > 15 || strings.ContainsAny(u, "/ \t\n") {
			return fmt.Errorf("uplink %q: not the name of an interface", u)
		}
	}
	return c.validateAddresses()
}

func (c *Config) validateAddresses() error {
	switch {
	case len(c.Endpoints) > maxEndpoints:
		return fmt.Errorf("%d endpoints: at most %d", len(c.Endpoints), maxEndpoints)
	case len(c.Scope) > maxSources:
		return fmt.Errorf("%d sources in the scope: at most %d", len(c.Scope), maxSources)
	case len(c.Bypass) > maxSources:
		return fmt.Errorf("%d sources to bypass: at most %d", len(c.Bypass), maxSources)
	}
	own := func(a netip.Addr) bool { return c.Block4.Contains(a) || c.Block6.Contains(a) }
	seen := map[netip.Addr]bool{}
	for _, v := range c.VIPs {
		switch {
		case !usable(v):
			return fmt.Errorf("VIP %s: not a unicast address that a Service can have", v)
		case own(v):
			return fmt.Errorf("VIP %s: lies in our own addresses", v)
		case seen[v]:
			return fmt.Errorf("VIP %s: named twice", v)
		}
		seen[v] = true
	}
	for _, e := range c.Endpoints {
		switch {
		case !usable(e.Addr()) || e.Port() == 0:
			return fmt.Errorf("endpoint %s: not an address and port that can be asked", e)
		case own(e.Addr()):
			return fmt.Errorf("endpoint %s: lies in our own addresses, we would ask ourselves", e)
		case seen[e.Addr()]:
			return fmt.Errorf("endpoint %s: is a VIP, which is asked as the last resort only", e)
		}
	}
	return validPrefixes(append(slices.Clone(c.Scope), c.Bypass...))
}

func validPrefixes(ps []netip.Prefix) error {
	for _, p := range ps {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("source %s: not an IPv4 or IPv6 prefix", p)
		}
	}
	return nil
}

func validBlock(p netip.Prefix, least, most int, familyOK bool) error {
	switch {
	case !p.IsValid() || !familyOK:
		return errors.New("not a prefix of that family")
	case p != p.Masked():
		return fmt.Errorf("has host bits set, write %s", p.Masked())
	case p.Bits() < least || p.Bits() > most:
		return fmt.Errorf("must be between /%d and /%d", least, most)
	case p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsUnspecified():
		return errors.New("cannot be addresses of ours")
	}
	return nil
}

// usable excludes addresses that cannot be a VIP or an endpoint. A zone would be lost in the rules.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.Zone() == "" && !a.IsLoopback() && !a.IsMulticast() && !a.IsUnspecified()
}

func validTable(name string) bool {
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || (r < '0' || r > '9') && r != '_' && r != '-') {
			return false
		}
	}
	return name != "" && len(name) <= 64
}

// family is what differs between the tables of IPv4 and IPv6.
type family struct {
	name      string // of the table: ip or ip6
	v6        bool
	block     netip.Prefix
	prober    netip.Addr
	loopback  netip.Prefix
	all       netip.Prefix
	listeners []Listener
}

func newFamily4(block netip.Prefix) *family {
	f := &family{name: "ip", block: block, loopback: netip.MustParsePrefix("127.0.0.0/8"), all: netip.MustParsePrefix("0.0.0.0/0")}
	f.prober = f.address(proberOffset)
	return f
}

func newFamily6(block netip.Prefix) *family {
	f := &family{name: "ip6", v6: true, block: block, loopback: netip.MustParsePrefix("::1/128"), all: netip.MustParsePrefix("::/0")}
	f.prober = f.address(proberOffset)
	return f
}

func (f *family) String() string { return f.name }

// holds tells whether a belongs to this family.
func (f *family) holds(a netip.Addr) bool { return a.Is6() == f.v6 }

// address returns the n-th address of the block. The last byte cannot overflow: n is at most 14 and blocks are aligned to 16.
func (f *family) address(n int) netip.Addr {
	b := f.block.Addr().AsSlice()
	b[len(b)-1] += byte(n)
	a, _ := netip.AddrFromSlice(b)
	return a
}
