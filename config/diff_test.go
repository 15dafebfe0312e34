package config

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func parsed(t *testing.T, text string) Config {
	t.Helper()
	c, err := Parse([]byte(text), "f.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Red when: zones are compared by position, Restart is not handed down, or what came and went is told key by key.
func TestDiff(t *testing.T) {
	a := parsed(t, `
upstreams: {default: {endpoints: [10.0.0.1]}, gone: {endpoints: [10.0.0.2]}}
zones: [{zone: a.example}, {zone: b.example, hosts: [{name: x.b.example, addresses: [192.0.2.1]}]}]
`)
	b := parsed(t, `
upstreams: {default: {endpoints: [10.0.0.1, 10.0.0.3], transport: tcp}}
zones: [{zone: b.example, hosts: [{name: x.b.example, addresses: [192.0.2.2]}]}, {zone: a.example, maxTTL: 5s}]
cache: {size: 64MiB}
intercept: {marks: {upstream: 0x99}}
log: {level: debug}
`)
	want := []Change{
		{Path: "upstreams.default.endpoints", Old: "['10.0.0.1:53']", New: "['10.0.0.1:53', '10.0.0.3:53']"},
		{Path: "upstreams.default.transport", Old: "udp", New: "tcp"},
		{Path: "upstreams.gone", Old: "{endpoints: ['10.0.0.2:53'], transport: udp}"},
		{Path: "cache.size", Old: "32MiB", New: "64MiB", Restart: true},
		{Path: "zones[a.example.].maxTTL", Old: "1h", New: "5s"},
		{Path: "zones[b.example.].hosts[x.b.example.].addresses", Old: "[192.0.2.1]", New: "[192.0.2.2]"},
		{Path: "intercept.marks.upstream", Old: "0x54", New: "0x99", Restart: true},
		{Path: "log.level", Old: "info", New: "debug"},
	}
	if diff := cmp.Diff(want, Diff(a, b)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if back := Diff(b, a); len(back) != len(want) || back[2].Old != "" || back[2].New != want[2].Old {
		t.Errorf("the other way round: %v", back)
	}
	if same := Diff(a, a); same != nil {
		t.Errorf("with itself: %v", same)
	}
}

// A Config built in code is checked like a file.
//
// Red when: Validate does not call check, or add drops what does not follow from it.
func TestValidateInCode(t *testing.T) {
	tests := map[string]struct {
		change func(*Config)
		path   string
	}{
		"zero":             {func(c *Config) { *c = Config{} }, "upstreams"},
		"duration":         {func(c *Config) { c.Cache.FailureTTL = 0 }, "cache.failureTTL"},
		"part of a second": {func(c *Config) { c.Cache.MaxTTL = 1500 * time.Millisecond }, "cache.maxTTL"},
		"size":             {func(c *Config) { c.Cache.Size = 5 }, "cache.size"},
		"word":             {func(c *Config) { c.Intercept.Mode = "" }, "intercept.mode"},
		"mark":             {func(c *Config) { c.Intercept.Marks.Listener = 0 }, "intercept.marks.listener"},
		"address":          {func(c *Config) { c.Admin.Listen = netip.AddrPort{} }, "admin.listen"},
		"group":            {func(c *Config) { c.Upstreams["Not A Name"] = c.Upstreams[DefaultUpstream] }, "upstreams.Not A Name"},
		"no default group": {func(c *Config) { delete(c.Upstreams, DefaultUpstream) }, "upstreams"},
		"zone":             {func(c *Config) { c.Zones = []Zone{{Name: "a..b", Upstream: DefaultUpstream, MaxTTL: time.Second}} }, "zones[0].zone"},
		"host": {func(c *Config) {
			c.Zones = []Zone{defaultZone(c)}
			c.Zones[0].Name = "a.example."
			c.Zones[0].Hosts = []Host{{Name: "x.a.example.", TTL: time.Second, Addresses: []netip.Addr{{}}}}
		}, "zones[0].hosts[0].addresses[0]"},
	}
	for name, tt := range tests {
		c := Default()
		tt.change(&c)
		var errs Errors
		if err := c.Validate(); !errors.As(err, &errs) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		found := false
		for _, p := range errs {
			found = found || p.Path == tt.path
		}
		if !found || name != "zero" && len(errs) != 1 {
			t.Errorf("%s: got\n%v\nwant one problem of %s", name, errs, tt.path)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"listen", "upstreams", "cache", "endpoints"}
	for got, want := range map[string]string{"lisetn": "listen", "Cache": "cache", "upstream": "upstreams", "xyz": "", "": "", "end_point": "endpoints"} {
		if w := nearest(got, words); w != want {
			t.Errorf("nearest to %q is %q, want %q", got, w, want)
		}
	}
}
