package intercept

import (
	"flag"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "write testdata anew")

func example() Config {
	cfg := Default()
	cfg.VIPs = []netip.Addr{netip.MustParseAddr("172.20.0.10"), netip.MustParseAddr("172.20.0.11"), netip.MustParseAddr("fd00:20::a")}
	cfg.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("10.98.1.2:53"), netip.MustParseAddrPort("10.98.2.2:5353"), netip.MustParseAddrPort("[fd00:98::2]:53")}
	cfg.Uplinks = []string{"eth0"}
	cfg.Bypass = []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32")}
	cfg.Scope = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	return cfg
}

// The whole plan as people see it. Review a change of the file as code.
//
// Red when: any rule, set or address changes.
func TestPlanText(t *testing.T) {
	p, err := NewPlan(example())
	if err != nil {
		t.Fatal(err)
	}
	if *rewrite {
		if err := os.WriteFile("testdata/plan.txt", []byte(p.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/plan.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), p.String()); diff != "" {
		t.Errorf("plan differs from testdata/plan.txt (-want +got); -rewrite writes it anew:\n%s", diff)
	}
}

// One address per VIP in the order given, the prober apart, families apart.
//
// Red when: listenerOffset or proberOffset changes, or an address is given twice.
func TestListeners(t *testing.T) {
	p, err := NewPlan(example())
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	want := []Listener{
		{addr("172.20.0.10"), addr("169.254.53.53")},
		{addr("172.20.0.11"), addr("169.254.53.54")},
		{addr("fd00:20::a"), addr("fd64:6e73:6c65:74::35")},
	}
	if diff := cmp.Diff(want, p.Listeners(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("listeners (-want +got):\n%s", diff)
	}
	if got := p.Probers(); len(got) != 2 || got[0] != addr("169.254.53.49") || got[1] != addr("fd64:6e73:6c65:74::31") {
		t.Errorf("probers %v", got)
	}
	cfg := example()
	cfg.VIPs, cfg.Endpoints = cfg.VIPs[:1], cfg.Endpoints[:1]
	if p, err = NewPlan(cfg); err != nil || strings.Contains(p.String(), "table ip6") {
		t.Errorf("a plan without IPv6 has a table for it (%v)", err)
	}
	cfg = example()
	cfg.VIPs = nil
	for n := range maxListeners {
		cfg.VIPs = append(cfg.VIPs, netip.AddrFrom4([4]byte{172, 20, 0, byte(n + 1)}))
	}
	p, err = NewPlan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if last := p.Listeners()[maxListeners-1].Addr; last != addr("169.254.53.62") {
		t.Errorf("the tenth listener is %s", last)
	}
}

// A configuration that would make wrong rules is refused, with the value and the reason.
//
// Red when: any case of validate or validateAddresses is left out.
func TestBadConfig(t *testing.T) {
	addr, port, prefix := netip.MustParseAddr, netip.MustParseAddrPort, netip.MustParsePrefix
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"zero config":         {func(c *Config) { *c = Config{} }, "own IPv4 addresses"},
		"host bits":           {func(c *Config) { c.Block4 = prefix("169.254.53.53/28") }, "write 169.254.53.48/28"},
		"block too small":     {func(c *Config) { c.Block4 = prefix("169.254.53.48/30") }, "between /24 and /28"},
		"block too large":     {func(c *Config) { c.Block6 = prefix("fd64::/64") }, "between /120 and /124"},
		"block of loopback":   {func(c *Config) { c.Block4 = prefix("127.0.0.48/28") }, "cannot be addresses of ours"},
		"families swapped":    {func(c *Config) { c.Block4 = c.Block6 }, "not a prefix of that family"},
		"mark zero":           {func(c *Config) { c.Marks.Upstream = 0 }, "not zero"},
		"marks equal":         {func(c *Config) { c.Marks.LastResort = c.Marks.Listener }, "different"},
		"no rate":             {func(c *Config) { c.Rate = 0 }, "rate 0"},
		"heartbeat too short": {func(c *Config) { c.Heartbeat = 1 }, "heartbeat 1ns"},
		"table name":          {func(c *Config) { c.Table = "dns let" }, `table name "dns let"`},
		"probe name":          {func(c *Config) { c.ProbeName = "probe" }, "ends with a dot"},
		"uplink name":         {func(c *Config) { c.Uplinks = []string{"a/b"} }, `uplink "a/b"`},
		"VIP unspecified":     {func(c *Config) { c.VIPs = []netip.Addr{addr("0.0.0.0")} }, "VIP 0.0.0.0"},
		"VIP of loopback":     {func(c *Config) { c.VIPs = []netip.Addr{addr("127.0.0.1")} }, "VIP 127.0.0.1"},
		"VIP with a zone":     {func(c *Config) { c.VIPs = []netip.Addr{addr("fe80::1%eth0")} }, "VIP fe80::1%eth0"},
		"VIP of ours":         {func(c *Config) { c.VIPs = []netip.Addr{addr("169.254.53.53")} }, "in our own addresses"},
		"VIP twice":           {func(c *Config) { c.VIPs = append(c.VIPs, c.VIPs[0]) }, "named twice"},
		"endpoint is VIP":     {func(c *Config) { c.Endpoints = []netip.AddrPort{port("172.20.0.10:53")} }, "is a VIP"},
		"endpoint is ours":    {func(c *Config) { c.Endpoints = []netip.AddrPort{port("169.254.53.53:53")} }, "ask ourselves"},
		"endpoint port":       {func(c *Config) { c.Endpoints = []netip.AddrPort{port("10.0.0.1:0")} }, "endpoint 10.0.0.1:0"},
		"scope invalid":       {func(c *Config) { c.Scope = []netip.Prefix{{}} }, "not an IPv4 or IPv6 prefix"},
		"too many endpoints":  {func(c *Config) { c.Endpoints = make([]netip.AddrPort, maxEndpoints+1) }, "501 endpoints"},
		"scope too long":      {func(c *Config) { c.Scope = make([]netip.Prefix, maxSources+1) }, "2001 sources in the scope"},
		"bypass too long":     {func(c *Config) { c.Bypass = make([]netip.Prefix, maxSources+1) }, "2001 sources to bypass"},
		"too many VIPs": {func(c *Config) {
			for n := range 11 {
				c.VIPs = append(c.VIPs, netip.AddrFrom4([4]byte{10, 0, 0, byte(n + 1)}))
			}
		}, "at most 10"},
	} {
		cfg := example()
		c.change(&cfg)
		if _, err := NewPlan(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
}

// Prefixes that others contain are left out, in any order; neighbours stay.
//
// Red when: prefixElems does not sort, or does not compare.
func TestPrefixElems(t *testing.T) {
	f := newFamily4(Default().Block4)
	var in []netip.Prefix
	for _, s := range []string{"10.1.0.0/16", "fd00::/8", "10.0.0.0/8", "10.0.0.0/8", "11.0.0.0/9", "11.128.0.0/9", "11.0.0.1/32", "192.168.1.7/24", "0.0.0.1/32"} {
		in = append(in, netip.MustParsePrefix(s))
	}
	var got []string
	for _, e := range prefixElems(f, in) {
		got = append(got, e.prefix.String())
	}
	if diff := cmp.Diff([]string{"0.0.0.1/32", "10.0.0.0/8", "11.0.0.0/9", "11.128.0.0/9", "192.168.1.0/24"}, got); diff != "" {
		t.Errorf("elements (-want +got):\n%s", diff)
	}
}

// Every term that a rule jumps to, every set and every counter that it names exists: the kernel would refuse the table.
//
// Red when: a chain, set or counter is renamed in one place only.
func TestRulesNameWhatExists(t *testing.T) {
	p, err := NewPlan(example())
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, tab := range p.tables {
		for _, c := range tab.chains {
			for _, r := range c.rules {
				for _, term := range r.terms {
					switch v := term.(type) {
					case verdict:
						if v.chain != "" && tab.chain(v.chain) == nil {
							t.Errorf("%s: no chain %s", c.name, v.chain)
						}
					case count:
						used[v.name] = true
						if !slices.Contains(tab.counters, v.name) {
							t.Errorf("%s: no counter %s", c.name, v.name)
						}
					case inSet:
						if tab.set(v.set) == nil {
							t.Errorf("%s: no set %s", c.name, v.set)
						}
					case translate:
						if s := tab.set(v.by); s == nil || !s.mapped {
							t.Errorf("%s: no map %s", c.name, v.by)
						}
					}
				}
			}
		}
	}
	for _, name := range counterNames {
		if !used[name] {
			t.Errorf("counter %s counts nothing", name)
		}
	}
}
