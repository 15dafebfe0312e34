package stubs

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/lab"
	"github.com/dnslet/dnslet/lab/netns"
)

// program is what is run in a pod, at first without dnslet and then with it.
type program struct {
	name    string
	needs   string   // the program that must be on the machine
	from    string   // Debian's package that has it
	build   []string // {} is a folder for what is built
	command []string
	tcp     bool // it asks by TCP alone, because its pod's resolv.conf says so

	settle func(out string) string        // its output without what may differ; also run on what check sees
	check  func(t *testing.T, out string) // what it must say, whoever answers
	// differs says why dnslet's answer is not cluster DNS's; check is then asked of dnslet's alone.
	differs string
	// marked: it shows the mark by which cluster DNS's answers are known.
	marked bool
	// countable: the agent counts all that it asks.
	countable bool
}

// heard is what came of running a program.
type heard struct {
	raw, out string
	took     time.Duration
	cluster  asked  // questions from pods that cluster DNS read
	agent    asked  // questions that the agent read
	upstream uint64 // questions of the agent that cluster DNS read
	entries  uint64 // in conntrack, new
}

// mark is how dig and kdig show the bit Z, which cluster DNS sets in all it says.
var mark = regexp.MustCompile(`(?:; MBZ: 0x[0-9a-f]+| z)([;,] QUERY)`)

// testbed is a cluster with two pods, the second of which asks by TCP, and an agent's binary.
type testbed struct {
	*lab.Cluster
	dns    *clusterDNS
	folder string // of what was built
	agent  *lab.Agent
}

func newTestbed(t *testing.T) *testbed {
	t.Helper()
	netns.Require(t)
	cluster, err := lab.New(lab.Config{Pods: 2, Endpoints: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &testbed{Cluster: cluster, dns: newClusterDNS(t, testdata("cluster.zone")), folder: t.TempDir()}
	for _, old := range cluster.Endpoints {
		b.dns.replace(t, old)
	}
	for i, pod := range cluster.Pods {
		// getent asks for the families that the pod has.
		addr := netip.MustParseAddr("fd24:244::11").As16()
		addr[15] += byte(i)
		if err := pod.NS.AddAddr("eth0", netip.PrefixFrom(netip.AddrFrom16(addr), 128)); err != nil {
			t.Fatal(err)
		}
	}
	if err := cluster.Pods[1].NS.Prepare(useTCP); err != nil {
		t.Fatal(err)
	}
	b.build(t, "go", "build", "-o", "{}/dnslet", "../../cmd/dnslet")
	return b
}

// useTCP has a pod ask by TCP (resolv.conf(5), use-vc). It runs among the files of the pod.
func useTCP() error {
	f, err := os.OpenFile("/etc/resolv.conf", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("options use-vc\n")
	return errors.Join(err, f.Close())
}

func (b *testbed) build(t *testing.T, command ...string) {
	t.Helper()
	command = b.in(command)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, out)
	}
}

// in puts the folder into a command.
func (b *testbed) in(command []string) []string {
	out := slices.Clone(command)
	for i := range out {
		out[i] = strings.ReplaceAll(out[i], "{}", b.folder)
	}
	return out
}

// start starts the agent on the node.
func (b *testbed) start(t *testing.T) {
	t.Helper()
	agent, err := b.StartAgent(t.Context(), []string{filepath.Join(b.folder, "dnslet"), "agent"})
	if err != nil {
		t.Fatal(err)
	}
	b.agent = agent
	t.Cleanup(func() {
		if err := agent.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// hear runs a program in its pod. A machine that is busy elsewhere for half a second has the kernel leave questions to kube-proxy, as it
// should: what was heard while the agent's heartbeat lapsed says nothing, and the program is run again.
func (b *testbed) hear(t *testing.T, p program) heard {
	t.Helper()
	for range 10 {
		before := b.status(t).Interception.Lapses
		h := b.hearOnce(t, p)
		if b.alive(t) == before {
			return h
		}
	}
	t.Fatal("the agent's heartbeat lapsed all the time")
	return heard{}
}

// alive waits until pods' questions go to the agent by both transports, and returns how often they did not so far.
func (b *testbed) alive(t *testing.T) uint64 {
	t.Helper()
	if b.agent == nil {
		return 0
	}
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for end := time.Now().Add(time.Minute); ; {
		i := b.status(t).Interception
		if len(i.VIPs) == 1 && i.VIPs[0].UDP && i.VIPs[0].TCP {
			return i.Lapses
		}
		if time.Now().After(end) {
			t.Fatalf("pods' questions do not go to the agent: %+v", i)
		}
		<-pause.C
	}
}

// hearOnce runs a program in its pod.
func (b *testbed) hearOnce(t *testing.T, p program) heard {
	t.Helper()
	meter, err := b.Meter()
	if err != nil {
		t.Fatal(err)
	}
	cluster, upstream, agent := b.dns.fromPods(), b.dns.others.Load(), b.readByAgent(t)
	var h heard
	began := time.Now()
	h.raw = b.run(t, p)
	h.took = time.Since(began)
	h.out = p.settle(h.raw)
	h.cluster, h.upstream, h.agent = b.dns.fromPods().minus(cluster), b.dns.others.Load()-upstream, b.readByAgent(t).minus(agent)
	counters, err := meter.Stop()
	if err != nil {
		t.Fatal(err)
	}
	h.entries = counters.NewEntries
	return h
}

// run returns what a program printed. Its exit code is not looked at: dig's tells of other things.
func (b *testbed) run(t *testing.T, p program) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pod := b.Pods[0]
	if p.tcp {
		pod = b.Pods[1]
	}
	var out bytes.Buffer
	command := b.in(p.command)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := pod.Start(cmd); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if ctx.Err() != nil {
		t.Fatalf("%v did not end\n%s", command, &out)
	}
	return out.String()
}

// status is what the agent says of itself; nothing while it is not there.
func (b *testbed) status(t *testing.T) *api.Status {
	t.Helper()
	if b.agent == nil {
		return &api.Status{}
	}
	s, err := b.agent.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// readByAgent returns how many questions the agent has read.
func (b *testbed) readByAgent(t *testing.T) asked {
	t.Helper()
	q := b.status(t).Queries
	return asked{q.UDP, q.TCP}
}

// compare runs every program through kube-proxy, then with dnslet on the node, twice: the second time from its cache.
func compare(t *testing.T, programs []program) {
	b := newTestbed(t)
	direct, entries := map[string]heard{}, uint64(0)
	for _, p := range programs {
		if _, err := exec.LookPath(p.needs); err != nil {
			t.Run(p.name, func(t *testing.T) {
				t.Skipf("%s is not installed (Debian's package %s; make setup installs it as root)", p.needs, p.from)
			})
			continue
		}
		if p.build != nil {
			b.build(t, p.build...)
		}
		direct[p.name] = b.hear(t, p)
		entries += direct[p.name].entries
	}
	// Not for each program: one that draws a port again that has been used lately finds an entry.
	if len(direct) > 0 && entries == 0 {
		t.Error("no conntrack entry was made through kube-proxy either")
	}
	b.start(t)
	for _, p := range programs {
		before, ok := direct[p.name]
		if !ok {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			t.Run("kube-proxy", func(t *testing.T) { p.judgeDirect(t, before) })
			for _, state := range []string{"dnslet", "dnslet again"} {
				t.Run(state, func(t *testing.T) {
					h := b.hear(t, p)
					p.judge(t, h, before)
					if state == "dnslet" && p.countable && h.upstream == 0 {
						t.Error("a name that nobody had asked for was known")
					}
				})
			}
		})
	}
}

// judgeDirect judges what came of a program without dnslet.
func (p program) judgeDirect(t *testing.T, h heard) {
	t.Helper()
	if p.countable && h.cluster == (asked{}) {
		t.Error("cluster DNS was not asked")
	}
	if p.marked && !mark.MatchString(h.raw) {
		t.Errorf("cluster DNS has not marked its answer:\n%s", h.raw)
	}
	if p.tcp && h.cluster.UDP > 0 {
		t.Errorf("%+v questions, want TCP alone", h.cluster)
	}
	if p.differs == "" {
		p.check(t, h.out)
	}
}

// judge judges what came of a program with dnslet, and before without.
func (p program) judge(t *testing.T, h, before heard) {
	t.Helper()
	p.check(t, h.out)
	if p.marked && mark.MatchString(h.raw) {
		t.Errorf("cluster DNS itself has answered:\n%s", h.raw)
	}
	switch d := cmp.Diff(before.out, h.out); {
	case d != "" && p.differs == "":
		t.Errorf("not what it heard through kube-proxy (-kube-proxy +dnslet):\n%s", d)
	case d == "" && p.differs != "":
		t.Errorf("the same as through kube-proxy, though %s", p.differs)
	}
	if h.cluster != (asked{}) || h.entries != 0 {
		t.Errorf("%+v questions went to cluster DNS, %d conntrack entries were made", h.cluster, h.entries)
	}
	if p.countable && h.agent != before.cluster {
		t.Errorf("it asked dnslet %+v, kube-proxy %+v questions", h.agent, before.cluster)
	}
	if h.took >= 5*time.Second {
		t.Errorf("took %v: it lost an answer", h.took)
	}
}
