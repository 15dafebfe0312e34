package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/miekg/dns"

	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/intercept"
	"github.com/dnslet/dnslet/lab"
	"github.com/dnslet/dnslet/lab/netns"
)

// The whole agent, as a process, on the node of a cluster in namespaces.

// Who answered.
const (
	fromAgent   = "the agent"
	fromCluster = "cluster DNS"
)

// onNode is an agent that runs on the node of a cluster.
type onNode struct {
	t   *testing.T
	c   *lab.Cluster
	cmd *exec.Cmd
	log string
	end chan error
}

func newCluster(t *testing.T) *lab.Cluster {
	t.Helper()
	netns.Require(t)
	c, err := lab.New(lab.Config{Pods: 2, Endpoints: 2})
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

// command is a dnslet agent for the cluster, with further assignments.
func command(c *lab.Cluster, set ...string) *exec.Cmd {
	var endpoints []string
	for _, e := range c.EndpointAddrs() {
		endpoints = append(endpoints, e.String())
	}
	args := []string{"agent", "--set", "intercept.vips=" + lab.VIP.String(), "--set", "upstream=" + strings.Join(endpoints, ",")}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	return exec.Command("dnslet", args...)
}

// begin starts cmd on the node.
func begin(t *testing.T, c *lab.Cluster, cmd *exec.Cmd) *onNode {
	t.Helper()
	a := &onNode{t: t, c: c, cmd: cmd, log: filepath.Join(t.TempDir(), "log"), end: make(chan error, 1)}
	log, err := os.Create(a.log)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = log
	err = c.Node.Start(cmd)
	log.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() { a.end <- cmd.Wait(); close(a.end) }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-a.end
		if t.Failed() {
			b, _ := os.ReadFile(a.log)
			t.Logf("log of the agent:\n%s", b)
		}
	})
	return a
}

// start starts an agent on the node and waits until it is ready.
func start(t *testing.T, c *lab.Cluster, set ...string) *onNode {
	t.Helper()
	a := begin(t, c, command(c, set...))
	a.within(15*time.Second, "ready", a.ready)
	return a
}

func (a *onNode) ready() bool {
	code, _ := a.get("/readyz")
	return code == http.StatusOK
}

// within calls cond until it returns true; the test fails when that takes longer than limit, or the agent ends before.
func (a *onNode) within(limit time.Duration, what string, cond func() bool) time.Duration {
	a.t.Helper()
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Since(began) > limit {
			a.t.Fatalf("not within %v: %s", limit, what)
		}
		<-tick.C
	}
	return time.Since(began)
}

// get asks the agent's HTTP interface from the node; code 0: no answer.
func (a *onNode) get(path string) (code int, body string) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, addr string) (conn net.Conn, err error) {
			err = a.c.Node.Do(func() error { conn, err = net.Dial(network, addr); return err })
			return conn, err
		}}}
	resp, err := client.Get("http://" + api.DefaultAddr + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

func (a *onNode) status() api.Status {
	a.t.Helper()
	code, body := a.get(api.PathStatus)
	var s api.Status
	if err := json.Unmarshal([]byte(body), &s); err != nil || code != http.StatusOK {
		a.t.Fatalf("status: %d, %v\n%s", code, err, body)
	}
	return s
}

// ask asks the virtual IP for name from a namespace and returns who answered. An answer that is late, wrong or from
// another address is an error.
func ask(ns *netns.NS, network, name string) (who string, err error) {
	var conn net.Conn
	err = ns.Do(func() (err error) {
		conn, err = net.DialTimeout(network, netip.AddrPortFrom(lab.VIP, 53).String(), time.Second)
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	client := dns.Client{Net: network, Timeout: time.Second}
	r, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(name, dns.TypeA), &dns.Conn{Conn: conn})
	switch {
	case err != nil:
		return "", err
	case r.Rcode != dns.RcodeSuccess || len(r.Answer) == 0:
		return "", fmt.Errorf("%s has no address: %s", name, dns.RcodeToString[r.Rcode])
	case r.Zero: // the lab's servers set it, resolvers clear it
		return fromCluster, nil
	}
	return fromAgent, nil
}

// everywhere are the clients of a node: its pods and the node itself.
func everywhere(c *lab.Cluster) map[string]*netns.NS {
	return map[string]*netns.NS{"pod1": c.Pods[0].NS, "pod2": c.Pods[1].NS, "node": c.Node}
}

// all asks once from everywhere, by UDP and TCP, and wants the same one to answer.
func (a *onNode) all(name, want string) {
	a.t.Helper()
	for where, ns := range everywhere(a.c) {
		for _, network := range []string{"udp", "tcp"} {
			if who, err := ask(ns, network, name); err != nil || who != want {
				a.t.Errorf("from %s by %s: answered by %q (%v), want %s", where, network, who, err, want)
			}
		}
	}
}

const someName = "web.default.svc.cluster.local."

// Red when: bringUp does not install, or the listeners have no mark.
func TestAgentAnswersItsNode(t *testing.T) {
	c := newCluster(t)
	a := start(t, c)
	a.all(someName, fromAgent)
	if code, body := a.get("/readyz?verbose"); code != 200 || !strings.Contains(body, "[+]interception ok\n") {
		t.Errorf("readyz: %d\n%s", code, body)
	}
	s := a.status()
	i := s.Interception
	if s.State != api.OK || i.State != api.OK || !i.Installed || len(i.VIPs) != 1 || !i.VIPs[0].UDP || !i.VIPs[0].TCP || i.Packets["served"] == 0 || len(i.Endpoints) != 2 {
		t.Errorf("status: %s %q\n%+v", s.State, s.Reason, i)
	}
	if s.Listeners[0].Addr != "169.254.53.53:53" || s.Listeners[0].State != api.OK || len(s.Listeners) != 1 {
		t.Errorf("listeners: %+v", s.Listeners)
	}
	if u := s.Upstreams[0]; u.LastResort != lab.VIP.String()+":53" || len(u.Endpoints) != 2 {
		t.Errorf("upstream: %+v", u)
	}
	// The screen, as an operator sees it: dnslet on the node itself.
	var screen strings.Builder
	cmd := exec.Command("dnslet", "status")
	cmd.Stdout = &screen
	if err := c.Node.Run(cmd); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"serving this node's questions to 172.20.0.10\n", "172.20.0.10 -> 169.254.53.53   udp ok   tcp ok\n", "\nok    interception"} {
		if !strings.Contains(screen.String(), want) {
			t.Errorf("the screen lacks %q:\n%s", want, screen.String())
		}
	}
	t.Logf("\n%s", screen.String())

	// A second agent on the node is turned away, by the first one's port or by its table, and hurts nobody.
	for _, c2 := range []struct {
		set  []string
		says string
	}{{nil, "a node has one dnslet agent"}, {[]string{"admin.listen=127.0.0.1:0"}, "belongs to another live process"}} {
		second := begin(t, c, command(c, c2.set...))
		if err := <-second.end; err == nil {
			t.Error("two agents on one node")
		}
		if b, err := os.ReadFile(second.log); err != nil || !strings.Contains(string(b), c2.says) {
			t.Errorf("the second agent does not say %q (%v):\n%s", c2.says, err, b)
		}
		a.all(someName, fromAgent)
	}
}

// Red when: intercept makes its tables without the owner flag: they are then found after the kill.
func TestKilledAgentLeavesNothingInTheWay(t *testing.T) {
	c := newCluster(t)
	a := start(t, c)
	a.all(someName, fromAgent)
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-a.end
	a.all(someName, fromCluster)

	cleanup := func(args ...string) string {
		t.Helper()
		var out strings.Builder
		cmd := exec.Command("dnslet", append([]string{"cleanup"}, args...)...)
		cmd.Stdout = &out
		if err := c.Node.Run(cmd); err != nil {
			t.Errorf("cleanup %v: %v", args, err)
		}
		return out.String()
	}
	for _, step := range []struct{ args, want string }{{"--dry-run", "would remove "}, {"--dry-run", "would remove "}, {"", "removed "}, {"", "nothing to remove\n"}} {
		if out := cleanup(strings.Fields(step.args)...); !strings.HasPrefix(out, step.want) || strings.Contains(out, "table") {
			t.Errorf("cleanup %s says %q, want %q and nothing of tables", step.args, out, step.want)
		}
	}
	// And what was killed can be started again.
	start(t, c).all(someName, fromAgent)
}

// Red when: the default heartbeat is 5 s.
func TestStoppedAgentIsPassedBy(t *testing.T) {
	c := newCluster(t)
	a := start(t, c)
	pod := c.Pods[0].NS
	if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	// Each try waits for up to a second: a question that came before the heartbeat lapsed is lost in the stopped socket.
	a.within(3*time.Second, "cluster DNS answers", func() bool {
		began := time.Now()
		who, err := ask(pod, "udp", someName)
		// What began after the promised 0.6 s (here with slack for a busy machine) must be answered.
		if err != nil && began.Sub(stopped) > time.Second {
			t.Errorf("a question %v after the stop was lost: %v", began.Sub(stopped), err)
		}
		return err == nil && who == fromCluster
	})
	a.all(someName, fromCluster)
	if err := a.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	a.within(3*time.Second, "the agent answers again", func() bool { who, err := ask(pod, "udp", someName); return err == nil && who == fromAgent })
	a.within(3*time.Second, "ready again", a.ready)
	if s := a.status(); s.Interception.Lapses == 0 {
		t.Errorf("no lapse is counted: %+v", s.Interception)
	}
}

// load asks from everywhere, by UDP and TCP, until it is told to end, and returns what was answered and lost.
type load struct {
	mu   sync.Mutex
	by   map[string]int
	lost []string
	stop chan struct{}
	wg   sync.WaitGroup
}

func newLoad(c *lab.Cluster) *load {
	l := &load{by: map[string]int{}, stop: make(chan struct{})}
	for where, ns := range everywhere(c) {
		for _, network := range []string{"udp", "tcp"} {
			for worker := range 2 {
				l.wg.Go(func() { l.run(ns, network, where, worker) })
			}
		}
	}
	return l
}

func (l *load) run(ns *netns.NS, network, where string, worker int) {
	for n := 0; ; n++ {
		select {
		case <-l.stop:
			return
		default:
		}
		name := someName
		if n%4 == 0 { // a miss
			name = fmt.Sprintf("n%d-%s%s%d.example.com.", n, network, where, worker)
		}
		who, err := ask(ns, network, name)
		l.mu.Lock()
		if err != nil {
			l.lost = append(l.lost, fmt.Sprintf("from %s by %s, question %d: %v", where, network, n, err))
		} else {
			l.by[who]++
		}
		l.mu.Unlock()
	}
}

func (l *load) count(who string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.by[who]
}

func (l *load) end() { close(l.stop); l.wg.Wait() }

// Red when: stopping closes the interception before it drains, or does not withdraw first.
func TestStopUnderLoadLosesNothing(t *testing.T) {
	c := newCluster(t)
	a := start(t, c)
	l := newLoad(c)
	a.within(20*time.Second, "the agent is under load", func() bool { return l.count(fromAgent) > 500 })
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-a.end; err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	after := l.count(fromCluster)
	a.within(20*time.Second, "cluster DNS has the load", func() bool { return l.count(fromCluster) > after+200 })
	l.end()
	if len(l.lost) > 0 {
		t.Errorf("%d lost of %d at a stop, such as %s", len(l.lost), l.count(fromAgent)+l.count(fromCluster), l.lost[0])
	}
	// An orderly stop leaves no trace at all.
	var traces []string
	if err := c.Node.Do(func() (err error) { traces, err = intercept.Cleanup(true); return err }); err != nil || len(traces) > 0 {
		t.Errorf("left after an orderly stop: %v, %v", traces, err)
	}
}

// Red when: without() is an error with mode auto, or plain() returns no address.
func TestAgentWithoutPrivilegesGoesOnWithout(t *testing.T) {
	c := newCluster(t)
	unprivileged := func(set ...string) *exec.Cmd {
		cmd := command(c, set...)
		cmd.Path = "/proc/self/exe" // this binary, wherever it is: an ordinary user may not look into its folder
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: true}}
		return cmd
	}
	try := unprivileged()
	try.Args = []string{"dnslet", "version"}
	if err := c.Node.Run(try); errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) {
		t.Skipf("this user namespace has no other user to become: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	a := begin(t, c, unprivileged())
	a.within(15*time.Second, "ready", a.ready)
	s := a.status()
	if i := s.Interception; i.State != api.Warn || i.Installed || !strings.Contains(i.Reason, "not permitted") {
		t.Errorf("interception: %+v", i)
	}
	if len(s.Listeners) != 1 || s.Listeners[0].Addr != "127.0.0.1:5300" {
		t.Errorf("listeners: %+v", s.Listeners)
	}
	a.all(someName, fromCluster)
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-a.end
	must := begin(t, c, unprivileged("intercept.mode=on"))
	if err := <-must.end; err == nil {
		t.Error("with mode on the agent goes on without")
	}
}

// Until cluster DNS has answered once nothing is taken from it; a stop then leaves as little behind as ever.
//
// Red when: bringUp installs before it waits for the first answer.
func TestNothingIsTakenBeforeAnUpstreamAnswers(t *testing.T) {
	c := newCluster(t)
	file := filepath.Join(t.TempDir(), "config.yaml")
	write := func(endpoint string) {
		t.Helper()
		text := fmt.Sprintf("upstreams: {default: {endpoints: [%s], lastResort: 10.99.99.98}}\nintercept: {vips: [%s]}\n", endpoint, lab.VIP)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("10.99.99.99") // nobody
	a := begin(t, c, exec.Command("dnslet", "agent", "--config", file))
	a.within(15*time.Second, "the upstream is asked in vain", func() bool {
		_, body := a.get("/readyz?verbose")
		return strings.Contains(body, "[-]upstream failed: no answer yet")
	})
	for began := time.Now(); time.Since(began) < 2*time.Second; {
		a.all(someName, fromCluster)
	}
	if i := a.status().Interception; i.Installed || i.Reason != "not installed yet" {
		t.Errorf("interception: %+v", i)
	}
	write(c.Endpoints[0].Addr.String())
	a.within(5*time.Second, "ready", a.ready)
	a.all(someName, fromAgent)
}

// A cluster DNS pod in the node's own network may listen on port 53 of every address, and so of ours.
//
// Red when: listen does not go on without, or ends with the remedy for a plain address.
func TestPortTakenOnEveryAddress(t *testing.T) {
	c := newCluster(t)
	var other net.PacketConn
	if err := c.Node.Do(func() (err error) { other, err = net.ListenPacket("udp", ":53"); return err }); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	must := begin(t, c, command(c, "intercept.mode=on"))
	if err := <-must.end; err == nil {
		t.Error("with mode on the agent goes on without")
	}
	if b, err := os.ReadFile(must.log); err != nil || !strings.Contains(string(b), "remedy: let that program listen on addresses of its own") {
		t.Errorf("no remedy (%v):\n%s", err, b)
	}
	a := start(t, c)
	if i := a.status().Interception; i.State != api.Warn || i.Installed || !strings.Contains(i.Reason, fmt.Sprintf("(process %d): it must listen on addresses of its own", os.Getpid())) {
		t.Errorf("interception: %+v", i)
	}
	a.all(someName, fromCluster)
}

// Clients that hold every connection open must not take the descriptors that misses need.
//
// Red when: listen does not bring the limits within that of open files.
func TestFewDescriptorsAreLeftForMisses(t *testing.T) {
	c := newCluster(t)
	cmd := command(c)
	cmd.Args = append([]string{"sh", "-c", `ulimit -n 128 && exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	a := begin(t, c, cmd)
	a.within(15*time.Second, "ready", a.ready)
	for range 200 {
		err := c.Pods[1].NS.Do(func() error {
			conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(lab.VIP, 53).String(), time.Second)
			if err == nil {
				t.Cleanup(func() { conn.Close() })
			}
			return err
		})
		if err != nil && !errors.Is(err, syscall.ECONNRESET) { // one too many
			t.Fatal(err)
		}
	}
	for i := range 20 {
		if who, err := ask(c.Pods[0].NS, "udp", fmt.Sprintf("n%d.example.com.", i)); err != nil || who != fromAgent {
			t.Errorf("miss %d: answered by %q (%v)", i, who, err)
		}
	}
	if b, err := os.ReadFile(a.log); err != nil || !strings.Contains(string(b), "connections=32 configured=1024") {
		t.Errorf("the log does not name the limit (%v):\n%s", err, b)
	}
}

// Red when: ensure says of IPv6 that is off that a privilege is missing.
func TestIPv6SwitchedOff(t *testing.T) {
	c := newCluster(t)
	if err := c.Node.Sysctl("net.ipv6.conf.all.disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	cmd := command(c)
	for i, arg := range cmd.Args {
		if strings.HasPrefix(arg, "intercept.vips=") {
			cmd.Args[i] += ",fd00:20::a"
		}
	}
	a := begin(t, c, cmd)
	a.within(15*time.Second, "ready", a.ready)
	if i := a.status().Interception; i.State != api.Warn || strings.Contains(i.Reason, "not permitted") || !strings.Contains(i.Reason, "disable_ipv6") {
		t.Errorf("interception: %+v", i)
	}
	a.all(someName, fromCluster)
}

// Red when: change leaves out SetEndpoints, SetBypass or SetScope.
func TestReloadReachesTheKernel(t *testing.T) {
	c := newCluster(t)
	file := filepath.Join(t.TempDir(), "config.yaml")
	write := func(endpoint netip.Addr, intercept string) {
		t.Helper()
		text := fmt.Sprintf("upstreams: {default: {endpoints: [%s]}}\nintercept: {vips: [%s]%s}\n", endpoint, lab.VIP, intercept)
		if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	one, two := c.Endpoints[0].Addr, c.Endpoints[1].Addr
	write(one, "")
	a := begin(t, c, exec.Command("dnslet", "agent", "--config", file))
	a.within(15*time.Second, "ready", a.ready)
	a.all(someName, fromAgent)

	by := func(pod int) string {
		who, err := ask(c.Pods[pod].NS, "udp", someName)
		if err != nil {
			t.Errorf("pod %d: %v", pod, err)
		}
		return who
	}
	write(two, ", bypass: ["+c.Pods[0].Addr.String()+"]")
	a.within(3*time.Second, "the first pod is bypassed", func() bool { return by(0) == fromCluster })
	if who := by(1); who != fromAgent {
		t.Errorf("the second pod is answered by %s", who)
	}
	a.within(3*time.Second, "the new endpoint is asked untracked", func() bool {
		return slices.Equal(a.status().Interception.Endpoints, []string{two.String() + ":53"})
	})
	// The kernel's own word for it: packets of the upstream leg go past conntrack for the new endpoint, too.
	before := a.status().Interception.Packets["upstream"]
	if who, err := ask(c.Pods[1].NS, "udp", "fresh.example.com."); err != nil || who != fromAgent {
		t.Errorf("a name that is asked upstream: %s, %v", who, err)
	}
	if after := a.status().Interception.Packets["upstream"]; after < before+2 {
		t.Errorf("untracked packets of the upstream leg: %d, then %d", before, after)
	}
	write(two, ", scope: ["+c.Pods[0].Addr.String()+"]")
	a.within(3*time.Second, "the second pod is out of scope", func() bool { return by(1) == fromCluster })
	if who := by(0); who != fromAgent {
		t.Errorf("the first pod is answered by %s", who)
	}
}

const untracked = 1 << 6 // NF_CT_STATE_UNTRACKED_BIT

// dropUntracked is a firewall of the node that lets answers in by the state of their connection, and so none that has none.
func dropUntracked() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "firewall", Family: nftables.TableFamilyIPv4})
	input := c.AddChain(&nftables.Chain{Name: "input", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: table, Chain: input, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(lab.Uplink), make([]byte, 16-len(lab.Uplink))...)},
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{untracked, 0, 0, 0}, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	return c.Flush()
}

// dropInput is a firewall of the node that lets no pod reach addresses of the node itself.
func dropInput() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "firewall", Family: nftables.TableFamilyIPv4})
	input := c.AddChain(&nftables.Chain{Name: "input", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: table, Chain: input, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: append([]byte("lo"), make([]byte, 14)...)},
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{untracked, 0, 0, 0}, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 53}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	return c.Flush()
}

// The heartbeat does not pass a firewall between the pods and the node. That no question arrives says so.
//
// Red when: tend does not call weigh, or run does not ask the trial.
func TestFirewallThatDropsQuestions(t *testing.T) {
	c := newCluster(t)
	a := start(t, c)
	a.all(someName, fromAgent)
	if err := c.Node.Do(dropInput); err != nil {
		t.Fatal(err)
	}
	pod, lost := c.Pods[0].NS, 0
	took := a.within(15*time.Second, "pods are left to cluster DNS", func() bool {
		who, err := ask(pod, "udp", someName)
		if err != nil {
			lost++
		}
		return who == fromCluster
	})
	t.Logf("%d questions lost in %v", lost, took)
	for range 20 {
		if who, err := ask(pod, "tcp", someName); who != fromCluster {
			t.Errorf("answered by %q (%v)", who, err)
		}
	}
	if i := a.status().Interception; i.State != api.Fail || !strings.Contains(i.Reason, "none has arrived: a firewall") {
		t.Errorf("interception: %s %q", i.State, i.Reason)
	}
	if code, body := a.get("/readyz"); code == http.StatusOK {
		t.Errorf("readyz: %s", body)
	}
}

// Red when: tend does nothing, or what it tracks is not said in status.
func TestFirewallThatDropsUntrackedAnswers(t *testing.T) {
	c := newCluster(t)
	if err := c.Node.Do(dropUntracked); err != nil {
		t.Fatal(err)
	}
	a := start(t, c)
	pod := c.Pods[0].NS
	n := 0
	// From the first moment on questions are answered, by the last resort: later than usual, never too late.
	a.within(20*time.Second, "every endpoint is asked through conntrack", func() bool {
		n++
		if who, err := ask(pod, "udp", fmt.Sprintf("n%d.example.com.", n)); err != nil {
			t.Errorf("question %d: %q, %v", n, who, err)
		}
		s := a.status()
		return len(s.Interception.Endpoints) == 0 && s.Upstreams[0].State == api.OK
	})
	i := a.status().Interception
	if i.State != api.Warn || len(i.Notes) != 2 || !slices.IsSorted(i.Notes) || !strings.Contains(i.Notes[0], "is asked through conntrack") {
		t.Errorf("interception: %+v", i)
	}
	a.all(someName, fromAgent)
}
