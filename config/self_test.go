package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var byValue = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func endpoints(list ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

// Red when: why forgets one of the cases, or an IPv4 listener is taken to hold IPv6 addresses.
func TestFilterDropsOurselves(t *testing.T) {
	self := Self{
		Listen: endpoints("127.0.0.1:53", "0.0.0.0:5353", "[::]:5454"),
		Own:    []netip.Prefix{netip.MustParsePrefix("169.254.53.48/28")},
		VIPs:   []netip.Addr{netip.MustParseAddr("172.20.0.10")},
		IsLocal: func(a netip.Addr) bool {
			return a == netip.MustParseAddr("10.0.0.7") || a == netip.MustParseAddr("fd00::7")
		},
	}
	ours := endpoints("127.0.0.1:53", "127.9.9.9:5353", "10.0.0.7:5353", "10.0.0.7:5454", "[fd00::7]:5454", "[::1]:5454",
		"169.254.53.60:1053", "172.20.0.10:53")
	others := endpoints("127.0.0.53:53", "127.0.0.1:54", "10.0.0.7:53", "10.0.0.8:5353", "[fd00::7]:5353", "172.20.0.10:5353", "172.20.0.11:53")
	u := Upstream{Endpoints: append(append([]netip.AddrPort(nil), ours...), others...), LastResort: netip.MustParseAddrPort("172.20.0.10:53")}
	got, warnings := self.Filter("default", u)
	if diff := cmp.Diff(others, got.Endpoints, byValue); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	if len(warnings) != len(ours) {
		t.Errorf("%d warnings for %d endpoints: %v", len(warnings), len(ours), warnings)
	}
	if got.LastResort != u.LastResort {
		t.Error("the virtual IP is dropped as the last resort, which has a way round interception")
	}
	if len(u.Endpoints) != len(ours)+len(others) || u.Endpoints[0] != ours[0] {
		t.Error("Filter changed what it was given")
	}
	got, warnings = self.Filter("x", Upstream{Endpoints: ours[:1], LastResort: ours[1]})
	if len(got.Endpoints) != 0 || got.LastResort.IsValid() || len(warnings) != 2 || warnings[1].Path != "upstreams.x.lastResort" {
		t.Errorf("only ourselves: %v, %v", got, warnings)
	}
}

// Red when: Parse is as strict as Check, and a running agent refuses a file for one group.
func TestParseServesTheRest(t *testing.T) {
	text := "listen: ['127.0.0.1:53']\nupstreams: {default: {endpoints: [10.0.0.1]}, us: {endpoints: [127.0.0.1]}}\n"
	if _, err := Parse([]byte(text), "f"); err != nil {
		t.Errorf("Parse: %v", err)
	}
	if _, _, err := Check([]byte(text), "f"); err == nil || !strings.Contains(err.Error(), "f:2:51: upstreams.us: nothing is left to ask") {
		t.Errorf("Check: %v", err)
	}
}

// Red when: intercept.mode off still drops virtual IPs.
func TestSelfWithoutInterception(t *testing.T) {
	c := Default()
	c.Intercept.Mode, c.Intercept.VIPs = ModeOff, []netip.Addr{netip.MustParseAddr("172.20.0.10")}
	if vips := c.Self(nil).VIPs; vips != nil {
		t.Errorf("ours without interception: %v", vips)
	}
}

// Red when: Resolve keeps port 0, or a file without nameservers becomes a group that asks nobody without a word.
func TestResolve(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	u := Upstream{Transport: TCP, ResolvConf: path}
	if _, err := u.Resolve(); err == nil {
		t.Error("a missing file is no error")
	}
	write("search example\n")
	if got, err := u.Resolve(); err == nil {
		t.Errorf("without nameservers: %v", got)
	}
	write("nameserver 192.0.2.1\nnameserver fe80::1%eth0\n")
	got, err := u.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	want := Upstream{Transport: TCP, ResolvConf: path, Endpoints: endpoints("192.0.2.1:53", "[fe80::1%eth0]:53")}
	if diff := cmp.Diff(want, got, byValue); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	fixed := Upstream{Endpoints: endpoints("192.0.2.9:53")}
	if got, err := fixed.Resolve(); err != nil || cmp.Diff(fixed, got, byValue) != "" {
		t.Errorf("without a resolv.conf: %v, %v", got, err)
	}
}
