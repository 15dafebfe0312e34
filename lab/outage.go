package lab

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Phase is what pods saw of cluster DNS during a part of an outage of one of its endpoints.
type Phase struct {
	Scenario string  `json:"scenario"`
	Path     string  `json:"path"`
	Phase    string  `json:"phase"` // one of those below
	Round    int     `json:"round"` // from 1: the same again, with another endpoint
	Seconds  float64 `json:"seconds"`
	Tally
	Questions int `json:"questions"` // sent by pods, repetitions included
	// Upstream are the questions that the endpoints were sent, the silent one too, whether they answered or not.
	Upstream uint64 `json:"upstreamQuestions"`
}

// The phases of an outage of one endpoint.
const (
	Healthy     = "healthy"
	FirstSecond = "silent, first second"
	Later       = "silent, later"
	Returned    = "back"
)

// extra is the share of questions that were asked upstream beyond those of the pods.
func (p Phase) extra() float64 {
	if p.Questions == 0 {
		return 0
	}
	return float64(p.Upstream)/float64(p.Questions) - 1
}

// Outage is what pods and the agent went through while every endpoint was silent, and after their return.
type Outage struct {
	Scenario string `json:"scenario"`
	Pods     int    `json:"pods"`
	// Rate is how many questions per second were to be asked, Asked how many were: what the machine could do.
	Rate  int     `json:"questionsPerSecond"`
	Asked float64 `json:"askedPerSecond"`
	// Seconds is how long the endpoints were silent; Settled says that memory had grown by no more than 2 % for a while by then.
	Seconds float64  `json:"seconds"`
	Settled bool     `json:"settled"`
	Memory  []Memory `json:"memory"`
	// Peak is the most memory that was ever resident, until the end of the run, and Ceiling what the agent is allowed: its own
	// soft limit. In bytes.
	Peak    int64 `json:"peakBytes"`
	Ceiling int64 `json:"ceilingBytes"`
	// FileLimit is how many descriptors the agent may open.
	FileLimit uint64 `json:"fileLimit"`
	// Lapses is how many times the kernel sent questions past the agent because it did not answer its own probe.
	Lapses uint64       `json:"lapses"`
	Names  []NamesAsked `json:"names"`
	// Back is how long after the endpoints' return the last question was asked that got no good answer; 0: none, every question
	// asked after the return was answered. In seconds.
	Back float64 `json:"backSeconds"`
}

// The phases of an outage of every endpoint.
const (
	beforeOutage = "before"
	duringOutage = "all silent"
	afterOutage  = "back"
)

// Memory is the agent at a moment of an outage.
type Memory struct {
	At       float64 `json:"atSeconds"` // since the endpoints went silent; negative: before
	Resident int64   `json:"residentBytes"`
	Files    int     `json:"openFiles"`
	CPU      float64 `json:"cpuSeconds"` // used since the sample before
}

// NamesAsked are the questions of one phase of an outage for names of one kind, and what became of them.
type NamesAsked struct {
	Phase    string `json:"phase"`
	Names    string `json:"names"`
	Asked    int    `json:"asked"`
	Answered int    `json:"answered"` // with records
	Stale    bool   `json:"stale"`    // the answers had expired (RFC 8767)
	ServFail int    `json:"servfail"` // told that no answer could be had
	Why      int    `json:"servfailWithReason"`
	Silent   int    `json:"unanswered"`
	Late     int    `json:"laterThan2Seconds"` // replies that came when stubs had begun to ask again
	Others   int    `json:"byClusterDNS"`      // replies that dnslet did not give
	// Of all replies, in seconds.
	P50 float64 `json:"p50Seconds"`
	P99 float64 `json:"p99Seconds"`
	Max float64 `json:"maxSeconds"`
	// Reasons are the extended errors (RFC 8914) that replies gave, and how many did.
	Reasons map[string]int `json:"reasons"`
}

// inTime is the share of questions that got a reply of whichever kind before anybody asked again.
func (n NamesAsked) inTime() float64 { return share(n.Asked-n.Silent-n.Late, n.Asked) }

// answered is the share of questions that got records.
func (n NamesAsked) answered() float64 { return share(n.Answered, n.Asked) }

func share(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// phaseTable writes the table of Phases.
func (r *Report) phaseTable(b *strings.Builder) {
	b.WriteString("\n")
	rows(b, func(w io.Writer) {
		fmt.Fprintln(w, "scenario\tpath\tround\tphase\tlookups\tfailed\tstalled\tp50\tp99\tmax\tlookups/s\textra upstream\tby dnslet\t")
		for _, p := range r.Phases {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%.0f\t%+.1f %%\t%s\t\n", p.Scenario, p.Path, p.Round, p.Phase, p.Lookups,
				p.Failed+p.Wrong, p.Stalled, seconds(p.P50), seconds(p.P99), seconds(p.Max), float64(p.Lookups)/p.Seconds, p.extra()*100,
				percent(p.ByAgent))
		}
	})
	b.WriteString("\nlookups: each asks A and AAAA for a name that nobody has asked for; its time is that of the later answer.\n" +
		"extra upstream: questions that the endpoints were sent, the silent one included, beyond those that pods asked.\n")
}

// table writes the tables of an Outage.
func (o *Outage) table(b *strings.Builder) {
	fmt.Fprintf(b, "\n%s: %d pods asked %.0f questions/s (%d wanted) while every endpoint, and so 172.20.0.10, was silent, for %.0f s\n\n",
		o.Scenario, o.Pods, o.Asked, o.Rate, o.Seconds)
	rows(b, func(w io.Writer) {
		fmt.Fprintln(w, "silent for\tresident\tdescriptors\tagent's CPU\t")
		var cpu, since float64
		for i, m := range o.Memory {
			cpu += m.CPU
			if !shown(i, len(o.Memory)) {
				continue
			}
			if i > 0 {
				cpu /= m.At - since
			}
			fmt.Fprintf(w, "%.0f s\t%s\t%d\t%.0f %%\t\n", m.At, mebibytes(m.Resident), m.Files, cpu*100)
			cpu, since = 0, m.At
		}
	})
	fmt.Fprintf(b, "\nmost ever resident %s, ceiling %s; at most %d descriptors; heartbeat lapses %d\n\n",
		mebibytes(o.Peak), mebibytes(o.Ceiling), o.FileLimit, o.Lapses)
	rows(b, func(w io.Writer) {
		fmt.Fprintln(w, "phase\tnames\tasked\tanswered\tSERVFAIL\twith a reason\tno reply\tover 2 s\tp50\tp99\tmax\t")
		for _, n := range o.Names {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t\n", n.Phase, n.Names, n.Asked, percent(n.answered()),
				n.ServFail, n.Why, n.Silent, n.Late, seconds(n.P50), seconds(n.P99), seconds(n.Max))
		}
	})
	b.WriteString("\n")
	for _, n := range o.Names {
		for _, reason := range slices.Sorted(maps.Keys(n.Reasons)) {
			fmt.Fprintf(b, "%s, %s: %d replies said %q.\n", n.Phase, n.Names, n.Reasons[reason], reason)
		}
	}
}

// shown thins a table of samples out: the first seconds, every fifth one, the last.
func shown(i, of int) bool { return i <= 5 || i%5 == 0 || i == of-1 }

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
