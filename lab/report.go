package lab

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what Demo and Run found, as they write it with Output "json". It only grows.
type Report struct {
	SchemaVersion int    `json:"schemaVersion"`
	Kernel        string `json:"kernel"`
	As            string `json:"as"` // root, or in a user namespace
	// Pods and Rate are those of Paths and Faults.
	Pods      int      `json:"pods"`
	Endpoints int      `json:"endpoints"`
	Rate      int      `json:"lookupsPerSecond"`
	Paths     []Path   `json:"paths"`
	Faults    []Fault  `json:"faults"`
	Phases    []Phase  `json:"phases"`
	Outages   []Outage `json:"outages"`
	Checks    []Check  `json:"checks"`
}

// The paths a lookup can take.
const (
	ThroughKubeProxy = "kube-proxy"
	WithAgent        = "dnslet"
)

// Path is the same load on one of the two paths.
type Path struct {
	Scenario string `json:"scenario"`
	Path     string `json:"path"`
	Tally
	Counters
	// Held are the pairs of packets that were held together; HeldNot says why none were, where they should have been.
	Held    uint64 `json:"heldPairs"`
	HeldNot string `json:"heldNot,omitempty"`

	took []time.Duration // of each lookup, sorted
}

// Counters are what happened on the node between two moments.
type Counters struct {
	NewEntries   uint64 `json:"newConntrackEntries"` // made for DNS: from or to port 53, by whichever protocol and whomever
	LastResort   uint64 `json:"lastResortEntries"`   // of these, by the node itself towards the cluster DNS address
	Clashes      uint32 `json:"clashes"`             // clash_resolve: two packets of one socket that made an entry each
	InsertFailed uint32 `json:"insertFailed"`        // the counters that are usually watched
	Drop         uint32 `json:"drop"`
	// LateAnswers are datagrams that came to a pod whose socket did not expect them (UdpNoPorts): answers that connection
	// tracking no longer knew how to translate back.
	LateAnswers uint64 `json:"lateAnswers"`
}

// Tally sums lookups up.
type Tally struct {
	Lookups int `json:"lookups"`
	Failed  int `json:"failed"`  // the program was told to try again
	Wrong   int `json:"wrong"`   // the program got other addresses than the name has
	Stalled int `json:"stalled"` // the stub's timer of 5 s ran out at least once
	// P50, P99 and Max are of the time from the call to its return, in seconds.
	P50 float64 `json:"p50Seconds"`
	P99 float64 `json:"p99Seconds"`
	Max float64 `json:"maxSeconds"`
	// ByAgent is the share of the answers that clients took which dnslet gave, 0 to 1.
	ByAgent float64 `json:"answeredByDnslet"`
}

// Fault is what pods saw while something was done to the agent.
type Fault struct {
	Scenario string `json:"scenario"`
	What     string `json:"what"`
	Tally
	// Outage is the longest stretch, by the beginning of lookups, in which none was right within 1 s; in seconds, as is all
	// that follows.
	Outage float64 `json:"longestOutageSeconds"`
	// TakenOver is from the fault to the beginning of the first lookup that cluster DNS answered; Back is from the end of the
	// fault (the agent goes on, or its new process is started) to that of the first one that dnslet answered. -1: never.
	TakenOver float64 `json:"takenOverSeconds"`
	Back      float64 `json:"backSeconds"`
}

// Check is one promise of dnslet's, kept or not.
type Check struct {
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}

// Missed reports whether a promise was not kept.
func (r *Report) Missed() bool {
	return slices.ContainsFunc(r.Checks, func(c Check) bool { return !c.OK })
}

func (r *Report) check(ok bool, format string, args ...any) {
	r.Checks = append(r.Checks, Check{ok, fmt.Sprintf(format, args...)})
}

// write writes the report in the form asked for.
func (r *Report) write(w io.Writer, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	var b strings.Builder
	r.table(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) table(b *strings.Builder) {
	fmt.Fprintf(b, "Linux %s, %s: ", r.Kernel, r.As)
	if len(r.Paths)+len(r.Faults) > 0 {
		fmt.Fprintf(b, "%d pods, %d cluster DNS endpoints behind 172.20.0.10, %d lookups/s\n", r.Pods, r.Endpoints, r.Rate)
	} else {
		fmt.Fprintf(b, "%d cluster DNS endpoints behind 172.20.0.10\n", r.Endpoints)
	}
	if len(r.Paths) > 0 {
		b.WriteString("\n")
		rows(b, func(w io.Writer) {
			fmt.Fprintln(w, "scenario\tpath\tlookups\tfailed\tstalled\tp50\tp99\tmax\tnew conntrack entries\tclashes\tlost answers\tby dnslet\t")
			for _, p := range r.Paths {
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t\n", p.Scenario, p.Path, p.Lookups, p.Failed+p.Wrong, p.Stalled,
					seconds(p.P50), seconds(p.P99), seconds(p.Max), p.NewEntries, p.Clashes, p.LateAnswers, percent(p.ByAgent))
			}
		})
		r.notes(b)
	}
	if len(r.Faults) > 0 {
		b.WriteString("\n")
		rows(b, func(w io.Writer) {
			fmt.Fprintln(w, "fault\tlookups\tfailed\tstalled\tp50\tp99\tmax\tlongest outage\tcluster DNS after\tdnslet back after\tby dnslet\t")
			for _, f := range r.Faults {
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", f.What, f.Lookups, f.Failed+f.Wrong, f.Stalled,
					seconds(f.P50), seconds(f.P99), seconds(f.Max), seconds(f.Outage), seconds(f.TakenOver), seconds(f.Back), percent(f.ByAgent))
			}
		})
	}
	if len(r.Phases) > 0 {
		r.phaseTable(b)
	}
	for _, o := range r.Outages {
		o.table(b)
	}
	b.WriteString("\n")
	for _, c := range r.Checks {
		mark := "ok    "
		if !c.OK {
			mark = "MISSED"
		}
		fmt.Fprintf(b, "%s  %s\n", mark, c.Text)
	}
}

// notes say what the columns do not.
func (r *Report) notes(b *strings.Builder) {
	b.WriteString("\nstalled: the stub resolver's timer of 5 s ran out at least once. failed: told to try again, or given wrong addresses.\n" +
		"lost answers: came to the pod untranslated, so that no socket took them (UdpNoPorts).\n")
	for _, p := range r.Paths {
		switch {
		case p.HeldNot != "":
			fmt.Fprintf(b, "%s, %s: no packets were held: %s.\n", p.Scenario, p.Path, p.HeldNot)
		case p.Held > 0:
			fmt.Fprintf(b, "%s, %s: %d pairs of packets were held together; insert_failed %d, drop %d.\n",
				p.Scenario, p.Path, p.Held, p.InsertFailed, p.Drop)
		}
		if p.LastResort > 0 {
			fmt.Fprintf(b, "%s, %s: %d of the conntrack entries are of dnslet's last resort, the cluster DNS address through kube-proxy.\n",
				p.Scenario, p.Path, p.LastResort)
		}
	}
}

func rows(b *strings.Builder, write func(io.Writer)) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	write(w)
	w.Flush()
}

// seconds writes a time with three digits and the unit that suits it.
func seconds(s float64) string {
	switch {
	case s < 0:
		return "never"
	case s < 0.9995e-3:
		return fmt.Sprintf("%.0f us", s*1e6)
	case s < 0.9995:
		return digits(s*1e3) + " ms"
	}
	return digits(s) + " s"
}

// digits writes a positive number with three digits.
func digits(x float64) string {
	decimals := func() int { return max(0, 2-int(math.Floor(math.Log10(x)))) }
	scale := math.Pow10(decimals())
	x = math.Round(x*scale) / scale // 9.999 has become 10, with one decimal less
	return fmt.Sprintf("%.*f", decimals(), x)
}

// percent says 100 % and 0 % only when it is so.
func percent(share float64) string {
	switch {
	case share > 0 && share < 0.0005:
		return "<0.1 %"
	case share < 1 && share > 0.9995:
		return ">99.9 %"
	case share == 0 || share == 1:
		return fmt.Sprintf("%.0f %%", share*100)
	}
	return fmt.Sprintf("%.1f %%", share*100)
}

// quantile returns the value below which the share q of the sorted times lie, by nearest rank; 0 of none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}
