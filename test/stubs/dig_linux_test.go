package stubs

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/dnslet/dnslet/lab"
)

// question is one call of dig or kdig, and what its output must and must not hold, whoever answers.
type question struct {
	name    string
	program string
	args    []string
	want    []string
	not     []string
	answers int // addresses in the answer section
	// cut: which of many addresses are there changes from answer to answer.
	cut bool
	// differs says why dnslet's answer is another than cluster DNS's; want, not and answers are then dnslet's.
	differs string
	// noMark: cluster DNS's answer, or what is shown of it, does not have its mark.
	noMark bool
}

var questions = []question{
	{name: "plain", program: "dig", args: []string{web}, want: []string{"status: NOERROR", "flags: qr aa rd;", "172.20.1.1", "EDNS: version: 0"}, answers: 1},
	{name: "outside", program: "dig", args: []string{"www.example.com", "AAAA"}, want: []string{"status: NOERROR", "flags: qr rd;"}, answers: 1},
	{name: "no EDNS", program: "dig", args: []string{"+noedns", web}, want: []string{"status: NOERROR", "ADDITIONAL: 0"}, not: []string{"EDNS"}, answers: 1},
	{name: "TCP", program: "dig", args: []string{"+tcp", web}, want: []string{"status: NOERROR", "172.20.1.1"}, answers: 1},
	{name: "several questions on one connection", program: "dig",
		args: []string{"+tcp", "+keepopen", web, "A", web, "AAAA", many, "A", "nowhere.shop.svc.cluster.local", "A", huge, "AAAA"},
		want: []string{"status: NXDOMAIN"}, answers: 161},
	{name: "TCP keepalive asked for", program: "dig", args: []string{"+tcp", "+keepalive", web}, want: []string{"TCP KEEPALIVE: 30.0 secs"}, answers: 1,
		differs: "dnslet says how long it keeps a connection (RFC 7828)"},
	{name: "case mixed", program: "dig", args: []string{"wEb.DefAULT.sVc.cluster.LOCAL"},
		want: []string{";wEb.DefAULT.sVc.cluster.LOCAL. IN A", "wEb.DefAULT.sVc.cluster.LOCAL. TTL IN A 172.20.1.1"}, answers: 1},
	{name: "case of an alias", program: "dig", args: []string{"WWW.shop.EXAMPLE.com"},
		want: []string{"WWW.shop.EXAMPLE.com. TTL IN CNAME Shop.Edge.example.NET."}, answers: 2},
	{name: "DNSSEC OK", program: "dig", args: []string{"+dnssec", web}, want: []string{"status: NOERROR", "flags: do;"}, answers: 1},
	{name: "checking disabled", program: "dig", args: []string{"+cdflag", web}, want: []string{"status: NOERROR", "flags: qr aa rd cd;"}, answers: 1},
	{name: "authentic data asked for", program: "dig", args: []string{"+adflag", web}, want: []string{"status: NOERROR"}, not: []string{" ad"}, answers: 1},
	{name: "reserved bit", program: "dig", args: []string{"+zflag", web}, want: []string{"status: NOERROR"}, answers: 1},
	{name: "cookie", program: "dig", args: []string{"+cookie=0123456789abcdef", web}, want: []string{"status: NOERROR"}, not: []string{"COOKIE"}, answers: 1},
	{name: "NSID", program: "dig", args: []string{"+nsid", web}, want: []string{"status: NOERROR"}, not: []string{"NSID"}, answers: 1},
	{name: "client subnet", program: "dig", args: []string{"+subnet=192.0.2.0/24", web}, want: []string{"status: NOERROR"}, not: []string{"SUBNET"}, answers: 1},
	{name: "padding", program: "dig", args: []string{"+padding=128", web}, want: []string{"status: NOERROR"}, not: []string{"PAD"}, answers: 1},
	{name: "unknown option", program: "dig", args: []string{"+ednsopt=65001:abcd", web}, want: []string{"status: NOERROR"}, not: []string{"OPT=65001"}, answers: 1},
	{name: "unknown EDNS flags", program: "dig", args: []string{"+ednsflags=0x40", web}, want: []string{"status: NOERROR"}, answers: 1},
	{name: "EDNS version 1", program: "dig", args: []string{"+edns=1", "+noednsnegotiation", web}, want: []string{"status: BADVERS", "EDNS: version: 0"}},
	{name: "EDNS version 1, asked again", program: "dig", args: []string{"+edns=1", web}, want: []string{"status: NOERROR"}, answers: 1},
	{name: "512 octets, cut", program: "dig", args: []string{"+bufsize=512", "+ignore", many}, want: []string{"status: NOERROR", "flags: qr aa tc rd;"}, answers: 28, cut: true},
	{name: "512 octets, no EDNS, cut", program: "dig", args: []string{"+noedns", "+ignore", many, "AAAA"}, want: []string{"status: NOERROR", "flags: qr aa tc rd;"}, answers: 16, cut: true},
	{name: "512 octets, then TCP", program: "dig", args: []string{"+bufsize=512", many}, want: []string{"Truncated, retrying in TCP mode", "flags: qr aa rd;"}, answers: 40},
	{name: "less than 512 octets", program: "dig", args: []string{"+bufsize=1", "+ignore", few}, want: []string{"status: NOERROR", "flags: qr aa rd;"}, answers: 15},
	{name: "1232 octets", program: "dig", args: []string{"+bufsize=1232", "+ignore", many, "AAAA"}, want: []string{"flags: qr aa rd;"}, answers: 40},
	{name: "4096 octets", program: "dig", args: []string{"+bufsize=4096", "+ignore", many}, want: []string{"status: NOERROR", "flags: qr aa rd;"}, answers: 40},
	{name: "4096 octets, more than dnslet sends", program: "dig", args: []string{"+bufsize=4096", "+ignore", huge, "AAAA"}, want: []string{"flags: qr aa tc rd;"}, answers: 42,
		cut: true, differs: "dnslet sends no datagram that may be fragmented"},
	{name: "4096 octets, then TCP", program: "dig", args: []string{"+bufsize=4096", huge, "AAAA"}, want: []string{"Truncated, retrying in TCP mode", "flags: qr aa rd;"}, answers: 120,
		differs: "dnslet sends no datagram that may be fragmented"},
	{name: "no recursion", program: "dig", args: []string{"+norecurse", web}, want: []string{"status: NOERROR", "flags: qr aa;"}, answers: 1},
	{name: "nowhere", program: "dig", args: []string{"nowhere.default.svc.cluster.local"}, want: []string{"status: NXDOMAIN", "cluster.local. TTL IN SOA"}},
	{name: "nowhere at the end of an alias", program: "dig", args: []string{"lost.example.com"},
		want: []string{"status: NXDOMAIN", "lost.example.com. TTL IN CNAME nowhere.example.net.", "example.net. TTL IN SOA"}},
	{name: "no such type", program: "dig", args: []string{web, "AAAA"}, want: []string{"status: NOERROR", "cluster.local. TTL IN SOA"}},
	{name: "no such type at an empty name", program: "dig", args: []string{"shop.svc.cluster.local"}, want: []string{"status: NOERROR", "cluster.local. TTL IN SOA"}},
	{name: "failure", program: "dig", args: []string{"+noedns", "broken.example.net"}, want: []string{"status: SERVFAIL"}},
	{name: "SRV", program: "dig", args: []string{"_http._tcp.web.shop.svc.cluster.local", "SRV"}, want: []string{"IN SRV 0 100 80 web.shop.svc.cluster.local."}},
	{name: "TXT", program: "dig", args: []string{"text.example.com", "TXT"}, want: []string{`"one" "two; \" three"`}},
	{name: "address to name", program: "dig", args: []string{"-x", "172.20.1.2"}, want: []string{"2.1.20.172.in-addr.arpa. TTL IN PTR web.shop.svc.cluster.local."}},
	{name: "type without a name", program: "dig", args: []string{web, "TYPE65280"}, want: []string{"status: NOERROR", "IN SOA"}},
	{name: "the root", program: "dig", args: []string{".", "SOA"}, want: []string{". TTL IN SOA a.root-servers.net."}},
	{name: "CHAOS", program: "dig", args: []string{"-c", "CH", "-t", "TXT", "version.bind"}, want: []string{"status: REFUSED"}},
	{name: "ANY", program: "dig", args: []string{"-t", "ANY", web}, want: []string{"status: NOERROR", `IN HINFO "RFC8482" ""`}, differs: "dnslet says why there is nothing (RFC 8482)"},
	{name: "zone transfer", program: "dig", args: []string{"-t", "AXFR", "cluster.local"}, want: []string{"Transfer failed."}, noMark: true},
	{name: "other opcode", program: "dig", args: []string{"+opcode=status", web}, want: []string{"opcode: STATUS, status: NOTIMP"}, noMark: true, differs: "dnslet repeats the question"},

	{name: "kdig", program: "kdig", args: []string{web}, want: []string{"status: NOERROR", "172.20.1.1"}, answers: 1},
	{name: "kdig, TCP", program: "kdig", args: []string{"+tcp", "+keepopen", web, many, "nowhere.shop.svc.cluster.local"}, want: []string{"status: NOERROR", "status: NXDOMAIN"}, answers: 41},
	{name: "kdig, padding, NSID, cookie", program: "kdig", args: []string{"+padding", "+nsid", "+cookie", web}, want: []string{"status: NOERROR"}, answers: 1},
	{name: "kdig, client subnet", program: "kdig", args: []string{"+subnet=192.0.2.0/24", web}, want: []string{"status: NOERROR"}, answers: 1},
	{name: "kdig, 512 octets, cut", program: "kdig", args: []string{"+bufsize=512", "+ignore", many}, want: []string{"status: NOERROR", "Flags: qr aa tc rd;"}, answers: 28, cut: true},
	{name: "kdig, 512 octets, then TCP", program: "kdig", args: []string{"+bufsize=512", many}, want: []string{"status: NOERROR", "Flags: qr aa rd;"}, answers: 40},
	{name: "kdig, EDNS version 1", program: "kdig", args: []string{"+edns=1", web}, want: []string{"status: BADVERS"}},
	{name: "kdig, no recursion", program: "kdig", args: []string{"+norec", web}, want: []string{"status: NOERROR", "Flags: qr aa;"}, answers: 1},
}

// asProgram is the question as it is run in a pod.
func (q question) asProgram() program {
	p := program{name: q.name, needs: q.program, from: map[string]string{"dig": "dnsutils", "kdig": "knot-dnsutils"}[q.program], differs: q.differs}
	p.command = slices.Concat([]string{q.program, "@" + lab.VIP.String()}, q.args)
	p.settle = func(out string) string { return settle(out, q.cut) }
	p.check = func(t *testing.T, out string) {
		t.Helper()
		if n := len(address.FindAllString(out, -1)); n != q.answers {
			t.Errorf("%d addresses, want %d", n, q.answers)
		}
		for _, w := range q.want {
			if !strings.Contains(out, w) {
				t.Errorf("no %q", w)
			}
		}
		for _, n := range q.not {
			if strings.Contains(out, n) {
				t.Errorf("there is %q", n)
			}
		}
		if t.Failed() {
			t.Log(out)
		}
	}
	p.marked = !q.noMark
	return p
}

var (
	// A line of dig's and kdig's that holds a record.
	record = regexp.MustCompile(`^([^;\s]\S*)\s+(\d+)\s+(IN\s+.*)$`)
	// Lines that tell of the run, not of the answer.
	chatter = regexp.MustCompile(`^(; <<>>|;; (WARNING|You are|Query time|SERVER|WHEN|MSG SIZE|Received|Time|From)\b)`)
	// IDs, and the size that a server takes itself.
	volatile = regexp.MustCompile(`id: \d+|udp: \d+|UDP size: \d+ B`)
	// Recursion is always available from dnslet; CoreDNS does not say so when it fails.
	recursion = regexp.MustCompile(`^(;; [Ff]lags: [a-z ]*) ra\b`)
	address   = regexp.MustCompile(`(?m) IN A{1,4} \S+$`)
)

// settle takes off an output what no two answers have in common, and orders the records of a section.
func settle(out string, cut bool) string {
	var lines, section []string
	flush := func() {
		slices.Sort(section)
		lines, section = append(lines, section...), nil
	}
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if m := record.FindStringSubmatch(line); m != nil {
			rr := strings.Join(strings.Fields(m[1]+" TTL "+m[3]), " ")
			if cut {
				rr = address.ReplaceAllString(rr, " IN A address")
			}
			section = append(section, rr)
			continue
		}
		flush()
		if chatter.MatchString(line) {
			continue
		}
		line = recursion.ReplaceAllString(mark.ReplaceAllString(line, "$1"), "$1")
		line = volatile.ReplaceAllStringFunc(line, func(s string) string { return s[:strings.IndexByte(s, ':')] })
		if strings.HasPrefix(line, ";") && strings.Contains(line, "IN\t") {
			line = strings.Join(strings.Fields(line), " ")
		}
		lines = append(lines, line)
	}
	flush()
	return strings.Join(lines, "\n")
}

// Questions that only dig and kdig ask are answered by dnslet as by cluster DNS, with and without what was asked in the cache; what differs is
// named with the reason.
//
// Red when: AppendReply sets AA always; it keeps no record of what does not fit; Answer.Parse does not call shorten (case of the owners).
func TestOddQuestions(t *testing.T) {
	var programs []program
	for _, q := range questions {
		programs = append(programs, q.asProgram())
	}
	compare(t, programs)
}
