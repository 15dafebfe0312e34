package intercept

import (
	"flag"
	"net/netip"
	"os"
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
