package stubs

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dnslet/dnslet/lab/netns"
)

func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }

// name is one that every stub is asked for, in a pod of the namespace default, and what there is to find.
type name struct {
	ask       string
	addresses []string
	canonical string
	relative  bool // found by the search list, or not at all
	broken    bool // cluster DNS says SERVFAIL
}

var names = []name{
	{ask: "web", addresses: []string{"172.20.1.1"}, canonical: web, relative: true},
	{ask: "web.shop", addresses: []string{"172.20.1.2"}, canonical: "web.shop.svc.cluster.local", relative: true},
	{ask: "web.shop.svc", addresses: []string{"172.20.1.2"}, canonical: "web.shop.svc.cluster.local", relative: true},
	{ask: "kubernetes.default", addresses: []string{"172.20.0.1"}, canonical: "kubernetes.default.svc.cluster.local", relative: true},
	{ask: "dual", addresses: []string{"172.20.1.3", "fd24:20::3"}, canonical: "dual.default.svc.cluster.local", relative: true},
	{ask: "six", addresses: []string{"fd24:20::4"}, canonical: "six.default.svc.cluster.local", relative: true},
	{ask: "shop", addresses: chain, canonical: "pop7.edge.example.net", relative: true},
	{ask: "nowhere", relative: true},
	{ask: "nowhere.shop", relative: true},
	{ask: web, addresses: []string{"172.20.1.1"}, canonical: web},
	{ask: web + ".", addresses: []string{"172.20.1.1"}, canonical: web},
	{ask: "Web.Shop.SVC.Cluster.Local", addresses: []string{"172.20.1.2"}, canonical: "Web.Shop.SVC.Cluster.Local"},
	{ask: "www.example.com", addresses: []string{"198.18.0.1", "2001:db8::1"}, canonical: "www.example.com"},
	{ask: "v4.example.com", addresses: []string{"198.18.0.4"}, canonical: "v4.example.com"},
	{ask: "a.b.c.d.example.com", addresses: []string{"198.18.0.2", "2001:db8::2"}, canonical: "a.b.c.d.example.com"},
	{ask: "www.shop.example.com", addresses: chain, canonical: "pop7.edge.example.net"},
	{ask: "lost.example.com"},
	{ask: "nowhere.example.com"},
	{ask: "nowhere.nothing"},
	{ask: "broken.example.net", broken: true},
	{ask: "broken.shop.svc.cluster.local", broken: true},
	{ask: few, addresses: manyAddresses(15, 7, "15"), canonical: few},
	{ask: many, addresses: manyAddresses(40, 9, "40"), canonical: many},
	{ask: huge, addresses: manyAddresses(120, 8, "120"), canonical: huge},
}

const (
	web  = "web.default.svc.cluster.local"
	few  = "few.shop.svc.cluster.local"  // 15 addresses of each family: in 512 octets if names are compressed, as cluster DNS does then
	many = "many.shop.svc.cluster.local" // 40 addresses of each family: not in 512 octets
	huge = "huge.shop.svc.cluster.local" // 120: not in any datagram
)

// chain are the addresses at the end of the aliases.
var chain = []string{"198.18.0.5", "198.18.0.6", "2001:db8::5"}

func manyAddresses(n, third int, second string) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("10.244.%d.%d", third, i+1), fmt.Sprintf("fd24:%s::%d", second, i+1))
	}
	slices.Sort(list)
	return list
}

// stub is a resolver that programs are linked with or come with. It is asked by a program which prints one line a name.
type stub struct {
	name    string
	needs   string // program that must be on the machine
	from    string // Debian's package that has it
	build   []string
	command []string
	tcp     bool // asks by TCP alone: its pod's resolv.conf says use-vc

	noSearch    bool // takes names as they are
	noCanonical bool // does not tell the canonical name, or any of several
	onlyUDP     bool // lives off what fits into 512 octets
	// What it says of names that do not exist, and of those for which cluster DNS fails. An empty broken: is not asked, see there.
	nowhere, broken string
}

const (
	glibcNowhere, glibcBroken = "Name or service not known", "Temporary failure in name resolution"
	goNowhere, goBroken       = "no such host", "server misbehaving"
)

var stubs = []stub{
	{name: "glibc", needs: "gcc", from: "gcc", build: []string{"gcc", "-o", "{}/glibc", testdata("lookup.c")}, command: []string{"{}/glibc"},
		nowhere: glibcNowhere, broken: glibcBroken},
	{name: "glibc by TCP", needs: "gcc", from: "gcc", build: []string{"gcc", "-o", "{}/glibc", testdata("lookup.c")}, command: []string{"{}/glibc"}, tcp: true,
		nowhere: glibcNowhere, broken: glibcBroken},
	{name: "getent", needs: "getent", from: "libc-bin", command: []string{"sh", testdata("getent.sh")}, nowhere: "2", broken: "2"},
	// Debian's musl is 1.2.3, which has no TCP. After two SERVFAIL it waits out its timer of 5 s, twice, whoever says so.
	{name: "musl", needs: "musl-gcc", from: "musl-tools", build: []string{"musl-gcc", "-static", "-o", "{}/musl", testdata("lookup.c")},
		command: []string{"{}/musl"}, onlyUDP: true, nowhere: "Name does not resolve"},
	{name: "Go", needs: "go", from: "golang", build: []string{"go", "build", "-o", "{}/gostub", "./testdata/gostub"}, command: []string{"{}/gostub"},
		noCanonical: true, nowhere: goNowhere, broken: goBroken},
	{name: "Go by TCP", needs: "go", from: "golang", build: []string{"go", "build", "-o", "{}/gostub", "./testdata/gostub"}, command: []string{"{}/gostub"}, tcp: true,
		noCanonical: true, nowhere: goNowhere, broken: goBroken},
	{name: "Node.js lookup", needs: "node", from: "nodejs", command: []string{"node", testdata("lookup.js"), "lookup"}, noCanonical: true,
		nowhere: "ENOTFOUND", broken: "EAI_AGAIN"},
	{name: "Node.js resolve", needs: "node", from: "nodejs", command: []string{"node", testdata("lookup.js"), "resolve"}, noSearch: true, noCanonical: true,
		nowhere: "ENOTFOUND", broken: "ESERVFAIL"},
	{name: "Python", needs: "python3", from: "python3", command: []string{"python3", testdata("lookup.py")},
		nowhere: "[Errno -2] " + glibcNowhere, broken: "[Errno -3] " + glibcBroken},
	{name: "Python by TCP", needs: "python3", from: "python3", command: []string{"python3", testdata("lookup.py")}, tcp: true,
		nowhere: "[Errno -2] " + glibcNowhere, broken: "[Errno -3] " + glibcBroken},
}

var here, _ = os.Getwd()

func testdata(file string) string { return filepath.Join(here, "testdata", file) }

// asProgram is the stub as it is run in a pod.
func (s stub) asProgram() program {
	p := program{name: s.name, needs: s.needs, from: s.from, build: s.build, command: slices.Clone(s.command), tcp: s.tcp, countable: true}
	var want []string
	for _, n := range s.names() {
		p.command = append(p.command, n.ask)
		want = append(want, s.expect(n))
	}
	p.settle = func(out string) string {
		if s.onlyUDP {
			return countMany(out)
		}
		return out
	}
	p.check = func(t *testing.T, out string) {
		t.Helper()
		got := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if len(got) != len(want) {
			t.Fatalf("%d lines for %d names:\n%s", len(got), len(want), out)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("heard: %s\nwant:  %s", got[i], want[i])
			}
		}
	}
	return p
}

// names are those that the stub is asked for: one of them nobody else asks for, so that no cache has it.
func (s stub) names() []name {
	own := strings.NewReplacer(" ", "-", ".", "").Replace(strings.ToLower(s.name)) + ".fresh.example.com"
	list := []name{{ask: own, addresses: []string{"198.18.0.3", "2001:db8::3"}, canonical: own}}
	for _, n := range names {
		if n.broken && s.broken == "" {
			continue
		}
		list = append(list, n)
	}
	return list
}

// expect is the line that the stub has to print for a name.
func (s stub) expect(n name) string {
	switch {
	case n.broken:
		return n.ask + " error: " + s.broken
	case len(n.addresses) == 0, n.relative && s.noSearch:
		return n.ask + " error: " + s.nowhere
	case s.onlyUDP && len(n.addresses) > 30:
		return n.ask + " " + fits
	case s.noCanonical:
		return n.ask + " " + strings.Join(n.addresses, " ")
	}
	return n.ask + " " + strings.Join(n.addresses, " ") + " (" + n.canonical + ")"
}

// fits is what is left of many addresses in 512 octets: header and question take 45, a record 16 or 28.
const fits = "29 IPv4, 16 IPv6"

// countMany replaces long lists of addresses by their numbers: which of them are in a short answer changes from answer to answer. An
// address that the name does not have stays, and gives it away.
func countMany(out string) string {
	var lines []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		i := slices.IndexFunc(names, func(n name) bool { return n.ask == f[0] && len(n.addresses) > 30 })
		if i < 0 {
			lines = append(lines, line)
			continue
		}
		four, six, rest := 0, 0, ""
		for _, text := range f[1 : len(f)-1] {
			addr, err := netip.ParseAddr(text)
			switch {
			case err != nil || !slices.Contains(names[i].addresses, text):
				rest += " " + text
			case addr.Is4():
				four++
			default:
				six++
			}
		}
		lines = append(lines, fmt.Sprintf("%s %d IPv4, %d IPv6%s\n", f[0], four, six, rest))
	}
	return strings.Join(lines, "")
}

// Real stub resolvers in pods that know nothing of dnslet hear from it, through the cluster's own address, by UDP and by TCP, what they
// hear from cluster DNS through kube-proxy, and ask no more often. No lookup makes a conntrack entry.
//
// Red when: AppendReply keeps no record of what does not fit (musl); Answer.Parse does not call shorten (musl, and glibc asks again by TCP).
func TestStubs(t *testing.T) {
	var programs []program
	for _, s := range stubs {
		programs = append(programs, s.asProgram())
	}
	compare(t, programs)
}
