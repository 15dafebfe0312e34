package lab

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func example() *Report {
	r := &Report{SchemaVersion: 1, Kernel: "6.18.0", As: "as root", Pods: 3, Endpoints: 3, Rate: 100}
	r.Paths = []Path{
		{Scenario: "race-slow", Path: ThroughKubeProxy, Held: 3292,
			Tally:    Tally{Lookups: 1000, Stalled: 156, P50: 0.0013, P99: 6.52, Max: 6.52},
			Counters: Counters{NewEntries: 3387, Clashes: 3231, LateAnswers: 156},
			took:     []time.Duration{time.Millisecond, 6 * time.Second}},
		{Scenario: "race-slow", Path: WithAgent, HeldNot: "no queue",
			Tally: Tally{Lookups: 1000, P50: 0.000853, P99: 1.51, Max: 1.51, ByAgent: 1},
			took:  []time.Duration{time.Millisecond, 1500 * time.Millisecond}},
	}
	r.Faults = []Fault{{What: "kill -9, 3 s", Tally: Tally{Lookups: 900, Stalled: 1, P50: 0.001, P99: 0.0125, Max: 5, ByAgent: 0.662},
		Outage: 0.00797, TakenOver: 0.00984, Back: -1}}
	r.check(true, "all is %s", "well")
	r.check(false, "dnslet is late")
	return r
}

// Red when: a mark loses its word, or a column its name.
func TestReportTable(t *testing.T) {
	var b bytes.Buffer
	if err := example().write(&b, "table"); err != nil {
		t.Fatal(err)
	}
	want := `Linux 6.18.0, as root: 3 pods, 3 cluster DNS endpoints behind 172.20.0.10, 100 lookups/s

   scenario        path  lookups  failed  stalled      p50     p99     max  new conntrack entries  clashes  lost answers  by dnslet
  race-slow  kube-proxy     1000       0      156  1.30 ms  6.52 s  6.52 s                   3387     3231           156        0 %
  race-slow      dnslet     1000       0        0   853 us  1.51 s  1.51 s                      0        0             0      100 %

stalled: the stub resolver's timer of 5 s ran out at least once. failed: told to try again, or given wrong addresses.
lost answers: came to the pod untranslated, so that no socket took them (UdpNoPorts).
race-slow, kube-proxy: 3292 pairs of packets were held together; insert_failed 0, drop 0.
race-slow, dnslet: no packets were held: no queue.

         fault  lookups  failed  stalled      p50      p99     max  longest outage  cluster DNS after  dnslet back after  by dnslet
  kill -9, 3 s      900       0        1  1.00 ms  12.5 ms  5.00 s         7.97 ms            9.84 ms              never     66.2 %

ok      all is well
MISSED  dnslet is late
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if !example().Missed() {
		t.Error("a promise that was not kept is not noticed")
	}
}

// The picture is well-formed, says the figures, and draws a bar for each bin that has something in it.
//
// Red when: panel draws one histogram for both paths.
func TestPicture(t *testing.T) {
	for name, r := range map[string]*Report{"incident": example(), "nothing": {}} {
		svg := picture(r)
		var bars int
		for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, svg)
			}
			if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
				for _, a := range e.Attr {
					if a.Name.Local == "class" && (a.Value == "p0" || a.Value == "p1") {
						bars++
					}
				}
			}
		}
		if name == "nothing" {
			continue
		}
		if bars != 4 {
			t.Errorf("%d bars, want two for each path", bars)
		}
		for _, want := range []string{"156", "3387 new conntrack entries", "prefers-color-scheme:dark", "Linux 6.18.0"} {
			if !strings.Contains(string(svg), want) {
				t.Errorf("the picture lacks %q", want)
			}
		}
	}
}

// 5 s is a border between two bins, so that what stalled is never drawn among what did not.
//
// Red when: bins rounds instead of flooring.
func TestBins(t *testing.T) {
	counts, most := bins([]time.Duration{0, stubTimer - 1, stubTimer, time.Hour})
	if counts[0] != 1 || counts[binsBelow-1] != 1 || counts[binsBelow] != 1 || counts[len(counts)-1] != 1 || most != 1 {
		t.Errorf("bins = %v, %d", counts, most)
	}
}

// Red when: seconds rounds 999.9 us to 1000 us.
func TestSeconds(t *testing.T) {
	for in, want := range map[float64]string{-1: "never", 0: "0 us", 0.0000123: "12 us", 0.0009999: "1.00 ms", 0.0123: "12.3 ms",
		0.123456: "123 ms", 0.9999: "1.00 s", 12.34: "12.3 s"} {
		if got := seconds(in); got != want {
			t.Errorf("seconds(%v) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[float64]string{0: "0 %", 1: "100 %", 0.0001: "<0.1 %", 0.9999: ">99.9 %", 0.488: "48.8 %"} {
		if got := percent(in); got != want {
			t.Errorf("percent(%v) = %q, want %q", in, got, want)
		}
	}
	if got := quantile([]time.Duration{1, 2, 3, 4}, 0.5); got != 2 {
		t.Errorf("quantile = %d, want 2", got)
	}
}
