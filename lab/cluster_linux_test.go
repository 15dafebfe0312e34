package lab

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dnslet/dnslet/lab/netns"
	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
)

func newCluster(t *testing.T, cfg Config) *Cluster {
	t.Helper()
	netns.Require(t)
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Red when: the numgen picks from one endpoint only, or TCP has no element in service-ips.
func TestKubeProxyBalances(t *testing.T) {
	c := newCluster(t, Config{Pods: 1, Endpoints: 3})
	for _, network := range []string{"udp", "tcp"} {
		for _, s := range c.Endpoints {
			s.Reset()
		}
		const asked = 120
		for range asked {
			a, err := c.Pods[0].Ask(network, "web.default.svc.cluster.local.", dns.TypeA, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if a.FromAgent || len(a.Msg.Answer) != 1 {
				t.Fatalf("answer: %v", a.Msg)
			}
		}
		var sum uint64
		for _, s := range c.Endpoints {
			n := s.Counts().Pods
			sum += n
			// 120 throws of three faces: fewer than 15 of one is a chance of one in ten million.
			if n < 15 {
				t.Errorf("%s: endpoint %s was asked %d of %d times", network, s.Addr, n, asked)
			}
		}
		if sum != asked {
			t.Errorf("%s: %d questions came from pods, want %d (no masquerade)", network, sum, asked)
		}
	}
}

// What kube-proxy rejects: other ports of a Service, addresses of none, and a Service without endpoints.
//
// Red when: filter-forward does not jump to cluster-ips-check.
func TestKubeProxyRejects(t *testing.T) {
	c := newCluster(t, Config{Pods: 1, Endpoints: 1})
	refused := func(addr string) {
		t.Helper()
		conn, err := c.Pods[0].Dial("tcp", netip.MustParseAddrPort(addr))
		if err == nil {
			conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("connect to %s: %v, want refused", addr, err)
		}
	}
	refused("172.20.0.10:80")
	if err := c.SetEndpoints(nil); err != nil {
		t.Fatal(err)
	}
	refused("172.20.0.10:53")
	if err := c.SetEndpoints(c.EndpointAddrs()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Pods[0].Ask("tcp", "web.default.svc.cluster.local.", dns.TypeA, 5*time.Second); err != nil {
		t.Errorf("after the endpoints are back: %v", err)
	}
}

// Lookups by the rules of glibc: the search list, both families, NODATA and NXDOMAIN, and TCP for what does not fit.
//
// Red when: candidates tries the name itself first, or accept ignores the TC bit.
func TestLookup(t *testing.T) {
	c := newCluster(t, Config{Pods: 1, Endpoints: 3})
	p := c.Pods[0]
	for _, test := range []struct {
		name         string
		addrs        int
		queries, tcp int
	}{
		{"web", 1, 2, 0},
		{"web.shop", 1, 4, 0},
		{"www.example.com", 2, 10, 0},
		{"www.example.com.", 2, 2, 0},
		{"a.b.c.d.e.example.net", 2, 2, 0},
		{"nowhere", 0, 10, 0},
		{"many.shop", 80, 6, 2},
	} {
		l := p.Lookup(t.Context(), test.name)
		if l.Failed() || l.Stalled() || len(l.Addrs) != test.addrs {
			t.Errorf("%s: %d addresses, %v, %d timeouts, want %d", test.name, len(l.Addrs), l.Err, l.Timeouts, test.addrs)
		}
		if l.Queries != test.queries || l.TCP != test.tcp {
			t.Errorf("%s: %d questions, %d by TCP, want %d, %d", test.name, l.Queries, l.TCP, test.queries, test.tcp)
		}
		if l.FromAgent != 0 {
			t.Errorf("%s: %d answers are not from cluster DNS", test.name, l.FromAgent)
		}
	}
}

// A black hole costs a program 10 s; one lost answer costs it 5 s; SERVFAIL costs nothing.
//
// Red when: query does not fall back to one question at a time after half an answer.
func TestLookupTimes(t *testing.T) {
	c := newCluster(t, Config{Pods: 3, Endpoints: 1})
	s := c.Endpoints[0]
	var wg sync.WaitGroup
	s.Set(Behaviour{BlackHole: true})
	wg.Go(func() {
		l := c.Pods[0].Lookup(t.Context(), "web")
		if l.Err == nil || l.Timeouts != 2 || l.Took < 10*time.Second || l.Took > 11*time.Second {
			t.Errorf("black hole: %v, %d timeouts, %v, want failed after 10 s", l.Err, l.Timeouts, l.Took)
		}
	})
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if l := c.Pods[1].Lookup(ctx, "web"); l.Err == nil || l.Stalled() || l.Took > 4*time.Second {
			t.Errorf("cancelled: %v after %v, want an error at once", l.Err, l.Took)
		}
	})
	half := newCluster(t, Config{Pods: 1, Endpoints: 1})
	var ignored atomic.Bool
	half.Endpoints[0].Set(Behaviour{Delay: 200 * time.Millisecond, Ignore: func(q dns.Question) bool {
		return q.Qtype == dns.TypeAAAA && ignored.CompareAndSwap(false, true)
	}})
	wg.Go(func() {
		// Both questions together, then both again, one after the other: 5 s and twice the delay.
		l := half.Pods[0].Lookup(t.Context(), "web")
		if l.Failed() || len(l.Addrs) != 1 || l.Timeouts != 1 || l.Queries != 4 || l.Took < 5400*time.Millisecond || l.Took > 7*time.Second {
			t.Errorf("one lost answer: %v, %d timeouts, %d questions, %v", l.Err, l.Timeouts, l.Queries, l.Took)
		}
	})
	wg.Wait()
	s.Set(Behaviour{RCodes: map[string]int{"web.default.svc.cluster.local.": dns.RcodeServerFailure}})
	if l := c.Pods[2].Lookup(t.Context(), "web"); l.Err == nil || l.Stalled() || l.Took > 4*time.Second {
		t.Errorf("SERVFAIL: %v, %d timeouts, %v, want failed at once", l.Err, l.Timeouts, l.Took)
	}
}

// An answer of the server's upstream is waited for once, and kept.
//
// Red when: wait does not remember.
func TestServerUpstream(t *testing.T) {
	c := newCluster(t, Config{Pods: 1, Endpoints: 1})
	const slow = 200 * time.Millisecond
	c.Endpoints[0].Set(Behaviour{UpstreamDelay: slow})
	for i, test := range []struct {
		name string
		slow bool
	}{
		{"web.default.svc.cluster.local.", false},
		{"www.example.com.", true},
		{"www.example.com.", false},
	} {
		a, err := c.Pods[0].Ask("udp", test.name, dns.TypeA, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if (a.Took >= slow) != test.slow {
			t.Errorf("question %d, %s: %v, want slow: %v", i, test.name, a.Took, test.slow)
		}
	}
}

// Closed servers owe nothing and come back.
//
// Red when: Close leaves a socket open, or Start does not make a new stop channel.
func TestServerRestart(t *testing.T) {
	c := newCluster(t, Config{Pods: 1, Endpoints: 1})
	for range 3 {
		if err := c.Endpoints[0].Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Pods[0].Ask("tcp", "web.default.svc.cluster.local.", dns.TypeA, 5*time.Second); err == nil {
			t.Fatal("a closed server answers")
		}
		if err := c.Endpoints[0].Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Pods[0].Ask("udp", "web.default.svc.cluster.local.", dns.TypeA, 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

// A real program in a pod resolves through the pod's own files.
//
// Red when: mountEtc mounts nothing, or runs on another thread than Start.
func TestPodRunsPrograms(t *testing.T) {
	c := newCluster(t, Config{Pods: 2, Endpoints: 3})
	getent, err := exec.LookPath("getent")
	if err != nil {
		t.Skip("this machine has no getent (glibc)")
	}
	for _, test := range []struct{ name, want string }{
		{"web.shop", "172.20.1.2"},
		{"pod2", "10.244.1.12"}, // in /etc/hosts of the pod alone
	} {
		var out bytes.Buffer
		cmd := exec.Command(getent, "ahostsv4", test.name)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := c.Pods[1].NS.Run(cmd); err != nil || !strings.HasPrefix(out.String(), test.want+" ") {
			t.Errorf("getent %s: %v, %q, want %s", test.name, err, out.String(), test.want)
		}
	}
	before, err := os.ReadFile("/etc/resolv.conf")
	if err == nil && bytes.Contains(before, []byte(VIP.String())) {
		t.Error("the machine's own resolv.conf is that of a pod")
	}
}

// sendPairs sends n pairs, each from a new socket by one sendmmsg, and returns how many answers came before the wait was over.
func sendPairs(t *testing.T, p *Pod, n int, wait time.Duration) (answers int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	deadline := time.Now().Add(wait)
	for i := range n {
		conn, err := p.Dial("udp", netip.AddrPortFrom(VIP, 53))
		if err != nil {
			t.Fatal(err)
		}
		q, err := newPair("web.default.svc.cluster.local.")
		if err != nil {
			t.Fatal(err)
		}
		batch := []ipv4.Message{{Buffers: [][]byte{q.wire[0]}}, {Buffers: [][]byte{q.wire[1]}}}
		if sent, err := ipv4.NewPacketConn(conn.(*net.UDPConn)).WriteBatch(batch, 0); sent != 2 || err != nil {
			t.Fatalf("pair %d: sent %d, %v", i, sent, err)
		}
		wg.Go(func() {
			defer conn.Close()
			conn.SetReadDeadline(deadline)
			buf := make([]byte, 512)
			for range 2 {
				if _, err := conn.Read(buf); err != nil {
					return
				}
				mu.Lock()
				answers++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return answers
}

// The incident itself, and its controls: every pair clashes; a fast answer is never lost, an answer that takes longer than the
// second for which the kernel repairs a clash is lost whenever the two were sent to different endpoints; one endpoint alone
// loses nothing; and the counters that are usually watched do not move.
//
// Red when: Hold lets the first packet go at once.
func TestRaceSlow(t *testing.T) {
	for _, test := range []struct {
		name      string
		endpoints int
		delay     time.Duration
		lost      [2]int // at least, at most, of 150 pairs
	}{
		{"fast", 3, 0, [2]int{0, 0}},
		{"slow", 3, 1500 * time.Millisecond, [2]int{75, 125}}, // 100 on average, deviation 6
		{"slow, one endpoint", 1, 1500 * time.Millisecond, [2]int{0, 0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t, Config{Pods: 1, Endpoints: test.endpoints})
			hold, err := c.StartHold()
			if err != nil {
				t.Fatal(err)
			}
			defer hold.Close()
			for _, s := range c.Endpoints {
				s.Set(Behaviour{Delay: test.delay})
			}
			meter, err := c.Meter()
			if err != nil {
				t.Fatal(err)
			}
			const pairs = 150
			lost := 2*pairs - sendPairs(t, c.Pods[0], pairs, test.delay+1500*time.Millisecond)
			got, err := meter.Stop()
			if err != nil {
				t.Fatal(err)
			}
			// Every packet was held, and all but a few pairs went together: a machine that is busy elsewhere for longer than
			// holdTime may tear one apart. And a source port that is picked a second time, after a fast answer, has its entry.
			const most = pairs * 95 / 100
			if stats := hold.Stats(); stats.Pairs < most || 2*stats.Pairs+stats.Singles != 2*pairs {
				t.Errorf("held %+v, want %d pairs", stats, pairs)
			}
			if got.Clashes < most || got.Clashes > pairs || got.NewEntries < most {
				t.Errorf("%d clashes and %d new entries of %d pairs", got.Clashes, got.NewEntries, pairs)
			}
			if got.InsertFailed != 0 || got.Drop != 0 || got.LateAnswers != uint64(lost) {
				t.Errorf("insert_failed %d, drop %d, %d late answers, want 0, 0, and the %d that were lost",
					got.InsertFailed, got.Drop, got.LateAnswers, lost)
			}
			if lost < test.lost[0] || lost > test.lost[1] {
				t.Errorf("%d answers lost, want %d to %d", lost, test.lost[0], test.lost[1])
			}
			t.Logf("%d lost, %+v", lost, got)
		})
	}
}

// A cluster that is closed leaves no process, thread or descriptor.
//
// Red when: Close forgets the fabric.
func TestCloseLeavesNothing(t *testing.T) {
	netns.Require(t)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	warm := newCluster(t, Config{Pods: 1, Endpoints: 1}) // opens what the runtime keeps, its poller for one
	if err := warm.Close(); err != nil {
		t.Fatal(err)
	}
	before := count()
	c, err := New(Config{Pods: 3, Endpoints: 3})
	if err != nil {
		t.Fatal(err)
	}
	sleep := exec.Command("sleep", "1000")
	if err := c.Pods[0].Start(sleep); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sleep.Wait(); err == nil {
		t.Error("the pod's process ended by itself")
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

// Red when: serve answers before it throws the dice, or forgets the black hole.
func TestServerLoses(t *testing.T) {
	c := newCluster(t, Config{Pods: 1, Endpoints: 1})
	const asked = 200
	for _, test := range []struct {
		b        Behaviour
		min, max int
	}{
		{Behaviour{}, asked, asked},
		{Behaviour{Loss: 0.5}, 50, 150}, // 100 on average, deviation 7
		{Behaviour{BlackHole: true}, 0, 0},
	} {
		c.Endpoints[0].Set(test.b)
		var answered atomic.Int64
		var wg sync.WaitGroup
		for range asked {
			wg.Go(func() {
				if _, err := c.Pods[0].Ask("udp", "web.default.svc.cluster.local.", dns.TypeA, time.Second); err == nil {
					answered.Add(1)
				}
			})
		}
		wg.Wait()
		if n := int(answered.Load()); n < test.min || n > test.max {
			t.Errorf("%+v: %d of %d were answered, want %d to %d", test.b, n, asked, test.min, test.max)
		}
	}
}
