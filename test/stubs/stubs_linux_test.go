package stubs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dnslet/dnslet/lab"
	"github.com/dnslet/dnslet/lab/netns"
)

func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }

// stub is a program that looks names up and prints one line a name: "name address...", or what went wrong.
type stub struct {
	name    string
	needs   string // program that must be on the machine
	build   []string
	command []string // {} is the folder of what was built
	env     []string
	search  bool // uses the pod's search list
	many    int  // addresses it has of the 40 A and 40 AAAA, at least
}

var here, _ = os.Getwd()

func testdata(file string) string { return filepath.Join(here, "testdata", file) }

var stubs = []stub{
	{name: "glibc", needs: "gcc", build: []string{"gcc", "-o", "{}/glibc", testdata("lookup.c")}, command: []string{"{}/glibc"}, search: true, many: 80},
	{name: "glibc by TCP", needs: "gcc", build: []string{"gcc", "-o", "{}/glibc", testdata("lookup.c")}, command: []string{"{}/glibc"},
		env: []string{"RES_OPTIONS=use-vc"}, search: true, many: 80},
	// musl 1.2.3 never uses TCP and lives off what fits into 512 octets.
	{name: "musl", needs: "musl-gcc", build: []string{"musl-gcc", "-static", "-o", "{}/musl", testdata("lookup.c")}, command: []string{"{}/musl"}, search: true, many: 40},
	{name: "Go", needs: "go", build: []string{"go", "build", "-o", "{}/gostub", "./testdata/gostub"}, command: []string{"{}/gostub"}, search: true, many: 80},
	{name: "Node.js lookup", needs: "node", command: []string{"node", testdata("lookup.js"), "lookup"}, search: true, many: 80},
	{name: "Node.js resolve", needs: "node", command: []string{"node", testdata("lookup.js"), "resolve"}, many: 80},
	{name: "Python", needs: "python3", command: []string{"python3", testdata("lookup.py")}, search: true, many: 80},
	{name: "Python by TCP", needs: "python3", command: []string{"python3", testdata("lookup.py")}, env: []string{"RES_OPTIONS=use-vc"}, search: true, many: 80},
}

// Names, from a pod in the namespace default.
var (
	absolute = []string{"web.default.svc.cluster.local", "web.shop.svc.cluster.local", "www.example.com", "a.b.c.d.example.com",
		"many.shop.svc.cluster.local", "nowhere.default.svc.cluster.local", "nowhere.invalid-tld"}
	relative = []string{"web", "web.shop", "kubernetes", "nowhere"}
)

// testbed is a cluster and the binary of the agent.
type testbed struct {
	*lab.Cluster
	binary string
}

func newTestbed(t *testing.T) *testbed {
	netns.Require(t)
	binary := filepath.Join(t.TempDir(), "dnslet")
	build(t, "", []string{"go", "build", "-o", binary, "../../cmd/dnslet"})
	cluster, err := lab.New(lab.Config{Pods: 1, Endpoints: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	return &testbed{cluster, binary}
}

func build(t *testing.T, dir string, command []string) {
	t.Helper()
	command = in(dir, command)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, out)
	}
}

func in(dir string, command []string) []string {
	out := slices.Clone(command)
	for i := range out {
		out[i] = strings.ReplaceAll(out[i], "{}", dir)
	}
	return out
}

// run runs a program in the pod and returns what it printed. Its exit code is not looked at: dig's tells of other things.
func (b *testbed) run(t *testing.T, env []string, command ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := b.Pods[0].Start(cmd); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if ctx.Err() != nil {
		t.Fatalf("%v did not end\n%s", command, &out)
	}
	return out.String()
}

// withAgent runs f with the agent on the node and checks that kube-proxy's path was hardly used meanwhile: then it was the agent
// that answered.
func (b *testbed) withAgent(t *testing.T, f func()) {
	t.Helper()
	agent, err := b.StartAgent(t.Context(), []string{b.binary, "agent"})
	if err != nil {
		t.Fatal(err)
	}
	meter, err := b.Meter()
	if err != nil {
		t.Fatal(err)
	}
	f()
	counters, err := meter.Stop()
	if err != nil {
		t.Fatal(err)
	}
	// Of hundreds of lookups. A machine that is busy elsewhere for half a second has the kernel leave a few to kube-proxy.
	const few = 20
	if counters.NewEntries > few {
		t.Errorf("%d lookups went through conntrack", counters.NewEntries)
	}
	if err := agent.Stop(); err != nil {
		t.Error(err)
	}
}

// Every stub hears from dnslet what it hears from cluster DNS, through the same VIP.
//
// Red when: AppendReply leaves out the question, drops truncated answers' records, or answers NODATA with NXDOMAIN.
func TestStubsHearTheSame(t *testing.T) {
	b := newTestbed(t)
	programs := t.TempDir()
	direct := map[string]string{}
	var run []stub
	for _, s := range stubs {
		if _, err := exec.LookPath(s.needs); err != nil {
			t.Run(s.name, func(t *testing.T) {
				t.Skipf("%s is not installed (make setup installs it, as root on Debian)", s.needs)
			})
			continue
		}
		if s.build != nil {
			env := s.build
			if s.needs == "go" {
				env = in(programs, env)
			}
			build(t, programs, env)
		}
		direct[s.name] = b.run(t, s.env, append(in(programs, s.command), names(s)...)...)
		s.check(t, direct[s.name], "through kube-proxy")
		run = append(run, s)
	}
	b.withAgent(t, func() {
		for _, s := range run {
			t.Run(s.name, func(t *testing.T) {
				for _, state := range []string{"cold", "cached"} {
					got := b.run(t, s.env, append(in(programs, s.command), names(s)...)...)
					s.check(t, got, state)
					if got, want := comparable(s, got), comparable(s, direct[s.name]); got != want {
						t.Errorf("%s, with dnslet:\n%s\nthrough kube-proxy:\n%s", state, got, want)
					}
				}
			})
		}
	})
}

func names(s stub) []string {
	if s.search {
		return append(slices.Clone(absolute), relative...)
	}
	return absolute
}

// check looks at the output of a stub by itself, so that two wrong answers do not pass for equal ones.
func (s stub) check(t *testing.T, out, state string) {
	t.Helper()
	want := map[string]string{"web.default.svc.cluster.local": "172.20.1.1", "web.shop.svc.cluster.local": "172.20.1.2"}
	if s.search {
		want["web"], want["web.shop"], want["kubernetes"] = "172.20.1.1", "172.20.1.2", "172.20.0.1"
	}
	for line := range strings.Lines(out) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		fields := strings.Fields(rest)
		switch {
		case strings.HasPrefix(name, "nowhere") && !strings.HasPrefix(rest, "error"):
			t.Errorf("%s, %s: %s exists: %s", s.name, state, name, rest)
		case strings.HasPrefix(name, "many") && len(fields) < s.many:
			t.Errorf("%s, %s: %d addresses of %s, want at least %d: %s", s.name, state, len(fields), name, s.many, rest)
		case strings.HasSuffix(name, "example.com") && len(fields) != 2:
			t.Errorf("%s, %s: %q, want an address of each family", s.name, state, line)
		case want[name] != "" && rest != want[name]:
			t.Errorf("%s, %s: %s is %q, want %s", s.name, state, name, rest, want[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("%s, %s: nothing said of %v in\n%s", s.name, state, want, out)
	}
}

// comparable is the output but for what may differ: which of the many addresses fit into a short answer depends on their order, which
// changes from answer to answer.
func comparable(s stub, out string) string {
	var lines []string
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "many") && s.many < 80 {
			line = fmt.Sprintln("many", len(strings.Fields(line)))
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

// question is one call of dig or kdig, and what its output must and must not hold.
type question struct {
	name    string
	program string
	args    []string
	want    []string
	not     []string
	answers int // lines of the answer section that hold an address
}

const web, many = "web.default.svc.cluster.local", "many.shop.svc.cluster.local"

var questions = []question{
	{name: "plain", program: "dig", args: []string{web}, want: []string{"NOERROR", "172.20.1.1", "EDNS: version: 0"}, answers: 1},
	{name: "no EDNS", program: "dig", args: []string{"+noedns", web}, want: []string{"NOERROR", "172.20.1.1"}, not: []string{"EDNS"}, answers: 1},
	{name: "TCP", program: "dig", args: []string{"+tcp", web}, want: []string{"NOERROR", "172.20.1.1", "(TCP)"}, answers: 1},
	{name: "two questions, one connection", program: "dig", args: []string{"+tcp", "+keepopen", web, web, "AAAA"}, want: []string{"NOERROR", "172.20.1.1"}, answers: 1},
	{name: "other case", program: "dig", args: []string{"WeB.DefAULT.svc.cluster.LOCAL"}, want: []string{"WeB.DefAULT.svc.cluster.LOCAL."}, answers: 1},
	{name: "DNSSEC OK", program: "dig", args: []string{"+dnssec", web}, want: []string{"NOERROR", "flags: do"}, answers: 1},
	{name: "cookie", program: "dig", args: []string{"+cookie=0123456789abcdef", web}, want: []string{"NOERROR"}, answers: 1},
	{name: "NSID", program: "dig", args: []string{"+nsid", web}, want: []string{"NOERROR"}, answers: 1},
	{name: "client subnet", program: "dig", args: []string{"+subnet=192.0.2.0/24", web}, want: []string{"NOERROR"}, answers: 1},
	{name: "padding", program: "dig", args: []string{"+padding=128", web}, want: []string{"NOERROR"}, answers: 1},
	{name: "unknown option", program: "dig", args: []string{"+ednsopt=65001:abcd", web}, want: []string{"NOERROR"}, not: []string{"OPT=65001"}, answers: 1},
	{name: "EDNS version 1", program: "dig", args: []string{"+edns=1", "+noednsnegotiation", web}, want: []string{"BADVERS"}},
	{name: "EDNS version 1, asked again", program: "dig", args: []string{"+edns=1", web}, want: []string{"NOERROR"}, answers: 1},
	{name: "short, cut", program: "dig", args: []string{"+bufsize=512", "+ignore", many}, want: []string{"NOERROR", " tc "}, answers: 25},
	{name: "short, then TCP", program: "dig", args: []string{"+bufsize=512", many}, want: []string{"NOERROR"}, answers: 40},
	{name: "long", program: "dig", args: []string{"+bufsize=4096", "+ignore", many}, want: []string{"NOERROR"}, not: []string{" tc "}, answers: 40},
	{name: "no recursion", program: "dig", args: []string{"+norecurse", web}, want: []string{"NOERROR"}, not: []string{" rd "}, answers: 1},
	{name: "nowhere", program: "dig", args: []string{"nowhere.default.svc.cluster.local"}, want: []string{"NXDOMAIN", "SOA"}},
	{name: "no such type", program: "dig", args: []string{web, "AAAA"}, want: []string{"NOERROR", "SOA"}},
	{name: "CHAOS", program: "dig", args: []string{"-c", "CH", "-t", "TXT", "version.bind"}, want: []string{"REFUSED"}},
	{name: "ANY", program: "dig", args: []string{"-t", "ANY", web}, want: []string{"NOERROR", "HINFO"}},
	{name: "zone transfer", program: "dig", args: []string{"-t", "AXFR", "cluster.local"}, want: []string{"Transfer failed"}},
	{name: "other opcode", program: "dig", args: []string{"+opcode=status", web}, want: []string{"NOTIMP"}},
	{name: "kdig", program: "kdig", args: []string{web}, want: []string{"NOERROR", "172.20.1.1"}, answers: 1},
	{name: "kdig TCP", program: "kdig", args: []string{"+tcp", "+keepopen", web, many}, want: []string{"NOERROR", "172.20.1.1"}, answers: 41},
	{name: "kdig padding, NSID, cookie", program: "kdig", args: []string{"+padding", "+nsid", "+cookie", web}, want: []string{"NOERROR"}, answers: 1},
	{name: "kdig short", program: "kdig", args: []string{"+bufsize=512", "+ignore", many}, want: []string{"NOERROR", " tc"}, answers: 25},
	{name: "kdig EDNS version 1", program: "kdig", args: []string{"+edns=1", web}, want: []string{"BADVERS"}},
}

// Questions that only dig and kdig ask are answered as the RFCs say, with and without what was asked in the cache.
//
// Red when: AppendReply sends an OPT to who sent none, or cuts an answer down to nothing.
func TestOddQuestions(t *testing.T) {
	b := newTestbed(t)
	b.withAgent(t, func() {
		for _, q := range questions {
			t.Run(q.name, func(t *testing.T) {
				if _, err := exec.LookPath(q.program); err != nil {
					t.Skipf("%s is not installed (make setup installs it, as root on Debian)", q.program)
				}
				out := b.run(t, nil, append([]string{q.program, "@" + lab.VIP.String(), "+time=3"}, q.args...)...)
				answers := 0
				for line := range strings.Lines(out) {
					f := strings.Fields(line)
					if len(f) == 5 && !strings.HasPrefix(line, ";") && (f[3] == "A" || f[3] == "AAAA") {
						answers++
					}
				}
				if answers < q.answers || q.answers == 0 && answers > 0 {
					t.Errorf("%d addresses, want %d", answers, q.answers)
				}
				flat := strings.ReplaceAll(out, ";", " ;") // flags end with a semicolon
				for _, w := range q.want {
					if !strings.Contains(flat, w) {
						t.Errorf("no %q", w)
					}
				}
				for _, n := range q.not {
					if strings.Contains(flat, n) {
						t.Errorf("there is %q", n)
					}
				}
				if t.Failed() {
					t.Log(out)
				}
			})
		}
	})
}
