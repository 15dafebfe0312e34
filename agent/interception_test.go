package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/dnslet/dnslet/config"
)

// What the configuration's checks let through must not keep an agent from starting, or a reload from the kernel.
//
// Red when: direct leaves an endpoint in, or config takes more than the rules do.
func TestPlanTakesWhatConfigTakes(t *testing.T) {
	var endpoints, sources []string
	for i := range config.MaxEndpoints - 4 {
		endpoints = append(endpoints, fmt.Sprintf("10.9.%d.%d", i/250, i%250+1))
	}
	endpoints = append(endpoints, "127.0.0.1:5353", `"[::1]:5353"`, "172.20.0.10:5353", `"[fe80::1%eth0]:53"`)
	for i := range config.MaxSources {
		sources = append(sources, fmt.Sprintf("10.8.%d.%d", i/250, i%250+1))
	}
	text := fmt.Sprintf("upstreams: {default: {endpoints: [%s]}}\nintercept: {vips: [172.20.0.10], scope: [%s]}", strings.Join(endpoints, ", "), strings.Join(sources, ", "))
	cfg, err := config.Parse([]byte(text), "f")
	if err != nil {
		t.Fatal(err)
	}
	asked := cfg.Upstreams[config.DefaultUpstream].Endpoints
	known := direct(cfg.Intercept, asked)
	if want := asked[:len(asked)-4]; !slices.Equal(known, want) {
		t.Errorf("%d of %d endpoints are known to the rules, want %d", len(known), len(asked), len(want))
	}
	if _, err := planOf(cfg.Intercept, known); err != nil {
		t.Error(err)
	}
	// The most that is bypassed: what the configuration names, and every endpoint that had to be asked through conntrack.
	cfg.Intercept.Scope = nil
	cfg.Intercept.Bypass, err = prefixes(sources)
	if err != nil {
		t.Fatal(err)
	}
	take := &interception{endpoints: known, tracked: known, bypass: cfg.Intercept.Bypass}
	cfg.Intercept.Bypass = take.bypassed()
	if _, err := planOf(cfg.Intercept, take.untracked()); err != nil {
		t.Error(err)
	}
}

func prefixes(addrs []string) (out []netip.Prefix, err error) {
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a + "/32")
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}
