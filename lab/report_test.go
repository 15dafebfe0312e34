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

// Red when: a column loses its name, or the samples between those that are shown their CPU time.
func TestOutageTables(t *testing.T) {
	r := &Report{Kernel: "6.18.0", As: "as root", Endpoints: 3}
	r.Phases = []Phase{{Scenario: "blackhole-one", Path: WithAgent, Phase: Later, Round: 2, Seconds: 10, Questions: 5000, Upstream: 5150,
		Tally: Tally{Lookups: 2500, P50: 0.0026, P99: 0.0036, Max: 0.0062, ByAgent: 1}}}
	o := Outage{Scenario: "blackhole-all", Pods: 10, Rate: 20000, Asked: 19984.4, Seconds: 8, Peak: 150 << 20, Ceiling: 300 << 20, FileLimit: 20000}
	for i := range 9 {
		o.Memory = append(o.Memory, Memory{At: float64(i), Resident: int64(20+i) << 20, Files: 19, CPU: float64(i) / 10})
	}
	o.Names = []NamesAsked{{Phase: duringOutage, Names: "new", Asked: 1000, ServFail: 999, Why: 999, Silent: 1, P50: 0.0005, P99: 1.8, Max: 1.9,
		Reasons: map[string]int{"Network Error": 900, "Cached Error": 99}}}
	r.Outages = []Outage{o}
	var b bytes.Buffer
	if err := r.write(&b, "table"); err != nil {
		t.Fatal(err)
	}
	want := `Linux 6.18.0, as root: 3 cluster DNS endpoints behind 172.20.0.10

       scenario    path  round          phase  lookups  failed  stalled      p50      p99      max  lookups/s  extra upstream  by dnslet
  blackhole-one  dnslet      2  silent, later     2500       0        0  2.60 ms  3.60 ms  6.20 ms        250          +3.0 %      100 %

lookups: each asks A and AAAA for a name that nobody has asked for; its time is that of the later answer.
extra upstream: questions that the endpoints were sent, the silent one included, beyond those that pods asked.

blackhole-all: 10 pods asked 19984 questions/s (20000 wanted) while every endpoint, and so 172.20.0.10, was silent, for 8 s

  silent for  resident  descriptors  agent's CPU
         0 s  20.0 MiB           19          0 %
         1 s  21.0 MiB           19         10 %
         2 s  22.0 MiB           19         20 %
         3 s  23.0 MiB           19         30 %
         4 s  24.0 MiB           19         40 %
         5 s  25.0 MiB           19         50 %
         8 s  28.0 MiB           19         70 %

most ever resident 150.0 MiB, ceiling 300.0 MiB; at most 20000 descriptors; heartbeat lapses 0

       phase  names  asked  answered  SERVFAIL  with a reason  no reply  over 2 s     p50     p99     max
  all silent    new   1000       0 %       999            999         1         0  500 us  1.80 s  1.90 s

all silent, new: 99 replies said "Cached Error".
all silent, new: 900 replies said "Network Error".

`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
}
