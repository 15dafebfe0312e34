package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dnslet/dnslet/api"
)

var update = flag.Bool("update", false, "write the golden files anew")

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// healthy is an agent of which nothing is to be said.
func healthy() *api.Status {
	return &api.Status{
		SchemaVersion: api.SchemaVersion, Version: "v0.1.0", Host: "node-7", Kernel: "6.18.44", PID: 4242,
		Started: noon.Add(-75 * time.Hour), UptimeSeconds: (75 * time.Hour).Seconds(),
		Phase: api.Serving, State: api.OK, Ready: true, Checks: []api.Check{{Name: "udp", OK: true}},
		Interception: api.Interception{
			Mode: "auto", State: api.OK, Installed: true, Owned: true,
			VIPs:    []api.VIP{{VIP: "172.20.0.10", Listener: "169.254.53.53", UDP: true, TCP: true}, {VIP: "fd00:20::a", Listener: "fd64:6e73:6c65:74::35", UDP: true, TCP: true}},
			Packets: map[string]uint64{"matched": 9_876_620, "served": 9_876_543, "stream": 10, "bypassed": 64, "limited": 3},
		},
		Listeners: []api.Listener{{Addr: "169.254.53.53:53", State: api.OK}, {Addr: "[fd64:6e73:6c65:74::35]:53", State: api.OK}},
		Queries:   api.Queries{State: api.OK, UDP: 9_871_012, TCP: 5531, InFlight: 2, TCPConns: 1, Recent: api.Recent{Seconds: 58, Queries: 23_890}},
		Cache:     api.Cache{Entries: 10_412, Bytes: 9 << 20, Budget: 32 << 20, Hits: 934, Misses: 66, HitRatio: 0.934},
		Upstreams: []api.Upstream{{
			Name: "default", State: api.OK, Reason: "3 of 3 endpoints healthy", LastResort: "172.20.0.10:53",
			Endpoints: []api.Endpoint{
				{Addr: "10.98.1.2:53", Transport: "udp", State: api.OK, LatencySeconds: 0.00041, Asked: 40_112, Answered: 40_110, Unanswered: 2, Share: 0.62},
				{Addr: "10.98.2.2:53", Transport: "udp", State: api.OK, LatencySeconds: 0.00055, Asked: 20_010, Answered: 20_010, Share: 0.31},
				{Addr: "10.98.3.2:53", Transport: "udp", State: api.OK, LatencySeconds: 0.0123, Asked: 4_500, Answered: 4_499, Unanswered: 1, Share: 0.07},
			},
		}},
		Config:    api.ConfigLoad{State: api.OK, File: "/etc/dnslet/config.yaml", Loaded: noon.Add(-134 * time.Second), Reloads: 3, OK: true},
		Process:   api.Process{ResidentBytes: 43 << 20, LimitBytes: 150 << 20, Goroutines: 31, OpenFiles: 44, FileLimit: 1 << 20},
		Conntrack: &api.Conntrack{Entries: 1201, Limit: 262_144},
	}
}

// troubled is a bad night: no heartbeat by TCP, one endpoint dead, a bad file, a flood.
func troubled() *api.Status {
	s := healthy()
	s.State, s.Reason, s.Ready = api.Fail, "interception: no heartbeat of 172.20.0.10 by tcp: its questions go to cluster DNS", false
	s.Checks = append(s.Checks, api.Check{Name: "interception", Reason: "no heartbeat of 172.20.0.10 by tcp: its questions go to cluster DNS"})
	s.Interception.State, s.Interception.Reason = api.Fail, "no heartbeat of 172.20.0.10 by tcp: its questions go to cluster DNS"
	s.Interception.VIPs = s.Interception.VIPs[:1]
	s.Interception.VIPs[0].TCP, s.Interception.Lapses, s.Interception.Owned = false, 2, false
	s.Interception.Missing = []string{"owned tables (Linux 5.12): after a kill the rules stay until the next start or `dnslet cleanup`"}
	s.Listeners = []api.Listener{{Addr: "169.254.53.53:53", State: api.Fail, Error: "no heartbeat"}}
	s.Queries.State, s.Queries.Reason = api.Warn, "a limit was reached: see limits.inFlight and limits.perSource, or which pod floods"
	s.Queries.Shed, s.Queries.Recent.Shed, s.Queries.Recent.ServFail, s.Queries.ServFail = 812, 790, 4, 4
	u := &s.Upstreams[0]
	u.State, u.Reason, u.LastUsed = api.Warn, "2 of 3 endpoints healthy", 12
	u.Endpoints[1].State, u.Endpoints[1].Reason, u.Endpoints[1].LatencySeconds = api.Fail, "held for dead: last answer 41s ago", 0
	s.Zones = []api.Zone{{Name: "corp.example.", Upstream: "corp", Hosts: 2}, {Name: "svc.example.", Upstream: "default", FailOpen: true}}
	s.Config.State, s.Config.OK, s.Config.Failures, s.Config.ErrorAt = api.Warn, false, 1, noon.Add(-30*time.Second)
	s.Config.Error = "config.yaml:7:3: zones[0].host: unknown key; did you mean \"hosts\"?\nconfig.yaml:9:1: cash: unknown key; did you mean \"cache\"?"
	s.Conntrack.Entries = 260_000
	return s
}

// Red when: a part of the screen is left out, loses its word, or changes its place.
func TestStatusScreens(t *testing.T) {
	starting := &api.Status{
		SchemaVersion: api.SchemaVersion, Version: "v0.1.0", Host: "node-7", PID: 4242, UptimeSeconds: 0.2, Phase: api.Starting,
		State: api.Warn, Reason: "the agent is starting", Config: api.ConfigLoad{State: api.OK, OK: true, Loaded: noon},
	}
	alone := healthy()
	alone.Interception = api.Interception{Mode: "auto", State: api.Warn, Reason: "not permitted, it needs uid 0 with CAP_NET_ADMIN and CAP_NET_BIND_SERVICE: cannot prepare the interception: operation not permitted"}
	alone.Conntrack = nil
	for name, s := range map[string]*api.Status{"healthy": healthy(), "troubled": troubled(), "starting": starting, "alone": alone} {
		var b bytes.Buffer
		if err := printStatus(&b, s, false, noon); err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", "status", name+".txt")
		if *update {
			if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), b.String()); diff != "" {
			t.Errorf("%s differs (-golden +screen):\n%s", name, diff)
		}
		for i, line := range strings.Split(b.String(), "\n") {
			if strings.TrimRight(line, " ") != line {
				t.Errorf("%s:%d ends with spaces: %q", name, i+1, line)
			}
		}
	}
}

// Red when: a text goes to the screen without escape, be it a name, a reason, or a cell of the table.
func TestStatusScreenIsHarmless(t *testing.T) {
	const evil = "\x1b[2J\u202eevil\r\nok    forged"
	s := healthy()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	// Every string that an agent could send is poisoned, but for the words that choose what is printed.
	var doc any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	b, err = json.Marshal(poison(doc, evil))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, s); err != nil {
		t.Fatal(err)
	}
	s.Config.Error, s.Config.OK = evil, false
	s.Interception.Missing, s.Interception.Notes, s.Upstreams[0].Notes = []string{evil}, []string{evil}, []string{evil}
	s.Config.RestartFor, s.Config.Warnings, s.Zones = []string{evil}, []string{evil}, []api.Zone{{Name: evil, Upstream: evil}}
	s.Checks = []api.Check{{Name: evil, Reason: evil}}
	s.Listeners[0].Error, s.Upstreams[0].Endpoints[0].Reason = evil, evil
	var out bytes.Buffer
	if err := printStatus(&out, s, false, noon); err != nil {
		t.Fatal(err)
	}
	for _, never := range []string{"\x1b", "\u202e", "\r", "\nok    forged"} {
		if strings.Contains(out.String(), never) {
			t.Errorf("the screen has %q:\n%q", never, out.String())
		}
	}
	if strings.Count(out.String(), `\x1b[2J\u{202e}evil`) < 20 {
		t.Errorf("the poison was not printed: the test tests nothing:\n%s", out.String())
	}
}

func poison(v any, with string) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if k != "state" && k != "started" && k != "loaded" && k != "errorAt" {
				v[k] = poison(e, with)
			}
		}
		return v
	case []any:
		for i := range v {
			v[i] = poison(v[i], with)
		}
		return v
	case string:
		return with
	}
	return v
}

// Red when: colour is not switched off, or replaces the word.
func TestColourOnlyRepeatsTheWord(t *testing.T) {
	var plain, coloured bytes.Buffer
	if err := printStatus(&plain, troubled(), false, noon); err != nil {
		t.Fatal(err)
	}
	if err := printStatus(&coloured, troubled(), true, noon); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(plain.String(), "\x1b") {
		t.Error("colour although there is none to be")
	}
	stripped := coloured.String()
	for _, code := range []string{"\x1b[32m", "\x1b[33m", "\x1b[1;31m", "\x1b[2m", "\x1b[0m"} {
		stripped = strings.ReplaceAll(stripped, code, "")
	}
	if stripped != plain.String() {
		t.Errorf("without its colours the screen differs:\n%s", cmp.Diff(plain.String(), stripped))
	}
	if paintFor(&plain) {
		t.Error("colour into a buffer")
	}
}

// Red when: a unit is chosen wrongly or a number loses digits.
func TestNumbersAsPeopleReadThem(t *testing.T) {
	for _, c := range [][2]string{
		{count(0), "0"}, {count(999), "999"}, {count(1000), "1,000"}, {count(uint64(1234567)), "1,234,567"}, {count(-1234), "-1,234"},
		{size(0), "0 B"}, {size(1536), "1.5 KiB"}, {size(32 << 20), "32.0 MiB"}, {size(3 << 30), "3.0 GiB"},
		{span(0), "0s"}, {span(-time.Second), "0s"}, {span(61 * time.Second), "1m01s"}, {span(3*time.Hour + 12*time.Minute), "3h12m"}, {span(49 * time.Hour), "2d01h"},
		{latency(0), "-"}, {latency(0.00041), "0.41 ms"}, {latency(0.0123), "12.3 ms"}, {latency(1.5), "1500 ms"},
		{percent(0), "0.0 %"}, {percent(0.0004), "<0.1 %"}, {percent(0.934), "93.4 %"},
		{escape("web.example"), "web.example"}, {escape("a\x00b"), `a\x00b`}, {escape("\xff"), `\xff`}, {escape("größe"), "größe"}, {escape("\ufffd"), "\ufffd"},
	} {
		if c[0] != c[1] {
			t.Errorf("got %q, want %q", c[0], c[1])
		}
	}
}
